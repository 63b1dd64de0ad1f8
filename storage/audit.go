package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// An Act is what an entry of the audit trail tells of.
type Act string

// What is told. What the server renews by itself is not: it changes nothing
// that anybody published, and the signer's log has each signature.
const (
	Publish  Act = "publish" // a client's upload became current
	Deleted  Act = "delete"  // a client ended the repository
	Reset    Act = "reset"   // an administrator ended it
	Restore  Act = "restore" // an administrator took its end back
	Imported Act = "import"  // an administrator took it over from another server
	Released Act = "release" // an administrator made an ordinary repository of a copy
	Rotate   Act = "rotate"  // the server offered a new key of its own

	// Confirmed: of what was ended before, an administrator has the signer
	// forget what it remembers. It is told before the signer is.
	Confirmed Act = "confirm"
)

// An Actor is who did something, as far as it is known. Every field may be
// empty.
type Actor struct {
	// Subject is the name that was authenticated.
	Subject string `json:"subject,omitempty"`
	// From is the address that the request came from, or the machine.
	From string `json:"from,omitempty"`
	// Forwarded is the address that a proxy, or the client itself, claims.
	Forwarded string `json:"forwarded,omitempty"`
	Reason    string `json:"reason,omitempty"`
	// Operator says that it was no request, but an administrator's work on
	// the store itself.
	Operator bool `json:"operator,omitempty"`
}

// A FileRecord names a file in an [AuditRecord].
type FileRecord struct {
	Role    tuf.RoleName `json:"role"`
	Version int64        `json:"version"`
	SHA256  string       `json:"sha256"` // lower-case hex
}

// An AuditRecord is an entry of the audit trail. Records are chained by their
// hashes, see [database.Link], and written in the transaction of what they
// tell of.
type AuditRecord struct {
	Link database.Link `json:"-"` // its place in the chain, and its bytes

	At         time.Time `json:"at"`
	Act        Act       `json:"act"`
	Repository tuf.GUN   `json:"repository"`
	Actor

	// Seq is the number of the commit, Incarnation that of the first commit of
	// this incarnation; 0 for a rotation and a confirmation.
	Seq         int64 `json:"seq,omitempty"`
	Incarnation int64 `json:"incarnation,omitempty"`

	Version int64          `json:"version,omitempty"` // of the timestamp since then, or at the end
	Files   []FileRecord   `json:"files,omitempty"`   // that were published, or were current at the end
	Dropped []tuf.RoleName `json:"dropped,omitempty"` // delegations that ended

	Role tuf.RoleName    `json:"role,omitempty"` // of a rotation
	Key  tuf.CanonicalID `json:"key,omitempty"`  // of a rotation: the key that is offered
}

// An AuditQuery asks for a part of the audit trail.
type AuditQuery struct {
	GUN tuf.GUN // empty: of all repositories
	// From is the number of an entry that the answer does not include:
	// forwards the answer is the first ones after it; backwards the last ones
	// before it, newest first, or the newest of all if From is not above 0.
	From      int64
	Limit     int // at most this many; 0 means 1000, the most
	Backwards bool
}

var trail = database.Chain{Table: "audit"}

// maxWord bounds what a record keeps of a text from outside, in bytes.
const maxWord = 1000

// printable is text as it may stand in a record: without control characters,
// and not without end.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
	if len(text) > maxWord {
		text = strings.ToValidUTF8(text[:maxWord], "") + "…"
	}
	return text
}

// encode returns the record's bytes. Times are kept to the microsecond.
func (r AuditRecord) encode() ([]byte, error) {
	r.At = moment(r.At.UnixMicro())
	for _, text := range []*string{&r.Subject, &r.From, &r.Forwarded, &r.Reason} {
		*text = printable(*text)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return raw, nil
}

// ParseAudit reads the record in an entry of the trail. The error matches
// [ErrCorrupt], and is one line of bounded length, whatever stands there: a
// time that is none would be repeated in it as it is stored.
func ParseAudit(l database.Link) (AuditRecord, error) {
	var r AuditRecord
	if err := json.Unmarshal(l.Entry, &r); err != nil {
		return AuditRecord{}, fmt.Errorf("entry %d of the audit trail: %w: %s", l.ID, ErrCorrupt, printable(err.Error()))
	}
	r.Link = l
	return r, nil
}

// record appends to the trail, in a transaction of inTurn.
func record(ctx context.Context, t *database.Tx, r AuditRecord) error {
	raw, err := r.encode()
	if err != nil {
		return err
	}
	_, err = trail.Append(ctx, t, string(r.Repository), raw)
	return err
}

// Record implements [Store].
func (s *SQL) Record(ctx context.Context, r AuditRecord) error {
	err := s.inTurn(ctx, func(t *database.Tx) error {
		// A client that asks again gets the same key, and no entry more.
		last, err := trail.Read(ctx, t, database.ChainQuery{GUN: string(r.Repository), Limit: 1, Backwards: true})
		if err != nil {
			return err
		}
		if len(last) == 1 {
			if have, err := ParseAudit(last[0]); err == nil && have.Act == r.Act && have.Role == r.Role && have.Key == r.Key && have.Actor == r.Actor {
				return nil
			}
		}
		return record(ctx, t, r)
	})
	if err != nil {
		return fmt.Errorf("record %s of %s: %w", r.Act, r.Repository, err)
	}
	return nil
}

// Audit implements [Archive].
func (s *SQL) Audit(ctx context.Context, q AuditQuery) ([]AuditRecord, error) {
	if q.GUN != "" && !q.GUN.Valid() {
		return nil, nil
	}
	var links []database.Link
	err := s.db.View(ctx, func(t *database.Tx) (err error) {
		links, err = trail.Read(ctx, t, database.ChainQuery{GUN: string(q.GUN), From: q.From, Limit: bounded(q.Limit), Backwards: q.Backwards})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit trail: %w", err)
	}
	all := make([]AuditRecord, 0, len(links))
	for _, l := range links {
		r, err := ParseAudit(l)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		r.Link = l // also of one that is damaged: the chain says so
		all = append(all, r)
	}
	return all, nil
}
