package tuf_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

var modelSeed = flag.Uint64("model.seed", 0, "replay TestModel with this seed")

// A model is one repository, all states it ever had, and consumers of it.
type model struct {
	t       *testing.T
	r       *rand.Rand
	repo    *tuftest.Repo
	history []tuftest.Files
	ever    map[[32]byte]bool // files that the owners published
	log     []string
	tags    int
}

func (m *model) did(format string, a ...any) { m.log = append(m.log, fmt.Sprintf(format, a...)) }

func (m *model) fail(format string, a ...any) {
	m.t.Helper()
	for _, line := range m.log {
		m.t.Log(line)
	}
	m.t.Fatalf(format, a...)
}

func (m *model) record() {
	files := m.repo.Files()
	m.history = append(m.history, files)
	for _, raw := range files.Current {
		m.ever[sha256.Sum256(raw)] = true
	}
}

var modelDelegations = []tuf.RoleName{tuf.RoleReleases, "targets/a", "targets/releases/nightly"}

// publish makes one honest step.
func (m *model) publish() {
	defer m.record()
	delegated := func(role tuf.RoleName) bool {
		_, ok := m.repo.Trusted(m.t).Role(role)
		return ok
	}
	role := modelDelegations[m.r.IntN(len(modelDelegations))]
	switch n := m.r.IntN(12); {
	case n < 2:
		top := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp}[m.r.IntN(4)]
		m.did("rotate %s", top)
		m.repo.RotateKey(m.t, top)
		return
	case n < 4 && !delegated(role) && (role.Parent() == tuf.RoleTargets || delegated(role.Parent())):
		m.tags++
		m.did("delegate %s", role)
		key := tuftest.Key(fmt.Sprint(role, m.tags)).PublicKey()
		m.repo.Publish(m.t, tuf.EditDelegation{Role: role, AddKeys: []tuf.PublicKey{key}, AddPaths: []string{""}})
		return
	case n == 4 && delegated(role):
		m.did("remove %s", role)
		m.repo.Publish(m.t, tuf.RemoveDelegation{Name: role})
		return
	case n < 8 && delegated(role):
		m.tags++
		m.did("tag in %s", role)
		m.repo.Publish(m.t, tuf.AddTarget{Target: tuftest.TargetIn(role, fmt.Sprint(m.tags))})
		return
	case n == 8:
		m.did("a day passes")
		m.repo.Advance(20 * time.Hour)
		m.repo.Publish(m.t)
		return
	}
	m.tags++
	m.did("tag")
	m.repo.Publish(m.t, tuf.AddTarget{Target: tuftest.Target(fmt.Sprint(m.tags))})
}

// served is what a consumer meets: the truth, a stale mirror, a mirror that
// mixes states, or one that lies; and what it did.
func (m *model) served() (tuftest.Files, string) {
	now := m.history[len(m.history)-1]
	old := func() tuftest.Files { return m.history[m.r.IntN(len(m.history))] }
	switch m.r.IntN(5) {
	case 0:
		i := m.r.IntN(len(m.history))
		return m.history[i], fmt.Sprintf("state %d", i)
	case 1:
		mixed := now
		for role := range now.Current {
			if raw, ok := old().Current[role]; ok && m.r.IntN(2) == 0 {
				mixed = mixed.With(role, raw)
			}
		}
		return mixed, "a mixture"
	case 2:
		// Everything that was ever served, with some of it current.
		mixed := old().Clone()
		for sum, raw := range now.Blobs {
			mixed.Blobs[sum] = raw
		}
		for v, raw := range now.Roots {
			mixed.Roots[v] = raw
		}
		mixed.Current[tuf.RoleRoot] = old().Current[tuf.RoleRoot]
		mixed.Current[tuf.RoleTimestamp] = old().Current[tuf.RoleTimestamp]
		return mixed, "a mixture by hash"
	case 3:
		lying := now.Clone()
		for role, raw := range now.Current {
			if m.r.IntN(3) == 0 {
				raw = bytes.Clone(raw)
				raw[m.r.IntN(len(raw))] ^= byte(1 << m.r.IntN(8))
				lying.Instead[role] = raw
			}
		}
		return lying, "a lie"
	}
	return now, "the truth"
}

