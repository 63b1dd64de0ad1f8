package trust

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// What a call does, in the words of token scopes (cli.md 3.3, notary-protocol
// 3).
const (
	actionsRead  = "pull"
	actionsWrite = "pull,push"
	actionsAll   = "*"
)

// Bounds of what a server may say about logging in.
const (
	maxChallenge = 8 << 10
	maxToken     = 256 << 10
)

// errNoBasic is what the stock programs say.
var errNoBasic = fmt.Errorf("no basic auth credentials (%w)", ErrUnauthorized)

// authState is what was learned about logging in.
type authState struct {
	sync.Mutex
	challenge *challenge       // nil: the server has not asked
	headers   map[scope]string // Authorization, of tokens and of Basic
	logins    map[string]*Credential
}

type scope struct {
	gun     tuf.GUN
	actions string
}

// A challenge is a WWW-Authenticate header.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// authorization returns the Authorization header for a call, "" if none is
// known to be needed. It may ask the login server.
func (h *HTTP) authorization(ctx context.Context, gun tuf.GUN, actions string) (string, error) {
	s := scope{gun, actions}
	h.auth.Lock()
	c, header := h.auth.challenge, h.auth.headers[s]
	h.auth.Unlock()
	if c == nil || header != "" {
		return header, nil
	}
	login, err := h.login(ctx, gun)
	if err != nil {
		return "", err
	}
	if c.scheme == "basic" {
		if login.User == "" {
			return "", errNoBasic
		}
		header = "Basic " + base64.StdEncoding.EncodeToString([]byte(login.User+":"+login.Password))
	} else {
		token, err := h.token(ctx, c, s, login)
		if err != nil {
			return "", err
		}
		header = "Bearer " + token
	}
	h.auth.Lock()
	defer h.auth.Unlock()
	if h.auth.headers == nil {
		h.auth.headers = make(map[scope]string)
	}
	h.auth.headers[s] = header
	return header, nil
}

// challenged takes note of a 401, and reports whether it is worth asking
// again. used is the header that was refused.
func (h *HTTP) challenged(gun tuf.GUN, actions, used string, header http.Header) bool {
	c := parseChallenges(header.Values("WWW-Authenticate"))
	if c == nil {
		return false
	}
	h.auth.Lock()
	defer h.auth.Unlock()
	h.auth.challenge = c
	if used == "" {
		return true
	}
	// A token may have run out. A password has not.
	delete(h.auth.headers, scope{gun, actions})
	return c.scheme == "bearer"
}

// login finds the login for the registry in gun, once.
func (h *HTTP) login(ctx context.Context, gun tuf.GUN) (Credential, error) {
	host := registryOf(gun)
	h.auth.Lock()
	known := h.auth.logins[host]
	h.auth.Unlock()
	if known != nil || h.c.Credentials == nil {
		if known == nil {
			known = &Credential{}
		}
		return *known, nil
	}
	found, err := h.c.Credentials(ctx, host)
	if err != nil {
		return Credential{}, fmt.Errorf("credentials for %s: %w", host, err)
	}
	h.auth.Lock()
	defer h.auth.Unlock()
	if h.auth.logins == nil {
		h.auth.logins = make(map[string]*Credential)
	}
	h.auth.logins[host] = &found
	return found, nil
}

func registryOf(gun tuf.GUN) string {
	host, _, _ := strings.Cut(string(gun), "/")
	return host
}

// token asks the login server that the challenge names.
func (h *HTTP) token(ctx context.Context, c *challenge, s scope, login Credential) (string, error) {
	realm, err := url.Parse(c.params["realm"])
	if err != nil || !h.allowed(realm, registryOf(s.gun)) {
		return "", &RealmError{h.Host(), c.params["realm"]}
	}
	// The scope is ours to say: a server could ask for more than the call
	// needs.
	want := "repository:" + string(s.gun) + ":" + s.actions
	if s.gun == "" {
		want = "registry:catalog:" + s.actions
	}
	r := request{method: http.MethodGet, limit: maxToken}
	if login.Token != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {login.Token}, "client_id": {"iechor-client"},
			"service": {c.params["service"]}, "scope": {want},
		}
		r.method, r.contentType, r.body = http.MethodPost, "application/x-www-form-urlencoded", []byte(form.Encode())
	} else {
		q := realm.Query()
		q.Set("service", c.params["service"])
		q.Set("scope", want)
		if login.User != "" {
			q.Set("account", login.User)
			r.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(login.User+":"+login.Password))
		}
		realm.RawQuery = q.Encode()
	}
	r.url = realm.String()
	res, err := h.send(ctx, realm, r)
	switch {
	case err != nil:
		return "", fmt.Errorf("log in at %s: %w", realm.Host, err)
	case redirects(res):
		return "", &RedirectError{realm.Host, res.header.Get("Location")}
	case res.status == http.StatusBadRequest: // as RFC 6749 has it
		return "", fmt.Errorf("log in at %s: %w", realm.Host, &ServerRefusal{realm.Host, &api.Error{Status: http.StatusUnauthorized}})
	case res.status != http.StatusOK:
		return "", fmt.Errorf("log in at %s: %w", realm.Host, &ServerRefusal{realm.Host, res.refusal})
	}
	var answer struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	err = json.Unmarshal(res.body, &answer)
	if answer.Token == "" {
		answer.Token = answer.Access
	}
	if err == nil && (answer.Token == "" || strings.ContainsFunc(answer.Token, func(c rune) bool { return c <= ' ' || c >= 0x7f })) {
		err = errors.New("no token in the answer")
	}
	if err != nil {
		return "", fmt.Errorf("%w: log in at %s: %w", ErrUnauthorized, realm.Host, err)
	}
	return answer.Token, nil
}

