package trust

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/iechor/trust/certs"
)

// tlsDir returns the folder with the certificates for a host, "" if there is
// no place for them.
func (h *HTTP) tlsDir(host string) string { return certs.Dir(h.c.TLSDir, host) }

// client returns the client for the host of u, made once. It follows no
// redirect and keeps no cookie.
func (h *HTTP) client(u *url.URL) (*http.Client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.clients[u.Host]; ok {
		return c, nil
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	proxy := http.ProxyFromEnvironment
	if h.loopback && loopback(u.Hostname()) {
		// These connections may be unencrypted or unchecked: they must not
		// leave the machine, whatever a resolver or a proxy says.
		proxy = nil
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return onlyLoopback(address) }
	}
	build := func(conf *tls.Config) *http.Transport {
		return &http.Transport{
			Proxy:                 proxy,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       conf,
			TLSHandshakeTimeout:   handshakeTimeout,
			ResponseHeaderTimeout: headerTimeout,
			MaxIdleConnsPerHost:   2,
			ForceAttemptHTTP2:     true,
			// A header is read before anything is known about the answer.
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	var t http.RoundTripper
	if u.Scheme == "https" {
		conf, private, err := h.tlsConfig(u)
		if err != nil {
			return nil, err
		}
		t = certs.NewTransport(conf, private, h.c.testOnlySystem, build)
	} else {
		t = build(nil)
	}
	c := &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	h.clients[u.Host] = c
	return c, nil
}

// tlsConfig reads the certificates for a host: a configuration, which checks
// with the system's authorities, and the folder's authorities in PEM form,
// which count as well. A login server is checked with the trust server's
// authorities, too: whoever runs a private authority runs both.
func (h *HTTP) tlsConfig(u *url.URL) (conf *tls.Config, private [][]byte, err error) {
	dir := h.tlsDir(u.Host)
	dirs := []string{dir}
	if own := h.tlsDir(h.base.Host); own != dir {
		dirs = append(dirs, own)
	}
	var pairs []tls.Certificate
	for _, d := range dirs {
		found, err := certs.Read(d)
		if err != nil {
			return nil, nil, &TLSError{u.Host, d, err}
		}
		private = append(private, found.Authorities...)
		if d == dir {
			pairs = found.Pairs
		}
	}
	return &tls.Config{
		Certificates: pairs, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: h.loopback && loopback(u.Hostname()) && len(private) == 0,
	}, private, nil
}
