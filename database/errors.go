package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
)

// What a caller of [DB.Update] and [DB.Migrate] can tell apart.
var (
	ErrBusy        = errors.New("database is busy")
	ErrUnavailable = errors.New("database cannot be used at the moment")
	ErrUncertain   = errors.New("outcome of the transaction is not known")
	ErrSchema      = errors.New("database schema does not fit this program")
)

type busy struct {
	attempts int
	err      error
}

func (e *busy) Error() string {
	return fmt.Sprintf("database is busy, gave up after %d attempts: %v", e.attempts, e.err)
}
func (e *busy) Unwrap() []error { return []error{ErrBusy, ErrUnavailable, e.err} }

type unavailable struct{ err error }

func (e *unavailable) Error() string   { return fmt.Sprintf("%v: %v", ErrUnavailable, e.err) }
func (e *unavailable) Unwrap() []error { return []error{ErrUnavailable, e.err} }

// A lost error ended a connection, or showed that its server is of no use at
// the moment. What was not committed did not happen.
type lost struct{ err error }

func (e *lost) Error() string { return e.err.Error() }
func (e *lost) Unwrap() error { return e.err }

type uncertain struct{ err error }

func (e *uncertain) Error() string {
	return fmt.Sprintf("outcome of the transaction is not known: commit: %v", e.err)
}
func (e *uncertain) Unwrap() []error { return []error{ErrUncertain, e.err} }

// notSent reports whether err, returned by Commit, came from database/sql
// before the driver was asked, or from PostgreSQL about a transaction that had
// failed before: then it is rolled back for sure. A driver that gave up waiting
// for the answer wraps the reason.
func notSent(err error) bool {
	return err == sql.ErrTxDone || err == context.Canceled || err == context.DeadlineExceeded || failed(err)
}

// The drivers' errors, by what they can tell. The MySQL driver's error has a
// field and no method, see number.
type (
	coder   interface{ Code() int }        // SQLite: (extended) result code
	stateer interface{ SQLState() string } // PostgreSQL: five characters
)

// IsUnique reports whether err says, in any dialect, that a row would have
// broken a primary key or unique index.
func IsUnique(err error) bool {
	var c coder
	if errors.As(err, &c) && (c.Code() == 2067 || c.Code() == 1555) { // SQLITE_CONSTRAINT_UNIQUE, _PRIMARYKEY
		return true
	}
	var s stateer
	if errors.As(err, &s) && s.SQLState() == "23505" { // unique_violation
		return true
	}
	n := number(err)
	return n == 1062 || n == 1586 // ER_DUP_ENTRY, ER_DUP_ENTRY_WITH_KEY_NAME
}

// exists reports whether err says that what was to be made is there: a table,
// column, index or row of MySQL.
func exists(err error) bool {
	return slices.Contains([]int{1050, 1060, 1061, 1062}, number(err)) // ER_TABLE_EXISTS_ERROR, ER_DUP_FIELDNAME, _KEYNAME, _ENTRY
}

// again reports whether err, from a database of dialect d, says that the same
// transaction may succeed when it is run again.
func (d Dialect) again(err error) bool {
	switch d {
	case SQLite:
		var c coder
		return errors.As(err, &c) && (c.Code()&0xff == 5 || c.Code()&0xff == 6) // SQLITE_BUSY, _LOCKED and their extended codes
	case PostgreSQL:
		var s stateer
		return errors.As(err, &s) && (s.SQLState() == "40001" || s.SQLState() == "40P01") // serialization_failure, deadlock_detected
	case MySQL:
		switch number(err) {
		// ER_LOCK_DEADLOCK (also Galera's certification failure),
		// ER_LOCK_WAIT_TIMEOUT, ER_CHECKREAD, ER_TABLE_DEF_CHANGED.
		case 1213, 1205, 1020, 1412:
			return true
		}
	}
	return false
}

// What servers say that are shutting down, starting, out of connections, or
// (for writers) the wrong ones since a failover.
var (
	awayStates = []string{
		"57P01", "57P02", "57P03", // admin_shutdown, crash_shutdown, cannot_connect_now
		"57P05", "25P03", // idle_session_timeout, idle_in_transaction_session_timeout
		"53300", "25006", // too_many_connections, read_only_sql_transaction
	}
	awayNumbers = []int{
		1040, 1053, 1077, 1080, 1927, 4031, // connections, shutdown, killed, idle
		1047, 1290, 1792, 1836, // a Galera node without its cluster; read only
	}
)

// lost reports whether err says that the connection is gone, or that its
// server is of no use at the moment.
func (d Dialect) lost(err error) bool {
	switch d {
	case SQLite:
		return false
	case PostgreSQL:
		var s stateer
		if errors.As(err, &s) {
			return slices.Contains(awayStates, s.SQLState()) || strings.HasPrefix(s.SQLState(), "08") // connection_exception
		}
	case MySQL:
		if n := number(err); n != 0 {
			return slices.Contains(awayNumbers, n)
		}
	}
	var (
		broken net.Error
		unsent interface{ SafeToRetry() bool } // of pgx
	)
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &broken) && !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &unsent) && unsent.SafeToRetry()
}

// unreachable returns err, why a connection could not be made; as [*lost]
// unless a server has said that it will not have this one, which waiting does
// not change.
func (d Dialect) unreachable(err error) error {
	var s stateer
	switch coded := errors.As(err, &s) || number(err) != 0; {
	case coded && !d.lost(err), errors.Is(err, context.Canceled), errors.Is(err, sql.ErrConnDone):
		return err
	}
	return &lost{err}
}

// number returns the number of the first MySQLError in err's tree, else 0.
func number(err error) int {
	for err != nil {
		v := reflect.ValueOf(err)
		if v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if v.Kind() == reflect.Struct && v.Type().Name() == "MySQLError" {
			if f := v.FieldByName("Number"); f.IsValid() && f.CanUint() {
				return int(f.Uint())
			}
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			err = u.Unwrap()
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				if n := number(e); n != 0 {
					return n
				}
			}
			return 0
		default:
			return 0
		}
	}
	return 0
}
