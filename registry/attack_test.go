package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pullers are the destinations that write here.
func pullers(dir string) map[string]Image {
	return map[string]Image{
		"layout":  {Kind: Layout, Path: filepath.Join(dir, "layout")},
		"archive": {Kind: Archive, Path: filepath.Join(dir, "app.tar")},
	}
}

// testAttack pulls want while the registry misbehaves: the pull must fail with
// sentinel and leave nothing behind, and the next honest one must work.
func testAttack(t *testing.T, reg *fakeRegistry, c *Client, want Descriptor, sentinel error, fault func(http.ResponseWriter, *http.Request) bool) {
	t.Helper()
	for kind := range pullers("") {
		dir := t.TempDir()
		to := pullers(dir)[kind]
		reg.misbehave(fault)
		err := c.Pull(t.Context(), reg.ref("app:1"), want, to, PullOptions{})
		if !errors.Is(err, sentinel) {
			t.Errorf("Pull into %s = %v, want %v", kind, err, sentinel)
		}
		if left := tree(t, dir); len(left) != 0 {
			t.Errorf("Pull into %s left behind: %v", kind, left)
		}
		reg.misbehave(nil)
		var o PullOptions
		if want.Index() && to.Kind == Archive {
			o.Platform = Platform{OS: "linux", Architecture: "amd64"}
		}
		if err := c.Pull(t.Context(), reg.ref("app:1"), want, to, o); err != nil {
			t.Errorf("honest Pull into %s after the attack: %v", kind, err)
		}
	}
}

// at answers requests whose path ends in one of the digests.
func at(answer http.HandlerFunc, digests ...Digest) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		for _, d := range digests {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, d.String()) {
				answer(w, r)
				return true
			}
		}
		return false
	}
}

func answer(raw []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) }
}

func blob(t *testing.T, s *sample, d Digest) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, filepath.FromSlash(blobPath(d))))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// attacks.md M6, M11
func TestAttackAlteredContent(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client()
	for what, d := range map[string]Descriptor{"layer": s.layer, "config": s.config, "manifest": s.amd64} {
		altered := bytes.Clone(blob(t, s, d.Digest))
		altered[len(altered)/2] ^= 1
		t.Log("altered", what)
		testAttack(t, reg, c, s.amd64, ErrDigest, at(answer(altered), d.Digest))
		t.Log("longer", what)
		testAttack(t, reg, c, s.amd64, ErrDigest, at(answer(append(bytes.Clone(blob(t, s, d.Digest)), ' ')), d.Digest))
		t.Log("shorter", what)
		testAttack(t, reg, c, s.amd64, ErrDigest, at(answer(blob(t, s, d.Digest)[:d.Size-1]), d.Digest))
		t.Log("cut off", what)
		testAttack(t, reg, c, s.amd64, ErrUnreachable, at(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(d.Size))
			_, _ = w.Write(altered[:d.Size/2])
		}, d.Digest))
		t.Log("missing", what)
		testAttack(t, reg, c, s.amd64, ErrNotFound, at(http.NotFound, d.Digest))
	}
}

// The words of spec/cli.md 6.1.
func TestDigestErrorWords(t *testing.T) {
	t.Parallel()
	d := DigestOf([]byte("x"))
	for what, want := range map[string]string{
		"layer":    "filesystem layer verification failed for digest " + d.String(),
		"config":   "error pulling image configuration: image config verification failed for digest " + d.String(),
		"manifest": "manifest verification failed for digest " + d.String(),
	} {
		if got := (&DigestError{What: what, Digest: d}).Error(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// A child of a verified index is verified like the index. attacks.md M13
func TestAttackAlteredChild(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client()
	dir := t.TempDir()
	for kind, to := range pullers(dir) {
		o := PullOptions{}
		if kind == "archive" {
			o.Platform = Platform{OS: "linux", Architecture: "arm64"}
		}
		reg.misbehave(at(answer(blob(t, s, s.amd64.Digest)), s.arm64.Digest))
		if err := c.Pull(t.Context(), reg.ref("app:1"), s.index, to, o); !errors.Is(err, ErrDigest) {
			t.Errorf("Pull into %s of an index with a swapped child = %v, want ErrDigest", kind, err)
		}
		if left := tree(t, dir); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// attacks.md M13
func TestAttackIndexForManifest(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client()
	testAttack(t, reg, c, s.index, ErrDigest, at(answer(blob(t, s, s.amd64.Digest)), s.index.Digest))
	testAttack(t, reg, c, s.amd64, ErrDigest, at(answer(blob(t, s, s.index.Digest)), s.amd64.Digest))

	// The digest is right, and the signed kind is another one.
	want := s.amd64
	want.MediaType = ociIndex
	to := Image{Kind: Layout, Path: filepath.Join(t.TempDir(), "layout")}
	if err := c.Pull(t.Context(), reg.ref("app"), want, to, PullOptions{}); !errors.Is(err, ErrDigest) {
		t.Errorf("Pull of an image signed as an index = %v, want ErrDigest", err)
	}
	want = s.amd64
	want.Size++
	if err := c.Pull(t.Context(), reg.ref("app"), want, to, PullOptions{}); !errors.Is(err, ErrDigest) {
		t.Errorf("Pull of an image signed with another size = %v, want ErrDigest", err)
	}
	if err := c.Pull(t.Context(), reg.ref("app:multi"), Descriptor{}, to, PullOptions{}); !errors.Is(err, ErrReference) {
		t.Errorf("Pull without a digest = %v, want ErrReference", err)
	}
}

// What could be read in two ways is read in none. attacks.md M13
func TestAttackAmbiguousManifest(t *testing.T) {
	t.Parallel()
	d := `{"mediaType":"` + ociManifest + `","digest":"sha256:` + strings.Repeat("a", 64) + `","size":1}`
	for _, raw := range []string{
		``, `null`, `[]`, `{}`, `{"schemaVersion":2}`,
		`{"schemaVersion":1,"fsLayers":[]}`,
		`{"schemaVersion":2,"manifests":[],"config":` + d + `}`,
		`{"schemaVersion":2,"manifests":[],"layers":[]}`,
		`{"schemaVersion":2,"mediaType":"` + ociIndex + `","config":` + d + `}`,
		`{"schemaVersion":2,"mediaType":"` + ociManifest + `","manifests":[]}`,
		`{"schemaVersion":2,"mediaType":"text/html","config":` + d + `}`,
		`{"schemaVersion":2,"layers":[]}`,
		`{"schemaVersion":2,"config":{"digest":"sha512:aa","size":1}}`,
		`{"schemaVersion":2,"config":` + strings.Replace(d, `"size":1`, `"size":-1`, 1) + `}`,
		`{"schemaVersion":2,"manifests":[` + strings.Replace(d, ociManifest, "text/html", 1) + `]}`,
		`{"schemaVersion":2,"manifests":[` + strings.Replace(d, `"size":1`, `"size":99999999`, 1) + `]}`,
		`{"schemaVersion":2,"manifests":[` + strings.Repeat(d+",", maxChildren) + d + `]}`,
		`{"schemaVersion":2,"config":` + d + `} trailing`,
	} {
		if m, err := parseManifest([]byte(raw)); !errors.Is(err, ErrUnsupported) {
			t.Errorf("parseManifest(%.80s) = %v, %v; want ErrUnsupported", raw, m, err)
		}
	}
}

// attacks.md L2, L3
func TestAttackEndlessBody(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client()
	endless := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			junk := bytes.Repeat([]byte("x"), 64<<10)
			for r.Context().Err() == nil {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		}
	}
	testAttack(t, reg, c, s.amd64, ErrDigest, at(endless(200), s.layer.Digest))
	testAttack(t, reg, c, s.amd64, ErrDigest, at(endless(200), s.amd64.Digest))
	testAttack(t, reg, c, s.amd64, ErrUnreachable, at(endless(500), s.amd64.Digest))
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/manifests/1") {
			endless(200)(w, r)
			return true
		}
		return false
	})
	if _, err := c.Resolve(t.Context(), reg.ref("app:1")); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Resolve of an endless manifest = %v, want ErrUnsupported", err)
	}
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool { endless(401)(w, r); return true })
	if _, err := c.Resolve(t.Context(), reg.ref("app:1")); err == nil {
		t.Error("Resolve with an endless challenge = nil")
	}
}