// allowed reports whether a login may be sent to realm (see
// [HTTPConfig.Realms]).
func (h *HTTP) allowed(realm *url.URL, registry string) bool {
	if realm.Hostname() == "" || realm.User != nil || realm.Fragment != "" || realm.Opaque != "" || printable(realm.Host) != realm.Host {
		return false // the last because errors name the host, decoded
	}
	local := h.loopback && loopback(realm.Hostname())
	if realm.Scheme != "https" && !(realm.Scheme == "http" && local) {
		return false
	}
	if local || slices.Contains(h.c.Realms, realm.Host) || slices.Contains(h.c.Realms, realm.Hostname()) {
		return true
	}
	r, err := url.Parse("https://" + registry)
	return near(realm.Hostname(), h.base.Hostname()) || err == nil && near(realm.Hostname(), r.Hostname())
}

// near reports whether a host is other, or is below other's domain or the one
// above it, if that has at least two labels and is not one like co.uk, below
// which anybody can have a name.
func near(host, other string) bool {
	host, other = strings.ToLower(host), strings.ToLower(other)
	if host == other {
		return host != ""
	}
	if _, err := netip.ParseAddr(other); err == nil {
		return false
	}
	_, parent, _ := strings.Cut(other, ".")
	for _, domain := range []string{other, parent} {
		if strings.Contains(domain, ".") && !registered(domain) && (host == domain || strings.HasSuffix(host, "."+domain)) {
			return true
		}
	}
	return false
}

// registered reports whether a domain is one of those below a country's in
// which names are registered. Not all that there are can be known here.
func registered(domain string) bool {
	second, top, _ := strings.Cut(domain, ".")
	return len(top) == 2 && slices.Contains([]string{"ac", "co", "com", "edu", "go", "gob", "gouv", "gov", "mil", "ne", "net", "nom", "or", "org"}, second)
}

// parseChallenges returns the Bearer challenge among the headers, else the
// Basic one, else nil (RFC 9110 11.6.1).
func parseChallenges(headers []string) *challenge {
	var basic *challenge
	for _, header := range headers {
		if len(header) > maxChallenge {
			continue
		}
		for _, c := range parseHeader(header) {
			switch {
			case c.scheme == "bearer" && c.params["realm"] != "":
				return &c
			case c.scheme == "basic" && basic == nil:
				basic = &c
			}
		}
	}
	return basic
}

// parseHeader splits a header into challenges. What it cannot read it drops.
func parseHeader(s string) []challenge {
	var out []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		n := 0
		for n < len(s) && tokenByte(s[n]) {
			n++
		}
		if n == 0 {
			return out
		}
		word := s[:n]
		rest := strings.TrimLeft(s[n:], " \t")
		if !strings.HasPrefix(rest, "=") {
			out = append(out, challenge{strings.ToLower(word), make(map[string]string)})
			s = rest
			continue
		}
		value, rest, ok := parseValue(strings.TrimLeft(rest[1:], " \t"))
		if !ok || len(out) == 0 {
			return out
		}
		params := out[len(out)-1].params
		if _, twice := params[strings.ToLower(word)]; !twice {
			params[strings.ToLower(word)] = value
		}
		s = rest
	}
}

// parseValue reads a token or a quoted string.
func parseValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		n := 0
		for n < len(s) && tokenByte(s[n]) {
			n++
		}
		return s[:n], s[n:], n > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// tokenByte reports whether c may stand in a token (RFC 9110 5.6.2).
func tokenByte(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
