package signer

import (
	"bytes"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// maxJump bounds how far one signature may raise a version: a server that was
// broken into must not burn all versions at once (attacks.md F13). At one
// signature a minute a million versions last two years.
const maxJump = 1_000_000

// floors are what the ledger remembers of one incarnation of a repository. All
// are versions, 0 for none.
type floors struct {
	timestampSigned, snapshotSigned       int64 // the highest ever signed; never lowered
	timestampConfirmed, snapshotConfirmed int64 // the highest that is proven to have been published
	snapshotNamed                         int64 // the highest snapshot that a signed timestamp names
}

func (f *floors) signed(role tuf.RoleName) *int64 {
	if role == tuf.RoleTimestamp {
		return &f.timestampSigned
	}
	return &f.snapshotSigned
}

// begins refuses to go on from nothing where something was published.
func (f *floors) begins() error {
	if f.timestampConfirmed > 0 {
		return &api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: f.timestampConfirmed}
	}
	return nil
}

// judge compares c with the floors of the key's incarnation, and returns what
// they are once c is signed. It is the whole of the rules about versions.
//
// prover are the floors of the incarnation whose key signed the base
// timestamp: the same ones, or those of an earlier incarnation; nil if it is
// signed by no key that this signer ever made.
//
// The error is a *[Refusal], *[api.FloorError] or *[api.RestoredError].
func judge(c *claim, own floors, prover *floors) (floors, error) {
	next := own
	var proven base // the versions of the base as far as they are proven
	switch {
	case c.base == nil:
		if err := own.begins(); err != nil {
			return own, err
		}
	case prover == nil && own.timestampConfirmed > 0:
		return own, refuse("the current timestamp is not signed by a key that this signer made for %s", c.GUN)
	case prover == nil:
		// Another signer's repository. Nothing is known of it, so the base can
		// only raise what is required below.
	default:
		b := c.base
		if seen := max(own.timestampConfirmed, prover.timestampConfirmed); b.timestamp.Version < seen {
			return own, &api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: seen, Base: b.timestamp.Version}
		}
		if seen := max(own.snapshotConfirmed, prover.snapshotConfirmed); b.snapshot.Version < seen {
			return own, &api.RestoredError{Role: tuf.RoleSnapshot, Confirmed: seen, Base: b.snapshot.Version}
		}
		next.timestampConfirmed, next.snapshotConfirmed = b.timestamp.Version, b.snapshot.Version
		proven = *b
	}
	var from base // the versions of the base, proven or not
	if c.base != nil {
		from = *c.base
	}

	signed := next.signed(c.Role)
	floor, known := max(*signed, from.timestamp.Version), max(*signed, proven.timestamp.Version)
	if c.Role == tuf.RoleSnapshot {
		floor = max(*signed, from.snapshot.Version, own.snapshotNamed)
		known = max(*signed, proven.snapshot.Version, own.snapshotNamed)
	}
	if c.payload.Version <= floor {
		return own, &api.FloorError{Role: c.Role, Floor: floor}
	}
	if c.payload.Version-known > maxJump {
		return own, refuse("version %d is more than %d above the last one", c.payload.Version, maxJump)
	}
	*signed = c.payload.Version
	if c.Role == tuf.RoleSnapshot {
		return next, nil
	}

	// F17: time goes on, so content must not go back.
	s := c.snapshot
	if least := max(from.snapshot.Version, own.snapshotNamed); s.Version < least {
		return own, &api.FloorError{Role: tuf.RoleSnapshot, Floor: least - 1}
	}
	if s.Version == from.snapshot.Version && !bytes.Equal(s.Canonical, from.snapshot.Canonical) {
		return own, refuse("another snapshot of version %d is published", s.Version)
	}
	if s.Version-max(own.snapshotSigned, own.snapshotNamed, proven.snapshot.Version) > maxJump {
		return own, refuse("snapshot version %d is more than %d above the last one", s.Version, maxJump)
	}
	next.snapshotNamed = s.Version
	return next, nil
}
