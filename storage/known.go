package storage

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// maxKnown bounds how many states are kept, each of about 1 KiB.
const maxKnown = 1024

// known keeps the states that this process committed last. Whether one is still
// current the database says: to ask for that is cheaper than to read the state,
// which every publish begins with. The zero known works.
type known struct {
	mu sync.Mutex
	m  map[tuf.GUN]*State // guarded by mu
}

func (k *known) get(gun tuf.GUN) *State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.m[gun]
}

// drop forgets a state that is not current any more.
func (k *known) drop(state *State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m[state.GUN] == state {
		delete(k.m, state.GUN)
	}
}

// put keeps a state that has a timestamp, by which it will be known.
func (k *known) put(state *State) {
	if _, ok := state.Roles[tuf.RoleTimestamp]; !ok {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil {
		k.m = map[tuf.GUN]*State{}
	}
	for gun := range k.m { // any: all can be read again
		if len(k.m) < maxKnown {
			break
		}
		delete(k.m, gun)
	}
	k.m[state.GUN] = state
}

// selectStill finds what tells one state from others: its number, and, since a
// database that was restored from a backup numbers anew, the timestamp, which
// names every other file by its hash, through the snapshot. The timestamp is
// asked for by itself because PostgreSQL, before it knows how many files there
// are, would begin a join with all timestamps.
const selectStill = `SELECT r.seq, r.incarnation, r.mirror, (SELECT f.digest FROM files f
		WHERE f.repository = c.repository AND f.incarnation = c.incarnation AND f.role = c.role AND f.version = c.version)
	FROM repositories r CROSS JOIN roles c WHERE r.gun = ? AND r.deleted = 0 AND c.repository = r.id AND c.role = 'timestamp'`

// still reports whether state is still the current one of its repository.
func still(ctx context.Context, t *database.Tx, state *State) (bool, error) {
	var seq, incarnation int64
	var mirror sql.NullString
	var digest []byte
	err := t.QueryRow(ctx, selectStill, string(state.GUN)).Scan(&seq, &incarnation, &mirror, &digest)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	is := state.Roles[tuf.RoleTimestamp].SHA256
	return seq == state.Seq && incarnation == state.Incarnation && mirror.String == state.Mirror && string(digest) == string(is[:]), err
}
