package signer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// TokenKeys is a token, or security module, that private keys are made on and
// never leave. Several signers may use one. It must be safe for concurrent use,
// and honour ctx as far as it can.
//
// Errors match tuf.ErrNoKey only if the token was there and has not the key.
type TokenKeys interface {
	// Name says which token it is: printable text of at most 200 bytes, the
	// same in every process.
	Name() string
	// Generate makes a key. Until keep has returned nil the token may remove it
	// by itself, an hour later at the earliest. The error matches tuf.ErrKey if
	// the token makes no keys of this type.
	Generate(ctx context.Context, kind tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (public tuf.PublicKey, keep func(context.Context) error, err error)
	// Signer returns what signs with a key that was kept. The error matches
	// tuf.ErrKey if it was made for another role or repository.
	Signer(ctx context.Context, public tuf.PublicKey, role tuf.RoleName, gun tuf.GUN) (tuf.Signer, error)
	// Remove destroys a key.
	Remove(ctx context.Context, id tuf.CanonicalID) error
}

// Bounds of making a key on a token. What was begun longer ago than unkept was
// given up: making ends long before, whatever the clocks of signers say.
const (
	makingLimit = 2 * time.Minute
	unkept      = time.Hour
)

// onToken says that a signature is needed of a key that is on a token, which is
// not asked while a transaction is open.
type onToken struct{ key keyRow }

func (e *onToken) Error() string { return "key " + e.key.id.Short() + " is on " + e.key.token }

// tokenError is for what went wrong with a token: whatever it is, the key may
// be there, so it is never tuf.ErrNoKey.
func tokenError(token string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %s did not answer: %w", api.ErrUnavailable, token, err)
	}
	return fmt.Errorf("%w: %s: %v", api.ErrUnavailable, token, err)
}

// tokens returns what reaches the keys on a token.
func (t *Table) tokens(token string) (TokenKeys, error) {
	if t.kek.tokens == nil {
		return nil, fmt.Errorf("%w: a key is on %s, and this signer has none: set keys-on-token", api.ErrUnavailable, token)
	}
	return t.kek.tokens, nil
}

// signOnToken has the token sign. The signature must not leave before the
// ledger says so.
func (t *Table) signOnToken(ctx context.Context, k *keyRow, payload []byte) (tuf.Signature, error) {
	on, err := t.tokens(k.token)
	if err != nil {
		return tuf.Signature{}, err
	}
	s, err := on.Signer(ctx, k.public, k.role, k.gun)
	switch {
	case errors.Is(err, tuf.ErrKey):
		return tuf.Signature{}, fmt.Errorf("key %s: on %s: %v", k.id.Short(), on.Name(), err)
	case errors.Is(err, tuf.ErrNoKey):
		return tuf.Signature{}, fmt.Errorf("%w: key %s was made on %s, and is not on %s", api.ErrUnavailable, k.id.Short(), k.token, on.Name())
	case err != nil:
		return tuf.Signature{}, tokenError(on.Name(), err)
	}
	sig, err := s.Sign(ctx, payload)
	if err != nil {
		return tuf.Signature{}, tokenError(on.Name(), err)
	}
	if err := k.public.Verify(payload, sig); err != nil {
		return tuf.Signature{}, fmt.Errorf("key %s: on %s: %w", k.id.Short(), on.Name(), err)
	}
	return sig, nil
}

