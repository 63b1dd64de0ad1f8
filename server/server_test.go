package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics/metricstest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := newWorld(t, nil).Server.c
	for name, edit := range map[string]func(*Config){
		"no store":         func(c *Config) { c.Store = nil },
		"no signer":        func(c *Config) { c.Keys = nil },
		"no authorizer":    func(c *Config) { c.Auth = nil },
		"prefix of no dir": func(c *Config) { c.Prefixes = []string{"a"} },
		"prefix from root": func(c *Config) { c.Prefixes = []string{"/a/"} },
		"prefix above":     func(c *Config) { c.Prefixes = []string{"../"} },
		"prefix unclean":   func(c *Config) { c.Prefixes = []string{"a//b/"} },
		"RSA":              func(c *Config) { c.KeyType = tuf.RSA },
		"no life":          func(c *Config) { c.Lifetimes.Timestamp = time.Second },
	} {
		c := good
		edit(&c)
		if s, err := New(c); err == nil || s != nil {
			t.Errorf("New with %s = %v, %v; want an error", name, s, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestPrefixes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Prefixes = []string{"a/", "b/c/"}
		c.Auth = nobody{} // the prefix is looked at before
	})
	const notFound = `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist."}]}` + "\n"
	const invalidGUN = `{"errors":[{"code":"INVALID_GUN","message":"The server does not support actions on images of this name.","detail":"Require GUNs with prefix: [a/ b/c/]"}]}` + "\n"
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"POST", "/v2/x/_trust/tuf/", 400, invalidGUN},
		{"POST", "/v2/b/x/_trust/tuf/", 400, invalidGUN},
		{"POST", "/v2/a/_trust/tuf/", 400, invalidGUN},
		{"GET", "/v2/x/_trust/tuf/root.json", 404, notFound},
		{"DELETE", "/v2/x/_trust/tuf/", 404, notFound},
		{"GET", "/v2/x/_trust/changefeed?records=1", 404, notFound},
		{"POST", "/v2/x/_trust/tuf/timestamp.key", 404, notFound},
		{"GET", "/v2/a/x/_trust/tuf/root.json", 403, ""},
		{"GET", "/v2/_trust/changefeed?records=1", 403, ""},
		{"GET", "/v2/", 403, ""},
		{"GET", "/_notary_server/health", 200, "{}"},
	} {
		r := w.do(c.method, c.path, nil)
		if r.Code != c.status || c.body != "" && r.Body.String() != c.body {
			t.Errorf("%s %s = %d %s, want %d %s", c.method, c.path, r.Code, r.Body, c.status, c.body)
		}
	}
}

// nobody may do anything.
type nobody struct{}

func (nobody) Authorize(*http.Request, Access) (Grant, error) {
	return Grant{}, &api.Error{Status: 403, Code: "DENIED", Message: "denied"}
}

// An authorizer that cannot decide lets nobody through.
func TestAuthorizerFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Auth = undecided{} })
	for _, method := range []string{"GET", "POST", "DELETE", "PUT", "HEAD"} {
		if r := w.do(method, repository(app), nil); r.Code != 500 || strings.Contains(r.Body.String(), "oracle") {
			t.Errorf("%s = %d %s, want 500", method, r.Code, r.Body)
		}
	}
}

type undecided struct{}

func (undecided) Authorize(*http.Request, Access) (Grant, error) {
	return Grant{}, errors.New("the oracle is silent")
}

func TestMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	newPublisher(t, w, app).init(t)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"PATCH", current(app, "root"), 405},
		{"OPTIONS", "/v2/", 405},
		{"BREW", "/", 405},
		{"HEAD", current(app, "root"), 404},
		{"HEAD", "/v2/", 404},
		{"PUT", repository(app), 404},
		{"GET", repository(app), 404},
		{"POST", current(app, "root"), 404},
		{"DELETE", current(app, "root"), 404},
		{"POST", "/_notary_server/health", 404},
		{"GET", "/v2/" + string(app) + "/_trust/tuf/root.key", 404},
		{"GET", "/", 404},
		{"GET", current(app, "targets/none"), 404},
		{"GET", current("registry.example/none", "root"), 404},
	} {
		r := w.do(c.method, c.path, nil)
		if r.Code != c.want {
			t.Errorf("%s %s = %d, want %d", c.method, c.path, r.Code, c.want)
		}
		if c.want == 405 && r.Body.Len() != 0 {
			t.Errorf("%s %s has the body %q", c.method, c.path, r.Body)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	health := func() (int, string) {
		r := w.get("/_notary_server/health")
		return r.Code, r.Body.String()
	}
	if code, body := health(); code != 200 || body != "{}" {
		t.Errorf("health = %d %s", code, body)
	}
	w.store.Inject(storagetest.Fault{Method: "Ping"})
	if code, _ := health(); code != 200 {
		t.Errorf("health within ten seconds = %d: the store is asked at each request", code)
	}
	w.clock.pass(11 * time.Second)
	if code, body := health(); code != 503 || body != `{"DB operational":"not reachable"}` {
		t.Errorf("health with a dead store = %d %s", code, body)
	}
	w.store.Heal()
	w.clock.pass(11 * time.Second)
	if code, _ := health(); code != 200 {
		t.Errorf("health after recovery = %d", code)
	}
}

// A store that is silent takes the time of the look at the store, and not that
// of the look at the signer, which is well.
func TestHealthOfSilentStore(t *testing.T) {
	t.Parallel()
	for range 8 { // the order in which the two are asked must not matter
		synctest.Test(t, func(t *testing.T) {
			var s Server
			s.c = Config{Store: silent{}, Keys: honestPing{}, Log: slog.New(slog.DiscardHandler), Now: time.Now}
			begin := time.Now()
			if got := s.look(t.Context()); len(got) != 1 || got["DB operational"] == "" || time.Since(begin) > 5*time.Second {
				t.Errorf("look = %v after %v, want the store's fault alone", got, time.Since(begin))
			}
		})
	}
}

type silent struct{ storage.Store }

func (silent) Ping(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

type honestPing struct{ Keys }

func (honestPing) Ping(ctx context.Context) error { return ctx.Err() }

// Readiness goes with the store, the signer and the wish to stop; being alive
// does not.
func TestReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Auth = nobody{}; c.NoMetrics = true })
	monitor := w.Monitor()
	check := func(when string, ready int, body string) {
		t.Helper()
		w.clock.pass(11 * time.Second)
		for path, want := range map[string]int{"/healthz": 200, "/readyz": ready} {
			r := w.get(path)
			watched := httptest.NewRecorder()
			monitor.ServeHTTP(watched, httptest.NewRequest(http.MethodGet, path, nil))
			if r.Code != want || watched.Code != want {
				t.Errorf("%s: %s = %d, and %d on the other address, want %d", when, path, r.Code, watched.Code, want)
			}
			if path == "/readyz" && (r.Body.String() != body || watched.Body.String() != body) {
				t.Errorf("%s: %s = %s and %s, want %s", when, path, r.Body, watched.Body, body)
			}
		}
	}
	check("at first", 200, "{}")
	w.store.Inject(storagetest.Fault{Method: "Ping"})
	check("without a store", 503, `{"DB operational":"not reachable"}`)
	w.store.Heal()
	check("with the store again", 200, "{}")
	w.Drain()
	check("about to stop", 503, `{"draining":"about to stop"}`)
	if r := w.get("/_notary_server/health"); r.Code != 200 {
		t.Errorf("stock health of a server that is about to stop = %d", r.Code)
	}
}

// S10: with an address of their own, metrics are on no other, and no trust data
// is on theirs.
func TestMonitorAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.NoMetrics = true })
	newPublisher(t, w, app).init(t)
	if r := w.get("/metrics"); r.Code != 404 {
		t.Errorf("/metrics = %d, want 404", r.Code)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/metrics", 200}, {"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"GET", "/_notary_server/health", 200},
		{"POST", "/metrics", 404}, {"GET", current(app, "root"), 404}, {"GET", "/v2/", 404}, {"GET", "/", 404}, {"GET", "//metrics", 404},
		{"POST", keyPath(app, "timestamp"), 404}, {"DELETE", repository(app), 404}, {"GET", "/v2/_trust/changefeed", 404},
	} {
		r := httptest.NewRecorder()
		w.Monitor().ServeHTTP(r, httptest.NewRequest(c.method, c.path, nil))
		if r.Code != c.want {
			t.Errorf("%s %s = %d, want %d", c.method, c.path, r.Code, c.want)
		}
	}
}

