// Package tuftest makes repositories of trust data for tests: valid ones, and
// ones that are broken in a chosen way.
//
// [New] publishes a repository in memory; [Repo.Publish] goes on with it.
// [Repo.Files] is what a server would serve now, and [Walk] is a consumer that
// reads it. To attack, change a copy of the Files: [Files.With] puts one file
// in the place of another and leaves the rest as it is; [Repo.Forge] changes
// the content of a file, has it signed by whoever is named, and makes the
// snapshot and timestamp that would honestly follow from it.
//
// Nothing here is random or depends on the time of day. Keys follow from their
// labels, the clock stands still at [Start] until it is moved. Everything is
// safe for concurrent use, except that a Repo has one publisher at a time.
package tuftest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
)

// Start is the time at which every repository begins.
var Start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// A Repo is a repository and everything that its owners hold.
type Repo struct {
	GUN tuf.GUN

	mu        sync.Mutex
	now       time.Time
	ring      Ring
	files     Files
	lifetimes map[tuf.RoleName]time.Duration
	rotations int
	setup     setup
}

type setup struct {
	roles     map[tuf.RoleName][2]int // number of keys, threshold
	changes   []tuf.Change
	lifetimes map[tuf.RoleName]time.Duration
}

// An Option says how a repository differs from the plainest one.
type Option func(*setup)

// Keys gives a top-level role n keys of which threshold must sign. Without it
// each role has one.
func Keys(role tuf.RoleName, n, threshold int) Option {
	return func(s *setup) { s.roles[role] = [2]int{n, threshold} }
}

// Delegation adds a delegation with one key and threshold 1. Its paths are
// [""], all names, unless given.
func Delegation(role tuf.RoleName, paths ...string) Option {
	return func(s *setup) {
		if len(paths) == 0 {
			paths = []string{""}
		}
		s.changes = append(s.changes, tuf.EditDelegation{
			Role: role, AddKeys: []tuf.PublicKey{Key(string(role)).PublicKey()}, AddPaths: paths, MustCreate: true,
		})
	}
}

// Changes are made before the first publish, after the delegations that were
// named before it.
func Changes(changes ...tuf.Change) Option {
	return func(s *setup) { s.changes = append(s.changes, changes...) }
}

// Lifetime sets how long files of role live. RoleTargets counts for
// delegations too.
func Lifetime(role tuf.RoleName, d time.Duration) Option {
	return func(s *setup) { s.lifetimes[role] = d }
}

// New publishes a repository: root with a P-256 certificate, Ed25519 keys for
// the other roles, a thousand days of life for every file but the timestamp,
// which has a day.
func New(t testing.TB, gun tuf.GUN, options ...Option) *Repo {
	t.Helper()
	const day = 24 * time.Hour
	r := &Repo{GUN: gun, now: Start, ring: make(Ring)}
	r.setup = setup{
		roles: make(map[tuf.RoleName][2]int),
		lifetimes: map[tuf.RoleName]time.Duration{
			tuf.RoleRoot: 1000 * day, tuf.RoleTargets: 1000 * day, tuf.RoleSnapshot: 1000 * day, tuf.RoleTimestamp: day,
		},
	}
	for _, o := range options {
		o(&r.setup)
	}
	r.lifetimes = r.setup.lifetimes
	r.files = Files{GUN: gun}
	var roles []tuf.Role
	for _, name := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		n := r.setup.roles[name]
		if n == [2]int{} {
			n = [2]int{1, 1}
		}
		roles = append(roles, r.newRole(t, name, n[0], n[1]))
	}
	d, err := tuf.NewDraft(gun, roles, tuf.Options{Now: r.now})
	if err != nil {
		t.Fatalf("tuftest: NewDraft(%s): %v", gun, err)
	}
	r.finish(t, d, r.setup.changes)
	return r
}

// newRole makes a role of fresh keys, which the ring then holds.
func (r *Repo) newRole(t testing.TB, name tuf.RoleName, n, threshold int) tuf.Role {
	t.Helper()
	var keys []tuf.PublicKey
	for i := range n {
		label := fmt.Sprintf("%s/%s/%d/%d", r.GUN, name, r.rotations, i)
		var s tuf.Signer
		if name == tuf.RoleRoot {
			s = RootKey(t, r.GUN, label, r.now)
		} else {
			s = Key(label)
		}
		r.ring.Add(s)
		keys = append(keys, s.PublicKey())
	}
	return tuf.NewRole(name, threshold, keys...)
}

