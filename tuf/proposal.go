package tuf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Proposed is a file that is fixed, version and expiry included, and that
// need not have all of its signatures yet: those who must sign it do so one
// after the other, each where their keys are.
type Proposed struct {
	File        // with the signatures that it has so far
	Base []byte // SHA-256 of the file that it takes the place of; empty if there is none
}

// A Review is what is known of a proposed file on top of a state.
type Review struct {
	Proposed
	Expires time.Time
	Signers []CanonicalID // of keys that may sign, whose signatures were found valid
	// Lacks says which keys still have to sign: for a root it may be two
	// roles, as it is and as it will be. Empty: the file is complete.
	Lacks []MissingKeys
	Difference
}

// A Difference is what a file says that the one before it did not.
type Difference struct {
	Put     []Target   // added, or with other content
	Was     []Target   // what those of Put were, and those that are gone
	Gone    []string   // targets that are no longer listed
	Roles   []Role     // delegations, in a root top-level roles, new or changed
	Dropped []RoleName // delegations that are no longer there
	// Unknown says that members differ that this package does not know.
	Unknown bool
}

// ErrStale says that a proposal is void: another file was published in the
// place of the one that it was made for.
var ErrStale = errors.New("something else was published since it was proposed")

// nobody is a ring without keys.
type nobody struct{}

func (nobody) Signer(context.Context, GUN, RoleName, PublicKey) (Signer, error) {
	return nil, ErrNoKey
}

// Propose is Sign for files that others must sign, too. What changed is signed
// by the keys that ring holds, be they enough or not; snapshot and timestamp
// wait until the files are complete, and are made by Sign then, after Adopt.
//
// Errors are those of Sign, except for keys that are not at hand. Before
// anything was published there is nothing to propose on: ErrIncomplete.
// After Propose the draft is spent.
func (d *Draft) Propose(ctx context.Context, ring Ring, o SignOptions) ([]Proposed, error) {
	if d.base == nil {
		return nil, fmt.Errorf("%s: %w", RoleRoot, ErrIncomplete)
	}
	s := signing{d: d, ctx: ctx, ring: ring, o: o, partial: true}
	var out []Proposed
	for _, name := range d.roles() {
		f := d.files[name]
		if !f.changed || !d.reachable(name) {
			continue
		}
		if err := s.file(f); err != nil {
			return nil, err
		}
		out = append(out, Proposed{s.out[len(s.out)-1], f.base()})
	}
	return out, nil
}

// base returns the hash of the file that f is work on top of.
func (f *draftFile) base() []byte {
	if f == nil || f.raw == nil {
		return nil
	}
	sum := sha256.Sum256(f.raw)
	return sum[:]
}

// Cosign takes proposed files into the draft, in their order, has them signed
// by what ring holds and has not signed yet, and says what they change, who
// signed, and who is missing. A nil ring only looks. What Cosign takes in
// counts for nothing but for the files that come after it: whoever publishes
// them needs a new draft, and [Draft.Adopt].
//
// A file must be the next version of its role and take the place of the one
// that is there now: the error matches ErrStale if it does not. It must be one
// that the draft's state allows, and must not have expired. Further errors are
// those of Adopt, without ErrUnsigned, and those of Sign.
func (d *Draft) Cosign(ctx context.Context, ring Ring, files []Proposed) ([]Review, error) {
	if ring == nil {
		ring = nobody{}
	}
	var out []Review
	for _, p := range files {
		r, err := d.cosign(ctx, ring, p)
		if err != nil {
			return nil, &RoleError{GUN: d.gun, Role: p.Role, Version: p.Version, Err: err}
		}
		out = append(out, r)
	}
	return out, nil
}

