package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"
)

// A testCA signs certificates of servers.
type testCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{t, cert, key}
}

func (ca *testCA) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// serve starts a server on 127.0.0.1 whose certificate ca signs, after change
// has had its way with it. It answers with what it was sent.
func (ca *testCA) serve(change func(*x509.Certificate)) *httptest.Server {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body) // the test sees what is missing
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	ca.t.Cleanup(s.Close)
	return s
}

// A folder with authorities adds to those of the system, which are read only
// if the folder's are not enough; what is refused is refused by both.
func TestAuthoritiesOfFolderAndSystem(t *testing.T) {
	t.Parallel()
	private, public, stranger := newCA(t, "private"), newCA(t, "public"), newCA(t, "stranger")
	wrongHost := func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"trust.example"} }
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }
	wrongUse := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	for _, c := range []struct {
		name   string
		ca     *testCA
		change func(*x509.Certificate)
		refuse error // a type to be found in the error; nil: accepted
		loads  int64 // of the system's authorities
	}{
		{"private", private, nil, nil, 0},
		{"public", public, nil, nil, 1},
		{"stranger", stranger, nil, x509.UnknownAuthorityError{}, 1},
		{"private for another host", private, wrongHost, x509.HostnameError{}, 1},
		{"public for another host", public, wrongHost, x509.HostnameError{}, 1},
		{"private and expired", private, expired, x509.CertificateInvalidError{}, 1},
		{"public and expired", public, expired, x509.CertificateInvalidError{}, 1},
		{"private and early", private, early, x509.CertificateInvalidError{}, 1},
		{"public and early", public, early, x509.CertificateInvalidError{}, 1},
		{"private and not for servers", private, wrongUse, x509.CertificateInvalidError{}, 1},
		{"public and not for servers", public, wrongUse, x509.CertificateInvalidError{}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := c.ca.serve(c.change)
			var loads atomic.Int64
			h := remote(t, s.URL, func(o *HTTPConfig) {
				o.TLSDir = hostDir(t, s.URL, map[string][]byte{"ca.crt": private.pem()})
				o.testOnlySystem = func() (*x509.CertPool, error) {
					loads.Add(1)
					pool := x509.NewCertPool()
					pool.AddCert(public.cert)
					return pool, nil
				}
			})
			for _, body := range []string{"", "a body that has to be sent again"} {
				res, err := h.send(t.Context(), h.base, request{method: http.MethodPost, url: s.URL, body: []byte(body), limit: 100})
				switch {
				case c.refuse == nil && (err != nil || string(res.body) != body):
					t.Errorf("send(%q) = %+v, %v; want the same body back", body, res, err)
				case c.refuse != nil && !refusedAs(err, c.refuse):
					t.Errorf("send(%q) = %v, want ErrTLS with a %T", body, err, c.refuse)
				}
			}
			if got := loads.Load(); got != c.loads {
				t.Errorf("the system's authorities were read %d times, want %d", got, c.loads)
			}
		})
	}
}

func refusedAs(err, want error) bool {
	if !errors.Is(err, ErrTLS) || errors.Is(err, ErrUnreachable) {
		return false
	}
	switch want.(type) {
	case x509.UnknownAuthorityError:
		return errors.As(err, new(x509.UnknownAuthorityError))
	case x509.HostnameError:
		return errors.As(err, new(x509.HostnameError))
	}
	return errors.As(err, new(x509.CertificateInvalidError))
}

// The body of the first attempt may begin anywhere: a reader that cannot be
// read again is sent once, and checked with all authorities.
func TestAuthoritiesAndBodyOnce(t *testing.T) {
	t.Parallel()
	public := newCA(t, "public")
	s := public.serve(nil)
	h := remote(t, s.URL, func(o *HTTPConfig) {
		o.TLSDir = hostDir(t, s.URL, map[string][]byte{"ca.crt": newCA(t, "private").pem()})
		o.testOnlySystem = func() (*x509.CertPool, error) {
			pool := x509.NewCertPool()
			pool.AddCert(public.cert)
			return pool, nil
		}
	})
	client, err := h.client(h.base)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Post(s.URL, "text/plain", io.MultiReader(bytes.NewReader([]byte("once"))))
	if err != nil {
		t.Fatalf("Post = %v", err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); string(got) != "once" || err != nil {
		t.Errorf("the server got %q, %v", got, err)
	}
}

// A system without authorities has only the folder's; a login server may be
// of the trust server's authority.
func TestAuthoritiesWithoutSystem(t *testing.T) {
	t.Parallel()
	private := newCA(t, "private")
	s, login := private.serve(nil), private.serve(nil)
	other := newCA(t, "other").serve(nil)
	h := remote(t, s.URL, func(o *HTTPConfig) {
		o.TLSDir = hostDir(t, s.URL, map[string][]byte{"ca.crt": private.pem()})
		o.testOnlySystem = func() (*x509.CertPool, error) { return nil, errors.New("no pool") }
	})
	for address, want := range map[string]error{s.URL: nil, login.URL: nil, other.URL: ErrTLS} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.send(t.Context(), u, request{method: http.MethodGet, url: address, limit: 100}); !errors.Is(err, want) {
			t.Errorf("send to %s = %v, want %v", address, err, want)
		}
	}
}
