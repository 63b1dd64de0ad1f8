package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/storage"
)

// databaseFile returns the file that a storage setting names.
func databaseFile(setting string) (string, error) {
	path, ok := strings.CutPrefix(setting, "sqlite:")
	if !ok || path == "" {
		return "", fmt.Errorf(`storage must be "sqlite:" and a file, for example sqlite:/var/lib/iechor-trustd/server.db; it is %q`, setting)
	}
	return path, nil
}

// openDatabase opens what a storage setting names, and makes it if it is not
// there. Nobody else may read it.
func openDatabase(ctx context.Context, setting string) (*database.DB, error) {
	path, err := databaseFile(setting)
	if err != nil {
		return nil, err
	}
	// The system says better than SQLite what is wrong with a path.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return open(ctx, path, database.SQLiteDSN(path))
}

func open(ctx context.Context, path, dsn string) (*database.DB, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database %s: %w", path, err), db.Close())
	}
	return database.New(db, database.SQLite), nil
}

func openStore(ctx context.Context, setting string) (*storage.SQL, func(), error) {
	db, err := openDatabase(ctx, setting)
	if err != nil {
		return nil, nil, err
	}
	store, err := storage.Open(ctx, db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, func() { _ = db.Close() }, nil // everything acknowledged is on disk
}

// openExisting opens a database that is there, and changes nothing in it: one
// that is not of exactly this program's schema is refused. migrate is what
// brings a database to that schema; it is called for an empty one in memory.
func openExisting(ctx context.Context, setting string, migrate func(*database.DB) error) (*database.DB, error) {
	path, err := databaseFile(setting)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no database %s", path)
	} else if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	// To ask for the write-ahead log would write into a file that lacks it.
	dsn := strings.Replace(database.SQLiteDSN(path), "_pragma=journal_mode(WAL)&", "", 1) + "&mode=rw"
	db, err := open(ctx, path, dsn)
	if err != nil {
		return nil, err
	}
	if err := sameSchema(ctx, db, migrate); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", path, err), db.Close())
	}
	return db, nil
}

func sameSchema(ctx context.Context, db *database.DB, migrate func(*database.DB) error) error {
	fresh, err := open(ctx, "in memory", "file::memory:")
	if err != nil {
		return err
	}
	defer func() { _ = fresh.Close() }() // nothing is kept in it
	fresh.SQL().SetMaxOpenConns(1)       // each connection would have a memory of its own
	if err := migrate(fresh); err != nil {
		return err
	}
	want, err := schema(ctx, fresh)
	if err != nil {
		return err
	}
	got, err := schema(ctx, db)
	if err != nil {
		return err
	}
	switch {
	case slices.Equal(got, want):
		return nil
	case len(got) < len(want) && slices.Equal(got, want[:len(got)]):
		return fmt.Errorf("%w: it was made by an older one; the next start of this one brings it up to date", database.ErrSchema)
	}
	return fmt.Errorf("%w: it was made by a newer or another one", database.ErrSchema)
}

// schema lists the migrations that were made; none in an empty file.
func schema(ctx context.Context, db *database.DB) ([]string, error) {
	var there int
	if err := db.SQL().QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_migrations'").Scan(&there); err != nil {
		return nil, err
	}
	if there == 0 {
		return nil, nil
	}
	rows, err := db.SQL().QueryContext(ctx, "SELECT component, number, name FROM schema_migrations ORDER BY component, number")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var component, name string
		var number int
		if err := rows.Scan(&component, &number, &name); err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprintf("%s %04d %s", component, number, name))
	}
	return all, rows.Err()
}
