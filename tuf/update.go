package tuf

import (
	"bytes"
	"errors"
	"maps"
	"slices"
)

// An Update verifies a candidate state step by step, in the only order TUF
// permits: root, timestamp, snapshot, targets, delegations from the top. It
// never fetches. [Update.Next] says what is needed, the caller gets it from
// wherever it likes, [Update.Add] verifies it. Files that the past already
// holds under the signed hash are not asked for.
//
// When something after the root does not verify, the reason may be that the
// root has changed: the Update then goes back to the root once by itself,
// follows the chain of root versions to the newest, and begins again at the
// timestamp. Only when that cannot help is the error returned, and it is
// final.
//
// An Update is not safe for concurrent use.
type Update struct {
	gun   GUN
	o     Options
	past  *Past
	first bool // nothing was trusted before

	stage  stage
	want   Want
	bytes  int64 // fetched
	reused int64 // bytes of this state that the past had
	err    error

	root *document
	keep *document // the last root that may be kept, nil for the past's
	docs map[RoleName]*document
	// floor holds the versions below which nothing is accepted. A rotation of
	// the keys that vouch for a version removes it (attacks.md F12).
	floor map[RoleName]int64

	// Of the way back to the root.
	refreshed bool
	cause     error     // why, to be returned if the root has not changed
	rootMeta  *FileMeta // the root that a verified snapshot names
	next      *document // the newest root, met before those between
	chain     int       // root versions followed

	order    []RoleName
	queue    []visit
	paths    map[RoleName][]string
	within   map[RoleName]func(name string) bool // of paths
	unusable []Unusable
}

type stage int

const (
	stageFirstRoot stage = iota
	stageNewestRoot
	stageChain
	stageTimestamp
	stageSnapshot
	stageTargets
	stageDone
)

// A visit is a role whose file is to be verified next.
type visit struct {
	role  Role
	from  RoleName
	paths []string
	meta  FileMeta
}

// A Want is the next file an Update needs.
type Want struct {
	Role      RoleName
	Version   int64  // of a root in the middle of a chain; 0 means the current one, or the one with SHA256
	SHA256    []byte // nil when no verified file names the hash
	MaxLength int64  // bytes; a longer file is refused
}

// Begin starts an update on top of past, or of nothing but the pin if past is
// nil. o.Now must be set.
func Begin(gun GUN, past *Past, o Options) *Update {
	u := &Update{gun: gun, o: o.filled(), past: past, first: past == nil, floor: make(map[RoleName]int64)}
	if past == nil {
		u.ask(stageFirstRoot, Want{Role: RoleRoot, MaxLength: u.o.Limits.Root})
		return u
	}
	maps.Copy(u.floor, past.floor)
	root := *past.root
	u.root = &root
	if err := u.rootNow(u.root); err != nil {
		// An expired root, or one that the pin has outlived, may have a
		// successor (attacks.md R10).
		u.goBack(err)
		return u
	}
	u.restart()
	return u
}

// rootNow demands of the root that all other roles rest on what holds only
// for the last one of a chain: valid certificates, the pin, its own expiry.
func (u *Update) rootNow(d *document) error {
	c := *d
	c.signers = nil // the pin may count fewer keys than before
	if err := c.sound(u.o, u.gun, true, u.first); err != nil {
		return u.refuse(RoleRoot, d.version, err)
	}
	d.signers, d.role = c.signers, c.role
	if err := d.current(u.o); err != nil {
		return u.refuse(RoleRoot, d.version, err)
	}
	return nil
}

func (u *Update) refuse(role RoleName, version int64, err error) error {
	return &RoleError{GUN: u.gun, Role: role, Version: version, Err: err}
}

func (u *Update) ask(s stage, w Want) {
	u.stage, u.want = s, w
}

// restart begins again below the root.
func (u *Update) restart() {
	if u.past != nil && u.past.docs[RoleTargets] != nil {
		// attacks.md F12: what the keys of this root did not sign says nothing
		// about their versions. The next Recall would not count it either.
		if old := *u.past.docs[RoleTargets]; old.verify(u.root.roles[RoleTargets]) != nil {
			delete(u.floor, RoleTargets)
		}
	}
	u.docs = map[RoleName]*document{RoleRoot: u.root}
	u.order = []RoleName{RoleRoot}
	u.queue, u.unusable, u.reused = nil, nil, 0
	u.paths, u.within = make(map[RoleName][]string), make(map[RoleName]func(string) bool)
	u.ask(stageTimestamp, Want{Role: RoleTimestamp, MaxLength: u.o.Limits.Timestamp})
}

