package signer

import (
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// maxRequest bounds the files of one request together, in bytes.
const maxRequest = 12 << 20

// A claim is a signing request whose parts were read, and found to fit each
// other. Nothing in it has been compared with the ledger.
type claim struct {
	api.SignRequest
	payload  tuf.Meta
	base     *base        // nil: nothing was published yet
	snapshot *tuf.Meta    // the one that a timestamp names; nil for a snapshot
	decoded  *tuf.Decoded // the base's timestamp
}

// A base is the published state that a payload says it succeeds.
type base struct {
	timestamp, snapshot tuf.Meta
}

// read judges everything that can be judged from the request alone. An error
// is a *[Refusal].
func read(r api.SignRequest, l Limits, now time.Time) (*claim, error) {
	if err := checkName(r.GUN, r.Role); err != nil {
		return nil, err
	}
	if n := len(r.Payload) + len(r.Timestamp) + len(r.BaseSnapshot) + len(r.Snapshot); n > maxRequest {
		return nil, refuse("the request has %d bytes, at most %d are read", n, maxRequest)
	}
	c := &claim{SignRequest: r, decoded: new(tuf.Decoded)}
	err := c.readPayload(l, now)
	if err != nil {
		return nil, err
	}
	if c.base, err = readBase(r, c.decoded); err != nil {
		return nil, err
	}
	switch r.Role {
	case tuf.RoleSnapshot:
		if len(r.Snapshot) > 0 {
			return nil, refuse("a snapshot beside a payload that is one itself")
		}
	case tuf.RoleTimestamp:
		// F17: the new snapshot is looked at, not only its hash.
		s, err := readFile(tuf.RoleSnapshot, r.Snapshot, nil)
		if err != nil {
			return nil, refuse("the snapshot: %v", err)
		}
		if err := c.payload.Files[tuf.RoleSnapshot].Matches(r.Snapshot); err != nil {
			return nil, refuse("the snapshot is not the one that the payload names: %v", err)
		}
		c.snapshot = &s
	}
	return c, nil
}

// refuseTime refuses what is signed at no such time, and says by which clock.
func refuseTime(now time.Time, format string, a ...any) error {
	return &Refusal{Reason: fmt.Sprintf("by the signer's clock it is %s, and ", at(now)) + fmt.Sprintf(format, a...), Clock: true}
}

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// readPayload judges the payload by itself, and the name of the key. An error is
// a *[Refusal].
func (c *claim) readPayload(l Limits, now time.Time) (err error) {
	if !c.Key.Valid() {
		return refuse("%q is not a key id", c.Key)
	}
	if c.payload, err = readPayload(c.Role, c.Payload); err != nil {
		return refuse("the payload: %v", err)
	}
	if !c.payload.Expires.After(now) {
		return refuseTime(now, "the payload expired at %s already: the clock of the server or the signer's is wrong", at(c.payload.Expires))
	}
	if limit := l.of(c.Role); c.payload.Expires.After(now.Add(limit)) {
		return refuseTime(now, "the payload expires at %s, more than %s ahead: the clock of the server or the signer's is wrong, or the server's lifetime is above the signer's limit",
			at(c.payload.Expires), limit)
	}
	return nil
}

// follow returns the claim to the timestamp over the signed snapshot that c, a
// claim to one, became; its payload is yet to be read. It builds on what c
// does, and nothing of that is read again: others wait meanwhile.
func (c *claim) follow(next api.Successor, snapshot []byte) *claim {
	return &claim{
		SignRequest: api.SignRequest{
			GUN: c.GUN, Role: tuf.RoleTimestamp, Key: next.Key, Payload: tuf.TimestampPayload(next.Version, next.Expires, snapshot),
			Timestamp: c.Timestamp, BaseSnapshot: c.BaseSnapshot, Snapshot: snapshot,
		},
		base: c.base, snapshot: &c.payload, decoded: c.decoded,
	}
}

func readBase(r api.SignRequest, decoded *tuf.Decoded) (*base, error) {
	if len(r.Timestamp) == 0 && len(r.BaseSnapshot) == 0 {
		return nil, nil
	}
	var b base
	var err error
	if b.timestamp, err = readFile(tuf.RoleTimestamp, r.Timestamp, decoded); err != nil {
		return nil, refuse("the current timestamp: %v", err)
	}
	if b.snapshot, err = readFile(tuf.RoleSnapshot, r.BaseSnapshot, nil); err != nil {
		return nil, refuse("the current snapshot: %v", err)
	}
	if err := b.timestamp.Files[tuf.RoleSnapshot].Matches(r.BaseSnapshot); err != nil {
		return nil, refuse("the current snapshot is not the one that the current timestamp names: %v", err)
	}
	return &b, nil
}

func checkName(gun tuf.GUN, role tuf.RoleName) error {
	if !gun.Valid() {
		return refuse("%q is not the name of a repository", gun)
	}
	if role != tuf.RoleSnapshot && role != tuf.RoleTimestamp {
		return refuse("%q is not a role that this signer signs: only snapshot and timestamp are", role) // G2
	}
	return nil
}

// readPayload reads what is to be signed.
func readPayload(role tuf.RoleName, raw []byte) (tuf.Meta, error) {
	m, err := tuf.Payload(role, raw) // canonical, byte for byte, and nothing in it that is not understood
	if err == nil {
		err = lists(m)
	}
	return m, err
}

// lists demands that m lists the roles that a file of its role lists, and no
// others. Checksums of those required are there: package tuf sees to it.
func lists(m tuf.Meta) error {
	for name := range m.Files {
		switch {
		case m.Role == tuf.RoleTimestamp && name == tuf.RoleSnapshot:
		case m.Role == tuf.RoleSnapshot && (name == tuf.RoleRoot || name.HoldsTargets()):
		default:
			return fmt.Errorf("a %s does not list %q", m.Role, name)
		}
	}
	return nil
}

// readFile reads a signed file of role. Its signatures are not verified.
func readFile(role tuf.RoleName, raw []byte, decoded *tuf.Decoded) (tuf.Meta, error) {
	if len(raw) == 0 {
		return tuf.Meta{}, errors.New("missing")
	}
	return tuf.Outline(role, raw, tuf.Options{Decoded: decoded})
}
