package trust

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// delegate gives the roles to a new key of the client, for all paths.
func delegate(t *testing.T, c *client, roles ...tuf.RoleName) tuf.PublicKey {
	t.Helper()
	s, err := keys.Generate(t.Context(), c.mem, keys.P256, keys.Info{Role: "signer"})
	if err != nil {
		t.Fatal(err)
	}
	k := s.PublicKey()
	_, err = c.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		var changes []tuf.Change
		for _, role := range roles {
			changes = append(changes, tuf.EditDelegation{Role: role, AddKeys: []tuf.PublicKey{k}, AddPaths: []string{""}})
		}
		return changes, nil
	})
	if err != nil {
		t.Fatalf("delegate %v: %v", roles, err)
	}
	return k
}

// signInto publishes tags in one role.
func signInto(t *testing.T, c *client, role tuf.RoleName, tags ...string) {
	t.Helper()
	_, err := c.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		var changes []tuf.Change
		for _, tag := range tags {
			x := target(tag)
			x.Role = role
			changes = append(changes, tuf.AddTarget{Target: x})
		}
		return changes, nil
	})
	if err != nil {
		t.Fatalf("sign %v into %s: %v", tags, role, err)
	}
}

func TestFirstPublish(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s)
	_, err := c.Publish(t.Context(), add("1"))
	wantErr(t, "Publish before Init", err, ErrNotInitialized)
	wantErr(t, "Publish before Init", err, ErrNotSigned)

	made, err := c.Init(t.Context(), InitOptions{})
	if err != nil || !made.NewRoot {
		t.Fatalf("Init = %+v, %v, want a new root key", made, err)
	}
	for _, id := range []tuf.CanonicalID{made.Root, made.Targets} {
		if ok, err := c.c.Keys.Has(t.Context(), id); err != nil || !ok {
			t.Errorf("key %s was not saved: %v", id, err)
		}
	}
	if len(s.repos) > 0 {
		t.Error("Init uploaded something")
	}
	_, err = c.Init(t.Context(), InitOptions{})
	wantErr(t, "Init again", err, ErrInitialized)
	s.seen()
	p := c.publish(t, "1")
	want := Published{Files: []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets}, First: true, Attempts: 1}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("Publish (-want +got):\n%s", diff)
	}
	if _, err := newClient(t, s).Resolve(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	_, err = newClient(t, s).Init(t.Context(), InitOptions{})
	wantErr(t, "Init of a published repository", err, ErrInitialized)

	// The same root key serves the next repository.
	second := Open("registry.example/team/two", c.c)
	again, err := second.Init(t.Context(), InitOptions{})
	if err != nil || again.NewRoot || again.Root != made.Root || again.Targets == made.Targets {
		t.Errorf("Init of a second repository = %+v, %v, want root %s", again, err, made.Root)
	}
}

func TestFirstPublishWithoutChanges(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s)
	if _, err := c.Init(t.Context(), InitOptions{ClientSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	p := c.publish(t)
	want := []tuf.RoleName{tuf.RoleRoot, tuf.RoleSnapshot, tuf.RoleTargets}
	if diff := cmp.Diff(want, p.Files); diff != "" {
		t.Errorf("files of a first publish (-want +got):\n%s", diff)
	}
	newClient(t, s).update(t)
}

// A failure of any kind before the keys are saved leaves nothing behind.
func TestInitIsAtomic(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s)
	for _, op := range []string{"GET root", "KEY snapshot", "KEY timestamp"} {
		s.set(func() {
			s.before = func(o string) error {
				if o == op {
					return ErrUnauthorized
				}
				return nil
			}
		})
		_, err := c.Init(t.Context(), InitOptions{})
		wantErr(t, "Init with a failing "+op, err, ErrUnauthorized)
		infos, err := c.mem.List(t.Context())
		if err != nil || len(infos) > 0 || len(metadata(t, c)) > 0 {
			t.Errorf("after a failing %s: keys %v, files %v, %v", op, infos, metadata(t, c), err)
		}
	}
	s.set(func() { s.before = nil })
	if _, err := c.Init(t.Context(), InitOptions{}); err != nil {
		t.Errorf("Init: %v", err)
	}
}

func TestPublishNothing(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	s.seen()
	p := c.publish(t, "1")
	if len(p.Files) > 0 || p.Attempts > 0 || slices.Contains(s.seen(), "POST") {
		t.Errorf("Publish of what is there = %+v, want no upload", p)
	}
}

