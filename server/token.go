package server

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// TokenConfig says whose tokens a [TokenAuth] accepts.
type TokenConfig struct {
	Realm   string // where clients get tokens, a URL
	Service string // the audience of the tokens
	Issuer  string
	// Keys returns the keys of the token service at present. Tokens that were
	// verified with others are verified again.
	Keys func() *TokenKeys
	// Algorithms are the ones that may sign tokens; empty: all of
	// [TokenAlgorithms].
	Algorithms []string
	// Leeway is how far the clocks of the token service and of this server may
	// differ; 0: a minute, negative: not at all.
	Leeway time.Duration
	// AutoRedirect replaces Realm by https://HOST/auth/token, with the host
	// that the request names.
	AutoRedirect bool
	// Rules, if set, take away from what tokens grant. They never add to it.
	Rules func() *Rules
	Now   func() time.Time // nil: time.Now
}

// A TokenAuth lets requests through that bear a token of a registry's token
// service (notary-protocol 4.1): a JSON Web Token signed by one of the configured
// keys, or one that a configured certificate certifies. No key is taken from a
// token or fetched (attacks.md S5, L10). It is safe for concurrent use.
type TokenAuth struct {
	c TokenConfig

	mu       sync.Mutex
	keys     *TokenKeys           // guarded by mu: that verified was verified with
	verified map[[32]byte]*claims // guarded by mu: tokens that were verified, by hash
}

const (
	tokenBytes = 16 << 10
	tokenCache = 10_000
	// maxLeeway is more than clocks that anybody looks after differ.
	maxLeeway = 10 * time.Minute
)

// NewTokenAuth makes a TokenAuth. All of realm (or AutoRedirect), service,
// issuer and keys are needed.
func NewTokenAuth(c TokenConfig) (*TokenAuth, error) {
	switch {
	case c.Realm == "" && !c.AutoRedirect, c.Service == "", c.Issuer == "":
		return nil, errors.New("token authentication needs a realm, a service and an issuer")
	case c.Keys == nil:
		return nil, errors.New("token authentication needs the keys of the token service")
	case unquotable(c.Realm + c.Service):
		return nil, errors.New("realm and service must not contain quotes, backslashes or line ends")
	case c.Leeway > maxLeeway:
		return nil, fmt.Errorf("a leeway of %v makes tokens live too long: choose %v at most", c.Leeway, maxLeeway)
	}
	for _, name := range c.Algorithms {
		if !slices.Contains(TokenAlgorithms, name) {
			return nil, fmt.Errorf("%q is no algorithm for tokens: choose of %s", name, strings.Join(TokenAlgorithms, ", "))
		}
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = TokenAlgorithms
	}
	orDefault(&c.Leeway, time.Minute)
	c.Leeway = max(0, c.Leeway)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &TokenAuth{c: c, verified: map[[32]byte]*claims{}}, nil
}

// unquotable reports whether s cannot stand between quotes in a challenge.
func unquotable(s string) bool { return strings.ContainsAny(s, "\"\\\r\n") }

// bearer returns the one token of a request.
func bearer(r *http.Request) (string, bool) {
	fields := r.Header["Authorization"]
	if len(fields) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(fields[0], " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "bearer")
}

// Authorize implements [Authorizer]. With no wanted actions any token that
// holds will do.
func (a *TokenAuth) Authorize(r *http.Request, want Access) (Grant, error) {
	token, ok := bearer(r)
	if !ok {
		return Grant{}, a.refuse(r, want, "")
	}
	c, err := a.verify(token)
	if err != nil {
		return Grant{}, a.refuse(r, want, "invalid_token")
	}
	g, ok := a.grant(c, want)
	if !ok {
		return Grant{}, a.refuse(r, want, "insufficient_scope")
	}
	return g, nil
}

// grant returns what a token gives, less what the rules take away.
func (a *TokenAuth) grant(c *claims, want Access) (Grant, bool) {
	if !c.grants(want) {
		return Grant{}, false
	}
	who := Identity{User: c.Subject}
	g := Grant{Who: cmp.Or(c.Subject, "a token without a subject"), Publisher: c.grants(Access{"repository", want.Name, pushPull})}
	if a.c.Rules != nil && len(want.Actions) > 0 {
		narrow, ok := a.c.Rules().grant(who, want)
		g.Publisher = g.Publisher && narrow.Publisher
		return g, ok
	}
	return g, true
}

// refuse is the refusal that tells a client where to get a token for what it
// wants.
func (a *TokenAuth) refuse(r *http.Request, want Access, problem string) error {
	realm := a.c.Realm
	if a.c.AutoRedirect {
		realm = "https://" + strings.Map(func(c rune) rune {
			if unquotable(string(c)) {
				return -1
			}
			return c
		}, r.Host) + "/auth/token"
	}
	challenge := fmt.Sprintf(`Bearer realm="%s",service="%s"`, realm, a.c.Service)
	if len(want.Actions) > 0 {
		challenge += fmt.Sprintf(`,scope="%s:%s:%s"`, want.Type, want.Name, strings.Join(want.Actions, ","))
	}
	if problem != "" {
		challenge += `,error="` + problem + `"`
	}
	return unauthorized(want, challenge)
}

type claims struct {
	Issuer    string      `json:"iss"`
	Subject   string      `json:"sub"`
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
	return true
}

var errToken = errors.New("token refused")

// verify returns the claims of a token that holds now. Tokens that were
// verified before only have their time compared.
func (a *TokenAuth) verify(token string) (*claims, error) {
	if len(token) > tokenBytes {
		return nil, errToken
	}
	keys, now := a.c.Keys(), a.c.Now()
	sum := sha256.Sum256([]byte(token))
	a.mu.Lock()
	if a.keys != keys {
		a.keys = keys
		clear(a.verified)
	}
	c := a.verified[sum]
	a.mu.Unlock()
	if c == nil {
		var err error
		if c, err = a.parse(keys, token, now); err != nil {
			return nil, err
		}
	}
	if now.Before(c.from.Add(-a.c.Leeway)) || now.After(c.until.Add(a.c.Leeway)) {
		return nil, errToken
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verified) >= tokenCache {
		clear(a.verified) // they can be verified again
	}
	if a.keys == keys { // they may have been replaced meanwhile
		a.verified[sum] = c
	}
	return c, nil
}

func (a *TokenAuth) parse(keys *TokenKeys, token string, now time.Time) (*claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errToken
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = unbase64(p); err != nil {
			return nil, errToken
		}
	}
	var h tokenHeader
	if err := json.Unmarshal(raw[0], &h); err != nil || h.Critical != nil || !slices.Contains(a.c.Algorithms, h.Algorithm) {
		return nil, errToken
	}
	key, err := keys.find(h, now)
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
