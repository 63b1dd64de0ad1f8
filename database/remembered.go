package database

import (
	"sync"
	"time"
)

// shared is for how long nothing is built on what is remembered after that has
// failed: as a rule another process writes to the same database.
const shared = 10 * time.Second

// Remembered is what the last transaction of a kind left behind: an end E, which
// every one of them moves, and rows V by their names. While this process is the
// only one that writes, the next transaction need not read them: it writes on
// the condition that the end is the remembered one. It is safe for concurrent
// use; its fields must be set before, and not be changed.
type Remembered[E any, K comparable, V any] struct {
	// Same reports whether two ends are one, so that nothing happened between.
	Same func(a, b E) bool
	// Most bounds how many rows are remembered.
	Most int

	mu    sync.Mutex
	known bool      // guarded by mu: there is an end
	end   E         // guarded by mu
	rows  map[K]V   // guarded by mu; all are as they were when the end was end
	wrong time.Time // guarded by mu: when it was, last
}

// Of returns the end and the rows of these names, if all are remembered.
func (m *Remembered[E, K, V]) Of(names []K, now time.Time) (end E, rows map[K]V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known || now.Sub(m.wrong) < shared {
		return end, nil, false
	}
	rows = map[K]V{}
	for _, name := range names {
		if rows[name], ok = m.rows[name]; !ok {
			return end, nil, false
		}
	}
	return m.end, rows, true
}

// Keep remembers what a transaction that found the end at have left behind: the
// end, and rows. Others stay remembered if nothing else has happened since.
func (m *Remembered[E, K, V]) Keep(have, left E, rows map[K]V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known || !m.Same(have, m.end) {
		m.rows = map[K]V{}
	}
	m.known, m.end = true, left
	for name, row := range rows {
		m.rows[name] = row
	}
	for name := range m.rows { // any: all can be read again
		if len(m.rows) <= m.Most {
			break
		}
		delete(m.rows, name)
	}
}

// Forget forgets everything. It must be called for each transaction that moves
// the end and is not kept; with the time if what was remembered was wrong.
func (m *Remembered[E, K, V]) Forget(wrong time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known, m.rows = false, nil
	if !wrong.IsZero() {
		m.wrong = wrong
	}
}
