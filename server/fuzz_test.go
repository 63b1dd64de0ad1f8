package server

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// readersOnly lets everybody ask for everything and upload, and nobody
// administrate.
type readersOnly struct{}

func (readersOnly) Authorize(_ *http.Request, want Access) (Grant, error) {
	if slices.Contains(want.Actions, "*") {
		return Grant{}, unauthorized(want, "")
	}
	return Grant{Publisher: true}, nil
}

// plain reports whether text is one line that no terminal obeys.
func plain(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

// FuzzServe: whatever request comes, the server answers it in words of the
// protocol, never with a fault of its own, and what a repository's owner has
// published is served as it was.
func FuzzServe(f *testing.F) {
	w := newWorld(f, func(c *Config) { c.Auth = readersOnly{} })
	p := newPublisher(f, w, app)
	first := p.first(f, false, tuf.AddTarget{Target: tuftest.Target("1.0")})
	if err := w.upload(f, app, first...); err != nil {
		f.Fatal(err)
	}
	state := func() (all []string) {
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
			all = append(all, w.get(current(app, role)).Body.String())
		}
		return all
	}
	honest := state()
	for _, path := range []string{
		"/v2/", current(app, tuf.RoleTimestamp), keyPath(app, tuf.RoleSnapshot), "/_notary_server/health", "/metrics",
		"/v2/_trust/changefeed?records=-3&change_id=2", "/v2/registry.example/app/_trust/changefeed?records=x", "/v2/%2e%2e/_trust/tuf/root.json",
	} {
		for _, method := range []string{"GET", "HEAD", "DELETE", "POST", "OPTIONS"} {
			f.Add([]byte(method + " " + path + " HTTP/1.1\r\nHost: trust.example\r\nX-Forwarded-For: 192.0.2.1, x\r\nAccept-Encoding: gzip\r\nIf-None-Match: \"x\", *\r\n\r\n"))
		}
	}
	for _, files := range [][]tuf.File{first, {{Role: tuf.RoleTargets, Raw: []byte("{}")}}, {{Role: tuf.RoleTimestamp, Raw: []byte(honest[3])}}} {
		var body bytes.Buffer
		ct, err := api.WriteFiles(&body, files)
		if err != nil {
			f.Fatal(err)
		}
		r, err := http.NewRequest(http.MethodPost, "https://trust.example"+repository(app), &body)
		if err != nil {
			f.Fatal(err)
		}
		r.Header.Set("Content-Type", ct)
		var raw bytes.Buffer
		if err := r.Write(&raw); err != nil {
			f.Fatal(err)
		}
		f.Add(raw.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return // net/http refuses it
		}
		r.RemoteAddr = "192.0.2.7:4711"
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		switch {
		case rec.Code < 200 || rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable:
			t.Errorf("the answer is %d %s\n%s", rec.Code, rec.Body, w.log)
		case rec.Code >= 400 && r.Method != http.MethodHead:
			if rec.Body.Len() > api.MaxErrorBody {
				t.Errorf("a refusal of %d bytes", rec.Body.Len())
			}
			if json.Valid(rec.Body.Bytes()) && api.ReadError(rec.Result()).Status != rec.Code {
				t.Errorf("the refusal %d %s", rec.Code, rec.Body)
			}
		}
		for name, values := range rec.Header() {
			if slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, unicode.IsControl) }) {
				t.Errorf("the answer has %s: %q", name, values)
			}
		}
		if now := state(); !slices.Equal(now, honest) {
			t.Errorf("the repository is\n%q, it was\n%q", now, honest)
		}
	})
}

