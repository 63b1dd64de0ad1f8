package server

import (
	"errors"
	"net/http"

	"github.com/iechor/trust/certs"
)

// A CertificateAuth knows machines by the client certificates that TLS has
// verified, and lets through what the rules give to their names. It is safe for
// concurrent use if Next is.
type CertificateAuth struct {
	rules func() *Rules
	next  Authorizer
}

// NewCertificateAuth makes a CertificateAuth. Next, if it is not nil, decides
// about requests without a certificate, about those that bear a login of
// another kind, and about what the certificate is not enough for.
func NewCertificateAuth(rules func() *Rules, next Authorizer) (*CertificateAuth, error) {
	if rules == nil {
		return nil, errors.New("authentication by certificates needs rules")
	}
	return &CertificateAuth{rules, next}, nil
}

// Authorize implements [Authorizer]. There is no challenge for a certificate.
func (a *CertificateAuth) Authorize(r *http.Request, want Access) (Grant, error) {
	var who Identity
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		shown := certs.Identities(r.TLS.VerifiedChains[0][0])
		// People know a machine by its name, and not by its fingerprint.
		who.Certificate = append(shown[1:], shown[0])
	}
	if a.next == nil || who.known() && len(r.Header["Authorization"]) == 0 {
		if g, ok := a.rules().grant(who, want); ok {
			return g, nil
		}
	}
	if a.next == nil {
		return Grant{}, unauthorized(want, "")
	}
	return a.next.Authorize(r, want)
}
