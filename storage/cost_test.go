package storage_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// history publishes a list of that many tags again and again, a tag moved each
// time, and returns what the versions cost: their bytes, each compressed for
// itself, and as they lie in the database after pruning.
func history(t testing.TB, tags int, versions int64) (plain, whole, stored int64) {
	t.Helper()
	ctx := t.Context()
	s, db := openStore(t, temp(t))
	var base *storage.State
	var err error
	for v := int64(1); v <= versions; v++ {
		f := storagetest.Listing(tags, v, 1)
		plain += int64(len(f.Raw))
		if base, err = s.Commit(ctx, app, base, []storage.NewFile{f}, nil, storagetest.Start, nil); err != nil {
			t.Fatalf("Commit = %v", err)
		}
	}
	size := func() (n int64) {
		if err := db.SQL().QueryRowContext(ctx, "SELECT SUM(LENGTH(data)) FROM blobs").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	whole = size()
	if err := s.Prune(ctx, storagetest.Start.Add(2*time.Hour)); err != nil {
		t.Fatalf("Prune = %v", err)
	}
	storagetest.Check(t, s)
	for _, v := range []int64{1, 2, versions / 2, versions - 1} {
		if raw, _, err := s.Version(ctx, app, tuf.RoleTargets, v); err != nil || string(raw) != string(storagetest.Listing(tags, v, 1).Raw) {
			t.Errorf("Version(%d) = %d bytes, %v", v, len(raw), err)
		}
	}
	return plain, whole, size()
}

// The history of a busy repository costs at most a tenth of storing each
// version whole (of the compressed sizes, that is).
func TestHistoryIsCheap(t *testing.T) {
	t.Parallel()
	plain, whole, stored := history(t, 1000, 70)
	t.Logf("70 versions of 1000 tags: %d kB, %d kB compressed, %d kB stored", plain/1000, whole/1000, stored/1000)
	if stored*10 > whole {
		t.Errorf("stored %d bytes, want at most a tenth of %d", stored, whole)
	}
}

func BenchmarkHistory(b *testing.B) {
	for b.Loop() {
		plain, whole, stored := history(b, 10_000, 100)
		b.ReportMetric(float64(plain)/100e3, "kB/version")
		b.ReportMetric(float64(whole)/100e3, "kB-compressed/version")
		b.ReportMetric(float64(stored)/100e3, "kB-stored/version")
	}
}

// A commit without and with its entry in the audit trail.
func BenchmarkCommit(b *testing.B) {
	for name, by := range map[string]*storage.Actor{"renewal": nil, "publish": {Subject: "alice", From: "192.0.2.1"}} {
		b.Run(name, func(b *testing.B) {
			s, _ := openStore(b, temp(b))
			var base *storage.State
			var err error
			v := int64(0)
			for b.Loop() {
				v++
				if base, err = s.Commit(b.Context(), app, base, storagetest.Files(app, v, 0), nil, storagetest.Start, by); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCurrent(b *testing.B) {
	s, _ := openStore(b, temp(b))
	if _, err := s.Commit(b.Context(), app, nil, storagetest.Files(app, 1, 0), nil, storagetest.Start, nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Current(b.Context(), app); err != nil {
			b.Fatal(err)
		}
	}
}

// Eight readers at a time.
func BenchmarkCurrentParallel(b *testing.B) {
	s, _ := openStore(b, temp(b))
	if _, err := s.Commit(b.Context(), app, nil, storagetest.Files(app, 1, 0), nil, storagetest.Start, nil); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(4)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := s.Current(b.Context(), app); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Reading a file: of a few hundred bytes, of a megabyte, and of a megabyte
// that has to be put together along the longest chain.
func BenchmarkBlob(b *testing.B) {
	s, _ := openStore(b, temp(b))
	var base *storage.State
	var err error
	for v := int64(1); v <= 40; v++ {
		files := []storage.NewFile{storagetest.Listing(10_000, v, 1), storagetest.File(app, tuf.RoleTimestamp, v, 0)}
		if base, err = s.Commit(b.Context(), app, base, files, nil, storagetest.Start, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Prune(b.Context(), storagetest.Start.Add(2*time.Hour)); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		role    tuf.RoleName
		version int64
	}{{tuf.RoleTimestamp, 40}, {tuf.RoleTargets, 40}, {tuf.RoleTargets, 39}, {tuf.RoleTargets, 1}} {
		b.Run(fmt.Sprintf("%s-%d", c.role, c.version), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.Version(b.Context(), app, c.role, c.version); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