// goBack asks for the newest root because of err.
func (u *Update) goBack(err error) {
	u.refreshed, u.cause = true, err
	w := Want{Role: RoleRoot, MaxLength: u.o.Limits.Root}
	if u.rootMeta != nil {
		w.SHA256, w.MaxLength = u.rootMeta.SHA256(), min(w.MaxLength, u.rootMeta.Length)
	}
	u.ask(stageNewestRoot, w)
}

// Next returns what is needed next. It returns false when nothing is: the Set
// is complete, or an error was returned.
func (u *Update) Next() (Want, bool) {
	return u.want, u.err == nil && u.stage != stageDone
}

// Add verifies the file that [Update.Next] asked for. An error is final and
// nearly always a [RoleError]; nothing of the refused file is kept, and what
// was verified before it is still to be had from [Update.Verified].
func (u *Update) Add(w Want, raw []byte) error {
	if u.err != nil {
		return u.err
	}
	if u.stage == stageDone || w.Role != u.want.Role || w.Version != u.want.Version {
		return errors.New("tuf: Add of a file that was not asked for")
	}
	u.bytes += int64(len(raw))
	if u.bytes+u.reused > u.o.Limits.Total {
		return u.fail(u.refuse(w.Role, 0, &TooLarge{Limit: u.o.Limits.Total}))
	}
	var err error
	switch u.stage {
	case stageFirstRoot:
		err = u.addFirstRoot(raw)
	case stageNewestRoot:
		err = u.addNewestRoot(raw)
	case stageChain:
		err = u.addChain(raw)
	case stageTimestamp:
		err = u.addTimestamp(raw)
	case stageSnapshot:
		if err = u.docs[RoleTimestamp].meta[RoleSnapshot].matches(raw); err != nil {
			err = u.refuse(w.Role, 0, err)
		} else {
			err = u.addSnapshot(raw)
		}
	case stageTargets:
		// The same checks for delegations as for targets (attacks.md F11).
		if err = u.queue[0].meta.matches(raw); err != nil {
			err = u.refuse(w.Role, 0, err)
		} else {
			err = u.addTargets(raw)
		}
	}
	if err == nil {
		err = u.reuse()
	}
	return u.retry(err)
}

// Missing says that there is no such file. It is an error, because a server
// that hides a file must not look like one that never had it; except that the
// update may first go back to the root.
func (u *Update) Missing(w Want) error {
	if u.err != nil {
		return u.err
	}
	if u.stage == stageNewestRoot {
		return u.fail(u.cause)
	}
	return u.retry(u.refuse(w.Role, w.Version, ErrIncomplete))
}

// retry decides whether a newer root might cure err.
func (u *Update) retry(err error) error {
	if err == nil {
		return nil
	}
	onRoot := u.stage <= stageChain
	if onRoot || u.refreshed || u.first && u.rootMeta == nil {
		return u.fail(err)
	}
	u.goBack(err)
	return nil
}

func (u *Update) fail(err error) error {
	u.err = err
	return err
}

func (u *Update) addFirstRoot(raw []byte) error {
	d, err := decode(u.o, RoleRoot, raw)
	if err != nil {
		return u.refuse(RoleRoot, 0, err)
	}
	if err := u.rootNow(d); err != nil {
		return err
	}
	u.root, u.keep = d, d
	u.restart()
	return nil
}

