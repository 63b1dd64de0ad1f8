package trust

import (
	"context"
	"crypto/rand"
	"fmt"
	"math/big"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// A forge makes the keys of one operation. They can sign at once and are
// stored together by save, so that a cancelled question leaves nothing behind.
// As a [tuf.Ring] it has them and everything that is in ring.
type forge struct {
	gun       tuf.GUN
	gen, root keys.Generator
	algorithm keys.Algorithm
	ring      keys.Ring
	pending   []*keys.Pending
}

// forge returns one. nil generators mean the key ring.
func (r *Repository) forge(gen, root keys.Generator, a keys.Algorithm) *forge {
	if gen == nil {
		gen = r.c.Keys
	}
	if root == nil {
		root = gen
	}
	if a == "" {
		a = keys.P256
	}
	return &forge{gun: r.gun, gen: gen, root: root, algorithm: a, ring: r.c.Keys}
}

// make makes a key for one of the top-level roles.
func (f *forge) make(ctx context.Context, role tuf.RoleName) (tuf.Signer, error) {
	gen, info := f.gen, keys.Info{Role: string(role), GUN: f.gun}
	if role == tuf.RoleRoot {
		gen, info.GUN = f.root, "" // a root key serves many repositories
	}
	p, err := gen.New(ctx, f.algorithm, info)
	if err != nil {
		return nil, fmt.Errorf("make a %s key: %w", role, err)
	}
	f.pending = append(f.pending, p)
	return p.Signer(), nil
}

// Signer implements [tuf.Ring].
func (f *forge) Signer(ctx context.Context, gun tuf.GUN, role tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	for _, p := range f.pending {
		if s := p.Signer(); s.PublicKey().CanonicalID() == key.CanonicalID() {
			return tuf.As(key, s)
		}
	}
	return f.ring.Signer(ctx, gun, role, key)
}

// save stores the keys. After an error some may be stored, and it can be
// called again.
func (f *forge) save(ctx context.Context) error {
	for _, p := range f.pending {
		if err := p.Save(ctx); err != nil {
			return fmt.Errorf("save the %s: %w", p.Info(), err)
		}
	}
	return nil
}

// certify returns the root key s in the certificate given, or in a new one.
func (r *Repository) certify(ctx context.Context, s tuf.Signer, given tuf.PublicKey, now time.Time) (tuf.PublicKey, error) {
	if given.Type != "" {
		_, err := tuf.As(given, s)
		return given, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tuf.PublicKey{}, err
	}
	// RFC 5280 4.1.2.2: a serial number is positive.
	return tuf.Certify(ctx, s, r.gun, serial.Add(serial, big.NewInt(1)), now)
}
