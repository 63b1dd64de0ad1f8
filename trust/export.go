package trust

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/tuf"
)

// A TagList is the verified content of a repository in one file (format.md
// 7.5): what its owner takes along when it has to be made anew with another
// root.
type TagList struct {
	GUN   tuf.GUN
	Made  time.Time
	Root  []tuf.KeyID // keys of the root that vouched for it
	Roles []ListedRole
}

// A ListedRole is targets or a delegation, parents before children.
type ListedRole struct {
	Name      tuf.RoleName    `json:"name"`
	Threshold int             `json:"threshold"`
	Keys      []tuf.PublicKey `json:"keys"`
	Paths     []string        `json:"paths"`
	Tags      []ListedTag     `json:"tags"`
}

// A ListedTag is a signed tag.
type ListedTag struct {
	Name   string          `json:"name"`
	SHA256 string          `json:"sha256"` // hex
	Length int64           `json:"length"`
	Custom json.RawMessage `json:"custom,omitempty"` // canonical JSON
}

// Target returns the tag as it is signed in a role.
func (t ListedTag) Target(role tuf.RoleName) tuf.Target {
	sum, _ := hex.DecodeString(t.SHA256) // checked when it was read
	return tuf.Target{Name: t.Name, Role: role, FileMeta: tuf.FileMeta{
		Length: t.Length, Hashes: map[string][]byte{"sha256": sum}, Custom: t.Custom,
	}}
}

const (
	tagListType    = "Tags"
	tagListVersion = 1
	maxTagList     = 64 << 20
)

type tagListFile struct {
	Type    string       `json:"_type"`
	Version int          `json:"version"`
	GUN     tuf.GUN      `json:"gun"`
	Made    time.Time    `json:"made"`
	Root    []tuf.KeyID  `json:"root"`
	Roles   []ListedRole `json:"roles"`
}

// ListTags takes everything that set vouches for. Tags without a SHA-256 are
// left out, and named.
func ListTags(set *tuf.Set, now time.Time) (list TagList, left []string) {
	list = TagList{GUN: set.GUN(), Made: now.UTC().Truncate(time.Second)}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	for _, k := range root.Keys {
		list.Root = append(list.Root, k.ID)
	}
	for _, name := range set.Roles() {
		if !name.HoldsTargets() {
			continue
		}
		role, _ := set.Role(name) // it was just listed
		r := ListedRole{Name: name, Threshold: role.Threshold, Paths: slices.Clone(role.Paths), Tags: []ListedTag{}}
		for _, k := range role.Keys {
			r.Keys = append(r.Keys, k.PublicKey)
		}
		for t := range set.Targets(name) {
			if t.SHA256() == nil {
				left = append(left, t.Name)
				continue
			}
			r.Tags = append(r.Tags, ListedTag{t.Name, hex.EncodeToString(t.SHA256()), t.Length, t.Custom})
		}
		list.Roles = append(list.Roles, r)
	}
	return list, left
}

// Bytes returns the file.
func (l TagList) Bytes() ([]byte, error) {
	raw, err := json.MarshalIndent(tagListFile{tagListType, tagListVersion, l.GUN, l.Made, l.Root, l.Roles}, "", "  ")
	return append(raw, '\n'), err
}

// ReadTagList reads the file strictly. The error matches [tuf.ErrMalformed].
func ReadTagList(raw []byte) (TagList, error) {
	bad := func(format string, a ...any) (TagList, error) {
		return TagList{}, &formatError{"list of tags", fmt.Sprintf(format, a...)}
	}
	if len(raw) > maxTagList {
		return bad("larger than %d bytes", maxTagList)
	}
	var f tagListFile
	if err := strict(raw, &f); err != nil {
		return bad("%v", err)
	}
	switch {
	case f.Type != tagListType:
		return bad("it is a %q", f.Type)
	case f.Version != tagListVersion:
		return bad("version %d of the format is not known", f.Version)
	case !f.GUN.Valid():
		return bad("%q is not the name of a repository", string(f.GUN))
	case len(f.Root) == 0:
		return bad("it names no root")
	case len(f.Roles) == 0 || f.Roles[0].Name != tuf.RoleTargets:
		return bad("targets is not the first of its roles")
	}
	for _, id := range f.Root {
		if !tuf.CanonicalID(id).Valid() {
			return bad("%q is not a key id", string(id))
		}
	}
	seen := map[tuf.RoleName]bool{}
	for i, r := range f.Roles {
		switch {
		case !r.Name.HoldsTargets() || seen[r.Name]:
			return bad("%q is not a role that holds tags, or is there twice", string(r.Name))
		case i > 0 && !seen[r.Name.Parent()]:
			return bad("%s comes before the role above it", r.Name)
		case r.Threshold < 1:
			return bad("%s has a threshold of %d", r.Name, r.Threshold)
		}
		seen[r.Name] = true
		tags := map[string]bool{}
		for n, t := range r.Tags {
			sum, err := hex.DecodeString(t.SHA256)
			switch {
			case t.Name == "" || tags[t.Name]:
				return bad("%q in %s is no tag, or is there twice", t.Name, r.Name)
			case err != nil || len(sum) != 32 || strings.ToLower(t.SHA256) != t.SHA256 || strings.Trim(t.SHA256, "0") == "":
				return bad("tag %q has no sha256", t.Name)
			case t.Length < 0:
				return bad("tag %q has a length of %d", t.Name, t.Length)
			}
			tags[t.Name] = true
			if t.Custom != nil {
				if r.Tags[n].Custom, err = tuf.Canonical(t.Custom); err != nil {
					return bad("tag %q: %v", t.Name, err)
				}
			}
		}
	}
	return TagList{f.GUN, f.Made, f.Root, f.Roles}, nil
}

// Released returns what consumers get: a tag in targets/releases, or else in
// targets; and which of the roles it comes from.
func (l TagList) Released() (tags []ListedTag, from map[string]tuf.RoleName) {
	from = map[string]tuf.RoleName{}
	for _, name := range []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets} {
		for _, r := range l.Roles {
			for _, t := range r.Tags {
				if _, ok := from[t.Name]; r.Name == name && !ok {
					tags, from[t.Name] = append(tags, t), name
				}
			}
		}
	}
	return tags, from
}

// Cached returns the state at hand as this machine last verified it, without
// asking anybody, and nil if that is not whole. It is for owners whose server
// has lost the repository.
func (r *Repository) Cached() (*tuf.Set, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	o := r.options(r.c.Now())
	have, err := r.recall(o)
	if err != nil || have.past == nil {
		return nil, err
	}
	if !have.Checked.IsZero() {
		o.Now = have.Checked
	}
	set, err := replay(have.past, o)
	if err != nil {
		return nil, nil // what there is of it is not whole
	}
	return set, nil
}

// A formatError says why a file is not what it should be. It matches
// [tuf.ErrMalformed].
type formatError struct{ what, reason string }

func (e *formatError) Error() string   { return "not a valid " + e.what + ": " + e.reason }
func (e *formatError) Is(t error) bool { return t == tuf.ErrMalformed }
