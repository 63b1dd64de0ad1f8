package storage_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// oldFiles returns versions 1 to n of every role, as another server kept them.
func oldFiles(n int64) (files []storage.OldFile) {
	for v := int64(1); v <= n; v++ {
		for _, f := range storagetest.Files(app, v, 0) {
			files = append(files, storage.OldFile{Role: f.Role, Version: f.Version, Created: storagetest.Start.Add(time.Duration(v) * time.Hour), Expires: f.Expires,
				Raw: func(context.Context) ([]byte, error) { return f.Raw, nil }})
		}
	}
	return files
}

func TestImport(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t, temp(t))
	now := storagetest.Start.AddDate(1, 0, 0)
	if err := s.StartChangesAfter(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	if err := s.StartChangesAfter(t.Context(), 10); err != nil { // never back
		t.Fatal(err)
	}
	state, err := s.Import(t.Context(), app, nil, storage.Source{Files: oldFiles(5)}, now, storage.Actor{})
	if err != nil {
		t.Fatal(err)
	}
	for role, e := range state.Roles {
		if e.Version != 5 || state.Floors[role] != 5 || !e.Created.Equal(storagetest.Start.Add(5*time.Hour)) {
			t.Errorf("%s is %+v, floor %d", role, e, state.Floors[role])
		}
	}
	// All of the history is there, and stays as long as if it had been
	// superseded now.
	if err := s.Prune(t.Context(), now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, f := range oldFiles(5) {
		want, _ := f.Raw(t.Context())
		got, created, err := s.Version(t.Context(), app, f.Role, f.Version)
		if err != nil || !slices.Equal(got, want) || !created.Equal(f.Created) {
			t.Errorf("%s version %d = %d bytes of %v, %v", f.Role, f.Version, len(got), created, err)
		}
	}
	changes, err := s.Changes(t.Context(), storage.ChangeQuery{})
	if err != nil || len(changes) != 1 || changes[0].ID != 1001 || changes[0].Version != 5 || !changes[0].At.Equal(now) {
		t.Errorf("Changes = %+v, %v", changes, err)
	}
	storagetest.Check(t, s)
	// It goes on from there.
	next, err := s.Commit(t.Context(), app, state, storagetest.Files(app, 6, 0), nil, now, nil)
	if err != nil || next.Mirror != "" {
		t.Errorf("Commit = %+v, %v", next, err)
	}
	if _, err := s.Import(t.Context(), app, nil, storage.Source{Files: oldFiles(5)}, now, storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Import of what is published = %v, want ErrConflict", err)
	}
}

// Whatever goes wrong in it, an import is not there.
func TestImportIsWhole(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t, temp(t))
	broken := errors.New("broken")
	for name, last := range map[string]storage.OldFile{
		"a read that fails":       {Role: "targets/a", Version: 1, Raw: func(context.Context) ([]byte, error) { return nil, broken }},
		"a version that is there": {Role: tuf.RoleRoot, Version: 5, Raw: func(context.Context) ([]byte, error) { return []byte("{}"), nil }},
		"a role that is none":     {Role: "targets/../a", Version: 1, Raw: func(context.Context) ([]byte, error) { return []byte("{}"), nil }},
		"an empty file":           {Role: "targets/a", Version: 1, Raw: func(context.Context) ([]byte, error) { return nil, nil }},
	} {
		if _, err := s.Import(t.Context(), app, nil, storage.Source{Files: append(oldFiles(5), last)}, storagetest.Start, storage.Actor{}); err == nil {
			t.Errorf("%s: imported", name)
		}
		if _, err := s.Current(t.Context(), app); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: Current = %v, want ErrNotFound", name, err)
		}
	}
	if _, err := s.Import(t.Context(), app, nil, storage.Source{Files: oldFiles(1)}, storagetest.Start, storage.Actor{}); err != nil {
		t.Errorf("an honest import afterwards: %v", err)
	}
	storagetest.Check(t, s)
}

func TestMirror(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t, temp(t))
	const service = "https://old.example"
	state, err := s.Import(t.Context(), app, nil, storage.Source{Files: oldFiles(2), Mirror: service}, storagetest.Start, storage.Actor{})
	if err != nil || state.Mirror != service {
		t.Fatalf("Import = %+v, %v", state, err)
	}
	late := storagetest.Start.AddDate(100, 0, 0)
	if guns, err := s.Expiring(t.Context(), late, time.Time{}, 0); err != nil || len(guns) != 0 {
		t.Errorf("Expiring = %v, %v: nobody renews a copy here", guns, err)
	}
	newer := slices.DeleteFunc(oldFiles(3), func(f storage.OldFile) bool { return f.Version < 3 })
	if _, err := s.Import(t.Context(), app, nil, storage.Source{Files: newer, Mirror: service}, storagetest.Start, storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Import without a base = %v, want ErrConflict", err)
	}
	next, err := s.Import(t.Context(), app, state, storage.Source{Files: newer, Mirror: service}, storagetest.Start, storage.Actor{})
	if err != nil || next.Mirror != service || next.Roles[tuf.RoleTimestamp].Version != 3 || next.Incarnation != state.Incarnation {
		t.Fatalf("Import of what is new = %+v, %v", next, err)
	}
	if err := s.Release(t.Context(), state, storagetest.Start, storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Release of an old state = %v, want ErrConflict", err)
	}
	if err := s.Release(t.Context(), next, storagetest.Start, storage.Actor{}); err != nil {
		t.Fatal(err)
	}
	free, err := s.Current(t.Context(), app)
	if err != nil || free.Mirror != "" || free.Seq <= next.Seq {
		t.Errorf("Current = %+v, %v: it is nobody's copy any more, and servers hear of it", free, err)
	}
	if guns, err := s.Expiring(t.Context(), late, time.Time{}, 0); err != nil || !slices.Equal(guns, []tuf.GUN{app}) {
		t.Errorf("Expiring = %v, %v", guns, err)
	}
	storagetest.Check(t, s)
}
