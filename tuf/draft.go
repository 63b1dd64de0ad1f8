package tuf

import (
	"fmt"
	"maps"
	"slices"
)

// A Draft is unsigned work on top of a state: edits by [Draft.Apply], files
// that someone else signed by [Draft.Adopt], and at the end [Draft.Sign].
//
// Edits touch only what they say: the rest of a file, members that this
// package does not know included, keeps its meaning. A Draft is not safe for
// concurrent use.
type Draft struct {
	gun      GUN
	o        Options
	base     *Past // nil if nothing was ever there
	files    map[RoleName]*draftFile
	again    map[RoleName]bool  // snapshot, timestamp: sign again in any case
	floor    map[RoleName]int64 // sign above, adopt above
	warnings []string
	// received says that others sign all but snapshot and timestamp. These two
	// are then made afresh: what a client once put into its snapshot must not
	// be signed, nor keep the signer from signing (attacks.md S3).
	received bool
}

// A draftFile is the state of one file in a draft. It is replaced, never
// changed, so that a copy of the map is a copy of the draft.
type draftFile struct {
	role     RoleName
	payload  node
	content  content
	version  int64      // of the file that the work is on top of, 0 if none
	raw      []byte     // the file as it stands, nil if it was never signed
	changed  bool       // must be signed
	adopted  bool       // signed by someone else, in this draft
	unsigned bool       // no valid signatures hold it
	lapsed   bool       // it has expired
	unpurged *draftFile // what stands if the purge cannot be signed
}

// set makes a changed payload the file's own, if it is one.
func (f *draftFile) set(payload node) {
	if !f.payload.equal(payload) {
		f.payload, f.changed = payload, true
	}
}

// NewDraft begins a repository that has never been published. roles are the
// four top-level roles; the root's keys must be certificates for gun
// ([Certify]). Everything will be signed as version 1.
func NewDraft(gun GUN, roles []Role, o Options) (*Draft, error) {
	d := &Draft{gun: gun, o: o.filled(), files: make(map[RoleName]*draftFile), again: make(map[RoleName]bool), floor: make(map[RoleName]int64)}
	root := d.o.Dialect.blank(RoleRoot)
	for _, r := range roles {
		root = d.o.Dialect.putRole(root, r)
	}
	d.files[RoleRoot] = &draftFile{role: RoleRoot, payload: root, changed: true}
	d.files[RoleTargets] = &draftFile{role: RoleTargets, payload: d.o.Dialect.blank(RoleTargets), changed: true}
	for _, name := range [...]RoleName{RoleRoot, RoleTargets} {
		if err := d.refresh(name); err != nil {
			return nil, err
		}
	}
	role := d.files[RoleRoot].content.roles[RoleRoot]
	if keys, _ := d.o.Dialect.rootKeys(role, gun, nil); len(keys) != len(role.Keys) {
		return nil, roleProblem(RoleRoot, "a key has no certificate for %s", gun)
	}
	return d, nil
}

// draftOn begins work on top of what p holds.
func draftOn(p *Past) *Draft {
	d := &Draft{gun: p.gun, o: p.o, base: p, files: make(map[RoleName]*draftFile), again: make(map[RoleName]bool), floor: maps.Clone(p.floor)}
	for _, f := range p.files {
		if doc, ok := p.docs[f.Role]; ok {
			d.files[f.Role] = &draftFile{role: f.Role, payload: doc.payload, content: doc.content, version: doc.version, raw: f.Raw, lapsed: doc.fresh(p.o.Now) != nil}
			continue
		}
		// Not held by valid signatures, and still what is there: it may be
		// signed again (Resign), or replaced (edit).
		if doc, err := decode(d.o, f.Role, f.Raw); err == nil {
			d.files[f.Role] = &draftFile{role: f.Role, payload: doc.payload, content: doc.content, version: doc.version, raw: f.Raw, unsigned: true}
		}
	}
	return d
}

// Draft begins work on top of p: the first publish of a repository that was
// only initialised, or the repair of one whose files do not all verify.
func (p *Past) Draft() *Draft { return draftOn(p) }

// Receive begins a draft for files that others upload. past is nil if nothing
// is published. floors are the highest versions of each role ever seen, for
// roles that past does not show. Uploads must be bare envelopes: members
// beside the payload and its signatures are refused (attacks.md S1). The
// snapshot and timestamp that [Draft.Sign] then makes have nothing in them but
// what the dialect says.
func Receive(gun GUN, past *Past, floors map[RoleName]int64, o Options) *Draft {
	d := &Draft{gun: gun, files: make(map[RoleName]*draftFile), again: make(map[RoleName]bool), floor: make(map[RoleName]int64)}
	if past != nil {
		now := *past
		now.o = o.filled() // what has expired since it was recalled has expired
		d = draftOn(&now)
	}
	d.o = o.filled()
	d.o.strictEnvelope, d.received = true, true
	for name, v := range floors {
		d.floor[name] = max(d.floor[name], v)
	}
	return d
}

