package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
)

// Unix is who calls over a Unix socket. No certificate has that name.
const Unix = "unix"

// fingerprint begins the name that stands for one key.
const fingerprint = "sha256:"

// Identities returns the names that a client certificate, which must have been
// verified, shows: first "sha256:" and the hexadecimal SHA-256 of its public
// key, then its DNS names in lower case and its URIs, or its common name if it
// has neither.
func Identities(c *x509.Certificate) []string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	out := []string{fingerprint + hex.EncodeToString(sum[:])}
	for _, name := range c.DNSNames {
		out = append(out, strings.ToLower(name))
	}
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	// An authority that checks names puts them in the extension, and may let
	// the applicant choose the common name.
	if len(out) == 1 && c.Subject.CommonName != "" {
		out = append(out, c.Subject.CommonName)
	}
	// No certificate speaks for the socket or for another's fingerprint.
	return append(out[:1], slices.DeleteFunc(out[1:], func(n string) bool {
		return n == Unix || strings.HasPrefix(n, fingerprint)
	})...)
}
