package tuf_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// delegate edits the payload of a targets file: a role of one key and the
// given paths.
func delegate(p tuftest.Object, role tuf.RoleName, key tuf.PublicKey, paths ...string) {
	d := tuftest.At(p, "delegations")
	tuftest.At(d, "keys")[string(key.ID())] = tuftest.KeyObject(key)
	roles, _ := d["roles"].([]any)
	d["roles"] = append(roles, tuftest.Object{
		"name": string(role), "keyids": []string{string(key.ID())}, "threshold": 1, "paths": paths,
	})
}

// attacks.md D11, D2, D3, N1: a role may only delegate to its own children. So
// there are no cycles, no diamonds, and no role named like a base role.
func TestAttackDelegationName(t *testing.T) {
	t.Parallel()
	repo := released(t)
	key := tuftest.Key("child").PublicKey()
	for from, names := range map[tuf.RoleName][]string{
		tuf.RoleTargets: {
			"", "root", "snapshot", "timestamp", "targets", "targets/", "/targets/a", "targets//a", "a", "releases",
			"targets/a/b", "targets/releases/nightly", "targets/.", "targets/..", "targets/../root", "targets/a/../b",
			"targets/A", "targets/ä", "targets/a b", "targets/a?b", "targets/a#b", "targets/a\\b", "targets/a%2fb",
			"targets/a.json", "targets/*", "targets/" + strings.Repeat("a", 248), "TARGETS/a", "targets/releases",
		},
		tuf.RoleReleases: {
			"targets", "targets/releases", "targets/other", "targets/releases/a/b", "targets/releases2", "targets/releases/..",
		},
	} {
		for _, name := range names {
			files := repo.Forge(t, from, func(p tuftest.Object) { delegate(p, tuf.RoleName(name), key, "") })
			_, err := tuftest.Walk(repo.Trusted(t), files, repo.Now())
			if !errors.Is(err, tuf.ErrMalformed) || as[*tuf.RoleError](t, err).Role != from {
				t.Errorf("%s delegates to %q: %v, want ErrMalformed", from, name, err)
			}
			// attacks.md D11: nor is such a thing published.
			edit := tuf.EditDelegation{Role: tuf.RoleName(name), AddKeys: []tuf.PublicKey{key}, MustCreate: true}
			if err := repo.Draft(t).Apply(edit); err == nil && from == tuf.RoleTargets && name != "targets/releases/nightly" {
				t.Errorf("delegation to %q was drafted", name)
			}
		}
	}
}

// attacks.md N1: names that could leave a folder or a URL segment.
func TestNames(t *testing.T) {
	t.Parallel()
	for name, good := range map[tuf.RoleName]bool{
		"root": true, "targets": true, "snapshot": true, "timestamp": true, "targets/a": true, "targets/a-b_c/0": true,
		"": false, "Root": false, "targets/": false, "targets/A": false, "targets/..": false, "targets/a/": false,
		"targets/a\x00": false, "targets/a.b": false, "targets/a:b": false, "mirrors": false,
	} {
		if name.Valid() != good {
			t.Errorf("RoleName(%q).Valid() = %v", name, !good)
		}
	}
	for name, good := range map[tuf.GUN]bool{
		"docker.io/library/alpine": true, "localhost:5000/a": true, "a": true,
		"": false, "/a": false, "a/": false, "a//b": false, "a/../b": false, "./a": false, "a/_trust/b": false, "a b": false,
		"a\x00": false, "a\\b": false, "a%2fb": false, "a?b": false, "a#b": false, "a*": false, "ä": false, "a\x7f": false,
		tuf.GUN(strings.Repeat("a", 256)): false,
	} {
		if name.Valid() != good {
			t.Errorf("GUN(%q).Valid() = %v", name, !good)
		}
	}
}

