package server

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

func hashed(t testing.TB, password string, cost int) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

// users are alice and bob, whose passwords are "password of NAME".
var users = sync.OnceValue(func() *Users {
	u := &Users{hashes: map[string][]byte{}}
	for _, name := range []string{"alice", "bob"} {
		h, err := bcrypt.GenerateFromPassword([]byte("password of "+name), bcrypt.MinCost) // fast
		if err != nil {
			panic(err)
		}
		u.hashes[name], u.decoys = h, append(u.decoys, h)
	}
	return u
})

func passwordAuth(t testing.TB, edit func(*PasswordConfig)) *PasswordAuth {
	t.Helper()
	r := rules(t, "bob", [4]string{"reg.example/public/*", "anyone", "alice", ""}, [4]string{"reg.example/*", "authenticated", "alice", "bob"})
	c := PasswordConfig{Users: users, Rules: func() *Rules { return r }}
	if edit != nil {
		edit(&c)
	}
	a, err := NewPasswordAuth(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// asked is a request of a client, with a login unless user is empty.
func asked(from, user, password string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = from
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	return r
}

func TestPasswordAuth(t *testing.T) {
	t.Parallel()
	a := passwordAuth(t, nil)
	access := func(name string, actions []string) Access { return Access{"repository", name, actions} }
	catalog := Access{"registry", "catalog", everything}
	for _, tt := range []struct {
		user, password string
		want           Access
		grant          Grant
		ok             bool
	}{
		{"alice", "password of alice", access("reg.example/a", pushPull), Grant{"alice", true}, true},
		{"alice", "password of alice", access("reg.example/a", pull), Grant{"alice", true}, true},
		{"alice", "password of alice", access("reg.example/a", everything), Grant{}, false},
		{"bob", "password of bob", access("reg.example/a", everything), Grant{"bob", true}, true},
		{"bob", "password of bob", access("reg.example/public/a", pull), Grant{}, true}, // as anyone
		{"bob", "password of bob", catalog, Grant{Who: "bob"}, true},
		{"alice", "password of alice", catalog, Grant{}, false},
		{"alice", "password of bob", access("reg.example/a", pull), Grant{}, false},
		{"alice", "", access("reg.example/a", pull), Grant{}, false},
		{"mallory", "password of alice", access("reg.example/a", pull), Grant{}, false},
		{"", "", access("reg.example/a", pull), Grant{}, false},
		{"", "", access("reg.example/public/a", pull), Grant{}, true},
		{"", "", access("reg.example/public/a", pushPull), Grant{}, false},
		// A wrong login is told so, also where none is needed.
		{"alice", "wrong", access("reg.example/public/a", pull), Grant{}, false},
		{"alice", "password of alice", access("other.example/a", pull), Grant{}, false},
	} {
		for range 2 { // the second time from memory
			g, err := a.Authorize(asked("192.0.2.1:1", tt.user, tt.password), tt.want)
			if (err == nil) != tt.ok || g != tt.grant {
				t.Errorf("%s with %q: %v = %+v, %v, want %+v, %t", tt.user, tt.password, tt.want, g, err, tt.grant, tt.ok)
			}
			if err != nil && challenged(t, err) != `Basic realm="iEchor trust server"` {
				t.Errorf("challenge %q", challenged(t, err))
			}
		}
	}
	for _, header := range [][]string{{"Basic !"}, {"Bearer x"}, {""}, {"Basic YWxpY2U6eA==", "Basic YWxpY2U6eA=="}, {"Basic " + strings.Repeat("YWFh", 1000)}} {
		r := asked("192.0.2.1:1", "", "")
		r.Header["Authorization"] = header
		if _, err := a.Authorize(r, access("reg.example/public/a", pull)); err == nil {
			t.Errorf("Authorization %.40q was let in", header)
		}
	}
}

// Challenges and bodies as stock clients expect them, through the whole server.
func TestPasswordServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Auth = passwordAuth(t, nil) })
	login := func(user, password string) (string, string) {
		return "Authorization", asked("", user, password).Header.Get("Authorization")
	}
	const gun tuf.GUN = "reg.example/a"
	h, v := login("alice", "password of alice")
	if r := w.get(keyPath(gun, tuf.RoleTimestamp), h, v); r.Code != 200 {
		t.Errorf("alice's key = %d %s", r.Code, r.Body)
	}
	h, v = login("bob", "password of alice")
	r := w.get(keyPath(gun, tuf.RoleTimestamp), h, v)
	want := `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Type":"repository","Class":"","Name":"reg.example/a","Action":"push"},{"Type":"repository","Class":"","Name":"reg.example/a","Action":"pull"}]}]}` + "\n"
	if r.Code != 401 || r.Body.String() != want || r.Header().Get("WWW-Authenticate") != `Basic realm="iEchor trust server"` {
		t.Errorf("a wrong password = %d %s\n%s", r.Code, r.Header(), r.Body)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/v2/", 401}, {"GET", "/_notary_server/health", 200}, {"GET", "/metrics", 200}, {"GET", "/nowhere", 401}, {"DELETE", repository(gun), 401}} {
		if r := w.do(c.method, c.path, nil); r.Code != c.want {
			t.Errorf("%s %s without a login = %d, want %d", c.method, c.path, r.Code, c.want)
		}
	}
	for _, secret := range []string{"password of", strings.TrimPrefix(v, "Basic ")} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("%q is in the log: %s", secret, w.log)
		}
	}
}

