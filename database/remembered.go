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
	at    int       // guarded by mu: how often everything was forgotten
	known bool      // guarded by mu: there is an end
	end   E         // guarded by mu
	rows  map[K]V   // guarded by mu; all are as they were when the end was end
	wrong time.Time // guarded by mu: when it was, last
}

// Of returns the end and the rows of these names, if all are remembered, and in
// any case what Keep and Wrong are to be told of this moment.
func (m *Remembered[E, K, V]) Of(names []K, now time.Time) (at int, end E, rows map[K]V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known || now.Sub(m.wrong) < shared {
		return m.at, end, nil, false
	}
	rows = map[K]V{}
	for _, name := range names {
		if rows[name], ok = m.rows[name]; !ok {
			return m.at, end, nil, false
		}
	}
	return m.at, m.end, rows, true
}

// Keep remembers what a transaction that found the end at have left behind: the
// end, and rows. Others stay remembered if nothing else has happened since.
func (m *Remembered[E, K, V]) Keep(at int, have, left E, rows map[K]V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at != m.at {
		return // another transaction of this process has moved the end, perhaps after this one
	}
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

// Forget forgets everything. It must be called after each transaction that moves
// the end and is not kept.
func (m *Remembered[E, K, V]) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
}

func (m *Remembered[E, K, V]) forget() { m.at, m.known, m.rows = m.at+1, false, nil }

// Wrong is Forget where what was remembered has turned out to be wrong. If it was
// no transaction of this process that has moved the end since, nothing is
// remembered for a while.
func (m *Remembered[E, K, V]) Wrong(at int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at == m.at {
		m.wrong = now
	}
	m.forget()
}
