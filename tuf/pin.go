package tuf

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"
)

// A Pin decides which keys of a root may speak for gun. rootKeys are the keys
// of the root role whose certificates fit the GUN and have not expired; first
// is true when nothing was trusted before. The root's threshold is counted
// over the returned keys only, so a key that is listed and did not sign helps
// nobody. Errors are [RootRefusal].
type Pin interface {
	Trusted(gun GUN, rootKeys []PublicKey, first bool, now time.Time) ([]PublicKey, error)
}

// FirstUse admits whatever root comes first, and after that the roots that
// follow from it.
type FirstUse struct{}

// Trusted implements [Pin].
func (FirstUse) Trusted(_ GUN, keys []PublicKey, _ bool, _ time.Time) ([]PublicKey, error) {
	return keys, nil
}

// NoFirstUse admits only roots that follow from one that is trusted already.
type NoFirstUse struct{}

// Trusted implements [Pin].
func (NoFirstUse) Trusted(_ GUN, keys []PublicKey, first bool, _ time.Time) ([]PublicKey, error) {
	if first {
		return nil, &RootRefusal{Reason: FirstUseRefused}
	}
	return keys, nil
}

// KeyPin admits the keys it names: by the id of the certificate of this one
// repository, or by the id of the key file, which is the same for all
// repositories of an owner.
type KeyPin struct {
	Certificates []KeyID
	Keys         []CanonicalID
}

// Trusted implements [Pin].
func (p KeyPin) Trusted(_ GUN, keys []PublicKey, _ bool, _ time.Time) ([]PublicKey, error) {
	var out []PublicKey
	for _, k := range keys {
		if slices.Contains(p.Certificates, k.ID()) || slices.Contains(p.Keys, k.CanonicalID()) {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, &RootRefusal{Reason: NoPinMatch}
	}
	return out, nil
}

// CAPin admits keys whose certificate was issued, through the certificates
// bundled with it, by one of the authorities; without authorities, none. Every certificate of the chain
// must be valid now (attacks.md K14), and the leaf must be for code signing,
// for servers, or for anything.
type CAPin struct{ Authorities *x509.CertPool }

// Trusted implements [Pin].
func (p CAPin) Trusted(_ GUN, keys []PublicKey, _ bool, now time.Time) ([]PublicKey, error) {
	if p.Authorities == nil {
		// Package x509 would take the system's authorities.
		return nil, &RootRefusal{Reason: NoPinMatch}
	}
	var out []PublicKey
	for _, k := range keys {
		certs, err := k.Certificates()
		if err != nil {
			continue
		}
		between := x509.NewCertPool()
		for _, c := range certs[1:] {
			between.AddCert(c)
		}
		_, err = certs[0].Verify(x509.VerifyOptions{
			Roots: p.Authorities, Intermediates: between, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning, x509.ExtKeyUsageServerAuth},
		})
		if err == nil {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, &RootRefusal{Reason: NoPinMatch}
	}
	return out, nil
}

// A PinRule applies a Pin to the repositories that its pattern names: a GUN,
// or the beginning of GUNs followed by "*".
type PinRule struct {
	Pattern string
	Pin     Pin
}

// Pins chooses one Pin for each repository (notary-protocol 7.3): among the
// rules that match, one for exactly that GUN, else the one with the longest
// pattern, and of equal ones the first; without a match, Otherwise. Keys
// named in Denied are never admitted, and vouch for no successor
// (attacks.md R13).
type Pins struct {
	Rules     []PinRule
	Otherwise Pin // nil: FirstUse
	Denied    []CanonicalID
}

// For returns the rule that decides about gun, and false if none matches.
func (p Pins) For(gun GUN) (PinRule, bool) {
	best, found := PinRule{}, false
	for _, r := range p.Rules {
		if r.Pattern == string(gun) {
			return r, true
		}
		prefix, wild := strings.CutSuffix(r.Pattern, "*")
		if wild && strings.HasPrefix(string(gun), prefix) && (!found || len(r.Pattern) > len(best.Pattern)) {
			best, found = r, true
		}
	}
	return best, found
}

// A Denier is a Pin that knows keys which must not vouch for anything: neither
// for a repository, nor for the root that is to follow theirs.
type Denier interface{ Denies(k PublicKey) bool }

// Denies implements [Denier].
func (p Pins) Denies(k PublicKey) bool { return slices.Contains(p.Denied, k.CanonicalID()) }

// Trusted implements [Pin].
func (p Pins) Trusted(gun GUN, keys []PublicKey, first bool, now time.Time) ([]PublicKey, error) {
	allowed := slices.DeleteFunc(slices.Clone(keys), p.Denies)
	if len(allowed) == 0 {
		return nil, &RootRefusal{Reason: Denied}
	}
	var pin Pin = FirstUse{}
	if p.Otherwise != nil {
		pin = p.Otherwise
	}
	if r, ok := p.For(gun); ok {
		pin = r.Pin
	}
	return pin.Trusted(gun, allowed, first, now)
}
