package trust

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// An attack changes what a server serves to a machine that has already seen
// version 2 of the repository. attack gets the server and what it published
// first.
type attack struct {
	row    string // of the list of attacks
	name   string
	attack func(t *testing.T, s *server, owner *client, old *published)
	want   error
	// keep is false if the update may save what it verified before the attack
	// showed.
	keep bool
}

func attacks() []attack {
	// serve replaces files, whatever they are asked by.
	serve := func(roles ...tuf.RoleName) func(*testing.T, *server, *client, *published) {
		return func(_ *testing.T, s *server, _ *client, old *published) {
			s.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
				for _, r := range roles {
					if r == w.Role && w.Version == 0 {
						return old.files[r].Raw, nil
					}
				}
				return raw, nil
			}
		}
	}
	// alter changes one file on its way, after something new was published.
	alter := func(role tuf.RoleName, f func([]byte) []byte) func(*testing.T, *server, *client, *published) {
		return func(t *testing.T, s *server, owner *client, _ *published) {
			owner.publish(t, "news")
			s.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
				if w.Role == role {
					return f(raw), nil
				}
				return raw, nil
			}
		}
	}
	hide := func(role tuf.RoleName) func(*testing.T, *server, *client, *published) {
		return alter(role, func([]byte) []byte { return nil })
	}
	flip := func(raw []byte) []byte {
		return bytes.Replace(raw, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
	}
	grow := func(raw []byte) []byte { return append(bytes.Clone(raw), bytes.Repeat([]byte(" "), 100<<20)...) }
	return []attack{
		{"F1", "older timestamp", serve(tuf.RoleTimestamp), tuf.ErrRollback, true},
		{"F1 F3 F4 F5", "everything older", func(_ *testing.T, s *server, _ *client, old *published) { s.repos[app] = old }, tuf.ErrRollback, true},
		{"M1", "older snapshot", func(t *testing.T, s *server, owner *client, old *published) {
			owner.publish(t, "news")
			serve(tuf.RoleSnapshot)(t, s, owner, old)
		}, tuf.ErrMismatch, false},
		{"M2", "older targets", func(t *testing.T, s *server, owner *client, old *published) {
			owner.publish(t, "news")
			serve(tuf.RoleTargets)(t, s, owner, old)
		}, tuf.ErrMismatch, false},
		{"R15", "snapshot served as timestamp", func(_ *testing.T, s *server, _ *client, old *published) {
			s.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
				if w.Role == tuf.RoleTimestamp {
					return old.files[tuf.RoleSnapshot].Raw, nil
				}
				return raw, nil
			}
		}, tuf.ErrMalformed, true},
		{"K", "timestamp with a wrong signature", alter(tuf.RoleTimestamp, flip), tuf.ErrUnsigned, true},
		{"M1", "snapshot altered", alter(tuf.RoleSnapshot, flip), tuf.ErrMismatch, false},
		{"M2", "targets altered", alter(tuf.RoleTargets, flip), tuf.ErrMismatch, false},
		{"L2", "endless timestamp", alter(tuf.RoleTimestamp, grow), tuf.ErrLimit, true},
		{"L2", "endless snapshot", alter(tuf.RoleSnapshot, grow), tuf.ErrMismatch, false},
		{"L2", "endless targets", alter(tuf.RoleTargets, grow), tuf.ErrMismatch, false},
		{"L1", "timestamp is null", alter(tuf.RoleTimestamp, func([]byte) []byte { return []byte("null") }), tuf.ErrMalformed, true},
		{"M5", "timestamp hidden", hide(tuf.RoleTimestamp), tuf.ErrIncomplete, true},
		{"M5", "snapshot hidden", hide(tuf.RoleSnapshot), tuf.ErrIncomplete, false},
		{"M5", "targets hidden", hide(tuf.RoleTargets), tuf.ErrIncomplete, false},
		{"F9", "expired timestamp", func(_ *testing.T, s *server, _ *client, _ *published) { s.clock.add(25 * time.Hour) }, tuf.ErrExpired, true},
		{"R3", "made anew with other keys", func(t *testing.T, s *server, _ *client, _ *published) {
			delete(s.repos, app)
			delete(s.keys, app)
			publisher(t, s, "1", "2", "3", "4")
		}, tuf.ErrUnsigned, true},
		{"F12", "version raised on the way", alter(tuf.RoleTimestamp, raiseVersion), tuf.ErrUnsigned, true},
	}
}

// raiseVersion makes a file's version the highest that JSON carries safely.
func raiseVersion(raw []byte) []byte {
	i := bytes.LastIndex(raw, []byte(`"version":`))
	j := i + bytes.IndexByte(raw[i:], '}')
	return slices.Concat(raw[:i], fmt.Appendf(nil, `"version":%d`, int64(1)<<53-1), raw[j:])
}

