package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"

	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/tuf"
)

// authenticate replaces the line of the site's server.yaml about authentication.
func (s *site) authenticate(t testing.TB, lines string) {
	t.Helper()
	raw, err := os.ReadFile(s.file("server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.file("server.yaml"), strings.Replace(string(raw), "authentication: none\n", s.expand(lines), 1))
}

// Lines of a file of users, made beforehand because that takes its time.
const (
	aliceWonderland   = "alice:$2a$10$bBT14PTKlszaqmu2YCrS0.nBMmQQ5ON9i3bKUjXBnKmdiyBZt0g7i\n"
	aliceLookingGlass = "alice:$2a$10$ZnUo.h0qzMxhWHQrgl9Wnuw3dAqx96THFGpteqOSldu.AgO9h5/nK\n"
	bobBuilder        = "bob:$2a$10$ZY.5bVAfvP5pKnDTw07SDOrKXN0s0FT7IuhuaiQSGamDEQo1Lkld2\n"
	carolChristmas    = "carol:$2a$10$aYXYt/7j.vzaPymfYeBS2.ypyEX1S2sJlE2282jfVkhfbiGoL6yfi\n"
)

// A login is added to all requests of a client.
type login struct {
	http.RoundTripper
	authorization string
}

func (l login) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if l.authorization != "" {
		r.Header.Set("Authorization", l.authorization)
	}
	return l.RoundTripper.RoundTrip(r)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// as returns the site as somebody with a login or a certificate sees it.
func (s *site) as(t testing.TB, authorization string, show *certificateFiles) *site {
	other := *s
	c := httpClient(t, s.ca, show)
	c.Transport = login{c.Transport, authorization}
	other.client = c
	return &other
}

// status asks the server for something and returns the status.
func (s *site) status(t testing.TB, at *process, method, path string) (int, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+at.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body) // only the status counts
		resp.Body.Close()
		// On a machine with other things to do, a server that computes a
		// password's hash may say so; the test's own time bounds this.
		if resp.StatusCode != http.StatusServiceUnavailable {
			return resp.StatusCode, resp.Header
		}
	}
}

const accessRules = `
groups: {release: [alice, "certificate:ci.example"]}
repositories:
  registry.example/public/*: {pull: [anyone], push: ["group:release"]}
  registry.example/*: {pull: [authenticated], push: ["group:release"], admin: [carol]}
catalog: [carol]
`

