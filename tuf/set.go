package tuf

import (
	"iter"
	"slices"
	"strings"
	"time"
)

// A Set is a complete, verified state of a repository. It is immutable. The
// only way to get one is [Update.Set].
type Set struct {
	gun      GUN
	o        Options
	docs     map[RoleName]*document
	order    []RoleName            // in order of visit: root, timestamp, snapshot, targets, delegations
	paths    map[RoleName][]string // effective paths of roles that hold targets
	within   map[RoleName]func(name string) bool
	unusable []Unusable
	floor    map[RoleName]int64
}

// Unusable is a delegation's file that is served but does not count, because
// it has expired or too few of the delegation's keys signed it. Nothing below
// it was visited. To sign it again, [Resign] it.
type Unusable struct {
	File
	Err *RoleError
}

// GUN returns the name of the repository.
func (s *Set) GUN() GUN { return s.gun }

// Files returns all files, root first, unusable delegations last.
func (s *Set) Files() []File {
	files := make([]File, 0, len(s.order)+len(s.unusable))
	for _, name := range s.order {
		files = append(files, s.docs[name].File)
	}
	for _, u := range s.unusable {
		files = append(files, u.File)
	}
	return files
}

// File returns the verified file of role.
func (s *Set) File(role RoleName) (File, bool) {
	d, ok := s.docs[role]
	if !ok {
		return File{}, false
	}
	return d.File, true
}

// Roles returns the roles whose files were verified, in order of visit: root,
// timestamp, snapshot, targets, then delegations, parents before children.
func (s *Set) Roles() []RoleName { return slices.Clone(s.order) }

// Role returns a role as root, or the role that delegates to it, defines it.
func (s *Set) Role(name RoleName) (Role, bool) { return roleIn(s.docs, name) }

// Info describes the verified file of role.
func (s *Set) Info(role RoleName) (Info, bool) {
	d, ok := s.docs[role]
	if !ok {
		return Info{}, false
	}
	return d.info(), true
}

// Delegations returns what the file of from delegates, in its order; nothing
// if from has no usable file.
func (s *Set) Delegations(from RoleName) []Delegation {
	d, ok := s.docs[from]
	if !ok {
		return nil
	}
	return slices.Clone(d.delegations)
}

// Unusable returns the delegations whose files do not count, and why.
func (s *Set) Unusable() []Unusable { return slices.Clone(s.unusable) }

// Paths returns the effective paths of a role that holds targets: prefixes of
// the names it may vouch for, after the restrictions of every role above it.
func (s *Set) Paths(role RoleName) []string { return slices.Clone(s.paths[role]) }

// Gone reports whether what was kept of a delegation does not matter any more:
// it is delegated no longer, or anew and without a file.
func (s *Set) Gone(role RoleName) bool {
	if _, here := s.docs[role]; here || !role.Delegation() || slices.ContainsFunc(s.unusable, func(u Unusable) bool { return u.Role == role }) {
		return false
	}
	_, parent := s.docs[role.Parent()]
	return parent && s.floor[role] == 0 || removed(s.docs, role)
}

// removed reports whether a verified file no longer delegates to role, or to a
// role above it.
func removed(docs map[RoleName]*document, role RoleName) bool {
	for ; role.Delegation(); role = role.Parent() {
		if _, visited := docs[role.Parent()]; !visited {
			continue
		}
		if _, ok := roleIn(docs, role); !ok {
			return true
		}
	}
	return false
}

// Within reports whether role may vouch for a target of that name.
func (s *Set) Within(role RoleName, name string) bool {
	within, ok := s.within[role]
	return ok && within(name)
}

// lookup finds a name in the role's own file.
func (s *Set) lookup(name string, role RoleName) (Target, bool, error) {
	d, ok := s.docs[role]
	if !ok || !s.Within(role, name) {
		return Target{}, false, nil
	}
	n, ok := d.targets.get(name)
	if !ok {
		return Target{}, false, nil
	}
	t, err := s.target(name, role, n)
	if err != nil {
		return Target{}, false, &RoleError{GUN: s.gun, Role: role, Version: d.version, Err: err}
	}
	return t, true, nil
}

// target is what the node n says of a name.
func (s *Set) target(name string, role RoleName, n node) (Target, error) {
	m, err := s.o.Dialect.decodeMeta(n)
	if err == nil && m.Hashes["sha256"] == nil && m.Hashes["sha512"] == nil {
		// attacks.md M7: what cannot be checked is not trusted.
		err = malformed("target %q has no checksum of a supported algorithm", name)
	}
	return Target{Name: name, Role: role, FileMeta: m}, err
}

// Lookup finds a name in exactly the given roles, in their order; the first
// that holds it wins. Without roles it looks in targets. Names outside a
// role's effective paths are not seen. The error matches [ErrNoTarget], or
// [ErrMalformed] for a target without a supported checksum.
func (s *Set) Lookup(name string, in ...RoleName) (Target, error) {
	if len(in) == 0 {
		in = []RoleName{RoleTargets}
	}
	for _, role := range in {
		if t, ok, err := s.lookup(name, role); ok || err != nil {
			return t, err
		}
	}
	return Target{}, ErrNoTarget
}

// LookupTree is Lookup through the whole tree below each given role, breadth
// first, as the stock notary client reads (notary-protocol 7.5). The subtree
// of another given role is left to that role.
func (s *Set) LookupTree(name string, in ...RoleName) (Target, error) {
	if len(in) == 0 {
		in = []RoleName{RoleTargets}
	}
	for _, start := range in {
		queue := []RoleName{start}
		for len(queue) > 0 {
			role := queue[0]
			queue = queue[1:]
			if t, ok, err := s.lookup(name, role); ok || err != nil {
				return t, err
			}
			for _, d := range s.Delegations(role) {
				if !slices.Contains(in, d.Name) {
					queue = append(queue, d.Name)
				}
			}
		}
	}
	return Target{}, ErrNoTarget
}

// Targets yields what the role's own file lists within its effective paths,
// sorted by name.
func (s *Set) Targets(role RoleName) iter.Seq[Target] {
	return func(yield func(Target) bool) {
		d, ok := s.docs[role]
		if !ok {
			return
		}
		for i, name := range d.targets.names {
			if !s.Within(role, name) {
				continue
			}
			t, err := s.target(name, role, d.targets.items[i])
			if err != nil {
				continue // such an entry vouches for nothing
			}
			if !yield(t) {
				return
			}
		}
	}
}

// Expires returns the first of root, timestamp, snapshot and targets to
// expire, and when.
func (s *Set) Expires() (RoleName, time.Time) {
	first := RoleRoot
	for _, name := range [...]RoleName{RoleTimestamp, RoleSnapshot, RoleTargets} {
		if s.docs[name].expires.Before(s.docs[first].expires) {
			first = name
		}
	}
	return first, s.docs[first].expires
}

// Past returns what is to be remembered of s.
func (s *Set) Past() *Past {
	return &Past{gun: s.gun, o: s.o, root: s.docs[RoleRoot], docs: s.docs, files: s.Files(), floor: s.floor}
}

// Recalled returns what [Recall] would make of the files of s, without reading
// them again. ok is false if it would read others: those of delegations that
// s could not use.
func (s *Set) Recalled() (p *Past, ok bool) {
	p = s.Past()
	slices.SortFunc(p.files, func(a, b File) int { return strings.Compare(string(a.Role), string(b.Role)) })
	return p, len(s.unusable) == 0
}

// Draft begins work on top of s.
func (s *Set) Draft() *Draft { return draftOn(s.Past()) }
