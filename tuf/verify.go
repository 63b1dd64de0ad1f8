package tuf

import (
	"slices"
	"time"
)

// Limits bound what is read before and while it is verified (attacks.md K7,
// L2, R8, D7). Zero fields mean the defaults of [DefaultLimits].
type Limits struct {
	// Bytes of one file. Targets counts for every delegation too.
	Root, Timestamp, Snapshot, Targets int64
	// Total bounds the bytes of all files of one walk, fetched or kept.
	Total int64
	// Roles bounds the delegations visited in one walk.
	Roles int
	// Rotations bounds the root versions followed in one walk; the next walk
	// continues.
	Rotations int
	// Signatures bounds the entries of one signature list.
	Signatures int
}

// DefaultLimits returns 512 KiB of root, 16 KiB of timestamp, 2 MiB of
// snapshot, 16 MiB of targets, 64 MiB in all, 256 delegations, 256 rotations
// and 64 signatures.
func DefaultLimits() Limits {
	return Limits{
		Root: 512 << 10, Timestamp: 16 << 10, Snapshot: 2 << 20, Targets: 16 << 20, Total: 64 << 20,
		Roles: 256, Rotations: 256, Signatures: 64,
	}
}

// of returns the limit in bytes of one file of role.
func (l Limits) of(role RoleName) int64 {
	switch role {
	case RoleRoot:
		return l.Root
	case RoleTimestamp:
		return l.Timestamp
	case RoleSnapshot:
		return l.Snapshot
	}
	return l.Targets
}

// Options are what verification needs to know beside the files.
type Options struct {
	Dialect Dialect   // nil: Notary
	Pin     Pin       // nil: FirstUse
	Now     time.Time // the start of the update, one time for all checks
	Limits  Limits

	// Lapsed admits what its owners let expire: root, its certificates,
	// snapshot, targets and delegations. It is for one of them who is about to
	// sign that again, never for who consumes it. The timestamp, which names
	// all of them by hash, must be fresh in any case, so that nobody is shown an
	// old state.
	Lapsed bool
	// Orphaned admits an expired timestamp, too. It is for the owner who gives
	// the role to another server because the one that signed it is no more: who
	// shows an old state then cannot do more than make that publication fail.
	Orphaned bool

	// Verified remembers which signatures are valid; nil: each is computed.
	Verified *Verified
	// Decoded remembers files; nil: each is decoded each time.
	Decoded *Decoded

	strictEnvelope bool // refuse members beside signed and signatures
}

