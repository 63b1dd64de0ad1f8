package sandbox

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/server"
)

// How a sandbox asks who somebody is.
const (
	NoLogin   = ""         // not at all
	Tokens    = "token"    // by tokens of a token service, which asks for passwords
	Passwords = "htpasswd" // by passwords
)

// A Login is one of the users of a sandbox that asks for logins.
type Login struct {
	User, Password string
	May            string // in words
}

// The users, and the rules of what each one may do with all repositories.
var users = []struct {
	name string
	role server.Role
	may  string
}{
	{"alice", server.Push, "pull and push"},
	{"bob", server.Pull, "pull only"},
	{"carol", server.Admin, "pull, push, and delete trust data"},
}

// A door knows the users of a sandbox.
type door struct {
	kind   string
	logins []Login
	rules  *server.Rules
	users  *server.Users
	tokens *tokenService // nil: logins are passwords
}

// openDoor makes the users, with the passwords that were kept in dir, or new
// ones.
func openDoor(dir string, c Config, ca *authority) (*door, error) {
	d := &door{kind: c.Auth}
	if c.Auth != Tokens && c.Auth != Passwords {
		return nil, fmt.Errorf("%q is no way to log in: choose %s or %s", c.Auth, Tokens, Passwords)
	}
	kept := map[string]string{}
	file := filepath.Join(dir, "logins.json")
	raw, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &kept); err != nil {
			return nil, fmt.Errorf("read %s (remove it to have new passwords made): %w", file, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	rule := server.Rule{Pattern: "*"}
	var catalog []server.Subject
	var lines strings.Builder
	for _, u := range users {
		if kept[u.name] == "" {
			kept[u.name] = strings.ToLower(rand.Text()[:12])
		}
		// What is random cannot be guessed, however fast.
		hash, err := bcrypt.GenerateFromPassword([]byte(kept[u.name]), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&lines, "%s:%s\n", u.name, hash)
		who, err := server.ParseSubject(u.name)
		if err != nil {
			return nil, err
		}
		rule.May[u.role] = append(rule.May[u.role], who)
		if u.role == server.Admin {
			catalog = append(catalog, who)
		}
		d.logins = append(d.logins, Login{u.name, kept[u.name], u.may})
	}
	if raw, err = json.MarshalIndent(kept, "", "  "); err != nil {
		return nil, err
	}
	if err := writeFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	if d.users, err = server.ParseUsers([]byte(lines.String()), bcrypt.MinCost); err != nil {
		return nil, err
	}
	if d.rules, err = server.NewRules([]server.Rule{rule}, catalog); err != nil {
		return nil, err
	}
	if c.Auth == Tokens {
		d.tokens, err = newTokenService(d, c, ca)
	}
	return d, err
}

func (d *door) passwords(c Config) (*server.PasswordAuth, error) {
	return server.NewPasswordAuth(server.PasswordConfig{
		Realm: "sandbox", Log: c.Log, Now: c.Now,
		Users: func() *server.Users { return d.users }, Rules: func() *server.Rules { return d.rules },
	})
}

// authorizer returns who lets requests into a service of that name; trust is
// the trust server's URL, where the token service is, too.
func (d *door) authorizer(c Config, service, trust string) (server.Authorizer, error) {
	if d.tokens == nil {
		return d.passwords(c)
	}
	keys, err := server.ParseTokenKeys(d.tokens.certificate)
	if err != nil {
		return nil, err
	}
	return server.NewTokenAuth(server.TokenConfig{
		Realm: trust + tokenPath, Service: service, Issuer: tokenIssuer, Now: c.Now,
		Keys: func() *server.TokenKeys { return keys },
	})
}

// guard lets requests to a registry through as auth says.
func guard(auth server.Authorizer, registry http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := auth.Authorize(r, registryAccess(r)); err != nil {
			var e *api.Error
			if !errors.As(err, &e) {
				e = api.NewError(api.Unknown, nil)
			}
			w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
			api.WriteError(w, e)
			return
		}
		registry.ServeHTTP(w, r)
	})
}

