package registry

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/iechor/trust/certs"
)

// A fakeRegistry is go-containerregistry's in-memory registry behind TLS,
// with a private CA, and with a place to misbehave.
type fakeRegistry struct {
	t    testing.TB
	host string
	ca   []byte
	real http.Handler

	mu       sync.Mutex // guards the rest
	fault    func(w http.ResponseWriter, r *http.Request) bool
	requests []string
}

func newRegistry(t testing.TB) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{t: t, real: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	f.host = server.Listener.Addr().String()
	f.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return f
}

func newPlainRegistry(t testing.TB) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{t: t, real: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.host = server.Listener.Addr().String()
	return f
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault := f.fault
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	f.real.ServeHTTP(w, r)
}

// misbehave installs a fault, which reports whether it has answered. Nil ends it.
func (f *fakeRegistry) misbehave(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// asked returns how many requests contained text.
func (f *fakeRegistry) asked(text string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

// client returns a client that trusts the CA of the registry.
func (f *fakeRegistry) client(change ...func(*Config)) *Client {
	f.t.Helper()
	c := Config{UserAgent: "iEchor-Client/test", TLSDir: f.t.TempDir(), Stall: 3 * time.Minute}
	f.trust(c.TLSDir)
	for _, f := range change {
		f(&c)
	}
	return New(c)
}

func (f *fakeRegistry) trust(dir string) {
	f.t.Helper()
	if f.ca != nil {
		write(f.t, filepath.Join(certs.Dir(dir, f.host), "ca.crt"), f.ca)
	}
}

func (f *fakeRegistry) ref(s string) Ref {
	f.t.Helper()
	return mustRef(f.t, f.host+"/"+s)
}

func mustRef(t testing.TB, s string) Ref {
	t.Helper()
	r, err := ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func write(t testing.TB, name string, raw []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A sample is an OCI layout with a two-platform index, an attestation in it,
// and one image alone.
type sample struct {
	dir          string
	index        Descriptor // tagged "multi"
	amd64, arm64 Descriptor // amd64 is tagged "single" too
	layer        Descriptor // of amd64
	config       Descriptor // of amd64
}

func newSample(t testing.TB) *sample {
	t.Helper()
	s := &sample{dir: t.TempDir()}
	image := func(arch, variant string) (Descriptor, Descriptor, Descriptor) {
		layer := s.add(t, "application/vnd.oci.image.layer.v1.tar+gzip", bytes.Repeat([]byte("layer "+arch+"\n"), 50_000))
		config := s.addJSON(t, "application/vnd.oci.image.config.v1+json",
			map[string]any{"os": "linux", "architecture": arch, "variant": variant, "rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.Digest.String(), layer.Digest.String()}}})
		return s.addJSON(t, ociManifest, map[string]any{
			"schemaVersion": 2, "mediaType": ociManifest,
			"config": wire(config, nil), "layers": []any{wire(layer, nil), wire(layer, nil)},
		}), layer, config
	}
	var attested Descriptor
	s.amd64, s.layer, s.config = image("amd64", "")
	s.arm64, _, _ = image("arm64", "v8")
	attested, _, _ = image("attestation", "")
	s.index = s.addJSON(t, ociIndex, map[string]any{
		"schemaVersion": 2, "mediaType": ociIndex,
		"manifests": []any{
			wire(s.amd64, map[string]any{"platform": map[string]string{"os": "linux", "architecture": "amd64"}}),
			wire(s.arm64, map[string]any{"platform": map[string]string{"os": "linux", "architecture": "arm64", "variant": "v8"}}),
			wire(attested, map[string]any{"platform": map[string]string{"os": "unknown", "architecture": "unknown"}}),
		},
	})
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "x-unknown": "kept",
		"manifests": []any{
			wire(s.index, map[string]any{"annotations": map[string]string{refName: "multi", "x": "y"}}),
			wire(s.amd64, map[string]any{"annotations": map[string]string{refName: "single"}}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.dir, indexFile), raw)
	write(t, filepath.Join(s.dir, layoutFile), []byte(layoutVersion))
	return s
}

func (s *sample) image(choice string) Image { return Image{Kind: Layout, Path: s.dir, Select: choice} }

func (s *sample) add(t testing.TB, mediaType string, raw []byte) Descriptor {
	t.Helper()
	d := Descriptor{Digest: DigestOf(raw), Size: int64(len(raw)), MediaType: mediaType}
	write(t, filepath.Join(s.dir, filepath.FromSlash(blobPath(d.Digest))), raw)
	return d
}

func (s *sample) addJSON(t testing.TB, mediaType string, v any) Descriptor {
	t.Helper()
	raw, err := json.MarshalIndent(v, "", "   ") // a form that only exact bytes keep
	if err != nil {
		t.Fatal(err)
	}
	return s.add(t, mediaType, raw)
}

func wire(d Descriptor, more map[string]any) map[string]any {
	m := map[string]any{"mediaType": d.MediaType, "digest": d.Digest.String(), "size": d.Size}
	for k, v := range more {
		m[k] = v
	}
	return m
}

// pushed puts the sample into the registry under app:multi and app:single.
func pushed(t *testing.T, f *fakeRegistry) *sample {
	t.Helper()
	s := newSample(t)
	for _, tag := range []string{"multi", "single"} {
		if _, err := f.client().Push(t.Context(), s.image(tag), f.ref("app:"+tag), PushOptions{}); err != nil {
			t.Fatalf("Push(%s): %v", tag, err)
		}
	}
	return s
}

// tree lists every file and directory below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