func TestParseUsers(t *testing.T) {
	t.Parallel()
	good := "$2a$10$" + strings.Repeat("a", 53) // of what, nobody asks here
	for _, tt := range []struct{ text, want string }{
		{"alice:" + good + "\n# bob\n\nbob:" + strings.Replace(good, "$2a$", "$2y$", 1), ""},
		{"", "there are no users in it"},
		{"# nobody", "there are no users in it"},
		{"alice", "line 1: a line is a user's name, a colon and a hash"},
		{":" + good, "line 1: a line is"},
		{"anyone:" + good, "none of anyone and authenticated"},
		{"a b:" + good, "line 1: a line is"},
		{"j\u00f6rg-\u592a\u90ce:" + good, ""},
		{"alice:" + good + "\nj\xf6rg:" + good, "line 2: a line is a user's name, a colon and a hash, and the name is printable, in UTF-8"},
		{"\ufeffalice:" + good, "line 1: a line is"},
		{"\nalice:secret", "line 2: the password of alice is not hashed with bcrypt; make it anew: htpasswd -B -C 12 FILE alice"},
		{"alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "not hashed with bcrypt"},
		{"alice:$apr1$x$yyyyyyyyyyyyyyyyyyyyyy", "not hashed with bcrypt"},
		{"alice:" + good[:59], "not hashed with bcrypt"},
		{"alice:" + good + "x", "not hashed with bcrypt"},
		{"alice:" + strings.Replace(good, "$10$", "$05$", 1), "line 1: the hash of alice has cost 5, which is soon broken; make it anew"},
		{"alice:" + strings.Replace(good, "$10$", "$15$", 1), "has cost 15, which takes this server too long"},
		{"alice:" + good + "\nalice:" + good, "line 2: alice stands there twice"},
	} {
		_, err := ParseUsers([]byte(tt.text), MinCost)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("ParseUsers(%q) = %v, want %q", tt.text, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), good[7:])) {
			t.Errorf("ParseUsers(%q) tells the password: %v", tt.text, err)
		}
	}
}

// A name in a file of passwords says nothing to the terminal of who reads that
// the file is refused.
func TestUsersSayNothingToATerminal(t *testing.T) {
	t.Parallel()
	for _, odd := range []string{"\x1b[31m", "\u0092", "\u009b31m", "\xed\xff", "\u202e", "\u2028", "\x00"} {
		name := "al" + odd + "ice"
		for _, text := range []string{name + ":x", name + ":x\n" + name + ":x"} {
			_, err := ParseUsers([]byte(text), MinCost)
			if err == nil || strings.Contains(err.Error(), odd) || !strings.HasPrefix(err.Error(), "line 1: ") {
				t.Errorf("ParseUsers(%q) = %q", text, err)
			}
		}
		if s, err := ParseSubject("certificate:" + name); err == nil || strings.Contains(err.Error(), odd) {
			t.Errorf("ParseSubject of a certificate with the name %q = %v, %q", name, s, err)
		}
	}
}