func TestRebase(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	a := publisher(t, s, "1")
	b := newClient(t, s, func(c *Config) { c.Keys = a.c.Keys })
	calls := 0
	p, err := a.Publish(t.Context(), func(set *tuf.Set) ([]tuf.Change, error) {
		if calls++; calls == 1 {
			b.publish(t, "other")
		}
		return add("mine")(set)
	})
	if err != nil || p.Attempts != 2 || calls != 2 {
		t.Errorf("Publish against another = %+v, %v after %d plans, want 2 attempts", p, err, calls)
	}
	set := newClient(t, s).update(t)
	for _, tag := range []string{"1", "mine", "other"} {
		if _, err := Lookup(set, tag); err != nil {
			t.Errorf("Lookup(%q): %v", tag, err)
		}
	}
}

func TestRebaseIsBounded(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	s.set(func() {
		s.before = func(op string) error {
			if op == "POST" {
				return ErrConflict
			}
			return nil
		}
	})
	p, err := c.Publish(t.Context(), add("2"))
	wantErr(t, "Publish against conflicts without end", err, ErrConflict)
	if p.Attempts != maxAttempts || len(p.Files) > 0 {
		t.Errorf("Publish = %+v, want %d attempts and no files", p, maxAttempts)
	}
}

func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s)
	if _, err := c.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	once := func() func(string) error {
		done := false
		return func(op string) error {
			if op != "POST" || done {
				return nil
			}
			done = true
			return down(op)
		}
	}
	for _, tag := range []string{"first", "second"} {
		s.set(func() { s.after = once() })
		p, err := c.Publish(t.Context(), add(tag))
		if err != nil || p.Attempts != 1 || !slices.Contains(p.Files, tuf.RoleTargets) {
			t.Errorf("Publish(%s) with a lost answer = %+v, %v, want success after 1 attempt", tag, p, err)
		}
		// Lost on the way there is lost, and is sent again.
		s.set(func() { s.before, s.after = once(), nil })
		p, err = c.Publish(t.Context(), add(tag+"-again"))
		if err != nil || p.Attempts != 2 {
			t.Errorf("Publish with a lost request = %+v, %v, want 2 attempts", p, err)
		}
		s.set(func() { s.before = nil })
	}
	// Lost, and somebody built on it before we looked.
	b := newClient(t, s, func(conf *Config) { conf.Keys = c.c.Keys })
	s.set(func() { s.after = once() })
	between := c.another(func(conf *Config) {
		conf.Sleep = func(context.Context, time.Duration) error { b.publish(t, "between"); return nil }
	})
	p, err := between.Publish(t.Context(), add("third"))
	if err != nil || p.Attempts != 1 {
		t.Errorf("Publish with a lost answer and a successor = %+v, %v, want success after 1 attempt", p, err)
	}
	// To sign again is not the same when it is done twice.
	was, _ := c.update(t).Info(tuf.RoleTargets)
	s.set(func() { s.after = once() })
	if p, err := c.Publish(t.Context(), witness(tuf.RoleTargets)); err != nil || p.Attempts != 1 {
		t.Errorf("Witness with a lost answer = %+v, %v, want success after 1 attempt", p, err)
	}
	if now, _ := c.update(t).Info(tuf.RoleTargets); now.Version != was.Version+1 {
		t.Errorf("Witness with a lost answer took targets from version %d to %d", was.Version, now.Version)
	}
	// Lost, and then the server is gone: nobody knows.
	s.set(func() {
		s.after = func(op string) error { s.before = down; return down(op) }
	})
	_, err = c.Publish(t.Context(), add("fourth"))
	wantErr(t, "Publish into the dark", err, ErrUncertain)
	wantErr(t, "Publish into the dark", err, ErrUnreachable)
}

