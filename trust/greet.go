package trust

import (
	"context"
	"net/http"
	"time"

	"github.com/iechor/trust/api"
)

// A Greeting is what a trust server shows to everybody.
type Greeting struct {
	Status int       // of the answer to GET /v2/: 200, or 401 if it wants a login
	Scheme string    // of that login: "basic" or "bearer", else empty
	Date   time.Time // of the server's clock, to the second; zero if it does not tell

	// Checked says that the certificate was verified, which it is not for a
	// server on this machine; see [HTTPConfig.TLSDir]. Expires is when the
	// certificate does, zero without one.
	Checked bool
	Expires time.Time
}

// Greet asks the server for nothing but its interface, without a login. The
// error matches [ErrUnreachable], [ErrTLS] or [ErrRedirect].
func (h *HTTP) Greet(ctx context.Context) (Greeting, error) {
	res, err := h.send(ctx, h.base, request{
		method: http.MethodGet, url: h.base.Scheme + "://" + h.base.Host + h.base.Path + "/v2/", limit: api.MaxErrorBody, fresh: true,
	})
	if err != nil {
		return Greeting{}, err
	}
	switch {
	case redirects(res):
		return Greeting{}, &RedirectError{h.Host(), res.header.Get("Location")}
	case res.status >= http.StatusInternalServerError:
		return Greeting{}, &ServerRefusal{h.Host(), res.refusal}
	}
	g := Greeting{Status: res.status}
	if c := parseChallenges(res.header.Values("WWW-Authenticate")); c != nil && res.status == http.StatusUnauthorized {
		g.Scheme = c.scheme
	}
	if at, err := http.ParseTime(res.header.Get("Date")); err == nil {
		g.Date = at
	}
	if res.tls != nil && len(res.tls.PeerCertificates) > 0 {
		g.Checked = len(res.tls.VerifiedChains) > 0
		g.Expires = res.tls.PeerCertificates[0].NotAfter
	}
	return g, nil
}
