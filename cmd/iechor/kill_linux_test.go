package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/sandbox/sandboxtest"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A killCase is a command that is killed before its changes of files: once
// before the first, once before the second, and so on.
type killCase struct {
	name    string
	before  func(*killWorld)          // what the user did earlier
	command func(*killWorld) []string // what is killed
	input   string                    // its standard input
	gone    func(*killWorld) []string // ids of keys that may be gone
	away    bool                      // there are no keys before, since they were lost
	left    func(*killWorld)          // what must hold at once
	again   bool                      // the same command succeeds afterwards
	after   func(*killWorld)          // what works then
}

var killCases = []killCase{{
	name:    "key generate",
	command: func(w *killWorld) []string { return []string{"trust", "key", "generate", "alice", "--dir", w.home} },
}, {
	name: "key load",
	command: func(w *killWorld) []string {
		return []string{"trust", "key", "load", "--yes", "--name", "bob", w.plainKey()}
	},
	again: true,
	after: func(w *killWorld) { w.publicHalf("bob") },
}, {
	name: "key import",
	before: func(w *killWorld) {
		w.generate("alice")
		w.push("1")
		w.run("trust", "key", "export", "-o", w.file("backup.pem"))
		w.check(os.RemoveAll(w.file("config/trust/private")))
	},
	command: func(w *killWorld) []string { return []string{"trust", "key", "import", w.file("backup.pem")} },
	away:    true,
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:   "key export",
	before: func(w *killWorld) { w.push("1"); w.run("trust", "key", "export", "-o", w.file("backup.pem")) },
	command: func(w *killWorld) []string {
		return []string{"trust", "key", "export", "--yes", "-o", w.file("backup.pem")}
	},
	again: true,
	after: func(w *killWorld) {
		w.check(os.RemoveAll(w.file("config/trust/private")))
		w.run("trust", "key", "import", w.file("backup.pem"))
		w.push("2")
	},
}, {
	name:    "key passwd",
	before:  func(w *killWorld) { w.push("1"); w.generate("alice") },
	command: func(w *killWorld) []string { return []string{"trust", "key", "passwd", "--all"} },
	input:   strings.Repeat(secondPassphrase+"\n", 6),
}, {
	name:    "key remove",
	before:  func(w *killWorld) { w.push("1"); w.generate("alice") },
	command: func(w *killWorld) []string { return []string{"trust", "key", "remove", "--yes", w.key("alice")} },
	gone:    func(w *killWorld) []string { return []string{w.key("alice")} },
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "key rotate targets",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "key", "rotate", w.gun, "targets"} },
	gone:    func(w *killWorld) []string { return []string{w.key("targets")} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "key rotate root",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "key", "rotate", "--yes", w.gun, "root"} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "key rotate snapshot",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "key", "rotate", "--local", w.gun, "snapshot"} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "first push",
	command: func(w *killWorld) []string { return []string{"push", w.gun + ":1", "--from", "oci:" + w.layout + ":1"} },
	again:   true,
	after:   func(w *killWorld) { w.push("2"); w.run("pull", w.gun+":1", "--to", "oci:"+w.file("out")) },
}, {
	name:    "first sign",
	before:  func(w *killWorld) { w.upload("1") },
	command: func(w *killWorld) []string { return []string{"trust", "sign", "--signer", "alice", w.gun + ":1"} },
	again:   true,
	after:   func(w *killWorld) { w.push("2"); w.run("pull", w.gun+":1", "--to", "oci:"+w.file("out")) },
}, {
	name:   "signer add",
	before: func(w *killWorld) { w.push("1"); w.generate("alice") },
	command: func(w *killWorld) []string {
		return []string{"trust", "signer", "add", "--key", w.file("alice.pub"), "alice", w.gun}
	},
	again: true,
	after: func(w *killWorld) { w.push("2"); w.run("pull", w.gun+":2", "--to", "oci:"+w.file("out")) },
}, {
	name:    "revoke",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "revoke", w.gun + ":1"} },
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:   "stage",
	before: func(w *killWorld) { w.push("1"); w.generate("alice") },
	command: func(w *killWorld) []string {
		return []string{"trust", "delegation", "add", "--stage", w.gun, "targets/alice", "--key", w.file("alice.pub"), "--all-paths"}
	},
	again: true,
	after: func(w *killWorld) { w.run("trust", "publish", w.gun); w.push("2") },
}, {
	name:    "publish",
	before:  func(w *killWorld) { w.push("1"); w.generate("alice"); w.stage("alice") },
	command: func(w *killWorld) []string { return []string{"trust", "publish", w.gun} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "reset",
	before:  func(w *killWorld) { w.push("1"); w.generate("alice"); w.stage("alice"); w.stage("bob") },
	command: func(w *killWorld) []string { return []string{"trust", "reset", "--all", w.gun} },
	again:   true,
	after:   func(w *killWorld) { w.run("trust", "publish", w.gun); w.push("2") },
}, {
	name:    "delete",
	before:  func(w *killWorld) { w.push("1"); w.generate("alice"); w.stage("alice") },
	command: func(w *killWorld) []string { return []string{"trust", "delete", "--yes", w.gun} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "delete remote",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "delete", "--yes", "--remote", w.gun} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}, {
	name:    "inspect",
	before:  func(w *killWorld) { w.push("1"); w.check(os.RemoveAll(w.file("config/trust/tuf"))) },
	command: func(w *killWorld) []string { return []string{"trust", "inspect", w.gun} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}}

// A client that is killed, at whatever moment, leaves a directory that the next
// command reads; and no key is lost, neither one that was there nor one that
// the published root names.
func TestKilledBeforeEachWrite(t *testing.T) {
	t.Parallel()
	s := startKillSandbox(t)
	images := twoImages(t)
	for _, c := range slices.Concat(killCases, backupKillCases, custodyKills) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			try := func(n int, f sandboxtest.Fault) []string {
				gun := fmt.Sprintf("%s/%s-%d", s.Registry, strings.ReplaceAll(c.name, " ", "-"), n)
				w := &killWorld{t: t, at: fmt.Sprint("killed before write ", n), gun: gun, layout: images, home: t.TempDir(), server: s}
				w.try(c, f)
				return w.changes
			}
			const most = 100
			changes := try(most, sandboxtest.Fault{First: most}) // all of them happen
			if len(changes) == 0 || len(changes) == most {
				t.Fatalf("it changed files %d times, which should be below %d", len(changes), most)
			}
			tried := 0
			for n := range changes {
				if leaveOut(changes, n) {
					continue
				}
				if tried++; tried > 1 && raceDetector && tried%8 != 0 {
					continue // what is raced does not depend on the write; the other pass has each
				}
				try(n, sandboxtest.Fault{First: n, Count: 1})
			}
			t.Logf("%d changes, killed before %d", len(changes), tried)
		})
	}
}

