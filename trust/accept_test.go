package trust

import (
	"context"
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

// A machine that begins with the root of a backup refuses a first root that a
// server shows it; what it has already stays.
func TestBegin(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "old")
	first := newClient(t, s)
	first.update(t)
	past, err := first.Local()
	if err != nil {
		t.Fatal(err)
	}
	honest, deceived := newClient(t, s), newClient(t, s)
	for _, c := range []*client{honest, deceived} {
		if began, err := c.Begin(past.Root()); !began || err != nil {
			t.Fatalf("Begin = %t, %v", began, err)
		}
		if began, err := c.Begin(past.Root()); began || err != nil {
			t.Errorf("Begin again = %t, %v, want nothing done", began, err)
		}
	}
	if _, err := Lookup(honest.update(t), "old"); err != nil {
		t.Error(err)
	}
	bad := past.Root()
	bad.Raw = []byte("{}")
	if began, err := newClient(t, s).Begin(bad); began || err == nil {
		t.Errorf("Begin with no root = %t, %v", began, err)
	}
	s.set(func() { delete(s.repos, app); delete(s.keys, app) })
	publisher(t, s, "new")
	_, err = deceived.Update(t.Context())
	wantErr(t, "Update with another root than that of the backup", err, tuf.ErrRoot)

	// who gives the old root up does not get it back from the backup
	if err := first.GiveUp(nil); err != nil {
		t.Fatal(err)
	}
	if began, err := first.Begin(past.Root()); began || err != nil {
		t.Errorf("Begin with a root that was given up = %t, %v", began, err)
	}
	first.update(t)
}

// The root of a backup was published by somebody: a server that has nothing of
// the repository has lost it, or hides it, and who accepts another root has given
// that one up.
func TestAttackDeletedAfterRestore(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "old")
	first := newClient(t, s)
	first.update(t)
	past, err := first.Local()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, s)
	if began, err := c.Begin(past.Root()); !began || err != nil {
		t.Fatalf("Begin = %t, %v", began, err)
	}
	if published, err := c.Published(); !published || err != nil {
		t.Errorf("Published = %t, %v", published, err)
	}
	old := s.repos[app]
	s.set(func() { delete(s.repos, app); delete(s.keys, app) })
	for what, look := range map[string]func(context.Context) (*tuf.Set, error){"Update": c.Update, "Look": c.Look} {
		_, err = look(t.Context())
		wantErr(t, what+" of a deleted repository", err, ErrGone)
	}
	publisher(t, s, "new")
	set, err := c.Afresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Accept(set, nil); err != nil {
		t.Fatal(err)
	}
	c.update(t)
	if err := c.c.Dir.Forget(app); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.repos[app] = old })
	_, err = c.Update(t.Context())
	wantErr(t, "Update to the root that was given up", err, tuf.ErrPin)
}
