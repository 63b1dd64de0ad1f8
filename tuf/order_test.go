package tuf_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// attacks.md D1, D2: the walk visits roles in pre-order, children in the order
// in which their parent lists them, each once; a name is then searched breadth
// first, as the stock client does. Whoever delegates decides by that order.
func TestAttackOrderOfDelegations(t *testing.T) {
	t.Parallel()
	order := []tuf.RoleName{
		tuf.RoleTargets, "targets/b", "targets/b/y", "targets/b/y/z", "targets/b/x", "targets/a", "targets/a/w",
	}
	var options []tuftest.Option
	for _, role := range []tuf.RoleName{"targets/b", "targets/a", "targets/b/y", "targets/b/x", "targets/a/w", "targets/b/y/z"} {
		options = append(options, tuftest.Delegation(role))
	}
	repo := tuftest.New(t, gun, options...)
	var tags []tuf.Change
	for role, names := range map[tuf.RoleName][]string{
		tuf.RoleTargets: {"top"},
		"targets/a":     {"a before x", "top"},
		"targets/b":     {"top"},
		"targets/b/x":   {"a before x", "y before x", "x before z"},
		"targets/b/y":   {"y before x"},
		"targets/b/y/z": {"x before z", "w before z"},
		"targets/a/w":   {"w before z"},
	} {
		for _, name := range names {
			tags = append(tags, tuf.AddTarget{Target: tuftest.TargetIn(role, name)})
		}
	}
	repo.Publish(t, tags...)

	files := repo.Files()
	u := tuf.Begin(gun, nil, tuf.Options{Now: repo.Now()})
	var asked []tuf.RoleName
	for w, more := u.Next(); more; w, more = u.Next() {
		if w.Role.HoldsTargets() {
			asked = append(asked, w.Role)
		}
		raw, ok := files.Get(w)
		if !ok {
			t.Fatalf("no file for %+v", w)
		}
		if err := u.Add(w, raw); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(order, asked); diff != "" {
		t.Errorf("order of visit (-want +got):\n%s", diff)
	}
	s, err := u.Set()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]tuf.RoleName{
		"top": tuf.RoleTargets, "a before x": "targets/a", "y before x": "targets/b/y",
		"x before z": "targets/b/x", "w before z": "targets/a/w",
	} {
		if got, err := s.LookupTree(name); err != nil || got.Role != want {
			t.Errorf("LookupTree(%q) = %s, %v; want that of %s", name, got.Role, err, want)
		}
	}
	// Of several roles that are asked for, the first one wins, and leaves the
	// subtrees of the others to them.
	if got, err := s.LookupTree("top", "targets/a", tuf.RoleTargets); err != nil || got.Role != "targets/a" {
		t.Errorf("LookupTree(top, a first) = %s, %v", got.Role, err)
	}
	if got, err := s.LookupTree("y before x", tuf.RoleTargets, "targets/b"); err != nil || got.Role != "targets/b/y" {
		t.Errorf("LookupTree(y before x, b last) = %s, %v", got.Role, err)
	}
	if got, err := s.LookupTree("y before x", "targets/a"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("LookupTree below targets/a = %s, %v; want ErrNoTarget", got.Role, err)
	}
}
