package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"
)

const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"

// impatient gives up at once when the file is locked, and takes its write lock
// late, so that both kinds of SQLITE_BUSY happen.
const impatient = "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(0)"

func open(t *testing.T, path, options string) *DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+options)
	if err != nil {
		t.Fatal(err)
	}
	d := New(db, SQLite)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return d
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "x.db") }

func files(name ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(name); i += 2 {
		m[name[i]] = &fstest.MapFile{Data: []byte(name[i+1])}
	}
	return m
}

var counter = files("0001_counter.sql", "CREATE TABLE counter (id INTEGER PRIMARY KEY, n INTEGER NOT NULL UNIQUE);\nINSERT INTO counter VALUES (1, 0);\n")

func count(t *testing.T, d *DB) (n int) {
	t.Helper()
	if err := d.View(t.Context(), func(tx *Tx) error {
		return tx.QueryRow(t.Context(), "SELECT n FROM counter WHERE id = ?", 1).Scan(&n)
	}); err != nil {
		t.Fatalf("View = %v", err)
	}
	return n
}

// increment reads and then writes, which loses an update wherever two
// transactions are not kept apart.
func increment(ctx context.Context, d *DB) error {
	return d.Update(ctx, func(tx *Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT n FROM counter WHERE id = ?", 1).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE counter SET n = ? WHERE id = ?", n+1, 1)
		return err
	})
}

func TestUpdateConcurrent(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{"as documented": pragmas, "impatient": impatient} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := temp(t)
			processes := []*DB{open(t, path, options), open(t, path, options)}
			if err := processes[0].Migrate(t.Context(), "test", counter); err != nil {
				t.Fatalf("Migrate = %v", err)
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			done := 0
			for i := range 6 {
				wg.Go(func() {
					for range 10 {
						err := increment(t.Context(), processes[i%2])
						if err != nil && !errors.Is(err, ErrBusy) {
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
			wg.Wait()
			if n := count(t, processes[0]); n != done || done == 0 {
				t.Errorf("%d updates said they were done, %d were", done, n)
			}
		})
	}
}

// A transaction that is refused runs again until it succeeds, and not for ever.
func TestUpdateRetries(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := temp(t)
	d := open(t, path, impatient)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	holder, err := open(t, path, pragmas).SQL().BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	try := func(until int) error {
		runs = 0
		return d.Update(ctx, func(tx *Tx) error {
			if runs++; runs == until {
				if err := holder.Rollback(); err != nil {
					t.Error(err)
				}
			}
			_, err := tx.Exec(ctx, "UPDATE counter SET n = n + 1")
			return err
		})
	}
	if err := try(0); !errors.Is(err, ErrBusy) || runs != maxAttempts {
		t.Errorf("Update while another writes = %v after %d runs, want ErrBusy after %d", err, runs, maxAttempts)
	}
	if retries, failures := d.Trouble(); retries != maxAttempts-1 || failures != 1 {
		t.Errorf("Trouble = %d, %d, want %d and 1", retries, failures, maxAttempts-1)
	}
	if err := try(3); err != nil || runs != 3 {
		t.Errorf("Update = %v after %d runs, want nil after 3", err, runs)
	}
	if n := count(t, d); n != 1 {
		t.Errorf("n = %d, want 1", n)
	}
}

func TestUpdateRollsBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := open(t, temp(t), pragmas)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	mine := errors.New("mine")
	runs := 0
	err := d.Update(ctx, func(tx *Tx) error {
		runs++
		if _, err := tx.Exec(ctx, "UPDATE counter SET n = 7"); err != nil {
			return err
		}
		return mine
	})
	if err != mine || runs != 1 {
		t.Errorf("Update = %v after %d runs, want the function's own error after 1", err, runs)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic got lost")
			}
		}()
		_ = d.Update(ctx, func(tx *Tx) error { // it panics
			if _, err := tx.Exec(ctx, "UPDATE counter SET n = 8"); err != nil {
				t.Error(err)
			}
			panic("mine")
		})
	}()
	if n := count(t, d); n != 0 {
		t.Errorf("n = %d, want 0", n)
	}
	if err := increment(ctx, d); err != nil {
		t.Errorf("Update after a panic = %v", err)
	}
}

