package trust_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A thief has one key of a role that takes two, and keys of his own.
type thief struct {
	w   *world
	has map[tuf.RoleName]tuf.Signer // as it speaks in metadata
}

// steal takes one key of a role, if one is not enough for it.
func (t *thief) steal(gun tuf.GUN, name tuf.RoleName) (tuf.Signer, bool) {
	now := t.w.oracle.repos[gun].now
	if now == nil {
		return nil, false
	}
	p, err := tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Raw: now.files[tuf.RoleRoot]}}, tuf.Options{Now: t.w.now})
	if err != nil {
		return nil, false
	}
	role, _ := p.Role(name)
	if role.Threshold < 2 {
		return nil, false
	}
	infos, err := t.w.owners.Memory.List(context.Background())
	t.w.must(err)
	for _, k := range role.Keys {
		if !slices.ContainsFunc(infos, func(i keys.Info) bool { return i.ID == k.CanonicalID() }) {
			continue
		}
		s, err := t.w.owners.Memory.Open(context.Background(), k.CanonicalID())
		t.w.must(err)
		s, err = tuf.As(k.PublicKey, s)
		t.w.must(err)
		t.has[name] = s
		return s, true
	}
	return nil, false
}

// An archive is what a server that is in the attacker's hands answers with.
type archive struct {
	current map[tuf.RoleName][]byte
	roots   map[int64][]byte
	blobs   map[[32]byte][]byte
	instead map[tuf.RoleName][]byte // whatever is asked of the role
	hidden  map[tuf.RoleName]bool
}

// archiveOf has everything that was ever published of a repository, and the
// last state as the current one.
func archiveOf(history []*published) *archive {
	a := &archive{roots: map[int64][]byte{}, blobs: map[[32]byte][]byte{}, instead: map[tuf.RoleName][]byte{}, hidden: map[tuf.RoleName]bool{}}
	for _, p := range history {
		for role, raw := range p.files {
			a.blobs[p.sums[role]] = raw
		}
		a.roots[p.docs[tuf.RoleRoot].Version] = p.files[tuf.RoleRoot]
		a.current = maps.Clone(p.files)
	}
	return a
}

func (a *archive) add(role tuf.RoleName, raw []byte) {
	a.current[role] = raw
	a.blobs[sha256.Sum256(raw)] = raw
}

// addTargets adds the targets of an old state, delegations included.
func (a *archive) addTargets(old *published) {
	for role, raw := range old.files {
		if role.HoldsTargets() {
			a.add(role, raw)
		}
	}
}

// answer is what its server answers.
func (a *archive) answer(path string) (int, []byte) {
	route, err := api.ParsePath(path)
	if err != nil {
		return http.StatusNotFound, nil
	}
	raw := a.current[route.Role]
	switch route.Kind {
	case api.FileByHash:
		raw = a.blobs[route.SHA256]
	case api.FileByVersion:
		raw = a.roots[route.Version]
	}
	if other, ok := a.instead[route.Role]; ok {
		raw = other
	}
	if raw == nil || a.hidden[route.Role] {
		e := api.NewError(api.MetadataNotFound, api.Empty{})
		return http.StatusNotFound, fmt.Appendf(nil, `{"errors":[{"code":"%s","message":"%s","detail":{}}]}`, e.Code, e.Message)
	}
	return http.StatusOK, raw
}