// addNewestRoot takes the root that the server has now.
func (u *Update) addNewestRoot(raw []byte) error {
	if u.rootMeta != nil {
		if err := u.rootMeta.matches(raw); err != nil {
			return u.refuse(RoleRoot, 0, err)
		}
	}
	if bytes.Equal(raw, u.root.Raw) {
		return u.cause // the root has not changed: it was not that
	}
	d, err := decode(u.o, RoleRoot, raw)
	if err != nil {
		return u.refuse(RoleRoot, 0, err)
	}
	if u.rootMeta != nil && bytes.Equal(d.message, u.root.message) {
		// The trusted root in other bytes, or with other signatures: somebody
		// changed what this machine got first, and must not keep it from the
		// file that the snapshot names.
		if err := u.rootNow(d); err != nil {
			return err
		}
		u.root, u.keep = d, d
		u.restart()
		return nil
	}
	if d.version <= u.root.version {
		// Older, or another root of the same version. Whose it is tells a
		// server that went back from one that was made anew: it has the keys
		// of the trusted root, or those that handed over to it.
		if err := d.succeeds(u.o, u.gun, u.root); err != nil && u.root.succeeds(u.o, u.gun, d) != nil {
			return u.refuse(RoleRoot, d.version, err)
		}
		return u.refuse(RoleRoot, d.version, &Rollback{Offered: d.version, Seen: u.root.version})
	}
	u.next = d
	return u.followChain()
}

// followChain asks for the next root between the trusted one and the newest,
// or takes the newest.
func (u *Update) followChain() error {
	if u.chain == u.o.Limits.Rotations { // attacks.md R8
		return u.refuse(RoleRoot, u.root.version, tooManyRotations{u.chain})
	}
	if u.root.version+1 == u.next.version {
		d := u.next
		if err := u.adoptRoot(d); err != nil {
			return err
		}
		err := u.rootNow(d)
		if err == nil || errors.Is(err, ErrExpired) { // attacks.md R9
			u.keep = d
		}
		if err != nil {
			return err
		}
		u.restart()
		return nil
	}
	u.ask(stageChain, Want{Role: RoleRoot, Version: u.root.version + 1, MaxLength: u.o.Limits.Root})
	return nil
}

type tooManyRotations struct{ n int }

func (e tooManyRotations) Error() string {
	return "more new versions than are followed at once; the next update continues"
}
func (e tooManyRotations) Is(t error) bool { return t == ErrLimit }

func (u *Update) addChain(raw []byte) error {
	d, err := decode(u.o, RoleRoot, raw)
	if err != nil {
		return u.refuse(RoleRoot, u.want.Version, err)
	}
	if d.version != u.want.Version { // attacks.md R5, M4
		return u.refuse(RoleRoot, d.version, &RootRefusal{Reason: VersionSkip, Old: u.root.version, Offered: d.version})
	}
	if err := u.adoptRoot(d); err != nil {
		return err
	}
	u.keep = d
	return u.followChain()
}

// adoptRoot makes d the trusted root if the trusted one vouches for it and it
// vouches for itself. Certificates may have expired: only the last root of a
// chain is judged by the present (notary-protocol 7.4).
func (u *Update) adoptRoot(d *document) error {
	if err := d.succeeds(u.o, u.gun, u.root); err != nil {
		return u.refuse(RoleRoot, d.version, err)
	}
	if err := d.sound(u.o, u.gun, false, false); err != nil {
		return u.refuse(RoleRoot, d.version, err)
	}
	// TUF 5.3.11: a new key has not signed the old versions. Here a timestamp
	// does not hold the snapshot's version, so what one of the two keys signed
	// says nothing about the other's versions, and they stay.
	if !sameKeys(d.roles[RoleTimestamp], u.root.roles[RoleTimestamp]) {
		delete(u.floor, RoleTimestamp)
	}
	if !sameKeys(d.roles[RoleSnapshot], u.root.roles[RoleSnapshot]) {
		maps.DeleteFunc(u.floor, func(r RoleName, _ int64) bool { return r == RoleSnapshot || r.HoldsTargets() })
	}
	u.root = d
	u.chain++
	return nil
}

// accept makes the checks that are the same for every file below the root, in
// the order: signatures, rollback, expiry.
func (u *Update) accept(role Role, raw []byte) (*document, error) {
	d, err := u.remembered(role.Name, raw)
	if err != nil {
		return nil, u.refuse(role.Name, 0, err)
	}
	if err := d.verify(role); err != nil {
		return d, u.refuse(role.Name, d.version, err)
	}
	if err := d.notBelow(u.floor[role.Name]); err != nil {
		return d, u.refuse(role.Name, d.version, err)
	}
	if err := d.current(u.o); err != nil {
		return d, u.refuse(role.Name, d.version, err)
	}
	return d, nil
}

