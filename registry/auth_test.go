package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/certs"
)

func withLogin(t *testing.T, host, user, password string) func(*Config) {
	t.Helper()
	creds := NewCredentials(CredentialsConfig{Dir: t.TempDir()})
	if err := creds.Store(t.Context(), host, Credential{Username: user, Password: password}); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Credentials = creds }
}

func basic(user, password string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		if u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestBasicAuthentication(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	reg.misbehave(basic("alice", "right"))
	for _, c := range []*Client{reg.client(), reg.client(withLogin(t, reg.host, "alice", "wrong"))} {
		if _, err := c.Resolve(t.Context(), reg.ref("app:multi")); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("Resolve with bad credentials = %v, want ErrUnauthorized", err)
		}
	}
	c := reg.client(withLogin(t, reg.host, "alice", "right"))
	if got, err := c.Resolve(t.Context(), reg.ref("app:multi")); err != nil || got != s.index {
		t.Errorf("Resolve = %v, %v; want %v", got, err, s.index)
	}
	if _, err := c.Push(t.Context(), s.image("multi"), reg.ref("app:2"), PushOptions{}); err != nil {
		t.Errorf("Push: %v", err)
	}
	for password, want := range map[string]error{"right": nil, "wrong": ErrUnauthorized} {
		if err := reg.client().Login(t.Context(), reg.host, Credential{Username: "alice", Password: password}); !errors.Is(err, want) {
			t.Errorf("Login with the %s password = %v, want %v", password, err, want)
		}
	}
}

