package signer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/certs"
	"github.com/iechor/trust/tuf"
)

// An authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, usage x509.ExtKeyUsage, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) client(t testing.TB, cn string, dns ...string) *tls.Certificate {
	return a.issue(t, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = cn, dns })
}

// start serves s until the test ends, and returns where.
func start(t testing.TB, s *Service, l net.Listener, c *tls.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
}

// serve serves w over TLS to clients of a.
func (w *world) serve(t testing.TB, a *authority, who map[string]Rights) (base string) {
	t.Helper()
	return w.serveService(t, a, w.service(t, w.table, who))
}

func (w *world) serveService(t testing.TB, a *authority, s *Service) (base string) {
	t.Helper()
	cert := a.issue(t, x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	config, err := ServerTLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }, a.pool)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	start(t, s, l, config)
	return "https://" + l.Addr().String()
}

func dial(t testing.TB, base string, a *authority, cert *tls.Certificate) *Client {
	t.Helper()
	c, err := Dial(base, func() *tls.Config { return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{*cert}} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The whole of a repository's life over the network, with every typed error.
func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	base := w.serve(t, a, map[string]Rights{"server.internal": {Sign: true, Create: true}, "operator": {Forget: true, Operate: true}})
	c := dial(t, base, a, a.client(t, "", "server.internal"))
	operator := dial(t, base, a, a.client(t, "operator"))
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if resp, err := c.http.Get(c.base + pathPing); err != nil || resp.Body.Close() != nil || resp.ProtoMajor != 2 {
		t.Errorf("the signer is called by %v, %v, want HTTP/2", resp, err)
	}
	s := newServer(t, w, c, app)
	s.publish(t, "one")
	backup := s.published
	s.publish(t, "two")
	s.publish(t, "three")
	if held, err := c.Holds(t.Context(), app, tuf.RoleTimestamp, s.timestampKey.CanonicalID()); !held || err != nil {
		t.Errorf("Holds = %v, %v, want true", held, err)
	}
	if held, err := c.Holds(t.Context(), app, tuf.RoleSnapshot, s.timestampKey.CanonicalID()); held || err != nil {
		t.Errorf("Holds(other role) = %v, %v, want false", held, err)
	}
	_, err := c.Sign(t.Context(), s.snapshotRequest(t, 2, "x"))
	wantFloor(t, "Sign below the floor", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 3})
	r := s.snapshotRequest(t, 9, "x")
	r.Key = s.timestampKey.CanonicalID()
	if _, err := c.Sign(t.Context(), r); !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Sign(another role's key) = %v, want ErrNoKey", err)
	}
	r.Payload = []byte("{}")
	_, err = c.Sign(t.Context(), r)
	wantRefusal(t, "Sign({})", err)

	s.published = backup
	_, err = s.prepare(t, "x")
	wantRestored(t, "Sign on a backup", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 2, Base: 1})
	floors, err := operator.Floors(t.Context(), app)
	if want := (Floor{1, 3, 2, 3, 2, 3}); err != nil || len(floors) != 1 || floors[0] != want {
		t.Errorf("Floors = %+v, %v, want %+v", floors, err, want)
	}
	if err := operator.LowerFloor(t.Context(), app, 1); err != nil {
		t.Fatal(err)
	}
	s.publish(t, "after")
	wantRestored(t, "MayBegin", c.MayBegin(t.Context(), app), api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 1})
	if err := operator.Forget(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if err := c.MayBegin(t.Context(), app); err != nil {
		t.Errorf("MayBegin after Forget = %v", err)
	}
	if s.create(t, tuf.RoleTimestamp).Equal(s.timestampKey) {
		t.Error("the key of a deleted repository was handed out again")
	}
	if log := w.log.String(); strings.Contains(log, `"_type"`) || !strings.Contains(log, `"identity":"server.internal"`) {
		t.Errorf("the log should name the identity and hold no content: %s", log)
	}
}