// remembered decodes raw, or returns a copy of what the past made of the same
// bytes.
func (u *Update) remembered(role RoleName, raw []byte) (*document, error) {
	if u.past != nil {
		if d, ok := u.past.docs[role]; ok && bytes.Equal(d.Raw, raw) {
			c := *d
			return &c, nil
		}
	}
	return decode(u.o, role, raw)
}

func (u *Update) addTimestamp(raw []byte) error {
	role := u.root.roles[RoleTimestamp]
	d, err := u.accept(role, raw)
	if err != nil {
		return err
	}
	if u.past != nil && u.floor[RoleTimestamp] == d.version {
		// attacks.md F2: of two timestamps of one version the first one seen
		// counts.
		if old := u.past.docs[RoleTimestamp]; old != nil && old.version == d.version && !bytes.Equal(old.Raw, d.Raw) {
			if d, err = u.accept(role, old.Raw); err != nil {
				return err
			}
		}
	}
	u.verified(d)
	m := d.meta[RoleSnapshot]
	if m.Length > u.o.Limits.Snapshot {
		return u.refuse(RoleSnapshot, 0, &TooLarge{Limit: u.o.Limits.Snapshot})
	}
	u.ask(stageSnapshot, Want{Role: RoleSnapshot, SHA256: m.SHA256(), MaxLength: m.Length})
	return nil
}

func (u *Update) verified(d *document) {
	u.docs[d.Role] = d
	u.order = append(u.order, d.Role)
}

// addSnapshot and addTargets take bytes that are those the signed hash names.
func (u *Update) addSnapshot(raw []byte) error {
	d, err := u.accept(u.root.roles[RoleSnapshot], raw)
	if err != nil {
		return err
	}
	m := d.meta[RoleRoot]
	if err := m.matches(u.root.Raw); err != nil {
		// The root has changed since it was read, or sits in some cache.
		u.rootMeta = &m
		return u.refuse(RoleRoot, u.root.version, err)
	}
	u.verified(d)
	top := u.root.roles[RoleTargets]
	return u.visit([]visit{{role: top, paths: u.o.Dialect.everywhere(), meta: d.meta[RoleTargets]}})
}

// visit puts roles in front of the queue, which makes the walk pre-order, and
// asks for the first.
func (u *Update) visit(more []visit) error {
	u.queue = append(more, u.queue...)
	if len(u.queue) == 0 {
		u.ask(stageDone, Want{})
		return nil
	}
	v := u.queue[0]
	if v.meta.Length > u.o.Limits.Targets {
		return u.refuse(v.role.Name, 0, &TooLarge{Limit: u.o.Limits.Targets})
	}
	u.ask(stageTargets, Want{Role: v.role.Name, SHA256: v.meta.SHA256(), MaxLength: v.meta.Length})
	return nil
}

func (u *Update) addTargets(raw []byte) error {
	v := u.queue[0]
	name := v.role.Name
	d, err := u.accept(v.role, raw)
	if err != nil {
		// A delegation whose keys or life ran out must not make the whole
		// repository unreadable; it just does not count (attacks.md D10).
		var refusal *RoleError
		if name == RoleTargets || d == nil || !errors.As(err, &refusal) ||
			!errors.Is(err, ErrUnsigned) && !errors.Is(err, ErrExpired) {
			return err
		}
		u.unusable = append(u.unusable, Unusable{File: d.File, Err: refusal})
		u.queue = u.queue[1:]
		return u.visit(nil)
	}
	u.verified(d)
	u.paths[name] = v.paths
	u.queue = u.queue[1:]
	var children []visit
	admits := u.o.Dialect.within(v.paths)
	u.within[name] = admits
	for _, child := range d.delegations {
		// Only what has a floor needs a look at the past: a file may delegate
		// to very many roles that nobody ever saw.
		if seen := u.floor[child.Name]; seen > 0 && u.madeAnew(child.Role) {
			delete(u.floor, child.Name)
		}
		m, listed := u.docs[RoleSnapshot].meta[child.Name]
		if !listed {
			// attacks.md D6: not used. F6: not hidden either, once seen and
			// still delegated to the same keys.
			if seen := u.floor[child.Name]; seen > 0 && u.sameBefore(child.Role) {
				return u.refuse(child.Name, 0, &Rollback{Seen: seen})
			}
			continue
		}
		// attacks.md D7.
		if len(u.order)+len(u.queue)+len(children) >= u.o.Limits.Roles+4 {
			return u.refuse(name, d.version, tooManyRoles{u.o.Limits.Roles})
		}
		children = append(children, visit{
			role: child.Role, from: name, paths: narrow(admits, child.Paths), meta: m,
		})
	}
	return u.visit(children)
}

