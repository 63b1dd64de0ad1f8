package trust

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

func TestLook(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	met := false
	c := newClient(t, s, func(conf *Config) { conf.Met = func(*tuf.Set) { met = true } })
	set, err := c.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(set, "1"); err != nil {
		t.Error(err)
	}
	if files := tree(t, c.dir.Path()); len(files) > 0 || met {
		t.Errorf("Look left %v, met %t", files, met)
	}
	c.update(t)
	before := tree(t, c.dir.Path())
	owner.publish(t, "2")
	if set, err = c.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(set, "2"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, tree(t, c.dir.Path())); diff != "" {
		t.Errorf("Look changed files:\n%s", diff)
	}

	// What is at hand is the floor, and serves for nothing.
	s.set(func() { s.before = down })
	_, err = c.Look(t.Context())
	wantErr(t, "Look without a server", err, ErrUnreachable)
	s.set(func() { s.before = nil; delete(s.repos, app); delete(s.keys, app) })
	_, err = c.Look(t.Context())
	wantErr(t, "Look at a deleted repository", err, ErrGone)
	publisher(t, s, "new")
	_, err = c.Look(t.Context())
	wantErr(t, "Look at another root", err, tuf.ErrRoot)
	s.clock.add(-48 * time.Hour)
	_, err = c.Look(t.Context())
	wantErr(t, "Look with a clock that went back", err, ErrClock)
	if diff := cmp.Diff(before, tree(t, c.dir.Path())); diff != "" {
		t.Errorf("Look changed files:\n%s", diff)
	}
}

func TestLookFrozen(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	c := newClient(t, s, func(conf *Config) { conf.MaxAge = time.Hour })
	c.update(t)
	s.clock.add(2 * time.Hour)
	set, err := c.Look(t.Context())
	wantErr(t, "Look at a server that repeats itself", err, ErrFrozen)
	if set == nil {
		t.Error("Look together with ErrFrozen has no result")
	}
}

func TestGreet(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	mode := ""
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked for %s, with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		w.Header().Set("Date", at.Format(http.TimeFormat))
		switch mode {
		case "login":
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://login.example"`)
			w.WriteHeader(http.StatusUnauthorized)
		case "redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "broken":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	h := remote(t, s.URL)
	g, err := h.Greet(t.Context())
	if err != nil || g.Status != 200 || g.Scheme != "" || !g.Date.Equal(at) || g.Checked || !g.Expires.Equal(s.Certificate().NotAfter) {
		t.Errorf("Greet = %+v, %v", g, err)
	}
	mode = "login"
	if g, err := h.Greet(t.Context()); err != nil || g.Status != 401 || g.Scheme != "bearer" {
		t.Errorf("Greet of a server that wants a login = %+v, %v", g, err)
	}
	mode = "redirect"
	_, err = h.Greet(t.Context())
	wantErr(t, "Greet of a server that redirects", err, ErrRedirect)
	mode = "broken"
	_, err = h.Greet(t.Context())
	wantErr(t, "Greet of a broken server", err, ErrUnreachable)
}