// bearerOf makes reg want tokens, and hands them out itself.
func bearerOf(reg *fakeRegistry, realm, user, password string) func(w http.ResponseWriter, r *http.Request) bool {
	const token = "the-token"
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			u, p, _ := r.BasicAuth()
			_ = r.ParseForm()
			refresh := r.PostForm.Get("refresh_token")
			if (u != user || p != password) && refresh != "identity" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
			return true
		}
		if r.Header.Get("Authorization") == "Bearer "+token {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="reg"`, realm))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestBearerAuthentication(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	reg.misbehave(bearerOf(reg, "https://"+reg.host+"/token", "alice", "right"))
	c := reg.client(withLogin(t, reg.host, "alice", "right"))
	if got, err := c.Push(t.Context(), s.image("multi"), reg.ref("app:2"), PushOptions{}); err != nil || got != s.index {
		t.Errorf("Push = %v, %v; want %v", got, err, s.index)
	}
	if err := c.Pull(t.Context(), reg.ref("app:2"), s.index, pullers(t.TempDir())["layout"], PullOptions{}); err != nil {
		t.Errorf("Pull: %v", err)
	}
	for cred, want := range map[Credential]error{
		{Username: "alice", Password: "right"}: nil,
		{Username: "alice", Password: "wrong"}: ErrUnauthorized,
		{IdentityToken: "identity"}:            nil,
		{IdentityToken: "stolen"}:              ErrUnauthorized,
		{}:                                     ErrUnauthorized,
	} {
		if err := reg.client().Login(t.Context(), reg.host, cred); !errors.Is(err, want) {
			t.Errorf("Login(%v) = %v, want %v", cred, err, want)
		}
	}
}

// A registry must not be able to have our credentials sent to a stranger.
// attacks.md L10, P9
func TestAttackForeignRealm(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(thief.Close)
	g := func(registry string) *guard {
		return &guard{registry: registry, secret: true, vouched: []string{"sso.partner.example"}, realms: map[string]bool{}}
	}
	for _, test := range []struct {
		registry, realm string
		fine            bool
	}{
		{"registry.example.com", "registry.example.com", true},
		{"registry.example.com", "auth.registry.example.com", true},
		{"registry.example.com", "auth.example.com", true},
		{"registry.example.com", "example.com", true},
		{"registry.example.com:5000", "auth.example.com:5001", true},
		{"registry.example.com", "sso.partner.example", true},
		{"index.docker.io", "auth.docker.io", true},
		{"ghcr.io", "ghcr.io", true},
		{"localhost:5000", "127.0.0.1:5001", true},
		{"registry.example.com", "evil.example", false},
		{"registry.example.com", "example.com.evil.example", false},
		{"registry.example.com", "notexample.com", false},
		{"ghcr.io", "evil.io", false},
		{"example.co.uk", "evil.co.uk", false},
		{"registry.example.com", "127.0.0.1", false},
		{"registry.example.com", "169.254.169.254", false},
		{"10.0.0.1", "10.0.0.2", false},
		{"10.0.0.1:5000", "10.0.0.1:5001", true},
	} {
		err := g(test.registry).learnRealm(`Bearer realm="https://` + test.realm + `/token",service="x"`)
		if fine := err == nil; fine != test.fine || !fine && !errors.Is(err, ErrRefused) {
			t.Errorf("%s names realm %s: %v, want fine %v", test.registry, test.realm, err, test.fine)
		}
	}

	// With a real answer: thief is at 127.0.0.1, so the registry gets a name
	// that is not of this machine.
	reg := newRegistry(t)
	reg.misbehave(bearerOf(reg, thief.URL+"/token", "alice", "right"))
	c := reg.client(withLogin(t, reg.host, "alice", "right"))
	if err := loginAs(t, c, reg, "registry.example"); !errors.Is(err, ErrRefused) {
		t.Errorf("Login with a foreign realm = %v, want ErrRefused", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the foreign token server was asked %d times, want never", n)
	}
}

// loginAs logs in to reg under another name, by a guard of its own.
func loginAs(t *testing.T, c *Client, reg *fakeRegistry, name string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+reg.host+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.registryOf(reg.host)
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.guard(r, Credential{Username: "alice", Password: "right"})
	if err != nil {
		t.Fatal(err)
	}
	defer g.base.CloseIdleConnections()
	resp, err := g.watched(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	g.registry = name
	req.URL.Host = name
	return g.judge(req, resp)
}

// attacks.md L10
func TestAttackRedirects(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	var stolen atomic.Value
	stolen.Store("")
	other := newRegistry(t)
	other.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if a := r.Header.Get("Authorization"); a != "" {
			stolen.Store(a)
		}
		if raw, ok := map[string][]byte{
			"/layer": blob(t, s, s.layer.Digest), "/manifest": blob(t, s, s.arm64.Digest), "/good": blob(t, s, s.amd64.Digest),
		}[r.URL.Path]; ok {
			_, _ = w.Write(raw)
			return true
		}
		return false
	})
	login := withLogin(t, reg.host, "alice", "right")
	c := reg.client(login, func(c *Config) { other.trust(c.TLSDir); bothCAs(t, c.TLSDir, reg, other) })
	guarded := basic("alice", "right")
	redirect := func(suffix, to string, status int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if suffix != "/v2/" && guarded(w, r) {
				return true
			}
			if strings.HasSuffix(r.URL.Path, suffix) {
				http.Redirect(w, r, to, status)
				return true
			}
			if r.Method == http.MethodHead {
				http.NotFound(w, r) // so that layers are uploaded
				return true
			}
			return false
		}
	}
	there := "https://" + other.host
	pull := func() error {
		return c.Pull(t.Context(), reg.ref("app:1"), s.amd64, pullers(t.TempDir())["layout"], PullOptions{})
	}
	for _, test := range []struct {
		what, suffix, to string
		want             error
	}{
		{"layer elsewhere", s.layer.Digest.String(), there + "/layer", nil},
		{"manifest by digest elsewhere", s.amd64.Digest.String(), there + "/good", nil},
		{"another manifest elsewhere", s.amd64.Digest.String(), there + "/manifest", ErrDigest},
		{"layer over plain http", s.layer.Digest.String(), "http://registry.example/layer", ErrRefused},
		{"layer from a file", s.layer.Digest.String(), "ftp://registry.example/layer", ErrRefused},
		{"ping elsewhere", "/v2/", there + "/v2/", ErrRefused},
	} {
		reg.misbehave(redirect(test.suffix, test.to, http.StatusTemporaryRedirect))
		if err := pull(); !errors.Is(err, test.want) {
			t.Errorf("%s: Pull = %v, want %v", test.what, err, test.want)
		}
	}
	reg.misbehave(redirect("/manifests/multi", there+"/good", http.StatusFound))
	if _, err := c.Resolve(t.Context(), reg.ref("app:multi")); !errors.Is(err, ErrRefused) {
		t.Errorf("Resolve of a tag that is redirected = %v, want ErrRefused", err)
	}
	for _, what := range []string{"/blobs/uploads/", "/manifests/1"} {
		reg.misbehave(redirect(what, there+"/v2/new"+what, http.StatusTemporaryRedirect))
		if _, err := c.Push(t.Context(), s.image("multi"), reg.ref("new:1"), PushOptions{}); !errors.Is(err, ErrRefused) {
			t.Errorf("Push with %s redirected = %v, want ErrRefused", what, err)
		}
	}
	if got := stolen.Load(); got != "" {
		t.Errorf("the other host saw credentials: %q", got)
	}
	reg.misbehave(guarded)
	if err := pull(); err != nil {
		t.Errorf("honest Pull after the attacks: %v", err)
	}
}

// bothCAs lets the connection to either registry be verified: a redirect uses
// the configuration of the registry that the user named.
func bothCAs(t *testing.T, dir string, a, b *fakeRegistry) {
	t.Helper()
	write(t, filepath.Join(certs.Dir(dir, a.host), "other.crt"), b.ca)
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	reg := newPlainRegistry(t)
	s := pushed(t, reg)
	if got, err := reg.client().Resolve(t.Context(), reg.ref("app:multi")); err != nil || got != s.index {
		t.Errorf("Resolve at a loopback registry = %v, %v; want %v", got, err, s.index)
	}
	for _, remote := range []string{"http://registry.example/v2/", "http://10.0.0.1:5000/v2/", "http://registry.local/v2/"} {
		req := httptest.NewRequest(http.MethodGet, remote, nil)
		g := &guard{registry: req.URL.Host}
		if err := g.mayContact(req); !errors.Is(err, ErrRefused) {
			t.Errorf("mayContact(%s) = %v, want ErrRefused", remote, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	c := New(Config{TLSDir: t.TempDir()}) // without the CA
	_, err := c.Resolve(t.Context(), reg.ref("app:1"))
	var gone *UnreachableError
	if !errors.As(err, &gone) || gone.TLSDir != certs.Dir(c.config.TLSDir, reg.host) {
		t.Errorf("Resolve without the CA = %v, want UnreachableError that names %s", err, certs.Dir(c.config.TLSDir, reg.host))
	}
	closed := httptest.NewServer(nil)
	host := closed.Listener.Addr().String()
	closed.Close()
	if _, err := c.Resolve(t.Context(), mustRef(t, host+"/app:1")); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Resolve at a closed port = %v, want ErrUnreachable", err)
	}
	reg.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })
	_, err = reg.client().Resolve(t.Context(), reg.ref("app:1"))
	if !errors.As(err, &gone) || gone.Status != 503 {
		t.Errorf("Resolve with answer 503 = %v, want UnreachableError with it", err)
	}
	reg.misbehave(nil)
	if _, err := reg.client().Resolve(t.Context(), reg.ref("nosuch:1")); !errors.Is(err, ErrNotFound) {
		t.Errorf("Resolve(nosuch) = %v, want ErrNotFound", err)
	}
}

// The hub's names are mapped here and nowhere else.
func TestHub(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := newSample(t)
	login := withLogin(t, HubName, "alice", "right")
	reg.misbehave(basic("alice", "right"))
	c := reg.client(login, func(c *Config) { c.Hub = reg.host })
	got, err := c.Push(t.Context(), s.image("multi"), mustRef(t, "sample:1"), PushOptions{})
	if err != nil || got != s.index {
		t.Fatalf("Push(sample:1) = %v, %v; want %v", got, err, s.index)
	}
	if reg.asked("PUT /v2/library/sample/manifests/1") != 1 {
		t.Error("the hub did not get library/sample:1")
	}
}

func TestUserAgent(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("User-Agent"); got != "iEchor-Client/test" {
			t.Errorf("user agent %q", got)
		}
		return false
	})
	_, _ = reg.client().Resolve(t.Context(), reg.ref("app:1")) // only the request matters
	if reg.asked("/v2/") == 0 {
		t.Error("no request was made")
	}
}

func TestCredentialFiles(t *testing.T) {
	t.Parallel()
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	own, docker := t.TempDir(), t.TempDir()
	write(t, filepath.Join(own, "config.json"), []byte(`{"auths":{"registry.example":{"auth":"`+auth("alice:a:b")+`"},
		"https://old.example/v1/":{"auth":"`+auth("bob:b")+`"},"token.example":{"identitytoken":"t"},
		"https://index.iechor.io/v1/":{"auth":"`+auth("hub:h")+`"},"broken.example":{"auth":"???"}},
		"content-trust":{"pins":["x"]},"unknown":12345678901234567890}`))
	write(t, filepath.Join(docker, "config.json"), []byte(`{"auths":{"registry.example":{"auth":"`+auth("other:o")+`"},
		"docker.example:5000":{"auth":"`+auth("carol:c")+`"},"https://index.docker.io/v1/":{"auth":"`+auth("dhub:d")+`"}}}`))
	c := NewCredentials(CredentialsConfig{Dir: own, DockerDir: docker})
	for host, want := range map[string]Credential{
		"registry.example":    {Username: "alice", Password: "a:b"},
		"old.example":         {Username: "bob", Password: "b"},
		"token.example":       {IdentityToken: "t"},
		"docker.example:5000": {Username: "carol", Password: "c"},
		"docker.example":      {},
		HubName:               {Username: "hub", Password: "h"},
	} {
		if got, err := c.Lookup(t.Context(), host); err != nil || got != want {
			t.Errorf("Lookup(%s) = %#v, %v; want %#v", host, got, err, want)
		}
	}
	if _, err := c.Lookup(t.Context(), "broken.example"); !errors.Is(err, ErrCredentials) {
		t.Errorf("Lookup(broken.example) = %v, want ErrCredentials", err)
	}

	if err := c.Store(t.Context(), "new.example", Credential{Username: "n", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"old.example", "nosuch.example"} {
		if err := c.Erase(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(own, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Auths   map[string]any  `json:"auths"`
		Trust   json.RawMessage `json:"content-trust"`
		Unknown json.RawMessage `json:"unknown"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Auths) != 5 || file.Auths["old.example"] != nil || file.Auths["new.example"] == nil {
		t.Errorf("auths after Store and Erase: %v", file.Auths)
	}
	if string(file.Unknown) != "12345678901234567890" || !strings.Contains(string(file.Trust), "pins") {
		t.Errorf("other members were not preserved: %s", raw)
	}
	if info, _ := os.Stat(filepath.Join(own, "config.json")); runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if left := tree(t, own); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	write(t, filepath.Join(own, "config.json"), []byte(`{"auths":{"x":{"auth":"c2VjcmV0"`))
	if _, err := c.Lookup(t.Context(), "x"); !errors.Is(err, ErrCredentials) || strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("Lookup in a broken file = %v, want ErrCredentials without its content", err)
	}
}

