package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTags(t *testing.T) {
	t.Parallel()
	reg, s, e := newPlainRegistry(t), newSample(t), newFakeEngine(t)
	for _, n := range []string{"/app:b", "/app:a", "/app:B", "/app:10", "/app2:x", "/app/sub:y"} {
		e.load(s, reg.host+n)
	}
	e.load(s, "alpine:3")
	e.load(s, "docker.io/library/alpine:4") // Podman's way
	e.load(s, "[::1]:5000/app:six")
	e.load(s, reg.host+"/app@"+s.amd64.Digest.String())

	other := newSample(t)
	entry := func(d Descriptor, name string) any {
		return wire(d, map[string]any{"annotations": map[string]string{refName: name}})
	}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{
		entry(other.amd64, "2"), entry(other.index, "1"), entry(other.arm64, "2"), wire(other.index, nil),
		entry(other.arm64, "../up"), entry(other.arm64, "registry.example/app:3"), entry(other.arm64, ""),
	}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(other.dir, indexFile), raw)

	filled := newRegistry(t)
	pushed(t, filled)
	file := Image{Kind: Archive, Path: filepath.Join(t.TempDir(), "new.tar")}
	if err := filled.client().Pull(t.Context(), filled.ref("app:1"), s.amd64, file, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	old := oldArchiveFile(t, "alpine:3", "alpine:2", "registry.example/app:1")

	c := reg.client(e.use)
	for _, test := range []struct {
		what string
		from Image
		to   Ref
		want []string
	}{
		{"engine", Image{}, reg.ref("app"), []string{"10", "B", "a", "b"}},
		{"engine, hub", Image{}, mustRef(t, "alpine"), []string{"3", "4"}},
		{"engine, IPv6", Image{}, mustRef(t, "[::1]:5000/app"), []string{"six"}},
		{"engine, none", Image{}, reg.ref("nosuch"), nil},
		{"layout", other.image(""), reg.ref("app"), []string{"1", "2"}},
		{"layout with a choice", other.image("1"), reg.ref("app:7"), []string{"1", "2"}},
		{"empty directory", Image{Kind: Layout, Path: t.TempDir()}, reg.ref("app"), nil},
		{"archive", file, filled.ref("app"), []string{"1"}},
		{"archive, another repository", file, filled.ref("other"), nil},
		{"old archive", old, mustRef(t, "alpine"), []string{"2", "3"}},
		{"old archive, another repository", old, mustRef(t, "registry.example/app"), []string{"1"}},
	} {
		got, err := c.Tags(t.Context(), test.from, test.to)
		if err != nil {
			t.Errorf("%s: Tags: %v", test.what, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: Tags (-want +got):\n%s", test.what, diff)
		}
	}
	for _, test := range []struct {
		from Image
		want error
	}{
		{Image{Kind: Layout, Path: filepath.Join(s.dir, "nosuch")}, ErrNoImage},
		{Image{Kind: Layout, Path: filepath.Join(s.dir, "blobs")}, ErrUnsupported},
		{Image{Kind: Archive, Path: filepath.Join(s.dir, "nosuch")}, ErrNoImage},
		{Image{Kind: Archive, Path: filepath.Join(s.dir, indexFile)}, ErrUnsupported},
	} {
		if _, err := c.Tags(t.Context(), test.from, reg.ref("app")); !errors.Is(err, test.want) {
			t.Errorf("Tags(%s) = %v, want %v", test.from, err, test.want)
		}
	}
	if _, err := reg.client().Tags(t.Context(), Image{}, reg.ref("app")); !errors.Is(err, ErrNoEngine) {
		t.Errorf("Tags without an engine = %v, want ErrNoEngine", err)
	}
}

// lists answers requests for tags with answer, which gets the query.
func lists(answer func(w http.ResponseWriter, last int)) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return false
		}
		last, _ := strconv.Atoi(r.FormValue("last")) // 0 on the first page
		answer(w, last)
		return true
	}
}

func say(w http.ResponseWriter, tags ...string) {
	_ = json.NewEncoder(w).Encode(map[string]any{"name": "app", "tags": tags})
}