func startKillSandbox(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Start(context.Background(), sandbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A killWorld is one user with a home directory and a repository.
type killWorld struct {
	t      *testing.T
	at     string // for messages
	gun    string
	layout string
	home   string
	server *sandbox.Sandbox

	ids     map[string]string // of keys, by role, before the command
	changes []string          // of files, by the command, where none failed
}

// try lets the command run with a fault, and sees what is left. It reports
// whether the command ended before that.
func (w *killWorld) try(c killCase, f sandboxtest.Fault) (ended bool) {
	t := w.t
	if c.before != nil {
		c.before(w)
	}
	before := w.keys()
	w.ids = map[string]string{}
	for _, k := range before {
		w.ids[k.Role] = string(k.ID)
	}
	args := c.command(w)
	var gone []string
	if c.gone != nil {
		gone = c.gone(w)
	}
	what, out := w.kill(f, c.input, args)
	ended = strings.HasPrefix(what, "ended ")
	if ended && what != "ended 0" {
		t.Fatalf("iechor %q: %s: %s", args, what, out)
	}
	w.at = fmt.Sprintf("write %d: %s", f.First, what)
	if f.Errno != 0 && !ended {
		w.said(f.Errno, what, out)
	}
	w.noLeaks()
	if c.left != nil {
		c.left(w)
	}

	for _, k := range before {
		if !slices.Contains(gone, string(k.ID)) {
			w.opens(k.ID)
		}
	}
	if !c.away {
		w.holdsWhatIsPublished()
	}
	w.sentences("trust", "status", w.gun)
	if !strings.HasPrefix(what, "write ") {
		w.stockReads() // an empty temporary file is nothing to them
	}
	if c.again {
		w.run(args...)
	} else {
		w.sentencesFrom(c.input, args...)
	}
	if c.after != nil {
		c.after(w)
	}
	return ended
}

func (w *killWorld) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", w.at, err)
	}
}

func (w *killWorld) file(name string) string { return filepath.Join(w.home, name) }

