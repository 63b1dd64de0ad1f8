package tuf_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// An authority issues root certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority, self-signed if by is nil.
func newAuthority(t *testing.T, name string, by *authority, from time.Time, life time.Duration) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: from, NotAfter: from.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key}
	if by == nil {
		by = a
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// leaf issues a root certificate for a year, bundled with the authority's own.
func (a *authority) leaf(t *testing.T, gun tuf.GUN, from time.Time, bundle bool) tuf.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: string(gun)},
		NotBefore: from, NotAfter: from.Add(year), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if bundle {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	}
	pub, err := tuf.NewCertificateKey(chain)
	if err != nil {
		t.Fatal(err)
	}
	s, err := tuf.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return tuftest.Speaking(t, pub, s)
}

// relabel signs with a key under the id of another.
type relabel struct {
	tuf.Signer
	id tuf.KeyID
}

func (r relabel) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	s, err := r.Signer.Sign(ctx, message)
	s.KeyID = r.id
	return s, err
}

// list returns the current files as [tuftest.Repo.Serve] takes them.
func list(f tuftest.Files) []tuf.File {
	var out []tuf.File
	for role, raw := range f.Current {
		if file, err := tuf.NewFile(role, raw); err == nil {
			out = append(out, file)
		}
	}
	return out
}

// certify returns s, signing through a new certificate for gun.
func certify(t *testing.T, s tuf.Signer, gun tuf.GUN, now time.Time) tuf.Signer {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tuf.Certify(context.Background(), s, gun, serial, now)
	if err != nil {
		t.Fatal(err)
	}
	return tuftest.Speaking(t, cert, s)
}

// resign returns files in which role is signed anew by the given keys, and
// snapshot and timestamp follow.
func resign(t *testing.T, repo *tuftest.Repo, files tuftest.Files, role tuf.RoleName, signers ...tuf.Signer) tuftest.Files {
	t.Helper()
	swap := make(map[tuf.RoleName][]byte)
	for name, raw := range files.Current {
		if name != tuf.RoleSnapshot && name != tuf.RoleTimestamp {
			swap[name] = raw
		}
	}
	if role == tuf.RoleTimestamp || role == tuf.RoleSnapshot {
		swap[tuf.RoleSnapshot] = files.Current[tuf.RoleSnapshot]
		if role == tuf.RoleTimestamp {
			swap[tuf.RoleTimestamp] = files.Current[tuf.RoleTimestamp]
		}
	}
	swap[role] = tuftest.Reseal(t, files.Current[role], nil, signers...)
	return repo.Swap(t, swap)
}

// lent signs with another key under the id of k.
type lent struct {
	k tuf.PublicKey
	s tuf.Signer
}

func (l lent) PublicKey() tuf.PublicKey { return l.k }

func (l lent) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	s, err := l.s.Sign(ctx, message)
	s.KeyID = l.k.ID()
	return s, err
}

// forEverything makes the Ed25519 signature that the identity point, as a key,
// would accept for any message.
type forEverything struct{}

func (forEverything) PublicKey() tuf.PublicKey { return tuf.PublicKey{} }

func (forEverything) Sign(context.Context, []byte) (tuf.Signature, error) {
	value := make([]byte, 64)
	value[0] = 1
	return tuf.Signature{Method: "eddsa", Value: value}, nil
}