// Passwords and certificates beside each other, through the program: who may
// publish does, who may not is told so, a file that changes is taken up, and a
// broken one is not; and nothing secret is logged.
func TestServerWithPasswordsAndCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	write(t, s.file("htpasswd"), aliceWonderland+bobBuilder+carolChristmas)
	write(t, s.file("access.yaml"), accessRules)
	machines := newAuthority(t, s.dir, "machines")
	s.authenticate(t, "authentication: certificate, htpasswd\nhtpasswd: {file: DIR/htpasswd}\naccess: DIR/access.yaml\nclient-ca: DIR/machines-ca.crt\nlog-level: debug\n")
	at := s.startServer(t)
	ci := machines.issue(t, s.dir, "ci", "ci.example")
	stranger := newAuthority(t, s.dir, "others").issue(t, s.dir, "stranger", "ci.example")

	const gun tuf.GUN = "registry.example/app"
	alice, machine := s.as(t, basic("alice", "wonderland"), nil), s.as(t, "", &ci)
	p := newPublisher(t, alice, gun)
	if err := p.init(t.Context(), at, "first"); err != nil {
		t.Fatalf("alice: %v", err)
	}
	q := p.clone()
	q.site = machine
	if err := q.publish(t.Context(), at, "by-machine"); err != nil {
		t.Errorf("the machine: %v", err)
	}
	p.has(at, "first", "by-machine")

	file := api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleRoot}.Path()
	repository := api.Route{Kind: api.Repository, GUN: gun}.Path()
	timestamp := api.Route{Kind: api.Key, GUN: gun, Role: tuf.RoleTimestamp}.Path()
	public := api.Route{Kind: api.FileCurrent, GUN: "registry.example/public/x", Role: tuf.RoleRoot}.Path()
	for _, tt := range []struct {
		who    string
		site   *site
		method string
		path   string
		want   int
	}{
		{"nobody", s, "GET", file, 401},
		{"nobody", s, "GET", public, 404},
		{"nobody", s, "GET", "/v2/", 401},
		{"nobody", s, "GET", "/_notary_server/health", 200},
		{"bob", s.as(t, basic("bob", "builder"), nil), "GET", file, 200},
		{"bob", s.as(t, basic("bob", "builder"), nil), "GET", timestamp, 401},
		{"bob with a wrong password", s.as(t, basic("bob", "wonderland"), nil), "GET", public, 401},
		{"alice", alice, "DELETE", repository, 401},
		{"the machine", machine, "DELETE", repository, 401},
		{"the machine as carol", s.as(t, basic("carol", "christmas"), &ci), "GET", "/v2/_trust/changefeed?records=1", 200},
		{"alice", alice, "GET", "/v2/_trust/changefeed?records=1", 401},
		{"a foreign token", s.as(t, "Bearer x.y.z", nil), "GET", file, 401},
	} {
		got, header := tt.site.status(t, at, tt.method, tt.path)
		if got != tt.want {
			t.Errorf("%s: %s %s = %d, want %d", tt.who, tt.method, tt.path, got, tt.want)
		}
		if challenge := header.Get("WWW-Authenticate"); got == 401 && challenge != `Basic realm="iEchor trust server"` {
			t.Errorf("%s: %s %s challenges %q", tt.who, tt.method, tt.path, challenge)
		}
	}
	if _, err := s.as(t, "", &stranger).client.Get("https://" + at.addr + "/v2/"); err == nil {
		t.Error("a certificate of another authority was let in")
	}

	// Replaced while it runs. SIGHUP makes it be read at once.
	hup := func() {
		t.Helper()
		if err := at.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s.file("htpasswd"), "alice:plain\n")
	hup()
	at.logs(`"msg":"users not reloaded"`)
	write(t, s.file("htpasswd"), aliceLookingGlass)
	hup()
	at.logs(`"msg":"users reloaded"`)
	write(t, s.file("access.yaml"), strings.Replace(accessRules, "admin: [carol]", "admin: [alice]", 1))
	hup()
	at.logs(`"msg":"access rules reloaded"`)
	if got, _ := alice.status(t, at, "GET", file); got != 401 {
		t.Errorf("alice with her former password = %d", got)
	}
	if got, _ := s.as(t, basic("alice", "looking-glass"), nil).status(t, at, "DELETE", repository); got != 200 {
		t.Errorf("alice as an administrator = %d", got)
	}
	at.logs(`"msg":"repository deleted"`)
	at.stop()
	log := at.log.String()
	for _, secret := range []string{"wonderland", "builder", "looking-glass", "x.y.z", strings.TrimPrefix(basic("bob", "builder"), "Basic "), aliceWonderland[6:26]} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log:\n%s", secret, log)
		}
	}
	for _, want := range []string{`"by":"alice"`, `"by":"certificate:ci.example"`, `"msg":"login refused","user":"bob"`} {
		if !strings.Contains(log, want) {
			t.Errorf("%s is not in the log:\n%s", want, log)
		}
	}
	s.sound(t)
}

