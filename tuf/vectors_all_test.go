package tuf

import (
	"maps"
	"slices"
	"testing"
)

// Every golden file, current or not, is signed by the role that some golden
// root, or some golden file of the role above it, defines; a root by itself,
// and by the one before it.
func TestVectorsVerify(t *testing.T) {
	t.Parallel()
	o := Options{Now: vectorDay}.filled()
	for repo, want := range vectorRepos(t) {
		docs := map[RoleName][]*document{}
		for _, name := range slices.Sorted(maps.Keys(want.Files)) {
			d, err := decode(o, vectorRole(name), vectorFile(t, repo, name))
			if err != nil {
				t.Fatal(err)
			}
			docs[d.Role] = append(docs[d.Role], d)
		}
		for role, files := range docs {
			for _, d := range files {
				if role == RoleRoot {
					if err := d.sound(o, want.GUN, true, true); err != nil {
						t.Errorf("%s: root %d: %v", repo, d.version, err)
					}
					for _, prev := range docs[RoleRoot] {
						if prev.version != d.version-1 {
							continue
						}
						if err := d.succeeds(o, want.GUN, prev); err != nil {
							t.Errorf("%s: root %d after %d: %v", repo, d.version, prev.version, err)
						}
					}
					continue
				}
				if !slices.ContainsFunc(definitions(docs, role), func(r Role) bool { c := *d; return c.verify(r) == nil }) {
					t.Errorf("%s: %s %d is signed by no role that the vectors define", repo, role, d.version)
				}
			}
		}
	}
}

// definitions returns what any of the files says of a role.
func definitions(docs map[RoleName][]*document, role RoleName) (roles []Role) {
	if role.TopLevel() {
		for _, root := range docs[RoleRoot] {
			roles = append(roles, root.roles[role])
		}
		return roles
	}
	for _, parent := range docs[role.Parent()] {
		for _, d := range parent.delegations {
			if d.Name == role {
				roles = append(roles, d.Role)
			}
		}
	}
	return roles
}
