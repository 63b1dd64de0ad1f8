// Package database is one SQL database in one of three dialects. It evens out
// what differs between them: placeholders, column types, transactions that
// have to be run again, unique violations, and the lock around migrations.
//
// Open a [sql.DB] with the driver of your choice, hand it to [New], bring the
// schema up with [DB.Migrate], then read in [DB.View] and write in
// [DB.Update]. Queries are written once, with ? as placeholder, in the part of
// SQL that the three dialects share. A driver of MySQL must count rows that
// were found; where it takes several statements at once, with parameters, it
// says so (TakesPackets).
//
// The package imports no driver: it knows errors by their methods and codes.
// A [Chain] is an append-only log in a table of it, which can be verified.
// A [Group] runs together what several callers ask for at once.
// Read database.go, then rows.go, server.go, statements.go, migrate.go,
// errors.go, chain.go, group.go, remembered.go.
package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Dialect is the kind of SQL that a database speaks.
type Dialect int

// The dialects. A SQLite file wants the pragmas journal_mode(WAL),
// synchronous(FULL), busy_timeout(5000) and foreign_keys(1), and
// _txlock=immediate, in its data source name.
const (
	SQLite Dialect = iota
	PostgreSQL
	MySQL // and MariaDB
)

// String returns the name that migration files bear: sqlite, postgres, mysql.
func (d Dialect) String() string {
	switch d {
	case SQLite:
		return "sqlite"
	case PostgreSQL:
		return "postgres"
	case MySQL:
		return "mysql"
	}
	return "dialect " + strconv.Itoa(int(d))
}

// A DB is a database. It is safe for concurrent use.
type DB struct {
	db      *sql.DB
	dialect Dialect

	// writing holds one token while a write transaction of this process runs
	// on SQLite, which has one writer at a time: waiting here is fair and ends
	// with the context, waiting in SQLite's busy handler is neither.
	writing chan struct{}

	statements *statements // nil: none are kept

	// away is since when the database cannot be reached, in nanoseconds after
	// born; 0: it answers.
	away atomic.Int64
	born time.Time

	retries, failures atomic.Int64

	// Around, if it is not nil, is told of each transaction, "update" or
	// "view", and the function that it returns of its end. It must be set
	// before the first one.
	Around func(ctx context.Context, what string) (context.Context, func(error))
}

// New takes over db, which speaks d.
func New(db *sql.DB, d Dialect) *DB {
	n := &DB{db: db, dialect: d, born: time.Now()}
	if d == SQLite {
		n.writing = make(chan struct{}, 1)
		n.statements = newStatements(db)
	}
	return n
}

// Dialect returns what the database speaks.
func (d *DB) Dialect() Dialect { return d.dialect }

// SQL returns the database itself, for what a [Tx] cannot do.
func (d *DB) SQL() *sql.DB { return d.db }

// Trouble returns how many transactions were run again, and how many were given
// up with [ErrBusy], [ErrUnavailable] or [ErrUncertain], since New.
func (d *DB) Trouble() (retries, failures int64) { return d.retries.Load(), d.failures.Load() }

// Close closes the database.
func (d *DB) Close() error { return errors.Join(d.statements.close(), d.db.Close()) }

// Bounds of running a transaction again. Where other transactions are in the
// way: 16 attempts, about 2 seconds of pauses altogether. Where the database is
// away: until it has been for that long, for all callers together.
const (
	maxAttempts = 16
	minPause    = 2 * time.Millisecond
	maxPause    = 250 * time.Millisecond
	patience    = 10 * time.Second
)

// Update runs fn in a serializable write transaction and commits it when fn
// returns nil. An error of fn rolls back and is returned as it is.
//
// Where the database refuses because of other transactions (busy, deadlock,
// serialization failure), fn runs again from the start, so it must have no
// effect but on the Tx; after 16 attempts the error matches [ErrBusy]. It also
// runs again where the connection was lost before the commit was sent, which is
// what a failover looks like; when the database has been away for 10 seconds
// the error matches [ErrUnavailable], as [ErrBusy] does too. An error that
// matches [ErrUncertain] says that the commit was sent and its outcome is not
// known. With any other error nothing was written.
//
// fn must not call Update: on SQLite it would wait for itself until ctx ends.
func (d *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	return d.update(ctx, "", fn)
}

// update is Update for a transaction that begins with these statements, which
// have neither parameters nor results, and take no round trip of their own
// where that can be. On SQLite there must be none.
func (d *DB) update(ctx context.Context, first string, fn func(*Tx) error) (err error) {
	ctx, end := d.around(ctx, "update")
	defer func() { end(err) }()
	m := mode{first: first} // SQLite is always serializable, a session of MySQL if nothing else is said
	if d.dialect == PostgreSQL {
		m.options = &sql.TxOptions{Isolation: sql.LevelSerializable}
	}
	var used usage
	err = d.retry(ctx, func() error { return d.write(ctx, m, used.by(d, fn)) })
	return used.done(ctx, d, err)
}

