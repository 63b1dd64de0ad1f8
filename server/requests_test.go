package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics/metricstest"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

var anID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// A request has one id, in its answer and in every line of the log about it.
func TestRequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	newPublisher(t, w, app).init(t)
	if r := w.get(current(app, tuf.RoleTimestamp), traces.IDHeader, "build-17.deploy_3"); r.Header().Get(traces.IDHeader) != "build-17.deploy_3" {
		t.Errorf("the answer has the id %q", r.Header().Get(traces.IDHeader))
	}
	if r := w.get("/nothing//here"); !anID.MatchString(r.Header().Get(traces.IDHeader)) {
		t.Errorf("the answer to no route has the id %q", r.Header().Get(traces.IDHeader))
	}
	w.keys.onSign(func(api.SignRequest) error { return errSigner })
	w.clock.pass(4 * 24 * time.Hour)
	r := w.get(current(app, tuf.RoleTimestamp), traces.IDHeader, "ticket-4711")
	e := api.ReadError(r.Result())
	if r.Code != http.StatusInternalServerError || e.RequestID() != "ticket-4711" || r.Header().Get(traces.IDHeader) != "ticket-4711" {
		t.Errorf("the answer is %d, %v with the id %q in the body and %q in the header", r.Code, e, e.RequestID(), r.Header().Get(traces.IDHeader))
	}
	w.keys.onSign(nil)
	if !regexp.MustCompile(`level=ERROR msg="request not answered" .*err=.*unreachable.* request=ticket-4711\n`).MatchString(w.log.String()) {
		t.Errorf("the log lacks the id:\n%s", w.log)
	}
	for line := range strings.Lines(w.log.String()) {
		if !strings.Contains(line, " request=") {
			t.Errorf("a line about a request lacks its id: %s", line)
		}
	}
}

// attacks.md L9: an id that a requester offers is a plain word, or replaced: it
// stands in logs, and is shown to operators.
func TestAttackRequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, bad := range []string{
		"", " ", "a b", "a\nlevel=ERROR", "a\"b", "\x1b[31m", "ä", "../../etc", "a,b", "-rf", "%0a", "<b>", strings.Repeat("a", 65),
	} {
		r := w.get("/_notary_server/health", traces.IDHeader, bad)
		if got := r.Header().Get(traces.IDHeader); !anID.MatchString(got) {
			t.Errorf("id %q became %q", bad, got)
		}
	}
	if r := w.get("/_notary_server/health", traces.IDHeader, "one", traces.IDHeader, "two"); !anID.MatchString(r.Header().Get(traces.IDHeader)) {
		t.Errorf("two ids became %q", r.Header()[traces.IDHeader])
	}
	long := strings.Repeat("a", 64)
	if r := w.get("/_notary_server/health", traces.IDHeader, long); r.Header().Get(traces.IDHeader) != long {
		t.Errorf("an id of 64 letters became %q", r.Header().Get(traces.IDHeader))
	}
}

// named lets everybody through, and believes the name that a header gives.
type named struct{}

func (named) Authorize(r *http.Request, _ Access) (Grant, error) {
	if r.Header.Get("Name") == "wrong" {
		return Grant{}, api.NewError(api.Unauthorized, nil)
	}
	return Grant{Who: r.Header.Get("Name")}, nil
}

