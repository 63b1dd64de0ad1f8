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

// online returns a key of a role that the server needs, if the thief has a copy:
// a snapshot key that its owner keeps is always online, too.
func (t *thief) online(gun tuf.GUN, name tuf.RoleName) (tuf.Signer, bool) {
	role, _ := t.w.role(gun, name)
	for _, k := range role.Keys {
		s, ok := t.w.signer.copies[k.CanonicalID()]
		if !ok && name == tuf.RoleSnapshot {
			var err error
			s, err = t.w.owners.Memory.Open(context.Background(), k.CanonicalID())
			ok = err == nil
		}
		if ok {
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
	if !ok || now == nil || r.lost || seen.lineage != now.lineage || seen.versions[tuf.RoleRoot] != now.docs[tuf.RoleRoot].Version {
		return "" // with keys that are new to it, versions begin again (attacks.md F12)
	}
	dated := func(snapshot []byte, version int64) {
		a.add(tuf.RoleSnapshot, snapshot)
		a.add(tuf.RoleTimestamp, reseal(w, now.files[tuf.RoleTimestamp], func(o tuftest.Object) {
			o["version"], o["expires"] = version, w.now.Add(day).Format(time.RFC3339)
			tuftest.At(o, "meta")["snapshot"] = tuftest.Describe(snapshot)
		}, timestamp))
	}
	order := []string{"old targets in a new snapshot", "an old snapshot with a new date", "a snapshot of a lower version"}
	rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	if another := "another timestamp of a version"; rnd.IntN(4) == 0 {
		order = append([]string{another}, order...)
	} else {
		order = append(order, another)
	}
	for _, said := range order {
		version := seen.versions[tuf.RoleTimestamp]
		switch said {
		case "another timestamp of a version":
			if version == now.docs[tuf.RoleTimestamp].Version {
				dated(now.files[tuf.RoleSnapshot], version)
				return said
			}
		case "a snapshot of a lower version":
			key, ok := t.online(gun, tuf.RoleSnapshot)
			if lower := seen.versions[tuf.RoleSnapshot] - 1; ok && lower > 0 {
				dated(reseal(w, now.files[tuf.RoleSnapshot], func(o tuftest.Object) { o["version"] = lower }, key), version+1)
				return said
			}
		case "an old snapshot with a new date":
			if old := t.older(m, gun, tuf.RoleSnapshot, rnd); old != nil {
				dated(old.files[tuf.RoleSnapshot], version+1)
				a.addTargets(old)
				return said
			}
		case "old targets in a new snapshot":
			key, ok := t.online(gun, tuf.RoleSnapshot)
			if old := t.older(m, gun, tuf.RoleTargets, rnd); ok && old != nil {
				next := seen.versions[tuf.RoleSnapshot] + 1
				dated(reseal(w, old.files[tuf.RoleSnapshot], func(o tuftest.Object) { o["version"] = next }, key), version+1)
				a.addTargets(old)
				return said
			}
		}
	}
	return ""
}

// older is a state under the same root, from before what m has seen of a role,
// nil if there is none.
func (t *thief) older(m *machine, gun tuf.GUN, role tuf.RoleName, rnd *rand.Rand) *published {
	r := t.w.oracle.repos[gun]
	all := slices.DeleteFunc(slices.Clone(r.history), func(p *published) bool {
		return p.sums[tuf.RoleRoot] != r.now.sums[tuf.RoleRoot] || p.docs[role].Version >= m.seen[gun].versions[role] || p.docs[tuf.RoleSnapshot].Expires.Before(m.clock())
	})
	if len(all) == 0 {
		return nil
	}
	return pick(rnd, all)
}

// doLie shows a machine what the thief made with the keys that the server needs.
func (w *world) doLie(rnd *rand.Rand) {
	m, gun := w.victim(rnd)
	if m == nil || m.seen[gun] == nil {
		return
	}
	_ = w.read(m, rnd, gun, "read", nil) // so that more is older than what it knows
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