// InTurn is Update for transactions that all write to the same: they take
// turns, everywhere, on the row of table whose id is 1, before they look at
// anything, because to be refused at the end, and to begin again, takes longer.
// On PostgreSQL then may be one more statement to begin with.
func (d *DB) InTurn(ctx context.Context, table, then string, fn func(*Tx) error) error {
	first := ""
	switch d.dialect {
	case MySQL: // with INTO there is no result in the way of the first one that is asked for
		first = "SELECT id INTO @turn FROM " + table + " WHERE id = 1 FOR UPDATE"
	case PostgreSQL:
		// LOCK is the one statement that waits before what is visible is fixed.
		// Everything is found by an index, also while tables are so small that
		// reading all of one would be cheaper: that is one plan for all times,
		// and a conflict only with those who write the same.
		first = "SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_generic_plan; LOCK TABLE " + table + " IN SHARE ROW EXCLUSIVE MODE"
		if then != "" {
			first += "; " + then
		}
	}
	return d.update(ctx, first, fn)
}

// View runs fn in a read transaction: everything it reads is of one moment.
// Like Update it may run fn again.
func (d *DB) View(ctx context.Context, fn func(*Tx) error) (err error) {
	ctx, end := d.around(ctx, "view")
	defer func() { end(err) }()
	var used usage
	err = d.retry(ctx, func() error { return d.once(ctx, d.readOnly(), used.by(d, fn)) })
	return used.done(ctx, d, err)
}

// Look is View for an fn that asks with a single statement, which is of one
// moment by itself: where the database is a server, that takes one round trip
// instead of two to four.
func (d *DB) Look(ctx context.Context, fn func(*Tx) error) (err error) {
	if d.dialect == SQLite {
		return d.View(ctx, fn)
	}
	ctx, end := d.around(ctx, "view")
	defer func() { end(err) }()
	return d.retry(ctx, func() error {
		conn, err := d.db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("connect: %w", d.dialect.unreachable(err))
		}
		defer func() { _ = conn.Close() }() // back to the pool, if it is not gone
		return d.judged(conn, fn(&Tx{run: conn, dialect: d.dialect}))
	})
}

func (d *DB) around(ctx context.Context, what string) (context.Context, func(error)) {
	if d.Around == nil {
		return ctx, func(error) {}
	}
	return d.Around(ctx, what)
}

// A mode is how a transaction begins.
type mode struct {
	options *sql.TxOptions
	first   string // see [DB.update]
}

func (m mode) readOnly() bool { return m.options != nil && m.options.ReadOnly }

func (d *DB) readOnly() mode {
	if d.dialect == SQLite {
		return mode{options: &sql.TxOptions{ReadOnly: true}}
	}
	return mode{options: &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}}
}

// retry runs a transaction, and counts how that went.
func (d *DB) retry(ctx context.Context, run func() error) error {
	err := d.rerun(ctx, run)
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUncertain) {
		d.failures.Add(1)
	}
	return err
}

// rerun is the one place where a transaction is run again.
func (d *DB) rerun(ctx context.Context, run func() error) error {
	pause := minPause
	for attempt := 1; ; attempt++ {
		err := run()
		gone := errors.As(err, new(*lost))
		again := d.dialect.again(err)
		switch {
		case errors.Is(err, ErrUncertain):
			return err
		case gone && errors.Is(ctx.Err(), context.Canceled):
			return fmt.Errorf("%w: %w", ctx.Err(), err) // the driver closed the connection for that
		case gone && !d.wait():
			return &unavailable{err}
		case again && attempt >= maxAttempts:
			return &busy{attempts: attempt, err: err}
		case err == nil, !gone && ctx.Err() == nil: // the database has answered
			d.away.Store(0)
		}
		if !gone && !again {
			return err
		}
		d.retries.Add(1)
		t := time.NewTimer(pause/2 + rand.N(pause)) // jitter, so that two losers do not meet again
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if gone {
				return &unavailable{fmt.Errorf("%w: %w", ctx.Err(), err)}
			}
			return ctx.Err()
		}
		pause = min(2*pause, maxPause)
	}
}

// wait notes that the database is away, and reports whether that is worth
// waiting for.
func (d *DB) wait() bool {
	now := int64(time.Since(d.born))
	if d.away.CompareAndSwap(0, now) {
		return true
	}
	since := d.away.Load()
	return since == 0 || now-since < int64(patience)
}

