package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/storage"
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
	answerFaults(w, s.look(r.Context()))
}

// serveReady answers likewise, and also 503 while the server is about to stop.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		answerFaults(w, map[string]string{"draining": "about to stop"})
		return
	}
	s.serveHealth(w, r)
}

// Drain makes the server say that it is not ready, so that nobody sends it new
// requests. It goes on answering them.
func (s *Server) Drain() { s.draining.Store(true) }

// Monitor serves health and metrics, and nothing else, to whoever reaches it:
// for an address that only those who watch the service can reach.
func (s *Server) Monitor() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, err := api.ParsePath(r.URL.EscapedPath())
		if err != nil || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		switch route.Kind {
		case api.Live:
			answerFaults(w, nil)
		case api.Ready:
			s.serveReady(w, r)
		case api.Health:
			s.serveHealth(w, r)
		case api.Metrics:
			s.serveMetrics(w, s.forecast(r.Context()))
		default:
			http.NotFound(w, r)
		}
	})
}

func answerFaults(w http.ResponseWriter, faults map[string]string) {
	if faults == nil {
		faults = map[string]string{}
	}
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
	var store, keys error
	var asked sync.WaitGroup // both at once, or one that is silent would take the other's time
	asked.Go(func() { store = s.c.Store.Ping(ctx) })
	asked.Go(func() { keys = s.c.Keys.Ping(ctx) })
	asked.Wait()
	faults := map[string]string{}
	for name, err := range map[string]error{"DB operational": store, "Trust operational": keys} {
		if err != nil {
			s.c.Log.ErrorContext(ctx, "health check", "check", name, "err", err)
			faults[name] = "not reachable"
		}
	}
	s.health.at, s.health.faults = now, faults
	return faults
}

// methods are those of requests that are looked at.
var methods = [...]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodHead, http.MethodDelete}

// stock counts requests as the stock server does, without a lock that all of them would meet at.
// Labels come from fixed sets (attacks.md L9).
type stock struct {
	count [operations][len(methods)][maxStatus - minStatus]atomic.Int64
	spent [operations]atomic.Int64 // nanoseconds
}

// The statuses that HTTP has.
const (
	minStatus = 100
	maxStatus = 600
)

// add counts a request that was answered.
func (m *stock) add(op operation, method string, status int, took time.Duration) {
	i := slices.Index(methods[:], method)
	if i < 0 || status < minStatus || status >= maxStatus {
		return // net/http lets nobody answer so
	}
	m.count[op][i][status-minStatus].Add(1)
	m.spent[op].Add(int64(max(took, 0)))
}

// forecasts remembers when what is stored expires, because anybody may ask and
// to sum it up costs a look at every current file.
type forecasts struct {
	mu   sync.Mutex
	at   time.Time // guarded by mu
	text string    // guarded by mu
}

const forecastEvery = time.Minute

// forecast returns the metrics of expiry. Labels are kinds of roles, of which
// there are five (attacks.md L9).
func (s *Server) forecast(ctx context.Context) string {
	s.forecasts.mu.Lock()
	defer s.forecasts.mu.Unlock()
	now := s.c.Now()
	if s.forecasts.text != "" && now.Sub(s.forecasts.at) < forecastEvery {
		return s.forecasts.text
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	all, err := s.c.Store.Forecast(ctx, now, s.seenSince(now))
	if err != nil {
		s.c.Log.ErrorContext(ctx, "sum up what expires", "err", err)
		return s.forecasts.text // of the last time
	}
	var b strings.Builder
	metric := func(name, what string, value func(storage.Forecast) (int64, bool)) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %[1]s gauge\n", name, what)
		for _, f := range all {
			if v, ok := value(f); ok {
				fmt.Fprintf(&b, "%s{role=%q} %d\n", name, f.Kind, v)
			}
		}
	}
	metric("iechor_server_files", "Current files of all repositories.", func(f storage.Forecast) (int64, bool) { return f.Files, true })
	metric("iechor_server_files_expired", "Current files that have expired, but for what is renewed when somebody asks for it.", func(f storage.Forecast) (int64, bool) { return f.Expired, true })
	metric("iechor_server_files_expiring_30d", "Current files that expire within 30 days, or have.", func(f storage.Forecast) (int64, bool) { return f.Days30, true })
	metric("iechor_server_files_expiring_90d", "Current files that expire within 90 days, or have.", func(f storage.Forecast) (int64, bool) { return f.Days90, true })
	metric("iechor_server_next_expiry_seconds", "Unix time at which the next current file expires.", func(f storage.Forecast) (int64, bool) {
		return f.First.Unix(), !f.First.IsZero()
	})
	s.forecasts.at, s.forecasts.text = now, b.String()
	return s.forecasts.text
}

// serveMetrics writes the counters in the text format of Prometheus, under
// the names of the stock server, when what is stored expires, and our own.
func (s *Server) serveMetrics(w http.ResponseWriter, forecast string) {
	var requests, durations []string
	for op := range operations {
		total := int64(0)
		for i, method := range methods {
			for status := minStatus; status < maxStatus; status++ {
				n := s.metrics.count[op][i][status-minStatus].Load()
				if n == 0 {
					continue
				}
				total += n
				requests = append(requests, fmt.Sprintf("notary_server_http_requests_total{code=\"%d\",method=\"%s\",operation=\"%s\"} %d\n",
					status, strings.ToLower(method), op, n))
			}
		}
		if total > 0 {
			durations = append(durations, fmt.Sprintf("notary_server_http_request_duration_microseconds_sum{operation=\"%[1]s\"} %[2]d\n"+
				"notary_server_http_request_duration_microseconds_count{operation=\"%[1]s\"} %[3]d\n",
				op, time.Duration(s.metrics.spent[op].Load()).Microseconds(), total))
		}
	}
	slices.Sort(requests)
	slices.Sort(durations)
	body := "# TYPE notary_server_http_requests_total counter\n" + strings.Join(requests, "") +
		"# TYPE notary_server_http_request_duration_microseconds summary\n" + strings.Join(durations, "") + forecast
	var p metrics.Page
	p.Append(body)
	s.writeCounters(&p)
	w.Header().Set("Content-Type", metrics.ContentType)
	_, _ = w.Write([]byte(p.String())) // the peer is gone if this fails
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
