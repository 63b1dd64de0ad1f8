package storage_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
	_ "modernc.org/sqlite"
)

const app tuf.GUN = "registry.example/app"

const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"

// openDB opens a SQLite file until the test ends.
func openDB(t testing.TB, path, driver string) *database.DB {
	t.Helper()
	db, err := sql.Open(driver, "file:"+path+pragmas)
	if err != nil {
		t.Fatal(err)
	}
	d := database.New(db, database.SQLite)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close database: %v", err)
		}
	})
	return d
}

func openStore(t testing.TB, path string) (*storage.SQL, *database.DB) {
	t.Helper()
	db := openDB(t, path, "sqlite")
	s, err := storage.Open(t.Context(), db)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	return s, db
}

func temp(t testing.TB) string { return filepath.Join(t.TempDir(), "trust.db") }

func TestSQLite(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s, _ := openStore(t, temp(t))
		return s
	})
}

// The wrapper changes nothing as long as it is told nothing.
func TestFaultyIsAStore(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s, _ := openStore(t, temp(t))
		return storagetest.NewFaulty(s)
	})
}

func TestFaulty(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, _ := openStore(t, temp(t))
	f := storagetest.NewFaulty(s)
	f.Inject(storagetest.Fault{Method: "Commit", Call: 1})
	f.Inject(storagetest.Fault{Method: "Commit", Call: 2, After: true, Err: os.ErrDeadlineExceeded})
	if _, err := f.Commit(ctx, app, nil, storagetest.Files(app, 1, 0), nil, storagetest.Start, nil); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("first Commit = %v, want ErrInjected", err)
	}
	if _, err := f.Current(ctx, app); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Current after a fault before the work = %v, want ErrNotFound", err)
	}
	if _, err := f.Commit(ctx, app, nil, storagetest.Files(app, 1, 0), nil, storagetest.Start, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("second Commit = %v, want os.ErrDeadlineExceeded", err)
	}
	state, err := f.Current(ctx, app)
	if err != nil {
		t.Fatalf("Current after a fault after the work = %v", err)
	}
	f.Inject(storagetest.Fault{})
	if err := f.Delete(ctx, state, storagetest.Start, storage.Actor{}); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Delete = %v, want ErrInjected", err)
	}
	if _, err := f.Current(ctx, app); err != nil {
		t.Errorf("Current, which writes nothing, = %v", err)
	}
	f.Heal()
	if err := f.Delete(ctx, state, storagetest.Start, storage.Actor{}); err != nil {
		t.Errorf("Delete after Heal = %v", err)
	}
	if got := f.Calls("Commit"); got != 2 {
		t.Errorf("Calls(Commit) = %d, want 2", got)
	}
}

// M10 between processes: each store has its own connections to the file, and
// nothing else in common.
func TestAttackInterleaveBetweenProcesses(t *testing.T) {
	t.Parallel()
	path := temp(t)
	a, _ := openStore(t, path)
	b, _ := openStore(t, path)
	storagetest.Race(t, a, b)
	storagetest.Check(t, a)
}

// S9: who reads after a commit was acknowledged sees it, through any store.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	path := temp(t)
	a, _ := openStore(t, path)
	b, _ := openStore(t, path)
	var base *storage.State
	for v := int64(1); v <= 20; v++ {
		state, err := a.Commit(t.Context(), app, base, storagetest.Files(app, v, 0), nil, storagetest.Start, nil)
		if err != nil {
			t.Fatalf("Commit = %v", err)
		}
		got, err := b.Current(t.Context(), app)
		if err != nil || got.Seq != state.Seq {
			t.Fatalf("the other store is at %v, %v; want %d", got, err, state.Seq)
		}
		base = state
		a, b = b, a
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	path := temp(t)
	a, _ := openStore(t, path)
	state, err := a.Commit(t.Context(), app, nil, storagetest.Files(app, 1, 0), nil, storagetest.Start, nil)
	if err != nil {
		t.Fatalf("Commit = %v", err)
	}
	b, _ := openStore(t, path)
	got, err := b.Current(t.Context(), app)
	if err != nil || got.Seq != state.Seq {
		t.Errorf("Current after opening again = %v, %v; want %d", got, err, state.Seq)
	}
}

