package signer

import (
	"testing"

	"github.com/iechor/trust/tuf"
)

// A deletion that is taken back is as if it had not been: the same keys sign
// on above the same floors, and what was kept ready for a new repository is
// gone.
func TestRecall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Recall(t.Context(), app); err != nil {
		t.Errorf("Recall of what is not known = %v", err)
	}
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	if err := w.Recall(t.Context(), app); err != nil {
		t.Errorf("Recall of what was not forgotten = %v", err)
	}
	s.publish(t, "two")
	for range 2 { // also a second time
		if err := w.Forget(t.Context(), app); err != nil {
			t.Fatal(err)
		}
		waiting := s.create(t, tuf.RoleTimestamp)
		for range 2 {
			if err := w.Recall(t.Context(), app); err != nil {
				t.Fatalf("Recall = %v", err)
			}
		}
		for role, key := range map[tuf.RoleName]tuf.PublicKey{tuf.RoleTimestamp: s.timestampKey, tuf.RoleSnapshot: s.snapshotKey} {
			if held, err := w.Holds(t.Context(), app, role, key.CanonicalID()); !held || err != nil {
				t.Errorf("Holds(%s key) = %v, %v after Recall, want true", role, held, err)
			}
		}
		if held, err := w.Holds(t.Context(), app, tuf.RoleTimestamp, waiting.CanonicalID()); held || err != nil {
			t.Errorf("Holds(key made in between) = %v, %v, want false", held, err)
		}
		before := s.timestampVersion
		s.publish(t, "three")
		if s.timestampVersion != before+1 {
			t.Errorf("timestamp version %d after %d: the ledger did not go on", s.timestampVersion, before)
		}
	}
	floors, err := w.Floors(t.Context(), app)
	if err != nil || len(floors) != 1 || floors[0].TimestampSigned != s.timestampVersion {
		t.Errorf("Floors = %+v, %v; want one incarnation", floors, err)
	}
}

// What was published since a deletion is not taken away from its owner.
func TestRecallTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	old := s.timestampKey
	if err := w.Forget(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	s = newServer(t, w, w, app)
	s.publish(t, "reborn")
	wantRefusal(t, "Recall after a new publish", w.Recall(t.Context(), app))
	if held, _ := w.Holds(t.Context(), app, tuf.RoleTimestamp, old.CanonicalID()); held {
		t.Error("the old key is held again")
	}
	s.publish(t, "reborn two")
	wantRefusal(t, "Recall of no name", w.Recall(t.Context(), "../x"))
}
