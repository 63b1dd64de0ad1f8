package signer

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// errMoved says that a row is not what it was when it was read, which
// serializable transactions rule out, and is looked for all the same; or what is
// remembered of it.
var errMoved = errors.New("the ledger has moved on")

var (
	floorNames   = []string{"timestamp_signed", "timestamp_confirmed", "snapshot_signed", "snapshot_confirmed", "snapshot_named"}
	floorColumns = strings.Join(floorNames, ", ")
)

// columns are the values of floorNames: to be read, or to be scanned into.
func (f *floors) columns() []any {
	return []any{&f.timestampSigned, &f.timestampConfirmed, &f.snapshotSigned, &f.snapshotConfirmed, &f.snapshotNamed}
}

// floors reads the ledger. seq is 0 when it says nothing yet.
func (t *Table) floors(ctx context.Context, x *database.Tx, gun tuf.GUN, incarnation int64) (f floors, seq int64, err error) {
	err = x.QueryRow(ctx, "SELECT seq, "+floorColumns+" FROM signer_ledger WHERE gun = ? AND incarnation = ?", gun, incarnation).
		Scan(append([]any{&seq}, f.columns()...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return floors{}, 0, nil
	}
	return f, seq, err
}

// values are the row of an incarnation as it is written.
func (r ledgerRow) values(at ledgerKey) []any {
	return []any{string(at.gun), at.incarnation, r.seq, r.timestampSigned, r.timestampConfirmed, r.snapshotSigned, r.snapshotConfirmed, r.snapshotNamed}
}

// one demands that a statement changed exactly one row.
func one(res sql.Result, err error) error { return met(1, res, err) }

// met demands that a statement changed as many rows.
func met(want int, res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != int64(want) {
		err = errMoved
	}
	return err
}

// mayBegin is what judge says of a request without a base.
func (t *Table) mayBegin(ctx context.Context, gun tuf.GUN) error {
	var own floors
	err := t.db.View(ctx, func(x *database.Tx) error {
		var now int64
		err := x.QueryRow(ctx, "SELECT incarnation FROM signer_repositories WHERE gun = ?", gun).Scan(&now)
		if errors.Is(err, sql.ErrNoRows) {
			own = floors{}
			return nil // no key was ever made
		}
		if err == nil {
			own, _, err = t.floors(ctx, x, gun, now)
		}
		return err
	})
	if err != nil {
		return err
	}
	return own.begins()
}

// A Floor is what the ledger remembers of one incarnation of a repository.
// All but Incarnation are versions, 0 for none.
type Floor struct {
	Incarnation        int64 `json:"incarnation"`         // 1, and one more each time the repository was deleted
	TimestampSigned    int64 `json:"timestamp_signed"`    // the highest that was ever signed
	TimestampConfirmed int64 `json:"timestamp_confirmed"` // the highest that is known to have been published
	SnapshotSigned     int64 `json:"snapshot_signed"`
	SnapshotConfirmed  int64 `json:"snapshot_confirmed"`
	SnapshotNamed      int64 `json:"snapshot_named"` // the highest snapshot that a signed timestamp names
}

// Floors returns what the ledger remembers of gun, oldest incarnation first.
func (t *Table) Floors(ctx context.Context, gun tuf.GUN) (out []Floor, err error) {
	err = t.db.View(ctx, func(x *database.Tx) error {
		out = nil
		rows, err := x.Query(ctx, `SELECT incarnation, timestamp_signed, timestamp_confirmed, snapshot_signed, snapshot_confirmed, snapshot_named
			FROM signer_ledger WHERE gun = ? ORDER BY incarnation`, gun)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var f Floor
			if err := rows.Scan(&f.Incarnation, &f.TimestampSigned, &f.TimestampConfirmed, &f.SnapshotSigned, &f.SnapshotConfirmed, &f.SnapshotNamed); err != nil {
				return err
			}
			out = append(out, f)
		}
		return rows.Err()
	})
	return out, err
}

// lower makes a base timestamp of the given version acceptable again, 0 for
// none at all. What was signed stays signed: no version is signed twice. The
// floors of the snapshot are taken anew from the next base.
func (t *Table) lower(ctx context.Context, who string, gun tuf.GUN, timestamp int64, now time.Time) error {
	return t.write(ctx, func(x *database.Tx) error {
		res, err := x.Exec(ctx, `UPDATE signer_ledger SET seq = seq + 1, timestamp_confirmed = ?, snapshot_confirmed = 0, snapshot_named = 0
			WHERE gun = ? AND timestamp_confirmed >= ?`, timestamp, gun, timestamp)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n == 0 {
			err = refuse("no floor of %s is at version %d or above", gun, timestamp)
		}
		if err != nil {
			return err
		}
		return t.record(ctx, x, AuditEntry{Time: now, Event: AuditLowered, Identity: who, GUN: gun, Role: tuf.RoleTimestamp, Version: timestamp})
	})
}

// Prune removes the signatures of payloads that expired before the given
// time. Nobody can ask for those again; the floors stay.
func (t *Table) Prune(ctx context.Context, before time.Time) error {
	return t.db.Update(ctx, func(x *database.Tx) error {
		_, err := x.Exec(ctx, "DELETE FROM signer_statements WHERE expires_at < ?", before.Unix())
		return err
	})
}

// Ping reports by a nil error that the table can be read.
func (t *Table) Ping(ctx context.Context) error {
	return t.db.Look(ctx, func(x *database.Tx) error {
		var n int64
		return x.QueryRow(ctx, "SELECT COUNT(*) FROM signer_keks").Scan(&n)
	})
}
