package trust_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/server"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

var (
	modelSeed   = flag.Uint64("seed", 0, "TestModel: run this seed only, and say all that happens")
	modelSteps  = flag.Int("steps", 100, "TestModel: steps of each run")
	modelShrink = flag.Bool("shrink", true, "TestModel: make failures small")
	modelFor    = flag.Duration("soak", 0, "TestModel: run one seed after the other for this long")
)

// TestModel has several publishers, consumers and attackers do what they may,
// in every order and with everything failing, and checks after each step what
// must always hold (oracle): no consumer accepts what no threshold of its
// owner's keys signed, and none goes back; what was acknowledged is served, and
// what was refused is not; no two consumers see different content for one
// version, and the signer signs one version once. At the end of each run
// everything works again, and everybody sees the same.
//
// A failure says how to have it again, and which few of its steps are enough:
//
//	go test ./trust -run TestModel -seed N -steps M
func TestModel(t *testing.T) {
	t.Parallel()
	switch {
	case *modelSeed != 0:
		trace := explore(t, *modelSeed, *modelSteps)
		if !t.Failed() {
			t.Log("\n" + strings.Join(trace, "\n"))
		}
	case *modelFor > 0:
		runs := 0
		for start := time.Now(); time.Since(start) < *modelFor && !t.Failed(); runs++ {
			explore(t, 1+rand.Uint64N(1e9), *modelSteps)
		}
		t.Logf("%d runs of %d steps", runs, *modelSteps)
	default:
		for seed := range uint64(modelSeeds) {
			t.Run(fmt.Sprint(seed+1), func(t *testing.T) {
				t.Parallel()
				explore(t, seed+1, *modelSteps)
			})
		}
	}
}

// A seed is a whole run: the second one is the first one again.
func TestModelReplays(t *testing.T) {
	t.Parallel()
	var sums [2][32]byte
	for i := range sums {
		trace, _ := run(t, actions(77, 30))
		sums[i] = sha256.Sum256([]byte(strings.Join(trace, "\n")))
	}
	if sums[0] != sums[1] {
		t.Error("the same seed led to another run")
	}
}

// actions are the steps of a seed.
func actions(seed uint64, n int) []action {
	rnd := rand.New(rand.NewPCG(seed, 0))
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	var out []action
	for range n {
		at := rnd.IntN(total)
		for _, s := range steps {
			if at -= s.weight; at < 0 {
				out = append(out, action{s.kind, rnd.Uint64()})
				break
			}
		}
	}
	return out
}

// explore runs a seed, and makes a failure as small as it can.
func explore(t *testing.T, seed uint64, n int) []string {
	t.Helper()
	all := actions(seed, n)
	trace, failure := run(t, all)
	if failure.kind == "" {
		return trace
	}
	few, again := all, failure
	if *modelShrink {
		few = shrink(all, func(some []action) bool { _, f := run(t, some); return f.kind == failure.kind }, time.Now().Add(time.Minute))
		trace, again = run(t, few)
	}
	t.Errorf("seed %d, %s\nagain: go test ./trust -run TestModel -seed %d -steps %d\n%d steps are enough (%s):\n%s",
		seed, failure.what, seed, n, len(few), again.what, strings.Join(trace, "\n"))
	return trace
}

// shrink leaves steps out as long as the run still fails.
func shrink(all []action, fails func([]action) bool, until time.Time) []action {
	for size := (len(all) + 1) / 2; size > 0 && time.Now().Before(until); size /= 2 {
		for at := 0; at < len(all) && time.Now().Before(until); {
			some := slices.Concat(all[:at], all[min(at+size, len(all)):])
			if fails(some) {
				all = some
			} else {
				at += size
			}
		}
	}
	return all
}

