// Package notary reads what a deployment of the stock notary-server and
// notary-signer, 0.6 or 0.7, has stored: every version of every metadata file,
// and the keys of its signer.
//
// A [Database] is one of its two databases, live or made of a dump by
// [Load]; [Database.GUNs], [Database.Files] and [Database.Raw] read the
// server's, [Database.Keys] the signer's. Nothing is ever written to a live
// one.
//
// What is returned is what stands there: bytes are compared with the checksum
// beside them, and not verified otherwise. Names that the protocol does not
// allow, rows that the stock programs had deleted, and keys that cannot be
// decrypted are told apart from rows that are sound.
//
// Read notary.go, dump.go (with lexer.go), keys.go. The formats are those of
// notary-protocol 5.
package notary

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

var (
	// ErrDump says that a dump cannot be read: it is none, is cut off, or has a
	// form that is not known.
	ErrDump = errors.New("not a database dump that can be read")
	// ErrTable says that a database lacks the tables of the stock program.
	ErrTable = errors.New("there is no such table")
	// ErrCorrupt says that a stored file is not what its checksum says.
	ErrCorrupt = errors.New("the stored bytes do not have the checksum that stands beside them")
)

// A Database is one of the two databases of a deployment. It is safe for
// concurrent use.
type Database struct{ db *database.DB }

// New reads db, which it does not own.
func New(db *database.DB) *Database { return &Database{db: db} }

// A File is one stored version of one file. Its bytes are read apart, by
// [Database.Raw].
type File struct {
	GUN     tuf.GUN
	Role    tuf.RoleName
	Version int64
	Created time.Time // zero if the row does not say

	row      int64
	checksum string // lower-case hex, empty if the row has none
}

// exact compares a column byte by byte, where MySQL would overlook case.
func (d *Database) exact(column string) string {
	if d.db.Dialect() == database.MySQL {
		return "BINARY " + column
	}
	return column
}

// GUNs returns the names of all repositories in the order of their bytes, as
// they are stored, valid or not. [ErrTable]: this is not a server's database.
func (d *Database) GUNs(ctx context.Context) ([]tuf.GUN, error) {
	var all []tuf.GUN
	query := "SELECT gun FROM tuf_files WHERE deleted_at IS NULL GROUP BY " + d.exact("gun") + ", gun"
	err := d.each(ctx, "tuf_files", query, nil, func(scan func(...any) error) error {
		var gun string
		if err := scan(&gun); err != nil {
			return err
		}
		all = append(all, tuf.GUN(gun))
		return nil
	}, func() { all = nil })
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return sortedUnique(all), nil
}

// Files returns every stored version of gun in the order in which they were
// stored.
func (d *Database) Files(ctx context.Context, gun tuf.GUN) ([]File, error) {
	var all []File
	query := "SELECT id, role, version, created_at, sha256 FROM tuf_files WHERE gun = ? AND " + d.exact("gun") + " = ? AND deleted_at IS NULL ORDER BY id"
	err := d.each(ctx, "tuf_files", query, []any{string(gun), string(gun)}, func(scan func(...any) error) error {
		f := File{GUN: gun}
		var role string
		var created, checksum any
		if err := scan(&f.row, &role, &f.Version, &created, &checksum); err != nil {
			return err
		}
		f.Role, f.checksum = tuf.RoleName(role), strings.TrimRight(text(checksum), " ")
		var err error
		if f.Created, err = moment(created); err != nil {
			return fmt.Errorf("row %d: %w", f.row, err)
		}
		all = append(all, f)
		return nil
	}, func() { all = nil })
	if err != nil {
		return nil, fmt.Errorf("read the files of %s: %w", gun, err)
	}
	return all, nil
}

// Raw returns the bytes of f. [ErrCorrupt]: they are not those that were
// stored.
func (d *Database) Raw(ctx context.Context, f File) ([]byte, error) {
	var raw []byte
	err := d.db.View(ctx, func(t *database.Tx) error {
		return t.QueryRow(ctx, "SELECT data FROM tuf_files WHERE id = ?", f.row).Scan(&raw)
	})
	if err != nil {
		return nil, fmt.Errorf("read %s version %d of %s: %w", f.Role, f.Version, f.GUN, err)
	}
	if sum := sha256.Sum256(raw); f.checksum != "" && hex.EncodeToString(sum[:]) != f.checksum {
		return nil, fmt.Errorf("%s version %d of %s: %w", f.Role, f.Version, f.GUN, ErrCorrupt)
	}
	return raw, nil
}

// LastChange returns the id of the newest record of the changefeed, 0 if there
// is none.
func (d *Database) LastChange(ctx context.Context) (int64, error) {
	var id int64
	err := d.each(ctx, "changefeed", "SELECT COALESCE(MAX(id), 0) FROM changefeed", nil, func(scan func(...any) error) error { return scan(&id) }, func() {})
	if err != nil {
		return 0, fmt.Errorf("read the changefeed: %w", err)
	}
	return id, nil
}

// each calls row for the rows of a query over table; again is called before
// the query is run anew.
func (d *Database) each(ctx context.Context, table, query string, args []any, row func(scan func(...any) error) error, again func()) error {
	err := d.db.View(ctx, func(t *database.Tx) error {
		again()
		rows, err := t.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := row(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err != nil && d.lacks(ctx, table) {
		return fmt.Errorf("%w: %s", ErrTable, table)
	}
	return err
}

// lacks reports whether the database answers and does not have the table.
func (d *Database) lacks(ctx context.Context, table string) bool {
	query := "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = ?"
	switch d.db.Dialect() {
	case database.SQLite:
		query = "SELECT COUNT(*) FROM sqlite_schema WHERE name = ?"
	case database.MySQL:
		query += " AND table_schema = DATABASE()"
	}
	n := 1
	err := d.db.View(ctx, func(t *database.Tx) error { return t.QueryRow(ctx, query, table).Scan(&n) })
	return err == nil && n == 0
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// moment reads a timestamp as drivers and dumps give it: in UTC, without a
// zone.
func moment(v any) (time.Time, error) {
	if t, ok := v.(time.Time); ok {
		return t.UTC(), nil
	}
	s := text(v)
	if s == "" || strings.HasPrefix(s, "0000-00-00") {
		return time.Time{}, nil
	}
	t, err := time.Parse("2006-01-02 15:04:05.999999999", strings.TrimSuffix(s, "+00"))
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a time", s)
	}
	return t, nil
}
