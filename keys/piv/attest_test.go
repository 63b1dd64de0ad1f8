package piv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// An authority issues certificates in tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate, signed by a, or by itself.
func (a *authority) issue(t testing.TB, c x509.Certificate) *authority {
	t.Helper()
	c.SerialNumber = big.NewInt(1)
	c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(1<<32, 0)
	made := &authority{key: newKey(t)}
	if a == nil {
		a = &authority{&c, made.key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, a.cert, made.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if made.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return made
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// extensions are what Yubico puts into the certificate of a key.
func extensions(t testing.TB) []pkix.Extension {
	t.Helper()
	serial, err := asn1.Marshal(1234567)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{
		{Id: append(slices.Clone(yubico), 3), Value: []byte{5, 7, 1}},
		{Id: append(slices.Clone(yubico), 7), Value: serial},
		{Id: append(slices.Clone(yubico), 8), Value: []byte{2, 2}},
		{Id: append(slices.Clone(yubico), 9), Value: []byte{1}},
	}
}

// TestAttackAttestation is attacks.md G8: what proves nothing is refused.
func TestAttackAttestation(t *testing.T) {
	t.Parallel()
	ca := x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := x509.Certificate{Subject: pkix.Name{CommonName: attested + "9c"}, ExtraExtensions: extensions(t)}
	device := x509.Certificate{Subject: pkix.Name{CommonName: "Yubico PIV Attestation"}} // as YubiKeys 4 have it
	var self *authority
	root, other := self.issue(t, ca), self.issue(t, ca)
	token := root.issue(t, device)
	key := token.issue(t, leaf)
	chain := append(key.pem(), token.pem()...)
	roots := func(a *authority) *x509.CertPool {
		p := x509.NewCertPool()
		p.AddCert(a.cert)
		return p
	}

	got, err := Verify(chain, roots(root))
	if err != nil || got.Authority != "Root" || got.Serial != 1234567 || got.Slot != Signature ||
		got.Firmware != (Version{5, 7, 1}) || got.Policy != (Policy{PINOnce, TouchAlways}) {
		t.Errorf("Verify = %+v, %v", got, err)
	}
	if got, err := Verify(chain, nil); err != nil || got.Authority != "" {
		t.Errorf("Verify without roots = %+v, %v, want one that nobody vouches for", got, err)
	}

	without := func(i int) x509.Certificate {
		c := leaf
		c.ExtraExtensions = slices.Delete(extensions(t), i, i+1)
		return c
	}
	with := func(i int, value ...byte) x509.Certificate {
		c := leaf
		c.ExtraExtensions = extensions(t)
		c.ExtraExtensions[i].Value = value
		return c
	}
	named := leaf
	named.Subject.CommonName = attested + "9b"
	for name, chain := range map[string][]byte{
		"nothing":                         nil,
		"no certificate":                  []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"the key's certificate alone":     key.pem(),
		"a private key between":           append(key.pem(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: token.cert.Raw})...),
		"another token":                   append(key.pem(), root.issue(t, device).pem()...),
		"another token that looks alike":  append(key.pem(), other.issue(t, device).pem()...),
		"a key that signs itself":         append(self.issue(t, leaf).pem(), token.pem()...),
		"another authority":               append(other.issue(t, device).issue(t, leaf).pem(), other.issue(t, device).pem()...),
		"an authority that was not given": slices.Concat(other.issue(t, leaf).pem(), other.pem()),
		"no version":                      append(token.issue(t, without(0)).pem(), token.pem()...),
		"no serial number":                append(token.issue(t, without(1)).pem(), token.pem()...),
		"no policy":                       append(token.issue(t, without(2)).pem(), token.pem()...),
		"a short version":                 append(token.issue(t, with(0, 5)).pem(), token.pem()...),
		"a serial number below zero":      append(token.issue(t, with(1, 2, 1, 0xff)).pem(), token.pem()...),
		"a long policy":                   append(token.issue(t, with(2, 1, 1, 1)).pem(), token.pem()...),
		"the slot of the management key":  append(token.issue(t, named).pem(), token.pem()...),
		"certificates without end":        append(key.pem(), bytes.Repeat(token.pem(), maxChain)...),
	} {
		a, err := Verify(chain, roots(root))
		wantErr(t, name, err, ErrAttestation)
		if a != (Attestation{}) {
			t.Errorf("%s: together with the error came %+v", name, a)
		}
	}
}

// TestAttackAttestationByAttestedKey is attacks.md G8: a key that was made on a
// genuine token signs a certificate that says the same of another one.
func TestAttackAttestationByAttestedKey(t *testing.T) {
	t.Parallel()
	ca := x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := x509.Certificate{Subject: pkix.Name{CommonName: attested + "9c"}, ExtraExtensions: extensions(t)}
	device := ca
	device.Subject.CommonName = "Yubico PIV Attestation"
	var self *authority
	root := self.issue(t, ca)
	token := root.issue(t, device)
	key := token.issue(t, leaf)
	forged := key.issue(t, leaf)
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	if _, err := Verify(slices.Concat(key.pem(), token.pem()), roots); err != nil {
		t.Fatal(err)
	}
	for name, pool := range map[string]*x509.CertPool{"an authority": roots, "no authority": nil} {
		_, err := Verify(slices.Concat(forged.pem(), key.pem(), token.pem()), pool)
		wantErr(t, name, err, ErrAttestation)
	}
}

// FuzzVerify: without an authority that vouches for it no chain is believed,
// and what a chain says by itself is within what a token can be.
func FuzzVerify(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	var self *authority
	root := self.issue(f, x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	token := root.issue(f, x509.Certificate{Subject: pkix.Name{CommonName: "Yubico PIV Attestation"}})
	key := token.issue(f, x509.Certificate{Subject: pkix.Name{CommonName: attested + "9c"}, ExtraExtensions: extensions(f)})
	f.Add(slices.Concat(key.pem(), token.pem(), root.pem()))
	f.Fuzz(func(t *testing.T, chain []byte) {
		if a, err := Verify(chain, x509.NewCertPool()); err == nil {
			t.Errorf("believed, without a root: %+v", a)
		}
		a, err := Verify(chain, nil)
		if err != nil {
			if !errors.Is(err, ErrAttestation) || a != (Attestation{}) || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("Verify = %+v, %q", a, err)
			}
			return
		}
		if !slices.Contains(slotsFor(""), a.Slot) || a.Authority != "" {
			t.Errorf("Verify = %+v", a)
		}
	})
}
