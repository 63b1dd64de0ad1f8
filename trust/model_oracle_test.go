package trust_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// An oracle knows what is true. It verifies no signature and shares no code with
// the verifier: it was there when the owners signed, and it compares what
// others believe with that.
type oracle struct {
	w          *world
	names      map[tuf.CanonicalID]string   // identities by key id
	signatures map[[32]byte]map[string]bool // who signed what
	lineages   map[[32]byte]string          // honest roots, and from which first root they come
	statements map[statement][32]byte       // what the signer signed
	facts      map[fact]map[string]string   // what consumers have seen
	lost       map[[32]byte]bool            // files that were published, and lost when the store was set back
	ledgers    map[ledger]*standing         // what the signer must know
	owned      map[string]bool              // keys that are not the server's
	repos      map[tuf.GUN]*repo
	clock      int // counts beginnings and ends of what is done
}

// A fact is what all consumers must agree on.
type fact struct {
	lineage string
	role    tuf.RoleName
	keys    string // of a delegation: with other keys it is another one
	version int64
}

// A content is what a repository says: "targets/releases:1.0" to a digest, and
// more. What is not there is "".
type content map[string]string

// A repo is one repository, as it really is.
type repo struct {
	now     *published // nil: nothing
	history []*published
	deeds   []*deed
	lost    bool // the store was set back once
	read    int  // how much was written when it was read
}

// A published is a state that was served.
type published struct {
	seq     int64
	files   map[tuf.RoleName][]byte
	sums    map[tuf.RoleName][32]byte
	docs    map[tuf.RoleName]*document
	lineage string
	content content
}

// A deed is something that was done to a repository, or attempted.
type deed struct {
	what       string
	start, end int
	acked      bool
	refused    bool
	sets       content
	clears     []string // beginnings of names of which all others become ""
}

func (d *deed) write(key string) (string, bool) {
	if v, ok := d.sets[key]; ok {
		return v, true
	}
	for _, p := range d.clears {
		if strings.HasPrefix(key, p) {
			return "", true
		}
	}
	return "", false
}

func newOracle(w *world) *oracle {
	o := &oracle{
		w: w, names: map[tuf.CanonicalID]string{}, signatures: map[[32]byte]map[string]bool{}, lineages: map[[32]byte]string{},
		statements: map[statement][32]byte{}, ledgers: map[ledger]*standing{}, facts: map[fact]map[string]string{}, lost: map[[32]byte]bool{}, repos: map[tuf.GUN]*repo{}, owned: map[string]bool{},
	}
	for _, gun := range guns {
		o.repos[gun] = &repo{deeds: []*deed{{what: "nothing", acked: true, clears: []string{""}}}}
	}
	return o
}

// begin notes that something is attempted.
func (o *oracle) begin(gun tuf.GUN, what string, sets content, clears ...string) *deed {
	o.clock++
	d := &deed{what: what, start: o.clock, end: math.MaxInt, sets: sets, clears: clears}
	o.repos[gun].deeds = append(o.repos[gun].deeds, d)
	return d
}

// done notes what its author was told: that it happened, that it did not, or
// neither.
func (o *oracle) done(d *deed, acked, refused bool) {
	o.clock++
	d.end, d.acked, d.refused = o.clock, acked, refused
}

// revoked notes that keys of a role were changed since start, by who signed its
// file again, if there was one. What others sign meanwhile, or before that
// arrives, can lose its keys: nobody can see in an upload what its author knew.
func (o *oracle) revoked(gun tuf.GUN, role tuf.RoleName, start int, err error) {
	r, end := o.repos[gun], o.clock
	if unknown(err) {
		end = math.MaxInt
	} else if err != nil || !slices.ContainsFunc(r.deeds, func(d *deed) bool { return d.start > start+1 }) {
		return
	}
	r.deeds = append(r.deeds, &deed{what: "change of keys", start: start, end: end, clears: []string{string(role) + ":"}})
}

// allowed reports whether a repository may say value for key: somebody wrote
// it, was not told that it was refused, and nobody who began after that was
// told that something else is there now.
func (r *repo) allowed(key, value string) bool {
	for _, x := range r.deeds {
		if v, ok := x.write(key); !ok || v != value || x.refused {
			continue
		}
		if !slices.ContainsFunc(r.deeds, func(y *deed) bool {
			_, writes := y.write(key)
			return writes && y.acked && y.start > x.end
		}) {
			return true
		}
	}
	return false
}

// unsure is a deletion of which nobody knows whether it happened, nil if there
// is none.
func (r *repo) unsure() *deed {
	var last *deed
	for _, d := range r.deeds {
		switch {
		case d.what == "delete" && !d.acked && !d.refused:
			last = d
		case d.acked && last != nil && d.start > last.end && len(d.clears) > 0 && d.clears[0] == "":
			last = nil
		}
	}
	return last
}

