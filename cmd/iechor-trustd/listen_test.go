package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An authority issues the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate, PEM
}

func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(dir, name+"-ca.crt")}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true}
	a.cert, a.key = a.make(t, template, nil)
	write(t, a.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	return a
}

// make makes a key and its certificate, which parent signed; nil: itself.
func (a *authority) make(t testing.TB, template *x509.Certificate, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64)); err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	issuer, issuerKey := template, key
	if parent != nil {
		issuer, issuerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue writes a certificate for a DNS name and 127.0.0.1 to dir/name.crt and
// dir/name.key.
func (a *authority) issue(t testing.TB, dir, name, dns string) certificateFiles {
	t.Helper()
	cert, key := a.make(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: dns}, DNSNames: []string{dns}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := certificateFiles{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	write(t, f.Certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	write(t, f.Key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return f
}

// lines keeps a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestCertificateReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "test")
	f := ca.issue(t, dir, "server", "first.example")
	var log lines
	r, err := newReloader("tls", f, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.now = func() time.Time { return now }
	modified := now
	touch := func() {
		t.Helper()
		modified = modified.Add(time.Second) // however coarse the file system's clock is
		for _, name := range []string{f.Certificate, f.Key} {
			if err := os.Chtimes(name, modified, modified); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	serves := func(when, want string, logged ...string) {
		t.Helper()
		now = now.Add(lookEvery)
		c, err := r.server(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Leaf.DNSNames[0]; got != want {
			t.Errorf("%s: serves %s, want %s", when, got, want)
		}
		if got := log.String(); strings.Count(got, "\n") != len(logged) {
			t.Errorf("%s: log %q, want %d lines", when, got, len(logged))
		} else {
			for i, line := range strings.Split(strings.TrimSpace(got), "\n") {
				if len(logged) > 0 && !strings.Contains(line, logged[i]) {
					t.Errorf("%s: line %q, want %q in it", when, line, logged[i])
				}
			}
		}
	}
	serves("at first", "first.example")
	key, err := os.ReadFile(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca.issue(t, dir, "server", "second.example")
	renewed, err := os.ReadFile(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.Key, string(key)) // the new certificate with the old key
	touch()
	if c, err := r.client(nil); err != nil || c.Leaf.DNSNames[0] != "first.example" {
		t.Errorf("looked again within a second: %v, %v", c.Leaf.DNSNames, err)
	}
	serves("half renewed", "first.example", "not reloaded")
	serves("half renewed still", "first.example", "not reloaded")
	write(t, f.Key, string(renewed))
	touch()
	serves("renewed", "second.example", "not reloaded", "level=INFO msg=\"certificate reloaded\"")
	write(t, f.Certificate, "broken")
	touch()
	serves("broken", "second.example", "not reloaded", "certificate reloaded", "level=WARN msg=\"certificate not reloaded\"")
	if err := os.Remove(f.Certificate); err != nil {
		t.Fatal(err)
	}
	serves("gone", "second.example", "not reloaded", "certificate reloaded", "not reloaded", "no such file")
	ca.issue(t, dir, "server", "third.example")
	touch()
	serves("back", "third.example", "not reloaded", "certificate reloaded", "not reloaded", "not reloaded", "certificate reloaded")
}

// TestAttackServerWithoutCertificate: S4.
func TestAttackServerWithoutCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "test")
	good, other := ca.issue(t, dir, "good", "good.example"), ca.issue(t, dir, "other", "other.example")
	write(t, filepath.Join(dir, "empty"), "")
	none := filepath.Join(dir, "none")
	for _, tt := range []struct {
		files certificateFiles
		want  string
	}{
		{certificateFiles{}, "tls.certificate and tls.key must both be set"},
		{certificateFiles{Certificate: good.Certificate}, "tls.certificate and tls.key must both be set"},
		{certificateFiles{Key: good.Key}, "tls.certificate and tls.key must both be set"},
		{certificateFiles{none, good.Key}, "none: no such file"},
		{certificateFiles{good.Certificate, none}, "none: no such file"},
		{certificateFiles{good.Certificate, other.Key}, "does not match"},
		{certificateFiles{filepath.Join(dir, "empty"), good.Key}, "tls: certificate "},
		{certificateFiles{good.Key, good.Certificate}, "tls: certificate "},
	} {
		if r, err := newReloader("tls", tt.files, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("newReloader(%v) = %v, %v, want %q", tt.files, r, err, tt.want)
		}
	}
	if _, err := certPool(filepath.Join(dir, "empty")); err == nil || !strings.Contains(err.Error(), "no certificate in ") {
		t.Errorf("certPool of an empty file = %v", err)
	}
	if _, err := certPool(none); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("certPool of no file = %v", err)
	}
}

// A request that is under way when the server is told to stop is answered, and
// a renewed certificate is served to the next client.
func TestServeUntil(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "test")
	log := slog.New(slog.DiscardHandler)
	r, err := newReloader("tls", ca.issue(t, dir, "server", "first.example"), log)
	if err != nil {
		t.Fatal(err)
	}
	arrived, finish := make(chan bool), make(chan bool)
	h := &http.Server{
		TLSConfig: &tls.Config{GetCertificate: r.server},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			arrived <- true
			<-finish
			_, _ = w.Write([]byte("done"))
		}),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveUntil(ctx, h, l, log) }()
	client := httpClient(t, ca, nil)
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Get("https://" + l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		answer <- resp.Status
	}()
	<-arrived
	stop()
	select {
	case err := <-ended:
		t.Fatalf("serveUntil returned %v while a request was under way", err)
	case finish <- true:
	}
	if got := <-answer; got != "200 OK" {
		t.Errorf("answer = %s, want 200 OK", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("serveUntil = %v", err)
	}
	if err := serveUntil(t.Context(), &http.Server{}, l, log); err == nil || !strings.HasPrefix(err.Error(), "serve: ") {
		t.Errorf("serveUntil on a closed listener = %v", err)
	}
}

// httpClient trusts one authority and shows a certificate, nil for none.
func httpClient(t testing.TB, ca *authority, show *certificateFiles) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: clientTLS(t, ca, show), ForceAttemptHTTP2: true, ExpectContinueTimeout: patience}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func clientTLS(t testing.TB, ca *authority, show *certificateFiles) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if show != nil {
		pair, err := tls.LoadX509KeyPair(show.Certificate, show.Key)
		if err != nil {
			t.Fatal(err)
		}
		// Shown whatever authorities the server asks for.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c
}
