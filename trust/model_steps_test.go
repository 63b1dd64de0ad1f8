package trust_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

const (
	second = time.Second
	minute = time.Minute
	day    = 24 * time.Hour
	year   = 365 * day
)

// Two repositories: the first begins with roles that take two of three keys.
var guns = []tuf.GUN{"registry.example/app", "registry.example/tool"}

// An action is one step of a run. Its choices come from its own seed, so that
// a step does the same when others are left out.
type action struct {
	kind string
	seed uint64
}

func (a action) rnd() *rand.Rand { return rand.New(rand.NewPCG(a.seed, 1)) }

// steps are what can happen, each as often as its weight says.
var steps = []struct {
	kind   string
	weight int
	do     func(*world, *rand.Rand)
}{
	{"publish", 30, (*world).doPublish},
	{"staged", 5, (*world).doStaged},
	{"read", 30, (*world).doRead},
	{"attack", 32, (*world).doAttack},
	{"lie", 18, (*world).doLie},
	{"burglar", 8, (*world).doBurglar},
	{"thief", 8, (*world).doThief},
	{"insider", 12, (*world).doInsider},
	{"rotate", 8, (*world).doRotate},
	{"delegate", 8, (*world).doDelegate},
	{"delete", 2, (*world).doDelete},
	{"begin", 8, (*world).doBegin},
	{"accept", 8, (*world).doAccept},
	{"heal", 4, (*world).doHeal},
	{"renew", 5, (*world).doRenew},
	{"follow", 12, (*world).doFollow},
	{"overtake", 6, (*world).doOvertake},
	{"time", 14, (*world).doTime},
	{"clock", 8, (*world).doClock},
	{"restart", 5, (*world).doRestart},
	{"arrive", 5, func(w *world, _ *rand.Rand) { w.arrive(); w.note("what was late arrives") }},
	{"signer", 4, (*world).doSigner},
	{"new machine", 2, (*world).doNewMachine},
	{"backup", 3, (*world).doBackup},
	{"prune", 2, (*world).doPrune},
}

// nested are the steps that can happen within others.
var nested = []func(*world, *rand.Rand){
	(*world).doPublish, (*world).doPublish, (*world).doPublish, (*world).doRead, (*world).doRotate, (*world).doDelegate, (*world).doRenew, (*world).doDelete, (*world).doBegin,
}

// within does another step in the middle of this one.
func (w *world) within(rnd *rand.Rand) {
	if w.depth >= 2 {
		return
	}
	w.depth++
	nested[rnd.IntN(len(nested))](w, rand.New(rand.NewPCG(rnd.Uint64(), 2)))
	w.depth--
}

func pick[T any](rnd *rand.Rand, from []T) T { return from[rnd.IntN(len(from))] }

// gunOf chooses a repository: in the middle of another step, mostly the one
// which that is about.
func (w *world) gunOf(rnd *rand.Rand) tuf.GUN {
	gun := pick(rnd, guns)
	if w.depth > 0 && rnd.IntN(4) > 0 && w.about != "" {
		return w.about
	}
	if w.depth == 0 {
		w.about = gun
	}
	return gun
}

// idle returns a machine of these names that has nothing to do, nil if none.
func (w *world) idle(rnd *rand.Rand, names ...string) *machine {
	var free []*machine
	for _, m := range w.machines {
		if !m.busy && slices.Contains(names, m.name) {
			free = append(free, m)
		}
	}
	if len(free) == 0 {
		return nil
	}
	return pick(rnd, free)
}