// Apply makes the changes in order, all or none: after an error the draft is
// as before. Errors match ErrMalformed, ErrRole, ErrNoDelegation or ErrKey.
func (d *Draft) Apply(changes ...Change) error {
	files, again, warnings := maps.Clone(d.files), maps.Clone(d.again), slices.Clone(d.warnings)
	for len(changes) > 0 {
		run := targetRun(changes)
		err := error(nil)
		if len(run) > 0 {
			err = d.editTargets(run)
		} else {
			err = changes[0].apply(d)
		}
		if err != nil {
			d.files, d.again, d.warnings = files, again, warnings
			return err
		}
		changes = changes[max(1, len(run)):]
	}
	return nil
}

// targetRun returns the changes at the beginning that concern targets of one
// role.
func targetRun(changes []Change) (run []targetChange) {
	var role RoleName
	for _, c := range changes {
		t, ok := c.(targetChange)
		if !ok {
			break
		}
		r, _, _ := t.edit() // an error comes when it is made
		if len(run) > 0 && r != role {
			break
		}
		role, run = r, append(run, t)
	}
	return run
}

// Warnings returns what the owner should know about the changes made so far.
func (d *Draft) Warnings() []string { return slices.Clone(d.warnings) }

func (d *Draft) warn(format string, a ...any) {
	if w := fmt.Sprintf(format, a...); !slices.Contains(d.warnings, w) {
		d.warnings = append(d.warnings, w)
	}
}

// Changed returns the roles whose files must be signed anew, or were adopted;
// without snapshot and timestamp, which follow.
func (d *Draft) Changed() []RoleName {
	var names []RoleName
	for _, name := range d.roles() {
		if f := d.files[name]; f.changed || f.adopted {
			names = append(names, name)
		}
	}
	return names
}

// roles returns the roles with files, except snapshot and timestamp: root,
// targets, then delegations, parents before children.
func (d *Draft) roles() []RoleName {
	names := slices.DeleteFunc(slices.Collect(maps.Keys(d.files)), func(n RoleName) bool {
		return n == RoleSnapshot || n == RoleTimestamp
	})
	slices.SortFunc(names, func(a, b RoleName) int {
		rank := func(n RoleName) int {
			if n == RoleRoot {
				return 0
			}
			return n.depth()
		}
		if c := rank(a) - rank(b); c != 0 {
			return c
		}
		if a < b {
			return -1
		}
		return 1
	})
	return names
}

