package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// A ring lets one draft be signed by the signer. With each payload it sends
// what the signer needs to judge it: the published state that it builds on,
// and for a timestamp the new snapshot.
type ring struct {
	s    *Server
	base *base
	// snapshots are those that a new timestamp may name.
	snapshots [][]byte
	payload   []byte          // of the snapshot that is being signed
	sigs      []tuf.Signature // of payload
}

// newRing makes the ring for a draft on top of b. uploaded is the snapshot
// that a client signed, or nil.
func (s *Server) newRing(b *base, uploaded []byte) *ring {
	r := &ring{s: s, base: b}
	for _, raw := range [][]byte{uploaded, b.linked} {
		if raw != nil {
			r.snapshots = append(r.snapshots, raw)
		}
	}
	return r
}

// Signer implements [tuf.Ring].
func (r *ring) Signer(ctx context.Context, gun tuf.GUN, role tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	if role != tuf.RoleSnapshot && role != tuf.RoleTimestamp {
		return nil, tuf.ErrNoKey
	}
	held, err := r.s.holds(ctx, r.base.state, gun, role, key.CanonicalID())
	if err != nil {
		r.s.counters.signed.Add(string(role), outcome(err)) // it is not asked to sign then
		return nil, fmt.Errorf("ask the signer for key %s: %w", key.CanonicalID(), err)
	}
	if !held {
		return nil, tuf.ErrNoKey
	}
	return &remote{ring: r, role: role, key: key}, nil
}

// A remote signs with one key of the signer.
type remote struct {
	ring *ring
	role tuf.RoleName
	key  tuf.PublicKey
}

// PublicKey implements [tuf.Signer].
func (m *remote) PublicKey() tuf.PublicKey { return m.key }

// Sign implements [tuf.Signer]. Message is the canonical payload.
func (m *remote) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	r := m.ring
	q := api.SignRequest{
		GUN: r.base.gun, Role: m.role, Key: m.key.CanonicalID(), Payload: message,
		Timestamp: r.base.raws[tuf.RoleTimestamp], BaseSnapshot: r.base.linked,
	}
	if m.role == tuf.RoleTimestamp {
		var err error
		if q.Snapshot, err = r.named(message); err != nil {
			return tuf.Signature{}, err
		}
	}
	sig, err := r.s.c.Keys.Sign(ctx, q)
	r.s.counters.signed.Add(string(m.role), outcome(err))
	if errors.Is(err, tuf.ErrNoKey) {
		r.s.lacks(r.base.state, q.GUN, q.Role, q.Key)
	}
	if err != nil {
		return tuf.Signature{}, err
	}
	sig.KeyID = m.key.ID() // the signer knows the key by its canonical id
	if m.role == tuf.RoleSnapshot {
		r.payload, r.sigs = message, append(r.sigs, sig)
	}
	return sig, nil
}

// named returns the snapshot that a timestamp's payload names.
func (r *ring) named(payload []byte) ([]byte, error) {
	meta, err := tuf.Payload(tuf.RoleTimestamp, payload)
	if err != nil {
		return nil, err
	}
	snapshots := r.snapshots
	if len(r.sigs) > 0 {
		made, err := tuf.Envelope(r.payload, r.sigs...)
		if err != nil {
			return nil, err
		}
		snapshots = append(snapshots, made)
	}
	want := meta.Files[tuf.RoleSnapshot]
	for _, raw := range snapshots {
		if want.Matches(raw) == nil {
			return raw, nil
		}
	}
	return nil, errors.New("the new timestamp names a snapshot that is not at hand")
}
