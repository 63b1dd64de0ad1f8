package storage_test

import (
	"database/sql"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
)

// A store of an earlier schema is opened with everything that was in it, and
// goes on.
func TestOpenAnEarlierSchema(t *testing.T) {
	t.Parallel()
	const gone = "registry.example/gone"
	script, err := os.ReadFile("testdata/schema3.sql")
	if err != nil {
		t.Fatal(err)
	}
	path := temp(t)
	old, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.ExecContext(t.Context(), string(script)); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	s, _ := openStore(t, path)
	storagetest.Check(t, s)
	now := storagetest.Start.Add(3 * time.Hour)
	for version := int64(1); version <= 2; version++ {
		for _, want := range storagetest.Files(app, version, 0) {
			got, _, err := s.Version(t.Context(), app, want.Role, version)
			if err != nil || string(got) != string(want.Raw) {
				t.Errorf("Version(%s, %d) = %q, %v", want.Role, version, got, err)
			}
		}
	}
	state, err := s.Current(t.Context(), app)
	if err != nil || state.Mirror != "" {
		t.Fatalf("Current = %+v, %v", state, err)
	}
	if changes, err := s.Changes(t.Context(), storage.ChangeQuery{}); err != nil || len(changes) != 5 {
		t.Errorf("Changes = %+v, %v, want 5", changes, err)
	}
	if state, err = s.Commit(t.Context(), app, state, storagetest.Files(app, 3, 0), nil, now, &storage.Actor{Subject: "alice"}); err != nil {
		t.Fatalf("Commit = %v", err)
	}
	// Nobody noted then which files the deletion ended.
	if _, err := s.Restore(t.Context(), gone, now, storage.Actor{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Restore of what was deleted before = %v, want ErrNotFound", err)
	}
	if _, err := s.Commit(t.Context(), gone, nil, storagetest.Files(gone, 1, 0), nil, now, nil); err != nil {
		t.Errorf("Commit of what was deleted before = %v", err)
	}
	// What is ended from now on can be taken back.
	if err := s.Delete(t.Context(), state, now, storage.Actor{Operator: true}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	if _, err := s.Restore(t.Context(), app, now, storage.Actor{Operator: true}); err != nil {
		t.Errorf("Restore = %v", err)
	}
	if trail, err := s.Audit(t.Context(), storage.AuditQuery{}); err != nil || len(trail) != 3 {
		t.Errorf("Audit = %+v, %v, want a publish, a reset and a restore", trail, err)
	}
	storagetest.Check(t, s)
	if err := s.Prune(t.Context(), now.AddDate(1, 0, 0)); err != nil {
		t.Errorf("Prune = %v", err)
	}
	storagetest.Check(t, s)
}