func TestList(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	pushed(t, reg)
	c := reg.client()
	list := func(what string, want ...string) {
		t.Helper()
		got, err := c.List(t.Context(), reg.ref("app:ignored"))
		if err != nil {
			t.Errorf("%s: List: %v", what, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: List (-want +got):\n%s", what, diff)
		}
	}
	list("one page", "multi", "single")
	if _, err := c.List(t.Context(), reg.ref("nosuch")); !errors.Is(err, ErrNotFound) {
		t.Errorf("List of no repository = %v, want ErrNotFound", err)
	}
	for _, link := range []string{
		`</v2/app/tags/list?n=2&last=%d>; rel="next"`,
		`<?last=%d>;rel=next`,
		`</elsewhere>; rel="help", <https://` + reg.host + `/v2/app/tags/list?last=%d>; title="x"; REL="next"`,
		`<http://` + reg.host + `/v2/app/tags/list?last=%d>; rel="next"`,
	} {
		reg.misbehave(lists(func(w http.ResponseWriter, last int) {
			if last < 2 {
				w.Header().Set("Link", fmt.Sprintf(link, last+1))
			}
			say(w, fmt.Sprint("b", last), fmt.Sprint("a", last))
		}))
		list(link, "a0", "a1", "a2", "b0", "b1", "b2")
	}
	reg.misbehave(lists(func(w http.ResponseWriter, _ int) { _, _ = w.Write([]byte(`{"name":"app","tags":null}`)) }))
	list("no tags")
	reg.misbehave(basic("alice", "right"))
	c = reg.client(withLogin(t, reg.host, "alice", "right"))
	list("with a login", "multi", "single")
}

// A list must not lead elsewhere, nor have no end. attacks.md L2, L10
func TestAttackList(t *testing.T) {
	t.Parallel()
	reg, thief := newRegistry(t), newRegistry(t)
	pushed(t, reg)
	c := reg.client(withLogin(t, reg.host, "alice", "right"), func(c *Config) { thief.trust(c.TLSDir); bothCAs(t, c.TLSDir, reg, thief) })
	link := func(to string) func(http.ResponseWriter, int) {
		return func(w http.ResponseWriter, _ int) {
			w.Header().Set("Link", "<"+to+`>; rel="next"`)
			say(w, "1")
		}
	}
	many := make([]string, 5000)
	for _, test := range []struct {
		what   string
		answer func(w http.ResponseWriter, last int)
		want   error
	}{
		{"another host", link("https://" + thief.host + "/v2/app/tags/list?last=1"), ErrRefused},
		{"another host, without a scheme", link("//" + thief.host + "/v2/app/tags/list?last=1"), ErrRefused},
		{"another repository", link("/v2/secret/tags/list?last=1"), ErrRefused},
		{"another thing", link("/v2/app/blobs/uploads/?last=1"), ErrRefused},
		{"a way up", link("../../secret/tags/list?last=1"), ErrRefused},
		{"nowhere", link("https://%zz"), ErrUnreachable},
		{"a circle", link("?last=1"), ErrUnreachable},
		{"no end", func(w http.ResponseWriter, last int) {
			w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, last+1))
			say(w)
		}, ErrUnreachable},
		{"too many tags", func(w http.ResponseWriter, last int) {
			for i := range many {
				many[i] = fmt.Sprintf("t%d-%d", last, i)
			}
			w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, last+1))
			say(w, many...)
		}, ErrUnsupported},
		{"an endless page", func(w http.ResponseWriter, _ int) {
			junk := []byte(strings.Repeat(" ", 64<<10))
			for {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		}, ErrUnsupported},
		{"not a tag", func(w http.ResponseWriter, _ int) { say(w, "1", "../../etc") }, ErrUnreachable},
		{"not JSON", func(w http.ResponseWriter, _ int) { _, _ = w.Write([]byte("<html>")) }, ErrUnreachable},
	} {
		reg.misbehave(lists(test.answer))
		if got, err := c.List(t.Context(), reg.ref("app")); !errors.Is(err, test.want) || got != nil {
			t.Errorf("%s: List = %d tags, %v; want %v", test.what, len(got), err, test.want)
		}
	}
	if n := thief.asked(""); n != 0 {
		t.Errorf("the other host saw %d requests, want none", n)
	}
	if n := reg.asked("/tags/list"); n > 2*maxPages {
		t.Errorf("%d requests for pages, want a bound", n)
	}
	reg.misbehave(nil)
	if got, err := c.List(t.Context(), reg.ref("app")); err != nil || len(got) != 2 {
		t.Errorf("honest List after the attacks = %v, %v", got, err)
	}
}
