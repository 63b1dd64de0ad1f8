package trust

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// serve starts a plain server on this machine.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func remote(t *testing.T, base string, change ...func(*HTTPConfig)) *HTTP {
	t.Helper()
	c := HTTPConfig{Base: base, Version: "1.0"}
	for _, f := range change {
		f(&c)
	}
	h, err := NewHTTP(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range h.clients {
			c.CloseIdleConnections()
		}
	})
	return h
}

var timestampWant = tuf.Want{Role: tuf.RoleTimestamp, MaxLength: 1000}

func TestAddress(t *testing.T) {
	t.Parallel()
	for base, host := range map[string]string{
		"https://trust.example":           "trust.example",
		"https://trust.example:4443/":     "trust.example:4443",
		"https://trust.example/below/us/": "trust.example/below/us",
		"http://localhost:1":              "localhost:1",
		"http://127.0.0.2:80":             "127.0.0.2:80",
		"http://[::1]:80":                 "[::1]:80",
	} {
		h, err := NewHTTP(HTTPConfig{Base: base})
		if err != nil {
			t.Errorf("NewHTTP(%q): %v", base, err)
			continue
		}
		if h.Host() != host {
			t.Errorf("NewHTTP(%q).Host() = %q, want %q", base, h.Host(), host)
		}
	}
	for _, base := range []string{
		"", "trust.example", "http://trust.example", "http://localhost.evil.example", "http://127.0.0.1.evil.example", "ftp://localhost",
		"https://", "https://user@trust.example", "https://user:pw@trust.example", "https://trust.example?x", "https://trust.example/#x",
		"https://..", "https://:443", "https://trust.example/%2e%2e/x", "//trust.example", "https://a\nb",
	} {
		_, err := NewHTTP(HTTPConfig{Base: base})
		wantErr(t, fmt.Sprintf("NewHTTP(%q)", base), err, ErrAddress)
	}
	_, err := NewHTTP(HTTPConfig{Base: "http://trust.example.com"})
	if got, want := err.Error(), "valid https URL required for trust server, got http://trust.example.com"; got != want {
		t.Errorf("NewHTTP: %q, want %q", got, want)
	}
}

// The requests are those of the stock client (http-capture).
func TestHTTPRequests(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got, parts []string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Method+" "+r.URL.Path)
		if ua, want := r.UserAgent(), "iEchor-Client/1.0 ("+runtime.GOOS+")"; ua != want {
			t.Errorf("User-Agent %q, want %q", ua, want)
		}
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/tuf/") {
			_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
			if err != nil {
				t.Error(err)
				return
			}
			m := multipart.NewReader(r.Body, params["boundary"])
			for {
				p, err := m.NextRawPart()
				if err != nil {
					break
				}
				raw, _ := io.ReadAll(p)
				parts = append(parts, p.Header.Get("Content-Disposition")+" | "+p.Header.Get("Content-Type")+" | "+string(raw))
			}
			return
		}
		if strings.HasSuffix(r.URL.Path, ".key") {
			k, err := api.EncodeKey(newKey(t))
			if err != nil {
				t.Error(err)
			}
			w.Write(k)
			return
		}
		if r.Method != http.MethodDelete {
			io.WriteString(w, "{}")
		}
	})
	h := remote(t, s.URL+"/below")
	ctx := t.Context()
	hash := bytes.Repeat([]byte{0xab}, 32)
	for _, w := range []tuf.Want{
		{Role: tuf.RoleRoot, MaxLength: 9},
		{Role: tuf.RoleRoot, Version: 3, MaxLength: 9},
		{Role: "targets/releases", SHA256: hash, MaxLength: 9},
	} {
		if _, err := h.Fetch(ctx, app, w); err != nil {
			t.Errorf("Fetch(%v): %v", w, err)
		}
	}
	if err := h.Upload(ctx, app, []tuf.File{{Role: "targets", Raw: []byte("A")}, {Role: "targets/releases", Raw: []byte("B")}}); err != nil {
		t.Error(err)
	}
	if _, err := h.Key(ctx, app, tuf.RoleTimestamp); err != nil {
		t.Error(err)
	}
	if _, err := h.RotateKey(ctx, app, tuf.RoleSnapshot); err != nil {
		t.Error(err)
	}
	if err := h.Delete(ctx, app); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	base := "/below/v2/registry.example/team/app/_trust/tuf/"
	want := []string{
		"GET " + base + "root.json", "GET " + base + "3.root.json",
		"GET " + base + "targets/releases." + hex.EncodeToString(hash) + ".json",
		"POST " + base, "GET " + base + "timestamp.key", "POST " + base + "snapshot.key", "DELETE " + base,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	wantParts := []string{
		`form-data; name="files"; filename="targets" | application/octet-stream | A`,
		`form-data; name="files"; filename="targets/releases" | application/octet-stream | B`,
	}
	if diff := cmp.Diff(wantParts, parts); diff != "" {
		t.Errorf("parts of the upload (-want +got):\n%s", diff)
	}
}