func (w *killWorld) environment() map[string]string {
	return map[string]string{
		"HOME": w.home, "PATH": os.Getenv("PATH"), "IECHOR_CONFIG": w.file("config"),
		switchVariable: "1", serverVariable: w.server.Trust,
		rootPassphraseVariable: firstPassphrase, repositoryPassphraseVariable: firstPassphrase, backupPassphraseVariable: thirdPassphrase,
		"TMPDIR": w.home, "GORACE": os.Getenv("GORACE"),
		"IECHOR_HOST": "unix://" + w.file("no-engine.sock"),
	}
}

// app returns a client in this process.
func (w *killWorld) app(input string) (a *app, stdout, stderr *bytes.Buffer) {
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	env := w.environment()
	return &app{
		in: strings.NewReader(input), out: stdout, err: stderr,
		getenv: func(name string) string { return env[name] }, home: w.home, now: time.Now,
		secrets: scriptSecrets(""), testOnlyIterations: 2048, testOnlyBackupCost: 4,
	}, stdout, stderr
}

// run runs a command that must succeed, and returns its result.
func (w *killWorld) run(args ...string) string {
	w.t.Helper()
	a, stdout, stderr := w.app("")
	if status := run(a, args); status != exitDone {
		w.t.Fatalf("%s: then iechor %q = %d\n%s%s", w.at, args, status, stdout, stderr)
	}
	return stdout.String()
}

// sentences runs a command that may fail, if it says in a sentence why.
func (w *killWorld) sentences(args ...string) { w.t.Helper(); w.sentencesFrom("", args...) }

func (w *killWorld) sentencesFrom(input string, args ...string) {
	w.t.Helper()
	a, stdout, stderr := w.app(input)
	status := run(a, args)
	said := slices.DeleteFunc(strings.Split(strings.TrimSpace(stderr.String()), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "hint: ") || strings.HasPrefix(line, "iechor: warning: ")
	})
	// Killed between the server's deletion and its own, the client has seen
	// data that is gone, and says so.
	if status == exitUntrusted && strings.Contains(stderr.String(), "no longer has the trust data that this machine has seen there") {
		status = exitCannot
	}
	// The old root is given up before anything else is.
	if status == exitUntrusted && strings.Contains(stderr.String(), "hint: the root was given up") {
		status = exitCannot
	}
	if status != exitDone && (status != exitCannot || len(said) == 0 || strings.Contains(stderr.String(), "damaged")) {
		w.t.Fatalf("%s: then iechor %q = %d\n%s%s", w.at, args, status, stdout, stderr)
	}
}

func (w *killWorld) push(tag string) {
	w.t.Helper()
	w.run("push", "-q", w.gun+":"+tag, "--from", "oci:"+w.layout+":"+tag)
}

func (w *killWorld) upload(tag string) {
	w.t.Helper()
	w.run("push", "-q", "--disable-content-trust", w.gun+":"+tag, "--from", "oci:"+w.layout+":"+tag)
}

func (w *killWorld) generate(name string) {
	w.t.Helper()
	w.run("trust", "key", "generate", name, "--dir", w.home)
}

func (w *killWorld) stage(name string) {
	w.t.Helper()
	w.run("trust", "delegation", "add", "--stage", w.gun, "targets/"+name, "--key", w.file("alice.pub"), "--all-paths")
}

// noLeaks sees that no key stands unencrypted in anything that was written.
func (w *killWorld) noLeaks() {
	w.t.Helper()
	var l keystest.Leaks
	found, err := l.Scan(w.home, []string{"plain.pem"}, firstPassphrase, secondPassphrase)
	w.check(err)
	for _, f := range found {
		w.t.Errorf("%s: unencrypted: %s", w.at, f)
	}
}

// plainKey writes a key that is not encrypted and returns the file.
func (w *killWorld) plainKey() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	w.check(err)
	file := w.file("plain.pem")
	w.check(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return file
}

// key returns the id of the only key of a role.
func (w *killWorld) key(role string) string {
	w.t.Helper()
	if w.ids[role] == "" {
		w.t.Fatalf("%s: there is no key %s", w.at, role)
	}
	return w.ids[role]
}

func (w *killWorld) publicHalf(role string) {
	w.t.Helper()
	for _, k := range w.keys() {
		if k.Role == role {
			w.run("trust", "key", "export", "--public", "--key", string(k.ID))
			return
		}
	}
	w.t.Fatalf("%s: there is no key %s", w.at, role)
}

