package trust_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

func (w *world) doRotate(rnd *rand.Rand) {
	m := w.idle(rnd, "ann", "ann2")
	if m == nil {
		return
	}
	role := pick(rnd, []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp})
	gun := w.gunOf(rnd)
	toServer := role == tuf.RoleTimestamp || role == tuf.RoleSnapshot && rnd.IntN(2) == 0
	if err := w.rotate(m, rnd, gun, role, toServer); err == nil && role == tuf.RoleRoot && rnd.IntN(4) > 0 {
		_ = w.rotate(m, rnd, gun, role, false) // consumers have two roots to catch up with
	}
}

func (w *world) rotate(m *machine, rnd *rand.Rand, gun tuf.GUN, role tuf.RoleName, toServer bool) error {
	o := trust.Rotation{Role: role, Server: toServer}
	sets := content{}
	switch {
	case toServer:
	case role == tuf.RoleSnapshot:
		o.Keys = []tuf.CanonicalID{w.owners.make(role, gun).CanonicalID()}
	default:
		o.Threshold = 2
		var ids []string
		for range 3 {
			k := w.owners.make(role, gun)
			o.Keys = append(o.Keys, k.CanonicalID())
			ids = append(ids, identity(k))
		}
		slices.Sort(ids)
		sets["keys:"+string(role)] = strings.Join(ids, " ")
	}
	return w.try(m, rnd, gun, fmt.Sprintf("rotate %s, to the server: %v", role, o.Server), sets, nil, func(r *trust.Repository) error {
		_, err := r.Rotate(context.Background(), o)
		return err
	})
}

func (w *world) doDelegate(rnd *rand.Rand) {
	m := w.idle(rnd, "ann", "ann2")
	if m == nil {
		return
	}
	gun, role := w.gunOf(rnd), tuf.RoleReleases
	if rnd.IntN(4) == 0 {
		_ = w.try(m, rnd, gun, "remove releases", content{"keys:" + string(role): ""}, []string{string(role) + ":"}, func(r *trust.Repository) error {
			_, err := r.Publish(context.Background(), func(set *tuf.Set) ([]tuf.Change, error) {
				if set == nil {
					return nil, errNothing
				}
				if _, there := set.Role(role); !there {
					return nil, nil
				}
				return []tuf.Change{tuf.RemoveDelegation{Name: role}}, nil
			})
			return err
		})
		return
	}
	_ = w.delegate(m, rnd, gun, rnd.IntN(4) > 0)
}

// delegate gives releases a key of an owner, so that the file can be signed
// again, and one of a collaborator. A delegation that was taken back is made
// again with other keys only: with the same ones, who missed that cannot tell
// it from one whose file is kept from them (attacks.md F6).
func (w *world) delegate(m *machine, rnd *rand.Rand, gun tuf.GUN, shared bool) error {
	role := tuf.RoleReleases
	now, there := w.oracle.repos[gun].now, false
	if now != nil {
		_, there = now.content["keys:"+string(role)]
	}
	if !there {
		w.owners.from, w.others.from = len(w.owners.releases), len(w.others.releases)
	}
	have := []tuf.PublicKey{w.pool(w.owners, rnd)}
	if shared {
		have = append(have, w.pool(w.others, rnd))
	}
	var ids []string
	for _, k := range have {
		ids = append(ids, identity(k))
	}
	slices.Sort(ids)
	start := w.oracle.clock
	err := w.try(m, rnd, gun, fmt.Sprintf("delegate releases to %d keys", len(have)), content{"keys:" + string(role): strings.Join(ids, " ")}, nil, func(r *trust.Repository) error {
		_, err := r.Publish(context.Background(), func(set *tuf.Set) ([]tuf.Change, error) {
			if set == nil {
				return nil, errNothing
			}
			if _, is := set.Role(role); is != there {
				return nil, errNothing // it is another question now
			}
			return exactly(set, role, have), nil
		})
		return err
	})
	w.oracle.revoked(gun, role, start, err)
	return err
}

// exactly plans to give a delegation these keys and no others.
func exactly(set *tuf.Set, role tuf.RoleName, have []tuf.PublicKey) []tuf.Change {
	e := tuf.EditDelegation{Role: role, AddPaths: []string{"r", "v"}}
	was, _ := set.Role(role)
	for _, k := range was.Keys {
		if !slices.ContainsFunc(have, func(h tuf.PublicKey) bool { return h.CanonicalID() == k.CanonicalID() }) {
			e.RemoveKeys = append(e.RemoveKeys, k.CanonicalID())
		}
	}
	for _, h := range have {
		if !slices.ContainsFunc(was.Keys, func(k tuf.Key) bool { return h.CanonicalID() == k.CanonicalID() }) {
			e.AddKeys = append(e.AddKeys, h)
		}
	}
	changes := []tuf.Change{e}
	if _, ok := set.File(role); ok && len(e.RemoveKeys) > 0 {
		changes = append(changes, tuf.Resign{Role: role})
	}
	return changes
}

// pool returns one of a few keys of delegations, so that they come back.
func (w *world) pool(v *vault, rnd *rand.Rand) tuf.PublicKey {
	n := v.from + rnd.IntN(3)
	for len(v.releases) <= n {
		v.releases = append(v.releases, v.make(tuf.RoleReleases, ""))
	}
	return v.releases[n]
}