// attacks.md G1: no certificate, one of another authority, one that is for
// servers, one that has the right name by another authority, one that is not
// listed: nobody gets an answer.
func TestAttackUnknownCaller(t *testing.T) {
	t.Parallel()
	w, a, other := newWorld(t), newAuthority(t), newAuthority(t)
	all := Rights{Sign: true, Create: true}
	listed := a.client(t, "by fingerprint")
	base := w.serve(t, a, map[string]Rights{"server": all, "unix": all, certs.Identities(listed.Leaf)[0]: all})

	try := func(cert *tls.Certificate) error {
		config := &tls.Config{RootCAs: a.pool}
		if cert != nil {
			// Whatever authorities the server asks for.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		} else {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
		}
		c, err := Dial(base, func() *tls.Config { return config })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
		return errors.Join(err, c.Ping(t.Context()))
	}
	for what, cert := range map[string]*tls.Certificate{
		"none":                            nil,
		"another authority's":             other.client(t, "server"),
		"a server's":                      a.issue(t, x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) { c.Subject.CommonName = "server" }),
		"expired":                         a.issue(t, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.Subject.CommonName, c.NotAfter = "server", time.Now().Add(-time.Minute) }),
		"not listed":                      a.client(t, "another service"),
		"listed common name beside a SAN": a.client(t, "server", "another.service"),
		"named like the socket":           a.client(t, "unix"),
		"named like a fingerprint":        a.client(t, certs.Identities(listed.Leaf)[0]),
	} {
		if err := try(cert); err == nil {
			t.Errorf("a caller with this certificate was answered: %s", what)
		}
	}
	var n int
	if err := w.table.db.SQL().QueryRow("SELECT COUNT(*) FROM signer_keys").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d keys, %v, want none", n, err)
	}
	if err := try(a.client(t, "another service")); !errors.Is(err, ErrDenied) {
		t.Errorf("a caller who is not listed gets %v, want ErrDenied", err)
	}
	for what, cert := range map[string]*tls.Certificate{"by name": a.client(t, "server"), "by fingerprint": listed,
		"by DNS name": a.client(t, "x", "SERVER"), "by URI": a.issue(t, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: "server"}} })} {
		if err := try(cert); err != nil {
			t.Errorf("a listed caller, %s: %v", what, err)
		}
	}
}

// attacks.md G3: signing, making, forgetting and operating are rights of their
// own.
func TestAttackRightOfAnother(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	base := w.serve(t, a, map[string]Rights{"sign": {Sign: true}, "create": {Create: true}, "forget": {Forget: true}, "operate": {Operate: true}, "none": {}})
	key := newServer(t, w, w, app).timestampKey
	for _, who := range []string{"sign", "create", "forget", "operate", "none"} {
		c := dial(t, base, a, a.client(t, who))
		_, create := c.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
		begin := c.MayBegin(t.Context(), app)
		_, holds := c.Holds(t.Context(), app, tuf.RoleTimestamp, key.CanonicalID())
		_, sign := c.Sign(t.Context(), api.SignRequest{GUN: app, Role: tuf.RoleTimestamp})
		lower := c.LowerFloor(t.Context(), app, 5)
		_, floors := c.Floors(t.Context(), app)
		recall := c.Recall(t.Context(), "registry.example/unknown")
		forget := c.Forget(t.Context(), "registry.example/unknown")
		for what, v := range map[string]struct {
			err error
			may bool
		}{
			"create": {create, who == "create"}, "begin": {begin, who == "create"}, "holds": {holds, who == "sign" || who == "create" || who == "operate"}, "sign": {sign, who == "sign"},
			"lower": {lower, who == "operate"}, "recall": {recall, who == "operate"}, "floors": {floors, who == "operate" || who == "sign"}, "forget": {forget, who == "forget"}, "ping": {c.Ping(t.Context()), true},
		} {
			if denied := errors.Is(v.err, ErrDenied); denied == v.may {
				t.Errorf("%s by the identity with right %q = %v, want denied: %v", what, who, v.err, !v.may)
			}
		}
	}
}

