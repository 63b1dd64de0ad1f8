package traces

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/iechor/trust/traces/tracestest"
)

// newTracer makes a Tracer of the collector; stop ends it, and returns when
// everything is sent.
func newTracer(t testing.TB, c Config) (_ *Tracer, stop func()) {
	t.Helper()
	tracer, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { tracer.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return tracer, stop
}

// A request that goes through two processes is one trace: its spans stand below
// each other, with what was noted about them.
func TestSpans(t *testing.T) {
	t.Parallel()
	c := tracestest.New(t)
	header := http.Header{"Authorization": {"Bearer x"}}
	first, stopFirst := newTracer(t, Config{Endpoint: c.URL, Service: "server", Version: "1", Instance: "a", Header: func() (http.Header, error) { return header.Clone(), nil }})
	second, stopSecond := newTracer(t, Config{Endpoint: c.URL + "/v1/traces", Service: "signer"})

	ctx, id := Receive(t.Context(), http.Header{IDHeader: {"ticket-1"}})
	ctx, request := first.Begin(ctx, Server, "request", "")
	request.Text("text", "bad \xff, "+strings.Repeat("long", 100))
	request.Number("number", -7)
	inner, call := Start(ctx, Client, "call")
	travels := http.Header{}
	Forward(inner, travels)
	there, thereID := Receive(t.Context(), travels)
	there, answer := second.Begin(there, Server, "answer", travels.Get(ParentHeader))
	_, query := Start(there, Client, "query")
	query.End(errors.New("secret"))
	answer.Status(503)
	answer.End(nil)
	call.End(nil)
	request.Status(200)
	request.End(nil)
	stopFirst()
	stopSecond()

	if id != "ticket-1" || thereID != id {
		t.Errorf("ids %q and %q, want both ticket-1", id, thereID)
	}
	got := map[string]tracestest.Span{}
	for _, s := range c.Spans() {
		got[s.Name] = s
	}
	if len(got) != 4 {
		t.Fatalf("spans %v, want four", got)
	}
	above := map[string]string{"request": "", "call": "request", "answer": "call", "query": "answer"}
	for name, s := range got {
		if string(s.TraceId) != string(got["request"].TraceId) || len(s.TraceId) != 16 || len(s.SpanId) != 8 {
			t.Errorf("%s is of trace %x, want %x", name, s.TraceId, got["request"].TraceId)
		}
		want := []byte(nil)
		if a := above[name]; a != "" {
			want = got[a].SpanId
		}
		if string(s.ParentSpanId) != string(want) {
			t.Errorf("%s stands below %x, want %x (%s)", name, s.ParentSpanId, want, above[name])
		}
		if s.StartTimeUnixNano == 0 || s.EndTimeUnixNano < s.StartTimeUnixNano || s.Flags&1 != 1 {
			t.Errorf("%s is from %d to %d with flags %x", name, s.StartTimeUnixNano, s.EndTimeUnixNano, s.Flags)
		}
		kind, failed := trace.Span_SPAN_KIND_SERVER, name == "query" || name == "answer"
		if name == "call" || name == "query" {
			kind = trace.Span_SPAN_KIND_CLIENT
		}
		if s.Kind != kind || (s.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR) != failed || s.GetStatus().GetMessage() != "" {
			t.Errorf("%s is %v with status %v", name, s.Kind, s.Status)
		}
	}
	noted := got["request"].Noted
	text, _ := noted["text"].(string)
	if len(text) > maxText+len("\uFFFD") || !strings.HasPrefix(text, "bad \uFFFD, long") || noted["number"] != int64(-7) || noted["http.response.status_code"] != int64(200) {
		t.Errorf("noted: %v", noted)
	}
	of := map[string]bool{}
	for _, b := range c.Batches() {
		for key, text := range b.Resource {
			of[fmt.Sprint(key, "=", text)] = true
		}
		if isFirst := b.Resource["service.name"] == "server"; isFirst != (b.Header.Get("Authorization") == "Bearer x") || b.Spans[0].Noted["scope"] != "github.com/iechor/trust" {
			t.Errorf("headers %v, scope %v", b.Header, b.Spans[0].Noted["scope"])
		}
	}
	for _, want := range []string{"service.name=server", "service.version=1", "service.instance.id=a", "service.name=signer"} {
		if !of[want] {
			t.Errorf("resources %v lack %s", of, want)
		}
	}
	if sent, lost := first.Counts(); sent != 2 || lost != 0 {
		t.Errorf("%d spans sent and %d lost, want 2 and 0", sent, lost)
	}
}

// Without a tracer nothing is made, and everything can be called. (Allocations
// are counted, so nothing runs beside.)
func TestOff(t *testing.T) {
	var none *Tracer
	ctx, s := none.Begin(t.Context(), Server, "x", "00-"+strings.Repeat("1", 32)+"-"+strings.Repeat("2", 16)+"-01")
	if ctx != t.Context() || s != nil {
		t.Error("a nil Tracer makes spans")
	}
	s.Text("a", "b")
	s.Number("a", 1)
	s.Status(500)
	s.End(nil)
	if below, s := Start(ctx, Client, "y"); below != ctx || s != nil {
		t.Error("a part of what is not traced has a span")
	}
	h := http.Header{}
	Forward(ctx, h)
	if len(h) > 0 {
		t.Errorf("headers %v", h)
	}
	none.Run(t.Context())
	if n := testing.AllocsPerRun(100, func() {
		_, s := none.Begin(ctx, Server, "x", "")
		s.Text("a", "b")
		s.End(nil)
	}); n > 0 {
		t.Errorf("%v allocations for nothing", n)
	}
}

// The caller decides whether a trace is sent; what it says is taken only as W3C
// has it.
func TestParent(t *testing.T) {
	t.Parallel()
	tracer, err := New(Config{Endpoint: "http://collector.example"})
	if err != nil {
		t.Fatal(err)
	}
	id, above := strings.Repeat("1f", 16), strings.Repeat("2e", 8)
	for _, tt := range []struct {
		parent        string
		taken, sample bool
	}{
		{"00-" + id + "-" + above + "-01", true, true},
		{"00-" + id + "-" + above + "-03", true, true},
		{"00-" + id + "-" + above + "-00", true, false},
		{"", false, true},
		{"01-" + id + "-" + above + "-01", false, true},
		{"00-" + strings.ToUpper(id) + "-" + above + "-01", false, true},
		{"00-" + strings.Repeat("0", 32) + "-" + above + "-01", false, true},
		{"00-" + id + "-" + strings.Repeat("0", 16) + "-01", false, true},
		{"00-" + id + "-" + above + "-0g", false, true},
		{"00-" + id + "-" + above + "-01-more", false, true},
		{"00-" + id + above + "---01", false, true},
		{strings.Repeat("-", 55), false, true},
		{strings.Repeat("a", 1<<20), false, true},
	} {
		_, s := tracer.Begin(t.Context(), Server, "x", tt.parent)
		if taken := hex.EncodeToString(s.trace[:]) == id && hex.EncodeToString(s.above[:]) == above; taken != tt.taken || s.sampled != tt.sample {
			t.Errorf("parent %.60q: taken %v, sent %v, want %v and %v", tt.parent, taken, s.sampled, tt.taken, tt.sample)
		}
		if !tt.taken && (s.above != [8]byte{} || s.trace == [16]byte{}) {
			t.Errorf("parent %.60q: half of it is taken: %x %x", tt.parent, s.trace, s.above)
		}
	}
}

// What is not sampled tells the next process so, and costs no spans there.
func TestOneIn(t *testing.T) {
	t.Parallel()
	tracer, err := New(Config{Endpoint: "http://collector.example", OneIn: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	ctx, s := tracer.Begin(t.Context(), Server, "x", "")
	if _, part := Start(ctx, Client, "y"); part != nil {
		t.Error("a part of what is not sent has a span")
	}
	h := http.Header{}
	Forward(ctx, h)
	s.Text("a", "b")
	s.End(nil)
	if !strings.HasSuffix(h.Get(ParentHeader), "-00") || len(tracer.queue) > 0 || s.set != nil {
		t.Errorf("traceparent %q, %d spans wait", h.Get(ParentHeader), len(tracer.queue))
	}
}

// A roundTripper answers without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A collector that is away neither holds up a request nor fills memory: what
// does not fit is lost and counted, the log says so once, and once that it works
// again.
func TestAttackCollectorAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		tracer, err := New(Config{Endpoint: "http://collector.example", Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		var away, tries = true, 0
		tracer.http.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
			tries++
			if away {
				return nil, errors.New("nobody there")
			}
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { tracer.Run(ctx) })
		const many = 3 * queueSize
		for i := range many {
			_, s := tracer.Begin(ctx, Server, fmt.Sprint(i), "")
			s.End(nil)
		}
		synctest.Wait()
		if n := len(tracer.queue); n > queueSize {
			t.Fatalf("%d spans wait", n)
		}
		gap := 10 * lastLimit
		for range 60 { // until everything that waited was given up
			wait(gap)
		}
		sent, lost := tracer.Counts()
		if sent != 0 || lost != many || tries < sendTries || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("%d sent, %d lost of %d, after %d tries\n%s", sent, lost, many, tries, &log)
		}
		away = false
		_, s := tracer.Begin(ctx, Server, "again", "")
		s.End(nil)
		wait(gap)
		if sent, _ := tracer.Counts(); sent != 1 || !strings.Contains(log.String(), "traces are sent again") {
			t.Errorf("%d sent\n%s", sent, &log)
		}
		_, s = tracer.Begin(ctx, Server, "last", "")
		s.End(nil)
		cancel()
		running.Wait()
		if sent, _ := tracer.Counts(); sent != 2 {
			t.Errorf("%d sent, want what was left at the end as well", sent)
		}
	})
}

