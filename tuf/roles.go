package tuf

import (
	"encoding/json"
	"strings"
	"time"
)

// A GUN (globally unique name) names a repository of trust data, such as
// "docker.io/library/alpine": an image name without tag or digest.
type GUN string

// Valid reports whether g can name a repository: 1 to 255 bytes of printable
// ASCII, without spaces, backslashes, "*", "?", "#" and "%", in segments
// separated by single slashes none of which is "." or ".." or "_trust".
//
// It is the widest form that one injective path can carry; the image reference
// grammar is narrower and is applied where images are named.
func (g GUN) Valid() bool {
	if g == "" || len(g) > 255 {
		return false
	}
	for i := range len(g) {
		if c := g[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`\*?#%"<>|`, c) >= 0 {
			return false
		}
	}
	for seg := range strings.SplitSeq(string(g), "/") {
		switch seg {
		case "", ".", "..", "_trust":
			return false
		}
	}
	return true
}

// A RoleName is "root", "timestamp", "snapshot", "targets", or a delegation
// below targets such as "targets/releases".
type RoleName string

// The top-level roles, and the delegation that consumers read first.
const (
	RoleRoot      RoleName = "root"
	RoleTargets   RoleName = "targets"
	RoleSnapshot  RoleName = "snapshot"
	RoleTimestamp RoleName = "timestamp"

	RoleReleases RoleName = "targets/releases"
)

// TopLevel reports whether r is one of the four roles that root.json names.
func (r RoleName) TopLevel() bool {
	switch r {
	case RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp:
		return true
	}
	return false
}

// Delegation reports whether r is a well-formed delegation name: segments of
// [-a-z0-9_] below "targets/", shorter than 256 bytes (notary-protocol 2.1).
func (r RoleName) Delegation() bool {
	rest, ok := strings.CutPrefix(string(r), "targets/")
	if !ok || len(r) > 255 {
		return false
	}
	for seg := range strings.SplitSeq(rest, "/") {
		if seg == "" {
			return false
		}
		for i := range len(seg) {
			c := seg[i]
			if !(c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z') {
				return false
			}
		}
	}
	return true
}

// Valid reports whether r is a top-level role or a well-formed delegation.
func (r RoleName) Valid() bool { return r.TopLevel() || r.Delegation() }

// HoldsTargets reports whether files of r list targets: "targets" and every
// delegation.
func (r RoleName) HoldsTargets() bool { return r == RoleTargets || r.Delegation() }

// Parent returns the role that delegates to r, and "" for top-level roles.
func (r RoleName) Parent() RoleName {
	if !r.Delegation() {
		return ""
	}
	return r[:strings.LastIndexByte(string(r), '/')]
}

// depth is the number of segments: 1 for top-level roles.
func (r RoleName) depth() int { return strings.Count(string(r), "/") + 1 }

// A Role says which keys may sign, and how many distinct ones must.
type Role struct {
	Name      RoleName
	Keys      []Key
	Threshold int
	Paths     []string // delegations only: target name prefixes
}

// A Key is a public key under the id by which a role lists it. In the Notary
// dialect the id is always the key's own ([PublicKey.ID]).
type Key struct {
	ID KeyID
	PublicKey
}

// NewRole makes a role whose keys are listed under their own ids.
func NewRole(name RoleName, threshold int, keys ...PublicKey) Role {
	r := Role{Name: name, Threshold: threshold}
	for _, k := range keys {
		r.Keys = append(r.Keys, Key{ID: k.ID(), PublicKey: k})
	}
	return r
}

// holds reports whether the role lists a key with the material of id.
func (r Role) holds(id CanonicalID) bool {
	for _, k := range r.Keys {
		if k.CanonicalID() == id {
			return true
		}
	}
	return false
}

// A Delegation is a role together with the role that vouches for it.
type Delegation struct {
	From RoleName
	Role
}

// A File is one metadata file exactly as it travels. Raw is what was signed
// and hashed; it is stored and served as is, never encoded again.
type File struct {
	Role    RoleName
	Version int64
	Raw     []byte
}

// FileMeta describes a file by length in bytes and by hashes.
type FileMeta struct {
	Length int64
	Hashes map[string][]byte // algorithm ("sha256", "sha512") to digest
	Custom json.RawMessage   // targets only; canonical JSON, nil if absent
}

// SHA256 returns the SHA-256 digest, or nil when there is none.
func (m FileMeta) SHA256() []byte { return m.Hashes["sha256"] }

// A Target is a signed name: for images, a tag, the digest of its manifest and
// the manifest's length.
type Target struct {
	Name string
	Role RoleName // the role that vouches for it
	FileMeta
}

// Info describes one file of a Set.
type Info struct {
	Role    RoleName
	Version int64
	Expires time.Time
	Length  int64
	SHA256  [32]byte
	Signers []KeyID // ids of the listed keys whose signature was found valid
}

// Lifetimes the stock programs give (notary-protocol 2.1), for roles that a
// client signs.
const (
	RootLifetime    = 3650 * 24 * time.Hour
	TargetsLifetime = 1095 * 24 * time.Hour
)
