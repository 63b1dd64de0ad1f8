package signer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// Recall takes back the last [Service.Forget], when a repository that was
// deleted is restored: its keys are held again, and its ledger goes on where
// it ended. It is refused once a key of the new incarnation has signed. Where
// nothing was forgotten it changes nothing.
func (s *Service) Recall(ctx context.Context, gun tuf.GUN) error {
	return s.recall(ctx, inProcess, gun)
}

func (s *Service) recall(ctx context.Context, who string, gun tuf.GUN) error {
	if !gun.Valid() {
		return refuse("%q is not the name of a repository", gun)
	}
	if err := s.table.recall(ctx, who, gun, s.now()); err != nil {
		return fmt.Errorf("recall %s: %w", gun, err)
	}
	s.log.WarnContext(ctx, "repository recalled by an operator", "identity", who, "gun", gun)
	return nil
}

// recall is the inverse of forget. Keys that were made since are dropped: the
// repository that they were made for never came to be.
func (t *Table) recall(ctx context.Context, who string, gun tuf.GUN, at time.Time) error {
	return t.write(ctx, func(x *database.Tx) error {
		var now int64
		err := x.QueryRow(ctx, "SELECT incarnation FROM signer_repositories WHERE gun = ?", gun).Scan(&now)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // no key was ever made
		}
		if err != nil {
			return err
		}
		var before sql.NullInt64
		if err := x.QueryRow(ctx, "SELECT MAX(incarnation) FROM signer_keys WHERE gun = ? AND state = ?", gun, retired).Scan(&before); err != nil {
			return err
		}
		if !before.Valid {
			return nil // nothing was forgotten that had signed
		}
		var used int
		if err := x.QueryRow(ctx, "SELECT COUNT(*) FROM signer_keys WHERE gun = ? AND state = ?", gun, active).Scan(&used); err != nil {
			return err
		}
		if used > 0 {
			return refuse("keys of %s that were made since it was deleted have signed", gun)
		}
		if _, err := x.Exec(ctx, "UPDATE signer_keys SET state = ?, slot = NULL, wrapped = NULL, kek = NULL WHERE gun = ? AND state = ?",
			dropped, gun, pending); err != nil {
			return err
		}
		if _, err := x.Exec(ctx, "UPDATE signer_keys SET state = ?, forgotten_at = NULL WHERE gun = ? AND incarnation = ? AND state = ?",
			active, gun, before.Int64, retired); err != nil {
			return err
		}
		if _, err = x.Exec(ctx, "UPDATE signer_repositories SET incarnation = ? WHERE gun = ? AND incarnation = ?", before.Int64, gun, now); err != nil {
			return err
		}
		return t.record(ctx, x, AuditEntry{Time: at, Event: AuditRecalled, Identity: who, GUN: gun})
	})
}

// Recall is [Service.Recall].
func (c *Client) Recall(ctx context.Context, gun tuf.GUN) error {
	if err := c.call(ctx, http.MethodPost, pathRecall, gunQuestion{gun}, new(struct{})); err != nil {
		return fmt.Errorf("recall %s: %w", gun, err)
	}
	return nil
}