// What is being sent when the process is told to stop arrives, and what waits
// for another try gets it; a collector that does not answer holds nobody up.
func TestStopWhileSending(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		answers    []time.Duration // how long each try takes; 0: it fails at once
		stop, ends time.Duration   // when it is told to, and when it does
		sent       int64
	}{
		{"under way", []time.Duration{time.Second}, defaultGap + time.Second/2, defaultGap + time.Second, 1},
		{"between tries", []time.Duration{0, time.Second}, defaultGap + time.Second/2, defaultGap + 3*time.Second/2, 1},
		{"no answer", []time.Duration{time.Hour}, defaultGap + time.Second/2, defaultGap + time.Second/2 + lastLimit, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			tracer, err := New(Config{Endpoint: "http://collector.example"})
			if err != nil {
				t.Fatal(err)
			}
			answers := tt.answers
			tracer.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				after := answers[0]
				if answers = answers[1:]; after == 0 {
					return nil, errors.New("nobody there")
				}
				select {
				case <-time.After(after):
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(tt.stop, cancel)
			_, s := tracer.Begin(ctx, Server, "x", "")
			s.End(nil)
			begin := time.Now()
			tracer.Run(ctx)
			if sent, lost := tracer.Counts(); time.Since(begin) != tt.ends || sent != tt.sent || lost != 1-tt.sent {
				t.Errorf("%s: %d sent and %d lost in %s, want %d sent in %s", tt.name, sent, lost, time.Since(begin), tt.sent, tt.ends)
			}
		})
	}
}

