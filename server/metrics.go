package server

import (
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/tuf"
)

// counters are what this server counts beside what the stock one does. No
// label has a value that a requester chooses (attacks.md L9).
type counters struct {
	took      *metrics.Histogram
	published *metrics.Counter
	refused   *metrics.Counter
	limited   *metrics.Counter
	signed    *metrics.Counter
	renewed   *metrics.Counter
	cache     *metrics.Counter
}

// Published returns how many uploads this process has made current.
func (s *Server) Published() int64 { return s.counters.published.Total() }

func newCounters() counters {
	var names []string
	for op := range operations {
		names = append(names, op.String())
	}
	reasons := []string{"DENIED"}
	for _, c := range []api.Code{
		api.NoFilename, api.InvalidRole, api.MalformedJSON, api.Updating, api.Version, api.MetadataNotFound, api.InvalidUpdate, api.MalformedUpload,
		api.NoCryptoService, api.NoKeyAlgorithm, api.InvalidGUN, api.InvalidParameters, api.Unauthorized, api.TooLarge, api.TooMany, api.Unavailable, api.ReadOnly, api.NeedsOperator, api.Unknown,
	} {
		reasons = append(reasons, string(c))
	}
	outcomes := metrics.Label{Name: "outcome", Values: []string{"done", "failed"}}
	return counters{
		took:      metrics.NewHistogram(metrics.Label{Name: "operation", Values: names}),
		published: metrics.NewCounter(),
		refused:   metrics.NewCounter(metrics.Label{Name: "reason", Values: reasons}),
		limited:   metrics.NewCounter(metrics.Label{Name: "limit", Values: []string{limitRequests, limitChanges, limitRepository, limitUploads}}),
		signed:    metrics.NewCounter(metrics.Label{Name: "role", Values: []string{string(tuf.RoleSnapshot), string(tuf.RoleTimestamp)}}, outcomes),
		renewed:   metrics.NewCounter(outcomes),
		cache:     metrics.NewCounter(metrics.Label{Name: "outcome", Values: []string{"hit", "miss"}}),
	}
}

func outcome(err error) string {
	if err != nil {
		return "failed"
	}
	return "done"
}

// writeCounters adds them, and what is in memory at the moment, to the page.
func (s *Server) writeCounters(p *metrics.Page) {
	c := &s.counters
	p.Histogram("iechor_server_request_duration_seconds", "Time from the header of a request to its answer.", c.took)
	p.Counter("iechor_server_publishes_total", "Uploads that were accepted.", c.published)
	p.Counter("iechor_server_refusals_total", "Requests that were refused, by the code of the answer.", c.refused)
	p.Counter("iechor_server_limited_total", "Requests that were told to wait, by the limit that they met.", c.limited)
	p.Counter("iechor_server_signatures_total", "Signatures that the signer was asked for.", c.signed)
	p.Counter("iechor_server_renewals_total", "Repositories whose timestamp or snapshot was renewed ahead of time, and those that could not be.", c.renewed)
	p.Counter("iechor_server_cache_reads_total", "Files by hash that were in memory, and those that were not.", c.cache)
	bytes, files := s.blobs.holds()
	p.Gauge("iechor_server_cache_bytes", "Bytes of files in memory.", float64(bytes))
	p.Gauge("iechor_server_cache_files", "Files in memory.", float64(files))
	p.Gauge("iechor_server_uploading_bytes", "Bytes of uploads in memory.", float64(s.uploading.Load()))
	if s.c.Metrics != nil {
		s.c.Metrics(p)
	}
}

// observe counts a request that was answered.
func (s *Server) observe(op operation, method string, status int, took time.Duration) {
	s.metrics.add(op, method, status, took)
	s.counters.took.Observe(op.String(), took)
}
