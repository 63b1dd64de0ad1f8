package main

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// spec/cli.md 3.1
func TestTrustServer(t *testing.T) {
	t.Parallel()
	var c config
	if err := c.decode([]byte(`{"content-trust": {"servers": {
		"registry.example.com": "https://trust.example.com",
		"registry.example.com/team/*": "https://team.example.com:4443/below",
		"iechor.io": "https://hub.example.com",
		"*.example.net": "https://domain.example.net",
		"*.eu.example.net": "https://eu.example.net"
	}}}`)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ image, variable, table, bare string }{
		{"alpine", "", "https://hub.example.com", "https://notary.iechor.io"},
		{"index.iechor.io/user/app:1", "", "https://hub.example.com", "https://notary.iechor.io"},
		{"registry.example.com/app", "", "https://trust.example.com", "https://registry.example.com"},
		{"registry.example.com/team/app", "", "https://team.example.com:4443/below", "https://registry.example.com"},
		{"registry.example.com/teams/app", "", "https://trust.example.com", "https://registry.example.com"},
		{"a.b.example.net/app", "", "https://domain.example.net", "https://a.b.example.net"},
		{"a.eu.example.net:5000/app", "", "https://eu.example.net", "https://a.eu.example.net:5000"},
		{"a.eu.example.net/app", "", "https://eu.example.net", "https://a.eu.example.net"},
		{"example.net/app", "", "https://example.net", "https://example.net"},
		{"localhost:5000/app", "", "https://localhost:5000", "https://localhost:5000"},
		{"registry.example.com/app", "https://mine.example.com", "https://mine.example.com", "https://mine.example.com"},
	} {
		ref, err := registry.ParseRef(test.image)
		if err != nil {
			t.Fatal(err)
		}
		for want, config := range map[string]config{test.table: c, test.bare: {}} {
			if test.table == test.bare {
				config = c
			}
			d := &desk{app: &app{getenv: environ(serverVariable, test.variable)}, config: config}
			if got, _, err := d.trustServer(ref); err != nil || got != want {
				t.Errorf("trustServer(%s) with %d servers configured = %s, %v, want %s", test.image, len(config.servers), got, err, want)
			}
		}
	}
}

