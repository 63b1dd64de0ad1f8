package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A fakeEngine is an engine with a store of its own. It pushes and pulls by
// plain HTTP, checks digests as an engine does, and answers as the two image
// stores do: the classic one, and containerd's.
type fakeEngine struct {
	t          *testing.T
	host       string // unix://
	containerd bool
	mute       bool // no aux in the answer to a push, as older engines with containerd

	mu     sync.Mutex // guards the rest
	images map[string]*engineImage
	auth   []string                        // X-Registry-Auth, decoded
	swap   func(ref string) *engineImage   // what a pull brings instead
	after  func(e *fakeEngine, tag string) // runs after a push, mu held
}

type engineImage struct {
	raw     []byte
	config  Digest
	blobs   map[Digest][]byte
	digests []string // RepoDigests
}

func (i *engineImage) digest() Digest { return DigestOf(i.raw) }

func newFakeEngine(t *testing.T) *fakeEngine {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skipf("no unix sockets here: %v", err)
	}
	e := &fakeEngine{t: t, host: "unix://" + filepath.Join(dir, "s"), images: map[string]*engineImage{}}
	server := &http.Server{Handler: e}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return e
}

func (e *fakeEngine) use(c *Config) {
	c.Engine.Hosts = []string{"unix:///nonexistent/engine.sock", e.host}
}