// attacks.md L6
func TestAttackSlowDrip(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client(func(c *Config) { c.Stall = 200 * time.Millisecond })
	silent := func(first []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(first)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}
	for _, d := range []Digest{s.layer.Digest, s.amd64.Digest} {
		dir := t.TempDir()
		reg.misbehave(at(silent([]byte("{")), d))
		err := c.Pull(t.Context(), reg.ref("app:1"), s.amd64, pullers(dir)["layout"], PullOptions{})
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, errStalled) {
			t.Errorf("Pull from a registry that falls silent = %v, want ErrUnreachable for lack of progress", err)
		}
		if left := tree(t, dir); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// A layout must not be a way out of its directory. attacks.md N2
func TestAttackLinksInLayout(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client()
	for _, link := range []string{"blobs", blobDir, blobPath(s.layer.Digest), indexFile, layoutFile} {
		outside, dir := t.TempDir(), t.TempDir()
		write(t, filepath.Join(outside, "victim"), []byte("untouched"))
		if err := c.Pull(t.Context(), reg.ref("app:2"), s.arm64, Image{Kind: Layout, Path: dir}, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, filepath.FromSlash(link))
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		target := outside
		if link == indexFile || link == layoutFile || link == blobPath(s.layer.Digest) {
			target = filepath.Join(outside, "victim")
		}
		if err := os.Symlink(target, at); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
		err := c.Pull(t.Context(), reg.ref("app:1"), s.amd64, Image{Kind: Layout, Path: dir}, PullOptions{})
		if err == nil {
			t.Errorf("Pull into a layout whose %s is a link out of it succeeded", link)
		}
		if got, _ := os.ReadFile(filepath.Join(outside, "victim")); string(got) != "untouched" || len(tree(t, outside)) != 1 {
			t.Errorf("%s: a link was followed: %v, %q", link, tree(t, outside), got)
		}
		if link != indexFile && link != layoutFile {
			continue
		}
		if _, err := c.Push(t.Context(), Image{Kind: Layout, Path: dir}, reg.ref("stolen:1"), PushOptions{}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("Push from a layout whose %s is a link = %v, want ErrUnsupported", link, err)
		}
	}

	// An archive replaces a link, and leaves alone what it points to.
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	write(t, victim, []byte("untouched"))
	file := filepath.Join(dir, "app.tar")
	if err := os.Symlink(victim, file); err != nil {
		t.Fatal(err)
	}
	if err := c.Pull(t.Context(), reg.ref("app:1"), s.amd64, Image{Kind: Archive, Path: file}, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "untouched" {
		t.Errorf("the archive was written through a link")
	}
}

func TestPullIntoForeignDirectory(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "thesis.txt"), []byte("x"))
	err := reg.client().Pull(t.Context(), reg.ref("app:1"), s.amd64, Image{Kind: Layout, Path: dir}, PullOptions{})
	if !errors.Is(err, ErrUnsupported) || len(tree(t, dir)) != 1 {
		t.Errorf("Pull into a directory with other things = %v, %v; want ErrUnsupported and no change", err, tree(t, dir))
	}
}
