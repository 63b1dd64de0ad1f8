package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
)

// NewTransport returns the transport to a host whose certificate may be of an
// authority in its folder, or of one of the system's. As the system has a
// hundred and more, which take longer to read than most requests to answer,
// the folder's are tried alone first. private are those, in PEM form; build
// makes a transport that checks with the given configuration. system is
// x509.SystemCertPool if nil. Without private ones the result is what build
// makes of conf.
func NewTransport(conf *tls.Config, private [][]byte, system func() (*x509.CertPool, error), build func(*tls.Config) *http.Transport) Transport {
	if len(private) == 0 {
		return build(conf)
	}
	if system == nil {
		system = x509.SystemCertPool
	}
	with := func(pool *x509.CertPool) *http.Transport {
		for _, pem := range private {
			pool.AppendCertsFromPEM(pem)
		}
		c := conf.Clone()
		c.RootCAs = pool
		return build(c)
	}
	return &anchors{
		few: with(x509.NewCertPool()),
		all: sync.OnceValue(func() *http.Transport {
			pool, err := system()
			if err != nil {
				pool = x509.NewCertPool() // systems without a pool have only the folder's
			}
			return with(pool)
		}),
	}
}

// A Transport is a RoundTripper whose idle connections can be closed.
type Transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// anchors check certificates first with few authorities, then with all.
// Each check is crypto/tls's own and whole, of another connection. All holds
// the few, so what is accepted is what a check with all alone would accept.
type anchors struct {
	few  *http.Transport
	all  func() *http.Transport // made at the first call
	wide atomic.Bool            // few were not enough
}

// RoundTrip implements [http.RoundTripper]. A request that was refused for the
// certificate has not been sent, not even in part, so it can be sent again.
func (a *anchors) RoundTrip(r *http.Request) (*http.Response, error) {
	empty := r.Body == nil || r.Body == http.NoBody
	if a.wide.Load() || !empty && r.GetBody == nil {
		return a.send(r)
	}
	res, err := a.few.RoundTrip(r)
	var refused *tls.CertificateVerificationError
	if !errors.As(err, &refused) {
		return res, err
	}
	if !empty {
		body, again := r.GetBody()
		if again != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
	return a.send(r)
}

func (a *anchors) send(r *http.Request) (*http.Response, error) {
	a.wide.Store(true)
	return a.all().RoundTrip(r)
}

// CloseIdleConnections is for [http.Client.CloseIdleConnections].
func (a *anchors) CloseIdleConnections() {
	a.few.CloseIdleConnections()
	if a.wide.Load() {
		a.all().CloseIdleConnections()
	}
}
