package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// subjects reads a list of names.
func subjects(t testing.TB, names string) (all []Subject) {
	t.Helper()
	for _, name := range strings.Fields(names) {
		s, err := ParseSubject(name)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != name {
			t.Fatalf("%q is written %q", name, s)
		}
		all = append(all, s)
	}
	return all
}

// rules makes rules of pattern, and who may pull, push and administrate.
func rules(t testing.TB, catalog string, table ...[4]string) *Rules {
	t.Helper()
	var all []Rule
	for i, row := range table {
		p, err := ParsePattern(row[0])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Rule{Pattern: p, Line: i + 1, May: [Admin + 1][]Subject{nil, subjects(t, row[1]), subjects(t, row[2]), subjects(t, row[3])}})
	}
	r, err := NewRules(all, subjects(t, catalog))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRules(t *testing.T) {
	t.Parallel()
	r := rules(t, "carol certificate:feed.example",
		[4]string{"*", "carol", "", ""},
		[4]string{"reg.example/acme/*", "authenticated", "alice certificate:ci.example", "carol"},
		[4]string{"reg.example/acme/public/*", "anyone", "alice", ""},
		[4]string{"reg.example/acme/secret", "bob", "", ""},
	)
	nobody, alice, bob, carol := Identity{}, Identity{User: "alice"}, Identity{User: "bob"}, Identity{User: "carol"}
	ci := Identity{Certificate: []string{"ci.example", "sha256:00"}}
	for _, tt := range []struct {
		who  Identity
		name string
		want Role
		line int
	}{
		{alice, "reg.example/acme/app", Push, 2},
		{alice, "reg.example/acme/a/b/c", Push, 2},
		{bob, "reg.example/acme/app", Pull, 2},
		{carol, "reg.example/acme/app", Admin, 2},
		{ci, "reg.example/acme/app", Push, 2},
		{nobody, "reg.example/acme/app", NoRole, 2},
		{nobody, "reg.example/acme/public/x", Pull, 3},
		// The nearest rule decides alone.
		{carol, "reg.example/acme/public/x", Pull, 3},
		{alice, "reg.example/acme/secret", NoRole, 4},
		{bob, "reg.example/acme/secret", Pull, 4},
		{alice, "reg.example/acme/secret/x", Push, 2},
		// A folder's rule is for what is in it.
		{alice, "reg.example/acme", NoRole, 1},
		{alice, "reg.example/acme/public", Push, 2},
		{carol, "other", Pull, 1},
		// One kind of name is not another.
		{Identity{User: "ci.example"}, "reg.example/acme/app", Pull, 2},
		{Identity{Certificate: []string{"alice"}}, "reg.example/acme/app", Pull, 2},
		{Identity{User: "anyone"}, "reg.example/acme/secret", NoRole, 4},
	} {
		role, rule, _ := r.Role(tt.who, tt.name)
		if role != tt.want || rule.Line != tt.line {
			t.Errorf("%s at %s: %s by line %d, want %s by line %d", tt.who, tt.name, role, rule.Line, tt.want, tt.line)
		}
	}
	for who, want := range map[string]bool{"alice": false, "carol": true, "": false, "feed.example": false} {
		if got := r.Catalog(Identity{User: who}); got != want {
			t.Errorf("catalog for user %q = %t, want %t", who, got, want)
		}
	}
	if !r.Catalog(Identity{Certificate: []string{"feed.example"}}) {
		t.Error("the catalogue is closed to the certificate that it is given to")
	}
	if role, rule, _ := rules(t, "").Role(carol, "x"); role != NoRole || rule != nil {
		t.Errorf("without rules: %s by %v", role, rule)
	}
}

// P4: a star stands for whole segments, and at the end.
func TestAttackPatternMatchesMore(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "acme*", "*/app", "a/*/b", "a/**", "a*/*", "**", "*/*", "/*", "/acme/*", "acme/", "acme//x", "acme/../x", "acme/./*", "a b", "acme/?", "acme/[a-z]", "^acme", "acme/*.", `acme\*`, "acme/*/",
	} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("ParsePattern(%q) = %q", bad, p)
		}
	}
	r := rules(t, "", [4]string{"reg.example/acme/*", "", "mallory", ""}, [4]string{"reg.example/app", "", "mallory", ""}, [4]string{"reg.example/x.y/*", "", "mallory", ""})
	for _, name := range []string{
		"reg.example/acme", "reg.example/acmeevil", "reg.example/acme-evil/x", "reg.example/acm", "evil/reg.example/acme/x", "Reg.example/acme/x", "reg.example/ACME/x",
		"reg.example/app/x", "reg.example/app2", "reg.example", "reg.example/xzy/a", "*", "reg.example/acme/../app",
	} {
		if role, rule, _ := r.Role(Identity{User: "mallory"}, name); role != NoRole && name != "reg.example/acme/../app" || rule != nil && name != "reg.example/acme/../app" {
			t.Errorf("mallory at %s: %s by %+v", name, role, rule)
		}
	}
	if role, _, _ := r.Role(Identity{User: "mallory"}, "reg.example/acme/x"); role != Push {
		t.Errorf("what the pattern is for: %s", role)
	}
}

