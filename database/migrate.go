package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A migration is one numbered step of a component's schema.
type migration struct {
	number     int
	name       string
	statements []string
}

var migrationName = regexp.MustCompile(`^([0-9]{4})_([a-z0-9_]+)(?:\.(sqlite|postgres|mysql))?\.sql$`)

// Migrate brings the tables of one component up to the newest migration.
// Afterwards the database is exactly as new as the program, or an error is
// returned; one that matches [ErrSchema] says that the database was made by a
// newer or another program, and nothing was changed.
//
// Migrations are the files NNNN_name.sql in the root of files, numbered from
// 0001 without gaps. NNNN_name.postgres.sql (sqlite, mysql) replaces
// NNNN_name.sql for that dialect. A statement ends with a semicolon at the end
// of a line; a line that begins with -- is a comment. These words stand for
// what differs between the dialects:
//
//	{name}    up to 255 bytes of text, compared byte by byte
//	{digest}  32 bytes
//	{bytes}   any number of bytes
//	{table}   what follows the closing parenthesis of CREATE TABLE
//
// All pending migrations run in one transaction, under a lock that keeps other
// processes out. MySQL commits at each CREATE TABLE whether one wants it or
// not, so there a failed migration can leave part of its tables behind. Where
// nothing is pending nothing is written, nor locked: whoever may only read, or
// not change tables, gets along once others have migrated.
func (d *DB) Migrate(ctx context.Context, component string, files fs.FS) error {
	if component == "" || len(component) > 64 {
		return fmt.Errorf("migrate: component name %q is empty or too long", component)
	}
	steps, err := d.dialect.migrations(files)
	if err != nil {
		return fmt.Errorf("migrations of %s: %w", component, err)
	}
	ready, err := d.ready(ctx, component, steps)
	if err == nil && !ready {
		err = d.retry(ctx, func() error { return d.migrate(ctx, component, steps) })
	}
	if d.dialect == MySQL && exists(err) {
		err = d.await(ctx, component, steps, err)
	}
	if err != nil {
		return fmt.Errorf("migrate %s: %w", component, err)
	}
	return nil
}

// ready reports whether nothing is to be migrated.
func (d *DB) ready(ctx context.Context, component string, steps []migration) (ready bool, err error) {
	err = d.look(ctx, func(t *Tx) error {
		there, err := t.migrated(ctx)
		if err != nil || !there {
			return err
		}
		done, err := t.recorded(ctx, component, steps)
		ready = done == len(steps)
		return err
	})
	return ready, err
}

// look is View for statements that are not worth keeping.
func (d *DB) look(ctx context.Context, fn func(*Tx) error) error {
	return d.retry(ctx, func() error { return d.once(ctx, d.readOnly(), fn) })
}

// await waits for another process, which migrates through another node of a
// Galera cluster: locks are of one node there. cause is how this one met it.
func (d *DB) await(ctx context.Context, component string, steps []migration, cause error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 150 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if ready, err := d.ready(ctx, component, steps); ready || err != nil {
			return err
		}
	}
	return cause
}

// migrated reports whether anything was ever migrated here.
func (t *Tx) migrated(ctx context.Context) (bool, error) {
	query := map[Dialect]string{
		SQLite:     "SELECT COUNT(*) FROM sqlite_master WHERE name = 'schema_migrations'",
		PostgreSQL: "SELECT COUNT(*) FROM pg_tables WHERE tablename = 'schema_migrations' AND schemaname = current_schema()",
		MySQL:      "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'schema_migrations' AND table_schema = DATABASE()",
	}[t.dialect]
	var n int
	if err := t.QueryRow(ctx, query).Scan(&n); err != nil {
		return false, fmt.Errorf("look for schema_migrations: %w", err)
	}
	return n > 0, nil
}

// Migrated lists the migrations that were made, of all components, as
// "COMPONENT NNNN name", in order. There are none in an empty database.
func (d *DB) Migrated(ctx context.Context) (all []string, err error) {
	err = d.look(ctx, func(t *Tx) error {
		all = nil
		there, err := t.migrated(ctx)
		if err != nil || !there {
			return err
		}
		rows, err := t.Query(ctx, "SELECT component, number, name FROM schema_migrations ORDER BY component, number")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var component, name string
			var number int
			if err := rows.Scan(&component, &number, &name); err != nil {
				return err
			}
			all = append(all, fmt.Sprintf("%s %04d %s", component, number, name))
		}
		return rows.Err()
	})
	return all, err
}

func (d *DB) migrate(ctx context.Context, component string, steps []migration) error {
	if d.dialect == SQLite {
		return d.write(ctx, mode{}, func(t *Tx) error { return t.migrate(ctx, component, steps) })
	}
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", d.dialect.unreachable(err))
	}
	defer func() { _ = conn.Close() }() // back to the pool, if it is not gone
	if d.dialect == MySQL {
		release, err := lockMySQL(ctx, conn)
		if err != nil {
			return d.judged(conn, err)
		}
		defer release()
	}
	return d.judged(conn, d.onServer(ctx, conn, mode{}, func(t *Tx) error {
		if d.dialect == PostgreSQL {
			// The isolation level is read committed here: a snapshot taken
			// before the wait for this lock would not show what the other did.
			if _, err := t.Exec(ctx, "SELECT pg_advisory_xact_lock(7631465512)"); err != nil {
				return fmt.Errorf("lock: %w", err)
			}
		}
		return t.migrate(ctx, component, steps)
	}))
}

