package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
)

type object = map[string]any

// header returns the header of a token, with more members.
func header(algorithm string, more ...any) object {
	m := object{"alg": algorithm, "typ": "JWT"}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

// forge makes a token for good.example/a with any header, signed by key, which
// is a private key, the bytes of an HMAC's, or nil for no signature.
func forge(t testing.TB, header object, edit func(object), key any) string {
	t.Helper()
	payload := object{
		"iss": "auth.example", "aud": "notary-svc", "sub": "alice", "exp": stockTime.Add(time.Hour).Unix(), "nbf": stockTime.Unix(),
		"access": []any{object{"type": "repository", "name": "good.example/a", "actions": []string{"*"}}},
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
	var sig []byte
	var err error
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, k, sum[:]); err == nil {
			sig = make([]byte, 64)
			r.FillBytes(sig[:32])
			s.FillBytes(sig[32:])
		}
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(message))
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write([]byte(message))
		sig = m.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return message + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// set sets a claim.
func set(claim string, value any) func(object) { return func(p object) { p[claim] = value } }

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// serviceKey is the key of the token service that bundle.crt certifies.
func serviceKey(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	raw, err := os.ReadFile("testdata/auth/token-ec.key")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		key = any.(*ecdsa.PrivateKey)
	}
	return key, TokenKeyID(spki(t, key.Public()))
}

func spki(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	raw, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// asJWK is a key in JSON, as a token may bring it along.
func asJWK(t testing.TB, public crypto.PublicKey) object {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		b, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return object{"kty": "EC", "crv": "P-256", "x": text(b[1:33]), "y": text(b[33:])}
	case *rsa.PublicKey:
		return object{"kty": "RSA", "n": text(k.N.Bytes()), "e": text(big.NewInt(int64(k.E)).Bytes())}
	case ed25519.PublicKey:
		return object{"kty": "OKP", "crv": "Ed25519", "x": text(k)}
	}
	t.Fatalf("no JWK for %T", public)
	return nil
}

func selfSigned(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: stockTime.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// bearing asks a to let a token's bearer read good.example/a.
func bearing(a *TokenAuth, token string) (Grant, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return a.Authorize(r, Access{"repository", "good.example/a", pull})
}

// refusedTokens presents tokens that must not be let in: neither reads, keys,
// uploads nor deletions, the second time neither. Nothing changes, and the
// honest token is let in before and afterwards.
func refusedTokens(t *testing.T, problem string, tokens map[string]string) {
	t.Helper()
	w := tokenWorld(t)
	key, kid := serviceKey(t)
	good := forge(t, header("ES256", "kid", kid), nil, key)
	honest := func(when string) {
		t.Helper()
		// Nothing is published, so 404 is the answer to who may read.
		if r := w.get("/v2/good.example/a/_trust/tuf/root.json", "Authorization", "Bearer "+good); r.Code != http.StatusNotFound {
			t.Errorf("an honest token %s = %d %s, want 404", when, r.Code, r.Body)
		}
	}
	honest("before the attack")
	for name, token := range tokens {
		for range 2 {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				path := repository("good.example/a")
				if method == http.MethodGet {
					path = keyPath("good.example/a", tuf.RoleTimestamp)
				}
				r := w.do(method, path, nil, "Authorization", "Bearer "+token)
				if r.Code != http.StatusUnauthorized || !strings.HasSuffix(r.Header().Get("WWW-Authenticate"), `,error="`+problem+`"`) || strings.Contains(r.Body.String(), "keyval") {
					t.Errorf("%s: %s = %d %s\n%s, want 401 and %s", name, method, r.Code, r.Header().Get("WWW-Authenticate"), r.Body, problem)
				}
			}
		}
		if log := w.log.String(); token != "" && strings.Contains(log, token) {
			t.Errorf("%s: the token is in the log: %s", name, log)
		}
	}
	honest("after the attack")
}

func TestAttackTokenOfAnotherAudience(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	h := header("ES256", "kid", kid)
	refusedTokens(t, "invalid_token", map[string]string{
		"the registry's": forge(t, h, set("aud", "registry.example"), key),
		"a list":         forge(t, h, set("aud", []string{"a", "b"}), key),
		"an empty list":  forge(t, h, set("aud", []string{}), key),
		"none":           forge(t, h, func(p object) { delete(p, "aud") }, key),
		"longer":         forge(t, h, set("aud", "notary-svc2"), key),
		"a number":       forge(t, h, set("aud", 1), key),
	})
}

func TestAttackTokenOfAnotherIssuer(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	h := header("ES256", "kid", kid)
	refusedTokens(t, "invalid_token", map[string]string{
		"other": forge(t, h, set("iss", "auth.example.evil"), key),
		"none":  forge(t, h, func(p object) { delete(p, "iss") }, key),
	})
}

