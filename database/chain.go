package database

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A Chain is an append-only log in a table: each entry's hash covers the hash
// of the one before, so that no entry can be changed, left out or put between
// others without all later hashes being others as well. The end of the log
// can be cut off, and whoever rewrites all of it makes a log that holds:
// against that, hashes are kept elsewhere and compared (see [Link]).
//
// The table has, beside a primary key id BIGINT, the columns hash {digest} and
// entry {bytes}, and gun {name}, the repository that an entry is about, or
// nothing. The entries themselves are the owner's business.
type Chain struct{ Table string }

// A Link is an entry in its place. ID counts from 1 without gaps. Whoever
// knows ID and Hash of one link, from a log file for example, knows whether
// everything up to it is still what it was.
type Link struct {
	ID    int64
	GUN   string
	Hash  [32]byte
	Entry []byte
}

// Same reports whether l and o are the same place in the same log.
func (l Link) Same(o Link) bool { return l.ID == o.ID && l.Hash == o.Hash }

// ErrBroken says that an entry does not follow the one before.
var ErrBroken = errors.New("the hash chain is broken")

// Follows returns nil if l is the entry after prev, unchanged; the zero Link
// is the one before the first. The error matches [ErrBroken].
func (l Link) Follows(prev Link) error {
	switch {
	case l.ID != prev.ID+1:
		return fmt.Errorf("%w: entry %d stands after entry %d", ErrBroken, l.ID, prev.ID)
	case l.Hash != link(prev.Hash, l.ID, l.Entry):
		return fmt.Errorf("%w: entry %d is not what was written, or does not follow what stands before it", ErrBroken, l.ID)
	}
	return nil
}

// link is the hash of an entry: of the hash before it, its number in 8 bytes,
// the most significant first, and its bytes.
func link(prev [32]byte, id int64, entry []byte) (sum [32]byte) {
	h := sha256.New()
	h.Write(prev[:])
	_ = binary.Write(h, binary.BigEndian, id) // a hash takes everything
	h.Write(entry)
	return [32]byte(h.Sum(nil))
}

// Line returns l, whose entry is JSON without a line break, as a line of JSON
// to keep elsewhere. [ParseLine] is the inverse, but for the GUN.
func (l Link) Line() []byte {
	return fmt.Appendf(nil, `{"id":%d,"hash":"%x","entry":%s}`, l.ID, l.Hash, l.Entry)
}

// ParseLine reads what [Link.Line] made. The bytes of the entry are those of
// the line, so that they can be verified.
func ParseLine(line []byte) (Link, error) {
	var v struct {
		ID    int64           `json:"id"`
		Hash  string          `json:"hash"`
		Entry json.RawMessage `json:"entry"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return Link{}, fmt.Errorf("not an entry of a log: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Link{}, errors.New("not an entry of a log: the line goes on behind it")
	}
	hash, err := hex.DecodeString(v.Hash)
	if err != nil || len(hash) != 32 || len(v.Entry) == 0 {
		return Link{}, errors.New("not an entry of a log: it lacks its hash or its content")
	}
	return Link{ID: v.ID, Hash: [32]byte(hash), Entry: v.Entry}, nil
}

// Append adds an entry in the transaction t. Appends must come one after the
// other: the caller has locked, in t, what every writer of this log locks
// first. Where two come at once all the same, one of them fails with
// an error that [IsUnique] knows.
func (c Chain) Append(ctx context.Context, t *Tx, gun string, entry []byte) (Link, error) {
	return c.AppendAll(ctx, t, []Link{{GUN: gun, Entry: entry}})
}

// AppendAll is Append for several entries, of which GUN and Entry are set. It
// returns the last one in its place.
func (c Chain) AppendAll(ctx context.Context, t *Tx, entries []Link) (last Link, err error) {
	if last, err = c.last(ctx, t); err != nil {
		return Link{}, err
	}
	rows, last := c.After(last, entries)
	if err := t.Write(ctx, rows); err != nil {
		return Link{}, fmt.Errorf("append to %s: %w", c.Table, err)
	}
	return last, nil
}

// After returns the rows of entries, of which GUN and Entry are set, behind the
// last entry, of which ID and Hash are known, and the last one in its place.
func (c Chain) After(last Link, entries []Link) (Rows, Link) {
	rows := Rows{Table: c.Table, Set: []string{"id", "gun", "hash", "entry"}}
	for _, l := range entries {
		l.ID = last.ID + 1
		l.Hash = link(last.Hash, l.ID, l.Entry)
		rows.Values = append(rows.Values, []any{l.ID, l.GUN, l.Hash[:], l.Entry})
		last = l
	}
	return rows, last
}

// List returns what, n times, with commas between: placeholders of as many
// values, or rows of them.
func List(n int, what string) string {
	return strings.TrimSuffix(strings.Repeat(what+", ", n), ", ")
}

// last returns the number and the hash of the last entry.
func (c Chain) last(ctx context.Context, t *Tx) (l Link, err error) {
	var hash []byte
	err = t.QueryRow(ctx, "SELECT id, hash FROM "+c.Table+" ORDER BY id DESC LIMIT 1").Scan(&l.ID, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return Link{}, nil
	}
	if err != nil {
		return Link{}, fmt.Errorf("read the end of %s: %w", c.Table, err)
	}
	copy(l.Hash[:], hash)
	return l, nil
}

// A ChainQuery asks for a part of a log.
type ChainQuery struct {
	GUN string // only entries about this repository; empty: all
	// From is the number of an entry that the answer does not include:
	// forwards the answer is the first ones after it; backwards the last ones
	// before it, or the newest of all if From is not above 0.
	From      int64
	Limit     int
	Backwards bool
}

// Read returns a part of the log. Backwards, the newest comes first.
func (c Chain) Read(ctx context.Context, t *Tx, q ChainQuery) ([]Link, error) {
	query, args := "SELECT id, gun, hash, entry FROM "+c.Table+" WHERE ", []any{}
	switch {
	case q.Backwards && q.From <= 0:
		query += "id > 0"
	case q.Backwards:
		query, args = query+"id < ?", append(args, q.From)
	default:
		query, args = query+"id > ?", append(args, q.From)
	}
	if q.GUN != "" {
		query, args = query+" AND gun = ?", append(args, q.GUN)
	}
	query += " ORDER BY id"
	if q.Backwards {
		query += " DESC"
	}
	rows, err := t.Query(ctx, query+" LIMIT ?", append(args, q.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Table, err)
	}
	defer rows.Close()
	var all []Link
	for rows.Next() {
		var l Link
		var hash []byte
		if err := rows.Scan(&l.ID, &l.GUN, &hash, &l.Entry); err != nil {
			return nil, fmt.Errorf("read %s: %w", c.Table, err)
		}
		copy(l.Hash[:], hash) // one of another length does not fit, and is found so
		all = append(all, l)
	}
	return all, rows.Err()
}
