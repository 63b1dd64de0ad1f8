package drivers

import (
	"database/sql"
	"errors"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/iechor/trust/database"
)

// A SQLite file has no more connections than can work at once, and each has
// little memory: a burst of readers would take as much as all of a server does.
func TestSQLiteConnections(t *testing.T) {
	t.Parallel()
	a := &Address{Dialect: database.SQLite, Path: filepath.Join(t.TempDir(), "x.db")}
	db, err := a.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if most := db.SQL().Stats().MaxOpenConnections; most < 2 || most > runtime.GOMAXPROCS(0)+1 {
		t.Errorf("at most %d connections, with %d processors", most, runtime.GOMAXPROCS(0))
	}
	var size int
	if err := db.SQL().QueryRowContext(t.Context(), "PRAGMA cache_size").Scan(&size); err != nil || size != -512 {
		t.Errorf("cache_size = %d, %v; want 512 KiB, which is -512", size, err)
	}
}

// Of a new file that another process is writing the beginning of, SQLite does
// not wait for the end, but says at once that it is busy.
func TestSQLiteBegunByAnother(t *testing.T) {
	t.Parallel()
	a := &Address{Dialect: database.SQLite, Path: filepath.Join(t.TempDir(), "x.db")}
	other, err := sql.Open("sqlite", a.Path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if db, err := a.Open(t.Context()); !errors.Is(err, database.ErrBusy) {
		t.Errorf("opened while another begins: %v, %v; want ErrBusy, after some attempts", db, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	db, err := a.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
}