// Waiting for another writer ends with the context.
func TestUpdateCancelled(t *testing.T) {
	t.Parallel()
	d := open(t, temp(t), pragmas)
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Update(t.Context(), func(*Tx) error {
		cancel()
		if err := d.Update(ctx, func(*Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("inner Update = %v, want context.Canceled", err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("outer Update = %v", err)
	}
}

func TestIsUnique(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := open(t, temp(t), pragmas)
	if err := d.Migrate(ctx, "test", counter); err != nil {
		t.Fatalf("Migrate = %v", err)
	}
	for statement, want := range map[string]bool{
		"INSERT INTO counter VALUES (1, 5)":    true, // primary key
		"INSERT INTO counter VALUES (5, 0)":    true, // unique index
		"INSERT INTO counter VALUES (5, NULL)": false,
		"INSERT INTO nothing VALUES (1)":       false,
	} {
		err := d.Update(ctx, func(tx *Tx) error {
			_, err := tx.Exec(ctx, statement)
			return err
		})
		if err == nil || IsUnique(fmt.Errorf("wrapped: %w", err)) != want {
			t.Errorf("%s: IsUnique(%v) = %v, want %v", statement, err, !want, want)
		}
	}
	if IsUnique(nil) || IsUnique(errors.New("UNIQUE constraint failed")) {
		t.Error("IsUnique looks at texts")
	}
}

// Stand-ins that look like the errors of the drivers that are not linked here.
type (
	pgError    struct{ code string }
	MySQLError struct {
		Number  uint16
		Message string
	}
)

func (e *pgError) Error() string    { return "SQLSTATE " + e.code }
func (e *pgError) SQLState() string { return e.code }
func (e *MySQLError) Error() string { return e.Message }

func TestErrorsOfOtherDialects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dialect       Dialect
		err           error
		unique, again bool
	}{
		{PostgreSQL, &pgError{"23505"}, true, false},
		{PostgreSQL, &pgError{"40001"}, false, true},
		{PostgreSQL, &pgError{"40P01"}, false, true},
		{PostgreSQL, &pgError{"23503"}, false, false},
		{MySQL, &MySQLError{Number: 1062}, true, false},
		{MySQL, &MySQLError{Number: 1213}, false, true},
		{MySQL, &MySQLError{Number: 1205}, false, true},
		{MySQL, &MySQLError{Number: 1064}, false, false},
		{MySQL, (*MySQLError)(nil), false, false},
		{MySQL, &pgError{"40001"}, false, false},
		{SQLite, &MySQLError{Number: 1213}, false, false},
		{SQLite, context.Canceled, false, false},
	} {
		for _, err := range []error{c.err, fmt.Errorf("a: %w", c.err), errors.Join(errors.New("b"), fmt.Errorf("c: %w", c.err))} {
			if got := IsUnique(err); got != c.unique {
				t.Errorf("IsUnique(%T %v) = %v, want %v", c.err, c.err != nil, got, c.unique)
			}
			if got := c.dialect.again(err); got != c.again {
				t.Errorf("%v: again(%T) = %v, want %v", c.dialect, c.err, got, c.again)
			}
		}
	}
}

func TestRebind(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"SELECT 1": "SELECT 1",
		"a = ? AND b = ? OR c IN (?,?,?,?,?,?,?,?)": "a = $1 AND b = $2 OR c IN ($3,$4,$5,$6,$7,$8,$9,$10)",
		"a = '?' AND b = ?":                         "a = '?' AND b = $1",
		"a = 'it''s ?' AND b = ?":                   "a = 'it''s ?' AND b = $1",
		`"what?" = ?`:                               `"what?" = $1`,
	} {
		if got := PostgreSQL.rebind(query); got != want {
			t.Errorf("rebind(%s) = %s, want %s", query, got, want)
		}
		if got := MySQL.rebind(query); got != query {
			t.Errorf("MySQL: rebind(%s) = %s", query, got)
		}
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := temp(t)
	d := open(t, path, pragmas)
	one := []string{"0001_a.sql", "-- a; comment;\nCREATE TABLE a (x {name} NOT NULL, -- ends; here\n\ty {bytes}\n) {table};\n\n  INSERT INTO a (x) VALUES ('1;2');"}
	two := append(one, "0002_b.sql", "this is not SQL", "0002_b.sqlite.sql", "INSERT INTO a (x) VALUES ('sqlite')", "0002_b.mysql.sql", "nor this")
	for i, f := range []fs.FS{files(one...), files(one...), files(two...), files(two...)} {
		if err := d.Migrate(ctx, "test", f); err != nil {
			t.Fatalf("Migrate %d = %v", i, err)
		}
	}
	if err := d.Migrate(ctx, "other", counter); err != nil {
		t.Errorf("Migrate of another component = %v", err)
	}
	var got []string
	if err := d.View(ctx, func(tx *Tx) error {
		rows, err := tx.Query(ctx, "SELECT component || ' ' || number || ' ' || name FROM schema_migrations ORDER BY component, number")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				return err
			}
			got = append(got, s)
		}
		return rows.Err()
	}); err != nil {
		t.Fatalf("View = %v", err)
	}
	if d := cmp.Diff([]string{"other 1 counter", "test 1 a", "test 2 b"}, got); d != "" {
		t.Errorf("recorded migrations (-want +got):\n%s", d)
	}
	var a string
	if err := d.SQL().QueryRowContext(ctx, "SELECT group_concat(x) FROM a").Scan(&a); err != nil || a != "1;2,sqlite" {
		t.Errorf("rows of a = %q, %v; want each migration once", a, err)
	}

	// Back to the older program, and to another one.
	err := d.Migrate(ctx, "test", files(one...))
	if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "use a newer program") {
		t.Errorf("Migrate by an older program = %v, want ErrSchema with a hint", err)
	}
	if err := d.Migrate(ctx, "test", files("0001_z.sql", "x", "0002_b.sql", "x")); !errors.Is(err, ErrSchema) {
		t.Errorf("Migrate by another program = %v, want ErrSchema", err)
	}
}

