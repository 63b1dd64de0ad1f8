package signer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// ErrAudit says that the audit log is not what was written: entries were
// changed, taken out, put in, or cut off.
var ErrAudit = errors.New("the audit log does not hold")

// An AuditAnchor is a place in the audit log: the number of an entry, and its
// hash, which covers it and everything before it. Kept where the signer's
// operator cannot reach it, an anchor shows whether the log was changed since.
type AuditAnchor struct {
	ID   int64
	Hash [32]byte
}

// String writes the anchor as [ParseAuditAnchor] reads it: "1234:" and 64
// hexadecimal digits.
func (m AuditAnchor) String() string { return fmt.Sprintf("%d:%x", m.ID, m.Hash) }

// ParseAuditAnchor reads an anchor.
func ParseAuditAnchor(text string) (m AuditAnchor, err error) {
	number, digits, _ := strings.Cut(strings.TrimSpace(text), ":")
	m.ID, err = strconv.ParseInt(number, 10, 64)
	hash, herr := hex.DecodeString(digits)
	if err != nil || herr != nil || m.ID < 0 || len(hash) != 32 {
		return AuditAnchor{}, fmt.Errorf("%q is not an anchor of an audit log: a number, a colon and 64 hexadecimal digits", text)
	}
	m.Hash = [32]byte(hash)
	return m, nil
}

// MarshalText implements [encoding.TextMarshaler].
func (m AuditAnchor) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *AuditAnchor) UnmarshalText(text []byte) (err error) {
	*m, err = ParseAuditAnchor(string(text))
	return err
}

func (m AuditAnchor) link() database.Link { return database.Link{ID: m.ID, Hash: m.Hash} }

func anchorOf(l database.Link) AuditAnchor { return AuditAnchor{l.ID, l.Hash} }

// An AuditRecord is an entry in its place.
type AuditRecord struct {
	Anchor AuditAnchor `json:"anchor"`
	AuditEntry
}

// An AuditQuery asks for a part of the audit log. The zero value asks for all.
type AuditQuery struct {
	GUN   tuf.GUN   // only about this repository
	Since time.Time // only from then on
	From  int64     // only entries with higher numbers
}

// clockSlack is by how much the clocks of signers that share a log may differ.
const clockSlack = 10 * time.Minute

// auditPage is how many entries are read at once.
const auditPage = 1000

// Migrate brings the tables of a signer up to date. [OpenTable] does it too;
// this is for those who only read.
func Migrate(ctx context.Context, db *database.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return db.Migrate(ctx, "signer", files)
}

