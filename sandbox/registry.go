package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
)

// maxManifest bounds a manifest that the registry takes, in bytes.
const maxManifest = 4 << 20

// A diskRegistry is go-containerregistry's registry, whose blobs are files
// below dir/blobs, with its manifests kept in files too, so that images
// survive a restart. It checks nobody's identity: it is for one machine.
type diskRegistry struct {
	inner http.Handler
	dir   string

	// mu makes a manifest's file and its place in memory change together.
	mu sync.Mutex
}

// A keptManifest is the file of one manifest under one name.
type keptManifest struct {
	Path        string `json:"path"` // of the request: /v2/NAME/manifests/REFERENCE
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`
}

func openRegistry(dir string) (*diskRegistry, error) {
	for _, sub := range []string{"blobs", "manifests"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	r := &diskRegistry{dir: dir, inner: registry.New(
		registry.Logger(log.New(io.Discard, "", 0)),
		registry.WithBlobHandler(blobFiles{filepath.Join(dir, "blobs")}),
		registry.WithReferrersSupport(true),
	)}
	return r, r.reload()
}

// reload puts the kept manifests back. An index is refused until the images
// that it names are there, so rounds go on for as long as they help.
func (r *diskRegistry) reload() error {
	names, err := filepath.Glob(filepath.Join(r.dir, "manifests", "*.json"))
	if err != nil {
		return err
	}
	for len(names) > 0 {
		var left []string
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			var m keptManifest
			if err := json.Unmarshal(raw, &m); err != nil {
				return fmt.Errorf("read %s (remove it to go on without that image): %w", name, err)
			}
			if w := r.put(m); w.Code != http.StatusCreated {
				left = append(left, name)
			}
		}
		if len(left) == len(names) {
			return fmt.Errorf("the registry does not take back %s: remove it to go on without that image", left[0])
		}
		names = left
	}
	return nil
}

func (r *diskRegistry) put(m keptManifest) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodPut, "http://registry"+m.Path, bytes.NewReader(m.Body))
	req.Header.Set("Content-Type", m.ContentType)
	w := httptest.NewRecorder()
	r.inner.ServeHTTP(w, req)
	return w
}

func (r *diskRegistry) file(path string) string {
	return filepath.Join(r.dir, "manifests", fmt.Sprintf("%x.json", sha256.Sum256([]byte(path))))
}

func (r *diskRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.Contains(req.URL.Path, "/manifests/") {
		r.inner.ServeHTTP(w, req)
		return
	}
	switch req.Method {
	case http.MethodPut:
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxManifest))
		if err != nil {
			http.Error(w, "manifest too large", http.StatusRequestEntityTooLarge)
			return
		}
		m := keptManifest{Path: req.URL.Path, ContentType: req.Header.Get("Content-Type"), Body: body}
		r.mu.Lock()
		defer r.mu.Unlock()
		answer := r.put(m)
		if answer.Code == http.StatusCreated {
			raw, err := json.Marshal(m)
			if err == nil {
				err = writeFile(r.file(m.Path), raw, 0o600)
			}
			if err != nil {
				http.Error(w, "the registry's disk: "+err.Error(), http.StatusInternalServerError)
				return
			}
		}
		for k, v := range answer.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client is gone if this fails
	case http.MethodDelete:
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := os.Remove(r.file(req.URL.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			http.Error(w, "the registry's disk: "+err.Error(), http.StatusInternalServerError)
			return
		}
		r.inner.ServeHTTP(w, req)
	default:
		r.inner.ServeHTTP(w, req)
	}
}
