package piv

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// An Attestation is what a token says about a key that was made on it.
type Attestation struct {
	Key       tuf.CanonicalID
	Serial    uint32
	Firmware  Version
	Policy    Policy
	Slot      Slot
	Authority string // who vouches for the token; empty: nobody has been asked
}

// ErrAttestation says that an attestation proves nothing.
var ErrAttestation = errors.New("not an attestation that can be believed")

// Attest returns the token's word that it made a key itself: in PEM form the
// certificate for the key, and that of the token which signed it. A key that
// came from elsewhere has none: the error matches ErrAttestation.
func (s *Store) Attest(ctx context.Context, id tuf.CanonicalID) (chain []byte, err error) {
	err = s.do(ctx, func(c card) error {
		e, err := s.entry(c, id)
		if err != nil {
			return err
		}
		key, device, err := c.attest(e.slot)
		if errors.Is(err, errUnseen) || errors.Is(err, errEmpty) {
			return s.about(e.info, fmt.Errorf("%w: the token did not make this key, or makes no attestations", ErrAttestation))
		}
		if err != nil {
			return s.about(e.info, err)
		}
		for _, cert := range []*x509.Certificate{key, device} {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		}
		return nil
	})
	if s.missed(err) {
		return nil, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	return chain, err
}

// maxChain bounds how many certificates are read.
const maxChain = 10

// Verify reads the chain that Attest returned: the key's certificate first. If
// roots is nil, nobody vouches for the token, and only its own signature is
// checked; roots come from whoever verifies. The error matches ErrAttestation.
func Verify(chain []byte, roots *x509.CertPool) (Attestation, error) {
	refuse := func(why string, a ...any) (Attestation, error) {
		return Attestation{}, fmt.Errorf("%w: %s", ErrAttestation, fmt.Sprintf(why, a...))
	}
	var certs []*x509.Certificate
	for {
		var b *pem.Block
		if b, chain = pem.Decode(chain); b == nil {
			break
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil || b.Type != "CERTIFICATE" || len(certs) == maxChain {
			return refuse("it is not a chain of certificates")
		}
		certs = append(certs, cert)
	}
	if len(certs) < 2 {
		return refuse("it has to be the certificate of the key, then that of the token")
	}
	// A key that a token made can sign whatever its owner likes, a certificate
	// that looks like an attestation included.
	if slices.ContainsFunc(certs[1:], isAttestation) {
		return refuse("it was signed by another key on the token, and not by the token")
	}
	key, device := certs[0], certs[1]
	// YubiKeys 4 leave out that the token's certificate signs others.
	if !device.BasicConstraintsValid {
		device.BasicConstraintsValid, device.IsCA = true, true
	}
	if err := key.CheckSignatureFrom(device); err != nil {
		return refuse("the key's certificate was not signed by the token's: %v", err)
	}
	a, err := readAttestation(key)
	if err != nil || roots == nil {
		return a, err
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	paths, err := key.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: key.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return refuse("no authority that was given vouches for the token: %v", err)
	}
	path := paths[0]
	a.Authority = path[len(path)-1].Subject.CommonName
	return a, nil
}

// yubico is the arc of Yubico's extensions.
var yubico = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3}

// attested begins the subject of a key's certificate; the slot follows.
const attested = "YubiKey PIV Attestation "

// The last parts of Yubico's extensions.
const (
	extFirmware = 3
	extSerial   = 7
	extPolicy   = 8
)

// isAttestation reports whether cert is for a key in a slot: only those have a
// policy.
func isAttestation(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(append(slices.Clone(yubico), extPolicy))
	})
}

// readAttestation reads what the certificate of a key says, without asking who
// signed it.
func readAttestation(cert *x509.Certificate) (Attestation, error) {
	var a Attestation
	seen := 0
	for _, e := range cert.Extensions {
		if len(e.Id) != len(yubico)+1 || !e.Id[:len(yubico)].Equal(yubico) {
			continue
		}
		ok := true
		switch v := e.Value; e.Id[len(yubico)] {
		case extFirmware:
			if ok = len(v) == 3; ok {
				a.Firmware = Version{int(v[0]), int(v[1]), int(v[2])}
			}
		case extSerial:
			var n int64
			rest, err := asn1.Unmarshal(v, &n)
			ok = err == nil && len(rest) == 0 && n >= 0 && n <= 1<<32-1
			a.Serial = uint32(n)
		case extPolicy:
			if ok = len(v) == 2; ok {
				a.Policy = Policy{
					map[byte]PINPolicy{1: PINNever, 2: PINOnce, 3: PINAlways}[v[0]],
					map[byte]TouchPolicy{1: TouchNever, 2: TouchAlways, 3: TouchCached}[v[1]],
				}
			}
		default:
			continue
		}
		if !ok {
			return Attestation{}, fmt.Errorf("%w: extension %v is not what Yubico puts there", ErrAttestation, e.Id)
		}
		seen++
	}
	slot, named := strings.CutPrefix(cert.Subject.CommonName, attested)
	var err error
	if a.Slot, err = ParseSlot(slot); err != nil || !named || seen != 3 {
		return Attestation{}, fmt.Errorf("%w: the certificate does not say which token has the key, and where", ErrAttestation)
	}
	pub, err := tuf.NewPublicKey(cert.PublicKey)
	if err != nil {
		return Attestation{}, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	a.Key = pub.CanonicalID()
	return a, nil
}
