package trust

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

func TestUpdateRequests(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	reader := newClient(t, s)
	s.seen()

	reader.update(t)
	if diff := cmp.Diff([]string{"GET root", "GET timestamp", "GET snapshot", "GET targets"}, s.seen()); diff != "" {
		t.Errorf("requests of a first update (-want +got):\n%s", diff)
	}
	reader.update(t)
	if diff := cmp.Diff([]string{"GET timestamp"}, s.seen()); diff != "" {
		t.Errorf("requests of an update without news (-want +got):\n%s", diff)
	}
	owner.publish(t, "2")
	s.seen()
	reader.update(t)
	if diff := cmp.Diff([]string{"GET timestamp", "GET snapshot", "GET targets"}, s.seen()); diff != "" {
		t.Errorf("requests of an update with a new tag (-want +got):\n%s", diff)
	}
}

func TestUpdateKeepsBytes(t *testing.T) { // M9
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	for role, f := range s.repos[app].files {
		if got := metadata(t, reader)[pathOf(app, role)]; got != string(f.Raw) {
			t.Errorf("saved %s differs from what was served", role)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	delegate(t, owner, tuf.RoleReleases, "targets/carol")
	signInto(t, owner, tuf.RoleReleases, "1", "released")
	signInto(t, owner, "targets/carol", "solo")
	reader := newClient(t, s)

	for tag, role := range map[string]tuf.RoleName{"1": tuf.RoleReleases, "released": tuf.RoleReleases} {
		got, err := reader.Resolve(t.Context(), tag)
		if err != nil || got.Role != role {
			t.Errorf("Resolve(%q) = %s, %v, want role %s", tag, got.Role, err, role)
		}
	}
	for tag, other := range map[string]bool{"solo": true, "nowhere": false} {
		_, err := reader.Resolve(t.Context(), tag)
		var e *NoTrustData
		if !errors.As(err, &e) || e.InOther != other || !errors.Is(err, tuf.ErrNoTarget) {
			t.Errorf("Resolve(%q): %v, want NoTrustData with InOther %t", tag, err, other)
		}
	}
}

func TestNotSigned(t *testing.T) {
	t.Parallel()
	c := newClient(t, newServer(newClock()))
	_, err := c.Update(t.Context())
	wantErr(t, "Update of nothing", err, ErrNotSigned)
	if got, want := err.Error(), "trust.example does not have trust data for registry.example/team/app"; got != want {
		t.Errorf("Update: %q, want %q", got, want)
	}
	if got := metadata(t, c); len(got) > 0 {
		t.Errorf("Update of nothing left %v", got)
	}
	_, err = Open("a//b", c.c).Update(t.Context())
	wantErr(t, "Update of a//b", err, ErrName)
}

func TestOffline(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s)

	s.set(func() { s.before = down })
	if set, err := reader.Update(t.Context()); set != nil || !errors.Is(err, ErrUnreachable) {
		t.Errorf("Update offline without a copy = %v, %v, want ErrUnreachable", set, err)
	}
	s.set(func() { s.before = nil })
	reader.update(t)
	s.set(func() { s.before = down })
	s.clock.add(3 * time.Hour)

	got, err := reader.Resolve(t.Context(), "1")
	var stale *Stale
	if !errors.As(err, &stale) || !errors.Is(err, ErrUnreachable) || got.Name != "1" {
		t.Fatalf("Resolve offline = %v, %v, want the tag and a Stale", got, err)
	}
	if stale.Age != 3*time.Hour || stale.Expired {
		t.Errorf("Stale = %+v, want an age of 3 h", stale)
	}
	refuse := reader.another(func(c *Config) { c.Offline = OfflineRefuse })
	if set, err := refuse.Update(t.Context()); set != nil || !errors.Is(err, ErrUnreachable) {
		t.Errorf("Update with OfflineRefuse = %v, %v, want only ErrUnreachable", set, err)
	}

	// The timestamp lives for a day.
	s.clock.add(22 * time.Hour)
	set, err := reader.Update(t.Context())
	if set != nil || !errors.Is(err, tuf.ErrExpired) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("Update with an expired copy = %v, %v, want ErrExpired and ErrUnreachable", set, err)
	}
	lenient := reader.another(func(c *Config) { c.AllowExpiredCache = true })
	set, err = lenient.Update(t.Context())
	if set == nil || !errors.As(err, &stale) || !stale.Expired {
		t.Errorf("Update with AllowExpiredCache = %v, %v, want a Set and an expired Stale", set, err)
	}
	// Downloaded data may never be expired.
	s.set(func() { s.before = nil })
	set, err = lenient.Update(t.Context())
	if set != nil || !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("Update of expired data with AllowExpiredCache = %v, %v, want ErrExpired", set, err)
	}
	s.renew(t, app)
	reader.update(t)
}