// createOnToken makes a pending key on the token. It is written down before the
// token keeps it, as one that is dropped, so that whatever is kept is either
// used or removed.
func (t *Table) createOnToken(ctx context.Context, who string, kind tuf.KeyType, role tuf.RoleName, gun tuf.GUN, limit int, now time.Time) (tuf.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, makingLimit)
	defer cancel()
	if err := t.db.View(ctx, func(x *database.Tx) error { return mayMake(ctx, x, role, gun, limit, now) }); err != nil {
		return tuf.PublicKey{}, err
	}
	on := t.kek.tokens
	token := on.Name()
	if kind != tuf.ECDSA && kind != tuf.Ed25519 {
		_, err := generate(kind)
		return tuf.PublicKey{}, err
	}
	public, keep, err := on.Generate(ctx, kind, role, gun)
	if errors.Is(err, tuf.ErrKey) {
		return tuf.PublicKey{}, refuse("%s makes no keys of type %s: have the server ask for another key-type", token, kind)
	}
	if err != nil {
		return tuf.PublicKey{}, tokenError(token, err)
	}
	id := public.CanonicalID()
	if err := t.db.Update(ctx, func(x *database.Tx) error {
		if err := mayMake(ctx, x, role, gun, limit, now); err != nil {
			return err
		}
		_, err := x.Exec(ctx, `INSERT INTO signer_keys (id, gun, incarnation, role, key_type, public_key, state, token, created_at)
			VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?)`, id, gun, role, public.Type, public.Bytes, dropped, token, now.Unix())
		return err
	}); err != nil {
		return tuf.PublicKey{}, err
	}
	if err := keep(ctx); err != nil {
		return tuf.PublicKey{}, tokenError(token, err)
	}
	return public, t.write(ctx, func(x *database.Tx) error {
		incarnation, err := t.incarnation(ctx, x, gun)
		if err != nil {
			return err
		}
		if err := one(x.Exec(ctx, "UPDATE signer_keys SET state = ?, slot = ?, wrapped = ?, incarnation = ? WHERE id = ? AND state = ? AND incarnation = 0 AND token IS NOT NULL",
			pending, slot(gun, role, public.Type), []byte{}, incarnation, id, dropped)); err != nil {
			return err
		}
		return t.record(ctx, x, AuditEntry{Time: now, Event: AuditCreated, Identity: who, GUN: gun, Role: role, Key: id, Detail: "on " + token})
	})
}

// RemoveDropped removes keys from the token that are of no use any more: those
// of deleted repositories that never signed, and those whose making was
// interrupted. What cannot be removed now is tried again the next time; the
// error tells of it. Whoever runs a service calls it now and then.
func (t *Table) RemoveDropped(ctx context.Context, now time.Time) (removed int, err error) {
	type left struct {
		id    tuf.CanonicalID
		token string
	}
	var all []left
	if err := t.db.View(ctx, func(x *database.Tx) error {
		all = nil
		rows, err := x.Query(ctx, "SELECT id, token FROM signer_keys WHERE state = ? AND token IS NOT NULL AND (incarnation > 0 OR created_at < ?) ORDER BY id",
			dropped, now.Add(-unkept).Unix())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var l left
			if err := rows.Scan(&l.id, &l.token); err != nil {
				return err
			}
			all = append(all, l)
		}
		return rows.Err()
	}); err != nil || len(all) == 0 {
		return 0, err
	}
	var first error
	failed := 0
	for _, l := range all {
		if failed == maxFailed {
			break // the token is away, most likely
		}
		err := t.removeFromToken(ctx, l.id, l.token)
		if err == nil {
			err = t.db.Update(ctx, func(x *database.Tx) error {
				_, err := x.Exec(ctx, "UPDATE signer_keys SET token = NULL WHERE id = ? AND state = ?", l.id, dropped)
				return err
			})
		}
		if err == nil {
			removed++
			continue
		}
		if failed++; first == nil {
			first = err
		}
	}
	if first != nil {
		first = fmt.Errorf("%d of %d keys that nobody needs are left: %w", len(all)-removed, len(all), first)
	}
	return removed, first
}

// maxFailed bounds how often a token that refuses is asked in one go.
const maxFailed = 20

// removeFromToken returns nil if the key is not there any more.
func (t *Table) removeFromToken(ctx context.Context, id tuf.CanonicalID, token string) error {
	on, err := t.tokens(token)
	if err != nil {
		return err
	}
	err = on.Remove(ctx, id)
	switch {
	case err == nil, errors.Is(err, tuf.ErrNoKey) && token == on.Name():
		return nil
	case errors.Is(err, tuf.ErrNoKey):
		return fmt.Errorf("key %s was made on %s, and is not on %s", id.Short(), token, on.Name())
	}
	return tokenError(on.Name(), err)
}

// mayMake refuses when limit keys of a role were made within a day (S7).
func mayMake(ctx context.Context, x *database.Tx, role tuf.RoleName, gun tuf.GUN, limit int, now time.Time) error {
	var n int
	if err := x.QueryRow(ctx, "SELECT COUNT(*) FROM signer_keys WHERE gun = ? AND role = ? AND created_at > ?",
		gun, role, now.Add(-24*time.Hour).Unix()).Scan(&n); err != nil {
		return err
	}
	if n >= limit {
		return refuse("%d %s keys of %s were made within a day: no more today", n, role, gun)
	}
	return nil
}
