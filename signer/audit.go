package signer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// What an [AuditEntry] tells of.
const (
	AuditSigned    = "signed"    // a signature was made
	AuditCreated   = "created"   // a key was made
	AuditImported  = "imported"  // a key of another signer was taken over
	AuditForgot    = "forgot"    // a deleted repository's keys were retired
	AuditRecalled  = "recalled"  // a deletion was taken back
	AuditLowered   = "lowered"   // an operator lowered a floor to Version
	AuditDataKey   = "data-key"  // a data key was made
	AuditRewrapped = "rewrapped" // keys were moved under another key-encryption key
	AuditRetired   = "retired"   // former key-encryption keys and data keys are not needed any more
	AuditRestored  = "restored"  // refused: the published state has gone back
	AuditRefused   = "refused"   // refused: the request breaks a rule
	AuditDenied    = "denied"    // refused: the caller has not the right
	AuditCut       = "cut"       // retention removed the entries up to Through
)

// An AuditEntry is an entry of the audit log. Which fields are set depends on
// Event.
type AuditEntry struct {
	Time     time.Time       `json:"time"` // the clock of the signer that wrote it
	Event    string          `json:"event"`
	Identity string          `json:"identity,omitempty"` // who asked
	GUN      tuf.GUN         `json:"gun,omitempty"`
	Role     tuf.RoleName    `json:"role,omitempty"`
	Version  int64           `json:"version,omitempty"`
	Key      tuf.CanonicalID `json:"key,omitempty"`
	Payload  string          `json:"payload,omitempty"` // hexadecimal SHA-256 of what was signed or refused
	Expires  *time.Time      `json:"expires,omitempty"`
	Detail   string          `json:"detail,omitempty"`  // for people
	Request  string          `json:"request,omitempty"` // the id under which the logs of server and signer have it
	Through  *AuditAnchor    `json:"through,omitempty"`
}

// auditLog is shared by all signers of a database.
var auditLog = database.Chain{Table: "signer_audit"}

// maxDetail bounds text of callers in an entry, in bytes.
const maxDetail = 400

// record puts an entry into the audit log, in a transaction of [Table.write].
func (t *Table) record(ctx context.Context, x *database.Tx, e AuditEntry) error {
	e.Request = traces.ID(ctx)
	l, err := e.link()
	if err == nil {
		_, err = auditLog.Append(ctx, x, l.GUN, l.Entry)
	}
	return err
}

// link is e as it is written, before it has its place.
func (e AuditEntry) link() (database.Link, error) {
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	if len(e.Detail) > maxDetail {
		e.Detail = e.Detail[:maxDetail] + "…"
	}
	raw, err := json.Marshal(e)
	return database.Link{GUN: string(e.GUN), Entry: raw}, err
}

// write runs fn in a transaction that may write to the audit log. The log has
// one end, so those transactions take turns. Signers of an earlier version do
// not lock, and meet the row that is written.
func (t *Table) write(ctx context.Context, fn func(*database.Tx) error) error {
	defer t.remembered.Forget()
	return t.inTurn(ctx, fn)
}

func (t *Table) inTurn(ctx context.Context, fn func(*database.Tx) error) error {
	return t.db.InTurn(ctx, "signer_audit_end", "UPDATE signer_audit_end SET turn = turn + 1 WHERE id = 1", fn)
}

// drain gives entries their place that a signer of an earlier version left
// waiting for it, when it ended between what they tell of and that. Their
// signatures have not left, and do not leave before.
func (t *Table) drain(ctx context.Context) (err error) {
	for range 3 { // another process may do the same
		waiting := 0
		if err := t.db.Look(ctx, func(x *database.Tx) error {
			return x.QueryRow(ctx, "SELECT COUNT(*) FROM signer_audit_waiting").Scan(&waiting)
		}); err != nil || waiting == 0 {
			return err
		}
		if err = t.drainAll(ctx); !errors.Is(err, errMoved) && !database.IsUnique(err) {
			return err
		}
	}
	return err
}

func (t *Table) drainAll(ctx context.Context) error {
	return t.write(ctx, func(x *database.Tx) error {
		rows, err := x.Query(ctx, "SELECT gun, entry FROM signer_audit_waiting ORDER BY at, id")
		if err != nil {
			return err
		}
		defer rows.Close()
		var waiting []database.Link
		for rows.Next() {
			var l database.Link
			if err := rows.Scan(&l.GUN, &l.Entry); err != nil {
				return err
			}
			waiting = append(waiting, l)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(waiting) == 0 {
			return err
		}
		if _, err := auditLog.AppendAll(ctx, x, waiting); err != nil {
			return err
		}
		res, err := x.Exec(ctx, "DELETE FROM signer_audit_waiting")
		return met(len(waiting), res, err)
	})
}

// note records what stands for itself, and not beside a change.
func (t *Table) note(ctx context.Context, e AuditEntry) error {
	return t.write(ctx, func(x *database.Tx) error { return t.record(ctx, x, e) })
}

// payloadHash is how a payload is named in the log.
func payloadHash(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}