// Lost, somebody built on it before we looked, and then it cannot be done
// again: the first attempt has arrived all the same.
func TestLostAnswerThenRefused(t *testing.T) {
	t.Parallel()
	no := errors.New("not again")
	second := func(err error) func(*server) {
		return func(s *server) {
			s.before = func(op string) error {
				if op == "POST" {
					return err
				}
				return nil
			}
		}
	}
	for name, then := range map[string]struct {
		refuse func(*server)
		plan   error
	}{
		"by the plan":          {func(*server) {}, no},
		"by the server":        {second(ErrUnauthorized), nil},
		"by conflict for good": {second(ErrConflict), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(newClock())
			c := publisher(t, s, "1")
			b := newClient(t, s, func(conf *Config) { conf.Keys = c.c.Keys })
			slept := false
			between := c.another(func(conf *Config) {
				conf.Sleep = func(context.Context, time.Duration) error {
					if !slept {
						slept = true
						b.publish(t, "between")
						s.set(func() { then.refuse(s) })
					}
					return nil
				}
			})
			s.set(func() {
				s.after = func(op string) error {
					if op != "POST" {
						return nil
					}
					s.after = nil
					return down(op)
				}
			})
			plans := 0
			_, err := between.Publish(t.Context(), func(set *tuf.Set) ([]tuf.Change, error) {
				if plans++; plans > 1 && then.plan != nil {
					return nil, then.plan
				}
				return witness(tuf.RoleTargets)(set)
			})
			wantErr(t, "Publish that is refused after a lost answer", err, ErrUncertain)
			if !slept {
				t.Error("nobody published between")
			}
		})
	}
}

// The last attempt, too, may have arrived.
func TestLostAnswerOfLastAttempt(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	for tag, arrives := range map[string]bool{"arrives": true, "does-not": false} {
		n := 0
		s.set(func() {
			s.before = func(op string) error {
				if op != "POST" {
					return nil
				}
				if n++; n < maxAttempts || !arrives {
					return down(op)
				}
				s.after = func(op string) error { s.after = nil; return down(op) }
				return nil
			}
		})
		p, err := c.Publish(t.Context(), add(tag))
		if arrives != (err == nil) || p.Attempts != maxAttempts || arrives != slices.Contains(p.Files, tuf.RoleTargets) {
			t.Errorf("Publish that %s at the last attempt = %+v, %v", tag, p, err)
		}
		if !arrives && (!errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUncertain)) {
			t.Errorf("Publish that never arrives = %v, want ErrUnreachable and certainty", err)
		}
	}
}

func TestPublishOffline(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	c.update(t)
	s.set(func() { s.before = down })
	_, err := c.Publish(t.Context(), add("2"))
	wantErr(t, "Publish offline", err, ErrUnreachable)
}

func TestCanPublish(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	s.seen()
	if err := c.CanPublish(t.Context(), add("2")); err != nil {
		t.Errorf("CanPublish: %v", err)
	}
	if slices.Contains(s.seen(), "POST") {
		t.Error("CanPublish uploaded")
	}
	stranger := newClient(t, s)
	err := stranger.CanPublish(t.Context(), add("2"))
	var missing *tuf.MissingKeys
	if !errors.As(err, &missing) {
		t.Errorf("CanPublish without keys: %v, want MissingKeys", err)
	}
	s.set(func() {
		s.before = func(op string) error {
			if strings.HasPrefix(op, "KEY ") {
				return ErrUnauthorized
			}
			return nil
		}
	})
	wantErr(t, "CanPublish without the right to", c.CanPublish(t.Context(), add("2")), ErrUnauthorized)
	wantErr(t, "CanPublish of nothing without the right to", c.CanPublish(t.Context(), add("1")), ErrUnauthorized)
}

// TestCanPublishWithoutTheSnapshotKey: who keeps the snapshot key has to sign
// every snapshot, and a server that does not have it refuses everybody else.
func TestCanPublishWithoutTheSnapshotKey(t *testing.T) {
	t.Parallel()
	c := newClient(t, newServer(newClock()))
	if _, err := c.Init(t.Context(), InitOptions{ClientSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	c.publish(t, "1")
	if err := c.CanPublish(t.Context(), add("2")); err != nil {
		t.Errorf("CanPublish with the snapshot key: %v", err)
	}
	role, _ := c.update(t).Past().Role(tuf.RoleSnapshot)
	id := role.Keys[0].CanonicalID()
	if err := c.mem.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var missing *tuf.MissingKeys
	err := c.CanPublish(t.Context(), add("2"))
	if !errors.As(err, &missing) || missing.Role != tuf.RoleSnapshot || !slices.Equal(missing.Keys, []tuf.CanonicalID{id}) {
		t.Errorf("CanPublish without the snapshot key = %v, want MissingKeys of %s", err, id)
	}
}

// forgetful gives another key each time, as a stock server does for what is not
// published.
type forgetful struct{ *server }

func (f forgetful) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	return f.RotateKey(ctx, gun, role)
}

func TestCanPublishForTheFirstTime(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s)
	c.c.Remote = forgetful{s}
	if _, err := c.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CanPublish(t.Context(), add("1")); err != nil {
		t.Errorf("CanPublish at a server with another snapshot key than before: %v", err)
	}
}

