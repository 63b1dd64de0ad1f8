package database_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/database/drivers"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m).Run()) }

var counter = fstest.MapFS{"0001_counter.sql": {Data: []byte(
	"CREATE TABLE counter (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL UNIQUE, name {name}) {table};\nINSERT INTO counter (id, n) VALUES (1, 0);\n")}}

// increment reads and then writes, which loses an update wherever two
// transactions are not kept apart.
func increment(ctx context.Context, d *database.DB) error {
	return d.Update(ctx, func(t *database.Tx) error {
		var n int
		if err := t.QueryRow(ctx, "SELECT n FROM counter WHERE id = ?", 1).Scan(&n); err != nil {
			return err
		}
		_, err := t.Exec(ctx, "UPDATE counter SET n = ? WHERE id = ?", n+1, 1)
		return err
	})
}

func count(t *testing.T, d *database.DB) (n int) {
	t.Helper()
	if err := d.View(t.Context(), func(x *database.Tx) error {
		return x.QueryRow(t.Context(), "SELECT n FROM counter WHERE id = 1").Scan(&n)
	}); err != nil {
		t.Fatalf("View = %v", err)
	}
	return n
}

// Processes that start together migrate once, and lose no update of each
// other's.
func TestProcessesTogether(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		setting := fresh(t)
		processes := make([]*database.DB, 4)
		for i := range processes {
			processes[i] = databasetest.Open(t, setting)
		}
		var all sync.WaitGroup
		for _, d := range processes {
			all.Go(func() {
				if err := d.Migrate(t.Context(), "test", counter); err != nil {
					t.Errorf("Migrate = %v", err)
				}
			})
		}
		all.Wait()
		var mu sync.Mutex
		done := 0
		for _, d := range processes {
			all.Go(func() {
				for range 10 {
					err := increment(t.Context(), d)
					if err != nil && !errors.Is(err, database.ErrBusy) {
						t.Errorf("Update = %v", err)
					}
					if err == nil {
						mu.Lock()
						done++
						mu.Unlock()
					}
				}
			})
		}
		all.Wait()
		if n := count(t, processes[0]); n != done || done == 0 {
			t.Errorf("%d updates said they were done, %d were", done, n)
		}
		if got, err := processes[0].Migrated(t.Context()); err != nil || len(got) != 1 || got[0] != "test 0001 counter" {
			t.Errorf("Migrated = %q, %v", got, err)
		}
		for statement, want := range map[string]bool{
			"INSERT INTO counter (id, n) VALUES (1, 1000)":                 true, // primary key
			fmt.Sprint("INSERT INTO counter VALUES (5, ", done, ", NULL)"): true, // unique index
			"INSERT INTO counter (id, n) VALUES (5, NULL)":                 false,
			"INSERT INTO nothing (id) VALUES (1)":                          false,
		} {
			err := processes[0].Update(t.Context(), func(x *database.Tx) error {
				_, err := x.Exec(t.Context(), statement)
				return err
			})
			if database.IsUnique(err) != want {
				t.Errorf("%s: IsUnique(%v) = %v, want %v", statement, err, !want, want)
			}
		}
	})
}

// Connections that the server ends, idle ones and ones in the middle of a
// transaction, are nobody's trouble but of who was about to commit; and who
// was is told so.
func TestConnectionsEnd(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]struct {
		fresh databasetest.Fresh
		end   func(context.Context, *database.Tx) error
	}{
		"PostgreSQL": {databasetest.PostgreSQL, func(ctx context.Context, t *database.Tx) error {
			_, err := t.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			return err
		}},
		"MariaDB": {databasetest.MariaDB, endMariaDB},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			setting := kind.fresh(t)
			d, operator := databasetest.Open(t, setting), databasetest.Open(t, setting)
			if err := d.Migrate(ctx, "test", counter); err != nil {
				t.Fatalf("Migrate = %v", err)
			}
			var all sync.WaitGroup
			var mu sync.Mutex
			done, uncertain := 0, 0
			for range 4 {
				all.Go(func() {
					for range 25 {
						err := increment(ctx, d)
						mu.Lock()
						switch {
						case err == nil:
							done++
						case errors.Is(err, database.ErrUncertain):
							uncertain++
						case !errors.Is(err, database.ErrBusy):
							t.Errorf("Update = %v", err)
						}
						mu.Unlock()
					}
				})
			}
			for range 10 {
				if err := operator.View(ctx, func(t *database.Tx) error { return kind.end(ctx, t) }); err != nil {
					t.Errorf("end connections: %v", err)
				}
			}
			all.Wait()
			if n := count(t, d); n < done || n > done+uncertain || done == 0 {
				t.Errorf("%d updates were acknowledged, %d uncertain, and %d happened", done, uncertain, n)
			}
		})
	}
}

func endMariaDB(ctx context.Context, t *database.Tx) error {
	rows, err := t.Query(ctx, "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, id := range ids {
		_, _ = t.Exec(ctx, fmt.Sprint("KILL ", id)) // it may have ended by itself
	}
	return nil
}

// A database that is away is waited for until the caller has had enough, and
// called unavailable; one that does not want this user is not waited for.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"postgres://u:hunter2secret@127.0.0.1:1,127.0.0.1:2/d", "mysql://u:hunter2secret@127.0.0.1:1,127.0.0.1:2/d"} {
		a, err := drivers.Parse(setting, os.Getenv)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err = a.Open(ctx)
		if !errors.Is(err, database.ErrUnavailable) {
			t.Errorf("Open(%s) = %v, want ErrUnavailable", a, err)
		}
	}
}

func TestWrongUser(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]databasetest.Fresh{"PostgreSQL": databasetest.PostgreSQL, "MariaDB": databasetest.MariaDB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := drivers.Parse(fresh(t), os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			a.User = "nobody"
			_, err = a.Open(t.Context())
			if err == nil || errors.Is(err, database.ErrUnavailable) {
				t.Errorf("Open as nobody = %v, want an error that is not ErrUnavailable", err)
			}
		})
	}
}

// Whoever opens a database to look at it cannot change it.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]databasetest.Fresh{"PostgreSQL": databasetest.PostgreSQL, "MariaDB": databasetest.MariaDB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			setting := fresh(t)
			d := databasetest.Open(t, setting)
			if err := d.Migrate(t.Context(), "test", counter); err != nil {
				t.Fatal(err)
			}
			a, err := drivers.Parse(setting, os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			look, err := a.OpenReadOnly(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer look.Close()
			if err := look.Migrate(t.Context(), "test", counter); err != nil {
				t.Errorf("Migrate of what is up to date = %v", err)
			}
			if err := increment(t.Context(), look); err == nil || count(t, d) != 0 {
				t.Errorf("Update = %v, and n = %d", err, count(t, d))
			}
		})
	}
}