func (d *DB) write(ctx context.Context, m mode, fn func(*Tx) error) error {
	if d.writing != nil {
		select {
		case d.writing <- struct{}{}:
			defer func() { <-d.writing }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.once(ctx, m, fn)
}

// once runs a transaction on a connection that is not used again if it turns
// out to be of no use.
func (d *DB) once(ctx context.Context, m mode, fn func(*Tx) error) error {
	if d.dialect == SQLite {
		return d.on(ctx, m, fn)
	}
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", d.dialect.unreachable(err))
	}
	defer func() { _ = conn.Close() }() // back to the pool, if it is not gone
	return d.judged(conn, d.onServer(ctx, conn, m, fn))
}

// judged returns err, what became of a transaction on conn; as [*lost] if the
// reason is the connection, which is then closed.
func (d *DB) judged(conn *sql.Conn, err error) error {
	if err == nil {
		return nil
	}
	useless := d.dialect.lost(err)
	closed := conn.Raw(func(c any) error {
		if v, ok := c.(driver.Validator); ok && !v.IsValid() {
			useless = true
		}
		if useless {
			return driver.ErrBadConn
		}
		return nil
	})
	if !useless && !errors.Is(closed, sql.ErrConnDone) && !errors.Is(closed, driver.ErrBadConn) {
		return err
	}
	return &lost{err}
}

// on runs a transaction of SQLite.
func (d *DB) on(ctx context.Context, m mode, fn func(*Tx) error) error {
	tx, err := d.db.BeginTx(ctx, m.options)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	// Also when fn panics. After a commit this does nothing.
	defer func() { _ = tx.Rollback() }()
	if err := fn(&Tx{run: tx, dialect: d.dialect}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return d.commitError(m, err)
	}
	return nil
}

// commitError judges what became of a transaction whose end failed with err.
func (d *DB) commitError(m mode, err error) error {
	if m.readOnly() || d.dialect.again(err) || notSent(err) {
		return fmt.Errorf("commit: %w", err)
	}
	return &uncertain{err}
}

// A Tx is a transaction. It ends when the function that got it returns; its
// methods are not for concurrent use.
type Tx struct {
	run      runner
	dialect  Dialect
	packets  bool        // several statements may be sent at once
	begin    string      // what goes before the first statement, with a semicolon; empty: nothing more
	prepared *statements // nil: none
	missed   []string    // statements that were not in prepared
}

// A runner is a *sql.Tx, or, where there is a server, a *sql.Conn.
type runner interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// Dialect returns what the database speaks, for the statements that cannot be
// written in a portable way.
func (t *Tx) Dialect() Dialect { return t.dialect }

// Exec runs a statement with ? placeholders.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	query = t.text(query)
	if stmt := t.statement(ctx, query); stmt != nil {
		return stmt.ExecContext(ctx, args...)
	}
	return t.run.ExecContext(ctx, query, args...)
}

// Query runs a query with ? placeholders. The caller closes the rows, and does
// so before the next call: not every driver can do two things at once.
func (t *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	query = t.text(query)
	if stmt := t.statement(ctx, query); stmt != nil {
		return stmt.QueryContext(ctx, args...)
	}
	return t.run.QueryContext(ctx, query, args...)
}

// QueryRow runs a query with ? placeholders that returns at most one row; its
// Scan returns [sql.ErrNoRows] when there is none.
func (t *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	query = t.text(query)
	if stmt := t.statement(ctx, query); stmt != nil {
		return stmt.QueryRowContext(ctx, args...)
	}
	return t.run.QueryRowContext(ctx, query, args...)
}

// text returns what is sent for query.
func (t *Tx) text(query string) string {
	query = t.begin + t.dialect.rebind(query)
	t.begin = ""
	return query
}

// statement returns the statement as it was prepared for the connection of t,
// which closes it when it ends; nil if there is none yet.
func (t *Tx) statement(ctx context.Context, query string) *sql.Stmt {
	tx, ok := t.run.(*sql.Tx)
	if t.prepared == nil || !ok {
		return nil
	}
	stmt := t.prepared.get(query)
	if stmt == nil {
		t.missed = append(t.missed, query)
		return nil
	}
	return tx.StmtContext(ctx, stmt)
}

// rebind turns each ? outside of quotes into the dialect's placeholder.
func (d Dialect) rebind(query string) string {
	if d != PostgreSQL || !strings.Contains(query, "?") {
		return query
	}
	var b strings.Builder
	n, quote := 0, byte(0)
	for i := range len(query) {
		c := query[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '?':
			n++
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
