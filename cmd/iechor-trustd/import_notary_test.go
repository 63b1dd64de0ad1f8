package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/notary"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// The golden deployment, the day after it was made.
const (
	oldServer = "../../notary/testdata/server-db.sql"
	oldSigner = "../../notary/testdata/signer-db.sql"
	oldApp    = tuf.GUN("acme.example/team/delegations")
)

func afterTheMove() time.Time { return time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC) }

// importing runs "import notary" at that time.
func importing(t testing.TB, env map[string]string, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{out: &o, err: &e, env: func(name string) string { return env[name] }, now: afterTheMove}
	status = a.run(t.Context(), append([]string{"import", "notary"}, args...))
	return status, o.String(), e.String()
}

var oldPassphrase = map[string]string{"NOTARY_SIGNER_TIMESTAMP_1": "signer-passphrase"}

// newHome makes the folder of a sandbox that has nothing in it.
func newHome(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	s, err := sandbox.Start(t.Context(), sandbox.Config{Dir: dir, Now: afterTheMove})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A client that knew the stock server pulls from ours, and publishes to it, as
// if nothing had happened.
func TestImportNotary(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	status, out, errs := importing(t, oldPassphrase, "--server-db", oldServer, "--signer-db", oldSigner, "--dir", dir)
	if status != 0 || errs != "" || !strings.HasPrefix(out, "7 repositories with 126 versions (") || !strings.Contains(out, "\n18 keys taken over") {
		t.Fatalf("import = %d %q %q", status, out, errs)
	}
	var clean bytes.Buffer
	checking := &app{out: &clean, err: &clean, env: func(string) string { return "" }, now: afterTheMove}
	if status := checking.run(t.Context(), []string{"check", "--dir", dir}); status != 0 || clean.String() != "nothing wrong found\n" {
		t.Errorf("check = %d %s", status, clean.String())
	}
	s := startHome(t, dir, afterTheMove)
	everyVersion(t, s.Store)

	repo := oldRepository(t, s, dir, afterTheMove)
	before, err := repo.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addTag(t, repo, "after-the-move")
	after, err := repo.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Lookup("after-the-move", tuf.RoleTargets); err != nil {
		t.Error(err)
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		was, _ := before.Info(role)
		is, _ := after.Info(role)
		want := was.Version + 1
		if role == tuf.RoleRoot {
			want = was.Version
		}
		if is.Version != want {
			t.Errorf("%s is at version %d, want %d", role, is.Version, want)
		}
	}

	// To do it again changes nothing, although the new server has moved on.
	status, out, errs = importing(t, oldPassphrase, "--server-db", oldServer, "--signer-db", oldSigner, "--dir", dir)
	if status != 0 || errs != "" || !strings.HasPrefix(out, "0 repositories") || !strings.Contains(out, "; 7 were there already\n") {
		t.Errorf("the second import = %d %q %q", status, out, errs)
	}
	hasTag(t, repo, "after-the-move") // the second import took nothing back
	changes, err := s.Store.Changes(t.Context(), storage.ChangeQuery{})
	if err != nil || len(changes) < 8 || changes[0].ID <= 30 {
		t.Errorf("the changefeed begins with %+v, %v: it must go on above the old one's ids", changes, err)
	}
}

// thePassphrase opens every key.
type thePassphrase string

func (p thePassphrase) Passphrase(context.Context, keys.Info, int) ([]byte, error) {
	return []byte(p), nil
}
func (p thePassphrase) NewPassphrase(context.Context, keys.Info) ([]byte, error) {
	return []byte(p), nil
}

// oldRepository is the golden repository for a client of the old server, which
// now asks the sandbox.
func oldRepository(t testing.TB, s *sandbox.Sandbox, dir string, now func() time.Time) *trust.Repository {
	t.Helper()
	home := oldClient(t)
	remote, err := trust.NewHTTP(trust.HTTPConfig{Base: s.Trust, TLSDir: filepath.Join(dir, "config", "tls")})
	if err != nil {
		t.Fatal(err)
	}
	private, err := keys.OpenDir(keys.Config{Path: filepath.Join(home, "private"), Passphrases: thePassphrase("passphrase"), Iterations: 2048})
	if err != nil {
		t.Fatal(err)
	}
	return trust.Open(oldApp, trust.Config{Remote: remote, Dir: trust.NewDir(home), Keys: keys.Ring{private}, Now: now,
		Met: func(*tuf.Set) { t.Error("the client had to trust a root anew") }})
}

// addTag publishes a tag to targets.
func addTag(t testing.TB, repo *trust.Repository, tag string) {
	t.Helper()
	if _, err := repo.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		return []tuf.Change{tuf.AddTarget{Target: tuf.Target{Name: tag, Role: tuf.RoleTargets,
			FileMeta: tuf.FileMeta{Length: 1, Hashes: map[string][]byte{"sha256": make([]byte, 32)}}}}}, nil
	}); err != nil {
		t.Fatal(err)
	}
}