// Tokens, through the program: a key set that changes is taken up.
func TestServerWithTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	newKey := func() (*ecdsa.PrivateKey, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		text := base64.RawURLEncoding.EncodeToString
		return key, fmt.Sprintf(`{"keys":[{"kid":"k","kty":"EC","crv":"P-256","x":%q,"y":%q}]}`, text(point[1:33]), text(point[33:]))
	}
	token := func(key *ecdsa.PrivateKey, actions ...string) string {
		var parts []string
		for _, v := range []any{
			map[string]any{"alg": "ES256", "kid": "k"},
			map[string]any{"iss": "auth.example", "aud": "trust.example", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "access": []any{
				map[string]any{"type": "repository", "name": "registry.example/app", "actions": actions},
			}},
		} {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, base64.RawURLEncoding.EncodeToString(raw))
		}
		sum := sha256.Sum256([]byte(strings.Join(parts, ".")))
		r, v, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		v.FillBytes(sig[32:])
		return "Bearer " + strings.Join(append(parts, base64.RawURLEncoding.EncodeToString(sig)), ".")
	}
	key, set := newKey()
	write(t, s.file("keys.json"), set)
	s.authenticate(t, "authentication: token\ntoken: {realm: 'https://auth.example/token', service: trust.example, issuer: auth.example, keys: DIR/keys.json}\nlog-level: debug\n")
	at := s.startServer(t)
	p := newPublisher(t, s.as(t, token(key, "push", "pull"), nil), "registry.example/app")
	if err := p.init(t.Context(), at, "first"); err != nil {
		t.Fatal(err)
	}
	file := api.Route{Kind: api.FileCurrent, GUN: p.gun, Role: tuf.RoleRoot}.Path()
	got, header := s.status(t, at, "GET", file)
	if want := `Bearer realm="https://auth.example/token",service="trust.example",scope="repository:registry.example/app:pull"`; got != 401 || header.Get("WWW-Authenticate") != want {
		t.Errorf("without a token = %d %q, want 401 %q", got, header.Get("WWW-Authenticate"), want)
	}
	next, set := newKey()
	write(t, s.file("keys.json"), set)
	if err := at.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	at.logs(`"msg":"token keys reloaded"`)
	for want, key := range map[int]*ecdsa.PrivateKey{401: key, 200: next} {
		if got, _ := s.as(t, token(key, "pull"), nil).status(t, at, "GET", file); got != want {
			t.Errorf("after the keys were replaced = %d, want %d", got, want)
		}
	}
	at.stop()
	if log := at.log.String(); strings.Contains(log, "eyJ") {
		t.Errorf("a token is in the log:\n%s", log)
	}
	s.sound(t)
}

