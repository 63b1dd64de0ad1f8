package tuf

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strconv"
	"testing"
)

func newTestSigner(t *testing.T) Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What was found valid says nothing about anything that differs in one part,
// and nothing about whether the key counts.
func TestAttackRememberedSignatureIsNotAnothers(t *testing.T) {
	t.Parallel()
	s, other := newTestSigner(t), newTestSigner(t)
	k, message := s.PublicKey(), []byte("a message")
	sig, err := s.Sign(context.Background(), message)
	if err != nil {
		t.Fatal(err)
	}
	m := new(Verified)
	for range 2 {
		if material, err := m.verify(k, message, sig); err != nil || material != k.material() {
			t.Fatalf("verify: %q, %v; want %q", material, err, k.material())
		}
	}
	if len(m.recent) != 1 {
		t.Errorf("%d signatures are remembered, want 1", len(m.recent))
	}
	longer := append(bytes.Clone(message), sig.Value[0])
	for name, try := range map[string]func() error{
		"message": func() error { _, err := m.verify(k, []byte("another"), sig); return err },
		"signature": func() error {
			_, err := m.verify(k, message, Signature{k.ID(), sig.Method, bytes.Repeat([]byte{1}, 64)})
			return err
		},
		"method":   func() error { _, err := m.verify(k, message, Signature{k.ID(), methodEdDSA, sig.Value}); return err },
		"key":      func() error { _, err := m.verify(other.PublicKey(), message, sig); return err },
		"type":     func() error { _, err := m.verify(PublicKey{Type: RSA, Bytes: k.Bytes}, message, sig); return err },
		"boundary": func() error { _, err := m.verify(k, longer, Signature{k.ID(), sig.Method, sig.Value[1:]}); return err },
	} {
		if err := try(); err == nil {
			t.Errorf("another %s is taken for the one that was found valid", name)
		}
	}

	raw, err := Envelope([]byte(`{"_type":"Timestamp","expires":"2035-01-01T00:00:00Z","meta":{"snapshot":{"hashes":{"sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},"length":1}},"version":1}`))
	if err != nil {
		t.Fatal(err)
	}
	meta, err := Outline(RoleTimestamp, raw, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if sig, err = s.Sign(context.Background(), meta.Canonical); err != nil {
		t.Fatal(err)
	}
	if raw, err = Envelope(meta.Canonical, sig); err != nil {
		t.Fatal(err)
	}
	o := Options{Verified: m}
	if _, err := VerifyFile(raw, NewRole(RoleTimestamp, 1, k), o); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyFile(raw, NewRole(RoleTimestamp, 1, other.PublicKey()), o); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a remembered signature by a key that the role does not list: %v", err)
	}
	if _, err := VerifyFile(raw, NewRole(RoleTimestamp, 2, k, other.PublicKey()), o); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a remembered signature met a threshold of two: %v", err)
	}
}

// What the caller made itself is not computed; nothing else is taken for it.
func TestVerifiedMade(t *testing.T) {
	t.Parallel()
	s := newTestSigner(t)
	m := new(Verified)
	made := Signature{KeyID: s.PublicKey().ID(), Method: methodECDSA, Value: bytes.Repeat([]byte{7}, 64)}
	if err := m.Verify(s.PublicKey(), []byte("a message"), made); err == nil {
		t.Error("a signature that is none is valid")
	}
	m.Made(s.PublicKey(), []byte("a message"), made)
	if err := m.Verify(s.PublicKey(), []byte("a message"), made); err != nil {
		t.Errorf("a signature that the caller says it has made: %v", err)
	}
	if err := m.Verify(s.PublicKey(), []byte("another"), made); err == nil {
		t.Error("the signature of one message is that of another")
	}
}

// Memory is bounded, and what is met again stays.
func TestVerifiedIsBounded(t *testing.T) {
	t.Parallel()
	m := new(Verified)
	name := func(i int) [32]byte { return nameOf(PublicKey{}, []byte(strconv.Itoa(i)), Signature{}) }
	for i := range 4 * generation {
		m.put(name(i), "")
		if _, ok := m.get(name(0)); !ok {
			t.Fatalf("after %d others the one in use is forgotten", i)
		}
	}
	if n := len(m.recent) + len(m.older); n > 2*generation {
		t.Errorf("%d signatures are remembered, at most %d should be", n, 2*generation)
	}
	if _, ok := m.get(name(1)); ok {
		t.Error("what nobody met for two generations is remembered")
	}
}
