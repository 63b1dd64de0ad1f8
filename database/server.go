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

// frame returns the statements that begin a transaction, and what ends it.
func (d Dialect) frame(m mode) (begin []string, end string) {
	end = "COMMIT"
	switch {
	case d == MySQL && m.readOnly():
		begin = []string{"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION READ ONLY"}
	case d == MySQL:
		begin = []string{"START TRANSACTION"} // the session says how
	case m.readOnly():
		begin = []string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
	case m.options != nil:
		begin = []string{"BEGIN ISOLATION LEVEL SERIALIZABLE"}
	default:
		begin = []string{"BEGIN"}
	}
	if m.first != "" {
		begin = append(begin, m.first)
	}
	if d == PostgreSQL && !m.readOnly() {
		// A commit that waits for a standby and is stopped by the limit says
		// that it has succeeded, on this one server. In a transaction that has
		// failed this fails as well, and nothing behind it runs.
		end = "SET LOCAL statement_timeout = 0; COMMIT"
	}
	return begin, end
}

// onServer runs a transaction of a server. PostgreSQL takes several statements
// without parameters in one round trip, so what begins the transaction is one.
// MySQL takes any, where that is safe, and there it goes with the first
// statement.
func (d *DB) onServer(ctx context.Context, conn *sql.Conn, m mode, fn func(*Tx) error) error {
	begin, end := d.dialect.frame(m)
	t := &Tx{run: conn, dialect: d.dialect, packets: d.dialect == MySQL && takesPackets(conn)}
	ended := false
	defer func() { // also when fn panics
		if !ended && t.begin == "" {
			rollback(ctx, conn)
		}
	}()
	together := strings.Join(begin, "; ")
	switch {
	case t.packets:
		t.begin, begin = together+"; ", nil
	case d.dialect == PostgreSQL:
		begin = []string{together}
	}
	on := ctx
	if d.dialect == MySQL && m.readOnly() {
		on = context.WithoutCancel(ctx) // what the first one says is of the next transaction, whichever it is
	}
	for _, text := range begin {
		if _, err := conn.ExecContext(on, text); err != nil {
			return fmt.Errorf("begin transaction: %w", err)
		}
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

// A packeter is a connection to a MySQL server that tells whether several
// statements may be sent in one packet: whether those that come after one that
// fails, or after the transaction was rolled back, are certain not to be run.
// They are not certain on a node of a cluster: a Galera node that rolls a
// transaction back because another node has committed goes on with the rest of
// the packet, outside of any transaction.
type packeter interface{ TakesPackets() bool }

func takesPackets(conn *sql.Conn) (yes bool) {
	_ = conn.Raw(func(c any) error { // the next call reports what is wrong
		p, ok := c.(packeter)
		yes = ok && p.TakesPackets()
		return nil
	})
	return yes
}

// A meeting is the result of a driver of MySQL that knows of each statement how
// many rows it met.
type meeting interface{ AllRowsAffected() []int64 }

// execAll runs statements of MySQL, without results, in one packet, and returns
// how many rows each of them met. The values are int64, string or []byte.
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
		if errors.Is(err, driver.ErrSkip) {
			return fmt.Errorf("%d bytes of statements are more than are sent at once", len(text)+size(values))
		}
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

// A pipeliner is a connection to PostgreSQL that is sent several statements at
// once, each with its values, and says how many rows each of them met. After one
// that fails none is run. The values may be arrays.
type pipeliner interface {
	Pipeline(ctx context.Context, statements []string, values [][]any) (met []int64, err error)
}

// pipeline runs statements of PostgreSQL, as [pipeliner] has them.
func (t *Tx) pipeline(ctx context.Context, statements []string, values [][]any) (met []int64, err error) {
	err = t.run.(*sql.Conn).Raw(func(c any) error {
		on, ok := c.(pipeliner)
		if !ok {
			return fmt.Errorf("%T does not take several statements at once", c)
		}
		met, err = on.Pipeline(ctx, statements, values)
		return err
	})
	return met, err
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
