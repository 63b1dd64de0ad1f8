package tuf

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Change is one edit. It states an intent ("tag 1.2 is this digest"), not a
// file, so that it can be applied again to a newer state.
//
// A change that would alter nothing is no error and makes nothing be signed.
type Change interface{ apply(*Draft) error }

// AddTarget sets a target in the file of Target.Role ("" means targets). The
// role must exist, and the name must be within its effective paths, be valid
// UTF-8 without control characters, and have at least one sha256 or sha512
// hash. Custom must be canonical JSON ([Canonical]).
type AddTarget struct{ Target Target }

// RemoveTarget removes a target from the file of Role ("" means targets).
type RemoveTarget struct {
	Role RoleName
	Name string
}

// EditDelegation creates a delegation or changes one. What is zero stays as
// it is; a new delegation has threshold 1 unless given. Paths must be within
// those of the parent. With MustCreate it is an error if the role exists.
//
// When fewer keys than the threshold remain, that is a warning of the draft.
type EditDelegation struct {
	Role        RoleName
	AddKeys     []PublicKey
	RemoveKeys  []CanonicalID
	AddPaths    []string
	RemovePaths []string
	ClearPaths  bool
	Threshold   int
	MustCreate  bool
}

// RemoveDelegation removes a delegation and with it all below it.
type RemoveDelegation struct{ Name RoleName }

// PurgeKeys removes keys from every delegation below Under ("" means targets).
// Files that cannot be signed for lack of keys are left as they are, with a
// warning of the draft.
type PurgeKeys struct {
	Under RoleName
	Keys  []CanonicalID
}

// ReplaceKeys replaces the keys and the threshold of a top-level role, which
// takes a new root, and has the role's own file signed again.
type ReplaceKeys struct{ Role Role }

// Resign has a role's file signed again as it stands ("witness"), also one
// that is [Unusable].
type Resign struct{ Role RoleName }

func roleProblem(role RoleName, format string, a ...any) error {
	return fmt.Errorf("%s: %w: %s", role, ErrRole, fmt.Sprintf(format, a...))
}

// A targetEdit sets a target, or removes it if meta is nil.
type targetEdit struct {
	name string
	meta *FileMeta
}

// A targetChange is a change that concerns one target. Many of them in a row,
// for one role, are made at once.
type targetChange interface {
	Change
	// edit returns the change in its checked form.
	edit() (RoleName, targetEdit, error)
}

func orTargets(role RoleName) RoleName {
	if role == "" {
		return RoleTargets
	}
	return role
}

func (c AddTarget) edit() (RoleName, targetEdit, error) {
	t := c.Target
	role := orTargets(t.Role)
	none := targetEdit{}
	switch {
	case t.Name == "" || !utf8.ValidString(t.Name) || strings.ContainsFunc(t.Name, unicode.IsControl):
		return role, none, malformed("%q is not a target name", t.Name)
	case t.Length < 0 || t.Length > maxInteger:
		return role, none, malformed("target %q cannot have a length of %d", t.Name, t.Length)
	case t.Hashes["sha256"] == nil && t.Hashes["sha512"] == nil:
		return role, none, malformed("target %q has no sha256 or sha512 checksum", t.Name)
	}
	for name, sum := range t.Hashes {
		if want, ok := hashBytes[name]; ok && len(sum) != want {
			return role, none, malformed("target %q has a %s checksum of %d bytes", t.Name, name, len(sum))
		}
	}
	if t.Custom != nil {
		if canonical, err := Canonical(t.Custom); err != nil {
			return role, none, fmt.Errorf("custom data of target %q: %w", t.Name, err)
		} else if !bytes.Equal(canonical, t.Custom) {
			return role, none, malformed("custom data of target %q is not in canonical form", t.Name)
		}
	}
	return role, targetEdit{t.Name, &t.FileMeta}, nil
}

func (c RemoveTarget) edit() (RoleName, targetEdit, error) {
	return orTargets(c.Role), targetEdit{name: c.Name}, nil
}

func (c AddTarget) apply(d *Draft) error    { return d.editTargets([]targetChange{c}) }
func (c RemoveTarget) apply(d *Draft) error { return d.editTargets([]targetChange{c}) }

// editTargets makes changes that are all for one role.
func (d *Draft) editTargets(changes []targetChange) error {
	edits := make(map[string]targetEdit, len(changes))
	role, adds := RoleName(""), false
	var within func(name string) bool
	for _, c := range changes {
		var e targetEdit
		var err error
		if role, e, err = c.edit(); err != nil {
			return err
		}
		if !role.HoldsTargets() {
			return roleProblem(role, "it holds no targets")
		}
		if e.meta != nil {
			if !adds {
				adds = true
				paths, _ := d.effective(role)
				within = d.o.Dialect.within(paths)
			}
			if !d.reachable(role) {
				return fmt.Errorf("%s: %w", role, ErrNoDelegation)
			}
			if !within(e.name) {
				return roleProblem(role, "target %q is not within its paths", e.name)
			}
		}
		edits[e.name] = e
	}
	if _, ok := d.files[role]; !ok && !adds {
		if _, ok := d.Role(role); ok {
			return nil // delegated, and nothing signed in it yet
		}
	}
	f, err := d.edit(role)
	if err != nil {
		return err
	}
	sorted := slices.SortedFunc(maps.Values(edits), func(a, b targetEdit) int { return strings.Compare(a.name, b.name) })
	f.set(d.o.Dialect.editTargets(f.payload, sorted))
	return nil
}

