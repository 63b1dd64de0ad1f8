package signer

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
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

// record puts e into the audit log, in the transaction of what it tells of.
// Where several write at once it only waits for its place, which [Table.settle]
// gives it: the log has one end, and a transaction that held it as well would
// have all others wait, or fail.
func (t *Table) record(ctx context.Context, x *database.Tx, e AuditEntry) error {
	e.Time, e.Request = e.Time.UTC().Truncate(time.Millisecond), traces.ID(ctx)
	if len(e.Detail) > maxDetail {
		e.Detail = e.Detail[:maxDetail] + "…"
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if x.Dialect() == database.SQLite && !t.testOnlyWaiting {
		_, err := auditLog.Append(ctx, x, string(e.GUN), raw)
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	_, err = x.Exec(ctx, "INSERT INTO signer_audit_waiting (id, at, gun, entry) VALUES (?, ?, ?, ?)", hex.EncodeToString(id[:]), e.Time.UnixMilli(), e.GUN, raw)
	return err
}

// write runs fn in a transaction, and returns when what fn recorded has its
// place in the audit log.
func (t *Table) write(ctx context.Context, fn func(*database.Tx) error) error {
	if err := t.db.Update(ctx, fn); err != nil {
		return err
	}
	return t.settle(ctx)
}

// A settling gives everything that waits its place in the log. Those who come
// while one is under way share the next one.
type settling struct {
	turn chan struct{} // holds a token while one is under way

	mu   sync.Mutex
	next *settled // guarded by mu; nil: nobody waits for the next one
}

type settled struct {
	done chan struct{}
	err  error // readable when done is closed
}

// settleLimit bounds one settling. It goes on when the request that began it
// is given up: others wait for it.
const settleLimit = 20 * time.Second

// settle returns when everything that was recorded before the call is in the
// log.
func (t *Table) settle(ctx context.Context) error {
	if t.db.Dialect() == database.SQLite && !t.testOnlyWaiting {
		return nil
	}
	s := &t.settling
	s.mu.Lock()
	mine := s.next
	first := mine == nil
	if first {
		mine = &settled{done: make(chan struct{})}
		s.next = mine
	}
	s.mu.Unlock()
	if first {
		t.settleNext(context.WithoutCancel(ctx), mine)
	}
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settleNext waits for its turn and settles for all who joined until then.
func (t *Table) settleNext(ctx context.Context, mine *settled) {
	s := &t.settling
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	mine.err = t.settleAll(ctx)
	close(mine.done)
}

// settleSome bounds the entries of one transaction.
const settleSome = 200

func (t *Table) settleAll(ctx context.Context) error {
	for try := 0; ; {
		n := 0
		err := t.db.Update(ctx, func(x *database.Tx) (err error) {
			n, err = t.settleOnce(ctx, x)
			return err
		})
		switch {
		case (database.IsUnique(err) || errors.Is(err, errMoved)) && try < 4:
			try++ // another process was faster
		case err != nil:
			return fmt.Errorf("write the audit log: %w", err)
		case n < settleSome:
			return nil
		}
	}
}

func (t *Table) settleOnce(ctx context.Context, x *database.Tx) (n int, err error) {
	if err := t.auditTurn(ctx, x); err != nil {
		return 0, err
	}
	rows, err := x.Query(ctx, "SELECT id, gun, entry FROM signer_audit_waiting ORDER BY at, id LIMIT ?", settleSome)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var ids []any
	var entries []database.Link
	for rows.Next() {
		var id string
		var l database.Link
		if err := rows.Scan(&id, &l.GUN, &l.Entry); err != nil {
			return 0, err
		}
		ids, entries = append(ids, id), append(entries, l)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(ids) == 0 {
		return 0, err
	}
	if _, err := auditLog.AppendAll(ctx, x, entries); err != nil {
		return 0, err
	}
	res, err := x.Exec(ctx, "DELETE FROM signer_audit_waiting WHERE id IN ("+database.List(len(ids), "?")+")", ids...)
	if err != nil {
		return 0, err
	}
	if n, err := res.RowsAffected(); err != nil || n != int64(len(ids)) {
		return 0, cmp.Or(err, errMoved)
	}
	return len(ids), nil
}

// auditTurn makes this transaction the one that appends to the log. SQLite has
// one writer anyway.
func (t *Table) auditTurn(ctx context.Context, x *database.Tx) error {
	return one(x.Exec(ctx, "UPDATE signer_audit_end SET turn = turn + 1 WHERE id = 1"))
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
