// Package storage is what the trust server remembers: the current files of
// each repository, the history that readers and auditors may still ask for,
// and the changefeed.
//
// [Open] gives the SQL implementation, [SQL], of a [Store]. A publish is one
// [Store.Commit]: all its files become current in one step, and only if what
// the publisher built upon is still current. Version numbers of a role only
// ever rise, whatever the caller does. Whoever reads a file names repository
// and role; bytes are checked against their SHA-256 each time they leave the
// database.
//
// The package does not look into the files and verifies no signature; that is
// done above it.
//
// An [Archive] also has what is no longer current, and the audit trail: who
// published and deleted what.
//
// Read storage.go, then sql.go, commit.go, group.go (commits that share a
// transaction), writing.go, blob.go and prune.go; archive.go and audit.go are
// for administration.
package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// What a caller can decide on.
var (
	// ErrNotFound says that there is no such repository or file (any more).
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the repository has moved on since it was read, or
	// (see [VersionError]) that a version is not above those already stored.
	ErrConflict = errors.New("state has moved on")
	// ErrUnavailable says that the database cannot be used at the moment: it is
	// away, or too busy. The same call may succeed a little later.
	ErrUnavailable = database.ErrUnavailable
	// ErrUncertain says that the database went away while it was told to
	// commit, and that what was to be committed was not there afterwards. It
	// may still come.
	ErrUncertain = database.ErrUncertain
	// ErrCorrupt says that stored bytes are not those that were committed.
	ErrCorrupt = errors.New("stored bytes do not have the hash they were stored under")
)

// A VersionError says that a file was offered whose version is not above the
// highest one ever stored for the role. It matches [ErrConflict].
type VersionError struct {
	Role    tuf.RoleName
	Offered int64
	Have    int64 // the highest version stored
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s version %d is not above version %d, which is already stored", e.Role, e.Offered, e.Have)
}

// Is makes a VersionError match [ErrConflict].
func (e *VersionError) Is(t error) bool { return t == ErrConflict }

// An Entry describes a stored file.
type Entry struct {
	Role    tuf.RoleName
	Version int64
	Length  int64 // bytes
	SHA256  [32]byte
	Created time.Time // when it was committed
	Expires time.Time // as the committer stated
}

// A State describes the current files of one repository, all of one moment.
// It is never changed after it was returned, and must not be.
type State struct {
	GUN tuf.GUN
	// Seq is the number of the commit that made this state. It rises with
	// every commit of any repository and is never used again, not even after
	// a deletion; two states with one Seq are the same state.
	Seq int64
	// Incarnation is the Seq of the commit that created the repository, or
	// created it anew after its deletion.
	Incarnation int64
	// Mirror is the address of the trust service of which this is a copy, empty
	// for a repository that lives here. It says that nobody publishes here.
	Mirror string
	// Roles has the current file of each role.
	Roles map[tuf.RoleName]Entry
	// Floors has for each role the highest version ever stored in this
	// incarnation, or, for a delegation that was dropped and came back, since
	// it came back.
	Floors map[tuf.RoleName]int64
}

// A Head is the last thing that happened to a repository.
type Head struct {
	GUN     tuf.GUN
	Seq     int64
	Deleted bool
}

// A Forecast says when the current files of one kind of role expire.
type Forecast struct {
	Kind    string
	First   time.Time // the first of those that have not expired; zero if there is none
	Files   int64
	Expired int64
	Days30  int64 // expire within 30 days, or have
	Days90  int64
}

// A NewFile is a file to commit. Expires is what the signed content says.
type NewFile struct {
	tuf.File
	Expires time.Time
}

// A ChangeQuery asks for a part of the changefeed (notary-protocol 3.6).
type ChangeQuery struct {
	GUN tuf.GUN // empty: of all repositories
	// From is the id of a change that the answer does not include: forwards
	// the answer is the first changes after it; backwards the last ones before
	// it, or the newest of all if From is not above 0.
	From      int64
	Limit     int // at most this many; 0 means 100, and more than 1000 means 1000
	Backwards bool
}

// A Change is a record of the changefeed: a commit that brought a timestamp,
// or a deletion. Ids rise in the order in which changes became visible, so a
// reader that asks for what came after the last id it has seen misses nothing.
type Change struct {
	ID      int64
	GUN     tuf.GUN
	Version int64  // of the timestamp; 0 for a deletion
	SHA256  string // of the timestamp, in lower-case hex; empty for a deletion
	Deleted bool
	At      time.Time
}