func (o Options) filled() Options {
	if o.Dialect == nil {
		o.Dialect = Notary{}
	}
	if o.Pin == nil {
		o.Pin = FirstUse{}
	}
	d := DefaultLimits()
	for _, f := range []struct {
		have *int64
		want int64
	}{
		{&o.Limits.Root, d.Root}, {&o.Limits.Timestamp, d.Timestamp}, {&o.Limits.Snapshot, d.Snapshot},
		{&o.Limits.Targets, d.Targets}, {&o.Limits.Total, d.Total},
	} {
		if *f.have == 0 {
			*f.have = f.want
		}
	}
	for _, f := range []struct{ have, want *int }{
		{&o.Limits.Roles, &d.Roles}, {&o.Limits.Rotations, &d.Rotations}, {&o.Limits.Signatures, &d.Signatures},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	return o
}

// verify counts the signatures of d by the keys of role and demands the
// role's threshold. Distinct keys count, by their material: neither a second
// id nor a certificate makes a second key (attacks.md K1, K2). Signatures by
// keys that the role does not list, and signatures that do not verify, are
// ignored (K6). A listed key under an id that is not its own, if anything is
// signed by that id, spoils the file (K9; notary-protocol 1.5).
//
// On success d.signers and d.role are set.
func (d *document) verify(role Role) error {
	if d.signers != nil && sameRole(d.role, role) {
		return nil // the same bytes, judged by the same role before
	}
	if role.Threshold < 1 {
		return malformed("invalid threshold specified for %s: %d", role.Name, role.Threshold)
	}
	var signers []KeyID
	material := make(map[CanonicalID]bool)
	for _, s := range d.sigs {
		i := slices.IndexFunc(role.Keys, func(k Key) bool { return k.ID == s.KeyID })
		if i < 0 {
			continue
		}
		k := role.Keys[i]
		if k.PublicKey.ID() != k.ID {
			return malformed("key ID %s is not valid for key content", k.ID)
		}
		if m, err := d.known.verify(k.PublicKey, d.message, s); err == nil {
			signers = append(signers, k.ID)
			material[m] = true
		}
	}
	if len(material) < role.Threshold {
		short := &Shortage{Have: len(material), Need: role.Threshold}
		for _, k := range role.Keys {
			short.Keys = append(short.Keys, k.ID)
		}
		return short
	}
	d.signers, d.role = signers, role
	return nil
}

// sameRole reports whether both roles name the same keys and threshold.
func sameRole(a, b Role) bool {
	return a.Name == b.Name && a.Threshold == b.Threshold && sameKeys(a, b)
}

// sameKeys and sharesKey take time in proportion to the keys: roles of a
// hostile file may list very many.
func sameKeys(a, b Role) bool {
	equal := func(k, o Key) bool { return o.ID == k.ID && o.PublicKey.Equal(k.PublicKey) }
	if slices.EqualFunc(a.Keys, b.Keys, equal) {
		return true
	}
	have := make(map[KeyID]Key, len(b.Keys))
	for _, k := range b.Keys {
		have[k.ID] = k
	}
	return len(a.Keys) == len(b.Keys) && !slices.ContainsFunc(a.Keys, func(k Key) bool {
		o, ok := have[k.ID]
		return !ok || !equal(k, o)
	})
}

// sharesKey reports whether the roles have a key in common, by its material.
func sharesKey(a, b Role) bool {
	have := make(map[CanonicalID]bool, len(a.Keys))
	for _, k := range a.Keys {
		have[k.CanonicalID()] = true
	}
	return slices.ContainsFunc(b.Keys, func(k Key) bool { return have[k.CanonicalID()] })
}

// current is fresh, except for what o lets lapse.
func (d *document) current(o Options) error {
	if o.Lapsed && d.Role != RoleTimestamp || o.Orphaned && d.Role == RoleTimestamp {
		return nil
	}
	return d.fresh(o.Now)
}

// fresh demands that d has not expired at now. There is no leeway.
func (d *document) fresh(now time.Time) error {
	if d.expires.Before(now) {
		return &Expired{At: d.expires}
	}
	return nil
}

// notBelow demands that d's version has not been passed already.
func (d *document) notBelow(floor int64) error {
	if d.version < floor {
		return &Rollback{Offered: d.version, Seen: floor}
	}
	return nil
}

// sound verifies a root by itself: its certificates must fit gun, and a
// threshold of them must have signed. With final, certificates must not have
// expired and the pin must admit them; the root's own expiry is not looked at.
func (d *document) sound(o Options, gun GUN, final, first bool) error {
	var at *time.Time
	if final && !o.Lapsed {
		at = &o.Now
	}
	role := d.roles[RoleRoot]
	keys, untimely := o.Dialect.rootKeys(role, gun, at)
	if len(keys) == 0 {
		refusal := &RootRefusal{Reason: NoLeaf, Offered: d.version}
		if untimely != nil {
			refusal.Expired = untimely.Subject.CommonName
			if untimely.NotBefore.After(*at) {
				refusal.From = untimely.NotBefore
			}
		}
		return refusal
	}
	if final {
		public := make([]PublicKey, len(keys))
		for i, k := range keys {
			public[i] = k.PublicKey
		}
		allowed, err := o.Pin.Trusted(gun, public, first, o.Now)
		if err != nil {
			return err
		}
		keys = slices.DeleteFunc(keys, func(k Key) bool {
			return !slices.ContainsFunc(allowed, k.PublicKey.Equal)
		})
		if len(keys) == 0 {
			return &RootRefusal{Reason: NoPinMatch, Offered: d.version}
		}
	}
	role.Keys = keys
	if err := d.verify(role); err != nil {
		if _, short := err.(*Shortage); short {
			return &RootRefusal{Reason: NotSignedBySelf, Offered: d.version}
		}
		return err
	}
	return nil
}

// succeeds verifies that a threshold of the keys of the previous root signed
// d. Expiry of prev, and of its certificates, is not looked at
// (notary-protocol 7.3; attacks.md R3, R7, R10).
func (d *document) succeeds(o Options, gun GUN, prev *document) error {
	if keys, _ := o.Dialect.rootKeys(d.roles[RoleRoot], gun, nil); len(keys) == 0 {
		return &RootRefusal{Reason: NoLeaf, Old: prev.version, Offered: d.version}
	}
	role := prev.roles[RoleRoot]
	role.Keys, _ = o.Dialect.rootKeys(role, gun, nil)
	if p, ok := o.Pin.(Denier); ok {
		role.Keys = slices.DeleteFunc(role.Keys, func(k Key) bool { return p.Denies(k.PublicKey) })
	}
	probe := *d // the verdict is about another role: keep d's own
	probe.signers = nil
	if err := probe.verify(role); err != nil {
		if _, short := err.(*Shortage); short {
			return &RootRefusal{Reason: NotSignedByPrevious, Old: prev.version, Offered: d.version}
		}
		return err
	}
	return nil
}
