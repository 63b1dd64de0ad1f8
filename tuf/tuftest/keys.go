package tuftest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"io"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
)

// made are the keys of Key by their id, so that a public key in a change is
// enough to find the private one.
var made sync.Map // tuf.CanonicalID to tuf.Signer

func known(k tuf.PublicKey) (tuf.Signer, bool) {
	s, ok := made.Load(k.CanonicalID())
	if !ok {
		return nil, false
	}
	return s.(tuf.Signer), true
}

// Key returns the Ed25519 key of a label: the same for the same label.
func Key(label string) tuf.Signer {
	seed := sha256.Sum256([]byte("tuftest ed25519 " + label))
	return remember(tuf.NewSigner(ed25519.NewKeyFromSeed(seed[:])))
}

// ECDSAKey returns the P-256 key of a label.
func ECDSAKey(label string) tuf.Signer {
	scalar := sha256.Sum256([]byte("tuftest p-256 " + label))
	scalar[0] = 1 // within the order of the group
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	if err != nil {
		panic(err) // the scalar is not an input
	}
	return remember(tuf.NewSigner(deterministic{key}))
}

// deterministic signs as RFC 6979 says, so that files and certificates are the
// same in every run.
type deterministic struct{ *ecdsa.PrivateKey }

func (d deterministic) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return d.PrivateKey.Sign(nil, digest, opts)
}

func remember(s tuf.Signer, err error) tuf.Signer {
	if err != nil {
		panic(err) // the key is not an input
	}
	made.Store(s.PublicKey().CanonicalID(), s)
	return s
}

// RootKey returns the P-256 key of a label, speaking through a certificate for
// gun that is valid for ten years from now.
func RootKey(t testing.TB, gun tuf.GUN, label string, now time.Time) tuf.Signer {
	t.Helper()
	s := ECDSAKey(label)
	sum := sha256.Sum256([]byte(label))
	cert, err := tuf.Certify(context.Background(), s, gun, new(big.Int).SetBytes(sum[:16]), now)
	if err != nil {
		t.Fatalf("tuftest: Certify(%s): %v", gun, err)
	}
	return Speaking(t, cert, s)
}

// Speaking returns s, signing as key.
func Speaking(t testing.TB, key tuf.PublicKey, s tuf.Signer) tuf.Signer {
	t.Helper()
	as, err := tuf.As(key, s)
	if err != nil {
		t.Fatalf("tuftest: %v", err)
	}
	return as
}

// A Ring holds private keys in memory. It implements [tuf.Ring].
type Ring map[tuf.CanonicalID]tuf.Signer

// NewRing returns a ring of the given keys.
func NewRing(signers ...tuf.Signer) Ring {
	r := make(Ring)
	for _, s := range signers {
		r.Add(s)
	}
	return r
}

// Add puts a key into the ring.
func (r Ring) Add(s tuf.Signer) { r[s.PublicKey().CanonicalID()] = s }

// Without returns a ring that lacks the keys of the given roles' signers.
func (r Ring) Without(signers ...tuf.Signer) Ring {
	c := make(Ring)
	for id, s := range r {
		c[id] = s
	}
	for _, s := range signers {
		delete(c, s.PublicKey().CanonicalID())
	}
	return c
}

// Signer implements [tuf.Ring].
func (r Ring) Signer(_ context.Context, _ tuf.GUN, _ tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	s, ok := r[key.CanonicalID()]
	if !ok {
		return nil, tuf.ErrNoKey
	}
	return tuf.As(key, s)
}
