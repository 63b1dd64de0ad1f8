package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for ES384 to RS512
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/iechor/trust/api"
)

// TokenConfig says whose tokens a [TokenAuth] accepts.
type TokenConfig struct {
	Realm   string // where clients get tokens, a URL
	Service string // the audience of the tokens
	Issuer  string
	// Certificates hold the keys of the token service, or certify them.
	Certificates []*x509.Certificate
	// AutoRedirect replaces Realm by https://HOST/auth/token, with the host
	// that the request names.
	AutoRedirect bool
	Now          func() time.Time // nil: time.Now
}

// A TokenAuth lets requests through that bear a token of a registry's token
// service (notary-protocol 4.1): a JSON Web Token signed by a key of the
// configured certificates, or one that they certify. No key is taken from a
// token or fetched (attacks.md S5, L10). It is safe for concurrent use.
type TokenAuth struct {
	c     TokenConfig
	roots *x509.CertPool
	keys  map[string]crypto.PublicKey // by libtrust id

	mu       sync.Mutex
	verified map[[32]byte]*claims // guarded by mu: tokens that were verified, by hash
}

const (
	tokenBytes  = 16 << 10
	tokenLeeway = time.Minute
	tokenCache  = 10_000
	tokenChain  = 10 // certificates in one token
)

// NewTokenAuth makes a TokenAuth. All of realm (or AutoRedirect), service,
// issuer and certificates are needed.
func NewTokenAuth(c TokenConfig) (*TokenAuth, error) {
	switch {
	case c.Realm == "" && !c.AutoRedirect, c.Service == "", c.Issuer == "":
		return nil, errors.New("token authentication needs a realm, a service and an issuer")
	case len(c.Certificates) == 0:
		return nil, errors.New("token authentication needs the certificates of the token service")
	case strings.ContainsAny(c.Realm+c.Service, "\"\\\r\n"):
		return nil, errors.New("realm and service must not contain quotes, backslashes or line ends")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &TokenAuth{c: c, roots: x509.NewCertPool(), keys: map[string]crypto.PublicKey{}, verified: map[[32]byte]*claims{}}
	for _, cert := range c.Certificates {
		a.roots.AddCert(cert)
		a.keys[libtrustID(cert.RawSubjectPublicKeyInfo)] = cert.PublicKey
	}
	return a, nil
}

// libtrustID is the name of a key in the "kid" of a token: the first 30 bytes
// of the SHA-256 of its SubjectPublicKeyInfo in base32, in groups of four.
func libtrustID(spki []byte) string {
	sum := sha256.Sum256(spki)
	text := base32.StdEncoding.EncodeToString(sum[:30])
	groups := make([]string, 0, 12)
	for group := range slices.Chunk([]byte(text), 4) {
		groups = append(groups, string(group))
	}
	return strings.Join(groups, ":")
}

// bearer returns the one token of a request.
func bearer(r *http.Request) (string, bool) {
	fields := r.Header["Authorization"]
	if len(fields) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(fields[0], " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "bearer")
}

// MayPublish implements [PublisherTeller].
func (a *TokenAuth) MayPublish(r *http.Request, name string) bool {
	token, ok := bearer(r)
	if !ok {
		return false
	}
	c, err := a.verify(token)
	return err == nil && c.grants(Access{Type: "repository", Name: name, Actions: pushPull})
}

// Authorize implements [Authorizer].
func (a *TokenAuth) Authorize(r *http.Request, want Access) error {
	token, ok := bearer(r)
	if !ok {
		return a.challenge(r, want, "")
	}
	c, err := a.verify(token)
	if err != nil {
		return a.challenge(r, want, "invalid_token")
	}
	if !c.grants(want) {
		return a.challenge(r, want, "insufficient_scope")
	}
	return nil
}

// challenge is the refusal that tells a client where to get a token for what
// it wants.
func (a *TokenAuth) challenge(r *http.Request, want Access, problem string) error {
	type missing struct{ Type, Class, Name, Action string }
	var detail []missing
	for _, action := range want.Actions {
		detail = append(detail, missing{want.Type, "", want.Name, action})
	}
	realm := a.c.Realm
	if a.c.AutoRedirect {
		realm = "https://" + strings.Map(func(c rune) rune {
			if strings.ContainsRune("\"\\\r\n", c) {
				return -1
			}
			return c
		}, r.Host) + "/auth/token"
	}
	e := api.NewError(api.Unauthorized, detail)
	e.Challenge = fmt.Sprintf(`Bearer realm="%s",service="%s",scope="%s:%s:%s"`, realm, a.c.Service, want.Type, want.Name, strings.Join(want.Actions, ","))
	if problem != "" {
		e.Challenge += `,error="` + problem + `"`
	}
	return e
}

type claims struct {
	Issuer    string      `json:"iss"`
	Audience  audience    `json:"aud"`
	Expires   json.Number `json:"exp"`
	NotBefore json.Number `json:"nbf"`
	Access    []struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	} `json:"access"`

	from, until time.Time
}

// audience is a string or a list of strings (RFC 7519 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}

// grants reports whether every wanted action is granted for exactly that
// resource; "*" grants all.
func (c *claims) grants(want Access) bool {
	for _, action := range want.Actions {
		granted := false
		for _, g := range c.Access {
			if g.Type == want.Type && g.Name == want.Name && (slices.Contains(g.Actions, action) || slices.Contains(g.Actions, "*")) {
				granted = true
			}
		}
		if !granted {
			return false
		}
	}
	return len(want.Actions) > 0
}

var errToken = errors.New("token refused")

// verify returns the claims of a token that holds now. Tokens that were
// verified before only have their time compared.
func (a *TokenAuth) verify(token string) (*claims, error) {
	if len(token) > tokenBytes {
		return nil, errToken
	}
	now := a.c.Now()
	sum := sha256.Sum256([]byte(token))
	a.mu.Lock()
	c := a.verified[sum]
	a.mu.Unlock()
	if c == nil {
		var err error
		if c, err = a.parse(token, now); err != nil {
			return nil, err
		}
	}
	if now.Before(c.from.Add(-tokenLeeway)) || now.After(c.until.Add(tokenLeeway)) {
		return nil, errToken
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verified) >= tokenCache {
		clear(a.verified) // they can be verified again
	}
	a.verified[sum] = c
	return c, nil
}

func (a *TokenAuth) parse(token string, now time.Time) (*claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errToken
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(strings.TrimRight(p, "=")); err != nil {
			return nil, errToken
		}
	}
	var h header
	if err := json.Unmarshal(raw[0], &h); err != nil {
		return nil, errToken
	}
	key, err := a.key(h, now)
	if err != nil {
		return nil, err
	}
	if !signedBy(key, h.Algorithm, token[:len(parts[0])+1+len(parts[1])], raw[2]) {
		return nil, errToken
	}
	c := &claims{}
	if err := json.Unmarshal(raw[1], c); err != nil {
		return nil, errToken
	}
	if c.Issuer != a.c.Issuer || !slices.Contains(c.Audience, a.c.Service) {
		return nil, errToken
	}
	if c.until, err = seconds(c.Expires); err != nil {
		return nil, errToken
	}
	if c.NotBefore != "" {
		if c.from, err = seconds(c.NotBefore); err != nil {
			return nil, errToken
		}
	}
	return c, nil
}

