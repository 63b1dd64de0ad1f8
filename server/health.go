package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// health remembers the last look at the store and the signer, because
// anybody may ask and each look costs a round trip.
type health struct {
	mu     sync.Mutex
	at     time.Time         // guarded by mu
	faults map[string]string // guarded by mu
}

const healthEvery = 10 * time.Second

// serveHealth answers 200 and {}, or 503 and what does not work. Why it does
// not is for the log.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	faults := s.look(r.Context())
	body, err := json.Marshal(faults)
	if err != nil {
		body = []byte("{}") // a map of strings always encodes
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if len(faults) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body) // the peer is gone if this fails
}

func (s *Server) look(ctx context.Context) map[string]string {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	now := s.c.Now()
	if s.health.faults != nil && now.Sub(s.health.at) < healthEvery {
		return s.health.faults
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	faults := map[string]string{}
	for name, ping := range map[string]func(context.Context) error{"DB operational": s.c.Store.Ping, "Trust operational": s.c.Keys.Ping} {
		if err := ping(ctx); err != nil {
			s.c.Log.Error("health check", "check", name, "err", err)
			faults[name] = "not reachable"
		}
	}
	s.health.at, s.health.faults = now, faults
	return faults
}

// metrics count requests. Labels come from fixed sets (attacks.md L9).
type metrics struct {
	mu    sync.Mutex
	count map[metric]int64         // guarded by mu
	spent map[operation]*operating // guarded by mu
}

type metric struct {
	op     operation
	method string
	status int
}

type operating struct {
	n     int64
	total time.Duration
}

func newMetrics() *metrics {
	return &metrics{count: map[metric]int64{}, spent: map[operation]*operating{}}
}

// add counts a request that was answered.
func (m *metrics) add(op operation, method string, status int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count[metric{op, method, status}]++
	o := m.spent[op]
	if o == nil {
		o = &operating{}
		m.spent[op] = o
	}
	o.n++
	o.total += took
}

// serveMetrics writes the counters in the text format of Prometheus, under
// the names of the stock server.
func (s *Server) serveMetrics(w http.ResponseWriter) {
	var b strings.Builder
	m := s.metrics
	m.mu.Lock()
	b.WriteString("# TYPE notary_server_http_requests_total counter\n")
	keys := slices.SortedFunc(maps.Keys(m.count), func(a, b metric) int {
		return strings.Compare(fmt.Sprint(a.op, a.method, a.status), fmt.Sprint(b.op, b.method, b.status))
	})
	for _, k := range keys {
		fmt.Fprintf(&b, "notary_server_http_requests_total{code=\"%d\",method=\"%s\",operation=\"%s\"} %d\n", k.status, strings.ToLower(k.method), k.op, m.count[k])
	}
	b.WriteString("# TYPE notary_server_http_request_duration_microseconds summary\n")
	for _, op := range slices.Sorted(maps.Keys(m.spent)) {
		o := m.spent[op]
		fmt.Fprintf(&b, "notary_server_http_request_duration_microseconds_sum{operation=\"%s\"} %d\n", op, o.total.Microseconds())
		fmt.Fprintf(&b, "notary_server_http_request_duration_microseconds_count{operation=\"%s\"} %d\n", op, o.n)
	}
	m.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(b.String())) // the peer is gone if this fails
}

// A statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController and MaxBytesReader reach the real writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
