package signer

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// A table of an earlier schema is opened with its keys and floors, and goes on.
func TestOpenAnEarlierSchema(t *testing.T) {
	t.Parallel()
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	path := filepath.Join(t.TempDir(), "signer.db")
	old, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.ExecContext(t.Context(), string(read("schema1.sql"))); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	w := &world{path: path, now: time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC), log: &records{}}
	w.table = openTable(t, path, testKEK(t, 1))
	w.Service = w.service(t, w.table, nil)
	s := &server{keys: w, w: w, gun: app, published: published{2, 2, read("schema1-timestamp.json"), read("schema1-snapshot.json")}}
	for role, key := range map[tuf.RoleName]*tuf.PublicKey{tuf.RoleTimestamp: &s.timestampKey, tuf.RoleSnapshot: &s.snapshotKey} {
		var found []keyRow
		if err := w.table.db.View(t.Context(), func(x *database.Tx) (err error) {
			found, err = keyRows(t.Context(), x, "SELECT "+keyColumns+" FROM signer_keys WHERE role = ?", role)
			return err
		}); err != nil || len(found) != 1 {
			t.Fatalf("%s keys = %+v, %v, want one", role, found, err)
		}
		*key = found[0].public
		if held, err := w.Holds(t.Context(), app, role, key.CanonicalID()); !held || err != nil {
			t.Errorf("Holds(%s) = %v, %v", role, held, err)
		}
	}

	_, err = w.Sign(t.Context(), s.timestampRequest(t, 2, s.snapshot))
	wantFloor(t, "a version that was signed before", err, api.FloorError{Role: tuf.RoleTimestamp, Floor: 2})
	now := s.published
	s.published = published{}
	_, err = w.Sign(t.Context(), s.timestampRequest(t, 3, now.snapshot))
	wantRestored(t, "a server that has lost everything", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 1})
	s.published = now
	s.publish(t, "three")
	if s.timestampVersion != 3 || s.snapshotVersion != 3 {
		t.Errorf("published timestamp %d and snapshot %d, want 3 and 3", s.timestampVersion, s.snapshotVersion)
	}

	// Keys that were encrypted directly move under another key.
	moved, err := openTable(t, path, testKEK(t, 2, 1)).Rewrap(t.Context(), RewrapOptions{}, w.clock)
	if err != nil || moved != 2 {
		t.Errorf("Rewrap = %d, %v, want 2", moved, err)
	}
	s.keys = w.service(t, openTable(t, path, testKEK(t, 2)), nil)
	s.publish(t, "four")
}
