package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// onPostgres runs a transaction of PostgreSQL, which takes several statements
// without parameters in one round trip: with the beginning goes what m.first
// says, and with the end the setting that it needs.
func (d *DB) onPostgres(ctx context.Context, conn *sql.Conn, m mode, fn func(*Tx) error) error {
	begin, end := "BEGIN", "COMMIT"
	switch {
	case m.options == nil:
	case m.options.ReadOnly:
		begin += " ISOLATION LEVEL REPEATABLE READ READ ONLY"
	default:
		begin += " ISOLATION LEVEL SERIALIZABLE"
	}
	if m.first != "" {
		begin += "; " + m.first
	}
	if !m.readOnly() {
		// A commit that waits for a standby and is stopped by the limit says
		// that it has succeeded, on this one server. In a transaction that has
		// failed this fails as well, and nothing behind it runs.
		end = "SET LOCAL statement_timeout = 0; COMMIT"
	}
	ended := false
	defer func() { // also when fn panics
		if !ended {
			rollback(ctx, conn)
		}
	}()
	if _, err := conn.ExecContext(ctx, begin); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := fn(&Tx{run: conn, dialect: d.dialect}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
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