func TestOfflineOnlyWhenUnreachable(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	before := metadata(t, reader)
	for _, want := range []error{ErrTLS, ErrRedirect, ErrNotTrustServer, ErrUnauthorized, context.Canceled} {
		s.set(func() { s.before = func(string) error { return want } })
		set, err := reader.Update(t.Context())
		if set != nil || !errors.Is(err, want) {
			t.Errorf("Update when the server gives %v = %v, %v, want only that error", want, set, err)
		}
	}
	s.set(func() { s.before = down })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if set, err := reader.Update(ctx); set != nil {
		t.Errorf("Update, cancelled = %v, %v, want no Set", set, err)
	}
	if diff := cmp.Diff(before, metadata(t, reader)); diff != "" {
		t.Errorf("files changed:\n%s", diff)
	}
}

// A server that goes away in the middle of an update has already shown that
// the copy is not the newest.
func TestOfflineAfterNewTimestamp(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	owner.publish(t, "2")
	s.set(func() {
		s.before = func(op string) error {
			if op == "GET snapshot" {
				return down(op)
			}
			return nil
		}
	})
	for range 2 {
		set, err := reader.Update(t.Context())
		if set != nil || !errors.Is(err, ErrUnreachable) {
			t.Errorf("Update = %v, %v, want only ErrUnreachable", set, err)
		}
		s.set(func() { s.before = down })
	}
	s.set(func() { s.before = nil })
	if _, err := Lookup(reader.update(t), "2"); err != nil {
		t.Error(err)
	}
}

func TestGone(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	before := metadata(t, reader)
	if err := owner.Delete(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	set, err := reader.Update(t.Context())
	if set != nil || !errors.Is(err, ErrGone) || errors.Is(err, ErrNotSigned) {
		t.Errorf("Update after a deletion = %v, %v, want ErrGone", set, err)
	}
	if diff := cmp.Diff(before, metadata(t, reader)); diff != "" {
		t.Errorf("files changed:\n%s", diff)
	}
	if err := reader.dir.Forget(app); err != nil {
		t.Fatal(err)
	}
	_, err = reader.Update(t.Context())
	wantErr(t, "Update after Forget", err, ErrNotSigned)
}

func TestOtherServer(t *testing.T) { // N6
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)

	s.set(func() { s.host, s.before = "other.example", down })
	set, err := reader.Update(t.Context())
	var other *OtherServer
	if set != nil || !errors.As(err, &other) || other.Was != "trust.example" {
		t.Errorf("Update offline from another server = %v, %v, want an OtherServer", set, err)
	}
	// The same repository under a new address is still the same repository.
	s.set(func() { s.before = nil })
	reader.update(t)
	s.set(func() { s.before = down })
	if set, err := reader.Update(t.Context()); set == nil {
		t.Errorf("Update offline from the new server: %v", err)
	}

	// Another repository of the same name is not.
	impostor := newServer(s.clock)
	impostor.host = "impostor.example"
	publisher(t, impostor, "1")
	fooled := reader.another(func(c *Config) { c.Remote = impostor })
	_, err = fooled.Update(t.Context())
	if !errors.As(err, &other) || !errors.Is(err, tuf.ErrRoot) {
		t.Errorf("Update from an impostor: %v, want ErrRoot and OtherServer", err)
	}
}

func TestClock(t *testing.T) { // F14
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	s.clock.add(-clockSlack - time.Second)
	set, err := reader.Update(t.Context())
	var e *ClockError
	if set != nil || !errors.As(err, &e) || !strings.HasSuffix(e.File, ".json") {
		t.Errorf("Update with a clock set back = %v, %v, want ErrClock", set, err)
	}
	s.clock.add(2 * time.Second)
	reader.update(t)
}

func TestFrozen(t *testing.T) { // F15
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s, func(c *Config) { c.MaxAge = 2 * time.Hour })
	reader.update(t)
	s.clock.add(time.Hour)
	reader.update(t)
	s.clock.add(61 * time.Minute)
	set, err := reader.Update(t.Context())
	if set != nil || !errors.Is(err, ErrFrozen) {
		t.Errorf("Update of a timestamp two hours old = %v, %v, want ErrFrozen", set, err)
	}
	s.set(func() { s.before = down })
	s.clock.add(2 * time.Hour)
	if set, err := reader.Update(t.Context()); set != nil || !errors.Is(err, ErrFrozen) {
		t.Errorf("Update offline = %v, %v, want ErrFrozen", set, err)
	}
	s.set(func() { s.before = nil })
	s.renew(t, app)
	reader.update(t)
}

// What the stock programs left has no memory beside it.
func TestUpdateWithoutMemory(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	root, err := reader.dir.open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.RemoveAll("state"); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.before = down })
	set, err := reader.Update(t.Context())
	var stale *Stale
	if set == nil || !errors.As(err, &stale) {
		t.Errorf("Update offline = %v, %v, want a Set and a Stale", set, err)
	}
	s.set(func() { s.before = nil })
	reader.update(t)
}
