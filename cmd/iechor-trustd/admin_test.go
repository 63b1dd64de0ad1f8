package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// The stories of administration, each with a server and a signer that run as
// processes, the client, and the stock client.
func TestAdminScripts(t *testing.T) {
	t.Parallel()
	for _, story := range []string{"reset", "anew"} {
		t.Run(story, func(t *testing.T) {
			t.Parallel()
			adminScript(t, story)
		})
	}
}

func adminScript(t *testing.T, story string) {
	s := newSite(t)
	s.startSigner(t)
	write(t, s.file("htpasswd"), aliceWonderland+carolChristmas)
	write(t, s.file("access.yaml"), "repositories:\n  \"*\": {pull: [anyone], push: [alice], admin: [carol]}\n")
	s.authenticate(t, "authentication: htpasswd\nhtpasswd: {file: DIR/htpasswd}\naccess: DIR/access.yaml\n")
	server := s.startServer(t)
	world, err := sandbox.Start(context.Background(), sandbox.Config{}) // for its registry
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.Close(); err != nil {
			t.Error(err)
		}
	})
	client, err := findClient(context.Background(), &app{err: &strings.Builder{}}, world.Dir)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files:     []string{filepath.Join("testdata", "admin", story+".txtar")},
		Condition: peerCondition,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"ROOT", "TARGETS", "SNAPSHOT"} {
				e.Setenv("NOTARY_"+name+"_PASSPHRASE", "passphrase")
			}
			for who, password := range map[string]string{"alice": "wonderland", "carol": "christmas"} {
				e.Setenv(strings.ToUpper(who), base64.StdEncoding.EncodeToString([]byte(who+":"+password)))
			}
			e.Setenv("NOTARY_AUTH", e.Getenv("ALICE"))
			e.Setenv("PATH", filepath.Dir(client)+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("CONFIG", s.file("server.yaml"))
			e.Setenv("OPERATOR", strings.TrimSuffix(s.operator.Certificate, ".crt"))
			e.Setenv("HELLO", filepath.Join(world.Dir, "hello.tar"))
			e.Setenv("REGISTRY", world.Registry)
			e.Setenv("IECHOR_CONTENT_TRUST", "1")
			e.Setenv("IECHOR_CONTENT_TRUST_SERVER", "https://"+server.addr)
			for _, home := range []string{"home", "consumer", "owner", "newcomer"} {
				home = filepath.Join(e.WorkDir, home)
				config := filepath.Join(home, ".notary", "config.json")
				if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
					return err
				}
				if err := os.WriteFile(config, fmt.Appendf(nil, `{"remote_server":{"url":"https://%s","root_ca":%q}}`, server.addr, s.ca.file), 0o600); err != nil {
					return err
				}
				tls := filepath.Join(home, ".iechor", "tls", server.addr)
				if err := os.MkdirAll(tls, 0o700); err != nil {
					return err
				}
				ca, err := os.ReadFile(s.ca.file)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(tls, "ca.crt"), ca, 0o600); err != nil {
					return err
				}
			}
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return os.WriteFile(filepath.Join(e.WorkDir, "name"), []byte(world.Registry+"/app\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"keep": keep, "cmpacts": compareActs,
			"gone": func(ts *testscript.TestScript, _ bool, args []string) { s.awaitGone(ts, server, tuf.GUN(args[0])) },
		},
	})
}

// awaitGone waits until readers are told that a repository is not there.
func (s *site) awaitGone(ts *testscript.TestScript, at *process, gun tuf.GUN) {
	deadline := time.Now().Add(patience)
	for {
		resp, err := s.client.Get("https://" + at.addr + api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleTimestamp}.Path())
		ts.Check(err)
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is still served: %s", gun, resp.Status)
		}
	}
}

// compareActs compares the third column of what "admin audit" printed, the
// acts, with a file: cmpacts stdout FILE.
func compareActs(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cmpacts stdout FILE")
	}
	var got []string
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if words := strings.Fields(line); len(words) > 3 {
			got = append(got, words[3]) // after the number, the date and the time
		}
	}
	if want := strings.Fields(ts.ReadFile(args[1])); !slices.Equal(got, want) {
		ts.Fatalf("the trail tells of %q, want %q", got, want)
	}
}

