package tuf_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/pem"
	"math/big"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// attacks.md K12, K8: each kind of key makes and verifies its method, and the
// methods that are only read verify too; nothing else does.
func TestMethods(t *testing.T) {
	t.Parallel()
	message := []byte(`{"_type":"Targets"}`)
	sum := sha256.Sum256(message)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := map[string]crypto.Signer{"ed25519": edKey, "rsa": rsaKey}
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		if private[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	made := map[string]tuf.Signature{}
	for name, want := range map[string]struct {
		method string
		bytes  int
	}{
		"ed25519": {"eddsa", 64}, "rsa": {"rsapss", 256},
		"P-224": {"ecdsa", 56}, "P-256": {"ecdsa", 64}, "P-384": {"ecdsa", 96}, "P-521": {"ecdsa", 132},
	} {
		s, err := tuf.NewSigner(private[name])
		if err != nil {
			t.Fatalf("NewSigner(%s): %v", name, err)
		}
		sig, err := s.Sign(t.Context(), message)
		if err != nil || sig.Method != want.method || len(sig.Value) != want.bytes || sig.KeyID != s.PublicKey().ID() {
			t.Errorf("%s signs with %s in %d bytes, %v; want %s in %d", name, sig.Method, len(sig.Value), err, want.method, want.bytes)
		}
		if err := s.PublicKey().Verify(message, sig); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.PublicKey().Verify(append([]byte(" "), message...), sig) == nil {
			t.Errorf("%s verifies another message", name)
		}
		for _, value := range [][]byte{nil, sig.Value[1:], append([]byte{0}, sig.Value...), make([]byte, len(sig.Value))} {
			if s.PublicKey().Verify(message, tuf.Signature{Method: sig.Method, Value: value}) == nil {
				t.Errorf("%s verifies %d bytes that are no signature", name, len(value))
			}
		}
		made[name] = sig
	}

	// What is read and never made.
	bare, err := tuf.NewPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	inPEM := tuf.PublicKey{Type: tuf.RSA, Bytes: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: bare.Bytes})}
	pkcs1, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	pss := made["rsa"].Value
	for _, c := range []struct {
		what   string
		key    tuf.PublicKey
		method string
		value  []byte
		good   bool
	}{
		{"PKCS#1 v1.5", bare, "rsapkcs1v15", pkcs1, true},
		{"pycrypto", inPEM, "pycrypto-pkcs#1 pss", pss, true},
		{"PSS by a key in PEM", inPEM, "rsapss", pss, false},
		{"pycrypto by a key in DER", bare, "pycrypto-pkcs#1 pss", pss, false},
		{"PKCS#1 v1.5 called PSS", bare, "rsapss", pkcs1, false},
		{"PSS called PKCS#1 v1.5", bare, "rsapkcs1v15", pss, false},
		{"PSS with a short salt", bare, "rsapss", short, false},
		{"the scheme of TUF 1.0", bare, "rsassa-pss-sha256", pss, false},
	} {
		err := c.key.Verify(message, tuf.Signature{Method: c.method, Value: c.value})
		if (err == nil) != c.good {
			t.Errorf("%s: Verify = %v", c.what, err)
		}
	}

	// Certificates of both kinds speak with the method of their key.
	for _, name := range []string{"rsa", "P-384"} {
		s, err := tuf.NewSigner(private[name])
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tuf.Certify(context.Background(), s, gun, big.NewInt(7), tuftest.Start)
		if err != nil {
			t.Fatalf("Certify(%s): %v", name, err)
		}
		if err := cert.Verify(message, made[name]); err != nil {
			t.Errorf("the certificate of %s: %v", name, err)
		}
		if cert.ID() == s.PublicKey().ID() || cert.CanonicalID() != s.PublicKey().CanonicalID() {
			t.Errorf("the certificate of %s has the ids %s and %s", name, cert.ID(), cert.CanonicalID())
		}
	}
}