func TestAttackTokenExpired(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	h := header("ES256", "kid", kid)
	refusedTokens(t, "invalid_token", map[string]string{
		"two minutes ago": forge(t, h, set("exp", stockTime.Add(-2*time.Minute).Unix()), key),
		"never":           forge(t, h, func(p object) { delete(p, "exp") }, key),
		"a text":          forge(t, h, set("exp", "tomorrow"), key),
		"negative":        forge(t, h, set("exp", -1), key),
		"beyond numbers":  forge(t, h, set("exp", json.RawMessage("1e400")), key),
	})
	// Having been verified before does not keep it alive.
	w := tokenWorld(t)
	good := forge(t, h, nil, key)
	for _, want := range []int{http.StatusNotFound, http.StatusNotFound, http.StatusUnauthorized} {
		if r := w.get("/v2/good.example/a/_trust/tuf/root.json", "Authorization", "Bearer "+good); r.Code != want {
			t.Errorf("at %v = %d, want %d", w.clock.Now(), r.Code, want)
		}
		w.clock.pass(31 * time.Minute)
	}
}

func TestAttackTokenNotYetValid(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	h := header("ES256", "kid", kid)
	refusedTokens(t, "invalid_token", map[string]string{
		"in two minutes": forge(t, h, set("nbf", stockTime.Add(2*time.Minute).Unix()), key),
		"a text":         forge(t, h, set("nbf", "x"), key),
	})
}

// The leeway is what the configuration says.
func TestTokenLeeway(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	for leeway, want := range map[time.Duration]bool{0: true, 2 * time.Minute: true, 10 * time.Second: false, -1: false} {
		a := tokenAuth(t, func(c *TokenConfig) { c.Leeway = leeway })
		for _, edit := range []func(object){set("nbf", stockTime.Add(50*time.Second).Unix()), set("exp", stockTime.Add(-50*time.Second).Unix())} {
			token := forge(t, header("ES256", "kid", kid), edit, key)
			if _, err := bearing(a, token); (err == nil) != want {
				t.Errorf("50 seconds off with a leeway of %v = %v, want %t", leeway, err, want)
			}
		}
	}
}

func TestAttackTokenAlgorithmNone(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	tokens := map[string]string{"none but signed": forge(t, header("none", "kid", kid), nil, key)}
	for _, name := range []string{"none", "None", "NONE", "", "ES"} {
		tokens["unsigned "+name] = forge(t, header(name, "kid", kid), nil, nil)
	}
	unsigned := forge(t, header("ES256", "kid", kid), nil, nil)
	tokens["ES256 without a signature"] = unsigned
	tokens["two parts"] = strings.TrimSuffix(unsigned, ".")
	tokens["zeros"] = unsigned + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	refusedTokens(t, "invalid_token", tokens)
}