// arm chooses what goes wrong while m does something.
func (w *world) arm(m *machine, rnd *rand.Rand) string {
	m.rnd, m.requests, m.writes, m.doubled, m.deed = rnd, 0, 0, false, nil
	m.fault, m.crash = fault{}, 0
	if w.calm {
		return ""
	}
	said := ""
	for range 1 + rnd.IntN(2) {
		switch rnd.IntN(11) {
		case 0, 1:
			m.fault = fault{at: 1 + rnd.IntN(6), kind: pick(rnd, networkFaults), rnd: rnd}
			said += fmt.Sprintf(" [request %d: %s]", m.fault.at, m.fault.kind)
		case 2, 3:
			n := pick(rnd, w.instances)
			if n.busy == 0 {
				n.calls, n.fault = 0, fault{at: 1 + rnd.IntN(8), kind: pick(rnd, serverFaults), rnd: rnd}
				said += fmt.Sprintf(" [server %d at call %d: %s]", n.id, n.fault.at, n.fault.kind)
			}
		case 9, 10: // whichever of them it is that commits
			kind := pick(rnd, serverFaults)
			for _, n := range w.instances {
				if n.busy == 0 {
					n.calls, n.fault = 0, fault{kind: kind, rnd: rnd, commit: true}
				}
			}
			said += fmt.Sprintf(" [at the commit: %s]", kind)
		case 4:
			w.signer.crash, w.signer.after = 1+rnd.IntN(2), rnd.IntN(2) == 0
			said += fmt.Sprintf(" [signer dies at signature %d, after it: %v]", w.signer.crash, w.signer.after)
		case 5:
			m.crash = 1 + rnd.IntN(10)
			said += fmt.Sprintf(" [machine dies at write %d]", m.crash)
		}
	}
	return said
}

// use does something on a machine, with what may go wrong.
func (w *world) use(m *machine, rnd *rand.Rand, what string, do func() error) error {
	m.busy = true
	said := w.arm(m, rnd)
	w.note("%s: %s%s", m.name, what, said)
	err := do()
	m.busy, m.fault, m.evil = false, fault{}, nil
	for _, n := range w.instances {
		if n.fault.rnd == rnd {
			n.fault = fault{}
		}
	}
	w.signer.crash = 0
	if m.crashed {
		err = errDead
		m.crashed = false
		m.restart()
	}
	w.note("%s: %s", m.name, class(err))
	return err
}

// class says in a word or two what came out of something.
func class(err error) string {
	var stale *trust.Stale
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &stale):
		return "stale"
	}
	var out []string
	for _, e := range []struct {
		name string
		err  error
	}{
		{"died", errDead}, {"uncertain", trust.ErrUncertain}, {"unreachable", trust.ErrUnreachable}, {"conflict", trust.ErrConflict}, {"not signed", trust.ErrNotSigned}, {"gone", trust.ErrGone},
		{"clock", trust.ErrClock}, {"frozen", trust.ErrFrozen}, {"damaged", trust.ErrDamaged}, {"busy", trust.ErrBusy}, {"no server", trust.ErrNotTrustServer},
		{"not initialized", trust.ErrNotInitialized}, {"initialized", trust.ErrInitialized}, {"malformed", tuf.ErrMalformed}, {"unsigned", tuf.ErrUnsigned}, {"expired", tuf.ErrExpired},
		{"rollback", tuf.ErrRollback}, {"mismatch", tuf.ErrMismatch}, {"root", tuf.ErrRoot}, {"pin", tuf.ErrPin}, {"incomplete", tuf.ErrIncomplete}, {"no key", tuf.ErrNoKey},
		{"no delegation", tuf.ErrNoDelegation}, {"role", tuf.ErrRole}, {"limit", tuf.ErrLimit},
	} {
		if errors.Is(err, e.err) {
			out = append(out, e.name)
		}
	}
	var refused *trust.ServerRefusal
	if errors.As(err, &refused) {
		out = append(out, "server said "+string(refused.Err.Code))
	}
	if len(out) == 0 {
		return "other: " + err.Error()
	}
	return strings.Join(out, ", ")
}

// try is use for what changes a repository. Its author is told that it
// happened, or that it did not, or knows nothing.
func (w *world) try(m *machine, rnd *rand.Rand, gun tuf.GUN, what string, sets content, clears []string, do func(*trust.Repository) error) error {
	var d *deed
	err := w.use(m, rnd, fmt.Sprintf("%s of %s", what, gun), func() error {
		d = w.oracle.begin(gun, what, sets, clears...)
		m.deed = d
		return do(m.repository(gun))
	})
	// One server may refuse, by its clock, what another one takes.
	w.oracle.done(d, err == nil, err != nil && !unknown(err) && !m.doubled)
	if (errors.Is(err, trust.ErrGone) || errors.Is(err, tuf.ErrRoot)) && rnd.IntN(2) == 0 {
		w.heal(m, gun)
	}
	return err
}