// A consumer of the model.
type consumer struct {
	name string
	past *tuf.Past
}

// update lets c meet what is served, and asserts what must always hold.
func (m *model) update(c *consumer, files tuftest.Files, what string, honest bool) {
	now := m.repo.Now()
	u, s, err := tuftest.WalkWith(c.past, files, tuf.Options{Now: now})
	m.did("%s meets %s: %v", c.name, what, err)
	var refusal *tuf.RoleError
	switch {
	case honest && err != nil:
		m.fail("%s does not accept the truth: %v", c.name, err)
	case err != nil && !errors.As(err, &refusal):
		m.fail("%s: %#v is no RoleError", c.name, err)
	}
	check := func(f tuf.File) {
		if f.Role.Delegation() && s == nil {
			return // may be one that does not count
		}
		if !m.ever[sha256.Sum256(f.Raw)] {
			if o, err := tuf.Outline(f.Role, f.Raw, tuf.Options{}); err == nil {
				for _, h := range m.history {
					if p, err := tuf.Outline(f.Role, h.Current[f.Role], tuf.Options{}); err == nil && bytes.Equal(o.Canonical, p.Canonical) {
						return // the same payload, under other white space or signatures
					}
				}
			}
			m.fail("%s accepts a %s that nobody published: %s", c.name, f.Role, f.Raw)
		}
		if c.past != nil && !f.Role.Delegation() && f.Version < c.past.Floor(f.Role) {
			m.fail("%s goes back from %s %d to %d", c.name, f.Role, c.past.Floor(f.Role), f.Version)
		}
	}
	for _, f := range u.Verified() {
		check(f)
	}
	if s != nil {
		for _, name := range s.Roles() {
			f, _ := s.File(name)
			check(f)
		}
		if i, _ := s.Info(tuf.RoleTimestamp); i.Expires.Before(now) {
			m.fail("%s accepts a timestamp that expired at %v", c.name, i.Expires)
		}
		if m.r.IntN(2) == 0 {
			c.past = s.Past() // goes on without a restart
			return
		}
	}
	// On disk: what was there, and what was verified.
	kept := map[tuf.RoleName]tuf.File{}
	if c.past != nil {
		for _, f := range c.past.Files() {
			kept[f.Role] = f
		}
	}
	for _, f := range u.Verified() {
		kept[f.Role] = f
	}
	var disk []tuf.File
	for _, f := range kept {
		disk = append(disk, f)
	}
	if len(disk) == 0 {
		return
	}
	p, err := tuf.Recall(gun, disk, tuf.Options{Now: now})
	if err != nil {
		m.fail("%s cannot read its own disk: %v", c.name, err)
	}
	if c.past != nil && p.Root().Version < c.past.Root().Version {
		m.fail("%s goes back to root %d", c.name, p.Root().Version)
	}
	c.past = p
}

// Random publishing, rotation and attack. Consumers never accept what nobody
// published, never go back, never get stuck.
func TestModel(t *testing.T) {
	t.Parallel()
	runs := 12
	if testing.Short() {
		runs = 3
	}
	for i := range runs {
		seed := *modelSeed
		if seed == 0 {
			seed = rand.Uint64()
		} else if i > 0 {
			break
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			t.Logf("replay: go test ./tuf -run TestModel -model.seed=%d", seed)
			m := &model{t: t, r: rand.New(rand.NewPCG(seed, 1)), repo: tuftest.New(t, gun), ever: make(map[[32]byte]bool)}
			m.record()
			consumers := []*consumer{{name: "first"}, {name: "second"}, {name: "third"}}
			for range 40 {
				m.publish()
				c := consumers[m.r.IntN(len(consumers))]
				files, what := m.served()
				m.update(c, files, what, what == "the truth")
				if m.r.IntN(3) == 0 {
					m.update(c, m.history[len(m.history)-1], "the truth", true)
				}
			}
			for _, c := range consumers {
				m.update(c, m.history[len(m.history)-1], "the truth", true)
			}
		})
	}
}
