package registry

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A manifest can claim the largest of all sizes.
func TestAttackLargestSize(t *testing.T) {
	t.Parallel()
	raw := []byte("layer")
	c := content{what: "layer", Descriptor: Descriptor{Digest: DigestOf(raw), Size: math.MaxInt64}}
	_, err := io.ReadAll(verified(io.NopCloser(bytes.NewReader(raw)), c, local))
	if !errors.Is(err, ErrDigest) {
		t.Errorf("read of a layer of size %d = %v, want ErrDigest", c.Size, err)
	}
}

// A file of an old archive that is read whole must be small, and no link may
// stand where go-containerregistry finds it before the file.
func TestAttackOldArchives(t *testing.T) {
	t.Parallel()
	list := `[{"Config":"config.json","RepoTags":["app:1"],"Layers":["layer.tar"]}]`
	file := func(name, body string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(body)), PAXRecords: map[string]string{"X.body": body}}
	}
	link := func(name, to string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	huge := strings.Repeat(" ", maxManifest+1)
	for what, entries := range map[string][]*tar.Header{
		"huge config":           {file(dockerIndex, list), file("config.json", huge), file("layer.tar", "")},
		"no config":             {file(dockerIndex, list), file("layer.tar", "")},
		"link as config":        {file(dockerIndex, list), link("config.json", "layer.tar"), file("layer.tar", "{}")},
		"link before the file":  {link(dockerIndex, "layer.tar"), file(dockerIndex, list), file("config.json", "{}"), file("layer.tar", "[]")},
		"link after the file":   {file(dockerIndex, list), link("./"+dockerIndex, "layer.tar"), file("config.json", "{}"), file("layer.tar", "[]")},
		"links without an end":  {file(dockerIndex, list), file("config.json", "{}"), link("layer.tar", "other"), link("other", "layer.tar")},
		"directory as a config": {file(dockerIndex, list), {Name: "config.json", Typeflag: tar.TypeDir}, file("layer.tar", "")},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			body := h.PAXRecords["X.body"]
			h.PAXRecords = nil
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, body); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "old.tar")
		write(t, name, b.Bytes())
		_, _, err := openArchive(t.Context(), Image{Kind: Archive, Path: name})
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: openArchive = %v, want ErrUnsupported", what, err)
		}
		if what == "huge config" && !strings.Contains(err.Error(), "larger than") {
			t.Errorf("%s: openArchive = %v: it was read", what, err)
		}
	}
}

// Whatever a failed pull has made goes, the directories above the layout too;
// what was there before stays.
func TestFailedPullLeavesNoDirectories(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mine", "x"), nil)
	before := tree(t, dir)
	pull := func(path string) error {
		return reg.client().Pull(t.Context(), reg.ref("app:1"), s.amd64, Image{Kind: Layout, Path: filepath.Join(dir, path)}, PullOptions{})
	}
	reg.misbehave(at(answer([]byte("altered")), s.layer.Digest))
	if err := pull("mine/a/b/c"); !errors.Is(err, ErrDigest) {
		t.Errorf("Pull = %v, want ErrDigest", err)
	}
	if err := pull("mine/x/a/b"); err == nil {
		t.Error("Pull below a file = nil")
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	reg.misbehave(nil)
	if err := pull("mine/a/b/c"); err != nil {
		t.Errorf("honest Pull after the attack: %v", err)
	}
}

// It is said before the download that the archive has no place.
func TestPullArchiveOverDirectory(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	s := pushed(t, reg)
	top := t.TempDir()
	dir := filepath.Join(top, "app.tar")
	write(t, filepath.Join(dir, "mine"), nil)
	before := reg.asked("/blobs/" + s.layer.Digest.String())
	err := reg.client().Pull(t.Context(), reg.ref("app:1"), s.amd64, Image{Kind: Archive, Path: dir}, PullOptions{})
	if !errors.Is(err, ErrReference) || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("Pull over a directory = %v, want ErrReference that says so", err)
	}
	if n := reg.asked("/blobs/"+s.layer.Digest.String()) - before; n != 0 {
		t.Errorf("the layer was fetched %d times, want never", n)
	}
	if left := tree(t, top); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

// Who is not let in by an engine learns by which one and why, whatever else
// was tried after it.
func TestEnginePermission(t *testing.T) {
	t.Parallel()
	closed := &NoEngineError{Tried: []string{"unix:///a", "unix:///b"}, Err: &net.OpError{Op: "dial", Net: "unix",
		Addr: &net.UnixAddr{Name: "/a", Net: "unix"}, Err: os.NewSyscallError("connect", syscall.EACCES)}}
	if got := closed.Error(); !strings.Contains(got, "dial unix /a: connect: permission denied") {
		t.Errorf("Error() = %q, want the one that is closed and why", got)
	}
	if os.Geteuid() <= 0 {
		t.Skip("needs a user who is not root, and sockets with modes")
	}
	e := newFakeEngine(t)
	if err := os.Chmod(strings.TrimPrefix(e.host, "unix://"), 0); err != nil {
		t.Fatal(err)
	}
	_, err := New(Config{Engine: EngineConfig{Hosts: []string{e.host, "unix:///nonexistent/engine.sock"}}}).Inspect(t.Context(), mustRef(t, "alpine:3"))
	if !errors.Is(err, ErrNoEngine) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Inspect = %v, want ErrNoEngine for lack of permission", err)
	}
}

// An engine leaves docker.io out where it speaks of its images.
func TestEngineCallsDockerIOByShortNames(t *testing.T) {
	t.Parallel()
	s, e := newSample(t), newFakeEngine(t)
	e.load(s, "docker.io/library/alpine:3").digests = []string{"alpine@" + s.amd64.Digest.String()}
	c := New(Config{Engine: EngineConfig{Hosts: []string{e.host}}})
	local, err := c.Inspect(t.Context(), mustRef(t, "docker.io/library/alpine:3"))
	if diff := cmp.Diff([]Digest{s.amd64.Digest}, local.Digests); err != nil || diff != "" {
		t.Errorf("Inspect: %v; digests (-want +got):\n%s", err, diff)
	}
	if tags, err := c.Tags(t.Context(), Image{}, mustRef(t, "docker.io/alpine")); err != nil || !cmp.Equal(tags, []string{"3"}) {
		t.Errorf("Tags = %v, %v; want [3]", tags, err)
	}
}
