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
	"time"
)

// certificateFiles says where a certificate and its key are, both PEM.
type certificateFiles struct {
	Certificate string `yaml:"certificate" usage:"file with the certificate chain, PEM"`
	Key         string `yaml:"key" usage:"file with the certificate's private key, PEM"`
}

// A reloader serves a certificate from files and takes up renewed ones.
type reloader struct{ *watched[*tls.Certificate] }

// newReloader loads the certificate once: a server without one does not start
// (attacks.md S4). name is the part of the configuration that names the files.
func newReloader(name string, f certificateFiles, log *slog.Logger) (*reloader, error) {
	if f.Certificate == "" || f.Key == "" {
		return nil, fmt.Errorf("%s.certificate and %[1]s.key must both be set", name)
	}
	w, err := watch("certificate", log, func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", f.Certificate, f.Key, err)
		}
		return &cert, nil
	}, f.Certificate, f.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &reloader{w}, nil
}

func (r *reloader) server(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.get(), nil }
func (r *reloader) client(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.get(), nil
}

// certPool reads a file of CA certificates.
func certPool(path string) (*x509.CertPool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	pool, err := parsePool(raw)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, path)
	}
	return pool, nil
}

func parsePool(raw []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, errors.New("no certificate")
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
