// Package tracestest is a collector for tests of what package traces sends.
package tracestest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A Collector takes spans as a real one does, and reads them with
// OpenTelemetry's own types. What it cannot read it refuses, and fails the test.
type Collector struct {
	URL string

	t       testing.TB
	mu      sync.Mutex
	batches []Batch // guarded by mu
}

// A Batch is what came in one request.
type Batch struct {
	Header   http.Header
	Resource map[string]any
	Spans    []Span
}

// A Span is one span, with what was noted about it.
type Span struct {
	*trace.Span
	Noted map[string]any
}

// New starts a Collector that ends with the test.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{t: t}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.URL = s.URL
	return c
}

// ServeHTTP takes spans.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var data trace.TracesData // has the fields of an ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf" ||
		proto.Unmarshal(raw, &data) != nil || len(data.ProtoReflect().GetUnknown()) > 0 {
		c.t.Errorf("the collector got %s %s of %s, %d bytes that it cannot read", r.Method, r.URL.Path, r.Header.Get("Content-Type"), len(raw))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range data.ResourceSpans {
		b := Batch{Header: r.Header, Resource: map[string]any{}}
		for _, a := range rs.Resource.Attributes {
			b.Resource[a.Key] = a.Value.GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				one := Span{s, map[string]any{"scope": ss.Scope.Name}}
				for _, a := range s.Attributes {
					if one.Noted[a.Key] = a.Value.GetIntValue(); a.Value.GetStringValue() != "" {
						one.Noted[a.Key] = a.Value.GetStringValue()
					}
				}
				b.Spans = append(b.Spans, one)
			}
		}
		c.batches = append(c.batches, b)
	}
}

// Batches returns what has come.
func (c *Collector) Batches() []Batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Batch(nil), c.batches...)
}

// Spans returns all spans that have come.
func (c *Collector) Spans() (all []Span) {
	for _, b := range c.Batches() {
		all = append(all, b.Spans...)
	}
	return all
}
