package piv

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// How keys come onto a token.

// New makes a key in software, which is put onto the token when it is saved.
// Whoever wants a copy elsewhere makes the key there and imports it.
func (s *Store) New(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	if _, err := kindOf(a); err != nil {
		return nil, err
	}
	key, err := keys.MakeKey(a)
	if err != nil {
		return nil, err
	}
	soft, info, err := s.hold(ctx, info, key)
	if err != nil {
		return nil, err
	}
	err = s.do(ctx, func(c card) error {
		_, err := s.ready(ctx, c, info)
		return err
	})
	if err != nil {
		return nil, err
	}
	signer, err := soft.Open(ctx, info.ID)
	if err != nil {
		return nil, err
	}
	p := &pending{Signer: signer}
	return keys.NewPending(info, p, func(ctx context.Context) error {
		err := s.do(ctx, func(c card) error {
			if err := s.add(ctx, c, info, key); err != nil {
				return s.about(info, err)
			}
			e, err := s.entry(c, info.ID)
			if err != nil {
				return err
			}
			signer, err := s.signer(e)
			if err == nil {
				p.become(signer)
			}
			return err
		})
		if err != nil {
			return err
		}
		return soft.Close()
	}), nil
}

// A pending key signs in software until it is on its token.
type pending struct {
	mu sync.Mutex
	tuf.Signer
}

func (p *pending) become(s tuf.Signer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Signer = s
}

func (p *pending) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	p.mu.Lock()
	signer := p.Signer
	p.mu.Unlock()
	return signer.Sign(ctx, message)
}

// hold puts a key into memory until it is on the token or the store is closed,
// and returns what is known of it.
func (s *Store) hold(ctx context.Context, info keys.Info, key crypto.Signer) (*keys.Memory, keys.Info, error) {
	m := keys.NewMemory()
	info, err := m.Import(ctx, info, key)
	if err != nil {
		return nil, info, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = m.Close() // cannot fail
		return nil, info, keys.ErrClosed
	}
	s.loose = append(s.loose, m)
	return m, info, nil
}

// kindOf says which kind of key a token makes for an algorithm.
func kindOf(a keys.Algorithm) (kind, error) {
	switch a {
	case "", keys.P256:
		return p256, nil
	case keys.P384:
		return p384, nil
	}
	// Ed25519 signs a message, not its digest, and cards take short ones only.
	return 0, fmt.Errorf("%w: on a PIV token keys are of kind %s or %s, not %q", tuf.ErrKey, keys.P256, keys.P384, a)
}

// ready sees to everything that a new key needs: a slot, a policy that the
// token has, and the secrets that open it.
func (s *Store) ready(ctx context.Context, c card, info keys.Info) (Place, error) {
	policy, err := s.c.Place.Policy.usual(info.Role, c.about().firmware)
	if err != nil {
		return Place{}, err
	}
	slot, err := s.free(c, info.Role)
	if err != nil {
		return Place{}, err
	}
	_, err = s.unlock(ctx, c)
	return Place{slot, policy}, err
}

// add puts key onto the token unless it is there.
func (s *Store) add(ctx context.Context, c card, info keys.Info, key crypto.Signer) error {
	if e, err := s.entry(c, info.ID); err == nil {
		if e.info.Role != info.Role {
			return &keys.ExistsError{ID: info.ID, Role: e.info.Role}
		}
		return nil
	}
	p, err := s.ready(ctx, c, info)
	if err != nil {
		return err
	}
	cert, err := s.certify(info, key)
	if err != nil {
		return err
	}
	return s.write(c, p.Slot, cert, func(manage []byte) error { return c.load(manage, p.Slot, key, p.Policy) })
}

// Import puts a key onto the token: ECDSA on P-256 or P-384, and RSA as far as
// the token has it.
func (s *Store) Import(ctx context.Context, info keys.Info, key crypto.Signer) (keys.Info, error) {
	soft, info, err := s.hold(ctx, info, key)
	if err != nil {
		return keys.Info{}, err
	}
	err = s.do(ctx, func(c card) error {
		if err := loadable(key, c.about().firmware); err != nil {
			return err
		}
		return s.about(info, s.add(ctx, c, info, key))
	})
	if err != nil {
		return keys.Info{}, err
	}
	return info, soft.Close()
}

// loadable says which keys a card takes.
func loadable(key crypto.Signer, v Version) error {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits == 2048 || (bits == 3072 || bits == 4096) && v.atLeast(5, 7) {
			return nil
		}
	}
	return fmt.Errorf("%w: the token takes ECDSA keys on P-256 and P-384, and RSA keys of 2048 bits, from firmware 5.7 also 3072 and 4096", tuf.ErrKey)
}

// GenerateOnToken makes a key on the token, which nobody can copy: when the
// token is lost, so is the key. It signs its certificate, so a token that
// wants to be touched has to be. info is as for a keys.Generator.
func (s *Store) GenerateOnToken(ctx context.Context, a keys.Algorithm, info keys.Info) (signer tuf.Signer, err error) {
	k, err := kindOf(a)
	if err != nil {
		return nil, err
	}
	if info, err = info.Clean(); err != nil {
		return nil, err
	}
	err = s.do(ctx, func(c card) error {
		p, err := s.ready(ctx, c, info)
		if err != nil {
			return err
		}
		if err := s.login(ctx, c); err != nil {
			return err
		}
		e, err := s.makeKey(c, k, p, info)
		if err != nil {
			return err
		}
		signer, err = s.signer(e)
		return err
	})
	return signer, err
}

func (s *Store) makeKey(c card, k kind, p Place, info keys.Info) (entry, error) {
	s.found = nil
	pub, err := c.generate(s.manage, p.Slot, k, p.Policy)
	if err != nil {
		return entry{}, err
	}
	key, err := tuf.NewPublicKey(pub)
	if err != nil {
		return entry{}, err
	}
	info.ID, info.Type = key.CanonicalID(), key.Type
	e := entry{slot: p.Slot, taken: true, public: pub, content: content{pub, p.Policy, true}, info: info}
	cert, err := s.certify(info, &slotKey{s, c, e})
	if err == nil {
		err = c.setCertificate(s.manage, p.Slot, cert)
	}
	if err != nil {
		return entry{}, s.about(info, errors.Join(err, s.erase(c, p.Slot)))
	}
	return e, nil
}