// registryAccess is what a request to a registry wants to do.
func registryAccess(r *http.Request) server.Access {
	name := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(name, part); i > 0 {
			a := server.Access{Type: "repository", Name: name[:i], Actions: []string{"pull"}}
			switch r.Method {
			case http.MethodGet, http.MethodHead:
			case http.MethodDelete:
				a.Actions = []string{"*"}
			default:
				a.Actions = []string{"pull", "push"}
			}
			return a
		}
	}
	if strings.Trim(name, "/") == "" || name == "/v2" {
		return server.Access{Type: "registry"} // any login will do
	}
	return server.Access{Type: "registry", Name: "catalog", Actions: []string{"*"}}
}

const (
	tokenPath   = "/auth/token"
	tokenIssuer = "sandbox"
	tokenLife   = 5 * time.Minute
)

// A tokenService hands out the tokens of a registry, as the registry's token
// specification says, to users who show a password.
type tokenService struct {
	door        *door
	passwords   *server.PasswordAuth
	now         func() time.Time
	key         crypto.Signer
	certificate []byte // of the key, PEM
	header      map[string]any
}

func newTokenService(d *door, c Config, ca *authority) (*tokenService, error) {
	s := &tokenService{door: d, now: c.Now}
	var err error
	if s.passwords, err = d.passwords(c); err != nil {
		return nil, err
	}
	method := "ES256"
	if c.RSATokens {
		method = "RS256"
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	t, err := template("sandbox token service", c.Now(), caLife)
	if err != nil {
		return nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, s.key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		return nil, err
	}
	s.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.header = map[string]any{"typ": "JWT", "alg": method, "kid": server.TokenKeyID(spki), "x5c": [][]byte{der}}
	return s, nil
}

type tokenAccess struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	who, err := s.passwords.Login(r)
	var e *api.Error
	switch {
	case errors.As(err, &e):
		api.WriteError(w, e)
		return
	case err != nil || who == nil:
		e = api.NewError(api.Unauthorized, nil)
		e.Challenge = `Basic realm="sandbox"`
		api.WriteError(w, e)
		return
	}
	token, err := s.token(*who, r.URL.Query().Get("service"), r.URL.Query()["scope"])
	if err != nil {
		api.WriteError(w, api.NewError(api.Unknown, nil))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token": token, "access_token": token, "expires_in": int(tokenLife / time.Second), "issued_at": s.now().UTC().Format(time.RFC3339),
	})
}

// token makes a token with those of the wanted scopes that somebody may have.
func (s *tokenService) token(who server.Identity, service string, scopes []string) (string, error) {
	now := s.now()
	granted := []tokenAccess{}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		// The name may have a colon in it, before a port.
		kind, rest, _ := strings.Cut(scope, ":")
		i := strings.LastIndexByte(rest, ':')
		if i < 0 {
			continue
		}
		a := tokenAccess{kind, rest[:i], []string{}}
		for action := range strings.SplitSeq(rest[i+1:], ",") {
			if s.door.rules.Allows(who, server.Access{Type: a.Type, Name: a.Name, Actions: []string{action}}) {
				a.Actions = append(a.Actions, action)
			}
		}
		granted = append(granted, a)
	}
	claims := map[string]any{
		"iss": tokenIssuer, "sub": who.User, "aud": service, "access": granted, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}
	var parts []string
	for _, v := range []any{s.header, claims} {
		raw, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(raw))
	}
	message := strings.Join(parts, ".")
	sig, err := s.sign(message)
	return message + "." + base64.RawURLEncoding.EncodeToString(sig), err
}

func (s *tokenService) sign(message string) ([]byte, error) {
	sum := sha256.Sum256([]byte(message))
	if key, ok := s.key.(*ecdsa.PrivateKey); ok {
		r, v, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			return nil, err
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		v.FillBytes(sig[32:])
		return sig, nil
	}
	return s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}