// served reports whether a repository that comes from this first root was ever
// published.
func (o *oracle) served(gun tuf.GUN, lineage string) bool {
	return slices.ContainsFunc(o.repos[gun].history, func(p *published) bool { return p.lineage == lineage })
}

func (o *oracle) know(k tuf.PublicKey) { o.names[k.CanonicalID()] = identity(k) }

// signed notes that the owner of a key signed.
func (o *oracle) signed(who string, message []byte) {
	sum := meaning(message)
	if o.signatures[sum] == nil {
		o.signatures[sum] = map[string]bool{}
	}
	o.signatures[sum][who] = true
}

// quorum reports whether enough owners of a role's keys signed d.
func (o *oracle) quorum(d *document, r role, keys map[string]keyDocument) bool {
	n := 0
	for _, id := range r.identities(keys) {
		if o.signatures[d.sum][id] {
			n++
		}
	}
	return r.Threshold > 0 && n >= r.Threshold
}

// root returns from which first root an honest one comes, "" for any other.
// Roots are learned in the order in which owners sign them.
func (o *oracle) root(gun tuf.GUN, d *document) string {
	if l, ok := o.lineages[d.sum]; ok {
		return l
	}
	own := d.Roles["root"]
	if !o.quorum(d, own, d.Keys) {
		return ""
	}
	lineage := ""
	r := o.repos[gun]
	for _, p := range r.history {
		old := p.docs[tuf.RoleRoot]
		if old.Version == d.Version-1 && o.quorum(d, old.Roles["root"], old.Keys) {
			lineage = p.lineage
		}
	}
	if lineage == "" && d.Version == 1 {
		lineage = hex.EncodeToString(d.sum[:8])
	}
	if lineage != "" {
		o.lineages[d.sum] = lineage
	}
	return lineage
}

// read says what files mean, and what is wrong with them: every file that
// counts was signed by enough of its owners, and they belong together.
// Delegations that were not signed by enough do not count.
func (o *oracle) read(gun tuf.GUN, files map[tuf.RoleName][]byte) (*published, error) {
	p := &published{files: files, sums: map[tuf.RoleName][32]byte{}, docs: map[tuf.RoleName]*document{}, content: content{"repository": "there"}}
	for role, raw := range files {
		d := readDocument(raw)
		if d == nil {
			return nil, fmt.Errorf("%s cannot be read", role)
		}
		p.docs[role], p.sums[role] = d, sha256.Sum256(raw)
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		if p.docs[role] == nil {
			return nil, fmt.Errorf("%s is missing", role)
		}
	}
	root := p.docs[tuf.RoleRoot]
	if p.lineage = o.root(gun, root); p.lineage == "" {
		return nil, fmt.Errorf("no threshold of its owners signed root version %d", root.Version)
	}
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		if !o.quorum(p.docs[role], root.Roles[string(role)], root.Keys) {
			return nil, fmt.Errorf("no threshold of its owners signed %s version %d", role, p.docs[role].Version)
		}
	}
	for _, role := range []string{"root", "targets"} {
		p.content["keys:"+role] = strings.Join(root.Roles[role].identities(root.Keys), " ")
	}
	named := func(by *document, role tuf.RoleName) bool {
		sum := p.sums[role]
		return bytes.Equal(by.Meta[string(role)].Hashes["sha256"], sum[:])
	}
	if !named(p.docs[tuf.RoleTimestamp], tuf.RoleSnapshot) {
		return nil, errors.New("the timestamp names another snapshot")
	}
	for role := range files {
		if role != tuf.RoleTimestamp && role != tuf.RoleSnapshot && !named(p.docs[tuf.RoleSnapshot], role) {
			return nil, fmt.Errorf("the snapshot names another %s", role)
		}
	}
	targets := p.docs[tuf.RoleTargets]
	o.list(p, tuf.RoleTargets, targets, []string{""})
	for _, r := range targets.Delegations.Roles {
		name := tuf.RoleName(r.Name)
		p.content["keys:"+r.Name] = strings.Join(r.identities(targets.Delegations.Keys), " ")
		if d := p.docs[name]; d != nil && o.quorum(d, r, targets.Delegations.Keys) {
			o.list(p, name, d, r.Paths)
		}
	}
	return p, nil
}

func (o *oracle) list(p *published, role tuf.RoleName, d *document, paths []string) {
	for name, t := range d.Targets {
		if slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(name, p) }) {
			p.content[string(role)+":"+name] = base64.StdEncoding.EncodeToString(t.Hashes["sha256"])
		}
	}
}

