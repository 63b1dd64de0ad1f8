package registry

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestLayoutRoundTrip(t *testing.T) {
	t.Parallel()
	reg, s := newRegistry(t), newSample(t)
	c := reg.client()
	var seen []Progress
	got, err := c.Push(t.Context(), s.image("multi"), reg.ref("app:1"), PushOptions{Progress: func(p Progress) { seen = append(seen, p) }})
	if err != nil || got != s.index {
		t.Fatalf("Push = %+v, %v; want %+v", got, err, s.index)
	}
	finished := Progress{What: s.layer.Digest.Short(), Status: "Pushed", Done: s.layer.Size, Total: s.layer.Size}
	if !contains(seen, finished) {
		t.Errorf("progress %+v lacks %+v", seen, finished)
	}
	for _, r := range []Ref{reg.ref("app:1"), reg.ref("app").WithDigest(s.index.Digest)} {
		if got, err := c.Resolve(t.Context(), r); err != nil || got != s.index {
			t.Errorf("Resolve(%s) = %+v, %v; want %+v", r, got, err, s.index)
		}
	}

	dir := filepath.Join(t.TempDir(), "new", "layout")
	to := Image{Kind: Layout, Path: dir}
	if err := c.Pull(t.Context(), reg.ref("app:1"), s.index, to, PullOptions{}); err != nil {
		t.Fatalf("Pull: %v", err)
	}
	again, err := c.Push(t.Context(), Image{Kind: Layout, Path: dir, Select: "1"}, reg.ref("copy:1"), PushOptions{})
	if err != nil || again != s.index {
		t.Errorf("Push of what was pulled = %+v, %v; want %+v", again, err, s.index)
	}
	for _, path := range tree(t, dir) {
		if strings.Contains(path, ".part-") {
			t.Errorf("left behind: %s", path)
		}
	}

	// A second time nothing is fetched, and another tag joins the first.
	before := reg.asked("GET /v2/app/blobs/")
	if err := c.Pull(t.Context(), reg.ref("app:2"), s.index, to, PullOptions{}); err != nil {
		t.Fatalf("second Pull: %v", err)
	}
	if n := reg.asked("GET /v2/app/blobs/") - before; n != 0 {
		t.Errorf("second Pull fetched %d blobs, want none", n)
	}
	_, err = c.Push(t.Context(), to, reg.ref("copy:2"), PushOptions{})
	if err != nil {
		t.Errorf("Push of one image under two names without a choice = %v, want it done", err)
	}
	if err := c.Pull(t.Context(), reg.ref("app:2"), s.amd64, to, PullOptions{}); err != nil {
		t.Fatalf("Pull over a name: %v", err)
	}
	var ambiguous *AmbiguousError
	if _, err = c.Push(t.Context(), to, reg.ref("copy:3"), PushOptions{}); !errors.As(err, &ambiguous) {
		t.Fatalf("Push of one of two images = %v, want AmbiguousError", err)
	}
	if diff := cmp.Diff([]string{":1", ":2"}, ambiguous.Choices); diff != "" {
		t.Errorf("choices (-want +got):\n%s", diff)
	}
	if got, err := c.Push(t.Context(), Image{Kind: Layout, Path: dir, Select: "2"}, reg.ref("copy:3"), PushOptions{}); err != nil || got != s.amd64 {
		t.Errorf("Push of the image under the replaced name = %+v, %v; want %+v", got, err, s.amd64)
	}
}

func contains(list []Progress, p Progress) bool {
	for _, q := range list {
		if p == q {
			return true
		}
	}
	return false
}

