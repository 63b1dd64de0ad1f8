package signer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// Bounds of what is signed in one transaction.
const (
	batchMost  = 64
	batchLimit = 20 * time.Second
)

// A signing is a claim that is to be signed.
type signing struct {
	*claim
	who     string
	now     time.Time
	request string         // under which id the logs have it
	sum     [32]byte       // of the payload
	made    *tuf.Signature // on a token; it is nobody's before it is in the ledger
	// next makes the claim to the timestamp over the signed snapshot that the
	// claim itself became; nil if no such is asked for. Both are signed, or
	// neither.
	next func(snapshot []byte) (*claim, error)
}

// A signed claim has its signature in the ledger and in the audit log.
type signed struct {
	sig    tuf.Signature
	public tuf.PublicKey
	again  bool // it is an earlier answer
	next   *signed
}

// sign judges c and signs it, together with others that come at this moment.
// When it returns a signature, the ledger and the audit log durably say so
// (first the ledger, then the answer: a signature that left is never
// forgotten).
//
// Beside the errors of [judge] it returns one matching tuf.ErrNoKey.
func (t *Table) sign(ctx context.Context, who string, c *claim, next func([]byte) (*claim, error), now time.Time) (s signed, err error) {
	q := signing{claim: c, who: who, now: now, request: traces.ID(ctx), sum: sha256.Sum256(c.Payload), next: next}
	for range 5 {
		s, err = t.signings.Do(ctx, q)
		// A token is not asked while a transaction is open. All is judged again
		// afterwards, with what the ledger says then.
		if on := new(onToken); errors.As(err, &on) {
			if next != nil {
				return signed{}, errors.ErrUnsupported
			}
			var made tuf.Signature
			if made, err = t.signOnToken(ctx, &on.key, c.Payload); err != nil {
				return signed{}, err
			}
			q.made, err = &made, errMoved
		}
		// What keeps the key-encryption key may be slow, and is not asked
		// while a transaction is open either.
		if closed := new(notOpened); errors.As(err, &closed) {
			if err = t.open(ctx, closed.id, false); err != nil {
				return signed{}, err
			}
			err = errMoved
		}
		// Also where it is not known whether it was committed: then the answer
		// is found, or made now.
		if !errors.Is(err, errMoved) && !errors.Is(err, database.ErrUncertain) && !database.IsUnique(err) {
			break
		}
	}
	if err == nil && (s.again || s.next != nil && s.next.again) {
		err = t.drain(ctx) // a signer of an earlier version may have made it
	}
	if err != nil {
		return signed{}, err
	}
	return s, nil
}

// signAll signs what came together in one transaction. What fails for all, and
// may do so because of one of them, is tried one by one.
func (t *Table) signAll(ctx context.Context, batch []signing) (all []database.Answer[signed]) {
	ctx, cancel := context.WithTimeout(ctx, batchLimit)
	defer cancel()
	hopeless := func(err error) bool {
		return errors.Is(err, database.ErrUncertain) || errors.Is(err, database.ErrUnavailable) || ctx.Err() != nil
	}
	all, supposed, err := t.signSupposed(ctx, batch)
	if !supposed || err != nil && !hopeless(err) {
		all, err = t.signKnown(ctx, batch)
	}
	if err == nil {
		return all
	}
	common := hopeless(err)
	all = make([]database.Answer[signed], len(batch))
	for i := range batch {
		if common || len(batch) == 1 {
			all[i].Err = err
		} else {
			all[i] = t.signAll(ctx, batch[i:i+1])[0]
		}
	}
	return all
}

// signKnown is signAll on top of what is in the database. Its error is that of
// the transaction; a claim that is refused changes nothing.
func (t *Table) signKnown(ctx context.Context, batch []signing) (all []database.Answer[signed], err error) {
	var at int
	var k *known
	var last database.Link
	var w *writes
	err = t.inTurn(ctx, func(x *database.Tx) (err error) {
		at, _, _, _ = t.remembered.Of(nil, time.Time{})
		if k, err = recallAll(ctx, x, batch); err != nil {
			return err
		}
		all, w = make([]database.Answer[signed], len(batch)), newWrites()
		for i := range batch {
			var fatal error
			all[i].Value, all[i].Err, fatal = t.signClaim(ctx, x, k, &batch[i], w)
			if fatal != nil {
				return fatal
			}
		}
		last, err = t.put(ctx, x, k.last, w, false)
		return err
	})
	if err != nil {
		t.remembered.Forget()
		return nil, err
	}
	t.remembered.Keep(at, k.last, last, k.standings(w, batch, all))
	return all, nil
}

