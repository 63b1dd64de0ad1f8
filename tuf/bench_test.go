package tuf_test

import (
	"fmt"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// tagged is a repository of n tags.
func tagged(b *testing.B, n int) *tuftest.Repo {
	b.Helper()
	repo := tuftest.New(b, gun)
	files := repo.Forge(b, tuf.RoleTargets, func(p tuftest.Object) {
		for i := range n {
			target := tuftest.Describe(fmt.Append(nil, i))
			delete(tuftest.At(target, "hashes"), "sha512") // docker signs one digest
			tuftest.At(p, "targets")[fmt.Sprintf("v1.%d", i)] = target
		}
	})
	repo.Serve(list(files)...)
	return repo
}

// A cold update of a repository of 50,000 tags: everything is read, decoded
// and verified.
func BenchmarkUpdate50k(b *testing.B) {
	repo := tagged(b, 50_000)
	files, now := repo.Files(), repo.Now()
	b.SetBytes(int64(len(files.Current[tuf.RoleTargets])))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tuftest.Walk(nil, files, now); err != nil {
			b.Fatal(err)
		}
	}
}

// A warm update of it, and one lookup.
func BenchmarkWarmUpdate50k(b *testing.B) {
	repo := tagged(b, 50_000)
	files, now := repo.Files(), repo.Now()
	past := repo.Trusted(b)
	b.ReportAllocs()
	for b.Loop() {
		s, err := tuftest.Walk(past, files, now)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Lookup("v1.4999"); err != nil {
			b.Fatal(err)
		}
	}
}

// A tag more in it: edit, sign, write.
func BenchmarkPublish50k(b *testing.B) {
	repo := tagged(b, 50_000)
	past, ring := repo.Trusted(b), repo.Ring()
	b.ReportAllocs()
	for b.Loop() {
		d := past.Draft()
		if err := d.Apply(tuf.AddTarget{Target: tuftest.Target("latest")}); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Sign(b.Context(), ring, tuf.SignOptions{Now: repo.Now()}); err != nil {
			b.Fatal(err)
		}
	}
}

// A thousand tags more in one go.
func BenchmarkAddThousand(b *testing.B) {
	repo := tagged(b, 50_000)
	past := repo.Trusted(b)
	var changes []tuf.Change
	for i := range 1000 {
		changes = append(changes, tuf.AddTarget{Target: tuftest.Target(fmt.Sprint("new", i))})
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := past.Draft().Apply(changes...); err != nil {
			b.Fatal(err)
		}
	}
}

// A list of it.
func BenchmarkTargets50k(b *testing.B) {
	repo := tagged(b, 50_000)
	s, err := tuftest.Walk(nil, repo.Files(), repo.Now())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range s.Targets(tuf.RoleTargets) {
			n++
		}
		if n != 50_000 {
			b.Fatalf("%d targets", n)
		}
	}
}