// Docker's login at its hub must not go to a hub of another name. attacks.md P9
func TestDockerHubLogin(t *testing.T) {
	t.Parallel()
	docker := t.TempDir()
	write(t, filepath.Join(docker, "config.json"), []byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"ZDpo"}}}`))
	creds := NewCredentials(CredentialsConfig{Dir: t.TempDir(), DockerDir: docker})
	want := Credential{Username: "d", Password: "h"}
	if got, err := New(Config{Credentials: creds}).credential(t.Context(), HubName); err != nil || got != want {
		t.Errorf("credential for Docker's hub = %#v, %v; want %#v", got, err, want)
	}
	if got, err := New(Config{Credentials: creds, Hub: "hub.example"}).credential(t.Context(), HubName); err != nil || got != (Credential{}) {
		t.Errorf("credential for another hub = %#v, %v; want none", got, err)
	}
	if got, err := creds.Lookup(t.Context(), HubName); err != nil || got != (Credential{}) {
		t.Errorf("Lookup(%s) = %#v, %v; want none: it serves the trust server too", HubName, got, err)
	}
}

func TestCredentialHelpers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the helpers of this test are shell scripts")
	}
	bin, dir := t.TempDir(), t.TempDir()
	script := func(name, body string) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("iechor-credential-own", `read k; echo "$1 $k" >>`+dir+`/log
