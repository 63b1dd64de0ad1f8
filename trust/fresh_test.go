package trust

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/iechor/trust/tuf"
)

// Readers may be answered by a cache; publishers ask past it.
func TestPublishersAskPastCaches(t *testing.T) {
	t.Parallel()
	var asked []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Cache-Control"))
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	h, err := NewHTTP(HTTPConfig{Base: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	r := Open("registry.example/app", Config{Remote: h, Dir: NewDir(t.TempDir())})
	if _, err := r.Update(t.Context()); err == nil {
		t.Fatal("Update without a server")
	}
	plan := func(*tuf.Set) ([]tuf.Change, error) { return nil, nil }
	if _, err := r.Publish(t.Context(), plan); err == nil {
		t.Fatal("Publish without a server")
	}
	if len(asked) != 2 || asked[0] != "" || asked[1] != "no-cache" {
		t.Errorf("Cache-Control of an update and a publish: %q", asked)
	}
}
