package signer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"github.com/iechor/trust/database"
)

// notOpened says that a row is wrapped under a data key that is not in memory.
type notOpened struct{ id string }

func (e *notOpened) Error() string { return "data key " + e.id + " is not in memory" }

// decrypt returns the private half of k, which the caller wipes.
func (t *Table) decrypt(k *keyRow) ([]byte, error) {
	aead := t.kek.cipher(k.kek)
	if aead == nil {
		return nil, &notOpened{k.kek}
	}
	plain, err := aead.Open(nil, nil, k.wrapped, binding(k.id, k.gun, k.role))
	if err != nil {
		return nil, errors.New("the wrapped private key has been changed, or belongs to another row")
	}
	return plain, nil
}

// encrypt is the inverse of decrypt.
func (t *Table) encrypt(kek string, plain, bound []byte) ([]byte, error) {
	aead := t.kek.cipher(kek)
	if aead == nil {
		return nil, &notOpened{kek}
	}
	return aead.Seal(nil, nil, plain, bound), nil
}

// open brings the data key id into memory, if it is not there; with anew even
// if it is.
func (t *Table) open(ctx context.Context, id string, anew bool) error {
	if !anew && t.kek.cipher(id) != nil {
		return nil
	}
	var found []dataKey
	err := t.db.View(ctx, func(x *database.Tx) (err error) {
		found, err = dataKeys(ctx, x, "SELECT id, wrapper, wrapped FROM signer_keks WHERE id = ? AND wrapped IS NOT NULL", id)
		return err
	})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("%w: keys are wrapped under %s, which is not given", ErrKEK, id)
	}
	return t.kek.unwrap(ctx, found[0], anew)
}

// Refresh unwraps the data keys anew whose life in memory is more than half
// over, so that a key-encryption key that cannot be asked for a while is not
// noticed. Whoever runs a service calls it now and then.
func (t *Table) Refresh(ctx context.Context) error {
	var errs []error
	for _, id := range t.kek.aging() {
		errs = append(errs, t.open(ctx, id, true))
	}
	return errors.Join(errs...)
}

// sealing returns the id of the key that new rows are encrypted with, which is
// in memory then. A key-encryption key without a data key gets one.
func (t *Table) sealing(ctx context.Context) (string, error) {
	current := t.kek.current.ID()
	if t.kek.local[current] != nil {
		return current, nil
	}
	var found []dataKey
	err := t.db.View(ctx, func(x *database.Tx) (err error) {
		found, err = newest(ctx, x, current)
		return err
	})
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return t.newDataKey(ctx)
	}
	return found[0].id, t.open(ctx, found[0].id, false)
}

// newest returns the data key that is to be used under a key-encryption key.
func newest(ctx context.Context, x *database.Tx, wrapper string) ([]dataKey, error) {
	return dataKeys(ctx, x, "SELECT id, wrapper, wrapped FROM signer_keks WHERE wrapper = ? ORDER BY created_at DESC, id DESC LIMIT 1", wrapper)
}

// newDataKey makes a data key under the current key-encryption key. Two
// processes may make one each: both are recorded, and one is the newest.
func (t *Table) newDataKey(ctx context.Context) (id string, err error) {
	key := make([]byte, 32)
	defer clear(key) // G5
	_, _ = rand.Read(key)
	id = checkValue(key)
	by := t.kek.current
	wrapped, err := by.Wrap(ctx, key)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrSealed, by.ID(), err)
	}
	// What cannot be unwrapped again must not encrypt anything.
	if err := t.kek.unwrap(ctx, dataKey{id, by.ID(), wrapped}, true); err != nil {
		return "", err
	}
	return id, t.write(ctx, func(x *database.Tx) error {
		now := t.kek.now().Unix()
		last, err := texts(ctx, x, "SELECT id FROM signer_keks WHERE wrapper = ? AND created_at >= ?", by.ID(), now)
		if err == nil {
			_, err = x.Exec(ctx, "INSERT INTO signer_keks (id, created_at, wrapper, wrapped) VALUES (?, ?, ?, ?)", id, now+int64(len(last)), by.ID(), wrapped)
		}
		if err != nil {
			return err
		}
		return t.record(ctx, x, AuditEntry{Time: t.kek.now(), Event: AuditDataKey, Detail: id + " under " + by.ID()})
	})
}

// recorded makes sure, in the transaction that stores a row, that the key which
// the row is encrypted with is not being retired by a rewrap.
func (t *Table) recorded(ctx context.Context, x *database.Tx, id string) error {
	there, err := texts(ctx, x, "SELECT id FROM signer_keks WHERE id = ?", id)
	switch {
	case err != nil:
		return err
	case len(there) > 0:
		return nil
	case t.kek.local[id] == nil:
		return errMoved // a newer data key is there
	}
	return fmt.Errorf("%w: key %s was replaced by a rewrap: start the signer with the new one", ErrKEK, id)
}

func dataKeys(ctx context.Context, x *database.Tx, query string, args ...any) ([]dataKey, error) {
	rows, err := x.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []dataKey
	for rows.Next() {
		var d dataKey
		var wrapper sql.NullString
		if err := rows.Scan(&d.id, &wrapper, &d.wrapped); err != nil {
			return nil, err
		}
		if d.wrapper = wrapper.String; d.wrapper == "" {
			d.wrapper = d.id // it encrypts rows itself
		}
		out = append(out, d)
	}
	return out, rows.Err()
}