// The public key of the service is no secret: an HMAC with it must not pass for
// a signature, nor a signature of one kind for another's.
func TestAttackTokenKeyConfusion(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	public := spki(t, key.Public())
	h := header("HS256", "kid", kid)
	refusedTokens(t, "invalid_token", map[string]string{
		"HMAC with the bundle":       forge(t, h, nil, bundle(t)),
		"HMAC with the DER":          forge(t, h, nil, public),
		"HMAC with the PEM":          forge(t, h, nil, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"HMAC with nothing":          forge(t, h, nil, []byte{}),
		"HMAC that says it is ECDSA": forge(t, header("ES256", "kid", kid), nil, public),
		"ECDSA that says it is RSA":  forge(t, header("RS256", "kid", kid), nil, key),
		"other curve":                forge(t, header("ES384", "kid", kid), nil, key),
		"EdDSA":                      forge(t, header("EdDSA", "kid", kid), nil, key),
	})
}

// Keys that a token brings along do not vouch for it.
func TestAttackTokenEmbeddedKey(t *testing.T) {
	t.Parallel()
	mine := newECKey(t)
	theirs, kid := serviceKey(t)
	block, _ := pem.Decode(bundle(t))
	cert := selfSigned(t, mine)
	refusedTokens(t, "invalid_token", map[string]string{
		"jwk":                        forge(t, header("ES256", "jwk", asJWK(t, mine.Public())), nil, mine),
		"jwk beside their kid":       forge(t, header("ES256", "jwk", asJWK(t, mine.Public()), "kid", kid), nil, mine),
		"x5c":                        forge(t, header("ES256", "x5c", [][]byte{cert}), nil, mine),
		"x5c with theirs behind":     forge(t, header("ES256", "x5c", [][]byte{cert, block.Bytes}), nil, mine),
		"x5c with theirs first":      forge(t, header("ES256", "x5c", [][]byte{block.Bytes, cert}), nil, mine),
		"x5c in jwk":                 forge(t, header("ES256", "jwk", object{"x5c": [][]byte{cert}}), nil, mine),
		"theirs in jwk, with x5c":    forge(t, header("ES256", "jwk", object{"x5c": [][]byte{block.Bytes}}), nil, mine),
		"their kid":                  forge(t, header("ES256", "kid", kid), nil, mine),
		"own kid":                    forge(t, header("ES256", "kid", TokenKeyID(spki(t, mine.Public()))), nil, mine),
		"no key":                     forge(t, header("ES256"), nil, mine),
		"jku":                        forge(t, header("ES256", "jku", "https://evil.example/keys"), nil, mine),
		"a chain without end":        forge(t, header("ES256", "x5c", slices.Repeat([][]byte{block.Bytes}, tokenChain+1)), nil, theirs),
		"x5c of rubbish":             forge(t, header("ES256", "x5c", [][]byte{{1, 2, 3}}), nil, mine),
		"jwk of rubbish":             forge(t, header("ES256", "jwk", object{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), nil, mine),
		"something to be understood": forge(t, header("ES256", "kid", kid, "crit", []string{"x"}), nil, theirs),
	})
}

// A token is for what it names and nothing else.
func TestAttackTokenOfAnotherRepository(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	grant := func(kind, name string, actions ...string) string {
		return forge(t, header("ES256", "kid", kid), set("access", []any{object{"type": kind, "name": name, "actions": actions}}), key)
	}
	tokens := map[string]string{"another type": grant("registry", "good.example/a", "*")}
	for _, name := range []string{"good.example/b", "good.example", "good.example/", "good.example/a/", "good.example/a/b", "Good.example/a", "good.example/*", "*", ""} {
		tokens[name] = grant("repository", name, "*")
	}
	refusedTokens(t, "insufficient_scope", tokens)
}

func TestAttackTokenMissingScope(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	grant := func(actions ...string) string {
		return forge(t, header("ES256", "kid", kid), set("access", []any{object{"type": "repository", "name": "good.example/a", "actions": actions}}), key)
	}
	refusedTokens(t, "insufficient_scope", map[string]string{
		"pull":       grant("pull"),
		"push alone": grant("push"),
		"nothing":    grant(),
		"spelled":    grant("Push", "PULL", "delete", "push,pull", ""),
		"no access":  forge(t, header("ES256", "kid", kid), func(p object) { delete(p, "access") }, key),
		"two grants of halves": forge(t, header("ES256", "kid", kid), set("access", []any{
			object{"type": "repository", "name": "good.example/a", "actions": []string{"pull"}},
			object{"type": "repository", "name": "good.example/b", "actions": []string{"push"}},
		}), key),
	})
	// S6: to push is not to delete, nor to replace keys.
	w := tokenWorld(t)
	pusher := "Bearer " + grant("pull", "push")
	for _, request := range [][2]string{{"DELETE", repository("good.example/a")}, {"POST", keyPath("good.example/a", tuf.RoleTimestamp)}} {
		if r := w.do(request[0], request[1], nil, "Authorization", pusher); r.Code != 401 || !strings.Contains(r.Header().Get("WWW-Authenticate"), `scope="repository:good.example/a:*",error="insufficient_scope"`) {
			t.Errorf("%v with a pusher's token = %d %s", request, r.Code, r.Header().Get("WWW-Authenticate"))
		}
	}
	if r := w.get(keyPath("good.example/a", tuf.RoleTimestamp), "Authorization", pusher); r.Code != http.StatusOK {
		t.Errorf("GET timestamp.key with a pusher's token = %d %s", r.Code, r.Body)
	}
}

func TestAttackHugeToken(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	h := header("ES256", "kid", kid)
	many := make([]any, 400)
	for i := range many {
		many[i] = object{"type": "repository", "name": "good.example/a", "actions": []string{"*"}}
	}
	refusedTokens(t, "invalid_token", map[string]string{
		"well signed":  forge(t, h, set("access", many), key),
		"rubbish":      strings.Repeat("a", tokenBytes+1),
		"dots":         strings.Repeat(".", tokenBytes),
		"no JSON":      "YQ.YQ.YQ",
		"deep":         base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte("["), 9000)) + ".YQ.YQ",
		"one dot":      "a.b",
		"empty":        "",
		"no base64":    "?.?.?",
		"changed sign": forge(t, h, nil, key)[:300] + "AAAA",
	})
}