// What a collector refuses for good is not sent again; what it has no room for is.
func TestRefused(t *testing.T) {
	t.Parallel()
	for status, tries := range map[int]int{400: 1, 401: 1, 302: 1, 500: 1, 429: sendTries, 502: sendTries, 503: sendTries, 504: sendTries} {
		synctest.Test(t, func(t *testing.T) {
			tracer, err := New(Config{Endpoint: "http://collector.example"})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			tracer.http.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
				n++
				return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"99999"}, "Location": {"http://thief.example"}}, Body: http.NoBody}, nil
			})
			tracer.send(t.Context(), t.Context(), []*Span{{}})
			if _, lost := tracer.Counts(); n != tries || lost != 1 {
				t.Errorf("status %d: %d tries, %d lost, want %d and 1", status, n, lost, tries)
			}
		})
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "collector:4318", "ftp://x", "http://", "https://u:p@x", "https://x?y", "https://x#y", "\x00"} {
		if _, err := New(Config{Endpoint: bad}); err == nil || !strings.Contains(err.Error(), "is not the address of a collector") {
			t.Errorf("New of %q = %v", bad, err)
		}
	}
	for endpoint, want := range map[string]string{"http://x:4318": "http://x:4318/v1/traces", "https://x/": "https://x/v1/traces", "https://x/otlp": "https://x/otlp"} {
		if tracer, err := New(Config{Endpoint: endpoint}); err != nil || tracer.url != want {
			t.Errorf("New of %q = %v, want %s", endpoint, err, want)
		}
	}
}

// Lines that are logged with the context of a request bear its id, and that of
// its trace, also from loggers that have more of their own.
func TestHandler(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	log := slog.New(Handler(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	tracer, err := New(Config{Endpoint: "http://collector.example"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, id := Receive(t.Context(), nil)
	log.InfoContext(t.Context(), "none")
	log.With("a", 1).InfoContext(ctx, "id")
	ctx, s := tracer.Begin(ctx, Server, "x", "")
	log.WithGroup("g").InfoContext(ctx, "both", "a", 1)
	want := "level=INFO msg=none\nlevel=INFO msg=id a=1 request=" + id + "\nlevel=INFO msg=both g.a=1 g.request=" + id + " g.trace=" + hex.EncodeToString(s.trace[:]) + "\n"
	if b.String() != want {
		t.Errorf("log:\n%swant\n%s", b.String(), want)
	}
}

// wait lets the bubble's clock go on.
func wait(d time.Duration) { <-time.After(d) }
