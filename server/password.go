package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/traces"
)

// Users are the users of a small installation with their passwords, hashed.
// They do not change.
type Users struct {
	hashes map[string][]byte
	// decoys are all hashes. One of them is compared with where there is no such
	// user, so that the time that a refusal takes does not tell who there is.
	decoys [][]byte
}

// hash returns what to compare the password of a name with; known is false if
// there is no such user. A name has the same decoy each time, one that only the
// secret tells: costs differ, and names that are unknown have them all.
func (u *Users) hash(name string, secret []byte) (hash []byte, known bool) {
	if hash, known = u.hashes[name]; known {
		return hash, true
	}
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(name))
	return u.decoys[binary.BigEndian.Uint64(m.Sum(nil))%uint64(len(u.decoys))], false
}

// Bounds of the cost of a bcrypt hash. Below, a stolen file of passwords that
// people choose is soon broken; above, one login keeps a core busy for seconds.
const (
	MinCost = bcrypt.DefaultCost
	maxCost = 14
)

// ParseUsers reads a file as "htpasswd -B" writes it: a line for each user,
// with a colon and a bcrypt hash of at least that cost ([MinCost], unless all
// passwords are random) and at most 14. Empty lines and comments (#) are passed
// over.
func ParseUsers(raw []byte, least int) (*Users, error) {
	u := &Users{hashes: map[string][]byte{}}
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		name, hash, ok := strings.Cut(text, ":")
		if s, err := ParseSubject(name); !ok || err != nil || s.kind != user {
			return nil, fmt.Errorf("line %d: a line is a user's name, a colon and a hash, and the name is printable, in UTF-8, and none of anyone and authenticated", n)
		}
		if _, twice := u.hashes[name]; twice {
			return nil, fmt.Errorf("line %d: %s stands there twice", n, name)
		}
		cost, err := bcrypt.Cost([]byte(hash))
		again := fmt.Sprintf(`make it anew: htpasswd -B -C %d FILE %s`, bcrypt.DefaultCost+2, name)
		switch {
		case err != nil || len(hash) != 60:
			return nil, fmt.Errorf("line %d: the password of %s is not hashed with bcrypt; %s", n, name, again)
		case cost < least:
			return nil, fmt.Errorf("line %d: the hash of %s has cost %d, which is soon broken; %s", n, name, cost, again)
		case cost > maxCost:
			return nil, fmt.Errorf("line %d: the hash of %s has cost %d, which takes this server too long; %s", n, name, cost, again)
		}
		u.hashes[name] = []byte(hash)
		u.decoys = append(u.decoys, []byte(hash))
	}
	if len(u.hashes) == 0 {
		return nil, errors.New("there are no users in it: htpasswd -B -C 12 FILE USER adds one")
	}
	return u, nil
}

// A PasswordConfig says who may log in with a password.
type PasswordConfig struct {
	Realm string // shown to people who are asked for a password; "" is "iEchor trust server"
	Users func() *Users
	Rules func() *Rules
	// Proxies are the addresses of those whose X-Forwarded-For is believed.
	Proxies []netip.Prefix
	Log     *slog.Logger     // nil: no log
	Now     func() time.Time // nil: time.Now
}

// A PasswordAuth asks for a user and a password (RFC 7617), and lets through
// what the rules give that user; and what they give to anyone, without a
// login. A password is hashed once and then remembered under a key that only
// this process has. Who fails too often is refused for a while without a look
// at the password, and few are hashed at once, so that guessing is slow and
// cannot keep others out. It is safe for concurrent use.
type PasswordAuth struct {
	c      PasswordConfig
	secret [32]byte
	slots  chan struct{} // one for each hash that is being computed
	fails  *throttle

	mu       sync.Mutex
	verified map[[32]byte]struct{} // guarded by mu: by proof
}

const (
	maxLogin      = 1024 // bytes of user and password
	passwordCache = 10_000
	// hashWait is how long a login waits for its turn to be hashed.
	hashWait = 5 * time.Second
)

