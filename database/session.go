package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// frame returns what begins and what ends a transaction.
func (d Dialect) frame(m mode) (begin, end string) {
	begin, end = "BEGIN", "COMMIT"
	switch {
	case d == MySQL && m.readOnly():
		begin = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY"
	case d == MySQL:
		begin = "START TRANSACTION" // the session says how
	case m.readOnly():
		begin += " ISOLATION LEVEL REPEATABLE READ READ ONLY"
	case m.options != nil:
		begin += " ISOLATION LEVEL SERIALIZABLE"
	}
	if m.first != "" {
		begin += "; " + m.first
	}
	if d == PostgreSQL && !m.readOnly() {
		// A commit that waits for a standby and is stopped by the limit says
		// that it has succeeded, on this one server. In a transaction that has
		// failed this fails as well, and nothing behind it runs.
		end = "SET LOCAL statement_timeout = 0; COMMIT"
	}
	return begin, end
}

// onServer runs a transaction of a server, which takes several statements in one
// round trip: PostgreSQL such without parameters, so what begins the transaction
// is one, and MySQL all, so there that goes with the first statement.
func (d *DB) onServer(ctx context.Context, conn *sql.Conn, m mode, fn func(*Tx) error) error {
	begin, end := d.dialect.frame(m)
	t := &Tx{run: conn, dialect: d.dialect}
	ended := false
	defer func() { // also when fn panics
		if !ended && t.begin == "" {
			rollback(ctx, conn)
		}
	}()
	if d.dialect == MySQL {
		t.begin = begin + "; "
	} else if _, err := conn.ExecContext(ctx, begin); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := fn(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.begin != "" {
		return nil // nothing was asked
	}
	if d.dialect == MySQL {
		ctx = context.WithoutCancel(ctx) // the driver would close the connection, and what became of the commit be unknown; its own limit holds
	}
	if _, err := conn.ExecContext(ctx, end); err != nil {
		if errors.Is(err, driver.ErrBadConn) { // which says that nothing was sent
			return fmt.Errorf("commit: %w", err)
		}
		return d.commitError(m, err)
	}
	ended = true
	return nil
}

// A meeting is the result of a driver of MySQL that knows of each statement how
// many rows it met.
type meeting interface{ AllRowsAffected() []int64 }

// execAll runs statements of MySQL, without results, in one round trip, and
// returns how many rows each of them met. The values are int64, string or
// []byte.
func (t *Tx) execAll(ctx context.Context, statements []string, values []any) ([]int64, error) {
	args := make([]driver.NamedValue, len(values))
	for i, v := range values {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	var met []int64
	text := t.text(strings.Join(statements, "; "))
	err := t.run.(*sql.Conn).Raw(func(c any) error { // database/sql would say it of the last one only
		on, ok := c.(driver.ExecerContext)
		if !ok {
			return fmt.Errorf("%T runs no statements with values in them", c)
		}
		result, err := on.ExecContext(ctx, text, args)
		if err != nil {
			return err
		}
		all, ok := result.(meeting)
		if !ok {
			return fmt.Errorf("%T does not say how many rows each statement met", result)
		}
		met = all.AllRowsAffected()
		return nil
	})
	if err == nil && len(met) < len(statements) {
		err = fmt.Errorf("%d of %d statements ran", len(met), len(statements))
	}
	if err != nil {
		return nil, err
	}
	return met[len(met)-len(statements):], nil // before are those that began the transaction
}

// A Query is one of several that are asked together, see [Tx.Each].
type Query struct {
	Text string
	Args []any
	Row  func(Row) error // takes one of the answer's; its error ends all
}

// A Row is one to be read: a *sql.Row, or *sql.Rows after Next.
type Row interface{ Scan(...any) error }

// Each asks queries with ? placeholders, none of which needs what another
// returns: in one round trip where the database is MySQL.
func (t *Tx) Each(ctx context.Context, queries ...Query) error {
	if t.dialect != MySQL {
		for i := range queries {
			if err := t.each(ctx, queries[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	return t.each(ctx, queries)
}

// each asks queries at once.
func (t *Tx) each(ctx context.Context, queries []Query) error {
	var texts []string
	var args []any
	for _, q := range queries {
		texts, args = append(texts, q.Text), append(args, q.Args...)
	}
	rows, err := t.Query(ctx, strings.Join(texts, "; "), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for i, q := range queries {
		if i > 0 && !rows.NextResultSet() {
			return errors.Join(rows.Err(), fmt.Errorf("%d of %d queries were answered", i, len(queries)))
		}
		for rows.Next() {
			if err := q.Row(rows); err != nil {
				return err
			}
		}
	}
	return rows.Err()
}

// rollbackLimit bounds the wait for the answer to a rollback. Where it does
// not come the server rolls back by itself.
const rollbackLimit = 5 * time.Second

// rollback ends what is under way on conn, or conn.
func rollback(ctx context.Context, conn *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
	defer cancel()
	if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // it is what this returns
	}
}

// failed reports whether err is PostgreSQL's answer to a statement of a
// transaction that had failed before.
func failed(err error) bool {
	var s stateer
	return errors.As(err, &s) && s.SQLState() == "25P02" // in_failed_sql_transaction
}
