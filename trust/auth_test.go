package trust

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// A guarded is a trust server that wants logins, with its login server.
type guarded struct {
	trust, login *httptest.Server

	mu       sync.Mutex
	requests []string
	valid    map[string]bool // tokens
	issued   int
	answer   func(w http.ResponseWriter, r *http.Request) bool // of the login server, if true
	realm    string                                            // "": the login server's
}

func newGuarded(t *testing.T) *guarded {
	g := &guarded{valid: make(map[string]bool)}
	g.login = serve(t, func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		g.requests = append(g.requests, "login "+r.Method+" "+r.Form.Encode()+" "+r.Header.Get("Authorization"))
		if g.answer != nil && g.answer(w, r) {
			return
		}
		g.issued++
		token := fmt.Sprintf("token-%d-%s", g.issued, base64.RawURLEncoding.EncodeToString([]byte(r.Form.Get("scope"))))
		g.valid[token] = true
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":60}`, token)
	})
	g.trust = serve(t, func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		g.requests = append(g.requests, r.Method+" "+r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		if g.valid[token] {
			if r.Method == http.MethodGet { // what is done has no answer
				io.WriteString(w, "{}")
			}
			return
		}
		realm := g.realm
		if realm == "" {
			realm = g.login.URL + "/auth/token?kind=x"
		}
		// The scope that it asks for is not what we need, and is ignored.
		e := api.NewError(api.Unauthorized, nil)
		e.Challenge = fmt.Sprintf(`Basic realm="x", Bearer realm="%s",service="notary-svc", scope="repository:evil:*",error="invalid_token"`, realm)
		api.WriteError(w, e)
	})
	return g
}

func (g *guarded) seen() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.requests
	g.requests = nil
	return out
}

func alice(context.Context, string) (Credential, error) {
	return Credential{User: "alice", Password: "secret"}, nil
}

func withLogin(c Credentials) func(*HTTPConfig) {
	return func(h *HTTPConfig) { h.Credentials = c }
}

func TestTokens(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	var hosts []string
	h := remote(t, g.trust.URL, withLogin(func(ctx context.Context, host string) (Credential, error) {
		hosts = append(hosts, host)
		return alice(ctx, host)
	}))
	fetch := func() {
		t.Helper()
		if _, err := h.Fetch(t.Context(), app, timestampWant); err != nil {
			t.Errorf("Fetch: %v", err)
		}
	}
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, g.seen()); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	}
	login := func(actions string) string {
		q := url.Values{
			"kind": {"x"}, "account": {"alice"}, "service": {"notary-svc"}, "scope": {"repository:registry.example/team/app:" + actions},
		}
		return "login GET " + q.Encode() + " Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	}
	fetch()
	check("GET timestamp.json", login("pull"), "GET timestamp.json")
	fetch()
	check("GET timestamp.json")
	if err := h.Upload(t.Context(), app, []tuf.File{{Role: "targets", Raw: []byte("x")}}); err != nil {
		t.Errorf("Upload: %v", err)
	}
	check(login("pull,push"), "POST ")
	if err := h.Delete(t.Context(), app); err != nil {
		t.Errorf("Delete: %v", err)
	}
	check(login("*"), "DELETE ")
	// A token that has run out is replaced.
	g.mu.Lock()
	clear(g.valid)
	g.mu.Unlock()
	fetch()
	check("GET timestamp.json", login("pull"), "GET timestamp.json")
	if diff := cmp.Diff([]string{"registry.example"}, hosts); diff != "" {
		t.Errorf("credentials asked for (-want +got):\n%s", diff)
	}
}

func TestAnonymousAndIdentityTokens(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	h := remote(t, g.trust.URL)
	if _, err := h.Fetch(t.Context(), app, timestampWant); err != nil {
		t.Errorf("Fetch without a login: %v", err)
	}
	if got := g.seen()[1]; strings.Contains(got, "account") || strings.Contains(got, "Basic") {
		t.Errorf("anonymous token request: %s", got)
	}
	h = remote(t, g.trust.URL, withLogin(func(context.Context, string) (Credential, error) { return Credential{Token: "identity"}, nil }))
	if _, err := h.Fetch(t.Context(), app, timestampWant); err != nil {
		t.Errorf("Fetch with an identity token: %v", err)
	}
	want := "login POST client_id=iechor-client&grant_type=refresh_token&kind=x&refresh_token=identity&scope=repository%3Aregistry.example%2Fteam%2Fapp%3Apull&service=notary-svc "
	if got := g.seen()[1]; got != want {
		t.Errorf("token request:\n got %s\nwant %s", got, want)
	}
}

func TestLoginFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool
		want   error
	}{
		"wrong password": {func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(401); return true }, ErrUnauthorized},
		"forbidden":      {func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true }, ErrUnauthorized},
		"bad grant":      {func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(400); return true }, ErrUnauthorized},
		"down":           {func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }, ErrUnreachable},
		"not JSON":       {func(w http.ResponseWriter, _ *http.Request) bool { io.WriteString(w, "<html>"); return true }, ErrUnauthorized},
		"no token":       {func(w http.ResponseWriter, _ *http.Request) bool { io.WriteString(w, "{}"); return true }, ErrUnauthorized},
		"header in token": {func(w http.ResponseWriter, _ *http.Request) bool {
			io.WriteString(w, `{"token":"a\r\nX-Evil: 1"}`)
			return true
		}, ErrUnauthorized},
		"useless token": {func(w http.ResponseWriter, _ *http.Request) bool { io.WriteString(w, `{"token":"x"}`); return true }, ErrUnauthorized},
		"endless": {func(w http.ResponseWriter, r *http.Request) bool {
			io.WriteString(w, `{"token":"`)
			flood(w, r, "x")
			return true
		}, ErrUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t)
			g.answer = c.answer
			_, err := remote(t, g.trust.URL, withLogin(alice)).Fetch(t.Context(), app, timestampWant)
			wantErr(t, "Fetch", err, c.want)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("Fetch: %q tells the password", err)
			}
		})
	}
	broken := errors.New("no such helper program")
	g := newGuarded(t)
	_, err := remote(t, g.trust.URL, withLogin(func(context.Context, string) (Credential, error) { return Credential{}, broken })).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch with credentials that cannot be read", err, broken)
}

