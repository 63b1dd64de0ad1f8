package database

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// maxStatements bounds how many statements are kept prepared; this program has
// about fifty. One more than that is parsed each time it runs.
const maxStatements = 128

// statements keep SQLite's statements prepared, by their text: to parse and
// plan one takes longer than to run it. The drivers of the other dialects see
// to that themselves, and what stands between them and their servers does not
// always bear statements that outlive a transaction.
//
// A statement is prepared after the first transaction that used it has ended.
// To prepare it within one would wait for a second connection while holding
// the first, for ever if there is but one.
type statements struct {
	db *sql.DB

	mu     sync.Mutex
	closed bool                 // guarded by mu
	m      map[string]*sql.Stmt // guarded by mu; nil: being prepared
}

func newStatements(db *sql.DB) *statements {
	return &statements{db: db, m: map[string]*sql.Stmt{}}
}

// get returns the prepared statement, or nil.
func (s *statements) get(text string) *sql.Stmt {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[text]
}

// prepare keeps the statements from now on, as far as there is room. What
// cannot be prepared goes on being parsed each time, and says there what is
// wrong.
func (s *statements) prepare(ctx context.Context, texts []string) {
	if s == nil {
		return
	}
	for _, text := range texts {
		if !s.claim(text) {
			continue
		}
		stmt, err := s.db.PrepareContext(ctx, text)
		s.settle(text, stmt, err)
	}
}

// claim reports whether it is the caller who prepares the statement.
func (s *statements) claim(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.m[text]; there || s.closed || len(s.m) >= maxStatements {
		return false
	}
	s.m[text] = nil
	return true
}

func (s *statements) settle(text string, stmt *sql.Stmt, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		delete(s.m, text)
	case s.closed:
		_ = stmt.Close() // nobody has used it
	default:
		s.m[text] = stmt
	}
}

// close ends all statements. Transactions under way keep theirs until they end.
func (s *statements) close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, stmt := range s.m {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	clear(s.m)
	return errors.Join(errs...)
}

// A usage notes which statements the last run of a transaction lacked.
type usage struct{ missed []string }

// by lets fn use the statements of d.
func (u *usage) by(d *DB, fn func(*Tx) error) func(*Tx) error {
	return func(t *Tx) error {
		t.prepared = d.statements
		err := fn(t)
		u.missed = t.missed
		return err
	}
}

// done prepares what was missed by a transaction, whatever else it made of what
// it read, unless the database was the reason that it failed. It returns err.
func (u *usage) done(ctx context.Context, d *DB, err error) error {
	if ctx.Err() == nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrUncertain) {
		d.statements.prepare(ctx, u.missed)
	}
	return err
}