func (c EditDelegation) apply(d *Draft) error {
	if !c.Role.Delegation() {
		return roleProblem(c.Role, "invalid delegation role name")
	}
	parent := c.Role.Parent()
	above, ok := d.effective(parent)
	if !ok {
		return fmt.Errorf("%s: %w", parent, ErrNoDelegation)
	}
	r, exists := d.Role(c.Role)
	switch {
	case exists && c.MustCreate:
		return roleProblem(c.Role, "the delegation exists")
	case !exists:
		r = Role{Name: c.Role, Threshold: 1}
	}
	r.Keys = slices.DeleteFunc(slices.Clone(r.Keys), func(k Key) bool {
		return slices.Contains(c.RemoveKeys, k.CanonicalID())
	})
	for _, k := range c.AddKeys {
		if _, err := k.Public(); err != nil {
			return fmt.Errorf("%s: %w", c.Role, err)
		}
		if !slices.ContainsFunc(r.Keys, func(o Key) bool { return o.Equal(k) }) {
			r.Keys = append(r.Keys, Key{k.ID(), k})
		}
	}
	if c.Threshold != 0 {
		r.Threshold = c.Threshold
	}
	if r.Threshold < 1 {
		return roleProblem(c.Role, "threshold %d is below 1", r.Threshold)
	}
	paths := slices.Clone(r.Paths)
	if c.ClearPaths {
		paths = nil
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return slices.Contains(c.RemovePaths, p) })
	within := d.o.Dialect.within(above)
	for _, p := range c.AddPaths {
		if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) || !within(p) {
			return roleProblem(c.Role, "invalid path %q to add to role", p)
		}
		if !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	r.Paths = paths
	if have := distinct(r.Keys); have < r.Threshold {
		d.warn("role %s has fewer keys than its threshold of %d; it will not be usable until keys are added to it", c.Role, r.Threshold)
	}
	e, err := d.edit(parent)
	if err != nil {
		return err
	}
	e.set(d.o.Dialect.putDelegation(e.payload, r))
	return d.refresh(parent)
}

func (c RemoveDelegation) apply(d *Draft) error {
	if _, ok := d.Role(c.Name); !ok || !c.Name.Delegation() {
		return fmt.Errorf("%s: %w", c.Name, ErrNoDelegation)
	}
	parent := c.Name.Parent()
	e, err := d.edit(parent)
	if err != nil {
		return err
	}
	e.set(d.o.Dialect.dropDelegation(e.payload, c.Name))
	for name := range d.files {
		if name == c.Name || strings.HasPrefix(string(name), string(c.Name)+"/") {
			delete(d.files, name)
		}
	}
	return d.refresh(parent)
}

func (c PurgeKeys) apply(d *Draft) error {
	under := c.Under
	if under == "" {
		under = RoleTargets
	}
	for _, name := range d.roles() {
		f := d.files[name]
		if name != under && !strings.HasPrefix(string(name), string(under)+"/") {
			continue
		}
		for _, child := range f.content.delegations {
			if !slices.ContainsFunc(c.Keys, child.holds) {
				continue
			}
			if err := (EditDelegation{Role: child.Name, RemoveKeys: c.Keys}).apply(d); err != nil {
				return err
			}
			// Only what nothing but purges changed can be left as it is.
			switch g := d.files[name]; {
			case !f.changed:
				g.unpurged = f
			default:
				g.unpurged = f.unpurged
			}
		}
	}
	return nil
}

func (c ReplaceKeys) apply(d *Draft) error {
	name := c.Role.Name
	if !name.TopLevel() {
		return roleProblem(name, "keys of a delegation are changed by the role above it")
	}
	if have := distinct(c.Role.Keys); c.Role.Threshold < 1 || have < c.Role.Threshold {
		return roleProblem(name, "%d keys cannot meet a threshold of %d", have, c.Role.Threshold)
	}
	for _, k := range c.Role.Keys {
		if _, err := k.Public(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if name == RoleRoot {
		if keys, _ := d.o.Dialect.rootKeys(c.Role, d.gun, nil); len(keys) != len(c.Role.Keys) {
			return roleProblem(name, "a key has no certificate for %s", d.gun)
		}
	}
	e, err := d.edit(RoleRoot)
	if err != nil {
		return err
	}
	e.set(d.o.Dialect.putRole(e.payload, c.Role))
	if err := d.refresh(RoleRoot); err != nil {
		return err
	}
	switch name {
	case RoleTargets:
		return Resign{RoleTargets}.apply(d)
	case RoleSnapshot, RoleTimestamp:
		d.again[name] = true
	}
	return nil
}

func (c Resign) apply(d *Draft) error {
	if c.Role == RoleSnapshot || c.Role == RoleTimestamp {
		d.again[c.Role] = true
		return nil
	}
	f, ok := d.files[c.Role]
	if !ok {
		return fmt.Errorf("%s: %w", c.Role, ErrNoDelegation)
	}
	g := *f
	g.changed, g.unpurged = true, nil
	d.files[c.Role] = &g
	return nil
}