// A changed password ends what the old one opened, at once.
func TestPasswordIsChanged(t *testing.T) {
	t.Parallel()
	now := users()
	a := passwordAuth(t, func(c *PasswordConfig) { c.Users = func() *Users { return now } })
	try := func(password string, want bool) {
		t.Helper()
		if _, err := a.Authorize(asked("192.0.2.1:1", "alice", password), Access{"repository", "reg.example/a", pull}); (err == nil) != want {
			t.Errorf("alice with %q: %v", password, err)
		}
	}
	try("password of alice", true)
	try("new", false)
	now = &Users{hashes: map[string][]byte{"alice": []byte(hashed(t, "new", bcrypt.MinCost))}}
	try("password of alice", false)
	try("new", true)
	now = &Users{hashes: map[string][]byte{"bob": now.hashes["alice"]}, decoys: [][]byte{now.hashes["alice"]}}
	try("new", false)
}

// Guessing is slow: who fails too often waits, with right passwords too, unless
// they are logged in already; others do not.
func TestAttackGuessedPasswords(t *testing.T) {
	t.Parallel()
	at := &clock{now: stockTime}
	var log lines
	a := passwordAuth(t, func(c *PasswordConfig) {
		c.Now, c.Proxies, c.Log = at.Now, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, slog.New(slog.NewTextHandler(&log, nil))
	})
	try := func(from, user, password string, forwarded ...string) int {
		r := asked(from, user, password)
		r.Header["X-Forwarded-For"] = forwarded
		_, err := a.Authorize(r, Access{"repository", "reg.example/a", pull})
		var e *api.Error
		switch {
		case err == nil:
			return 200
		case !errors.As(err, &e):
			t.Fatal(err)
		case e.Status == http.StatusTooManyRequests && e.RetryAfter < 1:
			t.Errorf("429 says nothing of when to try again")
		}
		return e.Status
	}
	if got := try("192.0.2.1:1", "bob", "password of bob"); got != 200 {
		t.Fatalf("bob = %d", got)
	}
	for i := range burst {
		user := []string{"alice", "mallory"}[i%2] // known or not
		if got := try(fmt.Sprint("192.0.2.1:", i), user, fmt.Sprint("guess ", i)); got != 401 {
			t.Fatalf("guess %d = %d, want 401", i, got)
		}
	}
	for _, tt := range []struct {
		from, user, password string
		forwarded            string
		want                 int
	}{
		{"192.0.2.1:9", "alice", "another guess", "", 429},
		{"192.0.2.1:9", "alice", "password of alice", "", 429},
		{"192.0.2.1:9", "alice", "another guess", "192.0.2.99", 429}, // who is no proxy is not believed
		{"192.0.2.1:9", "bob", "password of bob", "", 200},
		{"[::ffff:192.0.2.1]:9", "alice", "another guess", "", 429},
		{"10.1.1.1:1", "alice", "another guess", "192.0.2.1", 429},
		{"10.1.1.1:1", "alice", "another guess", "203.0.113.5, 192.0.2.1, 10.2.2.2", 429},
		{"10.1.1.1:1", "alice", "another guess", "192.0.2.1, 203.0.113.5", 401},
		{"192.0.2.2:1", "alice", "password of alice", "", 200},
	} {
		if got := try(tt.from, tt.user, tt.password, tt.forwarded); got != tt.want {
			t.Errorf("%s for %q as %s with %q = %d, want %d", tt.from, tt.forwarded, tt.user, tt.password, got, tt.want)
		}
	}
	at.pass(refill)
	if got := try("192.0.2.1:9", "alice", "one more guess"); got != 401 {
		t.Errorf("after a while = %d, want 401", got)
	}
	if got := try("192.0.2.1:9", "alice", "two more guesses"); got != 429 {
		t.Errorf("the next one = %d, want 429", got)
	}
	at.pass(time.Hour)
	if got := try("192.0.2.1:9", "alice", "password of alice"); got != 200 {
		t.Errorf("after an hour = %d", got)
	}
	if text := log.String(); strings.Contains(text, "guess") || strings.Contains(text, "mallory") || !strings.Contains(text, "user=alice from=192.0.2.1/32") {
		t.Errorf("log:\n%s", text)
	}
	// IPv6: a whole network of one machine is one client.
	for i := range burst {
		try(fmt.Sprintf("[2001:db8::%x]:1", i), "alice", "guess")
	}
	if got := try("[2001:db8::ffff]:1", "alice", "guess"); got != 429 {
		t.Errorf("another address of the same network = %d, want 429", got)
	}
	if got := try("[2001:db8:0:1::1]:1", "alice", "guess"); got != 401 {
		t.Errorf("another network = %d, want 401", got)
	}
}