// Role returns a role as the draft's root, or the draft's file of the role
// above it, defines it.
func (d *Draft) Role(name RoleName) (Role, bool) {
	if name.TopLevel() {
		f, ok := d.files[RoleRoot]
		if !ok {
			return Role{}, false
		}
		r, ok := f.content.roles[name]
		return r, ok
	}
	f, ok := d.files[name.Parent()]
	if !ok {
		return Role{}, false
	}
	i := slices.IndexFunc(f.content.delegations, func(g Delegation) bool { return g.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return f.content.delegations[i].Role, true
}

// reachable reports whether every role from targets down to name is still
// delegated.
func (d *Draft) reachable(name RoleName) bool {
	for ; !name.TopLevel(); name = name.Parent() {
		if _, ok := d.Role(name); !ok {
			return false
		}
	}
	return true
}

// effective returns the effective paths of a role that holds targets; false
// if it is not delegated.
func (d *Draft) effective(name RoleName) ([]string, bool) {
	if name == RoleTargets {
		return d.o.Dialect.everywhere(), true
	}
	r, ok := d.Role(name)
	if !ok {
		return nil, false
	}
	above, ok := d.effective(name.Parent())
	if !ok {
		return nil, false
	}
	return narrow(d.o.Dialect.within(above), r.Paths), true
}

// edit returns a copy of the role's file to change, and makes an empty one
// for a role that is delegated and has none.
//
// A delegation's file that no valid signatures hold is replaced by an empty
// one: who adds to it must not vouch for what a server has put there. Only
// Resign takes it as it is.
func (d *Draft) edit(role RoleName) (*draftFile, error) {
	if role != RoleRoot && !role.HoldsTargets() {
		return nil, roleProblem(role, "it holds no targets")
	}
	if !d.reachable(role) {
		return nil, fmt.Errorf("%s: %w", role, ErrNoDelegation)
	}
	f, ok := d.files[role]
	if !ok {
		f = &draftFile{role: role, payload: d.o.Dialect.blank(role)}
		f.changed = true
	}
	g := *f
	g.unpurged = nil
	if g.unsigned {
		g.payload, g.unsigned, g.changed, ok = d.o.Dialect.blank(role), false, true, false
	}
	g.changed = g.changed || g.lapsed // it does not count before it is signed again
	d.files[role] = &g
	if !ok {
		return &g, d.refresh(role)
	}
	return &g, nil
}

// refresh renews the typed view of a role's file after a change of what is
// decoded of it.
func (d *Draft) refresh(role RoleName) error {
	f := d.files[role]
	// An unsigned file has no version or expiry yet; they are not what counts
	// here.
	c, err := d.o.Dialect.decode(role, d.o.Dialect.stamp(f.payload, max(1, f.version), d.o.Now))
	if err != nil {
		return err
	}
	f.content = c
	return nil
}

// Adopt takes a file that someone else signed, such as an upload. Adopt root
// first, then targets, then delegations from the top, and a snapshot signed
// by a client last.
//
// The signatures must satisfy the role as the draft defines it by then, the
// file must not have expired, and its version must be the next one for root
// (1 or 2 if there is none yet), for other roles above the highest seen. A
// snapshot must list exactly the files as they stand. Errors are [RoleError],
// matching ErrMalformed, ErrLimit, ErrUnsigned, ErrRoot, ErrRollback,
// ErrExpired, ErrMismatch, ErrNoDelegation, ErrIncomplete, ErrRole.
func (d *Draft) Adopt(f File) error {
	refuse := func(version int64, err error) error {
		return &RoleError{GUN: d.gun, Role: f.Role, Version: version, Err: err}
	}
	if f.Role == RoleTimestamp || !f.Role.Valid() {
		return refuse(f.Version, ErrRole)
	}
	doc, err := decode(d.o, f.Role, f.Raw)
	if err != nil {
		return refuse(0, err)
	}
	if f.Role == RoleRoot {
		err = d.adoptRoot(doc)
	} else {
		err = d.adoptBelow(doc)
	}
	if err == nil {
		err = doc.fresh(d.o.Now)
	}
	if err != nil {
		return refuse(doc.version, err)
	}
	d.files[f.Role] = &draftFile{role: f.Role, payload: doc.payload, content: doc.content, version: doc.version, raw: f.Raw, adopted: true}
	return nil
}

func (d *Draft) adoptRoot(doc *document) error {
	have := d.floor[RoleRoot]
	if d.base != nil {
		have = d.base.root.version
	}
	first := d.base == nil && have == 0
	// attacks.md F13.
	if first && doc.version > 2 || !first && (doc.version > have+1 || doc.version < have) {
		return &RootRefusal{Reason: VersionSkip, Old: max(have, 1), Offered: doc.version}
	}
	if d.base != nil {
		if err := doc.succeeds(d.o, d.gun, d.base.root); err != nil { // attacks.md R3
			return err
		}
	}
	if doc.version <= have {
		return &Rollback{Offered: doc.version, Seen: have}
	}
	return doc.sound(d.o, d.gun, true, d.base == nil) // attacks.md R4
}

func (d *Draft) adoptBelow(doc *document) error {
	if _, ok := d.files[RoleRoot]; !ok {
		return ErrIncomplete
	}
	role, ok := d.Role(doc.Role)
	if !ok || !d.reachable(doc.Role) {
		return ErrNoDelegation
	}
	if err := doc.verify(role); err != nil {
		return err
	}
	if have := d.floor[doc.Role]; doc.version <= have {
		return &Rollback{Offered: doc.version, Seen: have}
	}
	if doc.Role != RoleSnapshot {
		return nil
	}
	for _, name := range d.roles() {
		m, listed := doc.meta[name]
		f := d.files[name]
		switch {
		case f.raw == nil || !d.reachable(name):
		case !listed && !f.adopted && name.Delegation():
			// Stock clients drop a role from their snapshot when it holds
			// nothing; it is then simply not used.
		case !listed:
			return malformed("%s is not listed", name)
		default:
			if err := m.matches(f.raw); err != nil {
				return &listedWrong{name, err}
			}
		}
	}
	return nil
}

// listedWrong says for which role a snapshot lists another file.
type listedWrong struct {
	role RoleName
	err  error
}

func (e *listedWrong) Error() string { return fmt.Sprintf("%s: %v", e.role, e.err) }
func (e *listedWrong) Unwrap() error { return e.err }

// ListedRole returns the role that a refused snapshot described wrongly, if
// that is what err says.
func ListedRole(err error) (RoleName, bool) {
	for err != nil {
		if e, ok := err.(*listedWrong); ok {
			return e.role, true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return "", false
		}
		err = u.Unwrap()
	}
	return "", false
}
