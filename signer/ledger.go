package signer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// errMoved says that a row changed between reading and writing it, which
// serializable transactions rule out. It is looked for all the same.
var errMoved = errors.New("the ledger has moved on")

// sign judges c and signs it, in one transaction. When it returns a signature,
// the ledger durably says so (first the ledger, then the answer: a signature
// that left is never forgotten). again is set when it is an earlier answer.
//
// Beside the errors of [judge] it returns one matching tuf.ErrNoKey.
func (t *Table) sign(ctx context.Context, who string, c *claim, now time.Time) (sig tuf.Signature, public tuf.PublicKey, again bool, err error) {
	var made *tuf.Signature // on a token; it is nobody's before it is in the ledger
	for range 5 {
		err = t.db.Update(ctx, func(x *database.Tx) (err error) {
			sig, public, again, err = t.signOnce(ctx, x, who, c, made, now)
			return err
		})
		// A token too is not asked while a transaction is open. All is judged
		// again afterwards, with what the ledger says then.
		if on := new(onToken); errors.As(err, &on) {
			var signed tuf.Signature
			if signed, err = t.signOnToken(ctx, &on.key, c.Payload); err != nil {
				break
			}
			made, err = &signed, errMoved
		}
		// What keeps the key-encryption key may be slow, and is not asked
		// while a transaction is open.
		if closed := new(notOpened); errors.As(err, &closed) {
			if err = t.open(ctx, closed.id, false); err != nil {
				break
			}
			err = errMoved
		}
		// Also where it is not known whether it was committed: then the answer
		// is found, or made now.
		if !errors.Is(err, errMoved) && !errors.Is(err, database.ErrUncertain) && !database.IsUnique(err) {
			break
		}
	}
	if err == nil {
		// An earlier answer too may not have got its place in the log yet.
		err = t.settle(ctx)
	}
	if err != nil {
		return tuf.Signature{}, tuf.PublicKey{}, false, err
	}
	return sig, public, again, nil
}

