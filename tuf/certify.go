package tuf

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Certify makes the self-signed certificate by which a root key speaks for
// gun, and returns it as an x509 key: CN=gun, valid from now for ten years,
// for digital signatures and code signing (notary-protocol 1.7). s must be an
// ECDSA or RSA signer; serial is positive and should be random. RSA
// certificates are signed with SHA256-RSAPSS, because that is what s makes.
func Certify(ctx context.Context, s Signer, gun GUN, serial *big.Int, now time.Time) (PublicKey, error) {
	pub, err := s.PublicKey().Bare().Public()
	if err != nil {
		return PublicKey{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: string(gun)},
		NotBefore:             now,
		NotAfter:              now.Add(RootLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true,
	}
	switch s.PublicKey().Bare().Type {
	case ECDSA:
		template.SignatureAlgorithm = x509.ECDSAWithSHA256
	case RSA:
		template.SignatureAlgorithm = x509.SHA256WithRSAPSS
	default:
		return PublicKey{}, fmt.Errorf("%w: a root key must be ECDSA or RSA, not %s", ErrKey, s.PublicKey().Type)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, messageSigner{ctx, s, pub})
	if err != nil {
		return PublicKey{}, fmt.Errorf("certify root key for %s: %w", gun, err)
	}
	return NewCertificateKey(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