// What stock token services make is let in, each algorithm by a key that fits,
// from certificates and from a key set.
func TestTokenAlgorithms(t *testing.T) {
	t.Parallel()
	ec := newECKey(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keySet := func(keys ...object) []byte {
		raw, err := json.Marshal(object{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	named := func(kid string, k object, more ...string) object {
		k["kid"] = kid
		for i := 0; i < len(more); i += 2 {
			k[more[i]] = more[i+1]
		}
		return k
	}
	all := keySet(named("one", asJWK(t, ec.Public()), "alg", "ES256", "use", "sig"), named("two", asJWK(t, rs.Public())), named("three", asJWK(t, ed.Public())))
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t, ec)})
	ecID := TokenKeyID(spki(t, ec.Public()))
	for _, tt := range []struct {
		name  string
		keys  []byte
		allow []string
		token string
		want  bool
	}{
		{"ES256 of the set", all, nil, forge(t, header("ES256", "kid", "one"), nil, ec), true},
		{"RS256 of the set", all, nil, forge(t, header("RS256", "kid", "two"), nil, rs), true},
		{"EdDSA of the set", all, nil, forge(t, header("EdDSA", "kid", "three"), nil, ed), true},
		{"by its libtrust id", all, nil, forge(t, header("ES256", "kid", ecID), nil, ec), true},
		{"x5c with a set", all, nil, forge(t, header("ES256", "x5c", [][]byte{selfSigned(t, ec)}), nil, ec), true},
		{"x5c of another with a set", all, nil, forge(t, header("ES256", "kid", "one", "x5c", [][]byte{selfSigned(t, newECKey(t))}), nil, ec), false},
		{"another key's name", all, nil, forge(t, header("ES256", "kid", "two"), nil, ec), false},
		{"not allowed", all, []string{"RS256"}, forge(t, header("ES256", "kid", "one"), nil, ec), false},
		{"allowed", all, []string{"RS256"}, forge(t, header("RS256", "kid", "two"), nil, rs), true},
		{"against the key's own algorithm", keySet(named("one", asJWK(t, rs.Public()), "alg", "RS512")), nil, forge(t, header("RS256", "kid", "one"), nil, rs), false},
		{"a key for encryption", keySet(named("one", asJWK(t, ec.Public()), "use", "enc"), named("two", asJWK(t, rs.Public()))), nil, forge(t, header("ES256", "kid", "one"), nil, ec), false},
		{"kid of the bundle", certificate, nil, forge(t, header("ES256", "kid", ecID), nil, ec), true},
		{"jwk of the bundle", certificate, nil, forge(t, header("ES256", "jwk", asJWK(t, ec.Public())), nil, ec), true},
		{"audience in a list", certificate, nil, forge(t, header("ES256", "kid", ecID), set("aud", []string{"x", "notary-svc"}), ec), true},
	} {
		a := tokenAuth(t, func(c *TokenConfig) { c.Keys, c.Algorithms = tokenKeys(t, tt.keys), tt.allow })
		if _, err := bearing(a, tt.token); (err == nil) != tt.want {
			t.Errorf("%s = %v, want %t", tt.name, err, tt.want)
		}
	}
}

// A key that is taken out of the file is not believed from then on, from memory
// neither, and one that is put into it is.
func TestTokenKeysAreReplaced(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	other := newECKey(t)
	before := tokenKeys(t, bundle(t))()
	after := tokenKeys(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t, other)}))()
	now := before
	w := tokenWorld(t, func(c *TokenConfig) { c.Keys = func() *TokenKeys { return now } })
	tokens := []string{forge(t, header("ES256", "kid", kid), nil, key), forge(t, header("ES256", "kid", TokenKeyID(spki(t, other.Public()))), nil, other)}
	try := func(want ...int) {
		t.Helper()
		for i, token := range tokens {
			if r := w.get("/v2/good.example/a/_trust/tuf/root.json", "Authorization", "Bearer "+token); r.Code != want[i] {
				t.Errorf("token %d = %d, want %d", i, r.Code, want[i])
			}
		}
	}
	try(404, 401)
	try(404, 401)
	now = after
	try(401, 404)
	now = before
	try(404, 401)
}

// What is read with a token is kept from shared caches, and who may publish is
// answered from the store.
func TestTokenReaders(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	for actions, want := range map[string]Grant{"pull": {Who: "alice"}, "pull,push": {Who: "alice", Publisher: true}, "*": {Who: "alice", Publisher: true}} {
		token := forge(t, header("ES256", "kid", kid), set("access", []any{object{"type": "repository", "name": "good.example/a", "actions": strings.Split(actions, ",")}}), key)
		if got, err := bearing(tokenAuth(t), token); err != nil || got != want {
			t.Errorf("Authorize of %s = %+v, %v, want %+v", actions, got, err, want)
		}
	}
}
