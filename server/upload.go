package server

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// An upload is what a publisher sent, in the order in which it is verified.
type upload struct {
	files   []tuf.File
	decoded *tuf.Decoded // of files, once it is their turn: what is not verified takes no room while it waits
}

// newUpload refuses what no upload may hold.
func newUpload(files []tuf.File) (upload, error) {
	files = slices.Clone(files)
	rank := func(r tuf.RoleName) int {
		switch r {
		case tuf.RoleRoot:
			return 0
		case tuf.RoleSnapshot:
			return 1 << 20
		}
		return 1 + strings.Count(string(r), "/")
	}
	slices.SortFunc(files, func(a, b tuf.File) int {
		if c := rank(a.Role) - rank(b.Role); c != 0 {
			return c
		}
		return strings.Compare(string(a.Role), string(b.Role))
	})
	up := upload{files, new(tuf.Decoded)}
	if up.has(tuf.RoleTimestamp) {
		// attacks.md S14. No honest client sends one.
		return upload{}, invalid(api.BadValidation, "the timestamp is signed by the server and cannot be uploaded")
	}
	return up, nil
}

func (u upload) has(role tuf.RoleName) bool { _, ok := u.file(role); return ok }

func (u upload) file(role tuf.RoleName) (tuf.File, bool) {
	i := slices.IndexFunc(u.files, func(f tuf.File) bool { return f.Role == role })
	if i < 0 {
		return tuf.File{}, false
	}
	return u.files[i], true
}

func (u upload) roles() []tuf.RoleName {
	roles := make([]tuf.RoleName, len(u.files))
	for i, f := range u.files {
		roles[i] = f.Role
	}
	return roles
}

// clashes reports whether what happened between two states concerns the
// upload: one of its roles changed, or, as its own snapshot lists all of them,
// any role but the timestamp.
func (u upload) clashes(before, after *storage.State) bool {
	entries := func(s *storage.State) map[tuf.RoleName]storage.Entry {
		if s == nil {
			return nil
		}
		return s.Roles
	}
	if (before == nil) != (after == nil) || before != nil && before.Incarnation != after.Incarnation {
		return true
	}
	all := maps.Clone(entries(before))
	maps.Copy(all, entries(after))
	for role := range all {
		if role == tuf.RoleTimestamp || !u.has(role) && !u.has(tuf.RoleSnapshot) {
			continue
		}
		if entries(before)[role].SHA256 != entries(after)[role].SHA256 {
			return true
		}
	}
	return false
}

// consistent compares the snapshot of an upload with its other files.
func (u upload) consistent(gun tuf.GUN, o tuf.Options) error {
	snapshot, ok := u.file(tuf.RoleSnapshot)
	if !ok {
		return nil
	}
	refuse := func(err error) error {
		return &tuf.RoleError{GUN: gun, Role: tuf.RoleSnapshot, Version: snapshot.Version, Err: err}
	}
	meta, err := tuf.Outline(tuf.RoleSnapshot, snapshot.Raw, o)
	if err != nil {
		return refuse(err)
	}
	for _, f := range u.files {
		m, ok := meta.Files[f.Role]
		if !ok {
			continue
		}
		if sum := sha256.Sum256(f.Raw); !bytes.Equal(sum[:], m.SHA256()) {
			return invalid(api.BadSnapshot, "sha256 checksum for %s did not match: expected %x", f.Role, m.SHA256())
		}
		if err := m.Matches(f.Raw); err != nil {
			return refuse(err)
		}
	}
	return nil
}