// keys lists the keys of the directory, which has no unreadable one.
func (w *killWorld) keys() []keys.Info {
	w.t.Helper()
	dir, err := keys.OpenDir(keys.Config{Path: w.file("config/trust/private"), LookOnly: true})
	w.check(err)
	list, err := dir.List(w.t.Context())
	w.check(err)
	if p := dir.Problems(); len(p) > 0 {
		w.t.Fatalf("%s: %v", w.at, p)
	}
	w.check(dir.Close())
	return list
}

// opens sees that a key opens, with the old passphrase or the new one.
func (w *killWorld) opens(id tuf.CanonicalID) {
	w.t.Helper()
	dir, err := keys.OpenDir(keys.Config{Path: w.file("config/trust/private"), Passphrases: oldAndNew{}, LookOnly: true})
	w.check(err)
	if _, err := dir.Open(w.t.Context(), id); err != nil {
		w.t.Errorf("%s: a key is lost: %v", w.at, err)
	}
	w.check(dir.Close())
}

type oldAndNew struct{}

func (oldAndNew) Passphrase(_ context.Context, _ keys.Info, attempt int) ([]byte, error) {
	switch attempt {
	case 1:
		return []byte(firstPassphrase), nil
	case 2:
		return []byte(secondPassphrase), nil
	}
	return nil, keys.ErrPassphrase
}

func (oldAndNew) NewPassphrase(context.Context, keys.Info) ([]byte, error) {
	return nil, keys.ErrNoPassphrase
}

// holdsWhatIsPublished sees that the keys of the owner, as the trust server has
// them and as this machine has them, are here.
func (w *killWorld) holdsWhatIsPublished() {
	w.t.Helper()
	a, _, _ := w.app("")
	d, err := a.desk()
	w.check(err)
	defer func() { w.check(d.Close()) }()
	ref, err := registry.ParseRef(w.gun)
	w.check(err)
	repo, err := d.repository(ref)
	w.check(err)
	var published []tuf.Role
	set, err := repo.Afresh(w.t.Context())
	switch {
	case errors.Is(err, trust.ErrNotSigned):
	case err != nil:
		w.check(err)
	default:
		for _, name := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
			r, _ := set.Role(name)
			published = append(published, r)
		}
	}
	past, err := repo.Local()
	w.check(err)
	if past != nil && past.Floor(tuf.RoleTimestamp) == 0 {
		for _, name := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
			r, _ := past.Role(name)
			published = append(published, r)
		}
	}
	for _, r := range published {
		for _, k := range r.Keys {
			has, err := d.keys.Has(w.t.Context(), k.CanonicalID())
			w.check(err)
			if !has {
				w.t.Errorf("%s: key %s of %s is published and not here", w.at, k.CanonicalID().Short(), r.Name)
			}
		}
	}
}

// stockReads lets the stock client, if it is here, read the directory.
func (w *killWorld) stockReads() {
	w.t.Helper()
	program, err := exec.LookPath("notary")
	if err != nil {
		return // the stories of testdata/interop say how to get it
	}
	for _, args := range [][]string{{"key", "list"}, {"status", w.gun}} {
		cmd := exec.Command(program, append([]string{"-d", w.file("config/trust")}, args...)...)
		cmd.Env = []string{"HOME=" + w.home}
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.t.Errorf("%s: notary %q: %v\n%s", w.at, args, err, out)
		}
		for _, k := range w.keys() {
			if args[0] == "key" && !strings.Contains(string(out), string(k.ID)) {
				w.t.Errorf("%s: notary key list does not show %s:\n%s", w.at, k, out)
			}
		}
	}
}

// kill runs the client in a process of its own, with a fault. It returns what
// the client was about to do then, and "ended STATUS" if it was not killed.
func (w *killWorld) kill(f sandboxtest.Fault, input string, args []string) (what, out string) {
	w.t.Helper()
	report := w.file("report")
	f.Dir, f.Report = w.home, report
	cmd := f.Command(append([]string{"iechor"}, args...)...)
	for name, value := range w.environment() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdin = strings.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // away from the terminal of who runs the tests
	raw, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", w.at, err, raw)
	}
	said, err := os.ReadFile(report)
	w.check(err)
	w.check(os.Remove(report))
	lines := strings.Split(string(said), "\n")
	w.changes, what = lines[:len(lines)-1], lines[len(lines)-1]
	return what, string(raw)
}
