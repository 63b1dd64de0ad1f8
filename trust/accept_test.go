package trust

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

func TestAccept(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "old")
	var met []tuf.GUN
	c := newClient(t, s, func(conf *Config) { conf.Met = func(set *tuf.Set) { met = append(met, set.GUN()) } })
	if past, err := c.Local(); past != nil || err != nil {
		t.Errorf("Local of nothing = %v, %v", past, err)
	}
	c.update(t)
	c.update(t)
	if len(met) != 1 {
		t.Errorf("Met was called %d times, want once", len(met))
	}
	was, err := c.Local()
	if err != nil || was.Root().Version != 1 {
		t.Fatalf("Local = %v, %v", was, err)
	}
	s.set(func() { delete(s.repos, app); delete(s.keys, app) })
	publisher(t, s, "new")
	_, err = c.Update(t.Context())
	wantErr(t, "Update with another root", err, tuf.ErrRoot)
	before := tree(t, c.dir.Path())

	set, err := c.Afresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, c.dir.Path())); diff != "" {
		t.Errorf("Afresh changed files:\n%s", diff)
	}
	if err := Open("registry.example/other", c.c).Accept(set, nil); !errors.Is(err, ErrName) {
		t.Errorf("Accept of another repository's set = %v, want ErrName", err)
	}
	if err := c.Accept(set, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(c.update(t), "new"); err != nil {
		t.Error(err)
	}
	if len(met) != 1 {
		t.Errorf("Met was called %d times, want once", len(met))
	}
}