// A migration that fails leaves nothing behind.
func TestMigrateFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := open(t, temp(t), pragmas)
	err := d.Migrate(ctx, "test", files("0001_a.sql", "CREATE TABLE a (x INTEGER);", "0002_b.sql", "CREATE TABLE b (x INTEGER);\nCREATE nonsense;"))
	if err == nil || errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "0002_b") {
		t.Errorf("Migrate = %v, want an error that names the migration", err)
	}
	var n int
	if err := d.SQL().QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d tables and indexes are left, %v", n, err)
	}
	if err := d.Migrate(ctx, "test", files("0001_a.sql", "CREATE TABLE a (x INTEGER);")); err != nil {
		t.Errorf("Migrate after the failure = %v", err)
	}
}

func TestMigrateNames(t *testing.T) {
	t.Parallel()
	d := open(t, temp(t), pragmas)
	for name, f := range map[string]fs.FS{
		"gap":           files("0001_a.sql", "", "0003_c.sql", ""),
		"from 0":        files("0000_a.sql", ""),
		"number twice":  files("0001_a.sql", "", "0001_b.sql", ""),
		"other file":    files("0001_a.sql", "", "README", ""),
		"other dialect": files("0001_a.oracle.sql", ""),
		"not for us":    files("0001_a.mysql.sql", "", "0002_b.sql", ""),
	} {
		if err := d.Migrate(t.Context(), "test", f); err == nil || errors.Is(err, ErrSchema) {
			t.Errorf("%s: Migrate = %v, want an error about the files", name, err)
		}
	}
	if err := d.Migrate(t.Context(), "", counter); err == nil {
		t.Error("Migrate without a component = nil")
	}
}

// Processes that start together migrate once.
func TestMigrateRace(t *testing.T) {
	t.Parallel()
	path := temp(t)
	var wg sync.WaitGroup
	for range 6 {
		d := open(t, path, pragmas)
		wg.Go(func() {
			if err := d.Migrate(t.Context(), "test", counter); err != nil {
				t.Errorf("Migrate = %v", err)
			}
		})
	}
	wg.Wait()
	if n := count(t, open(t, path, pragmas)); n != 0 {
		t.Errorf("n = %d, want 0", n)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	const text = "CREATE TABLE a (b {name}, c {digest}, d {bytes}) {table}"
	for d, want := range map[Dialect]string{
		SQLite:     "CREATE TABLE a (b TEXT, c BLOB, d BLOB) ",
		PostgreSQL: `CREATE TABLE a (b VARCHAR(255) COLLATE "C", c BYTEA, d BYTEA) `,
		MySQL:      "CREATE TABLE a (b VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, c BINARY(32), d LONGBLOB) ENGINE=InnoDB",
	} {
		if got := d.words(text); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// That the database is away is not forgotten because a caller did not wait for
// its answer.
func TestAwayUntilItAnswers(t *testing.T) {
	t.Parallel()
	d := open(t, temp(t), pragmas)
	for name, c := range map[string]struct {
		given bool // the caller's time is over
		err   error
		away  bool
	}{
		"no answer in time":                 {given: true, err: context.DeadlineExceeded, away: true},
		"an answer late":                    {given: true},
		"an answer":                         {},
		"an error of the transaction's own": {err: errors.New("there is none")},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if c.given {
			cancel()
		}
		d.away.Store(1)
		if err := d.rerun(ctx, func() error { return c.err }); !errors.Is(err, c.err) {
			t.Errorf("%s: rerun = %v, want %v", name, err, c.err)
		}
		if away := d.away.Load() != 0; away != c.away {
			t.Errorf("%s: the database counts as away: %v, want %v", name, away, c.away)
		}
		cancel()
	}
}
