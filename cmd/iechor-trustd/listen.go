package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// certificateFiles says where a certificate and its key are, both PEM.
type certificateFiles struct {
	Certificate string `yaml:"certificate" usage:"file with the certificate chain, PEM"`
	Key         string `yaml:"key" usage:"file with the certificate's private key, PEM"`
}

// A reloader serves a certificate from files and takes up new ones when they
// change, so that a renewed certificate needs no restart. It is safe for
// concurrent use.
type reloader struct {
	files certificateFiles
	log   *slog.Logger
	now   func() time.Time // when to look again, not whether to trust

	mu      sync.Mutex
	checked time.Time        // guarded by mu
	seen    [2]time.Time     // guarded by mu: modification times of both files
	cert    *tls.Certificate // guarded by mu
	trouble string           // guarded by mu: what was logged last; empty if all is well
}

// lookEvery is how often the files are looked at, at most.
const lookEvery = time.Second

// newReloader loads the certificate once: a server without one does not start
// (attacks.md S4). name is the part of the configuration that names the files.
func newReloader(name string, f certificateFiles, log *slog.Logger) (*reloader, error) {
	r := &reloader{files: f, log: log, now: time.Now}
	if f.Certificate == "" || f.Key == "" {
		return nil, fmt.Errorf("%s.certificate and %[1]s.key must both be set", name)
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func (r *reloader) load() error {
	seen, err := r.times()
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(r.files.Certificate, r.files.Key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", r.files.Certificate, r.files.Key, err)
	}
	r.cert, r.seen = &cert, seen
	return nil
}

func (r *reloader) times() (t [2]time.Time, err error) {
	for i, name := range []string{r.files.Certificate, r.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return t, err
		}
		t[i] = info.ModTime()
	}
	return t, nil
}

// get returns the certificate, after a look at the files if the last one was a
// while ago. What cannot be loaded is logged once, and the old one goes on
// serving; the files may be half written, so they are tried again.
func (r *reloader) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Sub(r.checked) < lookEvery {
		return r.cert, nil
	}
	r.checked = now
	seen, err := r.times()
	changed := err == nil && seen != r.seen
	if changed {
		err = r.load()
	}
	switch {
	case err != nil && err.Error() != r.trouble:
		r.trouble = err.Error()
		r.log.Warn("certificate not reloaded", "file", r.files.Certificate, "err", err)
	case err == nil && changed:
		r.log.Info("certificate reloaded", "file", r.files.Certificate, "expires", r.cert.Leaf.NotAfter)
		fallthrough
	case err == nil:
		r.trouble = ""
	}
	return r.cert, nil
}

func (r *reloader) server(*tls.ClientHelloInfo) (*tls.Certificate, error)        { return r.get() }
func (r *reloader) client(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.get() }

// certPool reads a file of CA certificates.
func certPool(path string) (*x509.CertPool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return pool, nil
}

// drain is how long requests that are under way may take to end.
const drain = 20 * time.Second

// serveUntil serves on l until ctx ends, then lets requests finish.
func serveUntil(ctx context.Context, h *http.Server, l net.Listener, log *slog.Logger) error {
	failed := make(chan error, 1)
	go func() {
		if h.TLSConfig != nil {
			failed <- h.ServeTLS(l, "", "")
			return
		}
		failed <- h.Serve(l)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := h.Shutdown(end)
	<-failed // http.ErrServerClosed
	if err != nil {
		return fmt.Errorf("stop: requests were still under way after %v: %w", drain, err)
	}
	return nil
}
