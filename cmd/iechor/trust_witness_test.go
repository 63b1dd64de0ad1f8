package main

import (
	"errors"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A file that nobody signed is signed again only as it was shown.
func TestAttackFileSwappedBeforeWitness(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, "registry.example/app", tuftest.Delegation(tuf.RoleReleases, ""))
	repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1")})
	unsigned := func(expires string) *tuf.Set {
		files := repo.Forge(t, tuf.RoleReleases, func(p tuftest.Object) { p["expires"] = expires }, tuftest.Key("stranger"))
		set, err := tuftest.Walk(nil, files, repo.Now())
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	shown, swapped := unsigned("2036-01-01T00:00:00Z"), unsigned("2036-01-02T00:00:00Z")
	raw, ok := unsignedFile(shown, tuf.RoleReleases)
	if !ok {
		t.Fatal("the file does not count as unsigned")
	}
	plan := resign([]tuf.RoleName{tuf.RoleReleases}, map[tuf.RoleName][]byte{tuf.RoleReleases: raw})
	if changes, err := plan(shown); err != nil || len(changes) != 1 {
		t.Errorf("what was shown = %v, %v; want it signed again", changes, err)
	}
	if _, err := plan(swapped); !errors.Is(err, errSwapped) {
		t.Errorf("another file = %v, want errSwapped", err)
	}
	if changes, err := plan(repo.Set(t)); err != nil || len(changes) != 1 {
		t.Errorf("the owner's own file = %v, %v; want it signed again", changes, err)
	}
}