// unknown reports whether err leaves open what happened.
func unknown(err error) bool {
	return errors.Is(err, errDead) || errors.Is(err, trust.ErrUncertain) || errors.Is(err, trust.ErrUnreachable)
}

// target returns a tag with a value that nobody else gave to any.
func (w *world) target(role tuf.RoleName, name string) (tuf.Target, string) {
	w.value++
	sum := sha256.Sum256(fmt.Appendf(nil, "value %d", w.value))
	return tuf.Target{Name: name, Role: role, FileMeta: tuf.FileMeta{Length: int64(w.value), Hashes: map[string][]byte{"sha256": sum[:]}}},
		base64.StdEncoding.EncodeToString(sum[:])
}

var (
	tags     = []string{"1", "2", "r1", "v1"}
	tagsOfBy = map[tuf.RoleName][]string{tuf.RoleTargets: tags, tuf.RoleReleases: {"r1", "r2", "v1"}}
)

var errNothing = errors.New("there is nothing to do it to")

// edit chooses a change of tags.
func (w *world) edit(rnd *rand.Rand, role tuf.RoleName) ([]tuf.Change, content) {
	var changes []tuf.Change
	sets := content{}
	for range 1 + rnd.IntN(2) {
		name := pick(rnd, tagsOfBy[role])
		key := string(role) + ":" + name
		if _, twice := sets[key]; twice {
			continue
		}
		if rnd.IntN(5) == 0 {
			changes, sets[key] = append(changes, tuf.RemoveTarget{Role: role, Name: name}), ""
			continue
		}
		t, v := w.target(role, name)
		changes, sets[key] = append(changes, tuf.AddTarget{Target: t}), v
	}
	return changes, sets
}

func (w *world) doPublish(rnd *rand.Rand) {
	m := w.idle(rnd, "ann", "ann2", "bob")
	if m == nil {
		return
	}
	gun, role := w.gunOf(rnd), tuf.RoleTargets
	if m.name == "bob" || rnd.IntN(4) == 0 {
		role = tuf.RoleReleases
	}
	changes, sets := w.edit(rnd, role)
	lapsed := m.keys == w.owners && rnd.IntN(3) == 0
	_ = w.try(m, rnd, gun, fmt.Sprintf("publish %d tags in %s", len(changes), role), sets, nil, func(r *trust.Repository) error {
		if lapsed {
			r = r.AllowLapsed()
		}
		_, err := r.Publish(context.Background(), func(set *tuf.Set) ([]tuf.Change, error) { return changes, exists(set) })
		return err
	})
}

// exists refuses to publish for the first time in passing.
func exists(set *tuf.Set) error {
	if set == nil {
		return errNothing
	}
	return nil
}

func (w *world) doStaged(rnd *rand.Rand) {
	m := w.idle(rnd, "ann", "bob")
	if m == nil {
		return
	}
	gun, role := w.gunOf(rnd), tuf.RoleTargets
	if m.name == "bob" {
		role = tuf.RoleReleases
	}
	if has := w.believes(m, gun); has != "" && !w.oracle.served(gun, has) {
		w.heal(m, gun) // to publish what is staged would be to publish for the first time
		return
	}
	changes, sets := w.edit(rnd, role)
	m.writes = -1000 // nothing goes wrong yet
	w.must(m.repository(gun).Stage(changes...))
	all := maps.Clone(sets)
	for key, v := range m.staged[gun] {
		if _, again := sets[key]; !again {
			all[key] = v
		}
	}
	m.staged[gun] = all
	if rnd.IntN(4) == 0 {
		w.note("%s: stages %d tags of %s", m.name, len(changes), gun)
		return
	}
	err := w.try(m, rnd, gun, "publish what is staged", all, nil, func(r *trust.Repository) error {
		_, err := r.PublishStaged(context.Background())
		return err
	})
	switch staged, e := m.repository(gun).Staged(); {
	case e != nil:
		w.must(e)
	case err == nil && len(staged) > 0:
		w.fail("%s: staged changes of %s are still there after they were published", m.name, gun)
	case err == nil:
		delete(m.staged, gun)
	case rnd.IntN(2) == 0 || len(staged) == 0:
		for _, s := range staged {
			w.must(m.repository(gun).Reset(s.Name))
		}
		delete(m.staged, gun)
	}
}

