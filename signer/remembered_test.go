package signer

import (
	"errors"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/tuf"
)

// publishBoth publishes content as a server does that asks for both signatures
// at once.
func (s *server) publishBoth(t testing.TB, content string) error {
	t.Helper()
	r := s.snapshotRequest(t, s.snapshotVersion+1, content)
	next := api.Successor{Key: s.timestampKey.CanonicalID(), Version: s.timestampVersion + 1, Expires: s.w.clock().Add(3 * 24 * time.Hour)}
	snapshot, timestamp, err := s.w.SignBoth(t.Context(), r, next)
	if err != nil {
		return err
	}
	raw := envelope(t, r.Payload, snapshot)
	s.published = published{next.Version, s.snapshotVersion + 1, envelope(t, timestampPayload(t, next.Version, raw, next.Expires), timestamp), raw}
	return nil
}

// What was signed last is built on without reading it again, while nothing else
// happens. Whatever has happened, by another signer or to the database, what is
// signed then is what would have been signed otherwise.
func TestRemembered(t *testing.T) {
	t.Parallel()
	type change struct {
		elsewhere *world // another signer on the same database
		own       *server
		other     *server // another repository, of this signer
		run       func(query string, args ...any)
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, at change)
		looks  bool
	}{
		"nothing": {change: func(*testing.T, change) {}},
		"a signature for another repository": {change: func(t *testing.T, at change) {
			if err := at.other.publishBoth(t, "again"); err != nil {
				t.Fatal(err)
			}
		}},
		"a signature elsewhere": {looks: true, change: func(t *testing.T, at change) {
			newServer(t, at.elsewhere, at.elsewhere, "registry.example/elsewhere").publish(t, "one")
		}},
		"a repository that was deleted elsewhere": {looks: true, change: func(t *testing.T, at change) {
			if err := at.elsewhere.Forget(t.Context(), app); err != nil {
				t.Fatal(err)
			}
		}},
		"a floor that was lowered elsewhere": {looks: true, change: func(t *testing.T, at change) {
			if err := at.elsewhere.LowerFloor(t.Context(), app, at.own.timestampVersion-1); err != nil {
				t.Fatal(err)
			}
		}},
		"a backup that was restored": {looks: true, change: func(_ *testing.T, at change) {
			at.run("UPDATE signer_audit SET hash = ?", make([]byte, 32)) // the numbers are the same
		}},
		"a backup that was restored, and a signature since": {looks: true, change: func(t *testing.T, at change) {
			at.run("UPDATE signer_audit SET hash = ?", make([]byte, 32))
			if err := at.other.publishBoth(t, "again"); err != nil {
				t.Fatal(err)
			}
		}},
		"a backup that was restored, of a shorter log": {looks: true, change: func(_ *testing.T, at change) {
			at.run("DELETE FROM signer_audit WHERE id > 4")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
				setting := fresh(t)
				w := worldOn(t, setting)
				s, other := newServer(t, w, w, app), newServer(t, w, w, "registry.example/other")
				for _, s := range []*server{s, other} {
					s.publish(t, "one")
					for _, content := range []string{"two", "three"} {
						if err := s.publishBoth(t, content); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := s.publishBoth(t, "four"); err != nil {
					t.Fatal(err)
				}
				at := change{own: s, other: other, elsewhere: &world{path: setting, now: w.clock(), log: &records{}}, run: func(query string, args ...any) {
					t.Helper()
					if err := w.table.db.Update(t.Context(), func(x *database.Tx) error { _, err := x.Exec(t.Context(), query, args...); return err }); err != nil {
						t.Fatalf("%s: %v", query, err)
					}
				}}
				at.elsewhere.table = tableOn(t, setting, testKEK(t, 1))
				at.elsewhere.Service = at.elsewhere.service(t, at.elsewhere.table, nil)
				c.change(t, at)
				at.run("UPDATE signer_ledger SET timestamp_signed = 9 WHERE gun = ?", string(app)) // no program does only that
				err := s.publishBoth(t, "five")
				if !c.looks {
					if err != nil {
						t.Errorf("what is remembered was read again, or refused: %v", err)
					}
					return
				}
				wantFloor(t, "after that", err, api.FloorError{Role: tuf.RoleTimestamp, Floor: 9})
				at.run("UPDATE signer_ledger SET timestamp_signed = 4 WHERE gun = ?", string(app))
				if err := s.publishBoth(t, "five"); err != nil {
					t.Errorf("the next one: %v", err)
				}
			})
		})
	}
}

// A claim that is refused half way, after its first signature, leaves nothing
// behind for the next one.
func TestRememberedAfterRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	for _, content := range []string{"two", "three"} {
		if err := s.publishBoth(t, content); err != nil {
			t.Fatal(err)
		}
	}
	r := s.snapshotRequest(t, 4, "four")
	used := api.Successor{Key: s.timestampKey.CanonicalID(), Version: 3, Expires: w.clock().Add(3 * 24 * time.Hour)}
	if _, _, err := w.SignBoth(t.Context(), r, used); !errors.As(err, new(*api.FloorError)) {
		t.Fatalf("a timestamp version that was used: %v", err)
	}
	for _, content := range []string{"four", "five"} {
		if err := s.publishBoth(t, content); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.trail(t, AuditQuery{GUN: app})); n != 2+2*5 {
		t.Errorf("%d entries about %s, want 12", n, app)
	}
}