// load puts the amd64 image of s into the engine under name.
func (e *fakeEngine) load(s *sample, name string) *engineImage {
	i := &engineImage{raw: blob(e.t, s, s.amd64.Digest), config: s.config.Digest, blobs: map[Digest][]byte{}}
	for _, d := range []Digest{s.config.Digest, s.layer.Digest} {
		i.blobs[d] = blob(e.t, s, d)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images[name] = i
	return i
}

func (e *fakeEngine) has(name string) *engineImage {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.images[name]
}

func (e *fakeEngine) id(i *engineImage) string {
	if e.containerd {
		return i.digest().String()
	}
	return i.config.String()
}

func (e *fakeEngine) find(name string) *engineImage {
	for n, i := range e.images {
		if n == name || e.id(i) == name || slices.Contains(i.digests, name) {
			return i
		}
	}
	return nil
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.URL.Path == "/_ping" {
		w.Header().Set("Api-Version", "1.47")
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1.47/images/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if h := r.Header.Get("X-Registry-Auth"); h != "" {
		raw, err := base64.URLEncoding.DecodeString(h)
		if err != nil {
			e.t.Errorf("X-Registry-Auth %q: %v", h, err)
		}
		e.auth = append(e.auth, string(raw))
	}
	fail := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": text})
	}
	say := func(v any) {
		_ = json.NewEncoder(w).Encode(v)
	}
	if r.Method == http.MethodPost && rest == "create" {
		e.pull(r.FormValue("fromImage"), r.FormValue("tag"), say)
		return
	}
	if r.Method == http.MethodGet && rest == "json" {
		e.list(r.FormValue("filters"), say)
		return
	}
	at := strings.LastIndexByte(rest, '/')
	name, verb := rest[:at], rest[at+1:]
	if verb == "push" {
		name += ":" + r.FormValue("tag")
	}
	image := e.find(name)
	if image == nil {
		fail(http.StatusNotFound, "No such image: "+name)
		return
	}
	switch r.Method + " " + verb {
	case "GET json":
		answer := map[string]any{"Id": e.id(image), "RepoDigests": image.digests}
		if e.containerd {
			answer["Descriptor"] = map[string]any{"digest": image.digest().String(), "size": len(image.raw)}
		}
		say(answer)
	case "POST tag":
		e.images[r.FormValue("repo")+":"+r.FormValue("tag")] = image
		w.WriteHeader(http.StatusCreated)
	case "POST push":
		e.push(name, image, say)
	default:
		http.NotFound(w, r)
	}
}

// list answers as engines do: the filter is a pattern for the name, and images
// without a name are called <none>.
func (e *fakeEngine) list(filters string, say func(any)) {
	filter := struct{ Reference []string }{}
	if filters != "" && json.Unmarshal([]byte(filters), &filter) != nil {
		e.t.Errorf("filters %q is not JSON", filters)
	}
	answer := []map[string]any{{"RepoTags": []string{"<none>:<none>"}}, {"RepoTags": nil}}
	for n := range e.images {
		if strings.Contains(n, "@") {
			continue
		}
		name := n[:strings.LastIndexByte(n, ':')]
		fits := len(filter.Reference) == 0
		for _, pattern := range filter.Reference {
			ok, err := path.Match(pattern, strings.TrimPrefix(name, "docker.io/library/"))
			if err != nil {
				e.t.Errorf("filter %q: %v", pattern, err)
			}
			fits = fits || ok
		}
		if fits {
			answer = append(answer, map[string]any{"RepoTags": []string{n}})
		}
	}
	say(answer)
}

// location splits a name into the URL of its repository and the rest.
func location(name string) (base string) {
	host, path, _ := strings.Cut(name, "/")
	return "http://" + host + "/v2/" + path
}

func send(method, address, mediaType string, body []byte) (int, error) {
	req, err := http.NewRequest(method, address, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func (e *fakeEngine) push(name string, image *engineImage, say func(any)) {
	at := strings.LastIndexByte(name, ':')
	repo, tag := name[:at], name[at+1:]
	say(map[string]string{"status": "The push refers to repository [" + repo + "]"})
	failed := func(status int, err error) bool {
		if err != nil || status/100 != 2 {
			text := fmt.Sprintf("unexpected status from registry: %d %v", status, err)
			if status == http.StatusUnauthorized {
				text = "unauthorized: authentication required"
			}
			say(map[string]any{"error": text, "errorDetail": map[string]string{"message": text}})
			return true
		}
		return false
	}
	for d, raw := range image.blobs {
		say(map[string]any{"id": d.Short(), "status": "Pushing", "progressDetail": map[string]int{"current": 1, "total": len(raw)}})
		if failed(send(http.MethodPost, location(repo)+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", raw)) {
			return
		}
		say(map[string]any{"id": d.Short(), "status": "Pushed\x1b[31m", "progressDetail": map[string]int{}})
	}
	if failed(send(http.MethodPut, location(repo)+"/manifests/"+tag, ociManifest, image.raw)) {
		return
	}
	image.digests = append(image.digests, repo+"@"+image.digest().String())
	say(map[string]string{"status": fmt.Sprintf("%s: digest: %s size: %d", tag, image.digest(), len(image.raw))})
	if !e.mute {
		say(map[string]any{"progressDetail": map[string]int{}, "aux": map[string]any{"Tag": tag, "Digest": image.digest().String(), "Size": len(image.raw)}})
	}
	if e.after != nil {
		e.after(e, tag)
	}
}

func (e *fakeEngine) pull(repo, digest string, say func(any)) {
	fail := func(text string) {
		say(map[string]any{"error": text, "errorDetail": map[string]string{"message": text}})
	}
	fetch := func(kind, digest string) ([]byte, bool) {
		resp, err := http.Get(location(repo) + "/" + kind + "/" + digest)
		if err != nil {
			fail(err.Error())
			return nil, false
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body) // a short body has another digest
		switch {
		case resp.StatusCode == http.StatusNotFound:
			fail("manifest for " + repo + "@" + digest + " not found: manifest unknown: x")
		case fmt.Sprintf("sha256:%x", sha256.Sum256(raw)) != digest && kind == "manifests":
			fail("manifest verification failed for digest " + digest)
		case fmt.Sprintf("sha256:%x", sha256.Sum256(raw)) != digest:
			fail("filesystem layer verification failed for digest " + digest)
		default:
			return raw, true
		}
		return nil, false
	}
	raw, ok := fetch("manifests", digest)
	if !ok {
		return
	}
	image := &engineImage{raw: raw, blobs: map[Digest][]byte{}, digests: []string{repo + "@" + digest}}
	m, err := parseManifest(raw)
	if err != nil {
		fail(err.Error())
		return
	}
	image.config = m.config.Digest
	for _, b := range m.blobs() {
		if image.blobs[b.Digest], ok = fetch("blobs", b.Digest.String()); !ok {
			return
		}
	}
	if e.swap != nil {
		e.images["swapped"] = e.swap(repo + "@" + digest)
	} else {
		e.images[repo+"@"+digest] = image
	}
	say(map[string]string{"status": "Status: Downloaded newer image for " + repo + "@" + digest})
}

func TestEnginePush(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct{ containerd, mute bool }{{false, false}, {true, false}, {true, true}, {false, true}} {
		reg, s, e := newPlainRegistry(t), newSample(t), newFakeEngine(t)
		e.containerd, e.mute = kind.containerd, kind.mute
		e.load(s, reg.host+"/app:1")
		c := reg.client(e.use, withLogin(t, reg.host, "alice", "secret"))
		var seen []Progress
		got, err := c.Push(t.Context(), Image{}, reg.ref("app:1"), PushOptions{Progress: func(p Progress) { seen = append(seen, p) }})
		if err != nil || got != s.amd64 {
			t.Errorf("%+v: Push = %+v, %v; want %+v", kind, got, err, s.amd64)
		}
		if !contains(seen, Progress{What: s.layer.Digest.Short(), Status: "Pushed?[31m"}) {
			t.Errorf("%+v: progress %+v lacks the layer, made printable", kind, seen)
		}
		want := `{"password":"secret","serveraddress":"` + reg.host + `","username":"alice"}`
		if diff := cmp.Diff([]string{want}, e.auth); diff != "" {
			t.Errorf("credentials (-want +got):\n%s", diff)
		}
		local, err := c.Inspect(t.Context(), reg.ref("app:1"))
		if err != nil || !local.is(s.amd64.Digest) {
			t.Errorf("Inspect after Push = %+v, %v; want it to know %s", local, err, s.amd64.Digest)
		}
		if _, err := c.Push(t.Context(), Image{}, reg.ref("nosuch:1"), PushOptions{}); !errors.Is(err, ErrNoImage) || !strings.Contains(err.Error(), "with the tag: "+reg.host+"/nosuch:1") {
			t.Errorf("Push of what is not there = %v, want ErrNoImage with the name", err)
		}
	}
}

// Between the push and our look somebody else moves the tag, or the registry
// lies about it: that content must not be signed. attacks.md P1
func TestAttackTagMovedAfterEnginePush(t *testing.T) {
	t.Parallel()
	for _, mute := range []bool{false, true} {
		reg, e := newPlainRegistry(t), newFakeEngine(t)
		s := pushed(t, reg)
		e.containerd, e.mute = true, mute
		e.load(s, reg.host+"/app:1")
		e.after = func(_ *fakeEngine, tag string) {
			_, _ = send(http.MethodPut, location(reg.host+"/app")+"/manifests/"+tag, ociManifest, blob(t, s, s.arm64.Digest))
		}
		c := reg.client(e.use)
		got, err := c.Push(t.Context(), Image{}, reg.ref("app:1"), PushOptions{})
		if mute && !errors.Is(err, ErrDigest) {
			t.Errorf("Push with a moved tag = %+v, %v; want ErrDigest", got, err)
		}
		if !mute && (err != nil || got != s.amd64) {
			t.Errorf("Push with a moved tag and a reported digest = %+v, %v; want %+v", got, err, s.amd64)
		}
		e.after = nil
		if got, err := c.Push(t.Context(), Image{}, reg.ref("app:1"), PushOptions{}); err != nil || got != s.amd64 {
			t.Errorf("honest Push after the attack = %+v, %v; want %+v", got, err, s.amd64)
		}
	}
}

// The engine's image is replaced while it is pushed. attacks.md P1
func TestAttackImageReplacedDuringPush(t *testing.T) {
	t.Parallel()
	reg, s, e := newPlainRegistry(t), newSample(t), newFakeEngine(t)
	e.load(s, reg.host+"/app:1")
	e.after = func(e *fakeEngine, _ string) {
		e.images[reg.host+"/app:1"] = &engineImage{raw: []byte("{}"), config: DigestOf([]byte("other"))}
	}
	if _, err := reg.client(e.use).Push(t.Context(), Image{}, reg.ref("app:1"), PushOptions{}); !errors.Is(err, ErrEngine) {
		t.Errorf("Push = %v, want ErrEngine", err)
	}
}

func TestEnginePull(t *testing.T) {
	t.Parallel()
	for _, containerd := range []bool{false, true} {
		reg, e := newPlainRegistry(t), newFakeEngine(t)
		s := pushed(t, reg)
		e.containerd = containerd
		c := reg.client(e.use)
		if err := c.Pull(t.Context(), reg.ref("app:7"), s.amd64, Image{}, PullOptions{}); err != nil {
			t.Fatalf("Pull: %v", err)
		}
		if i := e.has(reg.host + "/app:7"); i == nil || i.digest() != s.amd64.Digest {
			t.Errorf("the engine's app:7 is %v, want %s", i, s.amd64.Digest)
		}
		if err := c.Pull(t.Context(), reg.ref("app"), s.arm64, Image{}, PullOptions{}); err != nil {
			t.Fatalf("Pull by digest: %v", err)
		}
		if i := e.has(reg.host + "/app:latest"); i != nil {
			t.Errorf("a pull by digest made a tag")
		}
		if err := c.Tag(t.Context(), reg.ref("app").WithDigest(s.arm64.Digest), reg.ref("app:8")); err != nil {
			t.Errorf("Tag: %v", err)
		}
		if i := e.has(reg.host + "/app:8"); i == nil || i.digest() != s.arm64.Digest {
			t.Errorf("the engine's app:8 is %v, want %s", i, s.arm64.Digest)
		}
	}
}

// attacks.md M6, M12
func TestAttackEnginePull(t *testing.T) {
	t.Parallel()
	reg, e := newPlainRegistry(t), newFakeEngine(t)
	s := pushed(t, reg)
	c := reg.client(e.use)
	pull := func() error { return c.Pull(t.Context(), reg.ref("app:7"), s.amd64, Image{}, PullOptions{}) }
	check := func(what string, sentinel error) {
		t.Helper()
		if err := pull(); !errors.Is(err, sentinel) {
			t.Errorf("%s: Pull = %v, want %v", what, err, sentinel)
		}
		if e.has(reg.host+"/app:7") != nil {
			t.Errorf("%s: the tag was given all the same", what)
		}
	}
	for _, d := range []Digest{s.amd64.Digest, s.layer.Digest, s.config.Digest} {
		reg.misbehave(at(answer([]byte("altered")), d))
		check("altered content", ErrDigest)
	}
	reg.misbehave(at(http.NotFound, s.amd64.Digest))
	check("missing manifest", ErrNotFound)
	reg.misbehave(nil)
	e.swap = func(ref string) *engineImage {
		return &engineImage{raw: []byte("{}"), config: DigestOf([]byte("x")), digests: []string{"other.example/app@" + s.amd64.Digest.String()}}
	}
	check("another image than the one asked for", ErrNoImage)
	e.mu.Lock()
	e.swap = nil
	e.mu.Unlock()
	if err := pull(); err != nil || e.has(reg.host+"/app:7") == nil {
		t.Errorf("honest Pull after the attacks: %v", err)
	}
}

func TestNoEngine(t *testing.T) {
	t.Parallel()
	c := New(Config{Engine: EngineConfig{Hosts: []string{"unix:///nonexistent/a.sock", "ssh://host", "unix:///nonexistent/b.sock"}}})
	_, err := c.Inspect(t.Context(), mustRef(t, "alpine:3"))
	var none *NoEngineError
	if !errors.As(err, &none) || len(none.Tried) != 3 || !strings.Contains(err.Error(), "/nonexistent/b.sock") {
		t.Errorf("Inspect = %v, want NoEngineError that names what was tried", err)
	}
	if _, err := New(Config{}).Inspect(t.Context(), mustRef(t, "alpine:3")); !errors.Is(err, ErrNoEngine) {
		t.Errorf("Inspect without a configuration = %v, want ErrNoEngine", err)
	}
}

func TestFindEngine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		env  map[string]string
		want EngineConfig
	}{
		{map[string]string{"IECHOR_HOST": "tcp://a:1", "DOCKER_HOST": "tcp://b:2"}, EngineConfig{Hosts: []string{"tcp://a:1"}}},
		{map[string]string{"DOCKER_HOST": "tcp://b:2", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs"}, EngineConfig{Hosts: []string{"tcp://b:2"}, CertDir: "/certs"}},
		{map[string]string{"DOCKER_HOST": "tcp://b:2", "IECHOR_TLS_VERIFY": "1"}, EngineConfig{Hosts: []string{"tcp://b:2"}}},
	} {
		got := FindEngine(func(k string) string { return test.env[k] }, "/home/u")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("FindEngine(%v) (-want +got):\n%s", test.env, diff)
		}
	}
	usual := FindEngine(func(k string) string { return map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}[k] }, "/home/u").Hosts
	if os.PathSeparator == '/' && (!slices.Contains(usual, "unix:///var/run/docker.sock") || !slices.Contains(usual, "unix:///run/user/7/podman/podman.sock")) {
		t.Errorf("FindEngine without variables = %v, want the usual sockets", usual)
	}
}
