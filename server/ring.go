package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// A ring lets one draft be signed by the signer. With each payload it sends
// what the signer needs to judge it: the published state that it builds on,
// and for a timestamp the new snapshot.
type ring struct {
	s    *Server
	base *base
	// next is the timestamp that is signed together with the snapshot; nil:
	// each is asked for by itself.
	next *api.Successor
	made *tuf.Signature // of next
	away error          // why the signer did not answer, which is not asked a second time then
	// snapshots are those that a new timestamp may name.
	snapshots [][]byte
	payload   []byte          // of the snapshot that is being signed
	sigs      []tuf.Signature // of payload
}

// newRing makes the ring for a draft on top of b, which is signed with o.
// uploaded is the snapshot that a client signed, or nil. With together the
// signer is asked for snapshot and timestamp at once, where that can be.
func (s *Server) newRing(ctx context.Context, d *tuf.Draft, b *base, uploaded []byte, o tuf.SignOptions, together bool) *ring {
	r := &ring{s: s, base: b}
	if together {
		r.next, r.away = s.successor(ctx, d, b, o)
	}
	for _, raw := range [][]byte{uploaded, b.linked} {
		if raw != nil {
			r.snapshots = append(r.snapshots, raw)
		}
	}
	return r
}

// apart is for how long a signer is not asked for both at once that has said
// that it cannot do that.
const apart = 10 * time.Minute

// successor describes the timestamp that follows a snapshot of d, if it will be
// known from the snapshot alone: signed with one key that the signer holds, over
// a snapshot that is signed with one. Nil says that it will not.
func (s *Server) successor(ctx context.Context, d *tuf.Draft, b *base, o tuf.SignOptions) (*api.Successor, error) {
	if now := o.Now.Unix(); now < s.apart.Load() {
		return nil, nil
	}
	next := &api.Successor{Version: d.NextVersion(tuf.RoleTimestamp, o), Expires: o.Now.Add(s.c.Lifetimes.Timestamp)}
	for _, name := range [...]tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		role, ok := d.Role(name)
		if !ok || len(role.Keys) != 1 {
			return nil, nil
		}
		next.Key = role.Keys[0].CanonicalID()
		if string(next.Key) != string(role.Keys[0].ID) {
			return nil, nil // the signer knows it by another id than the file has
		}
	}
	held, err := s.holds(ctx, b.state, b.gun, tuf.RoleTimestamp, next.Key)
	switch {
	case errors.Is(err, api.ErrUnavailable):
		return nil, err
	case !held || err != nil:
		return nil, nil // the one who asks for the signature says why
	}
	return next, nil
}

// Signer implements [tuf.Ring].
func (r *ring) Signer(ctx context.Context, gun tuf.GUN, role tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	if role != tuf.RoleSnapshot && role != tuf.RoleTimestamp {
		return nil, tuf.ErrNoKey
	}
	held, err := false, r.away
	if err == nil {
		held, err = r.s.holds(ctx, r.base.state, gun, role, key.CanonicalID())
	}
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
	sig, err := r.ask(ctx, q)
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

// ask has the signer sign, or finds what it has signed already.
func (r *ring) ask(ctx context.Context, q api.SignRequest) (tuf.Signature, error) {
	switch {
	case r.next == nil:
	case q.Role == tuf.RoleSnapshot:
		snapshot, timestamp, err := r.s.c.Keys.SignBoth(ctx, q, *r.next)
		switch {
		case err == nil:
			r.made = &timestamp
			return snapshot, nil
		case errors.Is(err, errors.ErrUnsupported):
			r.s.apart.Store(r.s.c.Now().Add(apart).Unix())
		case !errors.Is(err, tuf.ErrNoKey): // by itself it tells which key
			return tuf.Signature{}, err
		}
	case r.made != nil && bytes.Equal(q.Payload, tuf.TimestampPayload(r.next.Version, r.next.Expires, q.Snapshot)):
		return *r.made, nil
	}
	return r.s.c.Keys.Sign(ctx, q)
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