func (t *Table) signOnce(ctx context.Context, x *database.Tx, who string, c *claim, made *tuf.Signature, now time.Time) (sig tuf.Signature, public tuf.PublicKey, again bool, err error) {
	k, err := t.key(ctx, x, c.GUN, c.Role, c.Key)
	if err != nil {
		return sig, public, false, err
	}
	if k == nil {
		return sig, public, false, fmt.Errorf("%w: the signer has no %s key %s for %s", tuf.ErrNoKey, c.Role, c.Key.Short(), c.GUN)
	}
	sum := sha256.Sum256(c.Payload)
	if sig, err = t.answered(ctx, x, k, c.payload.Version, sum); err != nil || sig.Value != nil {
		return sig, k.public, true, err
	}
	own, seq, err := t.floors(ctx, x, c.GUN, k.incarnation)
	if err != nil {
		return sig, public, false, err
	}
	prover, err := t.prover(ctx, x, c, k, own)
	if err != nil {
		return sig, public, false, err
	}
	next, err := judge(c, own, prover)
	if err != nil {
		return sig, public, false, err
	}
	if err := t.ownSnapshot(ctx, x, c); err != nil {
		return sig, public, false, err
	}
	if sig, err = t.signature(ctx, k, c, made); err != nil {
		return sig, public, false, err
	}
	if err := t.setFloors(ctx, x, c.GUN, k.incarnation, seq, next); err != nil {
		return sig, public, false, err
	}
	if _, err := x.Exec(ctx, `INSERT INTO signer_statements (gun, incarnation, role, version, key_id, payload, method, signature, expires_at, signed_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.GUN, k.incarnation, c.Role, c.payload.Version, k.id, sum[:], sig.Method, sig.Value, c.payload.Expires.Unix(), now.Unix()); err != nil {
		return sig, public, false, err
	}
	if k.state == pending {
		res, err := x.Exec(ctx, "UPDATE signer_keys SET state = ?, slot = NULL, first_used_at = ? WHERE id = ? AND state = ?", active, now.Unix(), k.id, pending)
		if err := one(res, err); err != nil {
			return sig, public, false, err
		}
	}
	err = t.record(ctx, x, AuditEntry{
		Time: now, Event: AuditSigned, Identity: who, GUN: c.GUN, Role: c.Role, Version: c.payload.Version, Key: k.id,
		Payload: hex.EncodeToString(sum[:]), Expires: &c.payload.Expires,
	})
	return sig, k.public, false, err
}

// signature signs with a key that is wrapped here. For one on a token the
// error is an *onToken, until there is a signature.
func (t *Table) signature(ctx context.Context, k *keyRow, c *claim, made *tuf.Signature) (tuf.Signature, error) {
	if k.token != "" {
		if made == nil {
			return tuf.Signature{}, &onToken{*k}
		}
		return *made, nil
	}
	s, err := t.signer(k)
	if err != nil {
		return tuf.Signature{}, err
	}
	return s.Sign(ctx, c.Payload)
}

// ownSnapshot refuses a timestamp over a snapshot that was signed here for
// another repository. One that was not signed here is its owners' business.
func (t *Table) ownSnapshot(ctx context.Context, x *database.Tx, c *claim) error {
	if c.snapshot == nil {
		return nil
	}
	sum := sha256.Sum256(c.snapshot.Canonical)
	guns, err := texts(ctx, x, "SELECT gun FROM signer_statements WHERE payload = ?", sum[:])
	if err == nil && len(guns) > 0 && !slices.Contains(guns, string(c.GUN)) {
		err = refuse("the snapshot is one of %s", guns[0])
	}
	return err
}

// answered returns the signature that was made of the very same payload by the
// same key, if any.
func (t *Table) answered(ctx context.Context, x *database.Tx, k *keyRow, version int64, sum [32]byte) (tuf.Signature, error) {
	sig := tuf.Signature{KeyID: k.public.ID()}
	var payload []byte
	err := x.QueryRow(ctx, "SELECT payload, method, signature FROM signer_statements WHERE gun = ? AND incarnation = ? AND role = ? AND version = ? AND key_id = ?",
		k.gun, k.incarnation, k.role, version, k.id).Scan(&payload, &sig.Method, &sig.Value)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !bytes.Equal(payload, sum[:]) {
		return tuf.Signature{}, nil
	}
	return sig, err
}

// prover finds the incarnation whose key signed the base timestamp, be it the
// key that is to sign now, one that was rotated out, or one of a deleted
// repository, and returns its floors; nil if there is no such key. own are the
// floors of the incarnation of k, the key that is to sign.
func (t *Table) prover(ctx context.Context, x *database.Tx, c *claim, k *keyRow, own floors) (*floors, error) {
	if c.base == nil {
		return nil, nil
	}
	signed := func(k *keyRow) bool {
		_, err := tuf.VerifyFile(c.Timestamp, tuf.NewRole(tuf.RoleTimestamp, 1, k.public), tuf.Options{})
		return err == nil
	}
	// All active keys are of one incarnation, and come before the others.
	if k.role == tuf.RoleTimestamp && k.state == active && signed(k) {
		return &own, nil
	}
	keys, err := t.timestampKeys(ctx, x, c.GUN)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if !signed(&keys[i]) {
			continue // another key may have signed it
		}
		if keys[i].incarnation == k.incarnation {
			return &own, nil
		}
		f, _, err := t.floors(ctx, x, c.GUN, keys[i].incarnation)
		return &f, err
	}
	return nil, nil
}

// timestampKeys returns all that were ever used for gun, newest first.
func (t *Table) timestampKeys(ctx context.Context, x *database.Tx, gun tuf.GUN) ([]keyRow, error) {
	return keyRows(ctx, x, "SELECT "+keyColumns+" FROM signer_keys WHERE gun = ? AND role = ? AND state IN (?, ?) ORDER BY first_used_at DESC, id",
		gun, tuf.RoleTimestamp, active, retired)
}

// floors reads the ledger. seq is 0 when it says nothing yet.
func (t *Table) floors(ctx context.Context, x *database.Tx, gun tuf.GUN, incarnation int64) (f floors, seq int64, err error) {
	err = x.QueryRow(ctx, `SELECT seq, timestamp_signed, timestamp_confirmed, snapshot_signed, snapshot_confirmed, snapshot_named
		FROM signer_ledger WHERE gun = ? AND incarnation = ?`, gun, incarnation).
		Scan(&seq, &f.timestampSigned, &f.timestampConfirmed, &f.snapshotSigned, &f.snapshotConfirmed, &f.snapshotNamed)
	if errors.Is(err, sql.ErrNoRows) {
		return floors{}, 0, nil
	}
	return f, seq, err
}

func (t *Table) setFloors(ctx context.Context, x *database.Tx, gun tuf.GUN, incarnation, seq int64, f floors) error {
	if seq == 0 {
		_, err := x.Exec(ctx, `INSERT INTO signer_ledger (gun, incarnation, seq, timestamp_signed, timestamp_confirmed, snapshot_signed, snapshot_confirmed, snapshot_named)
			VALUES (?, ?, 1, ?, ?, ?, ?, ?)`,
			gun, incarnation, f.timestampSigned, f.timestampConfirmed, f.snapshotSigned, f.snapshotConfirmed, f.snapshotNamed)
		return err
	}
	return one(x.Exec(ctx, `UPDATE signer_ledger SET seq = ?, timestamp_signed = ?, timestamp_confirmed = ?, snapshot_signed = ?, snapshot_confirmed = ?, snapshot_named = ?
		WHERE gun = ? AND incarnation = ? AND seq = ?`,
		seq+1, f.timestampSigned, f.timestampConfirmed, f.snapshotSigned, f.snapshotConfirmed, f.snapshotNamed, gun, incarnation, seq))
}

// one demands that a statement changed exactly one row.
func one(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
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
