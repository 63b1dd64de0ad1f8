package trust

import (
	"errors"
	"slices"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

func (c *client) ids(t *testing.T, role tuf.RoleName) []tuf.CanonicalID {
	t.Helper()
	infos, err := c.mem.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []tuf.CanonicalID
	for _, i := range infos {
		if i.Role == string(role) {
			out = append(out, i.ID)
		}
	}
	return out
}

func roleIDs(t *testing.T, set *tuf.Set, role tuf.RoleName) []tuf.CanonicalID {
	t.Helper()
	r, ok := set.Role(role)
	if !ok {
		t.Fatalf("no role %s", role)
	}
	var out []tuf.CanonicalID
	for _, k := range r.Keys {
		out = append(out, k.CanonicalID())
	}
	return out
}

func TestRotate(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	consumer := newClient(t, s)
	consumer.update(t)
	if err := c.Stage(tuf.AddTarget{Target: target("staged")}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		rotation Rotation
		removed  int
	}{
		{Rotation{Role: tuf.RoleTargets}, 1},
		{Rotation{Role: tuf.RoleSnapshot}, 0}, // the server's was not here
		{Rotation{Role: tuf.RoleSnapshot}, 1},
		{Rotation{Role: tuf.RoleSnapshot, Server: true}, 1},
		{Rotation{Role: tuf.RoleTimestamp, Server: true}, 0},
		{Rotation{Role: tuf.RoleRoot}, 0},
		{Rotation{Role: tuf.RoleRoot, Legacy: -1}, 0},
	} {
		role := step.rotation.Role
		was := roleIDs(t, c.update(t), role)
		got, err := c.Rotate(t.Context(), step.rotation)
		if err != nil {
			t.Fatalf("Rotate(%+v): %v", step.rotation, err)
		}
		set := consumer.update(t)
		now := roleIDs(t, set, role)
		if slices.Equal(was, now) || !slices.Equal(now, got.Keys) {
			t.Errorf("Rotate(%+v): keys %v, then %v, reported %v", step.rotation, was, now, got.Keys)
		}
		if len(got.Removed) != step.removed || got.Staged != 1 {
			t.Errorf("Rotate(%+v) = %+v, want %d removed and 1 staged", step.rotation, got, step.removed)
		}
		for _, id := range got.Removed {
			if ok, err := c.c.Keys.Has(t.Context(), id); ok || err != nil {
				t.Errorf("Rotate(%+v): old key %s is still there, %v", step.rotation, id, err)
			}
		}
		if !step.rotation.Server {
			if ok, err := c.c.Keys.Has(t.Context(), now[0]); !ok || err != nil {
				t.Errorf("Rotate(%+v): new key is not here, %v", step.rotation, err)
			}
		}
		c.publish(t, "after-"+string(role)+string(now[0][:8]))
	}
	if got := len(c.ids(t, tuf.RoleRoot)); got != 3 {
		t.Errorf("%d root keys are left, want all 3", got)
	}
}

// A consumer who slept through rotations follows the chain.
func TestRotateChain(t *testing.T) { // R10
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	sleeper := newClient(t, s)
	sleeper.update(t)
	for range 3 {
		if _, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot}); err != nil {
			t.Fatal(err)
		}
	}
	set := sleeper.update(t)
	if info, _ := set.Info(tuf.RoleRoot); info.Version != 4 {
		t.Errorf("root version %d, want 4", info.Version)
	}
	// Legacy keys sign too: one can follow without the roots between.
	if _, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot, Legacy: -1}); err != nil {
		t.Fatal(err)
	}
	if info, _ := sleeper.update(t).Info(tuf.RoleRoot); info.Version != 5 || len(info.Signers) != 1 {
		t.Errorf("root = %+v, want version 5", info)
	}
	if got := countSignatures(t, s.repos[app].files[tuf.RoleRoot].Raw); got != 5 {
		t.Errorf("the root has %d signatures, want those of 5 keys", got)
	}
}

func TestRotateRefused(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	for _, o := range []Rotation{
		{Role: tuf.RoleTimestamp}, {Role: tuf.RoleTargets, Server: true}, {Role: tuf.RoleRoot, Server: true}, {Role: tuf.RoleReleases}, {Role: ""},
	} {
		_, err := c.Rotate(t.Context(), o)
		wantErr(t, "Rotate of "+string(o.Role), err, ErrNotRotatable)
	}
	_, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleTargets, Threshold: 2})
	wantErr(t, "Rotate to fewer keys than the threshold", err, tuf.ErrRole)
	_, err = c.Rotate(t.Context(), Rotation{Role: tuf.RoleTargets, Keys: []tuf.CanonicalID{"none"}})
	wantErr(t, "Rotate to a key that is not here", err, tuf.ErrNoKey)
	_, err = newClient(t, newServer(s.clock)).Rotate(t.Context(), Rotation{Role: tuf.RoleRoot})
	wantErr(t, "Rotate of nothing", err, ErrNotInitialized)
}

