package drivers

import (
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