// What is missing or contradicts itself about authentication keeps a server
// from starting.
func TestAuthenticationRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "test")
	file := func(name, text string) string {
		write(t, filepath.Join(dir, name), text)
		return filepath.Join(dir, name)
	}
	rules := file("access.yaml", accessRules)
	users := file("htpasswd", aliceWonderland)
	weak := file("weak", "alice:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n")
	token := []string{"--authentication=token", "--token-realm=https://auth.example", "--token-service=s", "--token-issuer=i", "--token-keys=" + ca.file}
	passwords := []string{"--authentication=htpasswd", "--htpasswd-file=" + users, "--access=" + rules}
	and := func(args []string, more ...string) []string { return append(args[:len(args):len(args)], more...) }
	for _, tt := range []struct {
		args []string
		want string // empty: it is accepted; else it is among the lines of what is wrong
	}{
		{token, ""},
		{passwords, ""},
		{and(token, "--access="+rules), ""},
		{and(passwords, "--authentication=certificate, htpasswd", "--client-ca="+ca.file), ""},
		{[]string{"--authentication=none"}, ""},
		{nil, `authentication must be spelled out: token, htpasswd or certificate, or "none", which lets everybody do everything, so that access has to be limited in front of this server; it is ""`},
		{[]string{"--authentication=Token"}, "authentication must be spelled out"},
		{[]string{"--authentication=token,token"}, "authentication must be spelled out"},
		{[]string{"--authentication=none,token"}, "authentication is none and something else"},
		{[]string{"--authentication=none", "--access=" + rules}, "access is set, and authentication is none: nobody would be asked"},
		{[]string{"--authentication=none", "--client-ca=" + ca.file}, "client-ca is set, and authentication is none: add certificate to it, or leave client-ca out"},
		{and(token, "--authentication=token, htpasswd"), "authentication is both token and htpasswd"},
		{and(passwords, "--token-keys="+ca.file), "token.keys is set, and authentication is htpasswd"},
		{[]string{"--authentication=token"}, "token.keys is not set: authentication is token"},
		{[]string{"--authentication=htpasswd"}, "htpasswd.file is not set"},
		{[]string{"--authentication=certificate"}, "client-ca is not set"},
		{[]string{"--authentication=certificate", "--client-ca=" + ca.file}, "access is not set: it names the file"},
		{and(passwords, "--access="), "access is not set: it names the file"},
		{and(passwords, "--access="+filepath.Join(dir, "none")), "access: stat "},
		{and(passwords, "--access="+users), "access: " + users + ": line 1: "},
		{and(passwords, "--htpasswd-file="+weak), "htpasswd.file: " + weak + ": line 1: the hash of alice has cost 5"},
		{and(passwords, "--htpasswd-realm=a\"b"), "htpasswd: realm must not contain quotes"},
		{and(passwords, "--proxies=10.0.0.0/33"), `proxies: "10.0.0.0/33" is no network such as 10.1.0.0/16`},
		{and(passwords, "--proxies=10.0.0.1,fd00::/8"), ""},
		{and(token, "--token-realm="), "token: token authentication needs a realm, a service and an issuer"},
		{and(token, "--token-realm=", "--token-auto-redirect"), ""},
		{and(token, "--token-keys="+users), "token.keys: " + users + ": there is neither a PEM certificate nor a JSON Web Key Set in it"},
		{and(token, "--token-algorithms=HS256"), `token: "HS256" is no algorithm for tokens`},
		{and(token, "--token-algorithms="), "token.algorithms is empty"},
		{and(token, "--token-leeway=1h"), "token: a leeway of 1h0m0s makes tokens live too long"},
		{and(passwords, "--authentication=certificate,htpasswd", "--client-ca="+users), "client-ca: " + users + ": no certificate"},
	} {
		c, err := loadServer(t, "", nil, tt.args...)
		if err != nil {
			t.Fatal(err)
		}
		log, err := newLog(io.Discard, "info")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Auth.open(log, time.Now)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n\n")) {
			t.Errorf("%v = %v, want %q", tt.args, err, tt.want)
		}
	}
	auth := &authentication{clients: &watched[*x509.CertPool]{}}
	if _, err := auth.askClients(nil); err == nil || !strings.Contains(err.Error(), "client certificates need TLS") {
		t.Errorf("certificates without TLS: %v", err)
	}
}

// The stock client shows its certificate to this server, and is let in by it.
func TestStockClientWithCertificate(t *testing.T) {
	t.Parallel()
	p := peers["notary"]
	if _, err := exec.LookPath(p.program); err != nil {
		if required("notary") {
			t.Fatalf("%s is required and not installed: apt-get install %s", p.program, p.pkg)
		}
		t.Skipf("%s is not installed: apt-get install %s", p.program, p.pkg)
	}
	s := newSite(t)
	s.startSigner(t)
	machines := newAuthority(t, s.dir, "machines")
	ci := machines.issue(t, s.dir, "ci", "ci.example")
	write(t, s.file("access.yaml"), "repositories: {'acme/*': {push: ['certificate:ci.example']}}\n")
	s.authenticate(t, "authentication: certificate\naccess: DIR/access.yaml\nclient-ca: DIR/machines-ca.crt\n")
	at := s.startServer(t)
	notary := func(want int, words string, show bool, args ...string) {
		t.Helper()
		args = append([]string{"-s", "https://" + at.addr, "--tlscacert", s.ca.file, "-d", s.file("notary")}, args...)
		if show {
			args = append(args, "--tlscert", ci.Certificate, "--tlskey", ci.Key)
		}
		c := exec.CommandContext(t.Context(), p.program, args...)
		c.Env = append(os.Environ(), "HOME="+s.dir, "NOTARY_AUTH=", "NOTARY_ROOT_PASSPHRASE=passphrase", "NOTARY_TARGETS_PASSPHRASE=passphrase", "NOTARY_SNAPSHOT_PASSPHRASE=passphrase")
		status, out, errs := waitFor(t, c)
		if status != want || !strings.Contains(out, words) {
			t.Errorf("notary %v = %d\n%s%s, want %d and %q", args, status, out, errs, want, words)
		}
	}
	const refused = "you are not authorized to perform this operation: server returned 401"
	notary(1, refused, false, "init", "acme/app")
	notary(0, "", true, "init", "acme/app")
	notary(0, "Successfully published", true, "addhash", "acme/app", "v1", "6", "--sha256", strings.Repeat("ab", 32), "-p")
	notary(0, "v1", true, "list", "acme/app")
	notary(1, refused, true, "init", "other/app")
	notary(1, refused, true, "delete", "acme/app", "--remote")
	at.stop()
	s.sound(t)
}