// consumers read; publishers do, too.
var readers = []string{"carl", "dora", "emil", "carl", "ann", "bob"}

func (w *world) doRead(rnd *rand.Rand) {
	if m := w.idle(rnd, readers...); m != nil {
		gun := w.gunOf(rnd)
		err := w.read(m, rnd, gun, "read", nil)
		if (errors.Is(err, trust.ErrGone) || errors.Is(err, tuf.ErrRoot)) && m.keys == nil && rnd.IntN(3) == 0 {
			_ = w.use(m, rnd, "accept another "+string(gun), func() error { return w.accept(m, gun) })
		}
	}
}

// read updates m, from whoever evil is, and has the oracle judge what m
// believes then.
func (w *world) read(m *machine, rnd *rand.Rand, gun tuf.GUN, what string, evil func(string) (int, []byte)) error {
	return w.use(m, rnd, what+" "+string(gun), func() error {
		m.evil = evil
		set, err := m.repository(gun).Update(context.Background())
		if err == nil {
			w.oracle.checked(m, gun)
		}
		if set != nil {
			w.oracle.accepted(m, gun, set)
			w.lookUp(m, gun, set, pick(rnd, tags))
		}
		return err
	})
}

// lookUp compares what a tag is for a consumer with what was signed.
func (w *world) lookUp(m *machine, gun tuf.GUN, set *tuf.Set, tag string) {
	want := ""
	for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleReleases} {
		for t := range set.Targets(role) {
			if t.Name == tag {
				want = base64.StdEncoding.EncodeToString(t.SHA256())
			}
		}
	}
	got := ""
	if t, err := trust.Lookup(set, tag); err == nil {
		got = base64.StdEncoding.EncodeToString(t.SHA256())
	}
	if got != want {
		w.fail("%s gets %q for tag %s of %s, want %q", m.name, got, tag, gun, want)
	}
}

func (w *world) doRenew(rnd *rand.Rand) {
	if n := w.free(rnd); n != nil {
		w.note("server %d renews", n.id)
		crash := w.signer.crash
		w.signer.crash = 0 // in which order repositories are renewed is not determined
		n.busy++
		_ = n.Renew(context.Background()) // what it cannot do is its own business
		n.busy--
		w.signer.crash = crash
	}
}

func (w *world) doFollow(rnd *rand.Rand) {
	n := pick(rnd, w.instances)
	if n.busy > 0 {
		return
	}
	w.follows(n, rnd)
	if rnd.IntN(2) == 0 { // a tenth of a second later, and what the other one did meanwhile
		n.busy++
		pick(rnd, []func(*world, *rand.Rand){(*world).doPublish, (*world).doPublish, (*world).doPublish, (*world).doPublish, (*world).doDelete})(w, rnd)
		n.busy--
		w.follows(n, rnd)
	}
}

func (w *world) follows(n *instance, rnd *rand.Rand) {
	if rnd.IntN(5) == 0 {
		n.calls, n.fault = 0, fault{at: 1, kind: pick(rnd, []string{"fail before", "away"}), rnd: rnd}
	}
	at := n.clock()
	err := n.Follow(context.Background())
	w.note("server %d follows: %v", n.id, err == nil)
	n.excused = n.fault.kind == "away"
	n.fault = fault{}
	if err != nil {
		return
	}
	n.followed = at
	for _, gun := range guns {
		w.oracle.store(gun)
		switch r := w.oracle.repos[gun]; {
		case r.now != nil:
			n.knows[gun] = max(n.knows[gun], r.now.seq)
		case !r.lost && len(r.history) > 0: // that it was deleted
			n.knows[gun] = max(n.knows[gun], r.history[len(r.history)-1].seq+1)
		}
	}
}