// lockMySQL takes the lock of the session of conn. It is given back by
// release, or when the connection breaks.
func lockMySQL(ctx context.Context, conn *sql.Conn) (release func(), err error) {
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK('iechor_trust_migrate', 60)").Scan(&got); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if got.Int64 != 1 {
		return nil, errors.New("lock: another process is migrating this database")
	}
	return func() {
		// Where this cannot be sent the session, and its lock, is gone.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK('iechor_trust_migrate')")
	}, nil
}

func (t *Tx) migrate(ctx context.Context, component string, steps []migration) error {
	if _, err := t.Exec(ctx, t.dialect.words(`CREATE TABLE IF NOT EXISTS schema_migrations (
		component {name} NOT NULL,
		number INTEGER NOT NULL,
		name {name} NOT NULL,
		applied_at BIGINT NOT NULL,
		PRIMARY KEY (component, number)
	) {table}`)); err != nil {
		return fmt.Errorf("create table schema_migrations: %w", err)
	}
	// Changes nothing, but makes SQLite take its write lock now even where the
	// data source name lacks _txlock=immediate.
	if _, err := t.Exec(ctx, "DELETE FROM schema_migrations WHERE component = ''"); err != nil {
		return fmt.Errorf("lock schema_migrations: %w", err)
	}
	done, err := t.recorded(ctx, component, steps)
	if err != nil {
		return err
	}
	for _, m := range steps[done:] {
		for _, s := range m.statements {
			if _, err := t.Exec(ctx, s); err != nil {
				return fmt.Errorf("migration %04d_%s: %w", m.number, m.name, err)
			}
		}
		if _, err := t.Exec(ctx, "INSERT INTO schema_migrations (component, number, name, applied_at) VALUES (?, ?, ?, ?)",
			component, m.number, m.name, time.Now().Unix()); err != nil {
			return fmt.Errorf("record migration %04d_%s: %w", m.number, m.name, err)
		}
	}
	return nil
}

// recorded returns how many of the steps were done before.
func (t *Tx) recorded(ctx context.Context, component string, steps []migration) (done int, err error) {
	rows, err := t.Query(ctx, "SELECT number, name FROM schema_migrations WHERE component = ? ORDER BY number", component)
	if err != nil {
		return 0, fmt.Errorf("read schema_migrations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var number int
		var name string
		if err := rows.Scan(&number, &name); err != nil {
			return 0, fmt.Errorf("read schema_migrations: %w", err)
		}
		if number > len(steps) {
			return 0, fmt.Errorf("%w: it is at migration %d of %s, and this program knows %d; use a newer program",
				ErrSchema, number, component, len(steps))
		}
		if done++; number != done || name != steps[number-1].name {
			return 0, fmt.Errorf("%w: migration %d of %s is recorded as %q, which this program does not know",
				ErrSchema, number, component, name)
		}
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("read schema_migrations: %w", err)
	}
	return done, nil
}

// migrations reads the files for d, in order.
func (d Dialect) migrations(files fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(files, ".") // sorted: NNNN_x.mysql.sql before NNNN_x.sql
	if err != nil {
		return nil, err
	}
	var steps []migration
	special := false // the last step is of this dialect's own file
	for _, e := range entries {
		m := migrationName.FindStringSubmatch(e.Name())
		if m == nil {
			return nil, fmt.Errorf("%s is not named like a migration", e.Name())
		}
		if m[3] != "" && m[3] != d.String() {
			continue
		}
		number, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		again := len(steps) > 0 && steps[len(steps)-1].number == number && steps[len(steps)-1].name == m[2]
		switch {
		case again && special:
			continue
		case again:
			steps = steps[:len(steps)-1]
		case number != len(steps)+1:
			return nil, fmt.Errorf("%s has number %d, and %d is next", e.Name(), number, len(steps)+1)
		}
		text, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return nil, err
		}
		steps = append(steps, migration{number: number, name: m[2], statements: split(d.words(string(text)))})
		special = m[3] != ""
	}
	return steps, nil
}

// words puts in what the words in braces stand for.
func (d Dialect) words(text string) string {
	switch d {
	case PostgreSQL:
		return strings.NewReplacer("{name}", `VARCHAR(255) COLLATE "C"`, "{digest}", "BYTEA", "{bytes}", "BYTEA", "{table}", "").Replace(text)
	case MySQL:
		return strings.NewReplacer("{name}", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "{digest}", "BINARY(32)",
			"{bytes}", "LONGBLOB", "{table}", "ENGINE=InnoDB").Replace(text)
	}
	return strings.NewReplacer("{name}", "TEXT", "{digest}", "BLOB", "{bytes}", "BLOB", "{table}", "").Replace(text)
}

// split cuts text after each semicolon that ends a line, and drops comments.
func split(text string) []string {
	var statements []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(strings.TrimSpace(line), ";") {
			statements = append(statements, strings.TrimSuffix(strings.TrimSpace(b.String()), ";"))
			b.Reset()
		}
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		statements = append(statements, rest)
	}
	return statements
}
