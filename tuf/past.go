package tuf

import (
	"maps"
	"slices"
)

// A Past is what a machine verified earlier, complete or not: a root, the
// highest version seen of each role, and the files themselves, to be used
// again where a new state names the same bytes. It is immutable.
type Past struct {
	gun   GUN
	o     Options
	root  *document
	docs  map[RoleName]*document // whose own signatures hold, root included
	files []File
	floor map[RoleName]int64
	// former is what delegated before the keys of targets were changed by the
	// root, where that root is all of its state that was kept; nil otherwise.
	former map[RoleName]*document
}

// Recall makes a Past of files that a machine kept, in any order.
//
// The root must be there and be sound, whether expired or not: a damaged root
// is an error, because to go on without it would be to trust afresh. Of the
// other files, each counts as far as its own signatures hold: then its version
// is a floor below which nothing is accepted. Files that do not hold are kept
// only as bytes. Expiry is not looked at: an expired file still proves which
// version has been seen.
//
// Errors are [RoleError] for the root: ErrIncomplete if there is none,
// ErrMalformed, ErrRoot.
func Recall(gun GUN, files []File, o Options) (*Past, error) {
	o = o.filled()
	p := &Past{gun: gun, o: o, docs: make(map[RoleName]*document), floor: make(map[RoleName]int64)}
	raws := make(map[RoleName][]byte, len(files))
	for _, f := range files {
		raws[f.Role] = f.Raw
	}
	refuse := func(version int64, err error) (*Past, error) {
		return nil, &RoleError{GUN: gun, Role: RoleRoot, Version: version, Err: err}
	}
	raw, ok := raws[RoleRoot]
	if !ok {
		return refuse(0, ErrIncomplete)
	}
	root, err := decode(o, RoleRoot, raw)
	if err != nil {
		return refuse(0, err)
	}
	if err := root.sound(o, gun, false, false); err != nil {
		return refuse(root.version, err)
	}
	p.root = root
	p.keep(root)
	for _, name := range [...]RoleName{RoleTimestamp, RoleSnapshot, RoleTargets} {
		p.recall(root.roles[name], raws)
	}
	if p.docs[RoleTargets] == nil && p.docs[RoleSnapshot] != nil {
		p.recallFormer(raws)
	}
	for _, name := range slices.Sorted(maps.Keys(raws)) {
		f := File{Role: name, Raw: raws[name]}
		if d := p.docs[name]; d != nil {
			f = d.File
		}
		p.files = append(p.files, f)
	}
	return p, nil
}

func (p *Past) keep(d *document) {
	p.docs[d.Role] = d
	p.floor[d.Role] = max(p.floor[d.Role], d.version)
}

// recall keeps the file of role and, below it, those of its delegations.
func (p *Past) recall(role Role, raws map[RoleName][]byte) {
	raw, ok := raws[role.Name]
	if !ok {
		return
	}
	d, err := decode(p.o, role.Name, raw)
	if err != nil || d.verify(role) != nil {
		return
	}
	p.keep(d)
	for _, child := range d.delegations {
		p.recall(child.Role, raws)
	}
}

// recallFormer recalls which versions of delegations were seen below targets
// that the root's keys did not sign. A root is kept before the files that belong
// to it: a machine that dies in between must not forget what an update that is
// not interrupted remembers, which is these versions as long as the keys of the
// snapshot are the same (adoptRoot). Nothing else of these files counts.
func (p *Past) recallFormer(raws map[RoleName][]byte) {
	targets, err := decode(p.o, RoleTargets, raws[RoleTargets])
	if err != nil {
		return
	}
	p.former = map[RoleName]*document{RoleTargets: targets}
	below := &Past{o: p.o, docs: p.former, floor: p.floor}
	for _, child := range targets.delegations {
		below.recall(child.Role, raws)
	}
}

// knew returns a delegation as it was when its versions were seen.
func (p *Past) knew(name RoleName) (Role, bool) {
	if r, ok := roleIn(p.docs, name); ok {
		return r, ok
	}
	return roleIn(p.former, name)
}

// GUN returns the name of the repository.
func (p *Past) GUN() GUN { return p.gun }

// Root returns the trusted root.
func (p *Past) Root() File { return p.root.File }

// Files returns the files as they were given to [Recall], sorted by role.
func (p *Past) Files() []File { return slices.Clone(p.files) }

// Floor returns the highest version of role that was seen, 0 if none was.
func (p *Past) Floor(role RoleName) int64 { return p.floor[role] }

// Info describes the file of role if its own signatures hold.
func (p *Past) Info(role RoleName) (Info, bool) {
	d, ok := p.docs[role]
	if !ok {
		return Info{}, false
	}
	return d.info(), true
}

// Role returns a top-level role as the trusted root defines it, or a
// delegation as the file that delegates to it does.
func (p *Past) Role(name RoleName) (Role, bool) { return roleIn(p.docs, name) }

// file returns the remembered file of role with the bytes that m describes.
func (p *Past) file(role RoleName, m FileMeta) ([]byte, bool) {
	if p == nil {
		return nil, false
	}
	for _, f := range p.files {
		if f.Role == role && m.matches(f.Raw) == nil {
			return f.Raw, true
		}
	}
	return nil, false
}

// roleIn finds the definition of a role among verified documents.
func roleIn(docs map[RoleName]*document, name RoleName) (Role, bool) {
	if name.TopLevel() {
		root, ok := docs[RoleRoot]
		if !ok {
			return Role{}, false
		}
		r, ok := root.roles[name]
		return r, ok
	}
	parent, ok := docs[name.Parent()]
	if !ok {
		return Role{}, false
	}
	i := slices.IndexFunc(parent.delegations, func(d Delegation) bool { return d.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return parent.delegations[i].Role, true
}

func (d *document) info() Info {
	return Info{
		Role: d.Role, Version: d.version, Expires: d.expires, Length: int64(len(d.Raw)),
		SHA256: d.sum, Signers: slices.Clone(d.signers),
	}
}