func TestLayoutKeepsUnknownMembers(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	err := reg.client().Pull(t.Context(), reg.ref("app:3"), s.arm64, Image{Kind: Layout, Path: s.dir}, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(s.dir, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"x-unknown":"kept"`, `"x":"y"`, `"multi"`, `"single"`, `"3"`} {
		if !bytes.Contains(raw, []byte(want)) {
			t.Errorf("index.json lacks %s: %s", want, raw)
		}
	}
}

func TestPushByDigestAndChoice(t *testing.T) {
	t.Parallel()
	reg, s := newRegistry(t), newSample(t)
	c := reg.client()
	got, err := c.Push(t.Context(), s.image(s.amd64.Digest.String()), reg.ref("app"), PushOptions{})
	if err != nil || got != s.amd64 {
		t.Fatalf("Push by digest = %+v, %v; want %+v", got, err, s.amd64)
	}
	if _, err := c.Resolve(t.Context(), reg.ref("app:latest")); !errors.Is(err, ErrNotFound) {
		t.Errorf("Resolve(latest) = %v, want ErrNotFound: no tag was pushed", err)
	}
	for _, test := range []struct {
		from Image
		to   Ref
		want error
	}{
		{s.image(""), reg.ref("app:1"), ErrAmbiguous},
		{s.image("nosuch"), reg.ref("app:1"), ErrNoImage},
		{s.image("multi"), reg.ref("app").WithDigest(s.index.Digest), ErrReference},
		{Image{Kind: Layout, Path: filepath.Join(s.dir, "nosuch")}, reg.ref("app:1"), ErrNoImage},
		{Image{Kind: Layout, Path: t.TempDir()}, reg.ref("app:1"), ErrNoImage},
		{Image{Kind: Layout, Path: filepath.Join(s.dir, "blobs")}, reg.ref("app:1"), ErrUnsupported},
		{Image{Kind: Archive, Path: filepath.Join(s.dir, "nosuch")}, reg.ref("app:1"), ErrNoImage},
		{Image{Kind: Archive, Path: filepath.Join(s.dir, indexFile)}, reg.ref("app:1"), ErrUnsupported},
	} {
		if _, err := c.Push(t.Context(), test.from, test.to, PushOptions{}); !errors.Is(err, test.want) {
			t.Errorf("Push(%s, %s) = %v, want %v", test.from, test.to, err, test.want)
		}
	}
}

// A layout whose blobs are not what they are called must not be signed for.
func TestPushDamagedLayout(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"layer", "config", "manifest"} {
		reg, s := newRegistry(t), newSample(t)
		d := map[string]Digest{"layer": s.layer.Digest, "config": s.config.Digest, "manifest": s.amd64.Digest}[what]
		file := filepath.Join(s.dir, filepath.FromSlash(blobPath(d)))
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		write(t, file, raw)
		_, err = reg.client().Push(t.Context(), s.image("single"), reg.ref("app:1"), PushOptions{})
		var bad *DigestError
		if !errors.As(err, &bad) || bad.What != what || bad.Digest != d {
			t.Errorf("Push with a damaged %s = %v, want DigestError for %s", what, err, d)
		}
		if _, err := reg.client().Resolve(t.Context(), reg.ref("app:1")); !errors.Is(err, ErrNotFound) {
			t.Errorf("after a damaged %s: Resolve = %v, want ErrNotFound", what, err)
		}
	}
}

func TestArchiveRoundTrip(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	c := reg.client()
	file := filepath.Join(t.TempDir(), "app.tar")
	to := Image{Kind: Archive, Path: file}
	arm := PullOptions{Platform: Platform{OS: "linux", Architecture: "arm64"}}

	if err := c.Pull(t.Context(), reg.ref("app:1"), s.index, to, PullOptions{}); !errors.Is(err, ErrPlatform) {
		t.Errorf("Pull of an index without a platform = %v, want ErrPlatform", err)
	}
	other := PullOptions{Platform: Platform{OS: "plan9", Architecture: "amd64"}}
	var none *PlatformError
	if err := c.Pull(t.Context(), reg.ref("app:1"), s.index, to, other); !errors.As(err, &none) {
		t.Errorf("Pull for plan9 = %v, want PlatformError", err)
	} else if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64/v8"}, none.Choices); diff != "" {
		t.Errorf("choices (-want +got):\n%s", diff)
	}
	if err := c.Pull(t.Context(), reg.ref("app:1"), s.amd64, to, arm); !errors.Is(err, ErrPlatform) {
		t.Errorf("Pull of an amd64 image for arm64 = %v, want ErrPlatform", err)
	}
	if left := tree(t, filepath.Dir(file)); len(left) != 0 {
		t.Fatalf("left behind after refusals: %v", left)
	}

	if err := c.Pull(t.Context(), reg.ref("app:1"), s.index, to, arm); err != nil {
		t.Fatalf("Pull: %v", err)
	}
	if left := tree(t, filepath.Dir(file)); len(left) != 1 {
		t.Errorf("beside the archive: %v", left)
	}
	for _, choice := range []string{"", reg.host + "/app:1"} {
		to.Select = choice
		got, err := c.Push(t.Context(), to, reg.ref("copy:1"), PushOptions{})
		if err != nil || got != s.arm64 {
			t.Errorf("Push of %s = %+v, %v; want %+v", to, got, err, s.arm64)
		}
	}
	to.Select = reg.host + "/app:2"
	if _, err := c.Push(t.Context(), to, reg.ref("copy:1"), PushOptions{}); !errors.Is(err, ErrNoImage) {
		t.Errorf("Push of %s = %v, want ErrNoImage", to, err)
	}

	// Other programs find what they know.
	image, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatalf("tarball.ImageFromPath: %v", err)
	}
	if layers, err := image.Layers(); err != nil || len(layers) != 2 {
		t.Errorf("layers in manifest.json: %d, %v; want 2", len(layers), err)
	}
}

func TestOldArchive(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	file := filepath.Join(t.TempDir(), "old.tar")
	images := map[name.Reference]v1.Image{}
	for _, n := range []string{"alpine:3", "registry.example/app:1"} {
		image, err := random.Image(2000, 2)
		if err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = image
	}
	if err := tarball.MultiRefWriteToFile(file, images); err != nil {
		t.Fatal(err)
	}
	c := reg.client()
	var ambiguous *AmbiguousError
	if _, err := c.Push(t.Context(), Image{Kind: Archive, Path: file}, reg.ref("app:1"), PushOptions{}); !errors.As(err, &ambiguous) || len(ambiguous.Choices) != 2 {
		t.Errorf("Push of one of two = %v, want AmbiguousError with 2 choices", err)
	}
	for tag, image := range images {
		from, err := ParseImage("docker-archive:" + file + ":" + tag.String())
		if err != nil {
			t.Fatal(err)
		}
		want, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Push(t.Context(), from, reg.ref("app:1"), PushOptions{})
		if err != nil || got.Digest.String() != want.String() {
			t.Errorf("Push(%s) = %v, %v; want %s", from, got.Digest, err, want)
		}
	}
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	build := func(entries ...*tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(w, strings.NewReader(strings.Repeat("[", 100)), h.Size); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for what, raw := range map[string][]byte{
		"empty":         {},
		"not a tar":     bytes.Repeat([]byte("x"), 2000),
		"gzip":          {0x1f, 0x8b, 8, 0, 0, 0, 0, 0},
		"no images":     build(&tar.Header{Name: "readme", Typeflag: tar.TypeReg, Size: 10}),
		"bad JSON":      build(&tar.Header{Name: indexFile, Typeflag: tar.TypeReg, Size: 10}),
		"bad old JSON":  build(&tar.Header{Name: dockerIndex, Typeflag: tar.TypeReg, Size: 10}),
		"link as index": build(&tar.Header{Name: indexFile, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		"twice": build(&tar.Header{Name: indexFile, Typeflag: tar.TypeReg, Size: 10},
			&tar.Header{Name: "./" + indexFile, Typeflag: tar.TypeReg, Size: 10}),
	} {
		file := filepath.Join(t.TempDir(), "x.tar")
		write(t, file, raw)
		_, _, err := openArchive(t.Context(), Image{Kind: Archive, Path: file})
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: openArchive = %v, want ErrUnsupported", what, err)
		}
	}
}