// signSupposed is signAll on top of what the signatures before left behind, if
// all of that is remembered and nobody is refused because of it: what was signed
// before, and what else has happened, is not. The database writes it if nothing
// has.
func (t *Table) signSupposed(ctx context.Context, batch []signing) (all []database.Answer[signed], supposed bool, err error) {
	now := time.Now()
	guns := make([]tuf.GUN, len(batch))
	for i, q := range batch {
		if q.snapshot != nil { // it may be one that was signed before
			return nil, false, nil
		}
		guns[i] = q.GUN
	}
	k, w := newKnown(), newWrites()
	at, last, of, ok := t.remembered.Of(guns, now)
	if !ok {
		return nil, false, nil
	}
	k.last = last
	for gun, s := range of {
		k.keys[gun] = s.keys
		for incarnation, row := range s.ledger {
			k.ledger[ledgerKey{gun, incarnation}] = row
		}
	}
	all = make([]database.Answer[signed], len(batch))
	for i := range batch {
		var refused, fatal error
		if all[i].Value, refused, fatal = t.signClaim(ctx, nil, k, &batch[i], w); refused != nil || fatal != nil {
			return nil, false, nil
		}
	}
	err = t.inTurn(ctx, func(x *database.Tx) (err error) {
		last, err = t.put(ctx, x, k.last, w, true)
		return err
	})
	switch {
	case err == nil:
		t.remembered.Keep(at, k.last, last, k.standings(w, batch, all))
	case errors.Is(err, errMoved) || database.IsUnique(err):
		t.remembered.Wrong(at, now)
	default:
		t.remembered.Forget()
	}
	return all, true, err
}

// A standing is what is remembered of a repository.
type standing struct {
	keys   []keyRow
	ledger map[int64]ledgerRow // by the incarnations of keys
}

// Bounds of what is remembered: repositories, and keys of each.
const (
	maxRemembered = 1024
	maxKeys       = 8
)

// standings returns what is known of the repositories of a batch when w is
// written, but for those of which something was refused, perhaps half way, whose
// keys may change by themselves, or are on tokens, which are asked otherwise.
func (k *known) standings(w *writes, batch []signing, all []database.Answer[signed]) map[tuf.GUN]standing {
	left := map[tuf.GUN]standing{}
	for i, q := range batch {
		keys := k.keys[q.GUN]
		if all[i].Err != nil || len(keys) > maxKeys || slices.ContainsFunc(keys, func(k keyRow) bool { return k.state == pending || k.token != "" }) {
			continue
		}
		s := standing{keys, map[int64]ledgerRow{}}
		for _, key := range keys {
			at := ledgerKey{q.GUN, key.incarnation}
			row := k.ledger[at]
			if w.writes(at) {
				row.seq++
			}
			s.ledger[key.incarnation] = row
		}
		left[q.GUN] = s
	}
	return left
}

// signClaim is [Table.signOne], and then for the timestamp that is asked for
// with it. What has to be written is added to w, unless q is refused. fatal is
// an error of the transaction, which there need not be where nothing that was
// signed before is known.
func (t *Table) signClaim(ctx context.Context, x *database.Tx, known *known, q *signing, w *writes) (s signed, err, fatal error) {
	var made []written
	s, err = t.signOne(ctx, known, q, &made)
	if err == nil && q.next != nil {
		var next signed
		next, err, fatal = t.signNext(ctx, x, known, q, s, &made)
		s.next = &next
	}
	if err == nil && fatal == nil {
		w.add(made)
	}
	return s, err, fatal
}

// What is known of the repositories of a batch.
type known struct {
	last       database.Link        // of the audit log
	keys       map[tuf.GUN][]keyRow // all that are not dropped; of timestamp keys, those used last come first
	ledger     map[ledgerKey]ledgerRow
	statements map[[32]byte][]statementRow // by the hash of the payload
}

func newKnown() *known {
	return &known{keys: map[tuf.GUN][]keyRow{}, ledger: map[ledgerKey]ledgerRow{}, statements: map[[32]byte][]statementRow{}}
}

type ledgerKey struct {
	gun         tuf.GUN
	incarnation int64
}

// A ledgerRow is what the ledger says of an incarnation. seq counts the changes.
type ledgerRow struct {
	floors
	seq int64
}