// Every attack ends in its sentinel, changes nothing that is trusted, and does
// not keep the next honest update from working (attacks.md F8).
func TestAttacks(t *testing.T) {
	t.Parallel()
	for _, a := range attacks() {
		t.Run(strings.ReplaceAll(a.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			s := newServer(newClock())
			owner := publisher(t, s, "1")
			old := s.repos[app].copy()
			owner.publish(t, "2")
			victim := newClient(t, s)
			victim.update(t)
			before := metadata(t, victim)
			honest, honestKeys := s.repos[app].copy(), s.keys[app]

			a.attack(t, s, owner, old)
			set, err := victim.Update(t.Context())
			if set != nil || !errors.Is(err, a.want) {
				t.Errorf("%s: Update = %v, %v, want %v", a.row, set, err, a.want)
			}
			after := metadata(t, victim)
			if diff := cmp.Diff(before, after); diff != "" && a.keep {
				t.Errorf("%s: trusted files changed:\n%s", a.row, diff)
			}
			root := pathOf(app, tuf.RoleRoot)
			if before[root] != after[root] {
				t.Errorf("%s: the root changed", a.row)
			}

			s.set(func() {
				s.alter = nil
				if p := s.repos[app]; p == nil || p.floors[tuf.RoleTimestamp] < honest.floors[tuf.RoleTimestamp] || a.row == "R3" {
					s.repos[app], s.keys[app] = honest, honestKeys
				}
			})
			s.renew(t, app)
			if _, err := Lookup(victim.update(t), "2"); err != nil {
				t.Errorf("%s: after the attack: %v", a.row, err)
			}
		})
	}
}

// R6, R9: of a chain of roots, what was verified stays, and what was not is
// not written.
func TestAttackBadLastRoot(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	victim := newClient(t, s)
	victim.update(t)
	for range 2 {
		if _, err := owner.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot}); err != nil {
			t.Fatal(err)
		}
	}
	// The newest root is one that nobody vouched for.
	impostor := newServer(s.clock)
	thief := publisher(t, impostor, "1")
	for range 2 {
		if _, err := thief.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot}); err != nil {
			t.Fatal(err)
		}
	}
	bad := impostor.repos[app].files[tuf.RoleRoot].Raw
	s.set(func() {
		s.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
			if w.Role == tuf.RoleRoot && w.Version == 0 {
				return bad, nil
			}
			return raw, nil
		}
	})
	set, err := victim.Update(t.Context())
	if set != nil || err == nil {
		t.Errorf("Update = %v, %v, want a refusal", set, err)
	}
	root := metadata(t, victim)[pathOf(app, tuf.RoleRoot)]
	if root == string(bad) {
		t.Error("the bad root was saved")
	}
	s.set(func() { s.alter = nil })
	if info, _ := victim.update(t).Info(tuf.RoleRoot); info.Version != 3 {
		t.Errorf("root version %d after the attack, want 3", info.Version)
	}
}

// R9: a new root that has expired is kept, and nothing below it is taken.
func TestAttackExpiredRoot(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	victim := newClient(t, s)
	victim.update(t)
	short := owner.another(func(c *Config) { c.Lifetimes = map[tuf.RoleName]time.Duration{tuf.RoleRoot: time.Hour} })
	if _, err := short.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot}); err != nil {
		t.Fatal(err)
	}
	s.clock.add(2 * time.Hour)
	set, err := victim.Update(t.Context())
	if set != nil || !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("Update = %v, %v, want ErrExpired", set, err)
	}
	if got := metadata(t, victim)[pathOf(app, tuf.RoleRoot)]; got != string(s.repos[app].roots[2]) {
		t.Error("the newer root was not kept")
	}
	// R10: the expired root at hand has a successor.
	s.clock.add(-90 * time.Minute)
	if _, err := owner.Rotate(t.Context(), Rotation{Role: tuf.RoleRoot}); err != nil {
		t.Fatal(err)
	}
	s.clock.add(90 * time.Minute)
	if info, _ := victim.update(t).Info(tuf.RoleRoot); info.Version != 3 {
		t.Errorf("root version %d, want 3", info.Version)
	}
}

// F10: an expired local timestamp is no obstacle, and still a floor.
func TestAttackExpiredLocalTimestamp(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	old := s.repos[app].copy()
	owner.publish(t, "2")
	victim := newClient(t, s)
	victim.update(t)
	s.clock.add(40 * time.Hour)
	newest := s.repos[app]
	s.set(func() { s.repos[app] = old })
	s.renew(t, app) // the old content, freshly signed, at a version that was seen
	set, err := victim.Update(t.Context())
	if set != nil || !errors.Is(err, tuf.ErrExpired) && !errors.Is(err, tuf.ErrRollback) {
		t.Errorf("Update to old content = %v, %v, want a refusal", set, err)
	}
	s.set(func() { s.repos[app] = newest })
	s.renew(t, app)
	victim.update(t)
}