func TestCheckServer(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "trust.example.com", "http://trust.example.com", "ftp://x", "https://", "https:///path", "https://user:pw@host",
		"https://host?query", "https://host#fragment", "https://ho st", "\x00", "HTTPS//host",
	} {
		err := checkServer(bad, "test")
		if !errors.Is(err, trust.ErrAddress) {
			t.Errorf("checkServer(%q) = %v, want ErrAddress", bad, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("checkServer(%q) shows a password: %v", bad, err)
		}
	}
	for _, good := range []string{"https://trust.example.com", "https://[::1]:4443", "https://host/below/"} {
		if err := checkServer(good, "test"); err != nil {
			t.Errorf("checkServer(%q) = %v", good, err)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("ab", 32)
	var c config
	err := c.decode([]byte(`{"auths": {"x": {"auth": "eA=="}}, "credsStore": "pass", "HttpHeaders": {}, "content-trust": {
		"offline": "refuse", "first-use": "refuse", "denied-roots": ["` + id + `"], "login-servers": ["login.example.net"],
		"trust-pinning": {"root-keys": {"registry.example.com/*": ["` + id + `"]}, "cert-ids": {"registry.example.com/a": ["` + id + `"]}},
		"maximum-age": "2d", "allow-expired-cached-trust-data": true}}`))
	want := config{
		offline: trust.OfflineRefuse, loginServers: []string{"login.example.net"}, allowExpired: true, maxAge: 48 * time.Hour, servers: map[string]string{},
		pinning: trust.Pinning{
			FirstUse: "refuse", DeniedRoots: []tuf.CanonicalID{tuf.CanonicalID(id)},
			RootKeys: map[string][]tuf.CanonicalID{"registry.example.com/*": {tuf.CanonicalID(id)}},
			CertIDs:  map[string][]tuf.KeyID{"registry.example.com/a": {tuf.KeyID(id)}},
		},
	}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(config{})); err != nil || diff != "" {
		t.Errorf("decode: %v (-want +got):\n%s", err, diff)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`[]`:                                                   "1:1: is not a JSON object",
		`{"content-trust": []}`:                                "1:19: content-trust is not an object",
		`{"content-trust": {}} x`:                              "1:23: invalid character 'x'",
		`{"content-trust": {}} {}`:                             "1:23: invalid character '{' after top-level value",
		`{"content-trust": {"ofline": 1}}`:                     `1:20: unknown key "content-trust.ofline"`,
		`{"Content-Trust": {}}`:                                `1:2: unknown key "Content-Trust"`,
		`{"content_trust": {}}`:                                `1:2: unknown key "content_trust"`,
		`{"content-trust": {"offline": "no"}}`:                 `1:31: must be allow or refuse, and is "no"`,
		`{"content-trust": {"first-use": "as"}}`:               `1:33: must be allow, ask or refuse, and is "as"`,
		`{"content-trust": {"servers": {"a.b": "trust.b"}}}`:   `1:39: content-trust.servers: valid https URL required for trust server, got trust.b`,
		`{"content-trust": {"servers": {"*.b": "https://c"}}}`: `1:32: content-trust.servers: "*.b" is neither`,
		`{"content-trust": {"servers": {"a.b": "https://c", "a.b/*": "https://d"}}}`:                          `1:52: content-trust.servers: "a.b/*" is there twice, in different words`,
		`{"content-trust": {"servers": {"a.b": "https://c", "a.b": "https://d"}}}`:                            `1:52: content-trust.servers: "a.b" is there twice`,
		`{"content-trust": {"servers": ["a.b"]}}`:                                                             "1:31: content-trust.servers is not an object",
		`{"content-trust": {"denied-roots": ["AB"]}}`:                                                         `1:37: content-trust.denied-roots: "AB" is not a key id`,
		`{"content-trust": {"denied-roots": "AB"}}`:                                                           `content-trust.denied-roots must be a list of key ids`,
		`{"content-trust": {"denied-roots": [1]}}`:                                                            `content-trust.denied-roots must be a list of key ids`,
		`{"content-trust": {"login-servers": ["https://a.b"]}}`:                                               `1:38: content-trust.login-servers: "https://a.b" is not a host`,
		`{"content-trust": {"trust-pinning": {"root-keys": {"a.b/*": []}}}}`:                                  "1:52: invalid trust pinning: root-keys: a.b/*: no ids",
		`{"content-trust": {"trust-pinning": {"root-keys": {"a b": ["` + strings.Repeat("ab", 32) + `"]}}}}`:  "1:52: invalid trust pinning: root-keys: a b: not a repository name",
		`{"content-trust": {"servers": {"a b": "https://x"}}}`:                                                `"a b" is neither a registry host nor a repository`,
		`{"content-trust": {"trust-pinning": {"root-key": {}}}}`:                                              `unknown key "content-trust.trust-pinning.root-key"`,
		`{"content-trust": {"trust-pinning": {"cert-ids": {"a.b/*": ["` + strings.Repeat("ab", 32) + `"]}}}}`: "1:51: invalid trust pinning: cert-ids: a.b/*: wildcards are not possible",
		`{"content-trust": {"trust-pinning": {"ca": {"a.b/*": "/nowhere/ca.pem"}}}}`:                          "1:45: trust-pinning: ca: open /nowhere/ca.pem",
		`{"content-trust": {"maximum-age": "soon"}}`:                                                          `maximum-age must be a time such as 36h or 2d, and is "soon"`,
		`{"content-trust": {"maximum-age": "-1d"}}`:                                                           "maximum-age must be a time",
		`{"content-trust": {"maximum-age": "999999999999d"}}`:                                                 "maximum-age must be a time",
		`{"content-trust": {}, "content-trust": {}}`:                                                          "there twice",
		"{\n \"content-trust\": {\n  \"offline\": refuse}}":                                                   "3:14: invalid character",
	} {
		var c config
		c.path = "config.json"
		err := c.decode([]byte(text))
		var e *configError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("decode(%s) = %v, want %s", text, err, want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"auths": {}, "content-trust": {"offline": "refuse", "servers": {"a.b": "https://c"}}}`))
	f.Add([]byte(`{"content-trust": {"trust-pinning": {"ca": {}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := config{path: filepath.Join(t.TempDir(), "config.json")}
		err := c.decode(raw)
		if err == nil {
			return
		}
		if sentence, hints, exit := explain(err); exit == exitDone || len(hints) == 0 || strings.ContainsFunc(sentence, unicode.IsControl) {
			t.Errorf("explain(%v) = %q, %q, %d", err, sentence, hints, exit)
		}
	})
}

func TestSortedTags(t *testing.T) {
	t.Parallel()
	want := []string{"1", "1.02", "1.2", "1.10", "1.10-rc", "2", "10", "100000000000000000000000000", "latest", "v1", "v1a", "v2", "v10"}
	got := slices.Clone(want)
	slices.Reverse(got)
	if diff := cmp.Diff(want, sortedTags(got)); diff != "" {
		t.Errorf("sortedTags (-want +got):\n%s", diff)
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 seconds", 1500 * time.Millisecond: "1 second", 59 * time.Second: "59 seconds", time.Minute: "1 minute",
		59*time.Minute + 59*time.Second: "59 minutes", 2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours", 72 * time.Hour: "3 days",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
}

// spec/cli.md 4.1
func TestKeyWords(t *testing.T) {
	t.Parallel()
	id := tuf.CanonicalID("57954f0" + strings.Repeat("0", 57))
	for _, test := range []struct {
		key  keys.Info
		want string
	}{
		{keys.Info{ID: id, Role: "root"}, "root key with ID 57954f0"},
		{keys.Info{ID: id, Role: "targets", GUN: "a.b/c"}, "repository key with ID 57954f0 (a.b/c)"},
		{keys.Info{ID: id, Role: "snapshot", GUN: "a.b/c"}, "repository key with ID 57954f0 (a.b/c)"},
		{keys.Info{ID: id, Role: "alice"}, "alice key with ID 57954f0"},
		{keys.Info{ID: id, Role: "targets/alice"}, "alice key with ID 57954f0"},
		{keys.Info{ID: id, Role: "evil\x1b[2J"}, "evil\ufffd[2J key with ID 57954f0"},
		{keys.Info{}, "encrypted key"},
	} {
		if got := keyWords(test.key); got != test.want {
			t.Errorf("keyWords(%+v) = %q, want %q", test.key, got, test.want)
		}
	}
}