// Bytes that were changed in the database are not served.
func TestAttackChangedBlob(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"other content": "UPDATE blobs SET data = (SELECT b.data FROM blobs b WHERE b.digest <> blobs.digest) WHERE digest = (SELECT digest FROM files WHERE version = 2)",
		"cut":           "UPDATE blobs SET data = substr(data, 1, length(data) - 3)",
		"no zstd":       "UPDATE blobs SET data = x'00'",
		"length":        "UPDATE blobs SET length = 9223372036854775807",
		"ring":          "UPDATE blobs SET base = digest",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s, db := openStore(t, temp(t))
			files := []storage.NewFile{storagetest.File(app, tuf.RoleTargets, 1, 1)}
			state, err := s.Commit(ctx, app, nil, files, nil, storagetest.Start, nil)
			if err != nil {
				t.Fatalf("Commit = %v", err)
			}
			if state, err = s.Commit(ctx, app, state, []storage.NewFile{storagetest.File(app, tuf.RoleTargets, 2, 1)}, nil, storagetest.Start, nil); err != nil {
				t.Fatalf("Commit = %v", err)
			}
			if _, err := db.SQL().ExecContext(ctx, damage); err != nil {
				t.Fatal(err)
			}
			raw, _, err := s.Blob(ctx, app, tuf.RoleTargets, state.Roles[tuf.RoleTargets].SHA256)
			if !errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrNotFound) || raw != nil {
				t.Errorf("Blob = %d bytes, %v; want ErrCorrupt", len(raw), err)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := openDB(t, temp(t), "sqlite")
	if _, err := (storage.Config{Superseded: -1}).Open(ctx, db); err == nil {
		t.Error("Open with a negative retention = nil")
	}
	s, err := storage.Config{Superseded: time.Hour, Changes: time.Hour}.Open(ctx, db)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	var base *storage.State
	for v := int64(1); v <= 250; v++ {
		now := storagetest.Start.Add(time.Duration(v) * time.Minute)
		if base, err = s.Commit(ctx, app, base, storagetest.Files(app, v, 0)[2:], nil, now, nil); err != nil {
			t.Fatalf("Commit = %v", err)
		}
	}
	if err := s.Prune(ctx, storagetest.Start.Add(250*time.Minute)); err != nil {
		t.Fatalf("Prune = %v", err)
	}
	changes, err := s.Changes(ctx, storage.ChangeQuery{Limit: 1000})
	if err != nil || len(changes) != 61 || changes[0].Version != 190 || changes[0].ID != 190 {
		t.Errorf("changefeed has %d records, %v; want the 61 of the last hour", len(changes), err)
	}
	if _, _, err := s.Version(ctx, app, tuf.RoleSnapshot, 188); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("snapshot superseded 61 minutes ago: %v, want ErrNotFound", err)
	}
	if _, _, err := s.Version(ctx, app, tuf.RoleSnapshot, 190); err != nil {
		t.Errorf("snapshot superseded 59 minutes ago: %v", err)
	}
	storagetest.Check(t, s)
}

// When everything of a repository has been forgotten no blob is left behind.
func TestPruneLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, db := openStore(t, temp(t))
	var base *storage.State
	var err error
	for v := int64(1); v <= 130; v++ {
		files := []storage.NewFile{storagetest.Listing(40, v, 1), storagetest.File(app, tuf.RoleRoot, v, 0)}
		if base, err = s.Commit(ctx, app, base, files, nil, storagetest.Start, nil); err != nil {
			t.Fatalf("Commit = %v", err)
		}
	}
	if err := s.Delete(ctx, base, storagetest.Start, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	for after, roots := range map[time.Duration]int{2 * time.Hour: 130, 29 * 24 * time.Hour: 130} { // undoing a deletion by hand needs them
		if err := s.Prune(ctx, storagetest.Start.Add(after)); err != nil {
			t.Fatalf("Prune = %v", err)
		}
		if n := rows(t, db, "files WHERE role = 'root'"); n != roots {
			t.Errorf("%d roots are left %v after the deletion, want %d", n, after, roots)
		}
	}
	if err := s.Prune(ctx, storagetest.Start.Add(31*24*time.Hour)); err != nil {
		t.Fatalf("Prune = %v", err)
	}
	for _, table := range []string{"files", "blobs", "roles"} {
		if n := rows(t, db, table); n != 0 {
			t.Errorf("%s has %d rows, want none", table, n)
		}
	}
}

