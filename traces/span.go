package traces

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Kind says on which side of a call a span is.
type Kind int

// The kinds, numbered as OTLP does.
const (
	Internal Kind = 1
	Server   Kind = 2
	Client   Kind = 3
)

// A Span is a part of what happens to one request. It belongs to one
// goroutine until it ends.
type Span struct {
	tracer     *Tracer
	trace      [16]byte
	id, above  [8]byte // above: of the span that this one is a part of; zeros: none
	sampled    bool    // whether it is sent
	kind       Kind
	name       string
	begin, end time.Time
	set        []attribute
	failed     bool
}

// An attribute has a text or, if number is true, a number.
type attribute struct {
	key, text string
	n         int64
	number    bool
}

// Bounds of one span.
const (
	maxAttributes = 16
	maxText       = 256
)

// Begin begins the span of a request that has come in. parent is the header
// in which its caller says which trace it is a part of, and whether that is
// sent; empty, malformed, or not to be believed (pass "" then): a new trace. On
// a nil Tracer it returns ctx and nil.
func (t *Tracer) Begin(ctx context.Context, kind Kind, name, parent string) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	s := &Span{tracer: t, kind: kind, name: name, begin: time.Now()}
	_, _ = rand.Read(s.id[:]) // never fails
	if !s.below(parent) {
		_, _ = rand.Read(s.trace[:])
		s.sampled = t.sample()
	}
	return context.WithValue(ctx, spanKey{}, s), s
}

// Start begins a span that is a part of what ctx belongs to. Where that is
// nothing, or is not sent, it returns ctx and nil.
func Start(ctx context.Context, kind Kind, name string) (context.Context, *Span) {
	above := spanOf(ctx)
	if above == nil || !above.sampled {
		return ctx, nil
	}
	s := &Span{tracer: above.tracer, kind: kind, name: name, begin: time.Now(), trace: above.trace, above: above.id, sampled: true}
	_, _ = rand.Read(s.id[:]) // never fails
	return context.WithValue(ctx, spanKey{}, s), s
}

func spanOf(ctx context.Context) *Span {
	s, _ := ctx.Value(spanKey{}).(*Span)
	return s
}

// below makes s a part of what a traceparent header names (W3C Trace Context,
// version 00).
func (s *Span) below(parent string) bool {
	parts := strings.Split(parent, "-")
	if len(parent) != 55 || len(parts) != 4 || parts[0] != "00" || strings.ToLower(parent) != parent {
		return false
	}
	var flags [1]byte
	for i, to := range [][]byte{s.trace[:], s.above[:], flags[:]} {
		err := hex.ErrLength
		if len(parts[i+1]) == 2*len(to) {
			_, err = hex.Decode(to, []byte(parts[i+1]))
		}
		if err != nil {
			s.trace, s.above = [16]byte{}, [8]byte{}
			return false
		}
	}
	if s.trace == [16]byte{} || s.above == [8]byte{} {
		s.trace, s.above = [16]byte{}, [8]byte{}
		return false
	}
	s.sampled = flags[0]&1 == 1
	return true
}

// parent is the traceparent header for what s calls.
func (s *Span) parent() string {
	flags := "-00"
	if s.sampled {
		flags = "-01"
	}
	return "00-" + hex.EncodeToString(s.trace[:]) + "-" + hex.EncodeToString(s.id[:]) + flags
}

// Text notes something about s. What is not UTF-8 is replaced, what is long is cut.
func (s *Span) Text(key, text string) {
	if s == nil || !s.sampled {
		return
	}
	if len(text) > maxText {
		text = text[:maxText]
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	s.note(attribute{key: key, text: text})
}

// Number notes something about s.
func (s *Span) Number(key string, n int64) {
	if s != nil && s.sampled {
		s.note(attribute{key: key, n: n, number: true})
	}
}

func (s *Span) note(a attribute) {
	if len(s.set) < maxAttributes {
		s.set = append(s.set, a)
	}
}

// Status notes how a request was answered. From 500 on s has failed.
func (s *Span) Status(code int) {
	s.Number("http.response.status_code", int64(code))
	if s != nil && code >= 500 {
		s.failed = true
		s.Text("error.type", strconv.Itoa(code))
	}
}

// End ends s, which must not be used after that. An error says that it has
// failed; which error, is for the log: errors name what is not for a collector.
func (s *Span) End(err error) {
	if s == nil || !s.sampled {
		return
	}
	s.failed = s.failed || err != nil
	s.end = time.Now()
	s.tracer.put(s)
}