type tooManyRoles struct{ n int }

func (e tooManyRoles) Error() string   { return "more delegations than are followed" }
func (e tooManyRoles) Is(t error) bool { return t == ErrLimit }

// sameBefore reports whether the past knew the delegation with the same keys.
func (u *Update) sameBefore(role Role) bool {
	if u.past == nil {
		return false
	}
	old, ok := u.past.knew(role.Name)
	return ok && sameKeys(old, role)
}

// madeAnew reports whether the past knew the delegation with other keys only:
// then none of its old files could pass for a new one, and its versions may
// begin again (amendments: 17).
func (u *Update) madeAnew(role Role) bool {
	if u.past == nil {
		return false
	}
	old, ok := u.past.knew(role.Name)
	return ok && !sharesKey(old, role)
}

// reuse serves what is wanted by hash from the past for as long as it can.
func (u *Update) reuse() error {
	for u.stage == stageSnapshot || u.stage == stageTargets {
		m := u.docs[RoleTimestamp].meta[RoleSnapshot]
		add := u.addSnapshot
		if u.stage == stageTargets {
			m, add = u.queue[0].meta, u.addTargets
		}
		raw, ok := u.past.file(u.want.Role, m)
		if !ok {
			return nil
		}
		// A state that grew bit by bit must not become one that nobody can
		// fetch at once (attacks.md L2).
		if u.reused += int64(len(raw)); u.bytes+u.reused > u.o.Limits.Total {
			return u.refuse(u.want.Role, 0, &TooLarge{Limit: u.o.Limits.Total})
		}
		if err := add(raw); err != nil {
			return err
		}
	}
	return nil
}

// Set returns the complete state. It is an error to ask before [Update.Next]
// has returned false, or after an error.
func (u *Update) Set() (*Set, error) {
	if u.err != nil {
		return nil, u.err
	}
	if u.stage != stageDone {
		return nil, u.refuse(u.want.Role, u.want.Version, ErrIncomplete)
	}
	o := u.o
	o.Decoded = nil // it is of one task, and the set may outlive that
	s := &Set{
		gun: u.gun, o: o, docs: u.docs, order: u.order, paths: u.paths, within: u.within, unusable: u.unusable,
		floor: maps.Clone(u.floor),
	}
	for name, d := range u.docs {
		s.floor[name] = max(s.floor[name], d.version)
	}
	// What is not delegated any more has no past if it comes back.
	maps.DeleteFunc(s.floor, func(name RoleName, _ int64) bool { return removed(u.docs, name) })
	return s, nil
}

// Verified returns the files that were verified so far and are new, root
// first: what may be kept, also after an error. A root is among them when all
// that refuses it is its expiry (attacks.md R9), and is not when the pin or a
// missing signature does. A delegation's file without enough signatures is not
// among them if one that was well signed has been seen.
func (u *Update) Verified() []File {
	var files []File
	known := func(d *document) bool {
		return u.past != nil && slices.ContainsFunc(u.past.files, func(f File) bool {
			return f.Role == d.Role && bytes.Equal(f.Raw, d.Raw)
		})
	}
	if u.keep != nil {
		files = append(files, u.keep.File)
	}
	for _, name := range u.order[min(1, len(u.order)):] {
		if d := u.docs[name]; !known(d) {
			files = append(files, d.File)
		}
	}
	for _, f := range u.unusable {
		if errors.Is(f.Err, ErrUnsigned) && u.floor[f.Role] > 0 {
			// What nobody signed must not take the place of what proves the
			// highest version seen (attacks.md F5, F11).
			continue
		}
		if !known(&document{File: f.File}) {
			files = append(files, f.File)
		}
	}
	return files
}