func TestAccessFile(t *testing.T) {
	t.Parallel()
	const some = "repositories: {a: {pull: [x]}}\n"
	for _, tt := range []struct{ text, want string }{
		{some, ""},
		{accessRules, ""},
		{"groups:\ncatalog:\n" + some, ""},
		{"", "there are no rules in it"},
		{"repositories:\n", "there are no rules in it"},
		{"groups: {a: [b]}", "there are no rules in it"},
		{"- a", "line 1: keys and values belong here"},
		{some + "repository: {}", `line 2: unknown key "repository", did you mean "repositories"?`},
		{some + "repositories: {}", "line 2: repositories stands in line 1 already"},
		{"repositories:\n  a:\n    pull: [x]\n  a:\n    pull: [y]", "line 4: repositories.a stands in line 2 already"},
		{"repositories:\n  a*: {pull: [x]}", `line 2: "a*" is no pattern: a star stands alone, or at the end after a slash`},
		{"repositories:\n  \"^a\": {pull: [x]}", `line 2: "^a" is no pattern: write the whole name`},
		{"repositories:\n  a: {delete: [x]}", `line 2: unknown key "delete", did you mean`},
		{"repositories:\n  a: [x]", "line 2: repositories.a: keys and values belong here"},
		{"repositories:\n  a:\n    pull: x", "line 3: a: pull: a list of names belongs here"},
		{"repositories:\n  a:\n    pull: [[x]]", "line 3: a: pull: a list of names belongs here"},
		{"repositories:\n  a:\n    pull: [x:y]", `line 3: "x:y" names nobody`},
		{"repositories:\n  a:\n    push:\n    - x\n    - anyone", "line 5: push cannot be given to anyone without a login"},
		{"repositories:\n  a:\n    push: [group:g]", `line 3: there is no group "g" under groups`},
		{"groups:\n  g: [group:h]\n  h: [x]\n" + some, "line 2: a group cannot stand in another one"},
		{"groups:\n  anyone: [x]\n  certificate:y: [x]\n" + some, `line 3: "certificate:y" is no name for a group`},
		{"groups: [x]\n" + some, "line 1: groups: keys and values belong here"},
		{some + "catalog: [anyone]", "catalog cannot be given to anyone"},
		{some + "---\n" + some, "more than one YAML document"},
		{"repositories: {", "yaml: "},
	} {
		_, err := parseAccess([]byte(tt.text))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("parseAccess(%q) = %v, want %q", tt.text, err, tt.want)
		}
	}
}

func FuzzAccessFile(f *testing.F) {
	f.Add([]byte(accessRules))
	for _, s := range []string{"\"\\e\": 1\n\"\\e\": 1\n", "repositories: {\"\\e[31m/*\": [x]}\n", "repositories: {\"a/\\e\": {pull: x, push: [[]]}}\n", "groups: {\"\\e\": [x]}\n", "groups: {a: {}}\n", "repositories: {a: {pull: [\"\\e\"]}}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		rules, err := parseAccess(raw)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") { // one for each thing that is wrong
				oneLine(t, raw, errors.New(line))
			}
			return
		}
		// Without a login nobody ever gets more than to read.
		if role, _, _ := rules.Role(server.Identity{}, "registry.example/app"); role > server.Pull {
			t.Errorf("anyone may %s", role)
		}
	})
}

