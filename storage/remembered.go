package storage

import (
	"bytes"
	"maps"
	"sync"
	"time"

	"github.com/iechor/trust/tuf"
)

// shared is for how long nothing is built on what is remembered after a commit
// on that has failed: as a rule another process writes to the same database.
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

// keep remembers what a transaction on top of have left behind. Of other
// repositories it still knows if nothing else had happened since.
func (m *remembered) keep(have, left standings) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.last.repositories
	if all == nil || have.seq != m.last.seq || have.change != m.last.change || !bytes.Equal(have.timestamp, m.last.timestamp) {
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