// attacks.md T5: whoever edits the trail, or the store behind its back, is
// found out; who rewrites all of it, by what was kept elsewhere.
func TestAttackEditedTrail(t *testing.T) {
	t.Parallel()
	copied := newStore(t)
	verify := func(s *site, more ...string) (int, string, string) {
		return runApp(t, nil, append([]string{"admin", "audit", "--verify", "--dir", s.dir}, more...)...)
	}
	honest := copied(t)
	status, out, errs := verify(honest)
	_, anchor, ok := strings.Cut(strings.TrimSpace(out), "--anchor ")
	if status != 0 || !ok || errs != "" {
		t.Fatalf("an honest trail: %d\n%s%s", status, out, errs)
	}
	const of = " repository = (SELECT id FROM repositories WHERE gun = 'registry.example/app')"
	for _, tt := range []struct {
		name       string
		statements []string
		want       string // without the anchor; empty: only the anchor tells
		anchored   string // with it
	}{
		{"changed", []string{"UPDATE audit SET entry = CAST(replace(CAST(entry AS TEXT), '127.0.0.1', '127.0.0.2') AS BLOB) WHERE id = 2"},
			"entry 2 is not what was written", "entry 2 is not what was written"},
		{"left out", []string{"DELETE FROM audit WHERE id = 2"}, "entry 3 stands after entry 1", "entry 3 stands after entry 1"},
		{"end cut off", []string{"DELETE FROM audit WHERE id = 6"}, "targets version 3 is current, and the trail tells of version 2 last", "its end was cut off"},
		{"all removed", []string{"DELETE FROM audit"}, "", "its end was cut off"},
		{"no trail of an older state", []string{"UPDATE roles SET version = 1, highest = 1 WHERE role = 'targets' AND" + of},
			"targets version 1 is current, and the trail tells of version 3 last", "targets version 1 is current"},
		{"unpublished behind its back", []string{"UPDATE repositories SET deleted = 1 WHERE gun = 'registry.example/app'"},
			"it is not published, and the trail tells of no deletion", "it is not published"},
		{"repository removed", []string{"DELETE FROM roles WHERE" + of, "DELETE FROM repositories WHERE gun = 'registry.example/app'"},
			"the store knows nothing of it, and the trail tells of no deletion", "the store knows nothing of it"},
		{"garbage", []string{"UPDATE audit SET hash = x'00' WHERE id = 3"}, "entry 3 is not what was written", "entry 3"},
	} {
		s := copied(t)
		alter(t, s.file("server/server.db"), tt.statements...)
		for _, c := range []struct {
			more []string
			want string
		}{{nil, tt.want}, {[]string{"--anchor", anchor}, tt.anchored}} {
			status, out, errs := verify(s, c.more...)
			if wantStatus := map[bool]int{true: 0, false: exitFailed}[c.want == ""]; status != wantStatus || !strings.Contains(out+errs, c.want) {
				t.Errorf("%s %v: %d\n%s%s, want %q", tt.name, c.more, status, out, errs, c.want)
			}
		}
		if status, _, errs := runApp(t, nil, "admin", "audit", "--all", "--dir", s.dir); status != 0 {
			t.Errorf("%s: the trail cannot be looked at: %s", tt.name, errs)
		}
	}

	// All of it written anew, so that it holds in itself.
	forged := copied(t)
	db, err := (&app{env: func(string) string { return "" }}).openDatabase(t.Context(), sandboxServer(forged.dir), storage.Migrate)
	if err != nil {
		t.Fatal(err)
	}
	chain := database.Chain{Table: "audit"}
	err = db.Update(t.Context(), func(x *database.Tx) error {
		all, err := chain.Read(t.Context(), x, database.ChainQuery{Limit: 100})
		if err != nil {
			return err
		}
		if _, err := x.Exec(t.Context(), "DELETE FROM audit"); err != nil {
			return err
		}
		for _, l := range all {
			if _, err := chain.Append(t.Context(), x, l.GUN, bytes.ReplaceAll(l.Entry, []byte("127.0.0.1"), []byte("127.0.0.2"))); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := verify(forged); status != 0 {
		t.Errorf("a trail written anew: %d\n%s%s", status, out, errs)
	}
	if status, _, errs := verify(forged, "--anchor", anchor); status != exitFailed || !strings.Contains(errs, "may have been rewritten") {
		t.Errorf("a trail written anew, with the anchor: %d\n%s", status, errs)
	}
	if status, out, errs := verify(honest, "--anchor", anchor); status != 0 {
		t.Errorf("the honest trail, with its anchor: %d\n%s%s", status, out, errs)
	}
}

// Nobody who publishes, or writes into the trail, has a terminal obey them.
func TestAdminPrintsForTerminals(t *testing.T) {
	t.Parallel()
	const escape = "\x1b[2J\n"
	if got := auditLine(storage.AuditRecord{Act: storage.Reset, Repository: escape, Actor: storage.Actor{Subject: escape, Reason: escape}}, true); strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("a line of the trail: %q", got)
	}
	var out bytes.Buffer
	s := &admin{app: &app{out: &out, err: &out}}
	if err := s.printShown(&shown{Verified: true, Tags: []shownTag{{Name: escape}}, Problems: []string{escape},
		Roles: []*shownRole{{Role: tuf.RoleTargets, Keys: []shownKey{{Type: escape, ID: escape}}}}}, true); err != nil || strings.Contains(out.String(), "\x1b") {
		t.Errorf("a tag, a problem and a key: %q, %v", out.String(), err)
	}
	if got := (listedKey{shownKey: shownKey{Type: escape, ID: escape}}).line(); strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("a line of the keys: %q", got)
	}
	if got := (expiry{Certificate: escape}).subject(); strings.Contains(got, "\x1b") {
		t.Errorf("a line of what expires: %q", got)
	}
}

// What has to be done is found in time, with who has to, and by the exit
// status.
func TestAdminExpiringAndKeys(t *testing.T) {
	t.Parallel()
	copied := newStore(t)
	s := copied(t)
	run := func(ahead time.Duration, args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		a := &app{out: &out, err: &errs, env: func(string) string { return "" }, now: func() time.Time { return time.Now().Add(ahead) }}
		status := a.run(t.Context(), append(append([]string{"admin"}, args...), "--dir", s.dir))
		return status, out.String(), errs.String()
	}
	for _, tt := range []struct {
		name   string
		ahead  time.Duration
		args   string
		status int
		want   []string
		not    string
	}{
		{"nothing", 0, "expiring", 0, nil, "registry.example"},
		{"all", 0, "expiring --all", 0, []string{"registry.example/app    timestamp 3", "renewed in time"}, "owner"},
		{"not renewed", 2 * day, "expiring", exitFound, []string{"timestamp 3", "server  it should have been renewed by now"}, "owner"},
		{"expired", 4 * day, "expiring --json registry.example/app", exitFound, []string{`"role":"timestamp","version":3`, `"expired":true,"who":"server"`}, "other"},
		{"idle", 100 * day, "expiring --all", 0, []string{"nothing: nobody reads it, and it is renewed at the next read"}, "should have"},
		{"years", 0, "expiring --within 4000d", exitFound, []string{"targets 3", "owner  sign it anew: iechor trust renew registry.example/app",
			"certificate of root key ", "make a new certificate: iechor trust renew registry.example/app"}, "timestamp"},
	} {
		status, out, errs := run(tt.ahead, strings.Fields(tt.args)...)
		if status != tt.status || tt.not != "" && strings.Contains(out, tt.not) {
			t.Errorf("%s: %d, want %d and no %q\n%s%s", tt.name, status, tt.status, tt.not, out, errs)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s lacks %q\n%s%s", tt.name, want, out, errs)
			}
		}
	}
	if status, out, errs := run(0, "keys"); status != 0 || strings.Count(out, " held\n") != 4 || errs != "" {
		t.Errorf("keys = %d\n%s%s", status, out, errs)
	}
	alter(t, s.file("signer/signer.db"), "DELETE FROM signer_keys WHERE gun = 'registry.example/app'")
	status, out, errs := run(0, "keys", "--json")
	if status != exitFound || strings.Count(out, `"held":false`) != 2 || !strings.Contains(errs, "the signer holds no timestamp key of 1 repository") {
		t.Errorf("keys that the signer has lost = %d\n%s%s", status, out, errs)
	}
	if status, out, _ := run(0, "expiring", "--within", "365d"); status != exitFound || !strings.Contains(out, "iechor trust key rotate registry.example/app timestamp") {
		t.Errorf("expiring with keys that the signer has lost = %d\n%s", status, out)
	}
}

