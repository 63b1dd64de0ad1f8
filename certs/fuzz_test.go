package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"
)

// Whatever an authority was made to certify, a certificate shows the
// fingerprint of its own key first, and never the socket or another's
// fingerprint.
func FuzzIdentities(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range []x509.Certificate{
		{Subject: pkix.Name{CommonName: "server"}},
		{Subject: pkix.Name{CommonName: Unix}},
		{DNSNames: []string{"A.example", Unix, fingerprint + strings.Repeat("a", 64)}, URIs: []*url.URL{{Scheme: "sha256", Opaque: "x"}}},
	} {
		c.SerialNumber = big.NewInt(1)
		der, err := x509.CreateCertificate(rand.Reader, &c, &c, key.Public(), key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		names := Identities(c)
		if len(names) == 0 || len(names[0]) != len(fingerprint)+64 || !strings.HasPrefix(names[0], fingerprint) {
			t.Fatalf("Identities = %q", names)
		}
		for _, n := range names[1:] {
			if n == Unix || strings.HasPrefix(n, fingerprint) || n == "" {
				t.Errorf("Identities = %q", names)
			}
		}
	})
}
