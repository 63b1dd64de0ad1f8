package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
// change, so that a renewed certificate needs no restart.
type reloader struct {
	files certificateFiles
	log   *slog.Logger

	mu      sync.Mutex
	checked time.Time
	seen    [2]time.Time // modification times of both files
	cert    *tls.Certificate
}

// newReloader loads the certificate once: a server without one does not start
// (attacks.md S4).
func newReloader(f certificateFiles, log *slog.Logger) (*reloader, error) {
	r := &reloader{files: f, log: log}
	if f.Certificate == "" || f.Key == "" {
		return nil, errors.New("tls: both certificate and key must be named")
	}
	return r, r.load()
}

func (r *reloader) load() error {
	seen, err := r.times()
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(r.files.Certificate, r.files.Key)
	if err != nil {
		return fmt.Errorf("tls certificate %s with key %s: %w", r.files.Certificate, r.files.Key, err)
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

// get returns the certificate, and looks at the files once a second at most.
// What cannot be loaded is logged, and the old one goes on serving.
func (r *reloader) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.checked) > time.Second {
		r.checked = now
		if seen, err := r.times(); err != nil || seen != r.seen {
			if err == nil {
				err = r.load()
			}
			if err != nil {
				r.log.Warn("certificate not reloaded", "file", r.files.Certificate, "err", err)
			} else {
				r.log.Info("certificate reloaded", "file", r.files.Certificate)
			}
		}
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
		return err
	case <-ctx.Done():
	}
	log.Info("stopping")
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := h.Shutdown(end)
	if serr := <-failed; err == nil && !errors.Is(serr, http.ErrServerClosed) {
		err = serr
	}
	return err
}
