package signer

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// readiness remembers the last look at the table, because each costs a round
// trip and whoever reaches the monitor may ask.
type readiness struct {
	mu      sync.Mutex
	at      time.Time // guarded by mu
	trouble bool      // guarded by mu
}

const (
	lookEvery = 10 * time.Second
	lookLimit = 5 * time.Second
)

// Drain makes the service say that it is not ready, so that nobody calls it
// anew. It goes on answering.
func (s *Service) Drain() { s.draining.Store(true) }

// Monitor serves health and metrics, and nothing else, to whoever reaches it: for an address that
// only those who watch the service can reach. [Service.Handler] answers nobody
// who is not listed, so it is of no use to them.
func (s *Service) Monitor() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, struct{}{}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.draining.Load():
			write(w, http.StatusServiceUnavailable, map[string]string{"draining": "about to stop"})
		case s.unable(r.Context()):
			write(w, http.StatusServiceUnavailable, map[string]string{"table": "not usable"})
		default:
			write(w, http.StatusOK, struct{}{})
		}
	})
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	return mux
}

// unable reports whether the table or its keys cannot be used. Why is for the
// log.
func (s *Service) unable(ctx context.Context) bool {
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	now := s.now()
	if !s.ready.at.IsZero() && now.Sub(s.ready.at) < lookEvery {
		return s.ready.trouble
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
	defer cancel()
	err := s.Ping(ctx)
	if err != nil {
		s.log.ErrorContext(ctx, "not ready", "err", err)
	}
	s.ready.at, s.ready.trouble = now, err != nil
	return s.ready.trouble
}