// mutations change a file without the keys for it.
var mutations = []struct {
	name string
	do   func(w *world, raw []byte) []byte
}{
	{"cut", func(_ *world, raw []byte) []byte { return raw[:len(raw)/2] }},
	{"empty", func(*world, []byte) []byte { return nil }},
	{"higher version", func(w *world, raw []byte) []byte {
		return tuftest.Signatures(w.t, reseal(w, raw, func(o tuftest.Object) { o["version"] = 1000 }), func([]tuftest.Object) []tuftest.Object { return signatures(w, raw) })
	}},
	{"lives longer", func(w *world, raw []byte) []byte {
		return tuftest.Signatures(w.t, reseal(w, raw, func(o tuftest.Object) { o["expires"] = "2199-01-01T00:00:00Z" }), func([]tuftest.Object) []tuftest.Object { return signatures(w, raw) })
	}},
	{"signed by nobody", func(w *world, raw []byte) []byte {
		return tuftest.Signatures(w.t, raw, func([]tuftest.Object) []tuftest.Object { return []tuftest.Object{} })
	}},
	{"signed by a stranger", func(w *world, raw []byte) []byte {
		return reseal(w, raw, func(o tuftest.Object) { o["version"] = 1000 }, tuftest.ECDSAKey("stranger"))
	}},
	{"one signature twice", func(w *world, raw []byte) []byte {
		return tuftest.Signatures(w.t, raw, func(s []tuftest.Object) []tuftest.Object { return []tuftest.Object{s[0], s[0]} })
	}},
	{"white space", func(_ *world, raw []byte) []byte { return append([]byte(" \n"), raw...) }},
	{"another member", func(w *world, raw []byte) []byte {
		return tuftest.Signatures(w.t, reseal(w, raw, func(o tuftest.Object) { o["x"] = 1 }), func([]tuftest.Object) []tuftest.Object { return signatures(w, raw) })
	}},
}

func reseal(w *world, raw []byte, edit func(tuftest.Object), signers ...tuf.Signer) []byte {
	if len(signers) == 0 {
		signers = tuftest.Unsigned
	}
	return tuftest.Reseal(w.t, raw, edit, signers...)
}

func signatures(w *world, raw []byte) (out []tuftest.Object) {
	tuftest.Signatures(w.t, raw, func(s []tuftest.Object) []tuftest.Object { out = s; return s })
	return out
}

// takeOver makes the attacker the one who signs everything below root. A root
// that he signs with a certificate of his own is his, too.
func (w *world) takeOver(a *archive, sign ...tuf.Signer) {
	own := tuftest.ECDSAKey("attacker")
	public := own.PublicKey()
	root := a.current[tuf.RoleRoot]
	root = reseal(w, root, func(o tuftest.Object) {
		o["version"] = readDocument(root).Version + 1
		tuftest.At(o, "keys")[string(public.ID())] = tuftest.KeyObject(public)
		if cert := sign[0].PublicKey(); cert.CanonicalID() == public.CanonicalID() && cert.ID() != public.ID() {
			tuftest.At(o, "keys")[string(cert.ID())] = tuftest.KeyObject(cert)
			r := tuftest.At(o, "roles", "root")
			r["keyids"], r["threshold"] = []any{string(cert.ID())}, 1
		}
		for _, role := range []string{"targets", "snapshot", "timestamp"} {
			r := tuftest.At(o, "roles", role)
			r["keyids"], r["threshold"] = []any{string(public.ID())}, 1
		}
	}, sign...)
	a.add(tuf.RoleRoot, root)
	a.roots[readDocument(root).Version] = root
	a.add(tuf.RoleTargets, reseal(w, a.current[tuf.RoleTargets], func(o tuftest.Object) {
		o["version"] = readDocument(a.current[tuf.RoleTargets]).Version + 1
		o["targets"] = tuftest.Object{"1": tuftest.Describe([]byte("evil"))}
	}, own))
	w.follow(a, own)
}

// follow makes the snapshot and timestamp that name a's current files.
func (w *world) follow(a *archive, sign ...tuf.Signer) {
	a.add(tuf.RoleSnapshot, reseal(w, a.current[tuf.RoleSnapshot], func(o tuftest.Object) {
		o["version"] = readDocument(a.current[tuf.RoleSnapshot]).Version + 1
		for role := range tuftest.At(o, "meta") {
			tuftest.At(o, "meta")[role] = tuftest.Describe(a.current[tuf.RoleName(role)])
		}
	}, sign...))
	a.add(tuf.RoleTimestamp, reseal(w, a.current[tuf.RoleTimestamp], func(o tuftest.Object) {
		o["version"] = readDocument(a.current[tuf.RoleTimestamp]).Version + 1
		tuftest.At(o, "meta")["snapshot"] = tuftest.Describe(a.current[tuf.RoleSnapshot])
	}, sign...))
}

// doAttack has machines ask a server that is in the attacker's hands, wholly
// or in part.
func (w *world) doAttack(rnd *rand.Rand) {
	for range 3 {
		if m, gun := w.victim(rnd); m != nil {
			w.attack(m, gun, rnd)
		}
	}
}

