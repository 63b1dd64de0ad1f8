package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

const (
	checked   tuf.GUN = "registry.example/app"
	untouched tuf.GUN = "registry.example/other"
)

// newStore makes a site whose server published to two repositories and has
// ended, and returns copies of its folder.
func newStore(t testing.TB) (copied func(testing.TB) *site) {
	t.Helper()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	for _, gun := range []tuf.GUN{checked, untouched} {
		p := newPublisher(t, s, gun)
		err := p.init(t.Context(), server, "1")
		for _, tag := range []string{"2", "3"} {
			if err == nil {
				err = p.publish(t.Context(), server, tag)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	server.stop()
	s.signer.stop()
	return func(t testing.TB) *site {
		t.Helper()
		c := *s
		c.dir = t.TempDir()
		for _, name := range []string{"signer/kek", "signer/signer.db", "server/server.db"} {
			raw, err := os.ReadFile(s.file(name))
			if err == nil {
				err = os.MkdirAll(filepath.Dir(c.file(name)), 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}
			write(t, c.file(name), string(raw))
		}
		return &c
	}
}

// alter runs statements on a database whose rules do not hold meanwhile.
func alter(t testing.TB, file string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=foreign_keys(0)&_pragma=ignore_check_constraints(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range statements {
		res, err := db.ExecContext(context.Background(), s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			t.Fatalf("%s changed nothing: %v", s, err)
		}
	}
}

// TestAttackCheckFinds: each kind of damage to a store, or to the signer's, is
// told in a sentence that names repository and role.
func TestAttackCheckFinds(t *testing.T) {
	t.Parallel()
	copied := newStore(t)
	// The current file of a role.
	const of = "repository = (SELECT id FROM repositories WHERE gun = 'registry.example/app') AND role = "
	current := func(role string) string {
		return "(SELECT f.digest FROM files f JOIN roles r USING (repository, incarnation, role, version) WHERE r." + of + "'" + role + "')"
	}
	first := func(role string) string {
		return "UPDATE roles SET version = 1, highest = 1 WHERE " + of + "'" + role + "'"
	}
	// Back by two: what was signed last may never have been published.
	older := []string{
		first("timestamp"), first("snapshot"), first("targets"),
		"DELETE FROM changes WHERE version > 1 AND gun = 'registry.example/app'",
	}
	const forget = "UPDATE signer_ledger SET timestamp_signed = 1, timestamp_confirmed = 1, snapshot_signed = 1, snapshot_confirmed = 1, snapshot_named = 1 WHERE gun = 'registry.example/app'"
	for _, tt := range []struct {
		name           string
		server, signer []string
		want           []string // a line must begin so, and one each
	}{
		{"healthy", nil, nil, nil},
		{"blob altered", []string{"UPDATE blobs SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE digest = " + current("targets")}, nil,
			[]string{"targets of registry.example/app: by hash: "}},
		{"blob replaced by another's", []string{"UPDATE blobs SET (data, length) = (SELECT data, length FROM blobs WHERE digest = " + current("root") + ") WHERE digest = " + current("snapshot")}, nil,
			[]string{"snapshot of registry.example/app: by hash: "}},
		{"blob dropped", []string{"DELETE FROM blobs WHERE digest = " + current("targets")}, nil,
			[]string{"database: row ", "targets of registry.example/app: "}},
		{"file dropped", []string{"DELETE FROM files WHERE digest = " + current("root")}, nil,
			[]string{"database: row ", "root of registry.example/app: "}},
		{"pointer dropped", []string{"DELETE FROM roles WHERE " + of + "'snapshot'"}, nil,
			[]string{"snapshot of registry.example/app: "}},
		{"all pointers dropped", []string{"DELETE FROM roles WHERE repository = (SELECT id FROM repositories WHERE gun = 'registry.example/app')"}, nil,
			[]string{"timestamp of registry.example/app: it was published and never deleted"}},
		{"repository dropped", []string{
			"DELETE FROM roles WHERE repository = (SELECT id FROM repositories WHERE gun = 'registry.example/app')",
			"DELETE FROM files WHERE repository = (SELECT id FROM repositories WHERE gun = 'registry.example/app')",
			"DELETE FROM repositories WHERE gun = 'registry.example/app'",
		}, nil,
			[]string{"timestamp of registry.example/app: it was published and never deleted"}},
		{"older targets", []string{"UPDATE roles SET version = version - 1 WHERE " + of + "'targets'"}, nil,
			[]string{"targets of registry.example/app: version 2 is current, and 3 is the highest", "targets of registry.example/app: not the one that the snapshot names"}},
		{"older targets and no trace", []string{first("targets")}, nil,
			[]string{"targets of registry.example/app: not the one that the snapshot names"}},
		{"older timestamp", []string{"UPDATE roles SET version = version - 1 WHERE " + of + "'timestamp'"}, nil,
			[]string{"timestamp of registry.example/app: version 2 is current, and 3 is the highest", "snapshot of registry.example/app: not the one that the timestamp names"}},
		{"older timestamp and no trace", []string{first("timestamp")}, nil,
			[]string{"timestamp of registry.example/app: version 1 is current, and the changefeed ends with ", "timestamp of registry.example/app: version 1 is current, and the signer knows that 2 was published"}},
		{"everything older and no trace", older, nil,
			[]string{"timestamp of registry.example/app: version 1 is current, and the signer knows that 2 was published: the store was set back"}},
		{"version renamed", []string{
			"UPDATE files SET version = 9 WHERE digest = " + current("timestamp"),
			"UPDATE roles SET version = 9, highest = 9 WHERE " + of + "'timestamp'",
		}, nil,
			[]string{"timestamp of registry.example/app: stored as version 9, and says it is 3"}},
		{"expiry changed", []string{"UPDATE files SET expires = expires + 1 WHERE digest = " + current("timestamp")}, nil,
			[]string{"timestamp of registry.example/app: stored as expiring at "}},
		{"change dropped", []string{"DELETE FROM changes WHERE id = (SELECT MAX(id) FROM changes WHERE gun = 'registry.example/app')"}, nil,
			[]string{"timestamp of registry.example/app: version 3 is current, and the changefeed ends with "}},
		{"ledger set back", nil, []string{forget},
			[]string{"timestamp of registry.example/app: version 3 is current, and the signer remembers to have signed up to 1: its ledger was set back",
				"snapshot of registry.example/app: version 3 is current, and the signer has dated none above 1: its ledger was set back"}},
		{"ledger lost", nil, []string{"DELETE FROM signer_ledger WHERE gun = 'registry.example/app'"},
			[]string{"timestamp of registry.example/app: version 3 is current, and the signer remembers to have signed up to 0"}},
		{"key lost", nil, []string{"DELETE FROM signer_keys WHERE gun = 'registry.example/app' AND role = 'timestamp'"},
			[]string{"timestamp of registry.example/app: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := copied(t)
			if tt.server != nil {
				alter(t, s.file("server/server.db"), tt.server...)
			}
			if tt.signer != nil {
				alter(t, s.file("signer/signer.db"), tt.signer...)
			}
			status, out, errs := runApp(t, nil, "check", "--dir", s.dir)
			if tt.want == nil {
				if status != 0 || out != "nothing wrong found\n" || errs != "" {
					t.Errorf("check = %d\n%s%s", status, out, errs)
				}
				return
			}
			if status != exitFailed || !strings.HasPrefix(errs, "iechor-trustd: ") || !strings.HasSuffix(errs, " found\n") || strings.Count(errs, "\n") != 1 {
				t.Errorf("check = %d %q", status, errs)
			}
			for _, want := range tt.want {
				if !strings.Contains("\n"+out, "\n"+want) {
					t.Errorf("check does not say %q, but\n%s", want, out)
				}
			}
			for line := range strings.Lines(out) {
				if !strings.Contains(line, string(checked)) && !strings.HasPrefix(line, "database: ") {
					t.Errorf("line without the damaged repository: %q", line)
				}
			}
		})
	}
}

// contents hashes every file under a folder.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		sum := sha256.Sum256(raw)
		all[path] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// check opens what is there and leaves it as it is.
func TestCheckChangesNothing(t *testing.T) {
	t.Parallel()
	copied := newStore(t)
	for _, tt := range []struct {
		name string
		edit func(*site)
		want string // of stderr; empty for success
	}{
		{"healthy", func(*site) {}, ""},
		{"no store", func(s *site) { remove(t, s.file("server/server.db")) }, "there is no database "},
		{"no signer", func(s *site) { remove(t, s.file("signer/signer.db")) }, "there is no database "},
		{"no key", func(s *site) { remove(t, s.file("signer/kek")) }, "open the signer of "},
		{"another key", func(s *site) { write(t, s.file("signer/kek"), kek("00ff")) }, "key-encryption key does not fit the key table"},
		{"empty file", func(s *site) { write(t, s.file("server/server.db"), "") }, "it was made by an older one"},
		{"empty file of the signer", func(s *site) { write(t, s.file("signer/signer.db"), "") }, "it was made by an older one"},
		{"older schema", func(s *site) { alter(t, s.file("server/server.db"), "DELETE FROM schema_migrations") }, "it was made by an older one"},
		{"newer schema", func(s *site) {
			alter(t, s.file("server/server.db"), "INSERT INTO schema_migrations VALUES ('storage', 99, 'later', 0)")
		}, "it was made by a newer or another one"},
		{"the signer's in place of the server's", func(s *site) {
			raw, err := os.ReadFile(s.file("signer/signer.db"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, s.file("server/server.db"), string(raw))
		}, "it was made by a newer or another one"},
		{"garbage", func(s *site) { write(t, s.file("server/server.db"), strings.Repeat("garbage ", 1000)) }, "file is not a database"},
		{"nothing at all", func(s *site) { s.dir = s.file("none") }, "no such file or directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := copied(t)
			top := s.dir
			tt.edit(s)
			before := contents(t, top)
			status, out, errs := runApp(t, nil, "check", "--dir", s.dir)
			if tt.want == "" && status != 0 || tt.want != "" && (status != exitFailed || out != "" || !strings.Contains(errs, tt.want) || strings.Count(errs, "\n") != 1) {
				t.Errorf("check = %d %q %q, want %q", status, out, errs, tt.want)
			}
			if d := cmp.Diff(before, contents(t, top)); d != "" {
				t.Errorf("check changed files (-before +after):\n%s", d)
			}
		})
	}
}

func remove(t testing.TB, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// With a configuration, the signer is asked over the network; without it the
// store is checked alone, and that is said.
func TestCheckConfig(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, checked)
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	check := func(env []string, args ...string) (int, string, string) {
		return runProcess(t, env, append([]string{"check", "--config", s.file("server.yaml")}, args...)...)
	}
	if status, out, errs := check(nil); status != 0 || !strings.HasPrefix(out, "nothing wrong found") { // while the server runs
		t.Errorf("check = %d %q %q", status, out, errs)
	}
	// The store is named by the same setting as for the server.
	for _, way := range []struct{ env, args []string }{
		{args: []string{"--storage", "sqlite:" + s.file("none.db")}},
		{env: []string{"IECHOR_TRUSTD_STORAGE=sqlite:" + s.file("none.db")}},
	} {
		status, out, errs := check(way.env, way.args...)
		sentence(t, fmt.Sprint("check with ", way), status, out, errs, "there is no database "+s.file("none.db"))
	}
	other := newSite(t) // a signer that holds none of the keys
	other.startSigner(t)
	s.signerAt.lead(other.signer.addr)
	s.signer.stop()
	alterTrust := []string{"--signer-ca", other.ca.file, "--signer-certificate", other.caller.Certificate, "--signer-key", other.caller.Key}
	if status, out, errs := check(nil, alterTrust...); status != exitFailed || !strings.HasPrefix(out, "timestamp of registry.example/app: ") {
		t.Errorf("check with a signer that lacks the key = %d %q %q", status, out, errs)
	}
	other.signer.stop()
	if status, out, errs := check(nil); status != 0 || out != "nothing wrong found in the store; it was not compared with the signer's ledger\n" ||
		!strings.HasPrefix(errs, "iechor-trustd: the signer cannot be asked, so its keys and ledger are not compared: ") {
		t.Errorf("check without a signer = %d %q %q", status, out, errs)
	}
	server.stop()
}