func newKey(t *testing.T) tuf.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tuf.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// Each answer belongs to exactly one class.
func TestAnswers(t *testing.T) {
	t.Parallel()
	classes := []error{
		ErrNotSigned, ErrUnreachable, ErrUnauthorized, ErrNotTrustServer, ErrRedirect, ErrConflict, ErrTLS, ErrRealm, ErrGone,
	}
	invalid := func(f api.Fault, msg string) *api.Error {
		return api.NewError(api.InvalidUpdate, &api.Invalid{Fault: f, Msg: msg})
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   error // nil: a refusal of no class
		text   string
	}{
		{"no metadata", refuse(api.NewError(api.MetadataNotFound, nil)), ErrNotSigned, ""},
		{"410", status(410, ""), ErrNotSigned, ""},
		{"404 of something else", status(404, "404 page not found"), ErrNotTrustServer, ""},
		{"404 of a registry", status(404, `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}`), ErrNotTrustServer, ""},
		{"201", status(201, "{}"), ErrNotTrustServer, ""},
		{"204", status(204, ""), ErrNotTrustServer, ""},
		{"HTML", status(200, "<html><body>hello"), ErrNotTrustServer, ""},
		{"nothing", status(200, ""), ErrNotTrustServer, ""},
		{"401", status(401, ""), ErrUnauthorized, "you are not authorized to perform this operation: server returned 401."},
		{"403", status(403, ""), ErrUnauthorized, "you are not authorized to perform this operation: server returned 403."},
		{"500", status(500, "oops"), ErrUnreachable, "unable to reach trust server at this time: 500."},
		{"503", status(503, ""), ErrUnreachable, "unable to reach trust server at this time: 503."},
		{"429", status(429, ""), ErrUnreachable, ""},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/x", http.StatusFound)
		}, ErrRedirect, ""},
		{"redirect to itself", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusMovedPermanently)
		}, ErrRedirect, ""},
		{"304", status(304, ""), ErrNotTrustServer, ""},
		{"version", refuse(api.NewError(api.Version, api.Empty{})), ErrConflict, ""},
		{"409", status(409, ""), ErrConflict, ""},
		{"400", status(400, "what?"), nil, "trust server rejected operation."},
		{"bad prefix", refuse(api.NewError(api.InvalidGUN, "Require GUNs with prefix: [a/]")), nil, "trust server rejected operation: The server does not support actions on images of this name."},
		{"validation", refuse(invalid(api.BadValidation, "x")), nil, "An error occurred during validation: x"},
		{"hierarchy", refuse(invalid(api.BadHierarchy, "x")), nil, "Metadata hierarchy is incomplete: x"},
		{"root", refuse(invalid(api.BadRoot, "x")), nil, "The root metadata is invalid: x"},
		{"targets", refuse(invalid(api.BadTargets, "x")), nil, "The targets metadata is invalid: x"},
		{"snapshot", refuse(invalid(api.BadSnapshot, "x\x1b[31m\ny")), nil, "The snapshot metadata is invalid: x\ufffd[31m\ufffdy"},
		{"endless error", func(w http.ResponseWriter, r *http.Request) { // L3
			w.WriteHeader(400)
			flood(w, r, "x")
		}, nil, "trust server rejected operation."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := remote(t, serve(t, c.answer).URL)
			_, err := h.Fetch(t.Context(), app, timestampWant)
			for _, class := range classes {
				if got, want := errors.Is(err, class), class == c.want; got != want {
					t.Errorf("Fetch = %v; matches %q: %t, want %t", err, class, got, want)
				}
			}
			var refusal *ServerRefusal
			if c.want == nil && !errors.As(err, &refusal) {
				t.Errorf("Fetch = %v, want a ServerRefusal", err)
			}
			if c.text != "" && err.Error() != c.text {
				t.Errorf("Fetch: %q, want %q", err, c.text)
			}
		})
	}
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

func refuse(e *api.Error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { api.WriteError(w, e) }
}

// flood writes until the other side has enough, and counts.
func flood(w http.ResponseWriter, r *http.Request, s string) int64 {
	chunk := []byte(strings.Repeat(s, 1000))
	var n int64
	for r.Context().Err() == nil && n < 1<<30 {
		m, err := w.Write(chunk)
		n += int64(m)
		if err != nil {
			break
		}
	}
	return n
}