// finish applies changes, signs with all keys, and serves the result.
func (r *Repo) finish(t testing.TB, d *tuf.Draft, changes []tuf.Change) {
	t.Helper()
	if err := d.Apply(changes...); err != nil {
		t.Fatalf("tuftest: Apply: %v", err)
	}
	for _, c := range changes {
		if e, ok := c.(tuf.EditDelegation); ok {
			for _, k := range e.AddKeys {
				if s, ok := known(k); ok {
					r.ring.Add(s)
				}
			}
		}
	}
	made, err := d.Sign(context.Background(), r.ring, tuf.SignOptions{Now: r.now, Lifetimes: r.lifetimes})
	if err != nil {
		t.Fatalf("tuftest: Sign: %v", err)
	}
	r.serve(made)
	s, err := Walk(nil, r.files, r.now)
	if err != nil {
		t.Fatalf("tuftest: the repository that was published is refused: %v", err)
	}
	// What nothing delegates to any more is no longer served.
	keep := map[tuf.RoleName]bool{}
	for _, f := range s.Files() {
		keep[f.Role] = true
	}
	maps.DeleteFunc(r.files.Current, func(name tuf.RoleName, _ []byte) bool { return !keep[name] })
}

func (r *Repo) serve(made []tuf.File) {
	f := r.files.Clone()
	for _, m := range made {
		f.Current[m.Role] = m.Raw
		f.Blobs[sha256.Sum256(m.Raw)] = m.Raw
		if m.Role == tuf.RoleRoot {
			f.Roots[m.Version] = m.Raw
		}
	}
	r.files = f
}

// Now returns the repository's time.
func (r *Repo) Now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// Advance moves the clock.
func (r *Repo) Advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// SetLifetime changes how long files live that are signed from now on.
func (r *Repo) SetLifetime(role tuf.RoleName, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lifetimes = maps.Clone(r.lifetimes)
	r.lifetimes[role] = d
}

// Publish makes changes and publishes them. Keys that an EditDelegation adds
// are held too, if they were made by [Key]. Without changes it publishes a new
// snapshot and timestamp.
func (r *Repo) Publish(t testing.TB, changes ...tuf.Change) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(changes) == 0 {
		changes = []tuf.Change{tuf.Resign{Role: tuf.RoleSnapshot}}
	}
	r.finish(t, r.draft(t), changes)
}

// Tag publishes targets of the given names in the targets role.
func (r *Repo) Tag(t testing.TB, names ...string) {
	t.Helper()
	var changes []tuf.Change
	for _, n := range names {
		changes = append(changes, tuf.AddTarget{Target: Target(n)})
	}
	r.Publish(t, changes...)
}

// RotateRoot replaces the root keys, as many as there are, by new ones. The
// new root is signed by old and new.
func (r *Repo) RotateRoot(t testing.TB) { t.Helper(); r.RotateKey(t, tuf.RoleRoot) }

// RotateKey replaces the keys of a top-level role by as many new ones, with
// the same threshold.
func (r *Repo) RotateKey(t testing.TB, role tuf.RoleName) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.draft(t)
	old, _ := d.Role(role)
	r.rotations++
	r.finish(t, d, []tuf.Change{tuf.ReplaceKeys{Role: r.newRole(t, role, len(old.Keys), old.Threshold)}})
}

func (r *Repo) draft(t testing.TB) *tuf.Draft {
	t.Helper()
	return r.trusted(t).Draft()
}

// Draft begins work on top of what is published.
func (r *Repo) Draft(t testing.TB) *tuf.Draft {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draft(t)
}

// Serve publishes files that were made elsewhere, such as by [Repo.Draft],
// without looking at them.
func (r *Repo) Serve(files ...tuf.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serve(files)
}

// Files returns what a server serves now. It is the caller's.
func (r *Repo) Files() Files {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files.Clone()
}

// Trusted returns what a consumer remembers who has just updated, and kept it
// on disk.
func (r *Repo) Trusted(t testing.TB) *tuf.Past {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trusted(t)
}

func (r *Repo) trusted(t testing.TB) *tuf.Past {
	t.Helper()
	p, err := tuf.Recall(r.GUN, r.files.list(), tuf.Options{Now: r.now})
	if err != nil {
		t.Fatalf("tuftest: Recall: %v", err)
	}
	return p
}

// Set returns the published state as a consumer sees it.
func (r *Repo) Set(t testing.TB) *tuf.Set {
	t.Helper()
	s, err := Walk(nil, r.Files(), r.Now())
	if err != nil {
		t.Fatalf("tuftest: Walk: %v", err)
	}
	return s
}

// Ring returns all keys that were ever used. It is the caller's.
func (r *Repo) Ring() Ring {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.ring)
}

// Role returns a role as it is published.
func (r *Repo) Role(t testing.TB, name tuf.RoleName) tuf.Role {
	t.Helper()
	role, ok := r.Trusted(t).Role(name)
	if !ok {
		t.Fatalf("tuftest: %s is not a role of %s", name, r.GUN)
	}
	return role
}