case "$1 $k" in
"get registry.example"|"get https://index.iechor.io/v1/") echo '{"ServerURL":"x","Username":"alice","Secret":"s"}';;
"get token.example") echo '{"Username":"<token>","Secret":"t"}';;
get*) echo "credentials not found in native keychain"; exit 1;;
esac
`)
	script("docker-credential-own", `echo '{"Username":"wrong one"}'`)
	script("docker-credential-only", `read k; echo '{"Username":"dora","Secret":"d"}'`)
	script("iechor-credential-bad", `echo "secret-in-output"; exit 1`)
	script("iechor-credential-html", `echo "<html>"`)
	script("iechor-credential-long", `yes | head -c 3000000`)
	write(t, filepath.Join(dir, "config.json"), []byte(`{"credsStore":"own","credHelpers":{"docker.example":"only","bad.example":"bad",
		"html.example":"html","long.example":"long","missing.example":"nosuch","evil.example":"../evil"}}`))
	c := NewCredentials(CredentialsConfig{Dir: dir, Path: bin})
	for host, want := range map[string]Credential{
		"registry.example": {Username: "alice", Password: "s"},
		HubName:            {Username: "alice", Password: "s"},
		"token.example":    {IdentityToken: "t"},
		"nobody.example":   {},
		"docker.example":   {Username: "dora", Password: "d"},
	} {
		if got, err := c.Lookup(t.Context(), host); err != nil || got != want {
			t.Errorf("Lookup(%s) = %#v, %v; want %#v", host, got, err, want)
		}
	}
	for _, host := range []string{"bad.example", "html.example", "long.example", "missing.example", "evil.example"} {
		if _, err := c.Lookup(t.Context(), host); !errors.Is(err, ErrCredentials) || strings.Contains(err.Error(), "secret-in-output") {
			t.Errorf("Lookup(%s) = %v, want ErrCredentials without what the helper said", host, err)
		}
	}
	if err := c.Store(t.Context(), "new.example", Credential{Username: "n", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Erase(t.Context(), "new.example"); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	want := []string{`store {"ServerURL":"new.example","Username":"n","Secret":"p"}`, "erase new.example"}
	if diff := cmp.Diff(want, lines[len(lines)-2:]); diff != "" {
		t.Errorf("the helper was told (-want +got):\n%s", diff)
	}
	if got := fmt.Sprintf("%v %+v %#v", Credential{Password: "pw"}, Credential{Password: "pw"}, Credential{Password: "pw"}); strings.Contains(got, "pw") {
		t.Errorf("a printed Credential shows its password: %s", got)
	}
}

// A login is erased however the member that holds it is spelled, kept in a file
// that says nothing, and not written where it could not be read again.
func TestLoginsInOddFiles(t *testing.T) {
	t.Parallel()
	for _, member := range []string{"auths", "AUTHS", "auth\u017f"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "config.json")
		write(t, file, []byte(`{"`+member+`":{"registry.example":{"auth":"YWxpY2U6cw=="},"other.example":{"auth":"Ym9iOnM="}},"x":1}`))
		c := NewCredentials(CredentialsConfig{Dir: dir, Path: dir})
		if got, err := c.Lookup(t.Context(), "registry.example"); err != nil || got.Username != "alice" {
			t.Errorf("Lookup by %q = %v, %v", member, got, err)
		}
		if err := c.Erase(t.Context(), "registry.example"); err != nil {
			t.Fatal(err)
		}
		for host, want := range map[string]string{"registry.example": "", "other.example": "bob"} {
			if got, err := c.Lookup(t.Context(), host); err != nil || got.Username != want {
				t.Errorf("Lookup(%s) by %q = %v, %v, want the user %q", host, member, got, err, want)
			}
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	for _, nothing := range []string{"", " \n", "null", "{}", `{"auths":null}`} {
		write(t, file, []byte(nothing))
		c := NewCredentials(CredentialsConfig{Dir: dir, Path: dir})
		want := Credential{Username: "alice", Password: "s"}
		err := c.Store(t.Context(), "registry.example", want)
		if got, lost := c.Lookup(t.Context(), "registry.example"); err != nil || lost != nil || got != want {
			t.Errorf("a login kept in %q: %v, then %v, %v", nothing, err, got, lost)
		}
	}
	large := []byte(`{"x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`) // more, indented
	write(t, file, large)
	c := NewCredentials(CredentialsConfig{Dir: dir, Path: dir})
	if err := c.Store(t.Context(), "registry.example", Credential{Username: "alice", Password: "s"}); !errors.Is(err, ErrCredentials) {
		t.Errorf("Store = %v, want ErrCredentials", err)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, large) {
		t.Errorf("the configuration became %.100q (%v)", now, err)
	}
}

// Who speaks TLS is never spoken to without it, however slow the handshake is:
// go-containerregistry turns to http after a third of a second.
func TestSlowTLSIsNotSpokenToOpenly(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	g := &guard{registry: reg.host}
	for range 2 {
		if err := g.speaksPlain(t.Context(), reg.host); !errors.Is(err, errSpeaksTLS) {
			t.Errorf("http to a registry with TLS = %v, want errSpeaksTLS", err)
		}
	}
	plain := newPlainRegistry(t)
	if err := g.speaksPlain(t.Context(), plain.host); err != nil {
		t.Errorf("http to a registry without TLS = %v", err)
	}
	closed, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.speaksPlain(closed, "127.0.0.1:1"); err == nil || len(g.plain) != 2 {
		t.Errorf("a host that was not reached = %v, remembered %v", err, g.plain)
	}
}