func TestBasic(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		if user, password, _ := r.BasicAuth(); user == "alice" && password == "secret" {
			io.WriteString(w, "{}")
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="trust"`)
		w.WriteHeader(401)
	})
	h := remote(t, s.URL, withLogin(alice))
	for range 2 {
		if _, err := h.Fetch(t.Context(), app, timestampWant); err != nil {
			t.Errorf("Fetch: %v", err)
		}
	}
	if got := n.Load(); got != 3 {
		t.Errorf("%d requests, want 3", got)
	}
	_, err := remote(t, s.URL).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch without a login", err, ErrUnauthorized)
	if !strings.HasPrefix(err.Error(), "no basic auth credentials") {
		t.Errorf("Fetch without a login: %q", err)
	}
	n.Store(0)
	h = remote(t, s.URL, withLogin(func(context.Context, string) (Credential, error) {
		return Credential{User: "alice", Password: "wrong"}, nil
	}))
	for range 2 {
		_, err = h.Fetch(t.Context(), app, timestampWant)
		wantErr(t, "Fetch with a wrong password", err, ErrUnauthorized)
	}
	if got := n.Load(); got != 3 {
		t.Errorf("%d requests with a wrong password, want 3", got)
	}
}

// Credentials go nowhere that the trust server merely points at.
func TestAttackRealm(t *testing.T) { // L10, P9
	t.Parallel()
	var stolen atomic.Int32
	thief := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		stolen.Add(1)
		io.WriteString(w, `{"token":"x"}`)
	})
	g := newGuarded(t)
	for _, realm := range []string{
		"https://evil.example/token", "http://evil.example/token", "ftp://localhost/", "//evil.example/", "https://user@registry.example/",
		"https://registry.example.evil.example/", "https://evilregistry.example/", "javascript:x", "https://", "http://registry.example/", "https://a%C2%92.registry.example/", "https://a%ff.registry.example/",
	} {
		g.mu.Lock()
		g.realm = realm
		g.mu.Unlock()
		_, err := remote(t, g.trust.URL, withLogin(alice)).Fetch(t.Context(), app, timestampWant)
		if !errors.Is(err, ErrRealm) || !errors.Is(err, ErrUnauthorized) {
			t.Errorf("Fetch with the realm %s = %v, want ErrRealm", realm, err)
		}
		oneLine(t, realm, err)
	}
	// A redirect of either server is not followed.
	g.mu.Lock()
	g.realm = ""
	g.answer = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
		return true
	}
	g.mu.Unlock()
	_, err := remote(t, g.trust.URL, withLogin(alice)).Fetch(t.Context(), app, timestampWant)
	wantErr(t, "Fetch with a login server that redirects", err, ErrRedirect)
	if got := stolen.Load(); got > 0 {
		t.Errorf("the thief got %d requests", got)
	}
}

func TestRealms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		base, registry, realm string
		want                  bool
	}{
		{"https://notary.example.com", "registry.example.net", "https://notary.example.com/token", true},
		{"https://notary.example.com", "registry.example.net", "https://auth.example.com/token", true},
		{"https://notary.example.com", "registry.example.net", "https://example.com/token", true},
		{"https://notary.example.com", "registry.example.net", "https://REGISTRY.example.net:444/token", true},
		{"https://notary.example.com", "registry.example.net", "https://a.b.example.net/token", true},
		{"https://notary.example.com", "registry.example.net", "http://auth.example.com/token", false},
		{"https://notary.example.com", "registry.example.net", "https://other.example.org/token", false},
		{"https://notary.example.com", "registry.example.net", "https://listed.example.org/token", true},
		{"https://notary.example.com", "registry.example.net", "https://port.example.org:5000/token", true},
		{"https://notary.example.com", "registry.example.net", "https://port.example.org/token", false},
		{"https://example.com", "example.net", "https://other.com/", false},
		{"https://example.com", "example.net", "https://auth.example.net/", true},
		{"https://example.co.uk", "example.com.au", "https://evil.co.uk/", false},
		{"https://example.co.uk", "example.com.au", "https://evil.com.au/", false},
		{"https://example.co.uk", "example.com.au", "https://auth.example.co.uk/", true},
		{"https://notary.example.co.uk", "example.com.au", "https://auth.example.co.uk/", true},
		{"https://notary.co.de", "registry", "https://co.de/", false},
		{"https://trust", "registry", "https://auth/", false},
		{"https://10.0.0.1", "registry", "https://10.0.0.2/", false},
		{"https://10.0.0.1", "registry", "https://9.0.0.1/", false},
		{"https://10.0.0.1", "registry:5000", "https://registry/", true},
		{"https://localhost:1", "registry", "http://127.0.0.1:2/", true},
		{"https://notary.example.com", "localhost:5000", "http://localhost:5000/", false},
		{"https://notary.example.com", "localhost:5000", "https://localhost:5001/", true},
	} {
		h := remote(t, c.base, func(c *HTTPConfig) { c.Realms = []string{"listed.example.org", "port.example.org:5000"} })
		realm, err := url.Parse(c.realm)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.allowed(realm, c.registry); got != c.want {
			t.Errorf("%s, registry %s: login at %s allowed: %t, want %t", c.base, c.registry, c.realm, got, c.want)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	t.Parallel()
	bearer := func(realm string) *challenge {
		return &challenge{"bearer", map[string]string{"realm": realm}}
	}
	for _, c := range []struct {
		headers []string
		want    *challenge
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{"Negotiate"}, nil},
		{[]string{`Bearer`}, nil},
		{[]string{`bEARER Realm="a"`}, bearer("a")},
		{[]string{`Bearer realm=a`}, bearer("a")},
		{[]string{`Bearer realm = "a\"b\\c,d"`}, bearer(`a"b\c,d`)},
		{[]string{`Bearer realm="a", realm="b"`}, bearer("a")},
		{[]string{`Basic realm="x"`, `Bearer realm="a"`}, bearer("a")},
		{[]string{`Negotiate abc==, Bearer realm="a"`}, nil},
		{[]string{`Basic`}, &challenge{"basic", map[string]string{}}},
		{[]string{`Bearer realm="unterminated`}, nil},
		{[]string{`Bearer realm="x\`}, nil},
		{[]string{`realm="x"`}, nil},
		{[]string{strings.Repeat("x ", maxChallenge)}, nil},
	} {
		got := parseChallenges(c.headers)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
			t.Errorf("parseChallenges(%.60q) (-want +got):\n%s", c.headers, diff)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth.example/token",service="notary-svc",scope="repository:a/b:push,pull"`)
	f.Add(`Basic realm=x, Bearer a="\"`)
	f.Fuzz(func(t *testing.T, header string) {
		if c := parseChallenges([]string{header}); c != nil && c.scheme != "basic" && c.params["realm"] == "" {
			t.Errorf("parseChallenges(%q) = %v", header, c)
		}
	})
}