// Every role that a repository can have makes a name that a file can have, and
// one of its own.
func TestExportedNames(t *testing.T) {
	t.Parallel()
	long := "targets/" + strings.Repeat("a/", 123)
	seen := map[string]bool{}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, "targets/a", tuf.RoleName(long + "b"), tuf.RoleName(long + "c"), tuf.RoleName("targets/" + strings.Repeat("a", 247))} {
		if !role.Valid() {
			t.Fatalf("%q is no role", role)
		}
		name := exportName(1<<53, role)
		if len(name+".2.json") > 255 || seen[name] || strings.Contains(name, "/") {
			t.Errorf("%s is exported as %s", role, name)
		}
		seen[name] = true
	}
	if got := exportName(3, "targets/a"); got != "3.targets%2Fa" {
		t.Errorf("targets/a is exported as %s", got)
	}
}

// In the folder of a sandbox both stores are at hand, running or not.
func TestAdminResetInAFolder(t *testing.T) {
	t.Parallel()
	s := newStore(t)(t)
	for range 2 {
		for _, act := range []string{"reset", "restore"} {
			status, out, errs := runApp(t, nil, "admin", act, string(checked), "--reason", "test", "--yes", "--dir", s.dir)
			if status != 0 {
				t.Fatalf("%s = %d\n%s%s", act, status, out, errs)
			}
			if status, out, errs := runApp(t, nil, "admin", "audit", "--verify", "--dir", s.dir); status != 0 {
				t.Errorf("the trail after %s: %d\n%s%s", act, status, out, errs)
			}
			s.sound(t)
		}
	}
	if status, out, _ := runApp(t, nil, "admin", "keys", "--dir", s.dir); status != 0 || strings.Count(out, " held\n") != 4 {
		t.Errorf("keys of a restored repository = %d\n%s", status, out)
	}
}

