package signer

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

//go:embed migrations/*.sql
var migrations embed.FS

// A Table is the home of the signer's keys and of its ledger, in one SQL
// database. Private halves are in it only wrapped. Several processes may use
// one table at once. It is safe for concurrent use.
type Table struct {
	db       *database.DB
	kek      *KEK
	signings database.Group[signing, signed]
	verified tuf.Verified // of published timestamps
	// remembered is what the last signatures left behind, behind the last entry
	// of the audit log.
	remembered database.Remembered[database.Link, tuf.GUN, standing]
}

// Database returns the database that t was opened with.
func (t *Table) Database() *database.DB { return t.db }

// Key states. Dropped keys were never used and have no private half any more;
// retired keys were used for a repository that was deleted since.
const (
	pending = "pending"
	active  = "active"
	retired = "retired"
	dropped = "dropped"
)

// OpenTable brings the schema up to date and checks that kek fits the table.
// The error matches [ErrKEK] if some key in it could not be unwrapped, or if
// the table was used before and never with a key of kek.
func OpenTable(ctx context.Context, db *database.DB, kek *KEK) (*Table, error) {
	if kek == nil {
		return nil, errors.New("the signer needs a key-encryption key")
	}
	if err := Migrate(ctx, db); err != nil {
		return nil, err
	}
	t := &Table{db: db, kek: kek}
	t.signings.Run, t.signings.Most = t.signAll, batchMost
	t.signings.Key = func(q signing) string { return string(q.GUN) }
	t.remembered.Same, t.remembered.Most = database.Link.Same, maxRemembered
	var err error
	for range 2 { // another process may record the same key meanwhile
		err = db.Update(ctx, func(x *database.Tx) error { return t.checkKEK(ctx, x) })
		if !database.IsUnique(err) {
			break
		}
	}
	if err == nil {
		err = t.drain(ctx)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// checkKEK refuses a wrong KEK at the start, and records a new one.
func (t *Table) checkKEK(ctx context.Context, x *database.Tx) error {
	recorded, err := dataKeys(ctx, x, "SELECT id, wrapper, wrapped FROM signer_keks ORDER BY id")
	if err != nil {
		return err
	}
	known, current := len(recorded) == 0, false
	wrappers := map[string]string{}
	for _, d := range recorded {
		wrappers[d.id] = d.wrapper
		known = known || t.kek.knows(d.wrapper)
		current = current || d.id == t.kek.current.ID()
	}
	used, err := texts(ctx, x, "SELECT DISTINCT kek FROM signer_keys WHERE kek IS NOT NULL")
	if err != nil {
		return err
	}
	for _, id := range used {
		if by := cmp.Or(wrappers[id], id); !t.kek.knows(by) {
			return fmt.Errorf("%w: keys are wrapped under %s, and the ones given are others", ErrKEK, by)
		}
	}
	if !known {
		return fmt.Errorf("%w: the table belongs to %s, which is not given", ErrKEK, recorded[0].wrapper)
	}
	if current || t.kek.local[t.kek.current.ID()] == nil {
		return nil // data keys are recorded when they are made
	}
	_, err = x.Exec(ctx, "INSERT INTO signer_keks (id, created_at) VALUES (?, ?)", t.kek.current.ID(), time.Now().Unix())
	return err
}

func texts(ctx context.Context, x *database.Tx, query string, args ...any) ([]string, error) {
	rows, err := x.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// A keyRow is a key without its private half.
type keyRow struct {
	id          tuf.CanonicalID
	gun         tuf.GUN
	role        tuf.RoleName
	incarnation int64
	public      tuf.PublicKey
	wrapped     []byte
	kek         string
	state       string
	token       string // where the private half is; empty: it is wrapped
}

const keyColumns = "id, gun, role, incarnation, key_type, public_key, wrapped, kek, state, token"

func (k *keyRow) scan(row interface{ Scan(...any) error }) error {
	var kek, token sql.NullString
	err := row.Scan(&k.id, &k.gun, &k.role, &k.incarnation, &k.public.Type, &k.public.Bytes, &k.wrapped, &kek, &k.state, &token)
	k.kek, k.token = kek.String, token.String
	return err
}

func keyRows(ctx context.Context, x *database.Tx, query string, args ...any) ([]keyRow, error) {
	rows, err := x.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys []keyRow
	for rows.Next() {
		var k keyRow
		if err := k.scan(rows); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// key reads the key of one repository and role; nil if there is none.
func (t *Table) key(ctx context.Context, x *database.Tx, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (*keyRow, error) {
	var k keyRow
	err := k.scan(x.QueryRow(ctx, "SELECT "+keyColumns+" FROM signer_keys WHERE id = ? AND gun = ? AND role = ? AND state <> ?", id, gun, role, dropped))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &k, err
}

// signer decrypts the private half of k. The error is a *notOpened when the
// data key is not in memory.
func (t *Table) signer(k *keyRow) (tuf.Signer, error) {
	der, err := t.decrypt(k)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.id.Short(), err)
	}
	defer clear(der) // G5
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key %s: not a private key", k.id.Short())
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s: a key that cannot sign", k.id.Short())
	}
	s, err := tuf.NewSigner(private)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.id.Short(), err)
	}
	if s.PublicKey().CanonicalID() != k.id || !s.PublicKey().Equal(k.public) {
		return nil, fmt.Errorf("key %s: the private half belongs to another key", k.id.Short())
	}
	return s, nil
}

// slot is the same for all keys of which at most one may be pending.
func slot(gun tuf.GUN, role tuf.RoleName, t tuf.KeyType) string {
	sum := sha256.Sum256([]byte(string(t) + "\n" + string(role) + "\n" + string(gun)))
	return hex.EncodeToString(sum[:])
}

func generate(t tuf.KeyType) (crypto.Signer, error) {
	switch t {
	case tuf.ECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case tuf.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, refuse("keys of type %q are not made here: only ecdsa and ed25519 are", t)
}

// create returns the pending key of (gun, role, type), making it if there is
// none. made tells. At most limit keys a day are made for one role (S7).
func (t *Table) create(ctx context.Context, who string, kind tuf.KeyType, role tuf.RoleName, gun tuf.GUN, limit int, now time.Time) (public tuf.PublicKey, made bool, err error) {
	// Two processes may get here at once. The loser's insert meets the unique
	// slot, and finds the winner's key the next time round. A rewrap may retire
	// the data key meanwhile.
	for range 4 {
		public, err = t.pendingKey(ctx, kind, role, gun)
		if err != nil || public.Bytes != nil {
			return public, false, err
		}
		if t.kek.tokens != nil {
			public, err = t.createOnToken(ctx, who, kind, role, gun, limit, now)
		} else {
			var private crypto.Signer
			if private, err = generate(kind); err != nil {
				return tuf.PublicKey{}, false, err
			}
			public, err = t.insert(ctx, who, private, role, gun, true, limit, now)
		}
		if !database.IsUnique(err) && !errors.Is(err, errMoved) {
			return public, err == nil, err
		}
	}
	return tuf.PublicKey{}, false, errors.New("the pending key keeps changing: try again")
}

func (t *Table) pendingKey(ctx context.Context, kind tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, error) {
	var k keyRow
	err := t.db.Look(ctx, func(x *database.Tx) error {
		return k.scan(x.QueryRow(ctx, "SELECT "+keyColumns+" FROM signer_keys WHERE slot = ?", slot(gun, role, kind)))
	})
	if errors.Is(err, sql.ErrNoRows) {
		return tuf.PublicKey{}, nil
	}
	if err == nil && k.token != "" {
		_, err = t.tokens(k.token) // what could not sign is not handed out
	}
	if err != nil {
		return tuf.PublicKey{}, err
	}
	return k.public, nil
}

// insert stores a key of the current incarnation: one that was made for who,
// or was imported if that is empty.
func (t *Table) insert(ctx context.Context, who string, private crypto.Signer, role tuf.RoleName, gun tuf.GUN, isPending bool, limit int, now time.Time) (tuf.PublicKey, error) {
	s, err := tuf.NewSigner(private)
	if err != nil {
		return tuf.PublicKey{}, err
	}
	public := s.PublicKey()
	id := public.CanonicalID()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return tuf.PublicKey{}, err
	}
	defer clear(der) // G5
	kek, err := t.sealing(ctx)
	if err != nil {
		return tuf.PublicKey{}, err
	}
	wrapped, err := t.encrypt(kek, der, binding(id, gun, role))
	if err != nil {
		return tuf.PublicKey{}, err
	}
	err = t.write(ctx, func(x *database.Tx) error {
		if err := t.recorded(ctx, x, kek); err != nil {
			return err
		}
		if limit > 0 {
			if err := mayMake(ctx, x, role, gun, limit, now); err != nil {
				return err
			}
		}
		incarnation, err := t.incarnation(ctx, x, gun)
		if err != nil {
			return err
		}
		state, at, used := pending, sql.NullString{String: slot(gun, role, public.Type), Valid: true}, sql.NullInt64{}
		if !isPending {
			state, at, used = active, sql.NullString{}, sql.NullInt64{Int64: now.Unix(), Valid: true}
		}
		_, err = x.Exec(ctx, `INSERT INTO signer_keys (id, gun, incarnation, role, key_type, public_key, wrapped, kek, state, slot, created_at, first_used_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			id, gun, incarnation, role, public.Type, public.Bytes, wrapped, kek, state, at, now.Unix(), used)
		if err != nil {
			return err
		}
		e := AuditEntry{Time: now, Event: AuditCreated, Identity: who, GUN: gun, Role: role, Key: id}
		if who == "" {
			e.Event = AuditImported
		}
		return t.record(ctx, x, e)
	})
	return public, err
}

// incarnation returns the current incarnation of gun, 1 for a new one, for who
// is about to write something of it. The row is written as well, because nodes
// of a Galera cluster notice only then that another ends the incarnation.
func (t *Table) incarnation(ctx context.Context, x *database.Tx, gun tuf.GUN) (int64, error) {
	if _, err := x.Exec(ctx, "UPDATE signer_repositories SET turn = turn + 1 WHERE gun = ?", gun); err != nil {
		return 0, err
	}
	var n int64
	err := x.QueryRow(ctx, "SELECT incarnation FROM signer_repositories WHERE gun = ?", gun).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		_, err = x.Exec(ctx, "INSERT INTO signer_repositories (gun, incarnation) VALUES (?, 1)", gun)
		return 1, err
	}
	return n, err
}

// Import puts a private key into the table that another signer made: an ECDSA,
// RSA or Ed25519 key. With used set it is one that has signed already, and is
// never handed out for a new repository. To import the same key for the same
// repository and role again changes nothing; for another one it is refused.
func (t *Table) Import(ctx context.Context, private crypto.Signer, role tuf.RoleName, gun tuf.GUN, used bool, now time.Time) (tuf.PublicKey, error) {
	if err := checkName(gun, role); err != nil {
		return tuf.PublicKey{}, err
	}
	s, err := tuf.NewSigner(private)
	if err != nil {
		return tuf.PublicKey{}, err
	}
	id := s.PublicKey().CanonicalID()
	for range 2 { // another process may insert the repository's row meanwhile
		public, err := t.insert(ctx, "", private, role, gun, !used, 0, now)
		if !database.IsUnique(err) && !errors.Is(err, errMoved) {
			return public, err
		}
	}
	err = t.db.View(ctx, func(x *database.Tx) error {
		k, err := t.key(ctx, x, gun, role, id)
		if err == nil && k == nil {
			err = refuse("key %s belongs to another repository or role, or another key of %s is pending", id.Short(), gun)
		}
		return err
	})
	return s.PublicKey(), err
}

// holds reports whether the key may become, or is, a key of the repository as
// it is now: keys of a deleted one are not (attacks.md S6).
func (t *Table) holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (held bool, err error) {
	err = t.db.Look(ctx, func(x *database.Tx) error {
		k, err := t.key(ctx, x, gun, role, id)
		held = k != nil && k.state != retired
		return err
	})
	return held && err == nil, err
}

// forget ends the incarnation of gun: pending keys are dropped with their
// private halves, used ones retired. The next key belongs to a new
// incarnation, with a ledger that begins at nothing.
func (t *Table) forget(ctx context.Context, who string, gun tuf.GUN, now time.Time) error {
	return t.write(ctx, func(x *database.Tx) error {
		var n int64
		err := x.QueryRow(ctx, "SELECT incarnation FROM signer_repositories WHERE gun = ?", gun).Scan(&n)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // no key was ever made
		}
		if err != nil {
			return err
		}
		if _, err := x.Exec(ctx, "UPDATE signer_keys SET state = ?, slot = NULL, wrapped = NULL, kek = NULL, forgotten_at = ? WHERE gun = ? AND state = ?",
			dropped, now.Unix(), gun, pending); err != nil {
			return err
		}
		if _, err := x.Exec(ctx, "UPDATE signer_keys SET state = ?, forgotten_at = ? WHERE gun = ? AND state = ?",
			retired, now.Unix(), gun, active); err != nil {
			return err
		}
		if err := one(x.Exec(ctx, "UPDATE signer_repositories SET incarnation = ? WHERE gun = ? AND incarnation = ?", n+1, gun, n)); err != nil {
			return err
		}
		return t.record(ctx, x, AuditEntry{Time: now, Event: AuditForgot, Identity: who, GUN: gun})
	})
}
