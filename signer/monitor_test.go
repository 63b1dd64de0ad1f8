package signer

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/iechor/trust/metrics/metricstest"
	"github.com/iechor/trust/tuf"
)

// Readiness goes with the table and with the wish to stop; being alive does
// not. Nothing else is served.
func TestMonitor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.Monitor()
	get := func(method, path string) (int, string) {
		r := httptest.NewRecorder()
		h.ServeHTTP(r, httptest.NewRequest(method, path, nil))
		return r.Code, strings.TrimSpace(r.Body.String())
	}
	ready := func(when string, want int, body string) {
		t.Helper()
		w.pass(2 * lookEvery)
		if code, got := get("GET", "/readyz"); code != want || got != body {
			t.Errorf("%s: /readyz = %d %s, want %d %s", when, code, got, want, body)
		}
		if code, got := get("GET", "/healthz"); code != http.StatusOK || got != "{}" {
			t.Errorf("%s: /healthz = %d %s", when, code, got)
		}
	}
	ready("at first", 200, "{}")
	for _, path := range []string{pathPing, pathSign, pathCreate, "/"} {
		for _, method := range []string{"GET", "POST"} {
			if code, _ := get(method, path); code != http.StatusNotFound {
				t.Errorf("%s %s = %d on the address for those who watch", method, path, code)
			}
		}
	}
	gun := tuf.GUN("registry.example/app")
	newServer(t, w, w.Service, gun).publish(t, "content")
	_, page := get("GET", "/metrics")
	got := metricstest.Parse(t, page+"\n")
	for series, want := range map[string]float64{
		`iechor_signer_signatures_total{role="timestamp"}`: 1,
		`iechor_signer_keys_created_total`:                 2,
	} {
		if got[series] != want {
			t.Errorf("%s = %v, want %v\n%s", series, got[series], want, page)
		}
	}
	if strings.Contains(page, string(gun)) {
		t.Error("a name is in the metrics")
	}
	if err := w.table.db.Close(); err != nil {
		t.Fatal(err)
	}
	if code, _ := get("GET", "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz within ten seconds = %d: the table is asked each time", code)
	}
	ready("without a table", 503, `{"table":"not usable"}`)
	w.Drain()
	ready("about to stop", 503, `{"draining":"about to stop"}`)
}