// A statementRow is a signature that was made.
type statementRow struct {
	ledgerKey
	role    tuf.RoleName
	version int64
	key     tuf.CanonicalID
	sig     tuf.Signature
}

// writes are what a batch changes.
type writes struct {
	begun, moved map[ledgerKey]ledgerRow // incarnations that the ledger did not know, and others
	statements   [][]any
	active       []string // ids of keys that were pending
	entries      []AuditEntry
}

// selectKnown reads all that a batch is judged by with one statement, because
// each takes a round trip: keys, first, whose columns have types, the ledger,
// signatures, and the end of the audit log.
var selectKnown = `SELECT 'key' AS kind, gun, role, id, key_type, state, kek, token, public_key, wrapped, incarnation, first_used_at, 0 AS n1, 0 AS n2, 0 AS n3, 0 AS n4, 0 AS n5
		FROM signer_keys WHERE gun %[1]s AND state <> ?
	UNION ALL SELECT 'ledger', gun, '', '', '', '', NULL, NULL, NULL, NULL, incarnation, seq, ` + floorColumns + `
		FROM signer_ledger WHERE gun %[1]s
	UNION ALL SELECT 'statement', gun, role, key_id, method, '', NULL, NULL, payload, signature, incarnation, version, 0, 0, 0, 0, 0
		FROM signer_statements WHERE payload %[2]s
	UNION ALL SELECT 'audit', '', '', '', '', '', NULL, NULL, hash, NULL, id, 0, 0, 0, 0, 0, 0
		FROM signer_audit WHERE id = (SELECT MAX(id) FROM signer_audit)`

