package signer

import (
	"context"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// ImportFloor makes the ledger begin, for a repository that another signer has
// served so far, at the versions that are published: nothing at or below them
// is signed, and nothing is built on anything older. Where the ledger knows
// the repository already it stays as it is.
func (t *Table) ImportFloor(ctx context.Context, gun tuf.GUN, timestamp, snapshot int64, now time.Time) error {
	if err := checkName(gun, tuf.RoleTimestamp); err != nil {
		return err
	}
	for range 2 { // another process may do the same
		err := t.write(ctx, func(x *database.Tx) error {
			incarnation, err := t.incarnation(ctx, x, gun)
			if err != nil {
				return err
			}
			_, seq, err := t.floors(ctx, x, gun, incarnation)
			if err != nil || seq != 0 {
				return err
			}
			row := ledgerRow{seq: 1, floors: floors{
				timestampSigned: timestamp, timestampConfirmed: timestamp,
				snapshotSigned: snapshot, snapshotConfirmed: snapshot, snapshotNamed: snapshot,
			}}
			if err := x.Write(ctx, ledgerRows(row.values(ledgerKey{gun, incarnation}))); err != nil {
				return err
			}
			return t.record(ctx, x, AuditEntry{Time: now, Event: AuditImported, GUN: gun, Role: tuf.RoleTimestamp, Version: timestamp})
		})
		if !database.IsUnique(err) {
			return err
		}
	}
	return errMoved
}