// doOvertake has a server that has just started load a repository, and take a
// publish before it is done with that: what it loaded is old, and must not take
// the place of what it has committed.
func (w *world) doOvertake(rnd *rand.Rand) {
	n, gun := pick(rnd, w.instances), w.gunOf(rnd)
	if n.busy > 0 {
		return
	}
	w.note("server %d starts again", n.id)
	n.restart()
	w.follows(n, rnd)
	n.meanwhile = func() {
		w.via = n
		w.depth++
		do := pick(rnd, []func(*world, *rand.Rand){(*world).doPublish, (*world).doPublish, (*world).doPublish, (*world).doRotate, (*world).doDelete})
		do(w, rand.New(rand.NewPCG(rnd.Uint64(), 2)))
		w.depth--
		w.via = nil
	}
	w.note("server %d is asked for %s", n.id, gun)
	timestamp := api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleTimestamp}
	_, _ = w.deliver(context.Background(), n, letter{method: http.MethodGet, path: timestamp.Path(), header: http.Header{}}) // who asked first may get either
	n.meanwhile = nil
}

func (w *world) doTime(rnd *rand.Rand) {
	d := pick(rnd, []time.Duration{second, second, second, 3 * second, 2 * minute, 2 * minute, 6 * time.Hour, day, 2 * day, 4 * day, 9 * day, 60 * day})
	if d > 9*day && rnd.IntN(3) > 0 {
		d = 3 * second
	}
	w.now = w.now.Add(d)
	w.note("%v pass", d)
	if d >= 6*time.Hour && rnd.IntN(2) == 0 {
		w.doRenew(rnd) // which a server tries every minute
	}
}

func (w *world) doClock(rnd *rand.Rand) {
	d := pick(rnd, []time.Duration{0, 0, 0, 0, 0, 0, 0, time.Hour, -time.Hour, 3 * day, -3 * day, 400 * day, -400 * day, 5 * year, -5 * year, -3 * day, -3 * day})
	switch i := rnd.IntN(len(w.machines) + 4); {
	case i < len(w.machines):
		m, look := w.machines[i], rnd.IntN(2) == 0
		if look && d < 0 {
			_ = w.read(m, rnd, guns[0], "read", nil) // so that it knows what time it was
			_ = w.read(m, rnd, guns[1], "read", nil)
		}
		m.skew = d
		w.note("the clock of %s is off by %v", m.name, d)
		if look {
			for _, gun := range guns {
				_ = w.read(m, rnd, gun, "read", nil)
			}
			if rnd.IntN(4) > 0 {
				m.skew = 0
				w.note("the clock of %s is right again", m.name)
			}
		}
	case i < len(w.machines)+len(w.instances):
		n := w.instances[i-len(w.machines)]
		n.skew = d
		w.note("the clock of server %d is off by %v", n.id, d)
	default:
		w.signer.skew = d
		w.note("the clock of the signer is off by %v", d)
	}
}

func (w *world) doRestart(rnd *rand.Rand) {
	if n := pick(rnd, w.instances); rnd.IntN(3) > 0 && n.busy == 0 {
		w.note("server %d starts again", n.id)
		n.restart()
		return
	}
	w.note("the signer starts again")
	w.signer.restart()
}

func (w *world) doSigner(rnd *rand.Rand) {
	w.signer.away = !w.signer.away && rnd.IntN(2) == 0
	w.note("the signer is away: %v", w.signer.away)
}

func (w *world) doNewMachine(rnd *rand.Rand) {
	if m := w.idle(rnd, "dora", "emil"); m != nil {
		m.renew()
		w.note("%s has a new machine", m.name)
	}
}

func (w *world) doBackup(rnd *rand.Rand) {
	switch {
	case w.backup == nil || rnd.IntN(3) > 0:
		w.note("the store is backed up")
		w.save()
	case w.oracle.sameRoots(w.backup):
		w.note("the store is set back")
		w.restore()
		w.oracle.restored(w.backup)
	}
}

func (w *world) doPrune(rnd *rand.Rand) {
	at := w.now.Add(pick(rnd, []time.Duration{0, 40 * day, -40 * day}))
	w.note("the store is pruned")
	w.writes++
	w.must(w.store.Prune(context.Background(), at))
}