// attacks.md G3: what a server may do and what an operator may do is never in
// one hand, neither of one identity nor of one certificate that shows two.
func TestAttackOneHand(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	for _, server := range []Rights{{Sign: true}, {Create: true}, {Sign: true, Create: true}} {
		for _, operator := range []Rights{{Forget: true}, {Operate: true}, {Forget: true, Operate: true}} {
			both := Rights{server.Sign, server.Create, operator.Forget, operator.Operate}
			if _, err := New(Config{Table: w.table, Identities: map[string]Rights{"x": both}}); err == nil {
				t.Errorf("New takes an identity with the rights %+v", both)
			}
			if err := errors.Join(server.Check(), operator.Check()); err != nil {
				t.Errorf("rights of one hand: %v", err)
			}
		}
	}
	both := a.client(t, "", "server.internal", "operator.internal")
	base := w.serve(t, a, map[string]Rights{"server.internal": {Sign: true, Create: true}, "operator.internal": {Forget: true}})
	c := dial(t, base, a, both)
	_, create := c.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
	for what, err := range map[string]error{"create": create, "forget": c.Forget(t.Context(), app), "ping": c.Ping(t.Context())} {
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "several identities: who may sign and create must not forget") {
			t.Errorf("%s by a certificate with both names = %v, want ErrDenied and why", what, err)
		}
	}
	// Nor by its name beside its fingerprint.
	server := a.client(t, "", "server.internal")
	base = w.serve(t, a, map[string]Rights{"server.internal": {Sign: true}, certs.Identities(server.Leaf)[0]: {Operate: true}})
	if err := dial(t, base, a, server).LowerFloor(t.Context(), app, 0); !errors.Is(err, ErrDenied) {
		t.Errorf("LowerFloor by a server that is listed twice = %v, want ErrDenied", err)
	}
	log := w.trail(t, AuditQuery{})
	if last := log[len(log)-1]; last.Event != AuditDenied || !strings.Contains(last.Detail, "who may sign must not operate") {
		t.Errorf("the audit log ends with %+v, want the refusal", last)
	}
	for who, want := range map[string]Rights{"server.internal": {Sign: true, Create: true}, "operator.internal": {Forget: true}} {
		base := w.serve(t, a, map[string]Rights{who: want})
		if may, err := dial(t, base, a, a.client(t, "", who)).May(t.Context()); may != want || err != nil {
			t.Errorf("May of %s = %+v, %v, want %+v", who, may, err, want)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir, err := os.MkdirTemp("", "signer") // t.TempDir is too long a path for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listen := func(name string, who map[string]Rights) *Client {
		path := filepath.Join(dir, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Skip("no Unix sockets here: ", err)
		}
		start(t, w.service(t, w.table, who), l, nil)
		c, err := Dial("unix:"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	s := newServer(t, w, listen("a", map[string]Rights{"unix": {Sign: true, Create: true}}), app)
	s.publish(t, "one")
	if err := s.Forget(t.Context(), app); !errors.Is(err, ErrDenied) {
		t.Errorf("Forget without the right = %v, want ErrDenied", err)
	}
	if err := listen("b", nil).Ping(t.Context()); !errors.Is(err, ErrDenied) {
		t.Errorf("Ping where the socket is not listed = %v, want ErrDenied", err)
	}
}

// A handler that is served without TLS by mistake answers nobody.
func TestPlainHTTPIsDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := map[string]Rights{"unix": {Sign: true, Create: true}, "server": {Sign: true}}
	h := httptest.NewServer(w.service(t, w.table, all).Handler())
	defer h.Close()
	resp, err := http.Get(h.URL + pathPing)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status = %d, want 403", resp.StatusCode)
	}
	// Nor one where the certificate was shown and not verified.
	r := httptest.NewRequest(http.MethodGet, pathPing, nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{newAuthority(t).client(t, "server").Leaf}}
	rec := httptest.NewRecorder()
	w.service(t, w.table, all).Handler().ServeHTTP(rec, r)
	if rec.Code != http.StatusForbidden {
		t.Errorf("status for an unverified certificate = %d, want 403", rec.Code)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Serve(t.Context(), l, nil); err == nil {
		t.Error("Serve without TLS on TCP should be refused")
	}
	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := w.Serve(t.Context(), l, &tls.Config{ClientAuth: tls.RequestClientCert}); err == nil {
		t.Error("Serve with optional client certificates should be refused")
	}
	if _, err := ServerTLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }, nil); err == nil {
		t.Error("ServerTLS without authorities should be refused")
	}
}

func TestStrictRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.service(t, w.table, map[string]Rights{"unix": {Sign: true, Create: true}})
	post := func(method, path, body string) int {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Net: "unix"}))
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		return rec.Code
	}
	good := `{"type":"ecdsa","role":"timestamp","gun":"registry.example/app"}`
	for _, c := range []struct {
		what, method, path, body string
		want                     int
	}{
		{"good", "POST", pathCreate, good, 200},
		{"unknown member", "POST", pathCreate, `{"type":"ecdsa","role":"timestamp","gun":"registry.example/app","force":true}`, 422},
		{"something behind it", "POST", pathCreate, good + good, 422},
		{"garbage behind it", "POST", pathCreate, good + "x", 422},
		{"empty", "POST", pathCreate, "", 422},
		{"another kind", "POST", pathCreate, `[]`, 422},
		{"another method", "GET", pathCreate, good, 405},
		{"a query", "POST", pathCreate + "?a=b", good, 404},
		{"unknown call", "POST", "/v1/export", good, 404},
		{"too large", "POST", pathCreate, strings.Repeat(" ", maxBody+1), 413},
	} {
		if got := post(c.method, c.path, c.body); got != c.want {
			t.Errorf("%s: status = %d, want %d", c.what, got, c.want)
		}
	}
	if strings.Contains(w.log.String(), "export") {
		t.Error("the log repeats a path that a caller made up")
	}
}

func TestDialRefusals(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	good := &tls.Config{Certificates: []tls.Certificate{*a.client(t, "x")}}
	for _, c := range []struct {
		base   string
		config *tls.Config
	}{
		{"http://localhost:1", good}, {"https://", good}, {"localhost:1", good}, {"https://u@localhost", good}, {"https://localhost/path", good}, {"", good},
		{"https://localhost", nil}, {"https://localhost", new(tls.Config)},
		{"https://localhost", &tls.Config{Certificates: good.Certificates, InsecureSkipVerify: true}},
		{"unix:relative", nil}, {"unix:/run/x", good},
	} {
		config := func() *tls.Config { return c.config }
		if c.config == nil && strings.HasPrefix(c.base, "unix:") {
			config = nil
		}
		if _, err := Dial(c.base, config); err == nil {
			t.Errorf("Dial(%q) should be refused", c.base)
		}
	}
}

