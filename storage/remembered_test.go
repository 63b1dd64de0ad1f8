package storage_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// A commit builds on what the one before left behind, without reading it again,
// while that is so; whatever another process has done meanwhile, what becomes of
// the commit is what would have become of it otherwise.
func TestRemembered(t *testing.T) {
	t.Parallel()
	const elsewhere = "https://elsewhere.example"
	alice := storage.Actor{Subject: "alice", From: "192.0.2.1"}
	for name, c := range map[string]struct {
		// change is what another process does to the repository.
		change func(at world) (base *storage.State)
		renews bool   // the next commit is the server's own
		want   error  // of it
		mirror string // what it finds, if it looks
	}{
		"nothing": {change: func(at world) *storage.State {
			at.run("UPDATE repositories SET mirror = ?", elsewhere) // no program does only that
			return at.base
		}},
		"a commit elsewhere": {mirror: elsewhere, change: func(at world) *storage.State {
			at.run("UPDATE repositories SET mirror = ?", elsewhere)
			at.commit(at.other, "registry.example.com/b", nil, 1)
			return at.base
		}},
		"a commit": {want: storage.ErrConflict, change: func(at world) *storage.State {
			at.commit(at.other, app, at.base, 3)
			return at.base
		}},
		"a commit that is built on": {change: func(at world) *storage.State { return at.commit(at.other, app, at.base, 3) }},
		"an entry in the audit trail": {change: func(at world) *storage.State {
			if err := at.other.Record(at.t.Context(), storage.AuditRecord{At: storagetest.Start, Act: storage.Rotate, Repository: app, Key: "k"}); err != nil {
				at.t.Fatal(err)
			}
			return at.base
		}},
		"a deletion": {want: storage.ErrConflict, change: func(at world) *storage.State { at.remove(); return at.base }},
		"a deletion, and another beginning": {change: func(at world) *storage.State {
			at.remove()
			return at.commit(at.other, app, nil, 1)
		}},
		"another beginning, and a renewal": {renews: true, want: storage.ErrConflict, change: func(at world) *storage.State {
			at.remove()
			at.commit(at.other, app, nil, 1)
			return at.base
		}},
		"a backup that was restored, and a commit of another repository since": {mirror: elsewhere, change: func(at world) *storage.State {
			at.run("UPDATE changes SET digest = ?", make([]byte, 32))
			at.run("UPDATE repositories SET mirror = ?", elsewhere)
			at.commit(at.s, "registry.example.com/b", nil, 1)
			return at.base
		}},
		"a backup that was restored, with other commits since": {mirror: elsewhere, change: func(at world) *storage.State {
			at.run("UPDATE changes SET digest = ?", make([]byte, 32)) // the numbers are the same
			at.run("UPDATE repositories SET mirror = ?", elsewhere)
			return at.base
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
				setting := fresh(t)
				open := func() (*storage.SQL, *database.DB) {
					db := databasetest.Open(t, setting)
					s, err := storage.Open(t.Context(), db)
					if err != nil {
						t.Fatalf("Open = %v", err)
					}
					return s, db
				}
				s, _ := open()
				at := world{t: t, by: alice, s: s}
				at.other, at.db = open()
				at.base = at.commit(s, app, at.commit(s, app, nil, 1), 2)
				base := c.change(at)
				by := &alice
				if c.renews {
					by = nil
				}
				state, err := s.Commit(t.Context(), app, base, storagetest.Files(app, 4, 4), nil, storagetest.Start, by)
				if !errors.Is(err, c.want) || err == nil && state.Mirror != c.mirror {
					t.Fatalf("Commit = %+v, %v; want an error %v, mirror %q", state, err, c.want, c.mirror)
				}
				if err == nil {
					state.Mirror = ""
					at.run("UPDATE repositories SET mirror = NULL")
					if now, err := at.other.Current(t.Context(), app); err != nil || !cmp.Equal(now, state) {
						t.Errorf("Current = %+v, %v; want %+v", now, err, state)
					}
				}
				records, err := at.other.Audit(t.Context(), storage.AuditQuery{})
				if err != nil {
					t.Fatal(err)
				}
				var last database.Link
				for _, r := range records {
					if err := r.Link.Follows(last); err != nil {
						t.Error(err)
					}
					last = r.Link
				}
				changes, err := at.other.Changes(t.Context(), storage.ChangeQuery{})
				if err != nil || len(changes) == 0 {
					t.Fatalf("Changes = %v, %v", changes, err)
				}
				for i, change := range changes {
					if change.ID != int64(i)+1 {
						t.Errorf("record %d of the changefeed has the number %d", i+1, change.ID)
					}
				}
			})
		})
	}
}

// A world is what is there when another process acts.
type world struct {
	t     *testing.T
	by    storage.Actor
	s     *storage.SQL // of the process under test
	other *storage.SQL
	db    *database.DB
	base  *storage.State // as the process under test committed it
}

func (w world) run(query string, args ...any) {
	w.t.Helper()
	if err := w.db.Update(w.t.Context(), func(x *database.Tx) error { _, err := x.Exec(w.t.Context(), query, args...); return err }); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
}

func (w world) commit(s *storage.SQL, gun tuf.GUN, base *storage.State, n int64) *storage.State {
	w.t.Helper()
	state, err := s.Commit(w.t.Context(), gun, base, storagetest.Files(gun, n, int(n)), nil, storagetest.Start, &w.by)
	if err != nil {
		w.t.Fatalf("Commit = %v", err)
	}
	return state
}

func (w world) remove() {
	w.t.Helper()
	if err := w.other.Delete(w.t.Context(), w.base, storagetest.Start, w.by); err != nil {
		w.t.Fatalf("Delete = %v", err)
	}
}
