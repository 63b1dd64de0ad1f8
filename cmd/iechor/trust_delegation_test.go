package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func TestAfterAndBetween(t *testing.T) {
	t.Parallel()
	a, b, c := tuftest.Key("a").PublicKey(), tuftest.Key("b").PublicKey(), tuftest.Key("c").PublicKey()
	was := tuf.NewRole("targets/x", 1, a, b)
	was.Paths = []string{"v", "w"}
	is := after(was, tuf.EditDelegation{
		AddKeys: []tuf.PublicKey{c, a}, RemoveKeys: []tuf.CanonicalID{b.CanonicalID()}, Threshold: 2,
		AddPaths: []string{"n"}, RemovePaths: []string{"w"},
	})
	want := tuf.NewRole("targets/x", 2, a, c)
	want.Paths = []string{"v", "n"}
	if diff := cmp.Diff(want, is); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(is, after(was, between(was, is))); diff != "" {
		t.Errorf("after what is between (-want +got):\n%s", diff)
	}
	if len(was.Keys) != 2 || len(was.Paths) != 2 {
		t.Errorf("the role itself was changed: %v", was)
	}
	cleared := after(was, tuf.EditDelegation{ClearPaths: true})
	if diff := cmp.Diff([]string(nil), cleared.Paths, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("after ClearPaths (-want +got):\n%s", diff)
	}
}

func TestFew(t *testing.T) {
	t.Parallel()
	if got := few([]string{"1", "a\x1b[31m"}); got != "1, a\ufffd[31m" {
		t.Errorf("few = %q", got)
	}
	many := few(strings.Split(strings.Repeat("x ", 25), " ")[:25])
	if !strings.HasSuffix(many, " and 5 more") || strings.Count(many, "x") != 20 {
		t.Errorf("few of 25 = %q", many)
	}
}