// run does the steps in a new world, and returns what happened and what was
// violated.
func run(t *testing.T, all []action) (trace []string, failure violation) {
	t.Helper()
	dir, err := os.MkdirTemp(scratch(), "model-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w := newWorld(t, dir)
	defer w.close()
	defer func() {
		// A product that is broken can break the world, too.
		if p := recover(); p != nil {
			w.note("%s", debug.Stack())
			trace, failure = w.trace, violation{"panic", fmt.Sprintf("step %d: panic: %v", w.step, p)}
		}
	}()
	w.setUp()
	if w.failure.kind != "" {
		return w.trace, w.failure
	}
	w.calm = false
	for i, a := range all {
		w.step = i + 1
		for _, s := range steps {
			if s.kind == a.kind {
				s.do(w, a.rnd())
			}
		}
		w.check()
		if w.failure.kind != "" {
			return w.trace, w.failure
		}
	}
	w.recover()
	return w.trace, w.failure
}

// scratch is a folder in memory where there is one: every write is synced.
func scratch() string {
	if i, err := os.Stat("/dev/shm"); err == nil && i.IsDir() && os.Getenv("TMPDIR") == "" {
		return "/dev/shm"
	}
	return ""
}

// check is the look at everything after a step, undisturbed.
func (w *world) check() {
	was := w.calm
	w.calm = true
	w.oracle.look()
	w.calm = was
}

// setUp makes the repositories: one with single keys, one that takes two of
// three.
func (w *world) setUp() {
	rnd := rand.New(rand.NewPCG(1, 1))
	ann := w.machines[0]
	for _, gun := range guns {
		w.must(w.start(ann, rnd, gun))
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
		w.must(w.rotate(ann, rnd, guns[0], role, false))
	}
	for _, gun := range guns {
		w.must(w.delegate(ann, rnd, gun, true))
	}
	for _, m := range w.machines[1:] {
		for _, gun := range guns {
			w.must(w.read(m, rnd, gun, "read", nil))
		}
	}
	w.check()
}

// recover ends all trouble, and has everybody find out that nothing is wrong:
// publishers publish, and all consumers see the same.
func (w *world) recover() {
	w.step++
	w.note("everything works again")
	w.arrive()
	w.calm = true
	w.signer.skew, w.signer.away = 0, false
	w.signer.restart()
	for _, n := range w.instances {
		n.skew = 0
		n.restart()
	}
	for _, m := range w.machines {
		m.skew = 0
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	w.must(w.instances[0].Renew(context.Background()))
	w.check()
	for _, gun := range guns {
		if !w.alive(rnd, gun) {
			return
		}
	}
	if err := server.Check(context.Background(), w.store, w.signer.service, w.now, func(p server.Problem) {
		if root := new(tuf.RootRefusal); errors.As(p.Err, &root) && !root.From.IsZero() && w.ahead(p.GUN) {
			return
		}
		w.fail("check finds %v", p)
	}); err != nil {
		w.fail("check: %v", err)
	}
	w.check()
}

// alive reports whether a repository can be published to and read by all.
func (w *world) alive(rnd *rand.Rand, gun tuf.GUN) bool {
	ann, r := w.machines[0], w.oracle.repos[gun]
	w.heal(ann, gun)
	if r.now == nil {
		if err := w.cured(ann, gun, func() error { return w.start(ann, rnd, gun) }); err != nil {
			w.fail("%s cannot be begun at the end: %v", gun, err)
			return false
		}
	}
	if w.ahead(gun) {
		w.note("%s was begun by who lives in the future, and rests until then", gun)
		return true
	}
	publishes, lost := 1, r.lost
	if lost { // until the versions that were lost are passed
		publishes = 8
	}
	for range publishes {
		t, v := w.target(tuf.RoleTargets, "1")
		changes, sets := []tuf.Change{tuf.AddTarget{Target: t}}, content{"targets:1": v}
		_, delegated := r.now.content["keys:"+string(tuf.RoleReleases)]
		_, there := r.now.files[tuf.RoleReleases]
		switch {
		case lost && there:
			changes = append(changes, tuf.Resign{Role: tuf.RoleReleases})
		case lost && delegated: // its first file may be what was lost
			t, v := w.target(tuf.RoleReleases, "r1")
			changes, sets["targets/releases:r1"] = append(changes, tuf.AddTarget{Target: t}), v
		}
		err := w.cured(ann, gun, func() error {
			return w.try(ann, rnd, gun, "publish at the end", sets, nil, func(r *trust.Repository) error {
				_, err := r.AllowLapsed().Publish(context.Background(), func(*tuf.Set) ([]tuf.Change, error) { return changes, nil })
				return err
			})
		})
		if err != nil {
			w.fail("%s cannot be published to at the end: %v", gun, err)
			return false
		}
		w.check()
	}
	for _, m := range w.machines {
		if m.keys != nil {
			w.heal(m, gun)
		}
		err := w.cured(m, gun, func() error {
			if has := w.believes(m, gun); has != "" && has != r.now.lineage {
				return w.accept(m, gun)
			}
			return w.read(m, rnd, gun, "read at the end", nil)
		})
		if err != nil {
			w.fail("%s cannot read %s at the end: %v", m.name, gun, err)
			return false
		}
		for role, d := range r.now.docs {
			if seen := m.seen[gun].versions[role]; role.TopLevel() && seen != d.Version {
				w.fail("%s sees %s version %d of %s at the end, and %d is published", m.name, role, seen, gun, d.Version)
			}
		}
	}
	return true
}

// ahead reports whether no root key of a repository has a certificate that is
// valid yet, nor within a day: they were made, and taken, where clocks were
// ahead.
func (w *world) ahead(gun tuf.GUN) bool {
	root, ok := w.role(gun, tuf.RoleRoot)
	return ok && !slices.ContainsFunc(root.Keys, func(k tuf.Key) bool {
		certificates, err := k.Certificates()
		return err != nil || !certificates[0].NotBefore.After(w.now.Add(day))
	})
}

// cured does what the client tells its user to do, and tries again: about a
// memory of a time that is yet to come, and about what was lost.
func (w *world) cured(m *machine, gun tuf.GUN, do func() error) error {
	err := do()
	for range 3 {
		var clock *trust.ClockError
		switch {
		case errors.As(err, &clock):
			w.must(os.Remove(clock.File))
			if seen := m.seen[gun]; seen != nil {
				seen.checked = time.Time{}
			}
		case m.keys == w.owners && w.oracle.repos[gun].lost && errors.Is(err, tuf.ErrRollback):
			w.must(m.dir.Forget(gun)) // the owner knows what was lost
			delete(m.seen, gun)
		case m.keys == w.owners && errors.Is(err, tuf.ErrExpired):
			// A snapshot of the owner's was dated and not committed: the server
			// cannot date the one before it again.
			w.must(w.try(m, rand.New(rand.NewPCG(1, 3)), gun, "have the server sign anew", content{}, nil, func(r *trust.Repository) error {
				_, err := r.Move(context.Background())
				return err
			}))
		default:
			return err
		}
		w.note("%s: helps itself about %s", m.name, class(err))
		err = do()
	}
	return err
}