// victim chooses who is shown what. Who has no pin believes whoever comes
// first, and is not asked before that.
func (w *world) victim(rnd *rand.Rand) (*machine, tuf.GUN) {
	gun := w.gunOf(rnd)
	if w.oracle.repos[gun].now == nil && rnd.IntN(4) > 0 {
		gun = guns[(slices.Index(guns, gun)+1)%2]
	}
	if len(w.oracle.repos[gun].history) == 0 {
		return nil, gun
	}
	m := w.idle(rnd, slices.DeleteFunc([]string{"carl", "dora", "emil", "bob"}, func(name string) bool {
		return slices.ContainsFunc(w.machines, func(m *machine) bool { return m.name == name && !m.pinned && m.seen[gun] == nil })
	})...)
	return m, gun
}

func (w *world) attack(m *machine, gun tuf.GUN, rnd *rand.Rand) {
	if m.pinned && rnd.IntN(4) == 0 {
		m.renew() // the first that it ever hears of anything is the attacker
	}
	known := m.seen[gun] != nil
	history := w.oracle.repos[gun].history
	a := archiveOf(history)
	roles := []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets, tuf.RoleRoot, tuf.RoleReleases}
	said := ""
	kind := rnd.IntN(11)
	last := history[len(history)-1]
	dates := slices.DeleteFunc(slices.Clone(history), func(p *published) bool {
		return p.sums[tuf.RoleSnapshot] != last.sums[tuf.RoleSnapshot] || p.sums[tuf.RoleTimestamp] == last.sums[tuf.RoleTimestamp] || p.docs[tuf.RoleTimestamp].Expires.Before(m.clock())
	})
	if known && len(dates) > 0 && rnd.IntN(2) == 0 {
		kind = -1
	}
	if !known && rnd.IntN(3) == 0 {
		kind = 7
	}
	switch kind {
	case -1:
		_ = w.read(m, rnd, gun, "read", nil) // so that it knows a newer one
		a.current[tuf.RoleTimestamp] = pick(rnd, dates).files[tuf.RoleTimestamp]
		said = "an older date of the same content"
	case 0:
		old := rnd.IntN(len(history))
		a.current = maps.Clone(history[old].files)
		said = fmt.Sprintf("the old state %d", old)
	case 1:
		said = "a mix of old states"
		for _, role := range roles {
			p := pick(rnd, history)
			if raw := p.files[role]; raw != nil {
				a.current[role] = raw
			}
		}
	case 2:
		role, old := pick(rnd, roles), rnd.IntN(len(history))
		if raw := history[old].files[role]; raw != nil {
			a.instead[role] = raw
		}
		said = fmt.Sprintf("%s of the old state %d always", role, old)
	case 3, 4:
		role, change := pick(rnd, roles), pick(rnd, mutations)
		if raw := a.current[role]; raw != nil {
			a.instead[role] = change.do(w, raw)
		}
		said = fmt.Sprintf("%s: %s", role, change.name)
	case 5:
		other := w.oracle.repos[guns[(slices.Index(guns, gun)+1)%2]].history
		if len(other) > 0 {
			a = archiveOf(other)
		}
		said = "another repository"
	case 6:
		role := pick(rnd, roles)
		a.hidden[role] = true
		said = "no " + string(role)
	case 7:
		repo := tuftest.New(w.t, gun)
		repo.Advance(w.now.Sub(repo.Now()))
		repo.Publish(w.t, tuf.AddTarget{Target: tuftest.Target("1")})
		files := repo.Files()
		a.current, a.roots, a.blobs = files.Current, files.Roots, files.Blobs
		said = "a repository of the attacker's"
	case 8:
		stolen, ok := w.thief.steal(gun, tuf.RoleRoot)
		if !ok || !known {
			return
		}
		w.takeOver(a, stolen, tuftest.ECDSAKey("attacker"))
		said = "a root that one stolen key signed"
	case 9:
		stolen, ok := w.thief.steal(gun, tuf.RoleTargets)
		if !ok {
			return
		}
		a.add(tuf.RoleTargets, w.forged(a.current[tuf.RoleTargets], stolen))
		w.follow(a, tuftest.ECDSAKey("attacker"))
		if rnd.IntN(2) == 0 {
			a.instead[tuf.RoleTimestamp] = history[len(history)-1].files[tuf.RoleTimestamp]
		}
		said = "targets that one stolen key signed"
	case 10:
		if !known {
			return
		}
		own := tuftest.RootKey(w.t, gun, "attacker", w.now)
		sign := []tuf.Signer{own}
		if stolen, ok := w.thief.steal(gun, tuf.RoleRoot); ok {
			sign = append(sign, stolen)
		}
		w.takeOver(a, sign...)
		said = "a root of strangers"
	}
	_ = w.read(m, rnd, gun, "is shown "+said+" of", a.answer)
}

