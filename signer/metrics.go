package signer

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/tuf"
)

// counters are what the signer counts, for [Service.Monitor]. No label has a
// value that a caller chooses (attacks.md L9).
type counters struct {
	calls  *metrics.Counter
	took   *metrics.Histogram
	signed *metrics.Counter
	made   *metrics.Counter
}

func newCounters() counters {
	paths := append(slices.Sorted(maps.Keys(calls())), "unknown")
	var statuses []string
	for _, s := range []int{http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict,
		http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInternalServerError} {
		statuses = append(statuses, strconv.Itoa(s))
	}
	path := metrics.Label{Name: "path", Values: paths}
	return counters{
		calls:  metrics.NewCounter(path, metrics.Label{Name: "code", Values: statuses}),
		took:   metrics.NewHistogram(path),
		signed: metrics.NewCounter(metrics.Label{Name: "role", Values: []string{string(tuf.RoleSnapshot), string(tuf.RoleTimestamp)}}),
		made:   metrics.NewCounter(),
	}
}

// observe counts a call that was answered.
func (c *counters) observe(path string, status int, took time.Duration) {
	c.calls.Add(path, strconv.Itoa(status))
	c.took.Observe(path, took)
}

func (s *Service) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	var p metrics.Page
	p.Counter("iechor_signer_requests_total", "Calls by path and status: 403 is a stranger, 409 a floor, 422 a broken rule, 429 too often.", s.counters.calls)
	p.Histogram("iechor_signer_request_duration_seconds", "Time of a call.", s.counters.took)
	p.Counter("iechor_signer_signatures_total", "Signatures that were made, or given again.", s.counters.signed)
	p.Counter("iechor_signer_keys_created_total", "Keys that were made.", s.counters.made)
	if s.metrics != nil {
		s.metrics(&p)
	}
	w.Header().Set("Content-Type", metrics.ContentType)
	_, _ = w.Write([]byte(p.String())) // the peer is gone if this fails
}