// FuzzToken: a token gives what its claims say, if the token service signed
// them, and nothing otherwise.
func FuzzToken(f *testing.F) {
	auth := tokenAuth(f)
	key, id := serviceKey(f)
	text := base64.RawURLEncoding.EncodeToString
	for _, claims := range []string{
		`{"iss":"auth.example","aud":"notary-svc","sub":"alice","exp":` + "9999999999" + `,"nbf":0,"access":[{"type":"repository","name":"good.example/a","actions":["*"]}]}`,
		`{"iss":"auth.example","aud":["x","notary-svc"],"exp":1e300,"access":[{"type":"repository","name":"good.example/*","actions":["push"]}]}`,
		`{"iss":"auth.example","aud":"notary-svc","aud":"other","exp":"1","exp":null}`,
	} {
		for _, header := range []string{`{"alg":"ES256","kid":"` + id + `"}`, `{"alg":"none"}`, `{"alg":"HS256","kid":"` + id + `"}`, `{"alg":"ES256","jwk":{"kty":"EC"}}`, `{"alg":"ES256","x5c":["AAAA"]}`} {
			f.Add([]byte(header), []byte(claims), []byte(nil), true)
			f.Add([]byte(header), []byte(claims), make([]byte, 64), false)
		}
	}
	want := Access{"repository", "good.example/a", []string{"push"}}
	f.Fuzz(func(t *testing.T, header, payload, sig []byte, signed bool) {
		message := text(header) + "." + text(payload)
		if signed {
			sum := sha256.Sum256([]byte(message))
			r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header.Set("Authorization", "Bearer "+message+"."+text(sig))
		if _, err := auth.Authorize(request, want); err != nil {
			return
		}
		var h struct {
			Alg  string          `json:"alg"`
			Crit json.RawMessage `json:"crit"`
		}
		var c struct {
			Iss    string      `json:"iss"`
			Exp    json.Number `json:"exp"`
			Access []struct {
				Type, Name string
				Actions    []string
			} `json:"access"`
		}
		if !signed || json.Unmarshal(header, &h) != nil || json.Unmarshal(payload, &c) != nil {
			t.Fatalf("accepted %s %s, signed: %v", header, payload, signed)
		}
		exp, err := c.Exp.Float64()
		if h.Alg != "ES256" || h.Crit != nil || c.Iss != "auth.example" || err != nil || time.Unix(int64(exp), 0).Before(stockTime.Add(-time.Minute)) || !strings.Contains(string(payload), "notary-svc") && !strings.Contains(string(payload), `\u`) {
			t.Errorf("accepted %s %s", header, payload)
		}
		granted := false
		for _, a := range c.Access {
			granted = granted || a.Type == "repository" && a.Name == want.Name && (slices.Contains(a.Actions, "push") || slices.Contains(a.Actions, "*"))
		}
		if !granted {
			t.Errorf("%s gives the right to push", payload)
		}
	})
}

// FuzzTokenKeys: keys of a token service are public and strong, or refused in
// one line that does not repeat them.
func FuzzTokenKeys(f *testing.F) {
	f.Add(bundle(f))
	f.Add(append([]byte("-----BEGIN PRIVATE KEY-----\n"), bundle(f)...)) // no block
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"` + base64.RawURLEncoding.EncodeToString(make([]byte, 32)) + `","y":"AA","kid":"\u001b[31m\n"}]}`))
	key, _ := serviceKey(f)
	one, err := json.Marshal(map[string]any{"keys": []any{asJWK(f, key.Public()), map[string]string{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{3}, 32)), "kid": "2"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Add([]byte("{\"keys\":[{\"crv\":\"P-2\x7f\"}]}")) // found: the name of a curve was said as it stands
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"EC","d":"c2VjcmV0"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := ParseTokenKeys(raw)
		if err != nil {
			if !plain(err.Error()) {
				t.Errorf("ParseTokenKeys = %q", err)
			}
			return
		}
		if len(keys.named) == 0 {
			t.Fatalf("ParseTokenKeys(%q) = %+v", raw, keys)
		}
		if keys.roots != nil { // a bundle, not a set
			for b, rest := pem.Decode(raw); b != nil; b, rest = pem.Decode(rest) {
				if b.Type != "CERTIFICATE" {
					t.Errorf("ParseTokenKeys takes a %q: %q", b.Type, raw)
				}
			}
		}
		for name, k := range keys.named {
			if name == "" || usable(k.public) != nil {
				t.Errorf("key %q is %+v", name, k)
			}
		}
	})
}

// FuzzUsers: a file of passwords has hashes that cost enough and not too much,
// or is refused in one line without a hash in it.
func FuzzUsers(f *testing.F) {
	hash := hashed(f, "secret", bcrypt.MinCost)
	f.Add([]byte("# users\nalice:"+hash+"\n\nbob:"+strings.Replace(hash, "$04$", "$12$", 1)+"\r\n"), bcrypt.MinCost)
	f.Add([]byte("alice:"+strings.Replace(hash, "$04$", "$31$", 1)+"\nanyone:x\n"), MinCost)
	f.Add([]byte(strings.Repeat("x", 30)+":"+strings.Repeat("x", 30)), 0)
	f.Add([]byte("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\x1b[31m:x"), 0)
	f.Add([]byte("a\u0092\xed\xff:x"), 0)                        // found: such a name was repeated as it stands
	f.Add([]byte("alice:is not hashed with bcrypt; make it"), 0) // the refusal's own words are no hash
	f.Fuzz(func(t *testing.T, raw []byte, least int) {
		u, err := ParseUsers(raw, least)
		if err != nil {
			if !plain(err.Error()) {
				t.Errorf("ParseUsers = %q", err)
			}
			// Of a hash the refusal tells its cost at most: with any other one
			// it is the same.
			var others strings.Builder
			for line := range strings.Lines(string(raw)) {
				name, hash, ok := strings.Cut(strings.TrimSpace(line), ":")
				if _, bad := bcrypt.Cost([]byte(hash)); bad != nil || len(hash) != 60 {
					hash = "x"
				} else {
					hash = hash[:7] + strings.Repeat("x", 53)
				}
				if ok {
					name += ":" + hash
				}
				others.WriteString(name + "\n")
			}
			if _, other := ParseUsers([]byte(others.String()), least); other == nil || other.Error() != err.Error() {
				t.Errorf("ParseUsers(%q) = %q, and with other hashes %q", raw, err, other)
			}
			return
		}
		if len(u.hashes) == 0 || len(u.decoys) != len(u.hashes) {
			t.Fatalf("ParseUsers(%q) = %+v", raw, u)
		}
		for name, h := range u.hashes {
			cost, err := bcrypt.Cost(h)
			if s, serr := ParseSubject(name); err != nil || cost < least || cost > maxCost || len(h) != 60 || serr != nil || s.String() != name {
				t.Errorf("%q has %q, cost %d (%v, %v)", name, h, cost, err, serr)
			}
		}
	})
}

// FuzzForwarded: only a proxy that was named is believed about whom it
// forwards, and an address is that of one machine or, of IPv6, one network.
func FuzzForwarded(f *testing.F) {
	f.Add("192.0.2.1:80", "198.51.100.7, 192.0.2.1", "x")
	f.Add("[2001:db8::1]:443", "::ffff:198.51.100.7", "fe80::1%eth0")
	f.Add("@", ",,", "")
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	f.Fuzz(func(t *testing.T, from, first, second string) {
		r := &http.Request{RemoteAddr: from, Header: http.Header{"X-Forwarded-For": {first, second}}}
		at, err := netip.ParseAddrPort(from)
		direct := client(&http.Request{RemoteAddr: from}, proxies)
		if alone := client(r, nil); alone != direct {
			t.Errorf("without a proxy %q is believed about %q", from, alone)
		}
		got := client(r, proxies)
		if err != nil || !among(at.Addr(), proxies) {
			if got != direct {
				t.Errorf("%q is no proxy, and is believed about %v", from, got)
			}
			return
		}
		if !got.IsValid() || got.Masked() != got || got.Addr().Zone() != "" || got.Addr().Is4In6() || got.Addr().Is4() && got.Bits() != 32 || got.Addr().Is6() && got.Bits() != 64 {
			t.Errorf("client(%q, %q, %q) = %v", from, first, second, got)
		}
	})
}

// FuzzRules: a pattern means what it says and no more, and a subject is
// somebody that can be written again.
func FuzzRules(f *testing.F) {
	for _, s := range []string{"*", "registry.example/*", "registry.example/app", "registry.example/ap*", "a*/b", "alice", "certificate:ci.example", "certificate:", "anyone", "authenticated", "a:b"} {
		f.Add(s, "registry.example/app")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		if p, err := ParsePattern(text); err != nil {
			if !plain(err.Error()) {
				t.Errorf("ParsePattern(%q) = %q", text, err)
			}
		} else if gun := tuf.GUN(name); gun.Valid() {
			folder, all := strings.CutSuffix(text, "/*")
			want := text == "*" || name == text || all && strings.HasPrefix(name, folder+"/")
			rules, err := NewRules([]Rule{{Pattern: p}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := rules.For(name) != nil; got != want {
				t.Errorf("%q is for %q: %v", p, gun, got)
			}
		}
		s, err := ParseSubject(text)
		if err != nil {
			if !plain(err.Error()) {
				t.Errorf("ParseSubject(%q) = %q", text, err)
			}
			return
		}
		if again, err := ParseSubject(s.String()); err != nil || again != s || !plain(s.String()) || strings.Contains(s.String(), " ") {
			t.Errorf("ParseSubject(%q) = %v, and again %v, %v", text, s, again, err)
		}
	})
}