// hasTag fails the test unless a client sees the tag.
func hasTag(t testing.TB, repo *trust.Repository, tag string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		set, err := repo.Update(t.Context())
		if err == nil {
			_, err = set.Lookup(tag, tuf.RoleTargets)
		}
		if err == nil {
			return
		}
		// What another process has written, servers follow in a moment.
		if !errors.Is(err, tuf.ErrNoTarget) || time.Now().After(deadline) {
			t.Errorf("%s: %v", tag, err)
			return
		}
	}
}

// startHome runs the sandbox in dir until the test ends.
func startHome(t testing.TB, dir string, now func() time.Time) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Start(t.Context(), sandbox.Config{Dir: dir, Now: now})
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

// oldClient makes the trust directory of a client of the old server.
func oldClient(t testing.TB) string {
	t.Helper()
	home := t.TempDir()
	for from, to := range map[string]string{
		"../../trust/testdata/stock/delegations/metadata": "tuf/" + string(oldApp) + "/metadata",
		"../../keys/testdata/stock/client-trust":          "private",
	} {
		if err := os.CopyFS(filepath.Join(home, to), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// everyVersion compares what was captured from the old server with the store.
func everyVersion(t *testing.T, store storage.Store) {
	t.Helper()
	compared := 0
	repos := "../../tuf/testdata/notary-0.7/repos"
	for _, repo := range []string{"delegations", "docker-cli", "emptied", "local-snapshot", "pinned-ca", "rotated", "server-snapshot"} {
		gun, err := os.ReadFile(filepath.Join(repos, repo, "GUN"))
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Join(repos, repo, "versions")
		err = filepath.WalkDir(base, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(base, path)
			if err != nil {
				return err
			}
			number, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(rel), ".json"), ".")
			var version int64
			if _, err := fmt.Sscan(number, &version); err != nil {
				return err
			}
			role := tuf.RoleName(filepath.ToSlash(filepath.Join(filepath.Dir(rel), name)))
			want, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			got, _, err := store.Version(t.Context(), tuf.GUN(strings.TrimSpace(string(gun))), role, version)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s version %d of %s differs: %v", role, version, gun, err)
			}
			compared++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if compared < 100 {
		t.Errorf("%d versions compared", compared)
	}
}

func TestImportNotaryGoesOn(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	file := "sqlite:" + filepath.Join(dir, "server", "server.db")
	store, done, err := (&app{env: os.Getenv}).openStore(t.Context(), file, storage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	a := &app{out: new(bytes.Buffer), err: new(bytes.Buffer), env: func(string) string { return "" }, now: afterTheMove}
	from, closeFrom, err := a.openForeign(t.Context(), oldServer)
	if err != nil {
		t.Fatal(err)
	}
	m := &move{a: a, now: afterTheMove(), from: from, store: store}
	if err := m.repository(t.Context(), oldApp); err != nil {
		t.Fatal(err)
	}
	closeFrom()
	done()
	// That was as far as it got.
	status, out, errs := importing(t, oldPassphrase, "--server-db", oldServer, "--dir", dir)
	if status != 0 || errs != "" || !strings.HasPrefix(out, "6 repositories with ") || !strings.Contains(out, "; 1 were there already\n") {
		t.Errorf("import = %d %q %q", status, out, errs)
	}
}

func TestImportNotaryDryRun(t *testing.T) {
	t.Parallel()
	status, out, errs := importing(t, oldPassphrase, "--dry-run", "--server-db", "file:"+oldServer, "--signer-db", oldSigner)
	if status != 0 || errs != "" || !strings.Contains(out, "7 repositories with 126 versions") || !strings.Contains(out, "18 keys would be taken over") {
		t.Errorf("import = %d %q %q", status, out, errs)
	}
}

// edited writes a dump with some of its text replaced.
func edited(t testing.TB, dump string, replacements ...string) string {
	t.Helper()
	raw, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(replacements...).Replace(string(raw))
	if changed == string(raw) {
		t.Fatalf("%s has none of %q", dump, replacements)
	}
	path := filepath.Join(t.TempDir(), "dump.sql")
	write(t, path, changed)
	return path
}

// What is wrong with the old deployment is told, and does not keep the rest
// out.
func TestImportNotaryProblems(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		server, signer string
		env            map[string]string
		want           []string
		taken          string
	}{
		"a wrong passphrase": {oldServer, oldSigner, map[string]string{"NOTARY_SIGNER_TIMESTAMP_1": "no"},
			[]string{"does not open it: set NOTARY_SIGNER_TIMESTAMP_1 to what it was for notary-signer, and import again", "timestamp of acme.example/team/rotated: signing key not found"}, "7 repositories"},
		"no passphrase": {oldServer, oldSigner, nil, []string{`the passphrase of the key with the alias "timestamp_1" is empty`}, "7 repositories"},
		"an altered file": {edited(t, oldServer, "8e65c3ed57d1c03f0ef59b7df19ce2309b92fecb91185f90378b21e7f5dbcff2');", "0000000000000000000000000000000000000000000000000000000000000000');"), oldSigner, oldPassphrase,
			[]string{"timestamp version 1 of acme.example/team/local-snapshot: the stored bytes do not have the checksum", "acme.example/team/local-snapshot was left out: restore the row"}, "6 repositories"},
		"a name that is none": {edited(t, oldServer, "'acme.example/team/rotated'", "'acme.example/team/../rotated'"), oldSigner, oldPassphrase,
			[]string{`"acme.example/team/../rotated": this is no name for a repository`}, "6 repositories"},
		"keys of another deployment": {oldServer, edited(t, oldSigner, "'acme.example/team/rotated'", "'acme.example/team/elsewhere'"), oldPassphrase,
			[]string{"timestamp of acme.example/team/rotated: signing key not found"}, "7 repositories"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, out, errs := importing(t, tt.env, "--dry-run", "--server-db", tt.server, "--signer-db", tt.signer)
			if status != exitFailed || !strings.Contains(errs, "found") || !strings.Contains(out, tt.taken) {
				t.Errorf("import = %d %q %q", status, out, errs)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("import says\n%s, want %q in it", out, want)
				}
			}
		})
	}
}

