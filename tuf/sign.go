package tuf

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// SignOptions say how new files are made.
type SignOptions struct {
	Now time.Time
	// Lifetimes from Now; RoleTargets counts for delegations too. Roles that
	// are not named live as long as the stock client's: root ten years,
	// targets and snapshot three years, timestamp 14 days.
	Lifetimes map[RoleName]time.Duration
	// Floor holds versions that must be passed although the draft does not
	// know them, such as those that a signer has signed and nobody kept.
	Floor map[RoleName]int64
	// Legacy are earlier root keys that sign a new root as well, so that
	// clients which hold a root older than the previous one follow it too.
	// Those at hand are used.
	Legacy []PublicKey
}

func (o SignOptions) lifetime(role RoleName) time.Duration {
	if role.Delegation() {
		role = RoleTargets
	}
	if d, ok := o.Lifetimes[role]; ok {
		return d
	}
	switch role {
	case RoleRoot:
		return RootLifetime
	case RoleTimestamp:
		return 14 * 24 * time.Hour
	}
	return TargetsLifetime
}

// Sign signs what changed and what must follow from it, and returns all new
// files: root, targets, delegations from the top, snapshot, timestamp. Files
// that were adopted are not among them.
//
// A file is signed by every key of its role that ring holds, and at least by
// its threshold; a changed root role by the threshold of the previous root
// too. If that cannot be, the error is a [MissingKeys], or what kept the ring
// from using a key. Snapshot and timestamp are left out when ring holds no key
// for them, for the server to add; the timestamp also when there is no new
// snapshot to vouch for.
//
// After Sign the draft is spent.
func (d *Draft) Sign(ctx context.Context, ring Ring, o SignOptions) ([]File, error) {
	s := signing{d: d, ctx: ctx, ring: ring, o: o}
	for _, name := range d.roles() {
		f := d.files[name]
		if !f.changed || !d.reachable(name) {
			continue
		}
		if err := s.file(f); err != nil {
			if f.unpurged == nil || !errors.Is(err, ErrNoKey) {
				return nil, err
			}
			d.files[name] = f.unpurged
			d.warn("no key at hand to sign %s: the keys to be purged stay in it", name)
		}
	}
	made, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	if err := s.timestamp(made); err != nil {
		return nil, err
	}
	return s.out, nil
}

// NextVersion returns the version that Sign gives to the file of role if it
// makes one.
func (d *Draft) NextVersion(role RoleName, o SignOptions) int64 {
	var have int64
	if f, ok := d.files[role]; ok {
		have = f.version
	}
	return max(have, d.floor[role], o.Floor[role]) + 1
}

type signing struct {
	d    *Draft
	ctx  context.Context
	ring Ring
	o    SignOptions
	out  []File
	// partial says that files need not have all of their signatures yet.
	partial bool
}

// file signs a changed root, targets or delegation file.
func (s *signing) file(f *draftFile) error {
	roles, err := s.d.mustSign(f.role)
	if err != nil {
		return err
	}
	var extra []PublicKey
	if f.role == RoleRoot {
		extra = s.o.Legacy
	}
	return s.sign(f, roles, extra)
}

// mustSign returns the roles whose thresholds a file of name has to meet.
func (d *Draft) mustSign(name RoleName) ([]Role, error) {
	role, ok := d.Role(name)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrNoDelegation)
	}
	if name != RoleRoot || d.base == nil {
		return []Role{role}, nil
	}
	// TUF 5.3.4: the root that is trusted now must vouch for the new one.
	old := d.base.root.roles[RoleRoot]
	old.Keys, _ = d.o.Dialect.rootKeys(old, d.gun, nil)
	return []Role{role, old}, nil
}

// sign stamps a payload, has it signed for every one of roles, and keeps the
// result as the file's state.
func (s *signing) sign(f *draftFile, roles []Role, extra []PublicKey) error {
	version := s.d.NextVersion(f.role, s.o)
	expires := s.o.Now.Add(s.o.lifetime(f.role))
	payload := s.d.o.Dialect.stamp(f.payload, version, expires)
	message := appendCanonical(nil, payload)
	content, err := s.d.o.Dialect.decode(f.role, payload)
	if err != nil {
		return fmt.Errorf("%s: %w", f.role, err) // never sign what nobody could read
	}
	sigs, _, err := s.collect(f.role, message, nil, roles, extra)
	if err != nil {
		return err
	}
	g := &draftFile{role: f.role, payload: payload, content: content, version: version, raw: envelope(payload, sigs)}
	s.d.files[f.role] = g
	s.out = append(s.out, File{Role: f.role, Version: version, Raw: g.raw})
	return nil
}

