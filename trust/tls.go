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
		if len(private) == 0 {
			t = build(conf)
		} else {
			t = newAnchors(conf, private, h.c.testOnlySystem, build)
		}
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
	for _, d := range dirs {
		found, err := readAuthorities(d)
		if err != nil {
			return nil, nil, &TLSError{u.Host, d, err}
		}
		private = append(private, found...)
	}
	pairs, err := clientCertificates(dir)
	if err != nil {
		return nil, nil, &TLSError{u.Host, dir, err}
	}
	return &tls.Config{
		Certificates: pairs, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: h.loopback && loopback(u.Hostname()) && len(private) == 0,
	}, private, nil
}

// readAuthorities reads all *.crt in dir, in PEM form.
func readAuthorities(dir string) ([][]byte, error) {
	names, err := namesIn(dir)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, name := range names {
		if filepath.Ext(name) != ".crt" {
			continue
		}
		path := filepath.Join(dir, name)
		raw, err := readBounded(path)
		if err != nil {
			return nil, err
		}
		if !x509.NewCertPool().AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("%s has no certificate", path)
		}
		all = append(all, raw)
	}
	return all, nil
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
