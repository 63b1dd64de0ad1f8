package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

func tokenKeys(t testing.TB, raw []byte) func() *TokenKeys {
	t.Helper()
	k, err := ParseTokenKeys(raw)
	if err != nil {
		t.Fatal(err)
	}
	return func() *TokenKeys { return k }
}

func bundle(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/auth/bundle.crt")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// tokenAuth believes the token service of the recordings, at their time.
func tokenAuth(t testing.TB, edit ...func(*TokenConfig)) *TokenAuth {
	t.Helper()
	c := TokenConfig{
		Realm: "https://auth.example/token", Service: "notary-svc", Issuer: "auth.example",
		Keys: tokenKeys(t, bundle(t)), Now: func() time.Time { return stockTime },
	}
	for _, f := range edit {
		f(&c)
	}
	auth, err := NewTokenAuth(c)
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

// tokenWorld is a server with the token service of the recordings.
func tokenWorld(t *testing.T, edit ...func(*TokenConfig)) *world {
	t.Helper()
	now := &clock{now: stockTime}
	auth := tokenAuth(t, append(edit, func(c *TokenConfig) { c.Now = now.Now })...)
	dir := t.TempDir()
	return newWorldOn(t, openStore(t, dir+"/server.db"), openSigner(t, dir+"/signer.db", now.Now), now, func(c *Config) {
		c.Auth, c.Prefixes, c.KeyType = auth, []string{"good.example/"}, tuf.ECDSA
	})
}

// sorted puts the actions of a challenge in order; the stock server's vary.
func sorted(challenge string) string {
	before, rest, ok := strings.Cut(challenge, `scope="`)
	scope, after, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 {
		return challenge
	}
	i := strings.LastIndexByte(scope, ':') + 1
	actions := strings.Split(scope[i:], ",")
	slices.Sort(actions)
	return before + `scope="` + scope[:i] + strings.Join(actions, ",") + `"` + after
}

// TestGoldenTokens repeats requests that were made to the stock server with
// good and bad tokens.
func TestGoldenTokens(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/auth/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Tokens map[string]struct {
			Token   string
			Results map[string]struct {
				Status    int
				Challenge string `json:"www-authenticate"`
			}
		}
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Tokens) < 12 {
		t.Fatalf("%d tokens", len(v.Tokens))
	}
	for name, token := range v.Tokens {
		if name == "aud-list" {
			continue // refused by the stock server, a right of RFC 7519
		}
		w := tokenWorld(t)
		for range 2 { // the second time from memory
			for request, want := range token.Results {
				method, path, _ := strings.Cut(request, " ")
				r := w.do(method, path, nil, "Authorization", "bearer "+token.Token)
				if r.Code != want.Status {
					t.Errorf("%s: %s = %d %s, want %d", name, request, r.Code, r.Body, want.Status)
				}
				if got := r.Header().Get("WWW-Authenticate"); sorted(got) != sorted(want.Challenge) {
					t.Errorf("%s: %s challenges\n%s, want\n%s", name, request, got, want.Challenge)
				}
			}
		}
	}
	w := tokenWorld(t)
	r := w.get("/v2/good.example/a/_trust/tuf/root.json")
	if got, want := r.Header().Get("WWW-Authenticate"), `Bearer realm="https://auth.example/token",service="notary-svc",scope="repository:good.example/a:pull"`; got != want {
		t.Errorf("without a token: %s, want %s", got, want)
	}
	if want := `"detail":[{"Type":"repository","Class":"","Name":"good.example/a","Action":"pull"}]`; !strings.Contains(r.Body.String(), want) {
		t.Errorf("without a token: %s lacks %s", r.Body, want)
	}
}

func TestNewTokenAuthRefuses(t *testing.T) {
	t.Parallel()
	good := TokenConfig{Realm: "https://a", Service: "s", Issuer: "i", Keys: tokenKeys(t, bundle(t))}
	for i, edit := range []func(*TokenConfig){
		func(c *TokenConfig) { c.Realm = "" },
		func(c *TokenConfig) { c.Service = "" },
		func(c *TokenConfig) { c.Issuer = "" },
		func(c *TokenConfig) { c.Keys = nil },
		func(c *TokenConfig) { c.Realm = "a\"b" },
		func(c *TokenConfig) { c.Leeway = time.Hour },
		func(c *TokenConfig) { c.Algorithms = []string{"ES256", "none"} },
		func(c *TokenConfig) { c.Algorithms = []string{"HS256"} },
	} {
		c := good
		edit(&c)
		if _, err := NewTokenAuth(c); err == nil {
			t.Errorf("%d: NewTokenAuth(%+v) = nil error", i, c)
		}
	}
	c := good
	c.Realm, c.AutoRedirect = "", true
	a, err := NewTokenAuth(c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, "https://trust.example/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	if _, err := a.Authorize(r, Access{"registry", "catalog", everything}); !errors.As(err, &e) || !strings.HasPrefix(e.Challenge, `Bearer realm="https://trust.example/auth/token",`) {
		t.Errorf("Authorize = %v, want a challenge with the request's host", err)
	}
}

// Keys are read from what token services publish, and nothing else.
func TestParseTokenKeys(t *testing.T) {
	t.Parallel()
	private, err := os.ReadFile("testdata/auth/token-ec.key")
	if err != nil {
		t.Fatal(err)
	}
	const point = `"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`
	for _, tt := range []struct{ text, want string }{
		{string(bundle(t)), ""},
		{`{"keys":[{` + point + `}]}`, ""},
		{` {"keys":[{"kid":"a","use":"sig","alg":"ES256",` + point + `},{"kty":"RSA","use":"enc"}]}`, ""},
		{`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`, ""},
		{"", "neither a PEM certificate nor a JSON Web Key Set"},
		{string(bundle(t)) + string(private), "there is a private key in it"},
		{"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "there is a \"public key\" in it, and only certificates"},
		{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1: "},
		{"{", "no JSON Web Key Set"},
		{`{"keys":[]}`, "no key for signatures"},
		{`{"keys":[{"kid":"a","kty":"oct","k":"AAAA"}]}`, `key "a" is secret`},
		{`{"keys":[{"d":"AAAA",` + point + `}]}`, "key 1 is secret"},
		{`{"keys":[{"alg":"HS256",` + point + `}]}`, `key 1 is for "HS256"`},
		{`{"keys":[{"kid":"a",` + point + `},{"kid":"a",` + point + `}]}`, `two keys are called "a"`},
		{`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`, "key 1: "},
		{`{"keys":[{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}]}`, `a key of type "EC", curve "secp256k1" cannot sign tokens`},
		{`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`, "too weak"},
		{`{"keys":[{"kty":"RSA","n":"?","e":"AQAB"}]}`, "key 1: "},
	} {
		_, err := ParseTokenKeys([]byte(tt.text))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("ParseTokenKeys(%.80q) = %v, want %q", tt.text, err, tt.want)
		}
	}
}