func seconds(n json.Number) (time.Time, error) {
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, errToken
	}
	return time.Unix(int64(f), 0), nil
}

type header struct {
	Algorithm string   `json:"alg"`
	Chain     [][]byte `json:"x5c"`
	Key       *jwk     `json:"jwk"`
	KeyID     string   `json:"kid"`
}

type jwk struct {
	Chain [][]byte `json:"x5c"`
	Type  string   `json:"kty"`
	Curve string   `json:"crv"`
	X     string   `json:"x"`
	Y     string   `json:"y"`
	N     string   `json:"n"`
	E     string   `json:"e"`
}

// key finds the key that must have signed a token. Whatever a token brings
// along only says which of the trusted keys that is.
func (a *TokenAuth) key(h header, now time.Time) (crypto.PublicKey, error) {
	switch {
	case len(h.Chain) > 0:
		return a.certified(h.Chain, now)
	case h.Key != nil && len(h.Key.Chain) > 0:
		return a.certified(h.Key.Chain, now)
	case h.Key != nil:
		pub, err := h.Key.public()
		if err != nil {
			return nil, errToken
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return nil, errToken
		}
		if key, ok := a.keys[libtrustID(spki)]; ok {
			return key, nil
		}
	default:
		if key, ok := a.keys[h.KeyID]; ok {
			return key, nil
		}
	}
	return nil, errToken
}

// certified returns the key of a certificate that leads to the configured
// ones.
func (a *TokenAuth) certified(chain [][]byte, now time.Time) (crypto.PublicKey, error) {
	if len(chain) > tokenChain {
		return nil, errToken
	}
	between := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errToken
		}
		if i == 0 {
			leaf = cert
		} else {
			between.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, errToken
	}
	return leaf.PublicKey, nil
}

func (k *jwk) public() (crypto.PublicKey, error) {
	number := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		if err != nil {
			return nil
		}
		return b
	}
	switch k.Type {
	case "EC":
		curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]
		if !ok {
			return nil, errToken
		}
		return ecdsa.ParseUncompressedPublicKey(curve, bytes.Join([][]byte{{4}, number(k.X), number(k.Y)}, nil))
	case "RSA":
		e := new(big.Int).SetBytes(number(k.E))
		if !e.IsInt64() || e.Int64() > 1<<31-1 {
			return nil, errToken
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(number(k.N)), E: int(e.Int64())}, nil
	}
	return nil, errToken
}

// signedBy verifies a signature by a method that the key admits.
func signedBy(key crypto.PublicKey, algorithm, message string, sig []byte) bool {
	hash, ok := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[strings.TrimLeft(algorithm, "ERS")]
	if !ok || len(algorithm) != 5 {
		return false
	}
	h := hash.New()
	h.Write([]byte(message))
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		// ES256 means P-256, and so on (RFC 7518 3.4).
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm]
		n := (k.Curve.Params().BitSize + 7) / 8
		if curve != k.Curve || len(sig) != 2*n {
			return false
		}
		return ecdsa.Verify(k, h.Sum(nil), new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case *rsa.PublicKey:
		return algorithm[:2] == "RS" && k.N.BitLen() >= 2048 && rsa.VerifyPKCS1v15(k, hash, h.Sum(nil), sig) == nil
	}
	return false
}
