package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// maxCertificate bounds a certificate or key file.
const maxCertificate = 1 << 20

// tlsDir returns the folder with the certificates for a host, "" if there is
// no place for them.
func (h *HTTP) tlsDir(host string) string {
	if h.c.TLSDir == "" {
		return ""
	}
	if runtime.GOOS == "windows" {
		host = strings.ReplaceAll(host, ":", "")
	}
	return filepath.Join(h.c.TLSDir, host)
}

// client returns the client for the host of u, made once. It follows no
// redirect and keeps no cookie.
func (h *HTTP) client(u *url.URL) (*http.Client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.clients[u.Host]; ok {
		return c, nil
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConnsPerHost:   2,
		ForceAttemptHTTP2:     true,
		// A header is read before anything is known about the answer.
		MaxResponseHeaderBytes: 64 << 10,
	}
	if u.Scheme == "https" {
		conf, err := h.tlsConfig(u)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = conf
	}
	if h.loopback && loopback(u.Hostname()) {
		// These connections may be unencrypted or unchecked: they must not
		// leave the machine, whatever a resolver or a proxy says.
		t.Proxy = nil
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return onlyLoopback(address) }
	}
	t.DialContext = dialer.DialContext
	c := &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	h.clients[u.Host] = c
	return c, nil
}

// tlsConfig reads the certificates for a host. A login server is checked
// with the trust server's authorities, too: whoever runs a private authority
// runs both.
func (h *HTTP) tlsConfig(u *url.URL) (*tls.Config, error) {
	dir := h.tlsDir(u.Host)
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // systems without a pool have only the folder's
	}
	known := false
	for _, d := range []string{dir, h.tlsDir(h.base.Host)} {
		found, err := addAuthorities(pool, d)
		if err != nil {
			return nil, &TLSError{u.Host, d, err}
		}
		known = known || found
	}
	pairs, err := clientCertificates(dir)
	if err != nil {
		return nil, &TLSError{u.Host, dir, err}
	}
	return &tls.Config{
		RootCAs: pool, Certificates: pairs, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: h.loopback && loopback(u.Hostname()) && !known,
	}, nil
}

// addAuthorities adds the certificates of all *.crt in dir.
func addAuthorities(pool *x509.CertPool, dir string) (found bool, err error) {
	names, err := namesIn(dir)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if filepath.Ext(name) != ".crt" {
			continue
		}
		path := filepath.Join(dir, name)
		raw, err := readBounded(path)
		if err != nil {
			return false, err
		}
		if !pool.AppendCertsFromPEM(raw) {
			return false, fmt.Errorf("%s has no certificate", path)
		}
		found = true
	}
	return found, nil
}

// clientCertificates reads the pairs NAME.cert, NAME.key in dir.
func clientCertificates(dir string) ([]tls.Certificate, error) {
	names, err := namesIn(dir)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool, len(names))
	for _, name := range names {
		have[name] = true
	}
	var pairs []tls.Certificate
	for _, name := range names {
		base, isCert := strings.CutSuffix(name, ".cert")
		if key, ok := strings.CutSuffix(name, ".key"); ok && !have[key+".cert"] {
			return nil, fmt.Errorf("missing client certificate %s for key %s", key+".cert", filepath.Join(dir, name))
		}
		if !isCert {
			continue
		}
		if !have[base+".key"] {
			return nil, fmt.Errorf("missing key %s for client certificate %s", base+".key", filepath.Join(dir, name))
		}
		cert, err := readBounded(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		key, err := readBounded(filepath.Join(dir, base+".key"))
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", filepath.Join(dir, name), err)
		}
		pairs = append(pairs, pair)
	}
	return pairs, nil
}

func namesIn(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxCertificate+1))
	if err == nil && len(raw) > maxCertificate {
		err = fmt.Errorf("%s is larger than a certificate can be", path)
	}
	return raw, err
}
