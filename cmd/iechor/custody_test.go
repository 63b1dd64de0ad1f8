package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// TestCustody has a story for each kind of key and each thing that can befall
// it: lost, stolen, expired, its passphrase wrong. doc/custody.md lists them.
func TestCustody(t *testing.T) {
	t.Parallel()
	images := twoImages(t)
	for name, tell := range custodyStories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCustodyWorld(t, images)
			tell(w)
		})
	}
}

var custodyStories = map[string]func(*custodyWorld){
	"root lost":        (*custodyWorld).rootLost,
	"root stolen":      (*custodyWorld).rootStolen,
	"root expired":     func(w *custodyWorld) { w.expired(10*365+3, tuf.RoleRoot) },
	"root passphrase":  func(w *custodyWorld) { w.wrongPassphrase("root", "trust", "key", "rotate", "--yes", w.gun, "targets") },
	"targets lost":     (*custodyWorld).targetsLost,
	"targets stolen":   (*custodyWorld).targetsStolen,
	"targets expired":  func(w *custodyWorld) { w.expired(3*365+3, tuf.RoleTargets) },
	"snapshot lost":    (*custodyWorld).snapshotLost,
	"snapshot stolen":  (*custodyWorld).snapshotStolen,
	"snapshot expired": (*custodyWorld).snapshotExpired,
	"timestamp lost":   (*custodyWorld).timestampLost,
	"timestamp stolen": (*custodyWorld).timestampStolen,
	"timestamp expired": func(w *custodyWorld) {
		w.owner.run("push", "-q", w.gun+":1", "--from", "oci:"+w.images+":1")
		w.reader.pulls("1")
		w.ahead(10 * 24 * time.Hour) // nobody looked for ten days
		w.reader.pulls("1")          // the server has signed anew, by itself
	},
	"targets passphrase": func(w *custodyWorld) {
		w.wrongPassphrase("repository", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	},
	"snapshot passphrase": func(w *custodyWorld) {
		w.owner.publish("1")
		w.owner.run("trust", "key", "rotate", "--local", w.gun, "snapshot")
		w.wrongPassphrase("repository", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	},
	"delegation lost":    (*custodyWorld).delegationLost,
	"delegation stolen":  (*custodyWorld).delegationStolen,
	"delegation expired": (*custodyWorld).delegationExpired,
	"delegation passphrase": func(w *custodyWorld) {
		w.signer()
		w.wrongPassphrase("alice", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	},
}

// A custodyWorld is an owner, a reader who has pulled before, a stock client
// that has, and a clock.
type custodyWorld struct {
	t             *testing.T
	s             *sandbox.Sandbox
	gun, images   string
	offset        atomic.Int64 // of the clock
	owner, reader *person
	stock         string // trust directory of the stock client
}

func newCustodyWorld(t *testing.T, images string) *custodyWorld {
	w := &custodyWorld{t: t, images: images}
	s, err := sandbox.Start(t.Context(), sandbox.Config{Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w.s, w.gun, w.stock = s, s.Registry+"/demo/app", t.TempDir()
	w.owner, w.reader = w.person(), w.person()
	return w
}

func (w *custodyWorld) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

func (w *custodyWorld) ahead(d time.Duration) { w.offset.Add(int64(d)) }

// A person has a home directory.
type person struct {
	*custodyWorld
	home string
	env  map[string]string
}

func (w *custodyWorld) person() *person {
	p := &person{custodyWorld: w, home: w.t.TempDir()}
	p.env = map[string]string{
		"HOME": p.home, "PATH": os.Getenv("PATH"), switchVariable: "1", serverVariable: w.s.Trust,
		rootPassphraseVariable: firstPassphrase, repositoryPassphraseVariable: firstPassphrase,
		"IECHOR_HOST": "unix://" + filepath.Join(p.home, "no-engine.sock"),
	}
	return p
}

// try runs a command.
func (p *person) try(args ...string) (status int, stdout, stderr string) {
	p.t.Helper()
	var out, err bytes.Buffer
	a := &app{
		in: strings.NewReader(""), out: &out, err: &err, getenv: func(name string) string { return p.env[name] },
		home: p.home, now: p.now, secrets: scriptSecrets(""), testOnlyIterations: 2048,
	}
	status = run(a, args)
	return status, out.String(), err.String()
}

// run runs a command that must succeed.
func (p *person) run(args ...string) string {
	p.t.Helper()
	status, out, err := p.try(args...)
	if status != exitDone {
		p.t.Fatalf("iechor %q = %d\n%s%s", args, status, out, err)
	}
	return out
}

// fails runs a command that must fail, and say why.
func (p *person) fails(status int, pattern string, args ...string) {
	p.t.Helper()
	got, out, err := p.try(args...)
	if got != status || !regexp.MustCompile(pattern).MatchString(err) {
		p.t.Fatalf("iechor %q = %d, want %d and %q:\n%s%s", args, got, status, pattern, out, err)
	}
}

func (p *person) publish(tag string) {
	p.t.Helper()
	p.run("push", "-q", p.gun+":"+tag, "--from", "oci:"+p.images+":"+tag)
}

// pulls gets a tag, and is told nothing.
func (p *person) pulls(tag string) {
	p.t.Helper()
	status, out, err := p.try("pull", "-q", p.gun+":"+tag, "--to", "oci:"+filepath.Join(p.home, "out"))
	if said := regexp.MustCompile(`(?m)^(iechor: notice: trusting|hint: compare).*\n`).ReplaceAllString(err, ""); status != exitDone || said != "" {
		p.t.Fatalf("pull of %s = %d\n%s%s", tag, status, out, said)
	}
}

// follows sees that everybody who knew the repository before gets a tag without
// a word: a reader of ours, the stock client, and somebody new.
func (w *custodyWorld) follows(tag string) {
	w.t.Helper()
	w.reader.pulls(tag)
	w.person().pulls(tag)
	if w.offset.Load() == 0 { // the stock client has the real clock
		if out := w.stockLists(true); out != "" && !strings.Contains(out, "\n"+tag+" ") {
			w.t.Errorf("notary list does not show %s:\n%s", tag, out)
		}
	}
}

// stockLists lets the stock client, which keeps what it has seen, look; nothing
// if it is not installed.
func (w *custodyWorld) stockLists(ok bool) string {
	w.t.Helper()
	here, err := peer("peer:notary")
	if err != nil {
		w.t.Fatal(err)
	}
	if !here {
		w.t.Log("notary is not installed: apt-get install notary")
		return ""
	}
	cmd := exec.Command("notary", "-d", w.stock, "-s", w.s.Trust, "--tlscacert", filepath.Join(w.s.Dir, "ca.crt"), "list", w.gun)
	cmd.Env = []string{"HOME=" + w.stock}
	out, err := cmd.CombinedOutput()
	if (err == nil) != ok {
		w.t.Fatalf("notary list: %v\n%s", err, out)
	}
	return string(out)
}

// known publishes a tag, and has everybody see it.
func (w *custodyWorld) known() {
	w.t.Helper()
	w.owner.publish("1")
	w.follows("1")
}

// keyFile returns the only key file of a role.
func (p *person) keyFile(role string) string {
	p.t.Helper()
	dir := filepath.Join(p.home, ".iechor", "trust", "private")
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		p.t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.Contains(string(raw), "role: "+role+"\n") {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		p.t.Fatalf("%d key files of %s, want 1", len(found), role)
	}
	return found[0]
}

func (p *person) loses(role string) {
	p.t.Helper()
	if err := os.Remove(p.keyFile(role)); err != nil {
		p.t.Fatal(err)
	}
}

// thief is somebody who has copied a key of the owner, knows its passphrase,
// and has seen the repository.
func (w *custodyWorld) thief(role string) *person {
	w.t.Helper()
	p := w.person()
	dir := filepath.Join(p.home, ".iechor", "trust", "private")
	file := w.owner.keyFile(role)
	raw, err := os.ReadFile(file)
	if err == nil {
		err = errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, filepath.Base(file)), raw, 0o600))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	p.run("trust", "inspect", w.gun)
	return p
}

// repository opens the repository as p.
func (p *person) repository() (*desk, *repository) {
	p.t.Helper()
	a := &app{out: &bytes.Buffer{}, err: &bytes.Buffer{}, in: strings.NewReader(""), getenv: func(n string) string { return p.env[n] }, home: p.home, now: p.now, secrets: scriptSecrets(""), testOnlyIterations: 2048}
	d, err := a.desk()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = d.Close() })
	ref, err := registry.ParseRef(p.gun)
	if err != nil {
		p.t.Fatal(err)
	}
	repo, err := d.repository(ref)
	if err != nil {
		p.t.Fatal(err)
	}
	return d, repo
}

// refused has p sign changes on top of what p last saw, whatever has been
// published since, and sees that the server does not take it, and that who has
// followed since does not either.
func (p *person) refused(changes ...tuf.Change) {
	p.t.Helper()
	d, repo := p.repository()
	past, err := repo.Local()
	if err != nil {
		p.t.Fatal(err)
	}
	draft := past.Draft()
	if err := draft.Apply(changes...); err != nil {
		p.t.Fatal(err)
	}
	files, err := draft.Sign(context.Background(), d.keys, tuf.SignOptions{Now: p.now()})
	if err != nil {
		p.t.Fatalf("the thief cannot sign, so that this shows nothing: %v", err)
	}
	if err := repo.remote.Upload(p.t.Context(), repo.GUN(), files); err == nil {
		p.t.Error("the server takes what the stolen key has signed")
	}
	_, reader := p.reader.repository()
	set, err := reader.Update(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	o := tuf.Options{Now: p.now()}
	u := tuf.Begin(repo.GUN(), set.Past(), o)
	served := map[tuf.RoleName][]byte{}
	for _, f := range append(past.Files(), files...) {
		served[f.Role] = f.Raw
	}
	for w, more := u.Next(); more; w, more = u.Next() {
		if raw, ok := served[w.Role]; ok && w.Version == 0 {
			err = u.Add(w, raw)
		} else {
			err = u.Missing(w)
		}
		if err != nil {
			return
		}
	}
	p.t.Error("a consumer takes what the stolen key has signed")
}

func evil(role tuf.RoleName) tuf.Change {
	return tuf.AddTarget{Target: tuf.Target{Name: "1", Role: role, FileMeta: tuf.FileMeta{Length: 1, Hashes: map[string][]byte{"sha256": bytes.Repeat([]byte{6}, 32)}}}}
}

func (w *custodyWorld) rootLost() {
	w.known()
	spare := w.owner.run("trust", "key", "spare", "add", w.gun)
	main := regexp.MustCompile(`beside ([0-9a-f]{7})`).FindStringSubmatch(spare)[1]
	w.follows("1")
	files, err := filepath.Glob(filepath.Join(w.owner.home, ".iechor", "trust", "private", main+"*.key"))
	if err != nil || len(files) != 1 {
		w.t.Fatal(files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		w.t.Fatal(err)
	}
	w.owner.run("trust", "recover", "--yes", "--lost", "root", w.gun)
	w.owner.publish("2")
	w.follows("2")
}

func (w *custodyWorld) rootStolen() {
	w.known()
	thief := w.thief("root")
	// What the thief can: name a key of his own as the repository's.
	d, repo := thief.repository()
	own, err := keys.Generate(w.t.Context(), d.keys, keys.P256, keys.Info{Role: "targets", GUN: repo.GUN()})
	if err != nil {
		w.t.Fatal(err)
	}
	take := tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, own.PublicKey())}
	w.owner.run("trust", "key", "rotate", "--yes", "--all", "root")
	w.follows("1")
	thief.refused(take)
	thief.fails(exitCannot, "could not find necessary signing keys", "trust", "key", "rotate", w.gun, "timestamp")
	w.owner.publish("2")
	w.follows("2")
}

// expired lets years pass, in which nobody signed anything. What the reader
// refuses, renew cures.
func (w *custodyWorld) expired(days int, role tuf.RoleName) {
	life := time.Duration(days) * 24 * time.Hour
	w.ahead(-life)
	w.owner.publish("1")
	w.reader.pulls("1")
	w.offset.Store(0)
	w.reader.fails(exitUntrusted, string(role)+" expired|unable to retrieve valid leaf certificates", "pull", "-q", w.gun+":1", "--to", "oci:"+filepath.Join(w.reader.home, "out"))
	w.stockLists(false)
	w.owner.fails(exitUntrusted, "hint: .*iechor trust renew ", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	if out := w.owner.run("trust", "renew", w.gun); !strings.Contains(out, "Successfully renewed "+w.gun) {
		w.t.Error(out)
	}
	w.follows("1")
	w.owner.publish("2")
	w.follows("2")
}

// wrongPassphrase runs a command with a wrong passphrase: it says which key,
// nothing is published, and with the right one all goes on.
func (w *custodyWorld) wrongPassphrase(key string, args ...string) {
	if _, err := os.Stat(filepath.Join(w.owner.home, ".iechor")); err != nil {
		w.owner.publish("1")
	}
	w.follows("1")
	_, repo := w.reader.repository()
	before, err := repo.Update(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.owner.env[rootPassphraseVariable], w.owner.env[repositoryPassphraseVariable] = secondPassphrase, secondPassphrase
	w.owner.fails(exitCannot, "wrong passphrase for "+key+" key with ID [0-9a-f]{7}.*from IECHOR_CONTENT_TRUST_", args...)
	after, err := repo.Update(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for i, f := range before.Files() {
		if !bytes.Equal(f.Raw, after.Files()[i].Raw) {
			w.t.Errorf("%s has changed", f.Role)
		}
	}
	w.follows("1")
	w.owner.env[rootPassphraseVariable], w.owner.env[repositoryPassphraseVariable] = firstPassphrase, firstPassphrase
	w.owner.run(args...)
	w.follows("1")
}

func (w *custodyWorld) targetsLost() {
	w.known()
	w.owner.loses("targets")
	w.owner.fails(exitCannot, "hint: .*iechor trust recover ", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	w.owner.run("trust", "recover", "--yes", "--lost", "targets", w.gun)
	w.follows("1")
	w.owner.publish("2")
	w.follows("2")
}

func (w *custodyWorld) targetsStolen() {
	w.known()
	thief := w.thief("targets")
	thief.publish("2") // what the thief can: sign any tag
	w.reader.pulls("2")
	w.owner.run("trust", "key", "rotate", w.gun, "targets")
	w.owner.run("trust", "revoke", w.gun+":2")
	w.follows("1")
	w.reader.fails(exitCannot, "No valid trust data for 2", "pull", w.gun+":2", "--to", "oci:"+filepath.Join(w.reader.home, "out"))
	thief.refused(evil(tuf.RoleTargets))
	thief.fails(exitCannot, "could not find necessary signing keys", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
}

func (w *custodyWorld) snapshotLost() {
	w.known()
	w.owner.run("trust", "key", "rotate", "--local", w.gun, "snapshot")
	w.follows("1")
	w.owner.loses("snapshot")
	w.owner.fails(exitCannot, "could not find necessary signing keys", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	w.owner.run("trust", "recover", "--yes", "--lost", "snapshot", w.gun)
	w.owner.publish("2")
	w.follows("2")
}

func (w *custodyWorld) snapshotStolen() {
	w.known()
	w.owner.run("trust", "key", "rotate", "--local", w.gun, "snapshot")
	thief := w.thief("snapshot")
	w.owner.run("trust", "key", "rotate", "--local", w.gun, "snapshot")
	w.follows("1")
	thief.refused(tuf.Resign{Role: tuf.RoleSnapshot})
	w.owner.publish("2")
	w.follows("2")
}

func (w *custodyWorld) snapshotExpired() {
	w.ahead(-(3*365 + 3) * 24 * time.Hour)
	w.owner.publish("1")
	w.owner.run("trust", "key", "rotate", "--local", w.gun, "snapshot")
	w.reader.pulls("1")
	w.offset.Store(0)
	w.reader.fails(exitUntrusted, "expired", "pull", "-q", w.gun+":1", "--to", "oci:"+filepath.Join(w.reader.home, "out"))
	w.stockLists(false)
	if out := w.owner.run("trust", "renew", w.gun); !strings.Contains(out, "snapshot until ") {
		w.t.Error(out)
	}
	w.follows("1")
}

func (w *custodyWorld) timestampLost() {
	w.known()
	if err := w.s.Signer.Forget(w.t.Context(), tuf.GUN(w.gun)); err != nil {
		w.t.Fatal(err)
	}
	w.owner.fails(exitCannot, ".", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
	w.owner.run("trust", "recover", "--yes", "--lost", "timestamp", w.gun) // and the snapshot's with it
	w.owner.publish("2")
	w.follows("2")
}

// Whoever has stolen the timestamp's key can show an old state for longer; after
// the rotation what it signed is refused.
func (w *custodyWorld) timestampStolen() {
	w.known()
	_, repo := w.reader.repository()
	old, err := repo.Update(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.owner.run("trust", "key", "rotate", w.gun, "timestamp")
	w.follows("1")
	set, err := repo.Update(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	u := tuf.Begin(repo.GUN(), set.Past(), tuf.Options{Now: w.now()})
	stolen, _ := old.File(tuf.RoleTimestamp)
	next, _ := u.Next()
	if err := u.Add(next, stolen.Raw); err == nil { // it looks whether the root has changed
		next, _ = u.Next()
		err = u.Missing(next)
		if !errors.Is(err, tuf.ErrUnsigned) {
			w.t.Errorf("a timestamp of the stolen key: %v, want ErrUnsigned", err)
		}
	} else if !errors.Is(err, tuf.ErrUnsigned) {
		w.t.Errorf("a timestamp of the stolen key: %v, want ErrUnsigned", err)
	}
}

// signer has alice sign tag 1.
func (w *custodyWorld) signer() {
	w.t.Helper()
	o := w.owner
	o.run("trust", "key", "generate", "alice", "--dir", o.home)
	o.run("push", "-q", "--disable-content-trust", w.gun+":1", "--from", "oci:"+w.images+":1")
	o.run("trust", "signer", "add", "--key", filepath.Join(o.home, "alice.pub"), "alice", w.gun)
	o.run("trust", "sign", w.gun+":1")
	w.follows("1")
}

func (w *custodyWorld) delegationLost() {
	w.signer()
	w.owner.loses("alice")
	w.owner.run("trust", "recover", "--yes", "--lost", "alice", "--new-key", w.gun)
	w.follows("1")
	w.owner.publish("2")
	w.follows("2")
}

func (w *custodyWorld) delegationStolen() {
	w.signer()
	thief := w.thief("alice")
	thief.publish("2") // what the thief can: sign as alice
	w.reader.pulls("2")
	w.owner.run("trust", "revoke", w.gun+":2")
	w.owner.loses("alice")
	w.owner.run("trust", "recover", "--yes", "--lost", "alice", "--new-key", w.gun)
	w.follows("1")
	thief.refused(evil(tuf.RoleReleases))
	thief.fails(exitCannot, "no valid signing keys for delegation roles", "push", "-q", w.gun+":2", "--from", "oci:"+w.images+":2")
}

func (w *custodyWorld) delegationExpired() {
	w.ahead(-(3*365 + 3) * 24 * time.Hour)
	w.signer()
	w.ahead(100 * 24 * time.Hour) // the repository's key signs again, and alice forgets to
	w.owner.run("trust", "delegation", "witness", w.gun, "targets")
	w.offset.Store(0)
	w.reader.fails(exitCannot, "does not count: .*expired", "pull", "-q", w.gun+":1", "--to", "oci:"+filepath.Join(w.reader.home, "out"))
	w.owner.run("trust", "renew", "--within", "1d", w.gun)
	_, repo := w.reader.repository()
	set, err := repo.Update(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := trust.Lookup(set, "1"); err != nil || len(set.Unusable()) > 0 {
		w.t.Errorf("after the renewal: %v, %v", err, set.Unusable())
	}
}

// TestCustodyMap compares the table of stories in doc/custody.md with the tests.
func TestCustodyMap(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "doc", "custody.md"))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("`cmd/iechor: TestCustody/([a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		listed = append(listed, strings.ReplaceAll(m[1], "_", " "))
	}
	slices.Sort(listed)
	var told []string
	for name := range custodyStories {
		told = append(told, name)
	}
	slices.Sort(told)
	if !slices.Equal(listed, told) {
		t.Errorf("doc/custody.md lists the stories\n%q, told are\n%q", listed, told)
	}
	for _, m := range regexp.MustCompile("`signer: (Test[A-Za-z]+)`").FindAllStringSubmatch(string(raw), -1) {
		files, err := filepath.Glob(filepath.Join("..", "..", "signer", "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			raw, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(raw), "func "+m[1]+"(")
		}) {
			t.Errorf("doc/custody.md names signer: %s, which there is not", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`cmd/iechor: TestInterop/([a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		if _, err := os.Stat(filepath.Join("testdata", "interop", m[1]+".txtar")); err != nil {
			t.Errorf("doc/custody.md names a story that there is not: %v", err)
		}
	}
}