// recallAll reads what the batch is judged by.
func recallAll(ctx context.Context, x *database.Tx, batch []signing) (*known, error) {
	var guns []string
	var sums [][]byte
	for _, q := range batch {
		guns = append(guns, string(q.GUN))
		sums = append(sums, q.sum[:])
		if q.snapshot != nil {
			sum := sha256.Sum256(q.snapshot.Canonical)
			sums = append(sums, sum[:])
		}
	}
	inGUNs, args := database.In(x.Dialect(), guns)
	inSums, hashes := database.In(x.Dialect(), sums)
	rows, err := x.Query(ctx, fmt.Sprintf(selectKnown, inGUNs, inSums), slices.Concat(args, []any{dropped}, args, hashes)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	k := newKnown()
	used := map[tuf.CanonicalID]int64{}
	var kind, method string
	var r keyRow
	var kek, token sql.NullString
	var n sql.NullInt64
	var f floors
	row := append([]any{&kind, &r.gun, &r.role, &r.id, &method, &r.state, &kek, &token, &r.public.Bytes, &r.wrapped, &r.incarnation, &n}, f.columns()...)
	for rows.Next() {
		if err := rows.Scan(row...); err != nil {
			return nil, err
		}
		at := ledgerKey{r.gun, r.incarnation}
		switch kind {
		case "key":
			r.public.Type, r.kek, r.token = tuf.KeyType(method), kek.String, token.String
			used[r.id] = n.Int64
			k.keys[r.gun] = append(k.keys[r.gun], r)
		case "ledger":
			k.ledger[at] = ledgerRow{floors: f, seq: n.Int64}
		case "statement":
			k.made(r.public.Bytes, statementRow{ledgerKey: at, role: r.role, version: n.Int64, key: r.id, sig: tuf.Signature{Method: method, Value: r.wrapped}})
		case "audit":
			k.last.ID = r.incarnation
			copy(k.last.Hash[:], r.public.Bytes)
		}
	}
	for _, keys := range k.keys {
		slices.SortFunc(keys, func(a, b keyRow) int {
			return cmp.Or(cmp.Compare(used[b.id], used[a.id]), cmp.Compare(a.id, b.id))
		})
	}
	return k, rows.Err()
}

// made adds what was signed.
func (k *known) made(payload []byte, s statementRow) {
	if len(payload) == 32 {
		k.statements[[32]byte(payload)] = append(k.statements[[32]byte(payload)], s)
	}
}

func (k *known) readStatements(ctx context.Context, x *database.Tx, sums [][]byte) error {
	in, args := database.In(x.Dialect(), sums)
	rows, err := x.Query(ctx, "SELECT gun, incarnation, role, version, key_id, payload, method, signature FROM signer_statements WHERE payload "+in, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s statementRow
		var payload []byte
		if err := rows.Scan(&s.gun, &s.incarnation, &s.role, &s.version, &s.key, &payload, &s.sig.Method, &s.sig.Value); err != nil {
			return err
		}
		k.made(payload, s)
	}
	return rows.Err()
}

// signNext has the timestamp signed over the snapshot that q became. fatal is an
// error of the transaction.
func (t *Table) signNext(ctx context.Context, x *database.Tx, known *known, q *signing, of signed, made *[]written) (s signed, err, fatal error) {
	raw, err := tuf.Envelope(q.Payload, of.sig)
	if err != nil {
		return s, err, nil
	}
	c, err := q.next(raw)
	if err != nil {
		return s, err, nil
	}
	next := signing{claim: c, who: q.who, now: q.now, request: q.request, sum: sha256.Sum256(c.Payload)}
	if of.again { // this one may have been signed as well
		if err := known.readStatements(ctx, x, [][]byte{next.sum[:]}); err != nil {
			return s, nil, err
		}
	}
	s, err = t.signOne(ctx, known, &next, made)
	return s, err, nil
}

// signOne judges q by what is known, signs it, and adds what has to be written,
// which is known from then on. No two of a batch are of the same repository, but
// for a snapshot and the timestamp that follows it.
func (t *Table) signOne(ctx context.Context, known *known, q *signing, made *[]written) (s signed, err error) {
	keys := known.keys[q.GUN]
	i := slices.IndexFunc(keys, func(k keyRow) bool { return k.id == q.Key && k.role == q.Role })
	if i < 0 {
		return s, fmt.Errorf("%w: the signer has no %s key %s for %s", tuf.ErrNoKey, q.Role, q.Key.Short(), q.GUN)
	}
	k := &keys[i]
	s.public = k.public
	at := ledgerKey{q.GUN, k.incarnation}
	for _, r := range known.statements[q.sum] {
		if r.ledgerKey == at && r.role == k.role && r.version == q.payload.Version && r.key == k.id {
			s.sig, s.again = r.sig, true
			s.sig.KeyID = k.public.ID()
			return s, nil
		}
	}
	row := known.ledger[at]
	next, err := judge(q.claim, row.floors, t.prover(known, q.claim, k))
	if err != nil {
		return signed{}, err
	}
	if err := known.ownSnapshot(q.claim); err != nil {
		return signed{}, err
	}
	if s.sig, err = t.signature(ctx, k, q); err != nil {
		return signed{}, err
	}
	row.floors = next
	known.ledger[at] = row
	known.made(q.sum[:], statementRow{ledgerKey: at, role: k.role, version: q.payload.Version, key: k.id, sig: s.sig})
	*made = append(*made, written{
		at: at, row: row, key: k,
		statement: []any{string(q.GUN), k.incarnation, string(q.Role), q.payload.Version, string(k.id), q.sum[:], s.sig.Method, s.sig.Value, q.payload.Expires.Unix(), q.now.Unix()},
		entry: AuditEntry{
			Time: q.now, Event: AuditSigned, Identity: q.who, GUN: q.GUN, Role: q.Role, Version: q.payload.Version, Key: k.id,
			Payload: hex.EncodeToString(q.sum[:]), Expires: &q.payload.Expires, Request: q.request,
		},
	})
	return s, nil
}

// A written signature is one that is to be written down.
type written struct {
	at        ledgerKey
	row       ledgerRow // since then, with the seq of before
	key       *keyRow
	statement []any
	entry     AuditEntry
}

func (w *writes) add(made []written) {
	for _, m := range made {
		to := w.moved
		if m.row.seq == 0 {
			to = w.begun
		}
		to[m.at] = m.row
		w.statements = append(w.statements, m.statement)
		if m.key.state == pending {
			w.active = append(w.active, string(m.key.id))
		}
		w.entries = append(w.entries, m.entry)
	}
}

func newWrites() *writes {
	return &writes{begun: map[ledgerKey]ledgerRow{}, moved: map[ledgerKey]ledgerRow{}}
}

// writes reports whether the ledger's row of an incarnation is changed.
func (w *writes) writes(at ledgerKey) bool {
	_, begun := w.begun[at]
	_, moved := w.moved[at]
	return begun || moved
}

// ledgerRows are rows that the ledger does not have.
func ledgerRows(values ...[]any) database.Rows {
	return database.Rows{Table: "signer_ledger", Set: append([]string{"gun", "incarnation", "seq"}, floorNames...), Values: values}
}

// put writes what a batch changes: the ledger, the signatures, the keys that
// are in use since, the audit log behind last, whose last entry since then it
// returns. If last is supposed, it must be that.
func (t *Table) put(ctx context.Context, x *database.Tx, last database.Link, w *writes, supposed bool) (database.Link, error) {
	if len(w.entries) == 0 {
		return last, nil
	}
	var begun, moved [][]any
	for at, r := range w.begun {
		r.seq++
		begun = append(begun, r.values(at))
	}
	for at, r := range w.moved {
		was := r.seq
		r.seq++
		moved = append(moved, append([]any{string(at.gun), at.incarnation, was}, r.values(at)[2:]...))
	}
	var links []database.Link
	for _, e := range w.entries {
		l, err := e.link()
		if err != nil {
			return last, err
		}
		links = append(links, l)
	}
	if len(w.active) > 0 {
		in, ids := database.In(x.Dialect(), w.active)
		res, err := x.Exec(ctx, "UPDATE signer_keys SET state = ?, slot = NULL, first_used_at = ? WHERE state = ? AND id "+in,
			append([]any{active, w.entries[0].Time.Unix(), pending}, ids...)...)
		if err := met(len(w.active), res, err); err != nil {
			return last, err
		}
	}
	entries, end := auditLog.After(last, links)
	all := []database.Rows{
		ledgerRows(begun...),
		database.Rows{Table: "signer_ledger", By: []string{"gun", "incarnation", "seq"}, Set: append([]string{"seq"}, floorNames...), Values: moved},
		database.Rows{Table: "signer_statements", Set: []string{"gun", "incarnation", "role", "version", "key_id", "payload", "method", "signature", "expires_at", "signed_at"}, Values: w.statements},
		entries,
	}
	if supposed {
		all = append(all, database.Rows{Table: "signer_audit_end", By: []string{"id"}, Set: []string{"turn"}, Values: [][]any{{int64(1), end.ID}},
			If: "EXISTS (SELECT 1 FROM signer_audit WHERE id = ? AND hash = ?)", IfArgs: []any{last.ID, last.Hash[:]}})
	}
	err := x.Write(ctx, all...)
	if errors.Is(err, database.ErrMissed) {
		err = fmt.Errorf("%w: %w", errMoved, err)
	}
	return end, err
}

// signature signs with a key that is wrapped here. For one on a token the
// error is an *onToken, until there is a signature.
func (t *Table) signature(ctx context.Context, k *keyRow, q *signing) (tuf.Signature, error) {
	if k.token != "" {
		if q.made == nil {
			return tuf.Signature{}, &onToken{*k}
		}
		return *q.made, nil
	}
	s, err := t.signer(k)
	if err != nil {
		return tuf.Signature{}, err
	}
	sig, err := s.Sign(ctx, q.Payload)
	if err == nil && q.Role == tuf.RoleTimestamp {
		t.verified.Made(k.public, q.Payload, sig) // the next request builds on it
	}
	return sig, err
}

// ownSnapshot refuses a timestamp over a snapshot that was signed here for
// another repository. One that was not signed here is its owners' business.
func (k *known) ownSnapshot(c *claim) error {
	if c.snapshot == nil {
		return nil
	}
	of := k.statements[sha256.Sum256(c.snapshot.Canonical)]
	if len(of) > 0 && !slices.ContainsFunc(of, func(s statementRow) bool { return s.gun == c.GUN }) {
		return refuse("the snapshot is one of %s", of[0].gun)
	}
	return nil
}

// prover finds the incarnation whose key signed the base timestamp, be it the
// key that is to sign now, one that was rotated out, or one of a deleted
// repository, and returns its floors; nil if there is no such key. k is the key
// that is to sign.
func (t *Table) prover(known *known, c *claim, k *keyRow) *floors {
	if c.base == nil {
		return nil
	}
	// Those in use are of one incarnation, and were used last.
	for _, key := range known.keys[c.GUN] {
		if key.role != tuf.RoleTimestamp || key.state == pending {
			continue
		}
		role := tuf.NewRole(tuf.RoleTimestamp, 1, key.public)
		if _, err := tuf.VerifyFile(c.Timestamp, role, tuf.Options{Verified: &t.verified, Decoded: c.decoded}); err == nil {
			of := known.ledger[ledgerKey{c.GUN, key.incarnation}].floors
			return &of
		}
	}
	return nil
}