// A blob that outlived its files, because one of another repository hung on
// it, goes with that one.
func TestPruneReleasesBase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, db := openStore(t, temp(t))
	shared, next := storagetest.Listing(100, 1, 1), storagetest.Listing(100, 2, 1)
	later := storagetest.Start.Add(2 * time.Hour)
	commit := func(gun tuf.GUN, base *storage.State, f storage.NewFile) *storage.State {
		t.Helper()
		state, err := s.Commit(ctx, gun, base, []storage.NewFile{f}, nil, storagetest.Start, nil)
		if err != nil {
			t.Fatalf("Commit = %v", err)
		}
		return state
	}
	end := func(state *storage.State, now time.Time, blobs int) {
		t.Helper()
		if err := s.Delete(ctx, state, now, storage.Actor{}); err != nil {
			t.Fatalf("Delete = %v", err)
		}
		if err := s.Prune(ctx, now.Add(31*24*time.Hour)); err != nil {
			t.Fatalf("Prune = %v", err)
		}
		if n := rows(t, db, "blobs"); n != blobs {
			t.Errorf("%d blobs are left, want %d", n, blobs)
		}
	}
	a := commit(app, commit(app, nil, shared), next)
	b := commit("registry.example/other", nil, shared)
	if err := s.Prune(ctx, later); err != nil {
		t.Fatalf("Prune = %v", err)
	}
	if n := rows(t, db, "blobs WHERE base IS NOT NULL"); n != 1 {
		t.Fatalf("%d blobs are deltas, want 1", n)
	}
	end(a, later, 2)
	storagetest.Check(t, s)
	end(b, later, 0)
}

func rows(t *testing.T, db *database.DB, from string) (n int) {
	t.Helper()
	if err := db.SQL().QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+from).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Since when files are old is written down for all repositories, however many
// there are, also after the database was restored from a backup, whose numbers
// are lower.
func TestPruneFindsOldFiles(t *testing.T) {
	t.Parallel()
	s, db := openStore(t, temp(t))
	ctx := t.Context()
	const many = 2*storage.OldRepositories + 1
	roles := 0
	for n := range many {
		var base *storage.State
		for version := int64(1); version <= 2; version++ {
			var err error
			if base, err = s.Commit(ctx, repo(n), base, storagetest.Files(repo(n), version, 0), nil, storagetest.Start, nil); err != nil {
				t.Fatal(err)
			}
		}
		roles = len(base.Roles)
	}
	for _, restored := range [][]string{nil, {
		"UPDATE files SET retired = 0", "UPDATE repositories SET seq = id", "UPDATE counters SET seq = (SELECT MAX(seq) FROM repositories)",
	}} {
		if err := db.Update(ctx, func(x *database.Tx) error {
			for _, statement := range restored {
				if _, err := x.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Prune(ctx, storagetest.Start); err != nil {
			t.Fatal(err)
		}
		var old int
		if err := db.View(ctx, func(x *database.Tx) error {
			return x.QueryRow(ctx, "SELECT COUNT(*) FROM files WHERE retired > 0").Scan(&old)
		}); err != nil {
			t.Fatal(err)
		}
		if want := many * (roles - 1); old != want { // all but the roots
			t.Errorf("after %q %d files are old, want %d", restored, old, want)
		}
	}
}