// A refusal that takes the time of a cheap hash must not say that there is such
// a user, nor one that takes the time of a dear one that there is none.
func TestAttackNamesByTime(t *testing.T) {
	t.Parallel()
	u, err := ParseUsers([]byte("alice:"+hashed(t, "a", bcrypt.MinCost)+"\nbob:"+hashed(t, "b", bcrypt.MinCost+1)+"\n"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	costs := map[int]int{}
	for i := range 200 {
		name := fmt.Sprint("nobody", i)
		hash, known := u.hash(name, []byte("secret"))
		again, _ := u.hash(name, []byte("secret"))
		if known || string(hash) != string(again) {
			t.Fatalf("%s is known (%v), or has two decoys", name, known)
		}
		cost, err := bcrypt.Cost(hash)
		if err != nil {
			t.Fatal(err)
		}
		costs[cost]++
	}
	if costs[bcrypt.MinCost] == 0 || costs[bcrypt.MinCost+1] == 0 {
		t.Errorf("unknown names cost %v, want some of each cost", costs)
	}
}

// However many attackers there are, memory is bounded.
func TestThrottleIsBounded(t *testing.T) {
	t.Parallel()
	th := newThrottle()
	now := stockTime
	for i := range 3 * maxClients {
		var a [4]byte
		a[0], a[1], a[2], a[3] = byte(i>>24), byte(i>>16), byte(i>>8), byte(i)
		th.failed(netip.PrefixFrom(netip.AddrFrom4(a), 32), now)
		now = now.Add(time.Millisecond)
	}
	if len(th.clients) > maxClients {
		t.Errorf("%d clients are remembered", len(th.clients))
	}
}

// Hashing is not a denial of service: many wrong logins at once leave those who
// are logged in alone, and no more are hashed at once than there are turns.
func TestAttackManyLogins(t *testing.T) {
	t.Parallel()
	a := passwordAuth(t, nil)
	want := Access{"repository", "reg.example/a", pull}
	if _, err := a.Authorize(asked("192.0.2.1:1", "alice", "password of alice"), want); err != nil {
		t.Fatal(err)
	}
	for range cap(a.slots) { // all turns are taken
		a.slots <- struct{}{}
	}
	if _, err := a.Authorize(asked("192.0.2.1:1", "alice", "password of alice"), want); err != nil {
		t.Errorf("who is logged in waits for others: %v", err)
	}
	var waiting sync.WaitGroup
	results := make(chan error, 30)
	for i := range 30 {
		waiting.Go(func() {
			r := asked(fmt.Sprintf("198.51.100.%d:1", i), "bob", "guess")
			_, err := a.Authorize(r, want)
			results <- err
		})
	}
	select {
	case err := <-results:
		t.Errorf("a login was decided while all turns are taken: %v", err)
	default:
	}
	for range cap(a.slots) {
		<-a.slots
	}
	waiting.Wait()
	close(results)
	for err := range results {
		var e *api.Error
		if !errors.As(err, &e) || e.Status != 401 && e.Status != 429 {
			t.Errorf("guess = %v", err)
		}
	}
}

// A machine is known by its key as well, whatever names it is given.
func TestCertificateAuthByFingerprint(t *testing.T) {
	t.Parallel()
	c := &x509.Certificate{DNSNames: []string{"new.example"}, RawSubjectPublicKeyInfo: []byte("a public key")}
	r := rules(t, "", [4]string{"reg.example/*", fmt.Sprintf("certificate:sha256:%x", sha256.Sum256(c.RawSubjectPublicKeyInfo)), "", ""})
	a, err := NewCertificateAuth(func() *Rules { return r }, nil)
	if err != nil {
		t.Fatal(err)
	}
	q := asked("192.0.2.1:1", "", "")
	q.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c}}}
	if g, err := a.Authorize(q, Access{"repository", "reg.example/a", pull}); err != nil || g.Who != "certificate:new.example" {
		t.Errorf("Authorize = %+v, %v, want the machine by its name", g, err)
	}
	c.RawSubjectPublicKeyInfo = []byte("another")
	if _, err := a.Authorize(q, Access{"repository", "reg.example/a", pull}); err == nil {
		t.Error("Authorize of another key = nil, want a refusal")
	}
}