// ReadAudit returns a part of the audit log, oldest first. It needs the
// signer's database and no key. It verifies nothing: see [VerifyAudit]. The
// sequence ends with the first error.
func ReadAudit(ctx context.Context, db *database.DB, q AuditQuery) iter.Seq2[AuditRecord, error] {
	return func(yield func(AuditRecord, error) bool) {
		if !q.Since.IsZero() {
			from, err := auditBefore(ctx, db, q.Since.Add(-clockSlack))
			if err != nil {
				yield(AuditRecord{}, err)
				return
			}
			q.From = max(q.From, from)
		}
		for l, err := range auditLinks(ctx, db, q) {
			r := AuditRecord{Anchor: anchorOf(l)}
			if err == nil {
				r.AuditEntry, err = readEntry(l)
			}
			if err == nil && r.Time.Before(q.Since) {
				continue
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func auditLinks(ctx context.Context, db *database.DB, q AuditQuery) iter.Seq2[database.Link, error] {
	return func(yield func(database.Link, error) bool) {
		for {
			var page []database.Link
			err := db.View(ctx, func(x *database.Tx) (err error) {
				page, err = auditLog.Read(ctx, x, database.ChainQuery{GUN: string(q.GUN), From: q.From, Limit: auditPage})
				return err
			})
			if err != nil {
				yield(database.Link{}, fmt.Errorf("read the audit log: %w", err))
				return
			}
			for _, l := range page {
				if q.From = l.ID; !yield(l, nil) {
					return
				}
			}
			if len(page) < auditPage {
				return
			}
		}
	}
}

// readEntry reads what stands in the log. Its error is one line of bounded
// length, though it can repeat what stands there.
func readEntry(l database.Link) (e AuditEntry, err error) {
	if err := json.Unmarshal(l.Entry, &e); err != nil {
		return e, fmt.Errorf("%w: entry %d cannot be read: %s", ErrAudit, l.ID, printable(err.Error()))
	}
	return e, nil
}

// auditBefore returns the number of an entry such that those up to it are
// older than t. The entries are in the order of their times, as far as the
// clocks agree, so few of them are read.
func auditBefore(ctx context.Context, db *database.DB, t time.Time) (id int64, err error) {
	err = db.View(ctx, func(x *database.Tx) error {
		var low, high int64 // everything up to low is older, everything above high is not
		if err := x.QueryRow(ctx, "SELECT COALESCE(MIN(id), 1) - 1, COALESCE(MAX(id), 0) FROM signer_audit").Scan(&low, &high); err != nil {
			return err
		}
		for low < high {
			middle := low + (high-low+1)/2
			found, err := auditLog.Read(ctx, x, database.ChainQuery{From: middle - 1, Limit: 1})
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return fmt.Errorf("%w: entry %d is not there", ErrAudit, middle)
			}
			e, err := readEntry(found[0])
			if err != nil {
				return err
			}
			if e.Time.Before(t) {
				low = middle
			} else {
				high = middle - 1
			}
		}
		id = low
		return nil
	})
	return id, err
}

// An AuditReport says what was verified.
type AuditReport struct {
	First AuditAnchor // what stands before the first entry: zero, unless retention removed something
	Last  AuditAnchor
	From  time.Time // of the first entry
	To    time.Time // of the last entry
	Cuts  int       // how many times retention removed entries, as far as the log tells
}

// An auditor verifies entries that come in order.
type auditor struct {
	AuditReport
	claimed map[int64]AuditAnchor // what cuts say that they removed
	anchors []AuditAnchor
}

func newAuditor(after AuditAnchor, anchors []AuditAnchor) (*auditor, error) {
	a := &auditor{claimed: map[int64]AuditAnchor{}, anchors: anchors}
	a.First, a.Last = after, after
	for _, m := range anchors {
		if m.ID < after.ID {
			return nil, fmt.Errorf("the anchor of entry %d is older than what retention has left, which begins with entry %d: compare it with an export of that time", m.ID, after.ID+1)
		}
	}
	return a, a.meet()
}

// meet compares the last entry with the anchors.
func (a *auditor) meet() error {
	for _, m := range a.anchors {
		if m.ID != a.Last.ID {
			continue
		}
		if m.Hash != a.Last.Hash {
			return fmt.Errorf("%w: entry %d is another one than when its anchor was taken, or something before it is", ErrAudit, m.ID)
		}
	}
	return nil
}

func (a *auditor) add(l database.Link) error {
	if err := l.Follows(a.Last.link()); err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	e, err := readEntry(l)
	if err != nil {
		return err
	}
	a.Last = anchorOf(l)
	a.From, a.To = cmp.Or(a.From, e.Time), e.Time
	if e.Event == AuditCut && e.Through != nil {
		a.Cuts++
		a.claimed[e.Through.ID] = *e.Through
	}
	return a.meet()
}

// done demands that what is missing at the beginning was removed by retention,
// which says so in the log, or stands in what was verified before; and that
// the log goes at least as far as each anchor.
func (a *auditor) done(begun bool) (AuditReport, error) {
	for _, m := range a.anchors {
		if m.ID > a.Last.ID {
			return a.AuditReport, fmt.Errorf("%w: it ends with entry %d, and when the anchor was taken it went up to entry %d: its end was cut off", ErrAudit, a.Last.ID, m.ID)
		}
	}
	if a.First.ID > 0 && !begun && a.claimed[a.First.ID] != a.First {
		return a.AuditReport, fmt.Errorf("%w: it begins with entry %d, and no entry says that retention removed those before", ErrAudit, a.First.ID+1)
	}
	return a.AuditReport, nil
}

// VerifyAudit verifies the whole audit log of a signer's database, and that it
// goes on from each anchor. The error matches [ErrAudit] when it does not hold.
func VerifyAudit(ctx context.Context, db *database.DB, anchors ...AuditAnchor) (AuditReport, error) {
	cut, err := auditCut(ctx, db)
	if err != nil {
		return AuditReport{}, err
	}
	a, err := newAuditor(cut, anchors)
	if err != nil {
		return AuditReport{}, err
	}
	for l, err := range auditLinks(ctx, db, AuditQuery{From: cut.ID}) {
		if err == nil {
			err = a.add(l)
		}
		if err != nil {
			return a.AuditReport, err
		}
	}
	return a.done(false)
}

// auditCut returns the last entry that retention has removed.
func auditCut(ctx context.Context, db *database.DB) (m AuditAnchor, err error) {
	err = db.View(ctx, func(x *database.Tx) error {
		m, err = cutOf(ctx, x)
		return err
	})
	return m, err
}

func cutOf(ctx context.Context, x *database.Tx) (m AuditAnchor, err error) {
	var digits string
	if err := x.QueryRow(ctx, "SELECT cut, cut_hash FROM signer_audit_end WHERE id = 1").Scan(&m.ID, &digits); err != nil {
		return m, fmt.Errorf("read where the audit log begins: %w", err)
	}
	if m.ID == 0 {
		return AuditAnchor{}, nil
	}
	return ParseAuditAnchor(fmt.Sprintf("%d:%s", m.ID, digits))
}

// exportHead is the first line of an export.
type exportHead struct {
	Audit string      `json:"audit"`
	After AuditAnchor `json:"after"` // what stands before the first entry
}

const exportFormat = "iechor signer audit 1"

// maxLine bounds a line of an export, in bytes.
const maxLine = 64 << 10

// ExportAudit writes the whole audit log, or what follows the anchor after, as
// lines that [VerifyExports] verifies without the database.
func ExportAudit(ctx context.Context, db *database.DB, after *AuditAnchor, w io.Writer) error {
	cut, err := auditCut(ctx, db)
	if err != nil {
		return err
	}
	head := exportHead{exportFormat, cut}
	if after != nil {
		if after.ID < cut.ID {
			return fmt.Errorf("retention has removed the entries up to %d: export from there", cut.ID)
		}
		head.After = *after
	}
	line, err := json.Marshal(head)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	if _, err := out.Write(append(line, '\n')); err != nil {
		return err
	}
	for l, err := range auditLinks(ctx, db, AuditQuery{From: head.After.ID}) {
		if err == nil {
			_, err = out.Write(append(l.Line(), '\n'))
		}
		if err != nil {
			return err
		}
	}
	return out.Flush()
}

// VerifyExports verifies exports of one log, of which each goes on where the
// one before ends. The error matches [ErrAudit] when they do not hold.
func VerifyExports(exports []io.Reader, anchors ...AuditAnchor) (AuditReport, error) {
	var a *auditor
	for n, r := range exports {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxLine)
		head, err := readHead(lines)
		switch {
		case err != nil:
			return AuditReport{}, fmt.Errorf("export %d: %w", n+1, err)
		case a == nil:
			if a, err = newAuditor(head.After, anchors); err != nil {
				return AuditReport{}, err
			}
		case head.After != a.Last:
			return a.AuditReport, fmt.Errorf("%w: export %d goes on after entry %d, and the one before it ends with entry %d: give them in order, and all of them", ErrAudit, n+1, head.After.ID, a.Last.ID)
		}
		for lines.Scan() {
			l, err := database.ParseLine(lines.Bytes())
			if err != nil {
				return a.AuditReport, fmt.Errorf("%w: export %d, after entry %d: %w", ErrAudit, n+1, a.Last.ID, err)
			}
			if err := a.add(l); err != nil {
				return a.AuditReport, err
			}
		}
		if err := lines.Err(); err != nil {
			return a.AuditReport, fmt.Errorf("export %d: %w", n+1, err)
		}
	}
	if a == nil {
		return AuditReport{}, errors.New("no export was given")
	}
	begun := false // an anchor says what stands before the first entry
	for _, m := range anchors {
		begun = begun || m == a.First
	}
	return a.done(begun)
}

func readHead(lines *bufio.Scanner) (head exportHead, err error) {
	if lines.Scan() {
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		err = d.Decode(&head)
	}
	if err = cmp.Or(lines.Err(), err); err != nil || head.Audit != exportFormat {
		return head, errors.Join(errors.New("it does not begin like an export of a signer's audit log"), err)
	}
	return head, nil
}

// maxCut bounds how many entries are removed in one transaction.
const maxCut = 5000

// CutAudit removes the entries of the audit log that are older than the given
// time, and adds one that says so. What is left verifies as before, and so does
// an export that was taken earlier, together with one that goes on after it.
func (t *Table) CutAudit(ctx context.Context, before, now time.Time) (removed int, err error) {
	for {
		n, err := t.cutSome(ctx, before, now)
		removed += n
		if err != nil || n < maxCut {
			return removed, err
		}
	}
}

func (t *Table) cutSome(ctx context.Context, before, now time.Time) (n int, err error) {
	err = t.write(ctx, func(x *database.Tx) error {
		n = 0
		old, err := auditLog.Read(ctx, x, database.ChainQuery{Limit: maxCut})
		if err != nil {
			return err
		}
		for _, l := range old {
			e, err := readEntry(l)
			if err != nil {
				return err
			}
			if !e.Time.Before(before) {
				break
			}
			n++
		}
		if n == 0 {
			return nil
		}
		last := anchorOf(old[n-1])
		raw, err := json.Marshal(AuditEntry{Time: now.UTC().Truncate(time.Millisecond), Event: AuditCut, Detail: fmt.Sprintf("%d entries", n), Through: &last})
		if err != nil {
			return err
		}
		if _, err := auditLog.Append(ctx, x, "", raw); err != nil {
			return err
		}
		if _, err := x.Exec(ctx, "DELETE FROM signer_audit WHERE id <= ?", last.ID); err != nil {
			return err
		}
		return one(x.Exec(ctx, "UPDATE signer_audit_end SET cut = ?, cut_hash = ? WHERE id = 1", last.ID, fmt.Sprintf("%x", last.Hash)))
	})
	return n, err
}

// AuditEnd returns the last entry's anchor, for a log file that is kept elsewhere.
func (t *Table) AuditEnd(ctx context.Context) (m AuditAnchor, err error) {
	err = t.db.View(ctx, func(x *database.Tx) error {
		last, err := auditLog.Read(ctx, x, database.ChainQuery{Limit: 1, Backwards: true})
		if err == nil && len(last) > 0 {
			m = anchorOf(last[0])
		}
		return err
	})
	return m, err
}