// freshKeys is a server that makes a new key at each question, as the stock one
// does before the first publication.
type freshKeys struct{ *server }

func (s freshKeys) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	return s.key(ctx, gun, role, true)
}

func TestCanPublishBeforeTheFirstPublication(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s, func(c *Config) { c.Remote = freshKeys{s} })
	if _, err := c.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CanPublish(t.Context(), add("1")); err != nil {
		t.Errorf("CanPublish: %v", err)
	}
}

func TestSigningRoles(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s)
	all := func(tuf.CanonicalID) (bool, error) { return true, nil }
	none := func(tuf.CanonicalID) (bool, error) { return false, nil }
	check := func(set *tuf.Set, tag string, has func(tuf.CanonicalID) (bool, error), want ...tuf.RoleName) {
		t.Helper()
		got, err := SigningRoles(set, tag, has)
		if err != nil && len(want) > 0 {
			t.Errorf("SigningRoles(%q): %v", tag, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("SigningRoles(%q) (-want +got):\n%s", tag, diff)
		}
	}
	check(nil, "1", none, tuf.RoleTargets)
	check(c.update(t), "1", none, tuf.RoleTargets)
	alice := delegate(t, c, tuf.RoleReleases, "targets/alice")
	delegate(t, c, "targets/bob")
	_, err := c.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		return []tuf.Change{
			tuf.EditDelegation{Role: "targets/narrow", AddKeys: []tuf.PublicKey{alice}, AddPaths: []string{"v", "beta-"}},
			tuf.EditDelegation{Role: "targets/alice/below", AddKeys: []tuf.PublicKey{alice}, AddPaths: []string{""}},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	set := c.update(t)
	check(set, "v1", all, tuf.RoleReleases, "targets/alice", "targets/bob", "targets/narrow")
	check(set, "1", all, tuf.RoleReleases, "targets/alice", "targets/bob")
	only := func(id tuf.CanonicalID) (bool, error) { return id == alice.CanonicalID(), nil }
	check(set, "beta-2", only, tuf.RoleReleases, "targets/alice", "targets/narrow")
	_, err = SigningRoles(set, "1", none)
	wantErr(t, "SigningRoles without keys", err, ErrNoDelegationKey)
	_, err = SigningRoles(set, "1", func(tuf.CanonicalID) (bool, error) { return false, keys.ErrClosed })
	wantErr(t, "SigningRoles with a broken store", err, keys.ErrClosed)
}

func TestPublishStaged(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	if err := c.Stage(tuf.AddTarget{Target: target("staged")}, tuf.RemoveTarget{Name: "1"}); err != nil {
		t.Fatal(err)
	}
	p := c.publish(t, "2")
	if p.Staged != 2 {
		t.Errorf("Publish beside staged work = %+v, want 2 staged", p)
	}
	set := c.update(t)
	if _, err := Lookup(set, "staged"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("Publish took staged work along: %v", err)
	}
	if _, err := c.PublishStaged(t.Context()); err != nil {
		t.Fatalf("PublishStaged: %v", err)
	}
	set = c.update(t)
	if _, err := Lookup(set, "staged"); err != nil {
		t.Error(err)
	}
	if _, err := Lookup(set, "1"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("Lookup of a removed tag: %v", err)
	}
	if left, err := c.Staged(); err != nil || len(left) > 0 {
		t.Errorf("Staged after publishing = %v, %v", left, err)
	}
}

func TestPublishStagedKeepsWhatFails(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	if err := c.Stage(tuf.AddTarget{Target: target("2")}); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.before = down })
	_, err := c.PublishStaged(t.Context())
	wantErr(t, "PublishStaged offline", err, ErrUnreachable)
	if left, err := c.Staged(); err != nil || len(left) != 1 {
		t.Errorf("Staged after a failure = %v, %v, want 1", left, err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	ctx, cancel := context.WithCancel(t.Context())
	r := c.another(func(conf *Config) {
		conf.Sleep = func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }
	})
	s.set(func() {
		s.before = func(op string) error {
			if op == "POST" {
				return ErrConflict
			}
			return nil
		}
	})
	_, err := r.Publish(ctx, add("2"))
	wantErr(t, "Publish, cancelled while it waits", err, context.Canceled)
}