func (d *Draft) cosign(ctx context.Context, ring Ring, p Proposed) (Review, error) {
	if p.Role != RoleRoot && !p.Role.HoldsTargets() {
		return Review{}, ErrRole
	}
	o := d.o
	o.strictEnvelope = true
	doc, err := decode(o, p.Role, p.Raw)
	if err != nil {
		return Review{}, err
	}
	have := d.files[p.Role]
	newest := d.floor[p.Role]
	if have != nil {
		newest = max(newest, have.version)
	}
	switch {
	case d.base == nil:
		return Review{}, ErrIncomplete
	case have != nil && have.changed:
		return Review{}, malformed("there are two files of one role")
	case !bytes.Equal(have.base(), p.Base):
		return Review{}, ErrStale
	case doc.version != newest+1:
		// A version far ahead would leave no room for what comes after it.
		return Review{}, malformed("version %d does not follow version %d", doc.version, newest)
	}
	if err := doc.fresh(d.o.Now); err != nil {
		return Review{}, err
	}
	f := &draftFile{role: p.Role, payload: doc.payload, content: doc.content, version: doc.version, changed: true}
	if p.Role == RoleRoot {
		d.files[RoleRoot] = f // its roles are its own
	} else if !d.reachable(p.Role) {
		return Review{}, ErrNoDelegation
	}
	roles, err := d.mustSign(p.Role)
	if err != nil {
		return Review{}, err
	}
	if p.Role == RoleRoot {
		if keys, _ := d.o.Dialect.rootKeys(roles[0], d.gun, &d.o.Now); len(keys) < len(roles[0].Keys) {
			return Review{}, &RootRefusal{Reason: NoLeaf, Offered: doc.version}
		}
	}
	d.files[p.Role] = f
	s := signing{d: d, ctx: ctx, ring: ring, partial: true}
	sigs, lacks, err := s.collect(p.Role, doc.message, doc.worth(roles), roles, nil)
	if err != nil {
		return Review{}, err
	}
	p.Version, p.Raw = doc.version, envelope(doc.payload, sigs)
	r := Review{Proposed: p, Expires: doc.expires, Lacks: lacks, Difference: d.difference(have, f)}
	for _, sig := range sigs {
		for _, role := range roles {
			if i := slices.IndexFunc(role.Keys, func(k Key) bool { return k.ID == sig.KeyID }); i >= 0 {
				if id := role.Keys[i].CanonicalID(); !slices.Contains(r.Signers, id) {
					r.Signers = append(r.Signers, id)
				}
			}
		}
	}
	return r, nil
}

// worth returns the signatures that a file keeps: those by keys of roles that
// verify, and those by others, which decide nothing (attacks.md K6).
func (d *document) worth(roles []Role) []Signature {
	return slices.DeleteFunc(slices.Clone(d.sigs), func(s Signature) bool {
		for _, role := range roles {
			if i := slices.IndexFunc(role.Keys, func(k Key) bool { return k.ID == s.KeyID }); i >= 0 {
				return role.Keys[i].Verify(d.message, s) != nil
			}
		}
		return false
	})
}

// difference compares a file with the one before it, which may be nil.
func (d *Draft) difference(was, is *draftFile) Difference {
	if was == nil {
		was = &draftFile{payload: d.o.Dialect.blank(is.role)}
	}
	var out Difference
	target := func(name string, n node) Target {
		m, _ := d.o.Dialect.decodeMeta(n) // what cannot be read vouches for nothing
		return Target{Name: name, Role: is.role, FileMeta: m}
	}
	for i, name := range is.content.targets.names {
		n := is.content.targets.items[i]
		before, ok := was.content.targets.get(name)
		if ok && before.equal(n) {
			continue
		}
		out.Put = append(out.Put, target(name, n))
		if ok {
			out.Was = append(out.Was, target(name, before))
		}
	}
	for i, name := range was.content.targets.names {
		if _, ok := is.content.targets.get(name); !ok {
			out.Gone, out.Was = append(out.Gone, name), append(out.Was, target(name, was.content.targets.items[i]))
		}
	}
	before, after := was.content.listed(), is.content.listed()
	for _, r := range after {
		i := slices.IndexFunc(before, func(o Role) bool { return o.Name == r.Name })
		if i < 0 || !sameRole(before[i], r) || !slices.Equal(before[i].Paths, r.Paths) {
			out.Roles = append(out.Roles, r)
		}
	}
	for _, r := range before {
		if !slices.ContainsFunc(after, func(o Role) bool { return o.Name == r.Name }) {
			out.Dropped = append(out.Dropped, r.Name)
		}
	}
	out.Unknown = !unnamed(was.payload).equal(unnamed(is.payload))
	return out
}

// listed returns the roles that a file defines, in a fixed order.
func (c content) listed() (roles []Role) {
	for _, name := range [...]RoleName{RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp} {
		if r, ok := c.roles[name]; ok {
			roles = append(roles, r)
		}
	}
	for _, g := range c.delegations {
		roles = append(roles, g.Role)
	}
	return roles
}

// unnamed is a payload without the members that a Difference tells of.
func unnamed(payload node) node {
	for _, name := range [...]string{"version", "expires", "targets", "delegations", "keys", "roles"} {
		payload = payload.without(name)
	}
	return payload
}