// F12: after the keys changed, versions begin where they begin.
func TestAttackFastForwardRecovery(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	healthy := s.repos[app].copy()
	// A thief of the server's keys raises its versions.
	for range 5 {
		s.renew(t, app)
	}
	victim := newClient(t, s)
	victim.update(t)
	s.set(func() { s.repos[app] = healthy })
	_, err := victim.Update(t.Context())
	wantErr(t, "Update of the restored server", err, tuf.ErrRollback)
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		if _, err := owner.Rotate(t.Context(), Rotation{Role: role, Server: true}); err != nil {
			t.Fatal(err)
		}
	}
	victim.update(t)
	victim.update(t)
}

// F2: of two timestamps of one version the first one seen counts.
func TestAttackSameVersionTimestamp(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	fork := s.repos[app].copy()
	owner.publish(t, "a")
	victim := newClient(t, s)
	victim.update(t)
	before := metadata(t, victim)
	s.set(func() { s.repos[app] = fork })
	owner.publish(t, "b")
	set := victim.update(t)
	if _, err := Lookup(set, "b"); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("Lookup of what another timestamp of the same version names: %v", err)
	}
	if diff := cmp.Diff(before, metadata(t, victim)); diff != "" {
		t.Errorf("trusted files changed:\n%s", diff)
	}
}

// R12, R13: the pin decides on first use, and a denied root is never trusted.
func TestAttackPins(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	root := owner.ids(t, tuf.RoleRoot)[0]
	other := tuf.CanonicalID(strings.Repeat("ab", 32))
	for name, c := range map[string]struct {
		pin  Pinning
		want error
	}{
		"first use refused": {Pinning{FirstUse: "refuse"}, tuf.ErrPin},
		"another root":      {Pinning{RootKeys: map[string][]tuf.CanonicalID{"registry.example/*": {other}}}, tuf.ErrPin},
		"denied":            {Pinning{DeniedRoots: []tuf.CanonicalID{root}}, tuf.ErrPin},
		"pinned": {Pinning{FirstUse: "refuse", RootKeys: map[string][]tuf.CanonicalID{
			"*": {other}, "registry.example/*": {other}, "registry.example/team/*": {root},
		}}, nil},
	} {
		pin, err := c.pin.Pin(nil)
		if err != nil {
			t.Fatal(err)
		}
		victim := newClient(t, s, func(conf *Config) { conf.Pin = pin })
		set, err := victim.Update(t.Context())
		if (set != nil) != (c.want == nil) || !errors.Is(err, c.want) {
			t.Errorf("%s: Update = %v, %v, want %v", name, set, err, c.want)
		}
		if c.want != nil && len(metadata(t, victim)) > 0 {
			t.Errorf("%s: files were saved", name)
		}
	}
	// A root that is denied later is refused although it is at hand.
	victim := newClient(t, s)
	victim.update(t)
	pin, err := Pinning{DeniedRoots: []tuf.CanonicalID{root}}.Pin(nil)
	if err != nil {
		t.Fatal(err)
	}
	strict := victim.another(func(c *Config) { c.Pin = pin })
	_, err = strict.Update(t.Context())
	wantErr(t, "Update with a denied root at hand", err, tuf.ErrPin)
	s.set(func() { s.before = down })
	if set, err := strict.Update(t.Context()); set != nil {
		t.Errorf("Update offline with a denied root at hand = %v, %v", set, err)
	}
}

// attacks.md F8: the files of delegations that come and go do not pile up, and
// what is still delegated stays a floor.
func TestAttackDelegationsPileUp(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1.0")
	reader := newClient(t, s)
	key, err := keys.Generate(t.Context(), owner.mem, keys.P256, keys.Info{Role: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	change := func(changes ...tuf.Change) {
		t.Helper()
		if _, err := owner.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) { return changes, nil }); err != nil {
			t.Fatal(err)
		}
		reader.update(t)
	}
	delegate := func(role tuf.RoleName) []tuf.Change {
		at := target("2.0")
		at.Role = role
		return []tuf.Change{
			tuf.EditDelegation{Role: role, AddKeys: []tuf.PublicKey{key.PublicKey()}, AddPaths: []string{""}}, tuf.AddTarget{Target: at},
		}
	}
	change(delegate("targets/stays")...)
	for i := range 3 {
		role := tuf.RoleName(fmt.Sprintf("targets/a%d", i))
		change(append(delegate(role), delegate(role+"/below")...)...)
		change(tuf.RemoveDelegation{Name: role})
	}
	for _, c := range []*client{owner, reader} {
		c.update(t)
		for name := range metadata(t, c) {
			if strings.Contains(name, "targets/a") {
				t.Errorf("%s is still there", name)
			}
		}
		if past, err := c.Local(); err != nil || past.Floor("targets/stays") == 0 {
			t.Errorf("what is still delegated has no floor: %v", err)
		}
		if _, err := os.Stat(filepath.Join(c.dir.Path(), "tuf", filepath.FromSlash(string(app)), "metadata", "targets", "a0")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder of a delegation that is gone: %v", err)
		}
	}
}
