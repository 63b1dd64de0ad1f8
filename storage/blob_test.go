package storage_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// Files of every length are there again as they came, also those that are too
// small to be compressed, and when they were packed.
func TestLengths(t *testing.T) {
	t.Parallel()
	s, err := storage.Open(t.Context(), databasetest.Open(t, databasetest.SQLite(t)))
	if err != nil {
		t.Fatal(err)
	}
	var state *storage.State
	var all [][]byte
	for i, n := range []int{1, 2, 255, 256, 257, 1023, 1024, 1025, 70_000, 900} {
		f := storagetest.File(app, tuf.RoleTargets, int64(i)+1, 0)
		f.Raw = []byte(strings.Repeat("x", n-1) + "y")
		all = append(all, f.Raw)
		files := []storage.NewFile{f, storagetest.File(app, tuf.RoleTimestamp, int64(i)+1, 0)}
		if state, err = s.Commit(t.Context(), app, state, files, nil, storagetest.Start, nil); err != nil {
			t.Fatal(err)
		}
	}
	look := func() {
		t.Helper()
		for _, want := range all {
			got, _, err := s.Blob(t.Context(), app, tuf.RoleTargets, sha256.Sum256(want))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("a file of %d bytes: %v, %d bytes", len(want), err, len(got))
			}
		}
	}
	look()
	if err := s.Prune(t.Context(), storagetest.Start.Add(2*storage.DefaultWhole)); err != nil {
		t.Fatal(err)
	}
	look()
}
