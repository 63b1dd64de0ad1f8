package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
)

// What a caller of [DB.Update] and [DB.Migrate] can tell apart.
var (
	ErrBusy      = errors.New("database is busy")
	ErrUncertain = errors.New("outcome of the transaction is not known")
	ErrSchema    = errors.New("database schema does not fit this program")
)

type busy struct {
	attempts int
	err      error
}

func (e *busy) Error() string {
	return fmt.Sprintf("database is busy, gave up after %d attempts: %v", e.attempts, e.err)
}
func (e *busy) Unwrap() []error { return []error{ErrBusy, e.err} }

type uncertain struct{ err error }

func (e *uncertain) Error() string {
	return fmt.Sprintf("outcome of the transaction is not known: commit: %v", e.err)
}
func (e *uncertain) Unwrap() []error { return []error{ErrUncertain, e.err} }

// notSent reports whether err, returned by Commit, came from database/sql
// before the driver was asked: then the transaction is rolled back for sure.
func notSent(err error) bool {
	return errors.Is(err, sql.ErrTxDone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
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
		n := number(err)
		return n == 1213 || n == 1205 // ER_LOCK_DEADLOCK (also Galera's certification failure), ER_LOCK_WAIT_TIMEOUT
	}
	return false
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