// The client trusts the signer's arithmetic no more than it must.
func TestClientChecksAnswers(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	s := newServer(t, w, w, app)
	r := s.snapshotRequest(t, 1, "one")
	sig, err := w.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var answer []byte
	status := http.StatusOK
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/elsewhere" {
			_, _ = w.Write(answer)
			return
		}
		if status/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}))
	cert := a.issue(t, x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	h.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	h.StartTLS()
	defer h.Close()
	c := dial(t, h.URL, a, a.client(t, "x"))

	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	bad := bytes.Clone(sig.Value)
	bad[0] ^= 1
	good := encode(signAnswer{s.snapshotKey, sig.Method, sig.Value})
	private, err := generate(tuf.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := tuf.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	others, err := stranger.Sign(t.Context(), r.Payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		what   string
		status int
		answer []byte
		ok     bool
	}{
		{"the right one", 200, good, true},
		{"another key's good signature", 200, encode(signAnswer{stranger.PublicKey(), others.Method, others.Value}), false},
		{"a damaged signature", 200, encode(signAnswer{s.snapshotKey, sig.Method, bad}), false},
		{"another key", 200, encode(signAnswer{s.timestampKey, sig.Method, sig.Value}), false},
		{"no key", 200, []byte(`{}`), false},
		{"not JSON", 200, []byte(`<html>`), false},
		{"too large", 200, append(bytes.Clone(good), bytes.Repeat([]byte(" "), maxAnswer)...), false},
		{"a redirect", 307, good, false},
		{"an error that is not ours", 502, []byte(`<html>`), false},
	} {
		status, answer = v.status, v.answer
		got, err := c.Sign(t.Context(), r)
		if v.ok != (err == nil) {
			t.Errorf("Sign, answered with %s = %v, %v", v.what, got, err)
		}
		if errors.Is(err, ErrRefused) || errors.Is(err, tuf.ErrNoKey) || errors.Is(err, ErrDenied) {
			t.Errorf("Sign, answered with %s, looks like a verdict of the signer: %v", v.what, err)
		}
	}

	next := api.Successor{Key: s.timestampKey.CanonicalID(), Version: 1, Expires: w.clock().Add(time.Hour)}
	snapshot, timestamp, err := w.SignBoth(t.Context(), r, next)
	if err != nil {
		t.Fatal(err)
	}
	first, second := answerOf(signed{sig: snapshot, public: s.snapshotKey}), answerOf(signed{sig: timestamp, public: s.timestampKey})
	for _, v := range []struct {
		what   string
		status int
		answer []byte
		next   api.Successor
		want   error // errors.ErrUnsupported, or any other
	}{
		{"the right ones", 200, encode(bothAnswer{first, second}), next, nil},
		{"a signature of another snapshot", 200, encode(bothAnswer{signAnswer{s.snapshotKey, sig.Method, bad}, second}), next, errSome},
		{"no timestamp", 200, encode(bothAnswer{Snapshot: first}), next, errSome},
		{"a timestamp of another version", 200, encode(bothAnswer{first, second}), api.Successor{Key: next.Key, Version: 2, Expires: next.Expires}, errSome},
		{"the answer of a signer of an earlier version", 404, encode(wireError{Code: codeRefused, Message: "the signer has no such call"}), next, errors.ErrUnsupported},
		{"the answer of a signer with a token", 404, encode(wireError{Code: codeUnknown}), next, errors.ErrUnsupported},
	} {
		status, answer = v.status, v.answer
		_, _, err := c.SignBoth(t.Context(), r, v.next)
		if (err == nil) != (v.want == nil) || errors.Is(err, errors.ErrUnsupported) != (v.want == errors.ErrUnsupported) {
			t.Errorf("SignBoth, answered with %s: %v", v.what, err)
		}
	}
}

var errSome = errors.New("some error")

// A signer that dies in the middle of its answer is away, as one that does not
// answer: the same call can be made again.
func TestAnswerIsCutOff(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "signer") // t.TempDir is too long a path for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skip("no Unix sockets here: ", err)
	}
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"rights":["si`) // the test fails if it does not arrive
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})}
	go func() { _ = h.Serve(l) }() // until Close
	t.Cleanup(func() { _ = h.Close() })
	c, err := Dial("unix:"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); !errors.Is(err, api.ErrUnavailable) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Ping = %v, want ErrUnavailable", err)
	}
}
