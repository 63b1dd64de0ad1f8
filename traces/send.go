package traces

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Config says where spans go.
type Config struct {
	// Endpoint is the collector's address: http(s)://HOST:PORT, to which
	// /v1/traces is added, or with a path, which is taken as it is.
	Endpoint string
	// Roots vouch for it; nil: the system's authorities.
	Roots *x509.CertPool
	// Header returns what is sent with each batch beside; nil: nothing. It is
	// called each time, so that secrets can be renewed.
	Header func() (http.Header, error)
	// OneIn is of how many traces that begin here one is sent, 1 if 0.
	OneIn int64
	// Service and Version name what sends; Instance which of several.
	Service, Version, Instance string
	Log                        *slog.Logger // nil: no log
}

// A Tracer makes spans and sends them while [Tracer.Run] runs. It is safe for
// concurrent use.
type Tracer struct {
	c        Config
	url      string
	http     *http.Client
	resource []attribute
	queue    chan *Span

	sent, dropped atomic.Int64

	// Of Run.
	failing bool
}

// Bounds: what is in memory is a full queue and one batch.
const (
	queueSize  = 2048
	batchSize  = 512
	maxReply   = 64 << 10
	sendLimit  = 10 * time.Second
	lastLimit  = 5 * time.Second // for what is left at the end
	sendTries  = 5
	defaultGap = 2 * time.Second
)

// New makes a Tracer. It does not connect.
func New(c Config) (*Tracer, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the address of a collector, such as https://collector.example:4318", c.Endpoint)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	if c.OneIn < 0 {
		return nil, errors.New("one in less than none cannot be sent")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tracer{c: c, url: u.String(), queue: make(chan *Span, queueSize), http: &http.Client{
		Transport: &http.Transport{
			// No proxy: what the environment says is not for this connection.
			DialContext:            (&net.Dialer{Timeout: sendLimit}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
			TLSHandshakeTimeout:    sendLimit,
			MaxIdleConns:           1,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 16 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for _, a := range []attribute{
		{key: "service.name", text: c.Service}, {key: "service.version", text: c.Version}, {key: "service.instance.id", text: c.Instance},
	} {
		if a.text != "" {
			t.resource = append(t.resource, a)
		}
	}
	return t, nil
}

// sample decides about a trace that begins here.
func (t *Tracer) sample() bool { return t.c.OneIn <= 1 || rand.N(t.c.OneIn) == 0 }

// Counts returns how many spans were sent and how many were lost, since New.
func (t *Tracer) Counts() (sent, dropped int64) { return t.sent.Load(), t.dropped.Load() }

// put hands a span over, and loses it where the queue is full.
func (t *Tracer) put(s *Span) {
	select {
	case t.queue <- s:
	default:
		t.dropped.Add(1)
	}
}

// Run sends spans until ctx ends, and then what is left, for at most five
// seconds. It is called once; on a nil Tracer it returns at once.
func (t *Tracer) Run(ctx context.Context) {
	if t == nil {
		return
	}
	// What is on its way when ctx ends may arrive.
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		defer cancel()
		end := time.NewTimer(lastLimit)
		defer end.Stop()
		select {
		case <-end.C:
		case <-sending.Done():
		}
	})()
	gap := time.NewTicker(defaultGap)
	defer gap.Stop()
	defer t.http.CloseIdleConnections()
	var batch []*Span
	for {
		select {
		case s := <-t.queue:
			if batch = append(batch, s); len(batch) < batchSize {
				continue
			}
		case <-gap.C:
		case <-ctx.Done():
			t.flush(ctx, sending, batch)
			return
		}
		if len(batch) > 0 {
			t.send(ctx, sending, batch)
			clear(batch)
			batch = batch[:0]
		}
	}
}

// flush sends batch and what is in the queue, as far as that goes at once.
func (t *Tracer) flush(ctx, sending context.Context, batch []*Span) {
	for {
		select {
		case s := <-t.queue:
			batch = append(batch, s)
			continue
		default:
		}
		break
	}
	for ; len(batch) > batchSize; batch = batch[batchSize:] {
		t.send(ctx, sending, batch[:batchSize])
	}
	if len(batch) > 0 {
		t.send(ctx, sending, batch)
	}
}

// send sends a batch before sending ends, a few times where that may help; once
// ctx has ended, only once more. What comes meanwhile waits in the queue, or is
// lost.
func (t *Tracer) send(ctx, sending context.Context, batch []*Span) {
	body := encode(t.resource, "github.com/iechor/trust", batch)
	for try := 1; ; try++ {
		last := try == sendTries || ctx.Err() != nil
		wait, again, err := t.once(sending, body)
		if err == nil {
			t.sent.Add(int64(len(batch)))
			if t.failing {
				t.failing = false
				t.c.Log.Info("traces are sent again")
			}
			return
		}
		if !t.failing && sending.Err() == nil {
			t.failing = true
			t.c.Log.Warn("traces cannot be sent; requests are answered all the same", "collector", t.url, "err", err)
		}
		if !again || last || sending.Err() != nil {
			break
		}
		pause := time.NewTimer(max(wait, time.Second<<(try-1)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
	t.dropped.Add(int64(len(batch)))
}

// once sends a batch; again says whether it may be tried once more, after a
// wait.
func (t *Tracer) once(ctx context.Context, body []byte) (wait time.Duration, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return 0, false, err
	}
	if t.c.Header != nil {
		if r.Header, err = t.c.Header(); err != nil {
			return 0, true, err
		}
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("User-Agent", "iechor-trustd/"+t.c.Version)
	answer, err := t.http.Do(r)
	if err != nil {
		return 0, true, err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxReply)) // so that the connection can be used again
	if answer.StatusCode/100 == 2 {
		return 0, false, nil
	}
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // 0: it says nothing
		wait, again = time.Duration(min(max(seconds, 0), 60))*time.Second, true
	}
	return wait, again, fmt.Errorf("the collector answers %d", answer.StatusCode)
}