func TestRulesRefused(t *testing.T) {
	t.Parallel()
	any := []Subject{{kind: anyone}}
	for want, rule := range map[string][]Rule{
		"two rules for a/*": {{Pattern: "a/*"}, {Pattern: "b"}, {Pattern: "a/*"}},
		"a: push cannot be given to anyone without a login":  {{Pattern: "a", May: [Admin + 1][]Subject{Push: any}}},
		"a: admin cannot be given to anyone without a login": {{Pattern: "a", May: [Admin + 1][]Subject{Admin: any}}},
	} {
		if _, err := NewRules(rule, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewRules = %v, want %q", err, want)
		}
	}
	if _, err := NewRules(nil, any); err == nil {
		t.Error("the catalogue was given to anyone")
	}
	subjects(t, "j\u00f6rg \u592a\u90ce certificate:b\u00fccher.example")
	for _, bad := range []string{"", "a b", "a:b", "certificate:", "group:x", "a\n", "certificate:a b", "a\u0092", "a\xff", "certificate:\u202ea", "a\u00a0b"} {
		if s, err := ParseSubject(bad); err == nil {
			t.Errorf("ParseSubject(%q) = %v", bad, s)
		}
	}
}

// The rules take away from what a token grants, and add nothing.
func TestTokenIsNarrowed(t *testing.T) {
	t.Parallel()
	key, kid := serviceKey(t)
	r := rules(t, "alice", [4]string{"good.example/*", "", "alice", ""})
	w := tokenWorld(t, func(c *TokenConfig) { c.Rules = func() *Rules { return r } })
	for _, tt := range []struct {
		sub, name, actions string
		pull, push, delete int
	}{
		{"alice", "good.example/a", "*", 404, 200, 401},
		{"alice", "good.example/a", "pull", 404, 401, 401},
		{"alice", "good.example/b", "*", 401, 401, 401},
		{"bob", "good.example/a", "*", 401, 401, 401},
		{"", "good.example/a", "*", 401, 401, 401},
	} {
		token := "Bearer " + forge(t, header("ES256", "kid", kid), func(p object) {
			p["sub"], p["access"] = tt.sub, []any{object{"type": "repository", "name": tt.name, "actions": []string{tt.actions}}}
		}, key)
		for _, try := range []struct {
			method, path string
			want         int
		}{
			{"GET", current("good.example/a", tuf.RoleRoot), tt.pull},
			{"GET", keyPath("good.example/a", tuf.RoleTimestamp), tt.push},
			{"DELETE", repository("good.example/a"), tt.delete},
		} {
			if got := w.do(try.method, try.path, nil, "Authorization", token); got.Code != try.want {
				t.Errorf("%s with %s for %s: %s %s = %d, want %d", tt.sub, tt.actions, tt.name, try.method, try.path, got.Code, try.want)
			}
		}
	}
	feed := func(sub string) string {
		return "Bearer " + forge(t, header("ES256", "kid", kid), func(p object) {
			p["sub"], p["access"] = sub, []any{object{"type": "registry", "name": "catalog", "actions": []string{"*"}}}
		}, key)
	}
	for sub, want := range map[string]int{"alice": 200, "bob": 401} {
		if got := w.get("/v2/_trust/changefeed?records=1", "Authorization", feed(sub)); got.Code != want {
			t.Errorf("the feed with a token of %s = %d, want %d", sub, got.Code, want)
		}
	}
}

// S10: what only some may read is not for shared caches to hand out.
func TestAttackSharedCache(t *testing.T) {
	t.Parallel()
	for who, want := range map[string]string{"": "public, max-age=300, s-maxage=300, must-revalidate", "alice": "private, max-age=300, must-revalidate"} {
		w := newWorld(t, func(c *Config) { c.Auth = always{who} })
		p := newPublisher(t, w, app)
		p.init(t)
		if got := w.get(current(app, tuf.RoleTimestamp)).Header().Get("Cache-Control"); got != want {
			t.Errorf("timestamp for %q: Cache-Control %q, want %q", who, got, want)
		}
		kind := "public, max-age=2592000, s-maxage=2592000"
		if who != "" {
			kind = "private, max-age=2592000"
		}
		if got := w.get("/v2/" + string(app) + "/_trust/tuf/1.root.json").Header().Get("Cache-Control"); got != kind {
			t.Errorf("root 1 for %q: Cache-Control %q, want %q", who, got, kind)
		}
	}
}

// always lets everybody do everything, under one name.
type always struct{ name string }

func (a always) Authorize(*http.Request, Access) (Grant, error) { return Grant{Who: a.name}, nil }

// challenged returns the challenge of a refusal.
func challenged(t testing.TB, err error) string {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Status != http.StatusUnauthorized || e.Code != api.Unauthorized {
		t.Errorf("refusal %v, want 401", err)
		return ""
	}
	return e.Challenge
}
