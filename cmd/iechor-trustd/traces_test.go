package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/traces/tracestest"
	"github.com/iechor/trust/tuf"
)

// A request goes from the server to the signer and to both databases as one
// trace, and under one id through both logs and the audit log.
func TestTraces(t *testing.T) {
	t.Parallel()
	c := tracestest.New(t)
	s := newSite(t)
	write(t, s.file("headers"), "Authorization: Bearer secret-of-the-collector\n")
	settings := "log-level: debug\ntraces: {endpoint: '" + c.URL + "', headers: 'file:DIR/headers'}\n"
	s.configureSigner(t, settings)
	s.appendTo(t, "server.yaml", settings+"proxies: [127.0.0.1]\n")
	signer, server := s.startSigner(t), s.startServer(t)
	const gun = tuf.GUN("registry.example/app")
	ask := func(id, parent string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+server.addr+api.Route{Kind: api.Key, GUN: gun, Role: tuf.RoleTimestamp}.Path(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(traces.IDHeader, id)
		r.Header.Set(traces.ParentHeader, parent)
		answer, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("GET key = %s", answer.Status)
		}
		return answer.Header.Get(traces.IDHeader)
	}
	trace, above := strings.Repeat("1f", 16), strings.Repeat("2e", 8)
	if got := ask("ticket-4711", "00-"+trace+"-"+above+"-01"); got != "ticket-4711" {
		t.Errorf("the answer has the id %q", got)
	}
	ask("quiet", "00-"+strings.Repeat("3d", 16)+"-"+above+"-00")
	server.stop() // sends what is left
	signer.stop()

	// Each span, by its name and the one above it.
	names := map[string]string{above: "proxy"}
	var of []tracestest.Span
	for _, b := range c.Batches() {
		if b.Header.Get("Authorization") != "Bearer secret-of-the-collector" {
			t.Errorf("a batch came with %v", b.Header)
		}
		for _, one := range b.Spans {
			switch fmt.Sprintf("%x", one.TraceId) {
			case trace:
				of = append(of, one)
				names[fmt.Sprintf("%x", one.SpanId)] = fmt.Sprint(b.Resource["service.name"], " ", one.Name)
			case strings.Repeat("3d", 16):
				t.Errorf("%s is sent, and its caller said not to", one.Name)
			}
		}
	}
	got := map[string]int{}
	for _, one := range of {
		got[names[fmt.Sprintf("%x", one.ParentSpanId)]+" > "+names[fmt.Sprintf("%x", one.SpanId)]]++
	}
	for _, want := range []string{
		"proxy > iechor-trust-server GetKey",
		"iechor-trust-server GetKey > iechor-trust-server database view",
		"iechor-trust-server GetKey > iechor-trust-server signer /v1/create-key",
		"iechor-trust-server signer /v1/create-key > iechor-signer /v1/create-key",
		"iechor-signer /v1/create-key > iechor-signer database update",
	} {
		if got[want] == 0 {
			t.Errorf("no span %q in %v", want, got)
		}
	}
	for _, one := range of {
		if one.Name == "GetKey" && (one.Noted["iechor.gun"] != string(gun) || one.Noted["iechor.request"] != "ticket-4711" || one.Noted["http.response.status_code"] != int64(200)) {
			t.Errorf("noted about the request: %v", one.Noted)
		}
		if one.Name == "database update" && one.Noted["db.system.name"] != "sqlite" {
			t.Errorf("noted about the transaction: %v", one.Noted)
		}
	}
	for _, p := range []*process{server, signer} {
		if !strings.Contains(p.log.String(), `"request":"ticket-4711","trace":"`+trace+`"}`) || strings.Contains(p.log.String(), "secret-of-the-collector") {
			t.Errorf("the log lacks the ids, or has a secret:\n%s", &p.log)
		}
	}
	status, out, _ := runProcess(t, nil, "audit", "--config", s.file("signer.yaml"), "--gun", string(gun), "--json")
	var entry struct{ Event, Request string }
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &entry); status != 0 || err != nil || entry.Event != "created" || entry.Request != "ticket-4711" {
		t.Errorf("audit = %d %s", status, out)
	}
	if status, out, _ := runProcess(t, nil, "audit", "--config", s.file("signer.yaml"), "--gun", string(gun)); status != 0 || !strings.Contains(out, "request ticket-4711") {
		t.Errorf("audit = %d %s", status, out)
	}
}

// A stranger does not decide what is sent to the collector, and a collector that
// is away is nobody's trouble.
func TestTracesOfStrangers(t *testing.T) {
	t.Parallel()
	c := tracestest.New(t)
	s := newSite(t)
	s.configureSigner(t, "traces: {endpoint: 'http://127.0.0.1:1'}\n")
	s.appendTo(t, "server.yaml", "traces: {endpoint: '"+c.URL+"'}\n")
	signer, server := s.startSigner(t), s.startServer(t)
	trace := strings.Repeat("1f", 16)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+server.addr+"/_notary_server/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(traces.ParentHeader, "00-"+trace+"-"+strings.Repeat("2e", 8)+"-01")
	answer, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("health = %s, %v", answer.Status, err)
	}
	signer.logs("traces cannot be sent")
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(context.WithoutCancel(t.Context()), server, "first"); err != nil {
		t.Error(err)
	}
	server.stop()
	signer.stop()
	found := false
	for _, one := range c.Spans() {
		found = found || one.Name == "Health"
		if fmt.Sprintf("%x", one.TraceId) == trace || len(one.ParentSpanId) > 0 && one.Name == "Health" {
			t.Errorf("%s is of the stranger's trace", one.Name)
		}
	}
	if !found {
		t.Error("the request is in no trace")
	}
}

func TestHeaderLines(t *testing.T) {
	t.Parallel()
	h, err := headerLines("Authorization: Bearer x\nX-Team:  a b \n")
	if err != nil || h.Get("Authorization") != "Bearer x" || h.Get("X-Team") != "a b" || len(h) != 2 {
		t.Errorf("headerLines = %v, %v", h, err)
	}
	for _, bad := range []string{"", "\n", "Bearer SECRET", "Bad Name: SECRET", ": SECRET", "A: b\n\nSECRET"} {
		if h, err := headerLines(bad); err == nil && len(h) == 0 || err != nil && strings.Contains(err.Error(), "SECRET") || err == nil && strings.Contains(bad, "\n\n") && len(h) > 1 {
			t.Errorf("headerLines of %q = %v, %v", bad, h, err)
		}
	}
}