func (w *world) doDelete(rnd *rand.Rand) {
	if m := w.idle(rnd, "ann"); m != nil {
		_ = w.delete(m, rnd, w.gunOf(rnd))
	}
}

func (w *world) delete(m *machine, rnd *rand.Rand, gun tuf.GUN) error {
	err := w.try(m, rnd, gun, "delete", content{}, []string{""}, func(r *trust.Repository) error { return r.Delete(context.Background(), true) })
	if w.believes(m, gun) == "" {
		delete(m.seen, gun)
	}
	if staged, e := m.repository(gun).Staged(); e == nil && len(staged) == 0 {
		delete(m.staged, gun)
	}
	return err
}

// doBegin makes a repository where there is none.
func (w *world) doBegin(rnd *rand.Rand) {
	m := w.idle(rnd, "ann", "ann2")
	if m == nil {
		return
	}
	gun := w.gunOf(rnd)
	for _, g := range guns {
		if w.oracle.repos[g].now == nil && w.depth == 0 {
			gun, w.about = g, g
		}
	}
	if rnd.IntN(4) > 0 {
		w.heal(m, gun)
	}
	if w.start(m, rnd, gun) == nil && rnd.IntN(2) == 0 {
		_ = w.delegate(m, rnd, gun, true)
	}
}

func (w *world) start(m *machine, rnd *rand.Rand, gun tuf.GUN) error {
	if w.oracle.repos[gun].unsure() != nil {
		// To delete again what may have been deleted does no harm.
		if err := w.delete(m, rnd, gun); err != nil {
			return err
		}
	}
	root := w.owners.make(tuf.RoleRoot, "")
	client := rnd.IntN(4) == 0
	var made trust.Initialized
	err := w.use(m, rnd, fmt.Sprintf("begin %s, with its own snapshot key: %v", gun, client), func() error {
		var err error
		made, err = m.repository(gun).Init(context.Background(), trust.InitOptions{RootKey: root.CanonicalID(), ClientSnapshot: client})
		return err
	})
	if err != nil {
		if errors.Is(err, trust.ErrInitialized) || rnd.IntN(2) == 0 {
			w.heal(m, gun)
		}
		return err
	}
	t, v := w.target(tuf.RoleTargets, "1")
	sets := content{"repository": "there", "targets:1": v, "keys:root": identity(root), "keys:targets": w.oracle.names[made.Targets]}
	return w.try(m, rnd, gun, "publish for the first time", sets, []string{""}, func(r *trust.Repository) error {
		_, err := r.Publish(context.Background(), func(set *tuf.Set) ([]tuf.Change, error) {
			if set != nil {
				return nil, errNothing // somebody else began
			}
			return []tuf.Change{tuf.AddTarget{Target: t}}, nil
		})
		return err
	})
}

// doAccept is a person who was told that a repository was made anew, and asks
// its owners which root is theirs.
func (w *world) doAccept(rnd *rand.Rand) {
	if m := w.idle(rnd, "carl", "dora", "emil"); m != nil {
		gun := w.gunOf(rnd)
		for _, g := range guns {
			if now, has := w.oracle.repos[g].now, w.believes(m, g); now != nil && has != "" && has != now.lineage {
				gun = g
			}
		}
		_ = w.use(m, rnd, "accept another "+string(gun), func() error { return w.accept(m, gun) })
	}
}

func (w *world) accept(m *machine, gun tuf.GUN) error {
	now, has := w.oracle.repos[gun].now, w.believes(m, gun)
	if now == nil || has == "" || now.lineage == has {
		return errNothing
	}
	r := m.repository(gun)
	set, err := r.Afresh(context.Background())
	if err != nil {
		return err
	}
	root, _ := set.File(tuf.RoleRoot) // every Set has one
	if w.oracle.root(gun, readDocument(root.Raw)) != now.lineage {
		return errNothing
	}
	delete(m.seen, gun) // from here on it may believe either
	if err := r.Accept(set, nil); err != nil {
		return err
	}
	w.oracle.accepted(m, gun, set)
	return nil
}

// believes says from which first root that which a machine remembers comes, ""
// if it remembers nothing.
func (w *world) believes(m *machine, gun tuf.GUN) string {
	local, err := m.repository(gun).Local()
	switch {
	case err != nil:
		return "damaged"
	case local == nil:
		return ""
	}
	if lineage := w.oracle.root(gun, readDocument(local.Root().Raw)); lineage != "" {
		return lineage
	}
	return "unknown"
}

func (w *world) doHeal(rnd *rand.Rand) {
	if m := w.idle(rnd, "ann", "ann2", "bob"); m != nil {
		for _, gun := range guns {
			w.heal(m, gun)
		}
	}
}

// heal is a publisher who forgets what was only made here, or what is no more.
func (w *world) heal(m *machine, gun tuf.GUN) {
	if now, has := w.oracle.repos[gun].now, w.believes(m, gun); has != "" && (now == nil || now.lineage != has) {
		m.writes = -1000
		w.note("%s: forgets %s", m.name, gun)
		w.must(m.dir.Drop(gun))
		delete(m.seen, gun)
		delete(m.staged, gun)
	}
}
