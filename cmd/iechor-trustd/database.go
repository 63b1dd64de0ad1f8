package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
)

// openDatabase opens what a storage setting names, and brings its tables up to
// date. A SQLite file is made if it is not there.
func (a *app) openDatabase(ctx context.Context, setting string, migrate func(context.Context, *database.DB) error) (*database.DB, error) {
	at, err := drivers.Parse(setting, a.env)
	if err != nil {
		return nil, err
	}
	if err := at.Migrate(ctx, migrate); err != nil {
		return nil, err
	}
	return at.Open(ctx)
}

func (a *app) openStore(ctx context.Context, setting string, kept storage.Config) (*storage.SQL, func(), error) {
	db, err := a.openDatabase(ctx, setting, storage.Migrate)
	if err != nil {
		return nil, nil, err
	}
	store, err := kept.Open(ctx, db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return store, func() { _ = db.Close() }, nil // everything acknowledged is on disk
}

func (a *app) openTable(ctx context.Context, setting string, kek *signer.KEK) (*signer.Table, func(), error) {
	db, err := a.openDatabase(ctx, setting, signer.Migrate)
	if err != nil {
		return nil, nil, err
	}
	table, err := signer.OpenTable(ctx, db, kek)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return table, func() { _ = db.Close() }, nil // the ledger is on disk before each answer
}

// openExisting opens a database that is there, and changes nothing in it: one
// that is not of exactly this program's schema is refused. migrate is what
// brings a database to that schema; it is called for an empty one in memory.
func (a *app) openExisting(ctx context.Context, setting string, open func(*drivers.Address, context.Context) (*database.DB, error),
	migrate func(context.Context, *database.DB) error) (*database.DB, error) {
	at, err := drivers.Parse(setting, a.env)
	if err != nil {
		return nil, err
	}
	db, err := open(at, ctx)
	if err != nil {
		return nil, err
	}
	if err := sameSchema(ctx, db, migrate); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", at, err), db.Close())
	}
	return db, nil
}

func sameSchema(ctx context.Context, db *database.DB, migrate func(context.Context, *database.DB) error) error {
	raw, err := sql.Open("sqlite", "file::memory:")
	if err != nil {
		return err
	}
	raw.SetMaxOpenConns(1) // each connection would have a memory of its own
	fresh := database.New(raw, database.SQLite)
	defer func() { _ = fresh.Close() }() // nothing is kept in it
	if err := migrate(ctx, fresh); err != nil {
		return err
	}
	want, err := fresh.Migrated(ctx)
	if err != nil {
		return err
	}
	got, err := db.Migrated(ctx)
	if err != nil {
		return err
	}
	missing := slices.ContainsFunc(want, func(m string) bool { return !slices.Contains(got, m) })
	unknown := slices.ContainsFunc(got, func(m string) bool { return !slices.Contains(want, m) })
	switch {
	case missing && !unknown:
		return fmt.Errorf("%w: it was made by an older one; the next start of this one, or \"iechor-trustd migrate\", brings it up to date", database.ErrSchema)
	case unknown:
		return fmt.Errorf("%w: it was made by a newer or another one", database.ErrSchema)
	}
	return nil
}
