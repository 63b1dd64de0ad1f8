package trust_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// online returns a key of a role that the server has, if the thief has a copy.
func (t *thief) online(gun tuf.GUN, name tuf.RoleName) (tuf.Signer, bool) {
	role, _ := t.w.role(gun, name)
	for _, k := range role.Keys {
		if s, ok := t.w.signer.copies[k.CanonicalID()]; ok {
			s, err := tuf.As(k.PublicKey, s)
			t.w.must(err)
			return s, true
		}
	}
	return nil, false
}

// role is a role as the root that is published now says.
func (w *world) role(gun tuf.GUN, name tuf.RoleName) (tuf.Role, bool) {
	now := w.oracle.repos[gun].now
	if now == nil {
		return tuf.Role{}, false
	}
	p, err := tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Raw: now.files[tuf.RoleRoot]}}, tuf.Options{Now: w.now})
	if err != nil {
		return tuf.Role{}, false
	}
	return p.Role(name)
}

// lie has the keys that the server needs sign what m must not believe all the
// same: content that is older than what m has seen, or another timestamp of a
// version that m has seen. It says which, or nothing if the thief cannot.
func (t *thief) lie(a *archive, m *machine, gun tuf.GUN, rnd *rand.Rand) string {
	w, r := t.w, t.w.oracle.repos[gun]
	seen, now := m.seen[gun], r.now
	timestamp, ok := t.online(gun, tuf.RoleTimestamp)
	if !ok || now == nil || r.lost || seen.lineage != now.lineage {
		return ""
	}
	dated := func(snapshot []byte, version int64) {
		a.add(tuf.RoleSnapshot, snapshot)
		a.add(tuf.RoleTimestamp, reseal(w, now.files[tuf.RoleTimestamp], func(o tuftest.Object) {
			o["version"], o["expires"] = version, w.now.Add(day).Format(time.RFC3339)
			tuftest.At(o, "meta")["snapshot"] = tuftest.Describe(snapshot)
		}, timestamp))
	}
	for _, i := range rnd.Perm(3) {
		role := []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets}[i]
		if role == tuf.RoleTimestamp {
			if seen.versions[role] == now.docs[role].Version {
				dated(now.files[tuf.RoleSnapshot], seen.versions[role])
				return "another timestamp of a version"
			}
			continue
		}
		// A state under the same root, from before what m has seen.
		older := slices.DeleteFunc(slices.Clone(r.history), func(p *published) bool {
			return p.sums[tuf.RoleRoot] != now.sums[tuf.RoleRoot] || p.docs[role].Version >= seen.versions[role] || p.docs[tuf.RoleSnapshot].Expires.Before(m.clock())
		})
		if same := slices.DeleteFunc(slices.Clone(older), func(p *published) bool {
			return p.sums[tuf.RoleTargets] != now.sums[tuf.RoleTargets] || p.sums[tuf.RoleReleases] != now.sums[tuf.RoleReleases]
		}); role == tuf.RoleSnapshot && len(same) > 0 {
			older = same // whose age only their own version tells
		}
		if len(older) == 0 {
			continue
		}
		old, said := pick(rnd, older), "an old snapshot with a new date"
		snapshot := old.files[tuf.RoleSnapshot]
		if role == tuf.RoleTargets {
			key, ok := t.online(gun, tuf.RoleSnapshot)
			if !ok {
				continue
			}
			said = "old targets in a new snapshot"
			snapshot = reseal(w, snapshot, func(o tuftest.Object) { o["version"] = seen.versions[tuf.RoleSnapshot] + 1 }, key)
		}
		for name, raw := range old.files {
			if name.HoldsTargets() {
				a.add(name, raw)
			}
		}
		dated(snapshot, seen.versions[tuf.RoleTimestamp]+1)
		return said
	}
	return ""
}

// doLie shows a machine what the thief made with the keys that the server needs.
func (w *world) doLie(rnd *rand.Rand) {
	m, gun := w.victim(rnd)
	if m == nil || m.seen[gun] == nil {
		return
	}
	_ = w.read(m, rnd, gun, "read", nil) // so that there is more that is older
	a := archiveOf(w.oracle.repos[gun].history)
	said := w.thief.lie(a, m, gun, rnd)
	if said == "" {
		return
	}
	_ = w.read(m, rnd, gun, "is shown "+said+" of", a.answer)
	// What was verified before the lie is kept, and versions that were made up
	// are above those to come: the machine has to be set up anew.
	m.renew()
}

// doBurglar has somebody who broke into a server ask the signer for what it
// must not sign. What it signs all the same is judged by the oracle.
func (w *world) doBurglar(rnd *rand.Rand) {
	gun := w.gunOf(rnd)
	r := w.oracle.repos[gun]
	role, ok := w.role(gun, tuf.RoleTimestamp)
	if !ok || len(role.Keys) == 0 {
		return
	}
	now := r.now
	// What is higher than now would only use up versions, which nobody can keep
	// a burglar from.
	old := pick(rnd, slices.DeleteFunc(slices.Clone(r.history), func(p *published) bool {
		return p.lineage != now.lineage || p.docs[tuf.RoleTimestamp].Version > now.docs[tuf.RoleTimestamp].Version || p.docs[tuf.RoleSnapshot].Version > now.docs[tuf.RoleSnapshot].Version
	}))
	base, named, version, said := now, now, now.docs[tuf.RoleTimestamp].Version+1+rnd.Int64N(3), ""
	switch rnd.IntN(5) {
	case 0:
		said, named = "a new date for an old snapshot", old
	case 1:
		said, version = "another timestamp of a version", old.docs[tuf.RoleTimestamp].Version
	case 2:
		said, base = "to build on an old state", old
	case 3:
		said, base, named = "to build on an old state, with its snapshot", old, old
	case 4:
		said, base = "to begin anew", nil
	}
	q := api.SignRequest{GUN: gun, Role: tuf.RoleTimestamp, Key: role.Keys[0].CanonicalID(), Snapshot: named.files[tuf.RoleSnapshot]}
	raw := reseal(w, now.files[tuf.RoleTimestamp], func(o tuftest.Object) {
		o["version"], o["expires"] = version, w.signer.clock().Add(day).Format(time.RFC3339)
		tuftest.At(o, "meta")["snapshot"] = tuftest.Describe(q.Snapshot)
	})
	meta, err := tuf.Outline(tuf.RoleTimestamp, raw, tuf.Options{})
	w.must(err)
	q.Payload = meta.Canonical
	if base != nil {
		q.Timestamp, q.BaseSnapshot = base.files[tuf.RoleTimestamp], base.files[tuf.RoleSnapshot]
	}
	_, err = w.signer.sign(context.Background(), q)
	w.note("a burglar asks the signer of %s for %s: %v", gun, said, fmt.Sprintf("signed: %v", err == nil))
}