// attacks.md L6, S7: a client that asks without end is told to wait, and
// others are not concerned. Who a client is cannot be made up.
func TestAttackFlood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Auth, c.Proxies = named{}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Rates = Rates{Requests: 2, Changes: 1}
	})
	const burst = 2 * api.MeterBurst
	path := current(app, tuf.RoleTimestamp)
	ask := func(from string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.RemoteAddr = from
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		return rec
	}
	for name, one := range map[string]struct {
		same, other func(i int) *httptest.ResponseRecorder
	}{
		"address": {
			func(i int) *httptest.ResponseRecorder { return ask(fmt.Sprintf("192.0.2.1:%d", i+1)) },
			func(int) *httptest.ResponseRecorder { return ask("192.0.2.2:1") },
		},
		"network of IPv6": {
			func(i int) *httptest.ResponseRecorder { return ask(fmt.Sprintf("[2001:db8::%x]:1", i+1)) },
			func(int) *httptest.ResponseRecorder { return ask("[2001:db8:0:1::1]:1") },
		},
		"name": {
			func(i int) *httptest.ResponseRecorder {
				return ask(fmt.Sprintf("198.51.100.%d:1", i+1), "Name", "alice")
			},
			func(int) *httptest.ResponseRecorder { return ask("198.51.100.1:1", "Name", "bob") },
		},
		"claims of a stranger": {
			func(i int) *httptest.ResponseRecorder {
				return ask("203.0.113.1:1", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i+10))
			},
			func(int) *httptest.ResponseRecorder { return ask("203.0.113.2:1", "X-Forwarded-For", "203.0.113.1") },
		},
		"behind a proxy": {
			func(i int) *httptest.ResponseRecorder {
				return ask("10.0.0.1:1", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d, 203.0.113.7", i+10))
			},
			func(int) *httptest.ResponseRecorder { return ask("10.0.0.1:1", "X-Forwarded-For", "203.0.113.8") },
		},
		"failed logins": {
			func(int) *httptest.ResponseRecorder { return ask("203.0.113.9:1", "Name", "wrong") },
			func(int) *httptest.ResponseRecorder { return ask("203.0.113.9:1", "Name", "carol") },
		},
	} {
		for i := range burst {
			if r := one.same(i); r.Code == http.StatusTooManyRequests {
				t.Fatalf("%s: request %d is refused: %s", name, i, r.Body)
			}
		}
		r := one.same(burst)
		if r.Code != http.StatusTooManyRequests || r.Header().Get("Retry-After") != "1" {
			t.Errorf("%s: one more = %d, Retry-After %q, want 429 and 1", name, r.Code, r.Header().Get("Retry-After"))
		}
		if r := one.other(0); r.Code == http.StatusTooManyRequests {
			t.Errorf("%s: another client is refused", name)
		}
	}
	if r := w.get("/_notary_server/health"); r.Code != http.StatusOK {
		t.Errorf("health = %d", r.Code)
	}
	w.clock.pass(time.Second)
	if r := ask("192.0.2.1:1"); r.Code == http.StatusTooManyRequests {
		t.Error("a second later the client is still refused")
	}
	got := metricstest.Parse(t, w.get("/metrics").Body.String())
	if n := got[`iechor_server_limited_total{limit="requests"}`]; n != 6 {
		t.Errorf("metrics count %v refusals, want 6", n)
	}
	if n := got[`iechor_server_refusals_total{reason="TOOMANYREQUESTS"}`]; n != 6 {
		t.Errorf("metrics count %v refusals by reason, want 6", n)
	}
}

// attacks.md S7: nobody makes a server work for changes without end, neither
// one client for many repositories nor many for one. Reading goes on.
func TestAttackFloodOfChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Auth, c.Rates = named{}, Rates{Changes: 2, RepositoryChanges: 1}
	})
	ask := func(who string, n int) int {
		return w.do(http.MethodDelete, repository(tuf.GUN(fmt.Sprintf("registry.example/app%d", n))), nil, "Name", who).Code
	}
	for i := range api.MeterBurst {
		if code := ask(fmt.Sprint("user", i), 0); code != http.StatusOK {
			t.Fatalf("change %d = %d", i, code)
		}
	}
	if code := ask("user", 0); code != http.StatusTooManyRequests {
		t.Errorf("one more of the repository = %d, want 429", code)
	}
	for i := range 2 * api.MeterBurst {
		if code := ask("alice", i+1); code != http.StatusOK {
			t.Fatalf("change %d of alice = %d", i, code)
		}
	}
	if code := ask("alice", 99); code != http.StatusTooManyRequests {
		t.Errorf("one more of alice = %d, want 429", code)
	}
	if code := w.get(current(app, tuf.RoleTimestamp), "Name", "alice").Code; code != http.StatusNotFound {
		t.Errorf("reading = %d, want 404", code)
	}
	got := metricstest.Parse(t, w.get("/metrics").Body.String())
	if a, b := got[`iechor_server_limited_total{limit="changes"}`], got[`iechor_server_limited_total{limit="repository-changes"}`]; a != 1 || b != 1 {
		t.Errorf("metrics count %v and %v refusals, want 1 and 1", a, b)
	}
}

// attacks.md L6: uploads that are under way are bounded, however little of
// them has come; one that ends makes room.
func TestAttackUploadsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Limits.Uploads = 1 })
	p := newPublisher(t, w, app)
	files := p.first(t, false)
	done, err := w.limits.upload() // a slow one
	if err != nil {
		t.Fatal(err)
	}
	if e := w.upload(t, app, files...); e == nil || e.Code != api.TooMany {
		t.Errorf("an upload beside as many as may be = %v, want %s", e, api.TooMany)
	}
	done()
	if e := w.upload(t, app, files...); e != nil {
		t.Errorf("upload = %v", e)
	}
	got := metricstest.Parse(t, w.get("/metrics").Body.String())
	if n := got[`iechor_server_limited_total{limit="uploads"}`]; n != 1 {
		t.Errorf("metrics count %v refusals, want 1", n)
	}
}
