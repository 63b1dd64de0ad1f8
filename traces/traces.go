// Package traces follows one request through the processes that work on it: by
// an id that every line of their logs bears, and, where a collector is
// configured, by spans for OpenTelemetry.
//
// [Receive] gives a request its id, [Handler] puts it into log lines. A
// [Tracer] makes and sends spans: [Tracer.Begin] where a request comes in,
// [Start] for a part of it, [Forward] where it goes on to another process.
//
// It is no client library of OpenTelemetry: spans are sent as protobuf over
// HTTP (OTLP 1), by a queue that loses spans rather than hold up a request or
// fill memory. A nil *Tracer and a nil *Span are of use everywhere, and cost
// nothing.
//
// Read traces.go, then span.go, otlp.go (the bytes), send.go.
package traces

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
)

// The headers in which a request's id and its place in a trace travel.
const (
	IDHeader     = "X-Request-Id"
	ParentHeader = "Traceparent"
)

// maxID bounds an id, in bytes.
const maxID = 64

// An idKey is where a context has the id, a spanKey where it has the span.
type (
	idKey   struct{}
	spanKey struct{}
)

// Receive returns ctx with the id of the request: the one that its header
// offers, if that is a plain word, and else a new one.
func Receive(ctx context.Context, h http.Header) (_ context.Context, id string) {
	if offered := h[IDHeader]; len(offered) == 1 && plain(offered[0]) {
		id = offered[0]
	} else {
		id = randomHex(8)
	}
	return context.WithValue(ctx, idKey{}, id), id
}

// ID returns the id of the request that ctx belongs to, or "".
func ID(ctx context.Context) string {
	id, _ := ctx.Value(idKey{}).(string)
	return id
}

// plain reports whether a text can stand in logs, headers and sentences as it
// is.
func plain(id string) bool {
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && (c == '-' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return id != "" && len(id) <= maxID
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Forward tells the process that a request goes on to of its id and its place
// in the trace.
func Forward(ctx context.Context, h http.Header) {
	if id := ID(ctx); id != "" {
		h.Set(IDHeader, id)
	}
	if s := spanOf(ctx); s != nil {
		h.Set(ParentHeader, s.parent())
	}
}

// Handler returns h such that each line that is logged with the context of a
// request bears its id, as "request", and that of its trace, if it is sent, as
// "trace".
func Handler(h slog.Handler) slog.Handler { return handler{h} }

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := ID(ctx); id != "" {
		r.AddAttrs(slog.String("request", id))
	}
	if s := spanOf(ctx); s != nil && s.sampled {
		r.AddAttrs(slog.String("trace", hex.EncodeToString(s.trace[:])))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(a []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(a)} }
func (h handler) WithGroup(name string) slog.Handler   { return handler{h.Handler.WithGroup(name)} }
