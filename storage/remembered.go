package storage

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// shared is for how long nothing is built on what is remembered after that was
// wrong: another process writes to the same database.
const shared = 10 * time.Second

// remembered is what the last transaction of commits left behind. While this
// process is the only one that writes, the next one need not read it again: the
// rows that it changes are found by what is remembered of them, and not written
// if that is not so any more. The zero remembered works.
type remembered struct {
	mu    sync.Mutex
	last  standings // guarded by mu; of at most maxKnown repositories
	wrong time.Time // guarded by mu; when it was, last
}

// of returns what is remembered for a batch, if that is everything.
func (m *remembered) of(batch []*pending, now time.Time) (standings, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.wrong) < shared || m.last.timestamp == nil {
		return standings{}, false
	}
	have := m.last
	have.repositories = map[tuf.GUN]repository{}
	for _, p := range batch {
		r, ok := m.last.repositories[p.gun]
		if !ok {
			return standings{}, false
		}
		r.roles = maps.Clone(r.roles)
		have.repositories[p.gun] = r
	}
	return have, true
}

// keep remembers what a transaction left behind.
func (m *remembered) keep(left standings) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.last.repositories
	if all == nil {
		all = map[tuf.GUN]repository{}
	}
	maps.Copy(all, left.repositories)
	for gun := range all { // any: all can be read again
		if len(all) <= maxKnown {
			break
		}
		delete(all, gun)
	}
	m.last = left
	m.last.repositories = all
}

// forget forgets everything; since wrong, if it was.
func (m *remembered) forget(wrong time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = standings{}
	if !wrong.IsZero() {
		m.wrong = wrong
	}
}

// errOutdated says that something else is current than what was remembered, or
// may be.
var errOutdated = errors.New("what was remembered is not so any more")

// outdated reports whether err of a transaction that was built on what was
// remembered may be there because of that.
func outdated(err error) bool {
	return errors.Is(err, errOutdated) || errors.Is(err, database.ErrMissed) || database.IsUnique(err)
}
