package tuf

import (
	"iter"
	"time"
)

// API-OUTLINE: bodies follow.

// Limits bound what is read before and while it is verified. Zero fields mean
// the defaults of [DefaultLimits].
type Limits struct {
	Root, Timestamp, Snapshot, Targets int64 // bytes a file
	Total                              int64 // bytes of all files of one walk
	Roles                              int   // delegations visited
	Rotations                          int   // root versions followed in one walk
	Signatures                         int   // entries of one signature list
}

func DefaultLimits() Limits

// Options are what verification needs to know beside the files.
type Options struct {
	Dialect Dialect   // zero: Notary v1
	Pin     Pin       // nil: FirstUse
	Now     time.Time // must be set
	Limits  Limits
}

// A Set is a complete, verified state of a repository. It is immutable. The
// only way to get one is [Update.Set].
type Set struct{ p *int }

func (s *Set) GUN() GUN
func (s *Set) Files() []File                        // root, timestamp, snapshot, targets, then delegations in order of visit; unusable ones included
func (s *Set) File(role RoleName) (File, bool)
func (s *Set) Role(name RoleName) (Role, bool)      // as its parent (root, or the delegating role) defines it
func (s *Set) Info(role RoleName) (Info, bool)
func (s *Set) Roles() []RoleName                    // the roles whose files were verified, in order of visit
func (s *Set) Delegations(from RoleName) []Delegation
func (s *Set) Unusable() []Unusable
func (s *Set) Lookup(name string, in ...RoleName) (Target, error) // exact roles, first hit; ErrNoTarget
func (s *Set) LookupTree(name string, in ...RoleName) (Target, error) // breadth-first below each role
func (s *Set) Targets(role RoleName) iter.Seq[Target] // of that role's own file, sorted by name, effective paths applied
func (s *Set) Expires() (RoleName, time.Time)       // the first of root, timestamp, snapshot, targets to expire
func (s *Set) Past() *Past
func (s *Set) Draft() *Draft

// Unusable is a delegation's file that is served but does not count.
type Unusable struct {
	File
	Err *RoleError
}

// A Past is what a machine verified earlier, complete or not.
type Past struct{ p *int }

// Recall: the root must be sound (ErrRoot/ErrMalformed otherwise). Files of other roles count as far as their own
// signatures hold; expiry is not looked at; files that do not hold are left out silently.
func Recall(gun GUN, files []File, o Options) (*Past, error)
func (p *Past) GUN() GUN
func (p *Past) Root() File
func (p *Past) Floor(role RoleName) int64 // highest version seen, 0 if none
func (p *Past) Draft() (*Draft, error)    // for the initial publish, and for repair

// A Want is the next file an Update needs.
type Want struct {
	Role      RoleName
	Version   int64  // for a root of the chain; 0 means the latest, or the one with SHA256
	SHA256    []byte // nil when no verified file names the hash yet
	MaxLength int64
}

type Update struct{ p *int }

func Begin(gun GUN, past *Past, o Options) *Update
func (u *Update) Next() (Want, bool)
func (u *Update) Add(w Want, raw []byte) error
func (u *Update) Missing(w Want) error
func (u *Update) Set() (*Set, error)
func (u *Update) Verified() []File // what may be kept, also after an error: root first
