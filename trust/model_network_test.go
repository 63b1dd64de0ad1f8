package trust_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/iechor/trust/api"
)

// A letter is a request under way.
type letter struct {
	method, path string
	header       http.Header
	body         []byte
	deed         *deed // that it belongs to; nil: none
}

// deliver has an instance answer a request, and restarts it if it died.
func (w *world) deliver(ctx context.Context, n *instance, l letter) (*http.Response, error) {
	n.busy++
	req := httptest.NewRequestWithContext(ctx, l.method, l.path, bytes.NewReader(l.body))
	req.Header = l.header.Clone()
	rec := httptest.NewRecorder()
	n.ServeHTTP(rec, req)
	n.busy--
	if n.dead {
		if n.busy == 0 {
			n.restart()
		}
		return nil, io.ErrUnexpectedEOF
	}
	return rec.Result(), nil
}

// A wire is the network of one machine.
type wire struct{ m *machine }

// RoundTrip implements [http.RoundTripper].
func (n wire) RoundTrip(r *http.Request) (*http.Response, error) {
	m := n.m
	w := m.w
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		w.must(err)
	}
	l := letter{r.Method, r.URL.RequestURI(), r.Header.Clone(), body, m.deed}
	if m.evil != nil && r.Method == http.MethodGet {
		status, raw := m.evil(r.URL.Path)
		rec := httptest.NewRecorder()
		rec.WriteHeader(status)
		_, _ = rec.Write(raw)
		return rec.Result(), nil
	}
	m.requests++
	kind := ""
	if m.fault.at == m.requests && !w.calm {
		kind = m.fault.kind
	}
	switch kind {
	case "lost":
		return nil, io.EOF
	case "late":
		w.delayed = append(w.delayed, l)
		return nil, os.ErrDeadlineExceeded
	case "behind others":
		w.arrive()
	case "portal":
		rec := httptest.NewRecorder()
		_, _ = rec.WriteString("<html>log in to the hotel</html>")
		return rec.Result(), nil
	case "busy":
		rec := httptest.NewRecorder()
		rec.WriteHeader(http.StatusServiceUnavailable)
		return rec.Result(), nil
	case "within":
		w.within(m.fault.rnd)
	}
	at := w.free(m.rnd)
	if w.via != nil && w.via.busy == 1 && r.Method != http.MethodGet {
		at = w.via
	}
	if at == nil {
		return nil, io.EOF
	}
	res, err := w.deliver(r.Context(), at, l)
	switch kind {
	case "answer lost":
		return nil, io.ErrUnexpectedEOF
	case "twice":
		if again := w.free(m.rnd); again != nil {
			m.doubled = true
			_, _ = w.deliver(r.Context(), again, l) // nobody waits for that answer
		}
	case "within after":
		w.within(m.fault.rnd)
	}
	return res, err
}

var networkFaults = []string{"lost", "answer lost", "answer lost", "late", "behind others", "twice", "portal", "busy", "within", "within", "within after"}

// free chooses an instance that can answer.
func (w *world) free(rnd *rand.Rand) *instance {
	i := 0
	if rnd != nil {
		i = rnd.IntN(len(w.instances))
	}
	for range w.instances {
		if w.instances[i].busy == 0 {
			return w.instances[i]
		}
		i = (i + 1) % len(w.instances)
	}
	return nil
}

// arrive delivers what was late.
func (w *world) arrive() {
	late := w.delayed
	w.delayed = nil
	for _, l := range late {
		at := w.free(nil)
		if at == nil {
			continue
		}
		// Nobody waits for the answer. An upload comes too late where somebody
		// else has published, but not where the store was set back; a deletion
		// is for whatever there is.
		route, err := api.ParsePath(l.path)
		w.must(err)
		if l.deed == nil || route.Kind != api.Repository {
			_, _ = w.deliver(context.Background(), at, l)
			continue
		}
		d := w.oracle.begin(route.GUN, l.deed.what, l.deed.sets, l.deed.clears...)
		res, err := w.deliver(context.Background(), at, l)
		ok := err == nil && res.StatusCode == http.StatusOK
		w.oracle.done(d, ok && l.method == http.MethodDelete, err == nil && !ok && res.StatusCode < http.StatusInternalServerError)
	}
}