// NewPasswordAuth makes a PasswordAuth. Users and rules are needed.
func NewPasswordAuth(c PasswordConfig) (*PasswordAuth, error) {
	switch {
	case c.Users == nil || c.Rules == nil:
		return nil, errors.New("password authentication needs users and rules")
	case unquotable(c.Realm):
		return nil, errors.New("realm must not contain quotes, backslashes or line ends")
	case c.Realm == "":
		c.Realm = "iEchor trust server"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = slog.New(traces.Handler(c.Log.Handler()))
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &PasswordAuth{
		c: c, fails: newThrottle(), verified: map[[32]byte]struct{}{},
		// Half of the machine stays for those who are logged in.
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	_, _ = rand.Read(a.secret[:]) // never fails
	return a, nil
}

// Authorize implements [Authorizer].
func (a *PasswordAuth) Authorize(r *http.Request, want Access) (Grant, error) {
	who, err := a.Login(r)
	if err != nil {
		return Grant{}, err
	}
	if who == nil {
		return Grant{}, a.challenge(want)
	}
	g, ok := a.c.Rules().grant(*who, want)
	if !ok {
		return Grant{}, a.challenge(want)
	}
	return g, nil
}

func (a *PasswordAuth) challenge(want Access) error {
	return unauthorized(want, `Basic realm="`+a.c.Realm+`"`)
}

// Login returns who the request is from: the zero Identity if it shows no
// login, nil if it shows a wrong one. An [*api.Error] says that too many are
// tried.
func (a *PasswordAuth) Login(r *http.Request) (*Identity, error) {
	if len(r.Header["Authorization"]) == 0 {
		return &Identity{}, nil
	}
	name, password, ok := r.BasicAuth()
	if !ok || len(r.Header["Authorization"]) > 1 || len(name)+len(password) > maxLogin {
		return nil, nil
	}
	users := a.c.Users()
	hash, known := users.hash(name, a.secret[:])
	proof := a.proof(name, password, hash)
	if known && a.remembers(proof) {
		return &Identity{User: name}, nil
	}
	from := client(r, a.c.Proxies)
	if err := a.throttled(from); err != nil {
		return nil, err
	}
	done, err := a.turn(r.Context())
	if err != nil {
		return nil, err
	}
	defer done()
	// Others may have come before: with the same password, or from the same
	// client with wrong ones.
	if known && a.remembers(proof) {
		return &Identity{User: name}, nil
	}
	if err := a.throttled(from); err != nil {
		return nil, err
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		// The name may be a password in the wrong field, unless there is such
		// a user.
		if !known {
			name = ""
		}
		a.fails.failed(from, a.c.Now())
		a.c.Log.InfoContext(r.Context(), "login refused", "user", name, "from", from.String())
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verified) >= passwordCache {
		clear(a.verified) // they can be verified again
	}
	a.verified[proof] = struct{}{}
	return &Identity{User: name}, nil
}

func (a *PasswordAuth) remembers(proof [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.verified[proof]
	return ok
}

func (a *PasswordAuth) throttled(from netip.Prefix) error {
	if wait := a.fails.blocked(from, a.c.Now()); wait > 0 {
		return tooMany(wait)
	}
	return nil
}

func tooMany(wait time.Duration) error {
	e := api.NewError(api.TooMany, "too many logins fail; try again later")
	e.RetryAfter = int(wait/time.Second) + 1
	return e
}

// proof stands for a verified login. It has the hash in it, so that a changed
// password ends it, and cannot be guessed at without the process's secret.
func (a *PasswordAuth) proof(name, password string, hash []byte) (sum [32]byte) {
	m := hmac.New(sha256.New, a.secret[:])
	fmt.Fprintf(m, "%d %d %s%s", len(name), len(password), name, password)
	m.Write(hash)
	m.Sum(sum[:0])
	return sum
}

// turn waits until a password may be hashed; done ends the turn.
func (a *PasswordAuth) turn(ctx context.Context) (done func(), err error) {
	late := time.NewTimer(hashWait)
	defer late.Stop()
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, nil
	case <-late.C:
		return nil, tooMany(hashWait)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