// L9: what a requester writes does not become a label.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	newPublisher(t, w, app).init(t)
	w.get(current(app, "timestamp"))
	w.get("/secret-name")
	r := w.get("/metrics")
	metricstest.Parse(t, r.Body.String())
	for _, want := range []string{
		`notary_server_http_requests_total{code="200",method="post",operation="UpdateTUF"} 1`,
		`notary_server_http_requests_total{code="200",method="get",operation="GetRole"} 1`,
		`notary_server_http_requests_total{code="404",method="get",operation="NotFound"} 1`,
		`notary_server_http_request_duration_microseconds_count{operation="GetRole"} 1`,
		`iechor_server_publishes_total 1`,
		`iechor_server_refusals_total{reason="METADATA_NOT_FOUND"} 1`,
		`iechor_server_signatures_total{role="timestamp",outcome="done"} 1`,
		`iechor_server_signatures_total{role="timestamp",outcome="failed"} 0`,
		`iechor_server_renewals_total{outcome="done"} 0`,
		`iechor_server_request_duration_seconds_count{operation="GetRole"} 1`,
		`iechor_server_files{role="targets"} 1`,
		`iechor_server_files_expired{role="root"} 0`,
		`iechor_server_files_expiring_30d{role="timestamp"} 1`,
	} {
		if !strings.Contains(r.Body.String(), want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, r.Body)
		}
	}
	w.clock.pass(30 * time.Hour) // a third of the timestamp's life
	if err := w.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.keys.onSign(func(api.SignRequest) error { return errors.New("no") })
	w.clock.pass(30 * time.Hour)
	if err := w.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := metricstest.Parse(t, w.get("/metrics").Body.String())
	for _, series := range []string{
		`iechor_server_renewals_total{outcome="done"}`, `iechor_server_renewals_total{outcome="failed"}`,
		`iechor_server_signatures_total{role="timestamp",outcome="failed"}`,
	} {
		if got[series] != 1 {
			t.Errorf("after one renewal that worked and one that did not, %s = %v", series, got[series])
		}
	}
	if strings.Contains(r.Body.String(), "secret") || strings.Contains(r.Body.String(), "app") {
		t.Error("a name is in the metrics")
	}
}

func TestHTTPServer(t *testing.T) {
	t.Parallel()
	s := HTTPServer(newWorld(t, nil), nil)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= s.ReadTimeout || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("a limit is missing: %+v", s)
	}
}

// Nothing that is counted at the same time gets lost, and what HTTP does not
// have is not counted.
func TestMetricsCountConcurrently(t *testing.T) {
	t.Parallel()
	s := &Server{metrics: new(stock), counters: newCounters(), blobs: newCache(1, 1)}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				s.metrics.add(opCurrent, http.MethodGet, 200, 2*time.Microsecond)
				s.metrics.add(opCurrent, http.MethodGet, 599, -time.Hour) // the clock was set
				s.metrics.add(opNothing, http.MethodPut, 100, 0)
				s.metrics.add(opNothing, "BREW", 200, 0)
				s.metrics.add(opNothing, http.MethodGet, 99, 0)
				s.metrics.add(opNothing, http.MethodGet, 600, 0)
			}
		})
	}
	wg.Wait()
	w := httptest.NewRecorder()
	s.serveMetrics(w, "")
	want := `# TYPE notary_server_http_requests_total counter
notary_server_http_requests_total{code="100",method="put",operation="NotFound"} 800
notary_server_http_requests_total{code="200",method="get",operation="GetRole"} 800
notary_server_http_requests_total{code="599",method="get",operation="GetRole"} 800
# TYPE notary_server_http_request_duration_microseconds summary
notary_server_http_request_duration_microseconds_sum{operation="GetRole"} 1600
notary_server_http_request_duration_microseconds_count{operation="GetRole"} 1600
notary_server_http_request_duration_microseconds_sum{operation="NotFound"} 0
notary_server_http_request_duration_microseconds_count{operation="NotFound"} 800
`
	metricstest.Parse(t, w.Body.String())
	got, _, _ := strings.Cut(w.Body.String(), "# HELP ")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
