package registry

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Describe foretells what Push then does, and leaves the registry alone.
func TestDescribe(t *testing.T) {
	t.Parallel()
	reg, filled := newRegistry(t), newRegistry(t)
	s := pushed(t, filled)
	file := filepath.Join(t.TempDir(), "new.tar")
	archive := Image{Kind: Archive, Path: file}
	if err := filled.client().Pull(t.Context(), filled.ref("app:1"), s.amd64, archive, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	c := reg.client()
	for _, test := range []struct {
		from Image
		want Descriptor
	}{
		{s.image("multi"), s.index},
		{s.image("single"), s.amd64},
		{s.image(s.amd64.Digest.String()), s.amd64},
		{archive, s.amd64},
		{oldArchiveFile(t, "registry.example/app:1"), Descriptor{}},
	} {
		before := reg.asked("")
		got, err := c.Describe(t.Context(), test.from, reg.ref("app:1"))
		if err != nil || test.want != (Descriptor{}) && got != test.want {
			t.Errorf("Describe(%s) = %+v, %v; want %+v", test.from, got, err, test.want)
		}
		if n := reg.asked("") - before; n != 0 {
			t.Errorf("Describe(%s) made %d requests, want none", test.from, n)
		}
		if is, err := c.Push(t.Context(), test.from, reg.ref("app:1"), PushOptions{}); err != nil || is != got {
			t.Errorf("Push(%s) = %+v, %v; Describe said %+v", test.from, is, err, got)
		}
	}
}

// oldArchiveFile makes an archive without a layout, of one random image under
// each name.
func oldArchiveFile(t testing.TB, names ...string) Image {
	t.Helper()
	images := map[name.Reference]v1.Image{}
	for _, n := range names {
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
	file := filepath.Join(t.TempDir(), "old.tar")
	if err := tarball.MultiRefWriteToFile(file, images); err != nil {
		t.Fatal(err)
	}
	return Image{Kind: Archive, Path: file}
}

func TestDescribeRefusals(t *testing.T) {
	t.Parallel()
	reg, s := newRegistry(t), newSample(t)
	without := func(d Digest) Image {
		s := newSample(t)
		if err := os.Remove(filepath.Join(s.dir, filepath.FromSlash(blobPath(d)))); err != nil {
			t.Fatal(err)
		}
		return s.image("multi")
	}
	damaged := newSample(t)
	write(t, filepath.Join(damaged.dir, filepath.FromSlash(blobPath(s.arm64.Digest))), []byte("{}"))
	for _, test := range []struct {
		what string
		from Image
		to   Ref
		want error
	}{
		{"no choice", s.image(""), reg.ref("app:1"), ErrAmbiguous},
		{"no such tag", s.image("nosuch"), reg.ref("app:1"), ErrNoImage},
		{"a digest", s.image("multi"), reg.ref("app").WithDigest(s.index.Digest), ErrReference},
		{"a missing layer", without(s.layer.Digest), reg.ref("app:1"), ErrNoImage},
		{"a missing child", without(s.arm64.Digest), reg.ref("app:1"), ErrNoImage},
		{"a damaged child", damaged.image("multi"), reg.ref("app:1"), ErrDigest},
		{"no layout", Image{Kind: Layout, Path: filepath.Join(s.dir, "nosuch")}, reg.ref("app:1"), ErrNoImage},
		{"no archive", Image{Kind: Archive, Path: filepath.Join(s.dir, "nosuch")}, reg.ref("app:1"), ErrNoImage},
		{"no engine", Image{}, reg.ref("app:1"), ErrNoEngine},
	} {
		got, err := reg.client().Describe(t.Context(), test.from, test.to)
		if !errors.Is(err, test.want) || got != (Descriptor{}) {
			t.Errorf("%s: Describe = %+v, %v; want %v", test.what, got, err, test.want)
		}
	}
}

func TestDescribeEngine(t *testing.T) {
	t.Parallel()
	reg, s, e := newPlainRegistry(t), newSample(t), newFakeEngine(t)
	e.load(s, reg.host+"/app:latest")
	c := reg.client(e.use)
	if got, err := c.Describe(t.Context(), Image{}, reg.ref("app")); err != nil || got != (Descriptor{}) {
		t.Errorf("Describe of the engine's image = %+v, %v; want nothing and no error", got, err)
	}
	if _, err := c.Describe(t.Context(), Image{}, reg.ref("app:2")); !errors.Is(err, ErrNoImage) {
		t.Errorf("Describe of what the engine does not have = %v, want ErrNoImage", err)
	}
	if n := reg.asked("/v2/"); n != 0 {
		t.Errorf("Describe made %d requests to the registry, want none", n)
	}
}