// Signers returns signers for the keys of a role as it is published.
func (r *Repo) Signers(t testing.TB, name tuf.RoleName) []tuf.Signer {
	t.Helper()
	role := r.Role(t, name)
	var out []tuf.Signer
	for _, k := range role.Keys {
		s, err := r.Ring().Signer(context.Background(), r.GUN, name, k.PublicKey)
		if err != nil {
			t.Fatalf("tuftest: no key for %s: %v", name, err)
		}
		out = append(out, s)
	}
	return out
}

// Files are what a server holds. A Want with a hash is answered by hash, one
// with a version by version, and any other with the current file.
type Files struct {
	GUN     tuf.GUN
	Current map[tuf.RoleName][]byte
	Roots   map[int64][]byte
	Blobs   map[[32]byte][]byte
	// Instead holds files to be answered whatever is asked of the role, save
	// for a root by version.
	Instead map[tuf.RoleName][]byte
}

// Clone returns a copy that shares only the bytes of the files.
func (f Files) Clone() Files {
	c := Files{f.GUN, maps.Clone(f.Current), maps.Clone(f.Roots), maps.Clone(f.Blobs), maps.Clone(f.Instead)}
	if c.Current == nil {
		c.Current = make(map[tuf.RoleName][]byte)
	}
	if c.Roots == nil {
		c.Roots = make(map[int64][]byte)
	}
	if c.Blobs == nil {
		c.Blobs = make(map[[32]byte][]byte)
	}
	if c.Instead == nil {
		c.Instead = make(map[tuf.RoleName][]byte)
	}
	return c
}

// With returns files with raw as the file of role, whatever is asked for it.
func (f Files) With(role tuf.RoleName, raw []byte) Files {
	c := f.Clone()
	c.Instead[role] = raw
	return c
}

// WithRoot returns files with raw as the root of that version.
func (f Files) WithRoot(version int64, raw []byte) Files {
	c := f.Clone()
	c.Roots[version] = raw
	return c
}

// Without returns files of which the server has none for role.
func (f Files) Without(role tuf.RoleName) Files {
	c := f.Clone()
	delete(c.Current, role)
	delete(c.Instead, role)
	maps.DeleteFunc(c.Blobs, func(_ [32]byte, raw []byte) bool {
		_, err := tuf.NewFile(role, raw)
		return err == nil && bytesAre(raw, f.Current[role])
	})
	return c
}

func bytesAre(a, b []byte) bool { return string(a) == string(b) }

// Get answers as a server does; false is 404.
func (f Files) Get(w tuf.Want) ([]byte, bool) {
	if w.Version != 0 {
		raw, ok := f.Roots[w.Version]
		return raw, ok
	}
	if raw, ok := f.Instead[w.Role]; ok {
		return raw, true
	}
	if w.SHA256 != nil {
		raw, ok := f.Blobs[[32]byte(w.SHA256)]
		return raw, ok
	}
	raw, ok := f.Current[w.Role]
	return raw, ok
}

// list returns the current files, parents before children.
func (f Files) list() []tuf.File {
	var out []tuf.File
	for _, name := range slices.SortedFunc(maps.Keys(f.Current), func(a, b tuf.RoleName) int {
		return strings.Compare(string(a), string(b))
	}) {
		out = append(out, tuf.File{Role: name, Raw: f.Current[name]})
	}
	return out
}

// Walk updates from past, nil for none, to what files serve.
func Walk(past *tuf.Past, files Files, now time.Time) (*tuf.Set, error) {
	_, s, err := WalkWith(past, files, tuf.Options{Now: now})
	return s, err
}

// WalkWith is Walk with options. It returns the update too, which knows what
// was verified before an error.
func WalkWith(past *tuf.Past, files Files, o tuf.Options) (*tuf.Update, *tuf.Set, error) {
	u := tuf.Begin(files.GUN, past, o)
	for w, more := u.Next(); more; w, more = u.Next() {
		var err error
		if raw, ok := files.Get(w); ok {
			err = u.Add(w, raw)
		} else {
			err = u.Missing(w)
		}
		if err != nil {
			return u, nil, err
		}
	}
	s, err := u.Set()
	return u, s, err
}

// Target returns a target of the targets role. Its hash and length follow from
// the name.
func Target(name string) tuf.Target {
	sum := sha256.Sum256([]byte("content of " + name))
	return tuf.Target{Name: name, FileMeta: tuf.FileMeta{
		Length: int64(1000 + len(name)), Hashes: map[string][]byte{"sha256": sum[:]},
	}}
}

// TargetIn is Target for another role.
func TargetIn(role tuf.RoleName, name string) tuf.Target {
	t := Target(name)
	t.Role = role
	return t
}
