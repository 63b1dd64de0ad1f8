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

	"github.com/iechor/trust/server"
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

// withClients returns t such that it asks for client certificates in a way,
// and believes those that the authorities of the moment vouch for.
func withClients(t *tls.Config, ask tls.ClientAuthType, clients *watched[*x509.CertPool]) *tls.Config {
	var mu sync.Mutex
	var pool *x509.CertPool // that made was made with
	var made *tls.Config
	asking := t.Clone()
	asking.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		if now := clients.get(); now != pool {
			pool, made = now, t.Clone()
			made.ClientAuth, made.ClientCAs = ask, now
			// Each connection shows its certificate, to the authorities of now.
			made.SessionTicketsDisabled = true
		}
		return made, nil
	}
	return asking
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

// draining returns a context that ends some time after ctx: first ready is
// told, so that load balancers send requests elsewhere, and requests that come
// until they have noticed are answered. The caller must call release.
func draining(ctx context.Context, delay time.Duration, log *slog.Logger, ready func()) (late context.Context, release func()) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		ready()
		log.Info("not ready any more", "stopping_in", delay.String())
		wait := time.NewTimer(delay)
		defer wait.Stop()
		select {
		case <-wait.C:
			cancel()
		case <-late.Done():
		}
	})
	return late, func() { stop(); cancel() }
}

// serveMonitor serves health and metrics, h, at an address of their own until
// stop is called; with no address, not at all.
func serveMonitor(where string, h http.Handler, log *slog.Logger) (stop func(), err error) {
	if where == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", where)
	if err != nil {
		return nil, fmt.Errorf("metrics-listen: %w", err)
	}
	log.Info("health and metrics are served", "metrics_listen", l.Addr().String())
	m := server.HTTPServer(h, log)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health and metrics are not served any more", "err", err)
		}
	}()
	return func() {
		_ = m.Close() // whoever watches asks again
		<-ended
	}, nil
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
