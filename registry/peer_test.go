package registry

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// A real engine does what the fake one does. Images get there by a pull, so
// nothing else is needed; whoever owns the engine takes them away.
func TestPeerEngine(t *testing.T) {
	t.Parallel()
	host := os.Getenv("IECHOR_TEST_ENGINE")
	if host == "" {
		if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), "docker") {
			t.Fatal("IECHOR_TEST_ENGINE is not set, and IECHOR_REQUIRE asks for docker")
		}
		t.Skip("set IECHOR_TEST_ENGINE to the address of a spare engine, such as unix:///tmp/docker.sock")
	}
	reg := newPlainRegistry(t)
	c := reg.client(func(c *Config) { c.Engine.Hosts = []string{host} })
	want, _ := pushRandom(t, c, reg.ref("app:1"))
	if err := c.Pull(t.Context(), reg.ref("app:1"), want, Image{}, PullOptions{}); err != nil {
		t.Fatalf("Pull into the engine: %v", err)
	}
	if err := c.Tag(t.Context(), reg.ref("app").WithDigest(want.Digest), reg.ref("copy:2")); err != nil {
		t.Fatalf("Tag: %v", err)
	}
	var last Progress
	got, err := c.Push(t.Context(), Image{}, reg.ref("copy:2"), PushOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatalf("Push from the engine: %v", err)
	}
	if there, err := c.Resolve(t.Context(), reg.ref("copy:2")); err != nil || there != got {
		t.Errorf("Push = %+v, and the registry has %+v, %v", got, there, err)
	}
	if last.Status == "" {
		t.Error("the engine reported no progress")
	}
	if local, err := c.Inspect(t.Context(), reg.ref("copy:2")); err != nil || !local.is(got.Digest) {
		t.Errorf("Inspect = %+v, %v; want it to know %s", local, err, got.Digest)
	}
	missing := Descriptor{Digest: DigestOf([]byte("missing"))}
	if err := c.Pull(t.Context(), reg.ref("app:1"), missing, Image{}, PullOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Pull of a digest that is not there = %v, want ErrNotFound", err)
	}
	if _, err := c.Push(t.Context(), Image{}, reg.ref("nosuch:1"), PushOptions{}); !errors.Is(err, ErrNoImage) {
		t.Errorf("Push of an image that is not there = %v, want ErrNoImage", err)
	}

	// attacks.md M6, with the engine's own words
	want, layer := pushRandom(t, c, reg.ref("bad:1"))
	s, err := c.open(t.Context(), reg.ref("bad"), "pull")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.resolve(t.Context(), reg.ref("bad:1"))
	if err != nil {
		t.Fatal(err)
	}
	reg.misbehave(at(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", m.MediaType)
		_, _ = w.Write(append(bytes.Clone(m.raw), ' '))
	}, want.Digest))
	if err := c.Pull(t.Context(), reg.ref("bad:1"), want, Image{}, PullOptions{}); !errors.Is(err, ErrDigest) {
		t.Errorf("Pull of an altered manifest = %v, want ErrDigest", err)
	}
	reg.misbehave(at(answer([]byte("altered")), layer))
	if err := c.Pull(t.Context(), reg.ref("bad:1"), want, Image{}, PullOptions{}); !errors.Is(err, ErrDigest) {
		t.Errorf("Pull of an altered layer = %v, want ErrDigest", err)
	}
	if _, err := c.Inspect(t.Context(), reg.ref("bad:1")); !errors.Is(err, ErrNoImage) {
		t.Errorf("Inspect after the attacks = %v, want ErrNoImage", err)
	}
	reg.misbehave(nil)
	if err := c.Pull(t.Context(), reg.ref("bad:1"), want, Image{}, PullOptions{}); err != nil {
		t.Errorf("honest Pull after the attacks: %v", err)
	}
}

// pushRandom pushes an image that an engine can unpack, and returns its
// descriptor and its layer.
func pushRandom(t *testing.T, c *Client, to Ref) (Descriptor, Digest) {
	t.Helper()
	image, err := random.Image(2000, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("sample:1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sample.tar")
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		t.Fatal(err)
	}
	d, err := c.Push(t.Context(), Image{Kind: Archive, Path: file}, to, PushOptions{})
	if err != nil {
		t.Fatalf("Push of an archive: %v", err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := ParseDigest(hash.String())
	if err != nil {
		t.Fatal(err)
	}
	return d, layer
}