// The old key is destroyed only when it is not needed any more.
func TestRotateKeepsOldKeyOnFailure(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	was := c.ids(t, tuf.RoleTargets)
	s.set(func() {
		s.before = func(op string) error {
			if op == "POST" {
				return ErrUnauthorized
			}
			return nil
		}
	})
	_, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleTargets})
	wantErr(t, "Rotate without the right to", err, ErrUnauthorized)
	if ok, err := c.c.Keys.Has(t.Context(), was[0]); !ok || err != nil {
		t.Errorf("the old key is gone, %v", err)
	}
	s.set(func() { s.before = nil })
	c.publish(t, "2")
}

func TestRotateToGivenKeys(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	var ids []tuf.CanonicalID
	for range 3 {
		k, err := keys.Generate(t.Context(), c.mem, keys.P256, keys.Info{Role: string(tuf.RoleRoot)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, k.PublicKey().CanonicalID())
	}
	if _, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot, Keys: ids, Threshold: 2}); err != nil {
		t.Fatal(err)
	}
	r, _ := newClient(t, s).update(t).Role(tuf.RoleRoot)
	if r.Threshold != 2 || len(r.Keys) != 3 {
		t.Errorf("root role = %d of %d keys, want 2 of 3", r.Threshold, len(r.Keys))
	}
	if err := c.mem.Remove(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleTimestamp, Server: true}); err != nil {
		t.Errorf("Rotate with 2 of 3 root keys: %v", err)
	}
	if err := c.mem.Remove(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	_, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleTimestamp, Server: true})
	var missing *tuf.MissingKeys
	if !errors.As(err, &missing) || missing.Have != 1 || missing.Need != 2 {
		t.Errorf("Rotate with 1 of 3 root keys = %v, want MissingKeys 1 of 2", err)
	}
}

// A private key that is still needed is not destroyed.
func TestRotateKeepsNeededKeys(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	old := c.ids(t, tuf.RoleTargets)[0]
	k, err := keys.Generate(t.Context(), c.mem, keys.P256, keys.Info{Role: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	alice := k.PublicKey().CanonicalID()
	got, err := c.Rotate(t.Context(), Rotation{Role: tuf.RoleTargets, Keys: []tuf.CanonicalID{old, alice}})
	if err != nil || len(got.Removed) > 0 {
		t.Errorf("Rotate to the old key and another = %+v, %v, want nothing removed", got, err)
	}
	got, err = c.Rotate(t.Context(), Rotation{Role: tuf.RoleTargets})
	if err != nil || !slices.Equal(got.Removed, []tuf.CanonicalID{old}) {
		t.Errorf("Rotate = %+v, %v, want only %s removed", got, err, old.Short())
	}
	if ok, err := c.c.Keys.Has(t.Context(), alice); !ok || err != nil {
		t.Errorf("a signer's own key was removed, %v", err)
	}
}

func TestWitness(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	first := delegate(t, c, tuf.RoleReleases)
	signInto(t, c, tuf.RoleReleases, "2")
	second := delegate(t, c, tuf.RoleReleases)
	_, err := c.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		return []tuf.Change{tuf.EditDelegation{Role: tuf.RoleReleases, RemoveKeys: []tuf.CanonicalID{first.CanonicalID()}}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	set := c.update(t)
	if len(set.Unusable()) != 1 {
		t.Fatalf("unusable roles: %v, want %s", set.Unusable(), tuf.RoleReleases)
	}
	p, err := c.Publish(t.Context(), witness(tuf.RoleReleases))
	if err != nil || !slices.Contains(p.Files, tuf.RoleReleases) {
		t.Fatalf("Witness = %+v, %v", p, err)
	}
	if _, err := newClient(t, s).Resolve(t.Context(), "2"); err != nil {
		t.Errorf("Resolve after Witness with key %s: %v", second.CanonicalID().Short(), err)
	}
	_, err = c.Publish(t.Context(), witness("targets/nobody"))
	wantErr(t, "Witness of a role that is not known", err, tuf.ErrNoDelegation)
}

func TestDelete(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	c.update(t)
	s.set(func() { s.before = func(string) error { return ErrUnauthorized } })
	wantErr(t, "Delete without the right to", c.Delete(t.Context(), true), ErrUnauthorized)
	if len(metadata(t, c)) == 0 {
		t.Error("a refused Delete removed the local copy")
	}
	s.set(func() { s.before = nil })
	if err := c.Delete(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if got := metadata(t, c); len(got) > 0 || len(s.repos) > 0 {
		t.Errorf("after Delete: %v here, %d there", got, len(s.repos))
	}
	if len(c.ids(t, tuf.RoleRoot)) != 1 {
		t.Error("Delete took the root key along")
	}
	if _, err := c.Init(t.Context(), InitOptions{}); err != nil {
		t.Errorf("Init after Delete: %v", err)
	}
	c.publish(t, "1")
}