// attacks.md D5, W2: a role vouches only for names within its own paths and
// those of every role above it. Paths are prefixes; "*" is a character.
func TestAttackTargetOutsidePaths(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun,
		tuftest.Delegation("targets/a", "v1.", "lit*"),
		tuftest.Delegation("targets/a/b", "v1.2", "v1.3", "lit*x"),
		tuftest.Delegation("targets/none", "z"),
	)
	fill := func(p tuftest.Object) {
		for _, n := range []string{"v1.0", "v1.2.1", "v1.30", "v2.0", "lit", "lit*", "lit*x1", "literal", ""} {
			if n != "" {
				tuftest.At(p, "targets")[n] = tuftest.Describe([]byte(n))
			}
		}
	}
	publish := func(change ...tuf.Change) { repo.Publish(t, change...) }
	publish(tuf.AddTarget{Target: tuftest.TargetIn("targets/a", "v1.0")}, tuf.AddTarget{Target: tuftest.TargetIn("targets/a/b", "v1.2.1")},
		tuf.AddTarget{Target: tuftest.TargetIn("targets/none", "z")})
	files := repo.Swap(t, map[tuf.RoleName][]byte{
		"targets/a": repo.Forge(t, "targets/a", func(p tuftest.Object) {
			fill(p)
			// The parent widens what it was given.
			d := tuftest.At(p, "delegations")
			d["roles"].([]any)[0].(tuftest.Object)["paths"] = []string{"v1.2", "v1.3", "lit*x", "", "v", "v2"}
		}).Current["targets/a"],
		"targets/a/b":  repo.Forge(t, "targets/a/b", fill).Current["targets/a/b"],
		"targets/none": repo.Forge(t, "targets/none", fill).Current["targets/none"],
	})
	s := accepted(t, repo.Trusted(t), files, repo.Now())
	for role, want := range map[tuf.RoleName][]string{
		"targets/a":    {"lit*", "lit*x1", "v1.0", "v1.2.1", "v1.30"},
		"targets/a/b":  {"lit*x1", "v1.2.1", "v1.30"},
		"targets/none": {"z"},
	} {
		var got []string
		for target := range s.Targets(role) {
			got = append(got, target.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("targets of %s (-want +got):\n%s", role, diff)
		}
	}
	if got, err := s.LookupTree("v2.0"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("LookupTree(v2.0) = %v, %v; nobody may vouch for it", got, err)
	}
	if got, err := s.LookupTree("v1.30"); err != nil || got.Role != "targets/a" {
		t.Errorf("LookupTree(v1.30) = %v, %v; want that of targets/a", got, err)
	}
	if _, err := s.Lookup("v1.2.1"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("Lookup without roles reads more than targets: %v", err)
	}
	// A role without paths can vouch for nothing (notary-protocol 2.3).
	files = repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
		for _, r := range tuftest.At(p, "delegations")["roles"].([]any) {
			delete(r.(tuftest.Object), "paths")
		}
	})
	s = accepted(t, repo.Trusted(t), files, repo.Now())
	if _, err := s.LookupTree("z"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("LookupTree in roles without paths = %v", err)
	}
}

// attacks.md D6: a delegation that the snapshot does not list is not used.
func TestAttackDelegationNotInSnapshot(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	thief := tuftest.Key("thief")
	files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) { delegate(p, "targets/evil", thief.PublicKey(), "") })
	files.Current["targets/evil"] = tuftest.Reseal(t, files.Current[tuf.RoleTargets], nil, thief)
	s := accepted(t, repo.Trusted(t), files, repo.Now())
	if got := s.Roles(); slices.Contains(got, "targets/evil") {
		t.Errorf("roles are %v", got)
	}
	// Nor one that it lists and nobody delegates to.
	files = repo.Forge(t, tuf.RoleSnapshot, func(p tuftest.Object) {
		tuftest.At(p, "meta")["targets/evil"] = tuftest.Describe(files.Current["targets/evil"])
	})
	s = accepted(t, repo.Trusted(t), files, repo.Now())
	if got := s.Roles(); len(got) != 4 {
		t.Errorf("roles are %v", got)
	}
}