func TestCertificateAuth(t *testing.T) {
	t.Parallel()
	r := rules(t, "", [4]string{"reg.example/public", "anyone", "", ""}, [4]string{"reg.example/*", "alice", "certificate:ci.example certificate:spiffe://example/builder", ""})
	all := func() *Rules { return r }
	alone, err := NewCertificateAuth(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	beside, err := NewCertificateAuth(all, passwordAuth(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	builder, err := url.Parse("spiffe://example/builder")
	if err != nil {
		t.Fatal(err)
	}
	show := func(c *x509.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
	}
	ci := show(&x509.Certificate{DNSNames: []string{"CI.example"}, Subject: pkix.Name{CommonName: "other"}})
	const basic = `Basic realm="iEchor trust server"`
	for _, tt := range []struct {
		name           string
		auth           Authorizer
		tls            *tls.ConnectionState
		user, password string
		repository     string
		actions        []string
		who            string
		challenge      string // of the refusal
	}{
		{"by name", alone, ci, "", "", "reg.example/a", pushPull, "certificate:ci.example", ""},
		{"by URI", alone, show(&x509.Certificate{URIs: []*url.URL{builder}}), "", "", "reg.example/a", pull, "certificate:spiffe://example/builder", ""},
		{"may not delete", alone, ci, "", "", "reg.example/a", everything, "refused", ""},
		{"no certificate", alone, nil, "", "", "reg.example/a", pull, "refused", ""},
		{"not verified", alone, &tls.ConnectionState{PeerCertificates: ci.PeerCertificates}, "", "", "reg.example/a", pull, "refused", ""},
		{"common name beside another", alone, show(&x509.Certificate{DNSNames: []string{"x"}, Subject: pkix.Name{CommonName: "ci.example"}}), "", "", "reg.example/a", pull, "refused", ""},
		{"a user's name", alone, show(&x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}), "", "", "reg.example/a", pull, "refused", ""},
		{"open to anyone", alone, nil, "", "", "reg.example/public", pull, "", ""},
		{"either: certificate", beside, ci, "", "", "reg.example/a", pushPull, "certificate:ci.example", ""},
		{"either: password", beside, nil, "alice", "password of alice", "reg.example/a", pushPull, "alice", ""},
		{"either: none", beside, nil, "", "", "reg.example/a", pushPull, "refused", basic},
		{"either: not enough", beside, ci, "", "", "reg.example/a", everything, "refused", basic},
		{"either: the login decides", beside, ci, "alice", "wrong", "reg.example/a", pull, "refused", basic},
		{"either: the login decides for more", beside, ci, "bob", "password of bob", "reg.example/a", everything, "bob", ""},
	} {
		q := asked("192.0.2.1:1", tt.user, tt.password)
		q.TLS = tt.tls
		g, err := tt.auth.Authorize(q, Access{"repository", tt.repository, tt.actions})
		switch {
		case tt.who == "refused":
			if err == nil || challenged(t, err) != tt.challenge {
				t.Errorf("%s = %+v, %v, want the challenge %q", tt.name, g, err, tt.challenge)
			}
		case err != nil || g.Who != tt.who:
			t.Errorf("%s = %+v, %v, want %q", tt.name, g, err, tt.who)
		case g.Publisher != (tt.repository == "reg.example/a"):
			t.Errorf("%s: publisher is %t", tt.name, g.Publisher)
		}
	}
}