// look compares what is stored and served with what must be.
func (o *oracle) look() {
	for _, gun := range guns {
		for _, n := range o.w.instances {
			if n.busy == 0 {
				o.ask(gun, n)
			}
		}
		o.store(gun)
		r := o.repos[gun]
		have := content{}
		if r.now != nil {
			have = r.now.content
		}
		keys := maps.Clone(have)
		for _, d := range r.deeds {
			maps.Copy(keys, d.sets)
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if v := have[key]; !r.allowed(key, v) {
				o.w.fail("%s says %q for %s, which nobody was told would be there, or somebody was told is no more", gun, v, key)
			}
		}
		o.forget(r, keys)
	}
}

// forget drops deeds that cannot matter any more.
func (o *oracle) forget(r *repo, keys content) {
	r.deeds = slices.DeleteFunc(r.deeds, func(x *deed) bool {
		if x.end == math.MaxInt {
			return false
		}
		for key := range keys {
			if _, ok := x.write(key); ok && !slices.ContainsFunc(r.deeds, func(y *deed) bool {
				_, writes := y.write(key)
				return writes && y.acked && y.start > x.end
			}) {
				return false
			}
		}
		return x.what != "nothing" && x.what != "delete"
	})
}

// store reads what is published now from the store, if somebody wrote to it.
func (o *oracle) store(gun tuf.GUN) {
	r := o.repos[gun]
	if r.read == o.w.writes {
		return
	}
	r.read = o.w.writes
	state, err := o.w.store.Current(context.Background(), gun)
	if errors.Is(err, storage.ErrNotFound) {
		r.now = nil
		return
	}
	o.w.must(err)
	if r.now != nil && r.now.seq == state.Seq {
		return
	}
	files := map[tuf.RoleName][]byte{}
	for role, e := range state.Roles {
		files[role], _, err = o.w.store.Blob(context.Background(), gun, role, e.SHA256)
		o.w.must(err)
	}
	p, err := o.read(gun, files)
	if err != nil {
		o.w.fail("%s was committed for %s", err, gun)
		return
	}
	p.seq = state.Seq
	if r.now != nil && r.now.lineage == p.lineage {
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
			if p.docs[role].Version < r.now.docs[role].Version {
				o.w.fail("the %s of %s went back from %d to %d", role, gun, r.now.docs[role].Version, p.docs[role].Version)
			}
		}
	}
	r.now, r.history = p, append(r.history, p)
}

// ask asks an instance for the timestamp as readers do, and now and then for
// all of it as publishers do.
func (o *oracle) ask(gun tuf.GUN, n *instance) {
	o.store(gun)
	get := func(route api.Route, fresh bool) (int, []byte) {
		req := httptest.NewRequest(http.MethodGet, route.Path(), nil)
		if fresh {
			req.Header.Set("Cache-Control", "no-cache")
		}
		rec := httptest.NewRecorder()
		n.ServeHTTP(rec, req)
		return rec.Code, rec.Body.Bytes()
	}
	fresh := (o.w.step+n.id)%5 == 0
	timestamp := api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleTimestamp}
	status, raw := get(timestamp, fresh)
	o.store(gun) // an expired one is renewed when it is asked for
	r := o.repos[gun]
	seq := int64(0) // of what was answered
	for _, p := range r.history {
		if bytes.Equal(p.files[tuf.RoleTimestamp], raw) {
			seq = p.seq
		}
	}
	skew := n.skew - o.w.signer.skew
	switch healthy := -2*day < skew && skew < 10*day; {
	case status != http.StatusOK && status != http.StatusNotFound:
		if healthy {
			o.w.fail("%s is not served: %d %s", gun, status, raw)
		}
		return
	case status == http.StatusNotFound && r.now != nil:
		o.w.fail("%s is published and not served", gun)
		return
	case status == http.StatusNotFound:
		return
	case seq == 0:
		o.w.fail("a timestamp of %s is served that was never committed", gun)
		return
	}
	age := n.clock().Sub(n.followed)
	excuse := !n.followed.IsZero() && age >= -2*second && (age < 2*second || n.excused && age < 5*minute)
	if r.now == nil || seq != r.now.seq {
		if fresh || !excuse || seq < n.knows[gun] {
			o.w.fail("instance %d serves an old state of %s, %v after it followed the others", n.id, gun, age)
		}
		return
	}
	if !fresh {
		return
	}
	for role, want := range r.now.files {
		if _, raw := get(api.Route{Kind: api.FileByHash, GUN: gun, Role: role, SHA256: r.now.sums[role]}, false); !bytes.Equal(raw, want) {
			o.w.fail("%s of %s is not served by its hash", role, gun)
		}
	}
}