// A Store is the memory of one trust server, or of several that share it. All
// methods may be called concurrently, also by other processes; what happens to
// one repository happens in one order for all of them. A name that is not
// valid is not found when reading, and an error when writing. Times are kept
// to the microsecond and returned in UTC.
type Store interface {
	// Current returns the current state of gun, or ErrNotFound if nothing is
	// published or it was deleted.
	Current(ctx context.Context, gun tuf.GUN) (*State, error)

	// Commit makes files current, all or none, if base is still the current
	// state of gun; a nil base says that nothing is published. It returns the
	// new state. Roles that are not named stay as they are. The delegations in
	// drop stop being current and their floors are forgotten; one that is also
	// in files begins anew with that file.
	//
	// ErrConflict: base is not current; a *VersionError if it is, but a
	// version is not above the role's floor, be the bytes the same or not.
	// After any other error the caller does not know whether the files were
	// committed, and reads the state again. Several commits may share a
	// transaction; each has its own outcome, and one whose context ends when it
	// is in it may still be told what became of it.
	//
	// A commit that includes a timestamp makes a record in the changefeed. by
	// is who published, for the audit trail; nil says that nobody did: it is
	// the server that renews, which the trail does not tell of.
	Commit(ctx context.Context, gun tuf.GUN, base *State, files []NewFile, drop []tuf.RoleName, now time.Time, by *Actor) (*State, error)

	// Blob returns the file of gun and role with that hash, current or older,
	// and when it was committed; else ErrNotFound. The same bytes under another
	// repository or role, or from before a deletion, are not found.
	Blob(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sha256 [32]byte) (raw []byte, created time.Time, err error)

	// Version is Blob by version number. Where a delegation was dropped and
	// came back, its newest file of that version is meant.
	Version(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version int64) (raw []byte, created time.Time, err error)

	// Delete ends the repository if base is its current state, and makes a
	// record in the changefeed, and one of by in the audit trail. What is published later under the same name is
	// a new incarnation: its versions start anew. ErrConflict: base is not
	// current; ErrNotFound: nothing is published.
	Delete(ctx context.Context, base *State, now time.Time, by Actor) error

	// Record puts something else that was done into the audit trail, unless it
	// is what the repository's last record says already.
	Record(ctx context.Context, r AuditRecord) error

	// Changes returns a part of the changefeed, always oldest first.
	Changes(ctx context.Context, q ChangeQuery) ([]Change, error)

	// Heads returns repositories to which something happened after the commit
	// number after, each once with its last, in order of Seq, so that a server
	// can follow what others commit. At most limit; 0 means 1000, the most.
	Heads(ctx context.Context, after int64, limit int) ([]Head, error)

	// Seen remembers that repositories were read or published to at that time.
	// Unknown and deleted ones are passed over. The first commit of a
	// repository counts as well.
	Seen(ctx context.Context, guns []tuf.GUN, at time.Time) error

	// Expiring returns repositories whose current timestamp or snapshot
	// expires before that time, which were seen since, and which are nobody's
	// copies. Those that expired longest ago come last, so
	// that repositories nobody can renew do not keep others out of the answer.
	// At most limit; 0 means 1000, the most.
	Expiring(ctx context.Context, before, since time.Time, limit int) ([]tuf.GUN, error)

	// Forecast sums up when the current files of all repositories expire, for
	// each kind of role: root, targets, snapshot, timestamp, and "delegation".
	// Kinds of which there are none are left out. Snapshots and timestamps of
	// repositories that were not seen since are not counted as expired or
	// expiring: they are renewed when somebody asks for them.
	Forecast(ctx context.Context, now, since time.Time) ([]Forecast, error)

	// Prune forgets what was superseded, or deleted, long enough ago, and
	// stores more tightly what is seldom read. What is current, every root of
	// a repository that exists, and the floors always stay. Several may prune
	// at once.
	Prune(ctx context.Context, now time.Time) error

	// GUNs returns the published repositories whose names come after that one
	// (empty: all) in byte order.
	// At most limit; 0 means 1000, the most.
	GUNs(ctx context.Context, after tuf.GUN, limit int) ([]tuf.GUN, error)

	// Ping returns nil if the database answers and has the tables.
	Ping(ctx context.Context) error
}