// What lossOf foretells is what consumers then see (attacks.md D10).
func TestLossIsWhatHappens(t *testing.T) {
	t.Parallel()
	other := tuftest.Key("other").PublicKey()
	both := func(role tuf.RoleName, names ...string) (changes []tuf.Change) {
		for _, n := range names {
			changes = append(changes, tuf.AddTarget{Target: tuftest.TargetIn(role, n)})
		}
		return changes
	}
	for _, test := range []struct {
		name   string
		change func(releases tuf.Role) tuf.Change
		keys   bool // those of the role are at hand
		want   loss
	}{
		{"another key", func(tuf.Role) tuf.Change {
			return tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{other}}
		}, false, loss{}},
		{"the only key", func(r tuf.Role) tuf.Change {
			return tuf.EditDelegation{Role: tuf.RoleReleases, RemoveKeys: []tuf.CanonicalID{r.Keys[0].CanonicalID()}}
		}, true, loss{why: "has 0 of the 1 keys that must sign", gone: []string{"2", "10"}, other: []string{"both"}}},
		{"one key for another", func(r tuf.Role) tuf.Change {
			return tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{other}, RemoveKeys: []tuf.CanonicalID{r.Keys[0].CanonicalID()}}
		}, false, loss{why: "has 0 of the 1 signatures that it needs", gone: []string{"2", "10"}, other: []string{"both"}}},
		{"a threshold that nobody meets", func(tuf.Role) tuf.Change {
			return tuf.EditDelegation{Role: tuf.RoleReleases, Threshold: 2}
		}, true, loss{why: "has 1 of the 2 keys that must sign", gone: []string{"2", "10"}, other: []string{"both"}}},
		{"a threshold and a key, signed again", func(tuf.Role) tuf.Change {
			return tuf.EditDelegation{Role: tuf.RoleReleases, Threshold: 2, AddKeys: []tuf.PublicKey{other}}
		}, true, loss{}},
		{"fewer paths", func(tuf.Role) tuf.Change {
			return tuf.EditDelegation{Role: tuf.RoleReleases, ClearPaths: true, AddPaths: []string{"1", "both"}}
		}, false, loss{gone: []string{"2"}}},
		{"the role", func(tuf.Role) tuf.Change { return tuf.RemoveDelegation{Name: tuf.RoleReleases} }, true,
			loss{dropped: true, gone: []string{"2", "10"}, other: []string{"both"}}},
		{"another role", func(tuf.Role) tuf.Change { return tuf.RemoveDelegation{Name: "targets/alice"} }, true,
			loss{role: "targets/alice", dropped: true, voided: []string{"2", "old"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			changes := both(tuf.RoleReleases, "10", "2", "both", "same")
			changes = append(changes, both("targets/alice", "2", "old")...)
			changes = append(changes, both(tuf.RoleTargets, "same", "plain")...)
			differs := tuftest.Target("elsewhere")
			differs.Name = "both"
			changes = append(changes, tuf.AddTarget{Target: differs})
			repo := tuftest.New(t, "registry.example/app", tuftest.Delegation(tuf.RoleReleases), tuftest.Delegation("targets/alice"), tuftest.Changes(changes...))
			set := repo.Set(t)
			releases := repo.Role(t, tuf.RoleReleases)
			c := test.change(releases)
			role := repo.Role(t, delegationOf(c))
			has := func(tuf.CanonicalID) (bool, error) { return test.keys, nil }
			got, again, err := lossOf(set, role, c, has)
			if err != nil {
				t.Fatal(err)
			}
			if test.want.role == "" {
				test.want.role = tuf.RoleReleases
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(loss{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("lossOf (-want +got):\n%s", diff)
			}
			edits := []tuf.Change{c}
			if again {
				edits = append(edits, tuf.Resign{Role: role.Name})
			}
			repo.Publish(t, edits...)
			var gone []string
			for _, tag := range releasedTags(set) {
				if _, err := repo.Set(t).Lookup(tag, tuf.RoleReleases, tuf.RoleTargets); errors.Is(err, tuf.ErrNoTarget) {
					gone = append(gone, tag)
				}
			}
			if !slices.Equal(gone, got.gone) {
				t.Errorf("%q are gone, and %q were foretold", gone, got.gone)
			}
			if !shows(repo.Set(t), edits) {
				t.Error("what was published does not show")
			}
		})
	}
}

func TestShows(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, "registry.example/app", tuftest.Delegation(tuf.RoleReleases))
	repo.Tag(t, "1")
	set := repo.Set(t)
	one, two := tuf.AddTarget{Target: tuftest.Target("1")}, tuf.AddTarget{Target: tuftest.Target("2")}
	longer := one
	longer.Target.Length++
	for _, test := range []struct {
		name    string
		changes []tuf.Change
		want    bool
	}{
		{"nothing", nil, true},
		{"a tag", []tuf.Change{one}, true},
		{"a tag that is not there", []tuf.Change{one, two}, false},
		{"a tag that is another one", []tuf.Change{longer}, false},
		{"a tag that was set twice", []tuf.Change{longer, one}, true},
		{"a tag that came and went", []tuf.Change{two, tuf.RemoveTarget{Name: "2"}}, true},
		{"a tag that was removed, and is there", []tuf.Change{tuf.RemoveTarget{Name: "1"}}, false},
		{"a role", []tuf.Change{tuf.EditDelegation{Role: tuf.RoleReleases}}, true},
		{"a role that is not there", []tuf.Change{tuf.EditDelegation{Role: "targets/alice"}}, false},
		{"a role that was removed, and is there", []tuf.Change{tuf.RemoveDelegation{Name: tuf.RoleReleases}}, false},
	} {
		if got := shows(set, test.changes); got != test.want {
			t.Errorf("%s: shows = %v, want %v", test.name, got, test.want)
		}
	}
}

// Staged changes count together: what one takes, another may give back.
func TestLossesOf(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, "registry.example/app", tuftest.Delegation(tuf.RoleReleases),
		tuftest.Changes(tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1")}))
	set := repo.Set(t)
	key := repo.Role(t, tuf.RoleReleases).Keys[0]
	ids := []tuf.CanonicalID{key.CanonicalID()}
	take := tuf.EditDelegation{Role: tuf.RoleReleases, RemoveKeys: ids}
	give := tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{key.PublicKey}}
	swap := tuf.EditDelegation{Role: tuf.RoleReleases, RemoveKeys: ids, AddKeys: []tuf.PublicKey{tuftest.Key("new").PublicKey()}}
	for _, test := range []struct {
		name    string
		changes []tuf.Change
		gone    []string
	}{
		{"taken", []tuf.Change{take}, []string{"1"}},
		{"taken and given back", []tuf.Change{take, give}, nil},
		{"purged", []tuf.Change{tuf.PurgeKeys{Keys: ids}}, []string{"1"}},
		{"replaced", []tuf.Change{swap}, []string{"1"}},
		{"replaced and witnessed", []tuf.Change{swap, tuf.Resign{Role: tuf.RoleReleases}}, nil},
		{"removed", []tuf.Change{tuf.RemoveDelegation{Name: tuf.RoleReleases}}, []string{"1"}},
		{"a new role", []tuf.Change{tuf.EditDelegation{Role: "targets/alice", AddPaths: []string{""}}}, nil},
	} {
		var gone []string
		for _, l := range lossesOf(set, test.changes) {
			gone = append(gone, l.gone...)
		}
		if !slices.Equal(gone, test.gone) {
			t.Errorf("%s: %q are gone, want %q", test.name, gone, test.gone)
		}
	}
}
