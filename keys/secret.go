package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"sync"

	"github.com/iechor/trust/tuf"
)

// An Algorithm says what kind of key to make. The zero value is P256.
type Algorithm string

// The kinds of keys that stores make. All but P256 exist for those whose rules
// demand them; the stock programs make nothing else.
const (
	P256    Algorithm = "ecdsa-p256"
	P384    Algorithm = "ecdsa-p384"
	Ed25519 Algorithm = "ed25519"
	RSA3072 Algorithm = "rsa-3072"
)

// MakeKey makes a key. The error matches tuf.ErrKey for an unknown algorithm.
func MakeKey(a Algorithm) (crypto.Signer, error) {
	switch a {
	case "", P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, fmt.Errorf("%w: algorithm %q is not one of %s, %s, %s, %s", tuf.ErrKey, a, P256, P384, Ed25519, RSA3072)
}

// A held key is in memory. It signs until it is wiped.
type held struct {
	info Info
	pub  tuf.PublicKey

	mu     sync.RWMutex // guards the fields below; signing holds it for reading
	key    crypto.Signer
	signer tuf.Signer
}

// hold takes key over. The error matches tuf.ErrKey if it is too weak or of a
// kind that cannot sign metadata (attacks.md K11).
func hold(info Info, key crypto.Signer) (*held, error) {
	signer, err := tuf.NewSigner(key)
	if err != nil {
		return nil, err
	}
	h := &held{info: info, pub: signer.PublicKey(), key: key, signer: signer}
	h.info.ID = h.pub.CanonicalID()
	h.info.Type = h.pub.Type
	return h, nil
}

func (h *held) PublicKey() tuf.PublicKey { return h.pub }

func (h *held) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.signer == nil {
		return tuf.Signature{}, ErrClosed
	}
	return h.signer.Sign(ctx, message)
}

// wipe overwrites the key. It waits for signatures under way.
func (h *held) wipe() {
	h.mu.Lock()
	defer h.mu.Unlock()
	Wipe(h.key)
	h.key, h.signer = nil, nil
}

// Wipe overwrites the private numbers of key. Copies that the standard
// library or the garbage collector made are out of reach.
func Wipe(key crypto.Signer) {
	zero := func(ns ...*big.Int) {
		for _, n := range ns {
			if n != nil {
				clear(n.Bits())
			}
		}
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		//lint:ignore SA1019 there is no other way to wipe it
		zero(k.D)
	case *rsa.PrivateKey:
		zero(k.D, k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv)
		zero(k.Primes...)
	case ed25519.PrivateKey:
		clear(k)
	}
}