// The example says what its comments say.
func TestAccessCommand(t *testing.T) {
	t.Parallel()
	example := filepath.Join("..", "..", "doc", "access.yaml")
	for _, tt := range []struct{ args, want string }{
		{"", example + ": nothing wrong found"},
		{"alice registry.example.com/team/app", "alice may pull from and push to registry.example.com/team/app: by the rule for registry.example.com/team/* in line 22 of " + example},
		{"dave registry.example.com/team/app", "dave may pull from registry.example.com/team/app: by the rule for registry.example.com/team/* in line 22 of " + example + ", as authenticated"},
		{"certificate:ci.example.com registry.example.com/team/app", "certificate:ci.example.com may pull from and push to registry.example.com/team/app: by the rule for registry.example.com/team/* in line 22 of " + example},
		{"anyone registry.example.com/team/app", "anyone may do nothing with registry.example.com/team/app: by the rule for registry.example.com/team/* in line 22 of " + example},
		{"anyone registry.example.com/team/public/x", "anyone may pull from registry.example.com/team/public/x: by the rule for registry.example.com/team/public/* in line 31 of " + example},
		{"carol registry.example.com/team/secret", "carol may do nothing with registry.example.com/team/secret: by the rule for registry.example.com/team/secret in line 37 of " + example},
		{"carol elsewhere/x", "carol may pull from, push to and administrate elsewhere/x: by the rule for * in line 41 of " + example},
		{"authenticated registry.example.com/team/app", "authenticated may pull from registry.example.com/team/app: by the rule for registry.example.com/team/* in line 22 of " + example},
	} {
		status, out, errs := runApp(t, nil, append([]string{"access", "--access", example}, strings.Fields(tt.args)...)...)
		if status != 0 || out != tt.want+"\n" || errs != "" {
			t.Errorf("access %s = %d\n%s%s, want\n%s", tt.args, status, out, errs, tt.want)
		}
	}
	manual, err := os.ReadFile(filepath.Join("..", "..", "doc", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := runApp(t, nil, "access", "--access", example, "alice", "registry.example.com/team/app")
	shown = "$ iechor-trustd access --config /etc/iechor-trustd/server.yaml alice registry.example.com/team/app\n" +
		strings.Replace(shown, example, "/etc/iechor-trustd/access.yaml", 1)
	if !strings.Contains(string(manual), shown) {
		t.Errorf("doc/operating.md does not show\n%s", shown)
	}
	if _, out, _ := runApp(t, nil, "access", "--access", example, "--prefixes", "a/", "carol", "elsewhere/x"); !strings.HasSuffix(out, "; but this server is not for that repository (prefixes)\n") {
		t.Errorf("access outside the prefixes: %s", out)
	}
	broken := filepath.Join(t.TempDir(), "access.yaml")
	write(t, broken, "repositories:\n  a*: {}\n")
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"access"}, exitFailed, "access is not set"},
		{[]string{"access", "--access", broken}, exitFailed, "access rules " + broken + `: line 2: "a*" is no pattern`},
		{[]string{"access", "--access", example, "alice"}, exitUsage, "access takes a user and a repository, or nothing"},
		{[]string{"access", "--access", example, "a b", "c"}, exitUsage, `"a b" names nobody`},
		{[]string{"access", "--access", example, "alice", "c/*"}, exitUsage, `"c/*" is no name of a repository`},
	} {
		if status, out, errs := runApp(t, nil, tt.args...); status != tt.status || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("%v = %d %q %q, want %d %q", tt.args, status, out, errs, tt.status, tt.want)
		}
	}
}
