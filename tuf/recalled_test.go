package tuf_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// What a set is recalled as is what Recall makes of its files.
func TestSetRecalled(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	for range 3 {
		repo.Publish(t, tuf.AddTarget{Target: tuftest.Target("1.0")}, tuf.AddTarget{Target: tuftest.Target("2.0")})
		set, err := tuftest.Walk(past, repo.Files(), repo.Now())
		if err != nil {
			t.Fatal(err)
		}
		want := repo.Trusted(t)
		got, ok := set.Recalled()
		if !ok || got.GUN() != gun || !bytes.Equal(got.Root().Raw, want.Root().Raw) {
			t.Fatalf("Recalled() = %v, %v", got, ok)
		}
		same := func(a, b tuf.File) bool {
			return a.Role == b.Role && a.Version == b.Version && bytes.Equal(a.Raw, b.Raw)
		}
		if !slices.EqualFunc(got.Files(), want.Files(), same) {
			t.Error("other files are recalled")
		}
		for _, f := range want.Files() {
			a, aok := got.Info(f.Role)
			b, bok := want.Info(f.Role)
			if aok != bok || a.SHA256 != b.SHA256 || !slices.Equal(a.Signers, b.Signers) || got.Floor(f.Role) != want.Floor(f.Role) {
				t.Errorf("%s is recalled as %v, %v above %d; want %v, %v above %d", f.Role, a, aok, got.Floor(f.Role), b, bok, want.Floor(f.Role))
			}
		}
		past = got
	}

	// What is not delegated any more has no floor, as Recall would have none.
	repo.Publish(t, tuf.RemoveDelegation{Name: tuf.RoleReleases})
	set, err := tuftest.Walk(past, repo.Files(), repo.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := set.Recalled(); !ok || p.Floor(tuf.RoleReleases) != 0 {
		t.Errorf("a removed delegation has the floor %d, %v", p.Floor(tuf.RoleReleases), ok)
	}
}

// A set that could not use a file does not know what that says.
func TestSetRecalledIsNotAll(t *testing.T) {
	t.Parallel()
	repo := released(t)
	files := repo.Forge(t, tuf.RoleReleases, func(p tuftest.Object) { p["expires"] = repo.Now().Add(-1).Format(time.RFC3339Nano) })
	set, err := tuftest.Walk(nil, files, repo.Now())
	if err != nil || len(set.Unusable()) != 1 {
		t.Fatalf("Walk: %v; want one file that is unusable", err)
	}
	if _, ok := set.Recalled(); ok {
		t.Error("a file that was not read counts as read")
	}
}

// What was recalled while it was fresh is judged by the time of the draft.
func TestReceiveOnWhatHasLapsedSince(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Lifetime(tuf.RoleTargets, time.Hour))
	repo.Tag(t, "1.0")
	past := repo.Trusted(t)
	for after, want := range map[time.Duration]bool{0: false, 2 * time.Hour: true} {
		d := tuf.Receive(gun, past, nil, tuf.Options{Now: repo.Now().Add(after)})
		if err := d.Apply(tuf.RemoveTarget{Role: tuf.RoleTargets, Name: "of no such name"}); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(d.Changed(), tuf.RoleTargets); got != want {
			t.Errorf("after %v targets are to be signed: %v, want %v", after, got, want)
		}
	}
}