// attacks.md D7, L8: a wide and a deep graph.
func TestAttackManyDelegations(t *testing.T) {
	t.Parallel()
	var wide, deep []tuftest.Option
	var fillWide, fillDeep []tuf.Change
	name := tuf.RoleTargets
	for i := range 12 {
		w := tuf.RoleName(fmt.Sprintf("targets/r%d", i))
		wide = append(wide, tuftest.Delegation(w))
		fillWide = append(fillWide, tuf.AddTarget{Target: tuftest.TargetIn(w, "x")})
		name += "/d"
		deep = append(deep, tuftest.Delegation(name))
		fillDeep = append(fillDeep, tuf.AddTarget{Target: tuftest.TargetIn(name, "x")})
	}
	for shape, repo := range map[string]*tuftest.Repo{
		"wide": tuftest.New(t, gun, append(wide, tuftest.Changes(fillWide...))...),
		"deep": tuftest.New(t, gun, append(deep, tuftest.Changes(fillDeep...))...),
	} {
		at := func(roles int) error {
			_, _, err := tuftest.WalkWith(nil, repo.Files(), tuf.Options{Now: repo.Now(), Limits: tuf.Limits{Roles: roles}})
			return err
		}
		if err := at(12); err != nil {
			t.Errorf("%s: 12 of 12: %v", shape, err)
		}
		if err := at(11); !errors.Is(err, tuf.ErrLimit) {
			t.Errorf("%s: 12 of 11: %v, want ErrLimit", shape, err)
		}
		// attacks.md L2: and their bytes together.
		_, _, err := tuftest.WalkWith(nil, repo.Files(), tuf.Options{Now: repo.Now(), Limits: tuf.Limits{Total: 6000}})
		if !errors.Is(err, tuf.ErrLimit) {
			t.Errorf("%s: %v, want ErrLimit", shape, err)
		}
	}
}

// attacks.md D8: patterns are prefixes, and a file of very many roles is read
// in linear time.
func TestAttackPathologicalDelegations(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	key := tuftest.Key("child").PublicKey()
	files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
		delegate(p, "targets/a", key, strings.Repeat("a*", 5000)+"b", "(a+)+$")
		d := tuftest.At(p, "delegations")
		roles := d["roles"].([]any)
		for i := range 50_000 {
			roles = append(roles, tuftest.Object{"name": fmt.Sprintf("targets/r%d", i), "keyids": nil, "threshold": 1})
		}
		d["roles"] = roles
	})
	s := accepted(t, nil, files, repo.Now())
	if got := len(s.Delegations(tuf.RoleTargets)); got != 50_001 {
		t.Errorf("%d delegations", got)
	}
}

// attacks.md D10: a delegation that lost its keys; null stays null.
func TestDelegationWithoutKeys(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, keyids := range []any{nil, []string{}} {
		files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
			d := tuftest.At(p, "delegations")
			d["keys"] = tuftest.Object{}
			d["roles"].([]any)[0].(tuftest.Object)["keyids"] = keyids
		})
		shortOf(t, repo, files, tuf.RoleReleases, 0, 1)
	}
	for _, roles := range []any{nil, []any{}} {
		files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) { tuftest.At(p, "delegations")["roles"] = roles })
		s := accepted(t, repo.Trusted(t), files, repo.Now())
		if len(s.Roles()) != 4 || len(s.Unusable()) != 0 {
			t.Errorf("roles %v, unusable %v", s.Roles(), s.Unusable())
		}
	}
}

// Amendment 17: a delegation that was removed and made again for other people
// begins at version 1. For the same people it may not go back.
func TestDelegationMadeAnew(t *testing.T) {
	t.Parallel()
	for label, refused := range map[string]bool{"somebody else": false, string(tuf.RoleReleases): true} {
		repo := released(t)
		repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.1")})
		past := repo.Trusted(t)
		repo.Publish(t, tuf.RemoveDelegation{Name: tuf.RoleReleases})
		repo.Publish(t,
			tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{tuftest.Key(label).PublicKey()}, AddPaths: []string{""}},
			tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "2.0")})
		_, err := tuftest.Walk(past, repo.Files(), repo.Now())
		if errors.Is(err, tuf.ErrRollback) != refused || !refused && err != nil {
			t.Errorf("made anew for %s: %v", label, err)
		}
	}
}