// forged is a targets file of the attacker's, signed by one key, which he lists
// as often as he can.
func (w *world) forged(raw []byte, stolen tuf.Signer) []byte {
	d := readDocument(raw)
	out := reseal(w, raw, func(o tuftest.Object) {
		o["version"] = d.Version + 1
		tuftest.At(o, "targets")["1"] = tuftest.Describe([]byte("evil"))
	}, stolen)
	return tuftest.Signatures(w.t, out, func(s []tuftest.Object) []tuftest.Object { return append(s, s[0]) })
}

// doThief uploads to the honest server what one stolen key signed.
func (w *world) doThief(rnd *rand.Rand) {
	gun := w.gunOf(rnd)
	role := pick(rnd, []tuf.RoleName{tuf.RoleTargets, tuf.RoleRoot})
	m := w.idle(rnd, "carl")
	stolen, ok := w.thief.steal(gun, role)
	if m == nil || !ok {
		return
	}
	a := archiveOf(w.oracle.repos[gun].history)
	var files []tuf.File
	if role == tuf.RoleRoot {
		w.takeOver(a, stolen, tuftest.ECDSAKey("attacker"))
		files = append(files, tuf.File{Role: tuf.RoleRoot, Version: 1, Raw: a.current[tuf.RoleRoot]})
	} else {
		a.add(tuf.RoleTargets, w.forged(a.current[tuf.RoleTargets], stolen))
	}
	files = append(files, tuf.File{Role: tuf.RoleTargets, Version: 1, Raw: a.current[tuf.RoleTargets]})
	err := w.use(m, rnd, fmt.Sprintf("the thief uploads %s of %s", role, gun), func() error { return m.http.Upload(context.Background(), gun, files) })
	if err == nil {
		w.fail("the server takes %s of %s, which one stolen key signed", role, gun)
	}
}

// doInsider has who holds a key of releases sign a tag that is not for
// releases.
func (w *world) doInsider(rnd *rand.Rand) {
	m := w.idle(rnd, "bob")
	gun := w.gunOf(rnd)
	now := w.oracle.repos[gun].now
	if m == nil || now == nil || now.files[tuf.RoleReleases] == nil {
		return
	}
	var signers []tuf.Signer
	for _, k := range w.others.releases {
		if !strings.Contains(now.content["keys:"+string(tuf.RoleReleases)], identity(k)) {
			continue
		}
		s, err := w.others.Open(context.Background(), k.CanonicalID())
		w.must(err)
		signers = append(signers, s)
	}
	d := now.docs[tuf.RoleReleases]
	version := d.Version + pick(rnd, []int64{0, 1, 1}) // 0: another file of a version that is published
	_, v := w.target(tuf.RoleReleases, "1")
	sum, err := base64.StdEncoding.DecodeString(v)
	w.must(err)
	raw := reseal(w, now.files[tuf.RoleReleases], func(o tuftest.Object) {
		o["version"] = version
		tuftest.At(o, "targets")["1"] = tuftest.Object{"length": 1, "hashes": tuftest.Object{"sha256": base64.StdEncoding.EncodeToString(sum)}}
	}, signers...)
	err = w.try(m, rnd, gun, "sign what is not for releases", nil, nil, func(*trust.Repository) error {
		return m.http.Upload(context.Background(), gun, []tuf.File{{Role: tuf.RoleReleases, Version: version, Raw: raw}})
	})
	if err == nil && version == d.Version {
		w.fail("the server takes another %s version %d of %s", tuf.RoleReleases, version, gun)
	}
	if reader := w.idle(rnd, "carl", "dora", "emil"); err == nil && reader != nil {
		_ = w.read(reader, rnd, gun, "read", nil)
	}
}
