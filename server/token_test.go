package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
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

func certificates(t *testing.T, name string) (certs []*x509.Certificate) {
	t.Helper()
	rest, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certs
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
}

// tokenWorld is a server with the token service of the recordings.
func tokenWorld(t *testing.T) *world {
	t.Helper()
	now := &clock{now: stockTime}
	auth, err := NewTokenAuth(TokenConfig{
		Realm: "https://auth.example/token", Service: "notary-svc", Issuer: "auth.example",
		Certificates: certificates(t, "testdata/auth/bundle.crt"), Now: now.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
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

// forge makes a token with any header, signed by key as ES256.
func forge(t *testing.T, header map[string]any, edit func(map[string]any), key *ecdsa.PrivateKey) string {
	t.Helper()
	payload := map[string]any{
		"iss": "auth.example", "aud": "notary-svc", "exp": stockTime.Add(time.Hour).Unix(), "nbf": stockTime.Unix(),
		"access": []any{map[string]any{"type": "repository", "name": "good.example/a", "actions": []string{"*"}}},
	}
	if edit != nil {
		edit(payload)
	}
	var parts []string
	for _, v := range []any{header, payload} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(b))
	}
	message := strings.Join(parts, ".")
	sum := sha256.Sum256([]byte(message))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return message + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// TestAttackToken: S5. Keys that a token brings along are not trusted for it,
// and the times of tokens count, from memory too.
func TestAttackToken(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("testdata/auth/token-ec.key")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	var theirs *ecdsa.PrivateKey
	if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		theirs = k.(*ecdsa.PrivateKey)
	} else if theirs, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	key := func(k crypto.PublicKey) map[string]any {
		b, err := k.(*ecdsa.PublicKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return map[string]any{"kty": "EC", "crv": "P-256", "x": base64.RawURLEncoding.EncodeToString(b[1:33]), "y": base64.RawURLEncoding.EncodeToString(b[33:])}
	}
	template := &x509.Certificate{SerialNumber: certificates(t, "testdata/auth/bundle.crt")[0].SerialNumber, NotAfter: stockTime.Add(time.Hour)}
	selfSigned, err := x509.CreateCertificate(rand.Reader, template, template, mine.Public(), mine)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(theirs.Public())
	if err != nil {
		t.Fatal(err)
	}
	kid := libtrustID(spki)
	h := func(more ...any) map[string]any {
		m := map[string]any{"alg": "ES256", "typ": "JWT"}
		for i := 0; i < len(more); i += 2 {
			m[more[i].(string)] = more[i+1]
		}
		return m
	}
	try := func(token string) int {
		return w.get("/v2/good.example/a/_trust/tuf/root.json", "Authorization", "Bearer "+token).Code
	}
	const in, out = http.StatusNotFound, http.StatusUnauthorized // nothing is published
	for name, c := range map[string]struct {
		token string
		want  int
	}{
		"kid":                    {forge(t, h("kid", kid), nil, theirs), in},
		"jwk of the bundle":      {forge(t, h("jwk", key(theirs.Public())), nil, theirs), in},
		"jwk of the attacker":    {forge(t, h("jwk", key(mine.Public())), nil, mine), out},
		"jwk wins over kid":      {forge(t, h("jwk", key(mine.Public()), "kid", kid), nil, mine), out},
		"own certificate":        {forge(t, h("x5c", [][]byte{selfSigned}), nil, mine), out},
		"own certificate in jwk": {forge(t, h("jwk", map[string]any{"x5c": [][]byte{selfSigned}}), nil, mine), out},
		"their kid, my key":      {forge(t, h("kid", kid), nil, mine), out},
		"no key":                 {forge(t, h(), nil, theirs), out},
		"other algorithm":        {forge(t, map[string]any{"alg": "ES384", "kid": kid}, nil, theirs), out},
		"HMAC":                   {forge(t, map[string]any{"alg": "HS256", "kid": kid}, nil, theirs), out},
		"no expiry":              {forge(t, h("kid", kid), func(p map[string]any) { delete(p, "exp") }, theirs), out},
		"not yet":                {forge(t, h("kid", kid), func(p map[string]any) { p["nbf"] = stockTime.Add(2 * time.Minute).Unix() }, theirs), out},
		"almost":                 {forge(t, h("kid", kid), func(p map[string]any) { p["nbf"] = stockTime.Add(50 * time.Second).Unix() }, theirs), in},
		"list of audiences":      {forge(t, h("kid", kid), func(p map[string]any) { p["aud"] = []string{"x", "notary-svc"} }, theirs), in},
		"other audiences":        {forge(t, h("kid", kid), func(p map[string]any) { p["aud"] = []string{"x"} }, theirs), out},
		"two parts":              {"a.b", out},
		"no JSON":                {"YQ.YQ.YQ", out},
		"huge":                   {strings.Repeat("a", tokenBytes+1), out},
	} {
		if got := try(c.token); got != c.want {
			t.Errorf("%s = %d, want %d", name, got, c.want)
		}
	}
	good := forge(t, h("kid", kid), nil, theirs)
	if got := try(good); got != in {
		t.Fatalf("a good token = %d", got)
	}
	if got := try(good[:len(good)-2] + "AA"); got != out {
		t.Errorf("a token whose signature was changed = %d", got)
	}
	w.clock.pass(time.Hour + 2*time.Minute)
	if got := try(good); got != out {
		t.Errorf("a token that has expired since it was verified = %d", got)
	}
}

func TestNewTokenAuthRefuses(t *testing.T) {
	t.Parallel()
	good := TokenConfig{Realm: "https://a", Service: "s", Issuer: "i", Certificates: certificates(t, "testdata/auth/bundle.crt")}
	for i, edit := range []func(*TokenConfig){
		func(c *TokenConfig) { c.Realm = "" },
		func(c *TokenConfig) { c.Service = "" },
		func(c *TokenConfig) { c.Issuer = "" },
		func(c *TokenConfig) { c.Certificates = nil },
		func(c *TokenConfig) { c.Realm = "a\"b" },
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
	if err := a.Authorize(r, Access{"registry", "catalog", everything}); !errors.As(err, &e) || !strings.HasPrefix(e.Challenge, `Bearer realm="https://trust.example/auth/token",`) {
		t.Errorf("Authorize = %v, want a challenge with the request's host", err)
	}
}