// Keys from before the signer noted whose they are find their place by the
// root files.
func TestImportNotaryOldKeys(t *testing.T) {
	t.Parallel()
	nameless := edited(t, oldSigner, "'acme.example/team/rotated', 'timestamp'", "'', ''", "'acme.example/team/rotated', 'snapshot'", "'', ''")
	status, out, errs := importing(t, oldPassphrase, "--dry-run", "--server-db", oldServer, "--signer-db", nameless)
	if strings.Contains(out, "signing key not found") {
		t.Errorf("import = %d %q %q: keys did not find their repository", status, out, errs)
	}
	status, out, _ = importing(t, oldPassphrase, "--dry-run", "--signer-db", nameless)
	if status != exitFailed || !strings.Contains(out, "it does not say whose it is; give --server-db as well") {
		t.Errorf("import without the server's = %d %q", status, out)
	}
}

// A repository of the same name that was made here is not touched.
func TestImportNotaryLeavesAlone(t *testing.T) {
	t.Parallel()
	dir := newHome(t)
	status, out, errs := importing(t, oldPassphrase, "--server-db", edited(t, oldServer, "'acme.example/team/rotated'", "'acme.example/team/emptied'", "'acme.example/team/emptied'", "'acme.example/team/rotated'"), "--dir", dir)
	if status != exitFailed || !strings.Contains(out, "7 repositories") {
		t.Fatalf("import = %d %q %q", status, out, errs) // whose roots are for other names
	}
	status, out, errs = importing(t, oldPassphrase, "--server-db", oldServer, "--dir", dir)
	if status != exitFailed || !strings.Contains(out, "acme.example/team/rotated: the new server has a repository of this name that is not the old one; left alone") || !strings.HasPrefix(errs, "iechor-trustd: ") {
		t.Errorf("import = %d %q %q", status, out, errs)
	}
}

func TestImportNotaryUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "name the old databases"},
		{[]string{"--server-db", oldServer}, "say where it goes"},
		{[]string{"--signer-db", oldSigner, "--config", "server.yaml"}, "say where it goes"},
		{[]string{"--server-db", oldServer, "--dry-run", "--dir", "x"}, "--dry-run writes nowhere"},
		{[]string{"--server-db", oldServer, "--config", "x", "--dir", "x"}, "name either --dir or"},
	} {
		if status, out, errs := importing(t, nil, tt.args...); status != exitUsage || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("import %q = %d %q %q, want %q", tt.args, status, out, errs, tt.want)
		}
	}
	for _, tt := range []struct{ file, want string }{
		{filepath.Join(t.TempDir(), "none.sql"), "open the dump: open "},
		{edited(t, oldServer, "CREATE TABLE", "CREATE THING", "INSERT INTO", "INSERTED"), notary.ErrDump.Error()},
	} {
		if status, out, errs := importing(t, nil, "--dry-run", "--server-db", tt.file); status != exitFailed || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("import of %s = %d %q %q, want %q", tt.file, status, out, errs, tt.want)
		}
	}
}