func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = remote(t, base).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch from nobody", err, ErrUnreachable)
	if !strings.HasPrefix(err.Error(), "dial tcp ") {
		t.Errorf("Fetch from nobody: %q, want the words of the system", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = remote(t, base).Fetch(ctx, app, timestampWant)
	wantErr(t, "Fetch when cancelled", err, context.Canceled)
	if errors.Is(err, ErrUnreachable) {
		t.Errorf("Fetch when cancelled = %v, which matches ErrUnreachable", err)
	}
}

func TestAttackEndlessData(t *testing.T) { // L2
	t.Parallel()
	h := remote(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{")
		flood(w, r, " ")
	}).URL)
	raw, err := h.Fetch(t.Context(), app, timestampWant)
	if err != nil || len(raw) != 1001 {
		t.Errorf("Fetch of endless data = %d bytes, %v, want 1001", len(raw), err)
	}
}

func TestAttackGzipBomb(t *testing.T) { // L7
	t.Parallel()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	io.WriteString(z, "{")
	for range 1000 {
		z.Write(make([]byte, 100_000))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Bool
	h := remote(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"))
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb.Bytes())
	}).URL)
	raw, err := h.Fetch(t.Context(), app, timestampWant)
	if err != nil || len(raw) != 1001 {
		t.Errorf("Fetch of a bomb = %d bytes, %v, want 1001", len(raw), err)
	}
	if !asked.Load() {
		t.Error("gzip was not asked for")
	}
}

