package api

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const digest = "c18daac8c83c38f092ea022684487edddb9d7a007b3397d54e4c1a0fff941ced"

func sum(b byte) (s [32]byte) {
	for i := range s {
		s[i] = b
	}
	return s
}

func TestParsePath(t *testing.T) {
	t.Parallel()
	const g = "registry.example:5000/team/app"
	ones := strings.Repeat("11", 32)
	for _, c := range []struct {
		path string
		want Route
		err  error
	}{
		{"/v2/", Route{Kind: Ping}, nil},
		{"/v2/_trust/changefeed", Route{Kind: AllChanges}, nil},
		{"/_notary_server/health", Route{Kind: Health}, nil},
		{"/healthz", Route{Kind: Live}, nil},
		{"/readyz", Route{Kind: Ready}, nil},
		{"/readyz/", Route{}, ErrNoRoute},
		{"/metrics", Route{Kind: Metrics}, nil},
		{"/v2/" + g + "/_trust/changefeed", Route{Kind: Changefeed, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/", Route{Kind: Repository, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/root.json", Route{Kind: FileCurrent, GUN: g, Role: "root"}, nil},
		{"/v2/" + g + "/_trust/tuf/targets/a/b.json", Route{Kind: FileCurrent, GUN: g, Role: "targets/a/b"}, nil},
		{"/v2/" + g + "/_trust/tuf/targets/_trust/tuf.json", Route{Kind: FileCurrent, GUN: g, Role: "targets/_trust/tuf"}, nil},
		{"/v2/" + g + "/_trust/tuf/targets/a." + ones + ".json", Route{Kind: FileByHash, GUN: g, Role: "targets/a", SHA256: sum(0x11)}, nil},
		{"/v2/" + g + "/_trust/tuf/root." + strings.ToUpper(digest) + ".json", Route{Kind: FileNever, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/root." + digest + digest + ".json", Route{Kind: FileNever, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/07.targets/a.json", Route{Kind: FileByVersion, GUN: g, Role: "targets/a", Version: 7}, nil},
		{"/v2/" + g + "/_trust/tuf/0.root.json", Route{Kind: FileNever, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/99999999999999999999.root.json", Route{Kind: FileNever, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/targets/UPPER.json", Route{Kind: FileNever, GUN: g}, nil},
		{"/v2/" + g + "/_trust/tuf/timestamp.key", Route{Kind: Key, GUN: g, Role: "timestamp"}, nil},
		{"/v2/" + g + "/_trust/tuf/targets.key", Route{}, ErrNoRoute},
		{"/v2/" + g + "/_trust/tuf/bogus.json", Route{}, ErrNoRoute},
		{"/v2/" + g + "/_trust/tuf/-1.root.json", Route{}, ErrNoRoute},
		{"/v2/" + g + "/_trust/tuf", Route{}, ErrNoRoute},
		{"/v2/" + g + "/_trust/foo", Route{}, ErrNoRoute},
		{"/v2", Route{}, ErrNoRoute},
		{"", Route{}, ErrNotClean},
		{"/v2/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/a*b/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/" + strings.Repeat("a", 256) + "/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/a//b/_trust/tuf/root.json", Route{}, ErrNotClean},
		{"/v2/a/../b/_trust/tuf/root.json", Route{}, ErrNotClean},
		{"/v2/a/./b/_trust/tuf/root.json", Route{}, ErrNotClean},
		{"/v2/a%2Fb/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/%61/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/a/%2e%2e/b/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/a%zz/_trust/tuf/root.json", Route{}, ErrNoRoute},
		{"/v2/a%5Eb/_trust/tuf/root.json", Route{Kind: FileCurrent, GUN: "a^b", Role: "root"}, nil},
		{"/v2/a%5eb/_trust/tuf/root.json", Route{}, ErrNoRoute},
	} {
		got, err := ParsePath(c.path)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("ParsePath(%q) error = %v, want %v", c.path, err, c.err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("ParsePath(%q) (-want +got):\n%s", c.path, d)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"//v2//":                     "/v2/",
		"/v2/a/../b/_trust/tuf/":     "/v2/b/_trust/tuf/",
		"//evil.example/../v2/x":     "/v2/x",
		"":                           "/",
		"/../../v2/_trust/tuf/.":     "/v2/_trust/tuf",
		"https://evil.example/v2/..": "/https:/evil.example",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzParsePath checks that a path that is understood has one spelling: Path
// gives it back, and no other route has it.
func FuzzParsePath(f *testing.F) {
	for _, s := range []string{
		"/v2/", "/v2/a/_trust/tuf/", "/v2/a/b/_trust/tuf/targets/x.json", "/v2/a/_trust/tuf/1.root.json",
		"/v2/a/_trust/tuf/root." + digest + ".json", "/v2/a/_trust/tuf/snapshot.key", "/v2/a/_trust/changefeed",
		"/v2/a%5Eb/_trust/tuf/targets/_trust/tuf/root.json", "/v2/%2e%2e/_trust/tuf/", "/metrics", "//", "/v2/a/_trust/tuf/001.root.json",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParsePath(s)
		if errors.Is(err, ErrNotClean) {
			c := Clean(s)
			if !strings.HasPrefix(c, "/") || strings.HasPrefix(c, "//") {
				t.Errorf("Clean(%q) = %q, want one leading slash", s, c)
			}
			return
		}
		if err != nil {
			return
		}
		if r.GUN != "" && !r.GUN.Valid() {
			t.Errorf("ParsePath(%q) gave the invalid GUN %q", s, r.GUN)
		}
		if r.Kind == FileNever {
			return
		}
		p := r.Path()
		again, err := ParsePath(p)
		if err != nil || again != r {
			t.Errorf("ParsePath(%q) = %+v, %v; want %+v as for %q", p, again, err, r, s)
		}
		if p != s && r.Kind != FileByVersion {
			raw, err := url.PathUnescape(s)
			if err != nil || (&url.URL{Path: raw}).EscapedPath() != p {
				t.Errorf("%q and %q both name %+v", p, s, r)
			}
		}
	})
}
