package storage_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// What this process committed is returned again while the database says that it
// is current, and read anew after each thing that makes it another state.
func TestKnownState(t *testing.T) {
	t.Parallel()
	path := temp(t)
	s, db := openStore(t, path)
	other, _ := openStore(t, path) // as another server on the same database
	ctx := t.Context()
	n := int64(0)
	next := func(s *storage.SQL, base *storage.State) *storage.State {
		t.Helper()
		n++
		state, err := s.Commit(ctx, app, base, storagetest.Files(app, n, int(n)), nil, storagetest.Start, nil)
		if err != nil {
			t.Fatalf("Commit = %v", err)
		}
		return state
	}
	run := func(query string) func() {
		return func() {
			if err := db.Update(ctx, func(x *database.Tx) error { _, err := x.Exec(ctx, query); return err }); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
	}
	for name, change := range map[string]func(){
		"a commit of another server": func() {
			base, err := other.Current(ctx, app)
			if err != nil {
				t.Fatal(err)
			}
			next(other, base)
		},
		"another number":      run("UPDATE repositories SET seq = seq + 1"),
		"another incarnation": run("UPDATE repositories SET incarnation = incarnation + 1"),
		"a mirror":            run("UPDATE repositories SET mirror = 'https://elsewhere.example'"),
		"another timestamp behind the same number": run(`UPDATE files SET digest = (SELECT digest FROM files WHERE role = 'root' LIMIT 1)
			WHERE role = 'timestamp' AND retired = 0`),
		"no timestamp": run("DELETE FROM roles WHERE role = 'timestamp'"),
	} {
		n = 1 // a repository of its own would need another name
		run("UPDATE repositories SET mirror = NULL")()
		if state, err := s.Current(ctx, app); err == nil {
			if err := s.Delete(ctx, state, storagetest.Start, storage.Actor{}); err != nil {
				t.Fatal(err)
			}
		}
		state := next(s, next(s, nil))
		if got, err := s.Current(ctx, app); err != nil || got != state {
			t.Fatalf("%s: before it Current = %p, %v; want what was committed, %p", name, got, err, state)
		}
		change()
		want, err := other.Current(ctx, app)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := s.Current(ctx, app); err != nil || got == state || !cmp.Equal(got, want) {
				t.Errorf("%s: Current = %+v, %v; want %+v", name, got, err, want)
			}
		}
	}
	state, err := other.Current(ctx, app)
	if err == nil {
		state, err = s.Commit(ctx, app, state, []storage.NewFile{storagetest.File(app, tuf.RoleTimestamp, 100, 0)}, nil, storagetest.Start, nil)
	}
	if err == nil {
		err = other.Delete(ctx, state, storagetest.Start, storage.Actor{})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Current(ctx, app); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Current of what another server deleted = %v, want ErrNotFound", err)
	}
}

// After a database was restored from a backup, its next state can have the number
// of one that was lost: what builds on that is refused.
func TestCommitOnAnotherStateOfTheNumber(t *testing.T) {
	t.Parallel()
	s, db := openStore(t, temp(t))
	ctx := t.Context()
	commit := func(base *storage.State, n int64) (*storage.State, error) {
		return s.Commit(ctx, app, base, storagetest.Files(app, n, int(n)), nil, storagetest.Start, nil)
	}
	first, err := commit(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := commit(first, 2)
	if err != nil {
		t.Fatal(err)
	}
	// Two more follow, and are given the number of the one that is lost.
	second := lost
	for n := int64(3); n < 5; n++ {
		if second, err = commit(second, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Update(ctx, func(x *database.Tx) error {
		_, err := x.Exec(ctx, "UPDATE repositories SET seq = ?", lost.Seq)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := commit(lost, 5); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit on a state that was lost = %v, want ErrConflict", err)
	}
	now, err := s.Current(ctx, app)
	if err != nil {
		t.Fatal(err)
	}
	if now.Roles[tuf.RoleTimestamp].Version != 4 {
		t.Errorf("current is timestamp version %d, want 4", now.Roles[tuf.RoleTimestamp].Version)
	}
	if _, err := commit(now, 5); err != nil {
		t.Errorf("Commit on what is current = %v", err)
	}
}

// States of many repositories do not gather without bound.
func TestKnownStatesAreBounded(t *testing.T) {
	t.Parallel()
	if got := storage.Knows(3 * storage.MaxKnown); got != storage.MaxKnown {
		t.Errorf("%d states are kept, want %d", got, storage.MaxKnown)
	}
}