// checked judges that a machine took what its server said at a time that it
// has already passed by far: then what is shown could be old.
func (o *oracle) checked(m *machine, gun tuf.GUN) {
	seen := m.seen[gun]
	if seen == nil || m.crashed {
		return
	}
	if back := seen.checked.Sub(m.clock()); back > day+minute {
		o.w.fail("%s believes of %s what it is told %v before it was last told something", m.name, gun, back)
	}
	if m.clock().After(seen.checked) {
		seen.checked = m.clock()
	}
}

// A view is what one consumer has believed of a repository.
type view struct {
	checked  time.Time // by its own clock
	lineage  string
	versions map[tuf.RoleName]int64
	keys     map[tuf.RoleName][]string // of delegations
}

// accepted judges what a machine believes now.
func (o *oracle) accepted(m *machine, gun tuf.GUN, set *tuf.Set) {
	files := map[tuf.RoleName][]byte{}
	for _, role := range set.Roles() {
		f, _ := set.File(role) // it was just listed
		files[role] = f.Raw
	}
	p, err := o.read(gun, files)
	if err != nil {
		o.w.fail("%s accepts of %s: %v", m.name, gun, err)
		return
	}
	seen := m.seen[gun]
	if seen == nil {
		seen = &view{lineage: p.lineage, versions: map[tuf.RoleName]int64{}, keys: map[tuf.RoleName][]string{}}
		m.seen[gun] = seen
	}
	if seen.lineage != p.lineage {
		o.w.fail("%s accepts another %s without being told so", m.name, gun)
	}
	believed := content{}
	for _, role := range set.Roles() {
		d := p.docs[role]
		if d.Expires.Before(m.clock()) {
			o.w.fail("%s accepts %s version %d of %s, which has expired", m.name, role, d.Version, gun)
		}
		keys := p.content["keys:"+string(role)]
		if role.Delegation() {
			if ids := strings.Fields(keys); !slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(seen.keys[role], id) }) {
				delete(seen.versions, role) // it is another one
			}
			seen.keys[role] = strings.Fields(keys)
		} else {
			keys = ""
		}
		if d.Version < seen.versions[role] {
			o.w.fail("%s goes back in %s of %s from %d to %d", m.name, role, gun, seen.versions[role], d.Version)
		}
		seen.versions[role] = d.Version
		f := fact{p.lineage, role, keys, d.Version}
		if o.facts[f] == nil {
			o.facts[f] = map[string]string{}
		}
		if !o.lost[d.sum] { // which the attacker has kept
			o.facts[f][hex.EncodeToString(d.sum[:])] = m.name
		}
		if len(o.facts[f]) > 1 {
			o.w.fail("%s version %d of %s means different things to %v", role, d.Version, gun, o.facts[f])
		}
		if role.HoldsTargets() {
			for t := range set.Targets(role) {
				believed[string(role)+":"+t.Name] = base64.StdEncoding.EncodeToString(t.SHA256())
			}
		}
	}
	for key, v := range p.content {
		if strings.HasPrefix(key, "targets") && believed[key] != v {
			o.w.fail("%s believes %q for %s of %s, and %q was signed", m.name, believed[key], key, gun, v)
		}
	}
	for key, v := range believed {
		if p.content[key] != v {
			o.w.fail("%s believes %q for %s of %s, and %q was signed", m.name, v, key, gun, p.content[key])
		}
	}
}

// sameRoots reports whether b holds the roots that are published now: whoever
// saw a root that was lost cannot be helped.
func (o *oracle) sameRoots(b *backup) bool {
	for _, gun := range guns {
		was, is := b.states[gun], o.repos[gun].now
		if (was == nil) != (is == nil) || was != nil && !bytes.Equal(was.files[tuf.RoleRoot], is.files[tuf.RoleRoot]) {
			return false
		}
	}
	return true
}

// restored notes that the store is as it was when b was made. What owners
// published since may be signed a second time; what the signer signed may not.
func (o *oracle) restored(b *backup) {
	for _, gun := range guns {
		r := o.repos[gun]
		sets := content{}
		if s := b.states[gun]; s != nil {
			sets = s.content
			ours := slices.ContainsFunc(s.docs[tuf.RoleRoot].Roles["snapshot"].identities(s.docs[tuf.RoleRoot].Keys), func(id string) bool { return o.owned[id] })
			maps.DeleteFunc(o.facts, func(f fact, _ map[string]string) bool {
				return f.lineage == s.lineage && (f.role.HoldsTargets() || ours && f.role == tuf.RoleSnapshot)
			})
		}
		for _, p := range r.history {
			for role, d := range p.docs {
				if s := b.states[gun]; s == nil || p.seq > s.seq && (s.docs[role] == nil || s.docs[role].sum != d.sum) {
					o.lost[d.sum] = true
				}
			}
		}
		o.done(o.begin(gun, "set back", sets, ""), true, false)
		r.now, r.lost = nil, true
	}
}
