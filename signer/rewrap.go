package signer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/database"
)

// An Instance is a running signer, as the others know it.
type Instance struct {
	ID   string // random, one a process
	Host string // for people
	KEK  string // what it wraps new keys under
	Seen time.Time
}

// presence is how long an instance that was not heard of counts as running.
// [Table.Present] is called several times within it.
const presence = 3 * time.Minute

// Present tells the other users of the table, and above all [Table.Rewrap],
// that a service runs, and which key-encryption keys it knows. Whoever runs a
// service calls it when it starts and every 30 seconds or so.
func (t *Table) Present(ctx context.Context, id, host string, now time.Time) error {
	return t.db.Update(ctx, func(x *database.Tx) error {
		if _, err := x.Exec(ctx, "DELETE FROM signer_instances WHERE id = ? OR seen_at < ?", id, now.Add(-24*time.Hour).Unix()); err != nil {
			return err
		}
		ids := t.kek.IDs()
		_, err := x.Exec(ctx, "INSERT INTO signer_instances (id, host, kek, known, seen_at) VALUES (?, ?, ?, ?, ?)",
			id, host, ids[0], []byte(strings.Join(ids, "\n")), now.Unix())
		return err
	})
}

// Absent takes back what Present told.
func (t *Table) Absent(ctx context.Context, id string) error {
	return t.db.Update(ctx, func(x *database.Tx) error {
		_, err := x.Exec(ctx, "DELETE FROM signer_instances WHERE id = ?", id)
		return err
	})
}

// instances returns those that run and that ok does not hold of.
func instances(ctx context.Context, x *database.Tx, now time.Time, ok func(i Instance, known []string) bool) ([]Instance, error) {
	rows, err := x.Query(ctx, "SELECT id, host, kek, known, seen_at FROM signer_instances WHERE seen_at > ? ORDER BY host, id", now.Add(-presence).Unix())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Instance
	for rows.Next() {
		var i Instance
		var known []byte
		var seen int64
		if err := rows.Scan(&i.ID, &i.Host, &i.KEK, &known, &seen); err != nil {
			return nil, err
		}
		i.Seen = time.Unix(seen, 0)
		if !ok(i, strings.Split(string(known), "\n")) {
			out = append(out, i)
		}
	}
	return out, rows.Err()
}

// An InstancesError says which running signers stand in the way of a rewrap.
type InstancesError struct {
	Instances []Instance
	// Unready: they could not read what is wrapped under the new key, so
	// nothing was done. Otherwise everything was moved, and they go on
	// wrapping new keys under a former one.
	Unready bool
}

func (e *InstancesError) Error() string {
	var hosts []string
	for _, i := range e.Instances {
		hosts = append(hosts, fmt.Sprintf("%s (last seen %s)", i.Host, i.Seen.UTC().Format(time.RFC3339)))
	}
	who := "the signer on " + strings.Join(hosts, ", ")
	if e.Unready {
		return fmt.Sprintf("%s does not know the new key-encryption key, and could not read keys that are wrapped under it: "+
			"start it with the new one among old-key-encryption-keys; one that was killed counts as running for %v", who, presence)
	}
	return fmt.Sprintf("%s still wraps new keys under a former key-encryption key: start it with the new one as key-encryption-key, "+
		"then rewrap once more; one that was killed counts as running for %v", who, presence)
}

// RewrapOptions are what a rewrap is to do beside moving.
type RewrapOptions struct {
	// Fresh makes a new data key first, when the current key-encryption key is
	// one that wraps data keys. A rewrap that was interrupted is taken up
	// without it.
	Fresh bool
	// Identity is who is named in the audit log.
	Identity string
	// Progress, if set, is called after each step: moved of total.
	Progress func(moved, total int)
}

// Rewrap moves all private halves under the current key-encryption key, while
// services run, and returns how many were moved. It moves them in small steps,
// each durable: killed at any moment it is simply called again. Afterwards no
// process needs the other key-encryption keys, and all data keys are wrapped
// under the newest version of the current one.
//
// Every running service must be able to read what is moved, and in the end
// none may wrap under a former key: an *[InstancesError] says which one is in
// the way. To change the key: give every process the new one among the others,
// then as the current one with the former among the others, then call Rewrap,
// then leave the former out.
func (t *Table) Rewrap(ctx context.Context, o RewrapOptions, now func() time.Time) (moved int, err error) {
	current := t.kek.current.ID()
	if err := t.demand(ctx, now(), true, func(_ Instance, known []string) bool { return slices.Contains(known, current) }); err != nil {
		return 0, err
	}
	target, err := t.target(ctx, o, now())
	if err != nil {
		return 0, err
	}
	var total int
	if err := t.db.View(ctx, func(x *database.Tx) error {
		return x.QueryRow(ctx, "SELECT COUNT(*) FROM signer_keys WHERE kek <> ?", target).Scan(&total)
	}); err != nil {
		return 0, err
	}
	for {
		n, err := t.rewrapSome(ctx, target, o.Identity, now())
		if closed := new(notOpened); errors.As(err, &closed) {
			if err := t.open(ctx, closed.id, false); err != nil {
				return moved, err
			}
			continue
		}
		if err != nil {
			return moved, err
		}
		if moved += n; n == 0 {
			break
		}
		if o.Progress != nil {
			o.Progress(moved, max(total, moved))
		}
	}
	if err := t.demand(ctx, now(), false, func(i Instance, _ []string) bool { return i.KEK == current }); err != nil {
		return moved, err
	}
	return moved, t.retire(ctx, target, o.Identity, now())
}