// The commands of doc/operating.md, in their order.
func TestAdminDocument(t *testing.T) {
	t.Parallel()
	s := newStore(t)(t)
	text, err := os.ReadFile("../../doc/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Administration\n")
	section, _, _ = strings.Cut(section, "\n## ")
	dir, n := t.TempDir(), 0
	for line := range strings.Lines(section) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		n++
		command = strings.ReplaceAll(command, "--config /etc/iechor-trustd/server.yaml", "--dir '"+s.dir+"'")
		command = strings.Replace(command, "--reason", "--yes --reason", 1)
		c := exec.Command("sh", "-c", command)
		c.Dir, c.Env = dir, append(os.Environ(), "HOME="+dir)
		if text, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.TrimSpace(command), err, text)
		}
	}
	if n < 12 {
		t.Errorf("doc/operating.md has %d commands about administration, want more", n)
	}
}

// Wrong calls are refused before anything is done, and say how it is done.
func TestAdminUsage(t *testing.T) {
	t.Parallel()
	s := newStore(t)(t)
	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"list", exitUsage, "name either --config FILE or --dir DIR"},
		{"list --dir DIR --config x", exitUsage, "name either --config FILE or --dir DIR"},
		{"list --dir DIR a b", exitUsage, "one argument at most is expected"},
		{"list --dir none", exitFailed, "there is no database none/server/server.db"},
		{"show --dir DIR", exitUsage, "name one repository"},
		{"show ../x --dir DIR", exitUsage, `"../x" is not the name of a repository`},
		{"show registry.example/none --dir DIR", exitFailed, `nothing was ever published as registry.example/none; "iechor-trustd admin list" shows what was`},
		{"show registry.example/app --incarnation 2 --dir DIR", exitFailed, "registry.example/app has 1 incarnation, and no number 2"},
		{"reset registry.example/app --dir DIR --yes", exitUsage, "--reason TEXT is needed"},
		{"reset registry.example/app --dir DIR --yes --reason " + strings.Repeat("x", 501), exitUsage, "at most 500 are kept"},
		{"reset registry.example/none --dir DIR --yes --reason x", exitFailed, "nothing was ever published as"},
		{"restore registry.example/app --dir DIR --yes --reason x", exitFailed, "is published and was never ended"},
		{"audit --dir DIR --anchor 1:00", exitUsage, "--anchor and --file belong to --verify"},
		{"audit --dir DIR --verify --anchor 1:00", exitUsage, "--anchor: \"1:00\" is not an anchor of an audit log: a number, a colon and 64 hexadecimal digits"},
		{"audit --dir DIR --verify --file x", exitUsage, "leave out --config and --dir"},
		{"audit --verify --file none", exitFailed, "no such file"},
		{"expiring --dir DIR --within soon", exitUsage, `"soon" is not a duration`},
		{"frobnicate", exitUsage, `unexpected argument "frobnicate"`},
	} {
		status, out, errs := runApp(t, nil, append([]string{"admin"}, strings.Fields(strings.ReplaceAll(tt.args, "DIR", s.dir))...)...)
		if status != tt.status || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("%s = %d %q\n%s, want %d and %q", tt.args, status, out, errs, tt.status, tt.want)
		}
	}
	s.sound(t)
}