func TestAttackSlowDrip(t *testing.T) { // L6
	t.Parallel()
	drip := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{")
		for r.Context().Err() == nil {
			w.(http.Flusher).Flush()
			if _, err := io.WriteString(w, " "); err != nil {
				return
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
	for name, change := range map[string]func(*HTTPConfig){
		"rate":     func(c *HTTPConfig) { c.testOnlyWindow, c.MinRate = 100*time.Millisecond, 1<<20 },
		"deadline": func(c *HTTPConfig) { c.Deadline = 100 * time.Millisecond },
	} {
		_, err := remote(t, drip.URL, change).Fetch(t.Context(), app, tuf.Want{Role: tuf.RoleTargets, MaxLength: 1 << 40})
		wantErr(t, "Fetch of a drip, bounded by "+name, err, ErrUnreachable)
		if want := map[string]error{"rate": errSlow, "deadline": errLate}[name]; !errors.Is(err, want) {
			t.Errorf("Fetch of a drip = %v, want %v", err, want)
		}
	}
	silent := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := remote(t, silent.URL, func(c *HTTPConfig) { c.Deadline = 50 * time.Millisecond }).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch from a silent server", err, ErrUnreachable)
}

// tlsServer starts a server with a certificate of its own authority, and
// returns the authority.
func tlsServer(t *testing.T) (*httptest.Server, []byte) {
	t.Helper()
	s := httptest.NewUnstartedServer(status(200, "{}"))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// hostDir makes the folder with the certificates for a server.
func hostDir(t *testing.T, base string, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	host := strings.TrimPrefix(base, "https://")
	if runtime.GOOS == "windows" {
		host = strings.ReplaceAll(host, ":", "")
	}
	if err := os.MkdirAll(filepath.Join(dir, host), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, host, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s, ca := tlsServer(t)
	cert, key := otherAuthority(t)
	fetch := func(files map[string][]byte) (string, error) {
		dir := hostDir(t, s.URL, files)
		h := remote(t, s.URL, func(c *HTTPConfig) { c.TLSDir = dir })
		_, err := h.Fetch(t.Context(), app, timestampWant)
		return h.tlsDir(h.base.Host), err
	}
	if _, err := fetch(nil); err != nil {
		t.Errorf("Fetch from this machine without an authority: %v", err)
	}
	if _, err := fetch(map[string][]byte{"ca.crt": ca}); err != nil {
		t.Errorf("Fetch with the right authority: %v", err)
	}
	dir, err := fetch(map[string][]byte{"ca.crt": cert})
	var e *TLSError
	if !errors.As(err, &e) || e.Dir != dir || errors.Is(err, ErrUnreachable) {
		t.Errorf("Fetch with the wrong authority = %v, want a TLSError with %s", err, dir)
	}
	for name, files := range map[string]map[string][]byte{
		"half a pair":       {"client.cert": cert},
		"the other half":    {"client.key": key},
		"an empty crt":      {"ca.crt": nil},
		"a broken key":      {"client.cert": cert, "client.key": []byte("x")},
		"a key as a crt":    {"ca.crt": key},
		"a pair in reverse": {"client.cert": key, "client.key": cert},
	} {
		_, err := fetch(files)
		wantErr(t, "Fetch with "+name, err, ErrTLS)
	}
	if _, err := fetch(map[string][]byte{"ca.crt": ca, "client.cert": cert, "client.key": key, "notes.txt": []byte("x")}); err != nil {
		t.Errorf("Fetch with a client certificate: %v", err)
	}
	// Not https at all.
	plain := serve(t, status(200, "{}"))
	_, err = remote(t, "https"+strings.TrimPrefix(plain.URL, "http")).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch by https from a plain server", err, ErrTLS)
}

// Only a server on this machine escapes the check of its certificate.
func TestAttackUncheckedCertificate(t *testing.T) {
	t.Parallel()
	for base, unchecked := range map[string]bool{
		"https://localhost:1": true, "https://127.0.0.1": true, "https://[::1]:5": true,
		"https://trust.example": false, "https://localhost.example": false, "https://10.0.0.1": false,
	} {
		h := remote(t, base)
		conf, _, err := h.tlsConfig(h.base)
		if err != nil || conf.InsecureSkipVerify != unchecked {
			t.Errorf("tlsConfig(%s) skips the check: %t, %v, want %t", base, conf.InsecureSkipVerify, err, unchecked)
		}
	}
	if err := onlyLoopback("192.0.2.1:443"); err == nil {
		t.Error("a connection to another machine was allowed for localhost")
	}
	if err := onlyLoopback("127.0.0.1:443"); err != nil {
		t.Error(err)
	}
}

// otherAuthority makes a self-signed certificate and its key, in PEM.
func otherAuthority(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// front serves an in-memory server over HTTP.
func front(s *server) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		route, err := api.ParsePath(r.URL.EscapedPath())
		if err != nil {
			api.WriteError(w, api.NewError(api.MetadataNotFound, nil))
			return
		}
		var body []byte
		switch {
		case route.Kind == api.Repository && r.Method == http.MethodPost:
			var files []tuf.File
			if files, err = api.ReadFiles(w, r, api.Limits{}); err == nil {
				err = s.Upload(r.Context(), route.GUN, files)
			}
		case route.Kind == api.Repository:
			err = s.Delete(r.Context(), route.GUN)
		case route.Kind == api.Key:
			var k tuf.PublicKey
			if k, err = s.key(r.Context(), route.GUN, route.Role, r.Method == http.MethodPost); err == nil {
				body, err = api.EncodeKey(k)
			}
		default:
			want := tuf.Want{Role: route.Role, Version: route.Version, MaxLength: 1 << 40}
			if route.Kind == api.FileByHash {
				want.SHA256 = route.SHA256[:]
			}
			body, err = s.Fetch(r.Context(), route.GUN, want)
		}
		var known *api.Error
		switch {
		case err == nil:
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.Write(body)
		case errors.As(err, &known):
			api.WriteError(w, known)
		case errors.Is(err, ErrNotSigned):
			api.WriteError(w, api.NewError(api.MetadataNotFound, api.Empty{}))
		default:
			api.WriteError(w, api.NewError(api.Unknown, nil))
		}
	}
}

func TestOverHTTP(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	h := remote(t, serve(t, front(s)).URL)
	overHTTP := func(c *Config) { c.Remote = h }
	owner := newClient(t, s, overHTTP)
	if _, err := owner.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	owner.publish(t, "1")
	delegate(t, owner, tuf.RoleReleases)
	signInto(t, owner, tuf.RoleReleases, "2")
	if _, err := owner.Rotate(t.Context(), Rotation{Role: tuf.RoleSnapshot, Server: true}); err != nil {
		t.Errorf("Rotate: %v", err)
	}
	reader := newClient(t, s, overHTTP)
	for _, tag := range []string{"1", "2"} {
		if _, err := reader.Resolve(t.Context(), tag); err != nil {
			t.Errorf("Resolve(%q): %v", tag, err)
		}
	}
	if err := owner.Delete(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	_, err := reader.Update(t.Context())
	wantErr(t, "Update after a deletion", err, ErrGone)
	_, err = owner.Update(t.Context())
	wantErr(t, "Update by the one who deleted", err, ErrNotSigned)
}

// What answers a change with a page, such as the login of a network, has not
// changed anything.
func TestHTTPPageIsNoAcknowledgement(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>welcome</html>") }))
	t.Cleanup(s.Close)
	h := remote(t, s.URL)
	err := h.Upload(t.Context(), app, []tuf.File{{Role: "targets", Raw: []byte("A")}})
	wantErr(t, "Upload answered with a page", err, ErrNotTrustServer)
	wantErr(t, "Upload answered with a page", err, ErrUnreachable)
	wantErr(t, "Delete answered with a page", h.Delete(t.Context(), app), ErrNotTrustServer)
}