// demand returns an *InstancesError of the running services for which ok does
// not hold.
func (t *Table) demand(ctx context.Context, now time.Time, unready bool, ok func(Instance, []string) bool) error {
	var lacking []Instance
	err := t.db.View(ctx, func(x *database.Tx) (err error) {
		lacking, err = instances(ctx, x, now, ok)
		return err
	})
	if err == nil && len(lacking) > 0 {
		err = &InstancesError{lacking, unready}
	}
	return err
}

// target returns what everything is to be moved under: a local key, or a data
// key that is wrapped under the newest version of the current key-encryption
// key.
func (t *Table) target(ctx context.Context, o RewrapOptions, now time.Time) (string, error) {
	by := t.kek.current
	if t.kek.local[by.ID()] != nil {
		return by.ID(), nil
	}
	if o.Fresh {
		return t.newDataKey(ctx)
	}
	id, err := t.sealing(ctx)
	if err != nil {
		return "", err
	}
	var found []dataKey
	if err := t.db.View(ctx, func(x *database.Tx) (err error) {
		found, err = newest(ctx, x, by.ID())
		return err
	}); err != nil {
		return "", err
	}
	if len(found) == 0 || found[0].id != id {
		return "", errMoved
	}
	plain, err := by.Unwrap(ctx, found[0].wrapped)
	defer clear(plain) // G5
	if err == nil && checkValue(plain) != id {
		err = errors.New("what it unwraps is not the data key")
	}
	var wrapped []byte
	if err == nil {
		wrapped, err = by.Wrap(ctx, plain)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrSealed, by.ID(), err)
	}
	if err := t.kek.unwrap(ctx, dataKey{id, by.ID(), wrapped}, true); err != nil {
		return "", err
	}
	return id, t.db.Update(ctx, func(x *database.Tx) error {
		return one(x.Exec(ctx, "UPDATE signer_keks SET wrapped = ? WHERE id = ?", wrapped, id))
	})
}

// rewrapSome moves a hundred rows.
func (t *Table) rewrapSome(ctx context.Context, target, who string, now time.Time) (moved int, err error) {
	err = t.write(ctx, func(x *database.Tx) error {
		moved = 0
		if err := t.recorded(ctx, x, target); err != nil {
			return err
		}
		some, err := keyRows(ctx, x, "SELECT "+keyColumns+" FROM signer_keys WHERE kek <> ? ORDER BY id LIMIT 100", target)
		if err != nil {
			return err
		}
		for _, k := range some {
			der, err := t.decrypt(&k)
			if err != nil {
				return fmt.Errorf("key %s: %w", k.id.Short(), err)
			}
			wrapped, err := t.encrypt(target, der, binding(k.id, k.gun, k.role))
			clear(der) // G5
			if err != nil {
				return err
			}
			if err := one(x.Exec(ctx, "UPDATE signer_keys SET wrapped = ?, kek = ? WHERE id = ? AND kek = ?", wrapped, target, k.id, k.kek)); err != nil {
				return err
			}
			moved++
		}
		if moved == 0 {
			return nil
		}
		return t.record(ctx, x, AuditEntry{Time: now, Event: AuditRewrapped, Identity: who, Detail: fmt.Sprintf("%d keys, under %s", moved, t.kek.current.ID())})
	})
	return moved, err
}

// retire ends the former keys, in one transaction with a last look whether
// something is wrapped under them.
func (t *Table) retire(ctx context.Context, target, who string, now time.Time) error {
	return t.write(ctx, func(x *database.Tx) error {
		var left int
		if err := x.QueryRow(ctx, "SELECT COUNT(*) FROM signer_keys WHERE kek <> ?", target).Scan(&left); err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("%d keys were made under a former key-encryption key meanwhile: rewrap once more", left)
		}
		former, err := texts(ctx, x, "SELECT id FROM signer_keks WHERE id <> ? ORDER BY id", target)
		if err != nil || len(former) == 0 {
			return err
		}
		if _, err := x.Exec(ctx, "DELETE FROM signer_keks WHERE id <> ?", target); err != nil {
			return err
		}
		return t.record(ctx, x, AuditEntry{Time: now, Event: AuditRetired, Identity: who, Detail: strings.Join(former, ", ")})
	})
}