// collect has message signed by the keys of every one of roles that are at hand
// and have not signed yet, then by extra. have are signatures that verify. What
// a role lacks after that is an error, unless the signing is partial.
func (s *signing) collect(name RoleName, message []byte, have []Signature, roles []Role, extra []PublicKey) ([]Signature, []MissingKeys, error) {
	sigs := slices.Clone(have)
	done := make(map[KeyID]CanonicalID) // the material, or "" where nobody has asked yet
	for _, sig := range have {
		done[sig.KeyID] = ""
	}
	// use has k sign, unless it has signed.
	use := func(k PublicKey) error {
		if _, signed := done[k.ID()]; signed {
			return nil
		}
		signer, err := s.ring.Signer(s.ctx, s.d.gun, name, k)
		if err != nil {
			return err
		}
		sig, err := signer.Sign(s.ctx, message)
		if err != nil {
			return err
		}
		material, err := s.d.o.Verified.verify(k, message, sig)
		if err != nil {
			return fmt.Errorf("key %s made a signature that does not verify: %w", k.CanonicalID().Short(), err)
		}
		sigs, done[k.ID()] = append(sigs, sig), material
		return nil
	}
	var lacks []MissingKeys
	for _, role := range roles {
		material := make(map[CanonicalID]bool)
		var trouble error
		missing := MissingKeys{Role: name, Need: role.Threshold}
		for _, k := range role.Keys {
			id := k.CanonicalID()
			if !slices.Contains(missing.Keys, id) {
				missing.Keys = append(missing.Keys, id)
			}
			switch err := use(k.PublicKey); {
			case errors.Is(err, ErrNoKey):
				continue
			case errors.Is(err, context.Canceled):
				return nil, nil, err
			case err != nil:
				// A key that is there and cannot be used. Those that can may
				// be enough.
				trouble = err
				continue
			}
			m := done[k.ID]
			if m == "" {
				m = k.material()
			}
			material[m] = true
		}
		missing.Have = len(material)
		switch {
		case missing.Have >= missing.Need && trouble != nil:
			s.d.warn("%s is signed without one of its keys: %v", name, trouble)
		case missing.Have >= missing.Need:
		case trouble != nil:
			return nil, nil, fmt.Errorf("sign %s: %w", name, trouble)
		case s.partial:
			lacks = append(lacks, missing)
		default:
			return nil, nil, &missing
		}
	}
	for _, k := range extra {
		if err := use(k); err != nil && !errors.Is(err, ErrNoKey) {
			return nil, nil, fmt.Errorf("sign %s: %w", name, err)
		}
	}
	return sigs, lacks, nil
}

// snapshot makes a new snapshot when something it lists is new, and reports
// whether there is a new one, made or adopted.
func (s *signing) snapshot() (bool, error) {
	d := s.d
	f, ok := d.files[RoleSnapshot]
	if ok && f.adopted {
		return true, nil
	}
	if len(s.out) == 0 && len(d.Changed()) == 0 && !d.again[RoleSnapshot] && ok {
		return false, nil
	}
	role, known := d.Role(RoleSnapshot)
	if _, targets := d.files[RoleTargets]; !known || !targets {
		return false, fmt.Errorf("%s: %w", RoleTargets, ErrIncomplete)
	}
	g := &draftFile{role: RoleSnapshot, payload: d.o.Dialect.blank(RoleSnapshot)}
	if ok && d.received {
		g.version = f.version
		for name, m := range f.content.meta {
			if name.Delegation() && d.reachable(name) {
				g.payload = d.o.Dialect.putMeta(g.payload, name, m.plain())
			}
		}
	} else if ok {
		g.payload, g.version = f.payload, f.version
		for name := range f.content.meta {
			// Entries of roles that nothing delegates to any more go; entries
			// of files that are not here stay (amendments: 17).
			if name.Delegation() && !d.reachable(name) {
				g.payload = d.o.Dialect.dropMeta(g.payload, name)
			}
		}
	}
	for _, name := range d.roles() {
		if raw := d.files[name].raw; raw != nil && d.reachable(name) {
			g.payload = d.o.Dialect.putMeta(g.payload, name, describe(raw))
		}
	}
	return s.optional(g, role)
}

// plain returns m without what the dialect does not say of metadata files.
func (m FileMeta) plain() FileMeta {
	out := FileMeta{Length: m.Length, Hashes: make(map[string][]byte)}
	for name := range hashBytes {
		if sum, ok := m.Hashes[name]; ok {
			out.Hashes[name] = sum
		}
	}
	return out
}

// timestamp makes a new timestamp for a new snapshot, or when asked to.
func (s *signing) timestamp(made bool) error {
	d := s.d
	snapshot, ok := d.files[RoleSnapshot]
	if !ok || snapshot.raw == nil || !made && !d.again[RoleTimestamp] {
		return nil
	}
	role, known := d.Role(RoleTimestamp)
	if !known {
		return fmt.Errorf("%s: %w", RoleRoot, ErrIncomplete)
	}
	g := &draftFile{role: RoleTimestamp, payload: d.o.Dialect.blank(RoleTimestamp)}
	if f, ok := d.files[RoleTimestamp]; ok {
		g.version = f.version
		if !d.received {
			g.payload = f.payload
		}
	}
	g.payload = d.o.Dialect.putMeta(g.payload, RoleSnapshot, describe(snapshot.raw))
	_, err := s.optional(g, role)
	return err
}

// optional signs a file that the server signs where the ring cannot.
func (s *signing) optional(f *draftFile, role Role) (bool, error) {
	err := s.sign(f, []Role{role}, nil)
	if m := (*MissingKeys)(nil); errors.As(err, &m) && m.Have == 0 {
		return false, nil
	}
	return err == nil, err
}
