package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/metrics/metricstest"
	"github.com/iechor/trust/traces/tracestest"
)

// monitorAt returns where p serves health and metrics.
func monitorAt(p *process) string {
	p.t.Helper()
	for line := range strings.Lines(p.log.String()) {
		var l struct {
			At string `json:"metrics_listen"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.At != "" {
			return "http://" + l.At
		}
	}
	p.t.Fatalf("no address of metrics is logged\n%s", &p.log)
	return ""
}

// fetch returns status and body of what is at url.
func fetch(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// appendTo adds lines to a file of the site.
func (s *site) appendTo(t testing.TB, name, text string) {
	t.Helper()
	raw, err := os.ReadFile(s.file(name))
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.file(name), string(raw)+s.expand(text))
}

// Told to stop, server and signer say first that they are not ready, and go on
// answering for a while.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	settings := "metrics-listen: 127.0.0.1:0\ndrain-delay: 10h\ntraces: {endpoint: '" + tracestest.New(t).URL + "'}\n"
	s.configureSigner(t, settings)
	s.appendTo(t, "server.yaml", settings)
	signer, server := s.startSigner(t), s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	plain := &http.Client{Timeout: patience}
	for _, one := range []*process{server, signer} {
		at := monitorAt(one)
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := fetch(t, plain, at+path); status != http.StatusOK {
				t.Errorf("%s = %d %s", path, status, body)
			}
		}
		if err := one.cmd.Process.Signal(stopSignal); err != nil {
			t.Fatal(err)
		}
		one.logs("not ready any more")
		if status, body := fetch(t, plain, at+"/readyz"); status != http.StatusServiceUnavailable || strings.TrimSpace(body) != `{"draining":"about to stop"}` {
			t.Errorf("/readyz of what is about to stop = %d %s", status, body)
		}
		if status, body := fetch(t, plain, at+"/healthz"); status != http.StatusOK {
			t.Errorf("/healthz of what is about to stop = %d %s", status, body)
		}
	}
	// Both still work, and are watched meanwhile.
	if err := p.publish(t.Context(), server, "second"); err != nil {
		t.Error(err)
	}
	p.has(server, "first", "second")
	var all string
	for one, series := range map[*process]string{
		server: `iechor_server_publishes_total`, signer: `iechor_signer_requests_total{path="/v1/sign-both",code="200"}`,
	} {
		_, page := fetch(t, plain, monitorAt(one)+"/metrics")
		got := metricstest.Parse(t, page)
		all += page
		if got[series] < 2 {
			t.Errorf("%s = %v\n%s", series, got[series], page)
		}
		for _, common := range []string{
			`iechor_build_info{version="` + version() + `",go="` + runtime.Version() + `"}`, `iechor_database_connections{state="idle"}`,
			"iechor_database_waits_total", "iechor_database_wait_seconds_total", "iechor_database_retries_total", "iechor_database_failures_total",
		} {
			if _, ok := got[common]; !ok {
				t.Errorf("metrics lack %s\n%s", common, page)
			}
		}
	}
	checkAlerts(t, "\n"+all)
	named := namesOfMetrics(readFile(t, filepath.Join("..", "..", "doc", "operating.md")))
	var made []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(all, -1) {
		made = append(made, m[1])
	}
	slices.Sort(named)
	slices.Sort(made)
	if d := cmp.Diff(slices.Compact(made), named); d != "" {
		t.Errorf("metrics (-made +documented):\n%s", d)
	}
	if status, _ := fetch(t, s.client, "https://"+server.addr+"/metrics"); status != http.StatusNotFound {
		t.Errorf("/metrics beside trust data = %d, want 404", status)
	}
}

// What a container's health check runs.
func TestHealthCommand(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.configureSigner(t, "metrics-listen: 127.0.0.1:0\n")
	signer, server := s.startSigner(t), start(t, "server", "--config", s.file("server.yaml"), "--metrics-listen", "127.0.0.1:0")
	ask := func(status int, want string, args ...string) {
		t.Helper()
		got, out, errs := runProcess(t, nil, append([]string{"health"}, args...)...)
		if got != status || !strings.Contains(out+errs, want) {
			t.Errorf("health %v = %d %s%s, want %d and %q", args, got, out, errs, status, want)
		}
	}
	at := strings.TrimPrefix(monitorAt(server), "http://")
	ask(exitFailed, "metrics-listen is not set", "--config", s.file("server.yaml"))
	ask(exitFailed, "read the configuration", "--config", s.file("none"))
	ask(0, "well", "--config", s.file("server.yaml"), "--metrics-listen", at)
	ask(0, "well", "--ready", "--metrics-listen", at)
	ask(0, "well", "--ready", "--config", s.file("signer.yaml"), "--metrics-listen", strings.Replace(monitorAt(signer), "http://127.0.0.1", "", 1))
	server.kill()
	ask(exitFailed, "nobody answers", "--metrics-listen", at)
	signer.kill()
	// Where the file alone says it.
	if got, err := monitorOf(s.file("signer.yaml"), func(c any) error { return readConfig(s.file("signer.yaml"), c) }); err != nil || got != "127.0.0.1:0" {
		t.Errorf("monitorOf = %s, %v", got, err)
	}
	// Alive, but of no use: its signer is gone.
	lonely := start(t, "server", "--config", s.file("server.yaml"), "--metrics-listen", "127.0.0.1:0")
	at = strings.TrimPrefix(monitorAt(lonely), "http://")
	ask(0, "well", "--metrics-listen", at)
	ask(exitFailed, "Trust operational", "--metrics-listen", at, "--ready")
}

func TestDraining(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	told := make(chan bool, 1)
	late, release := draining(ctx, time.Millisecond, slog.New(slog.DiscardHandler), func() { told <- true })
	defer release()
	if late.Err() != nil || len(told) != 0 {
		t.Fatalf("before the stop: %v, told %d", late.Err(), len(told))
	}
	stop()
	<-late.Done()
	if len(told) != 1 {
		t.Error("ended without telling first")
	}
	late, release = draining(t.Context(), time.Hour, slog.New(slog.DiscardHandler), func() {})
	release()
	if late.Err() == nil {
		t.Error("goes on after release")
	}
}

// SIGHUP ends neither server nor signer: certificates, authorities and the log
// level are read again.
func TestHangup(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	signer, server := s.startSigner(t), s.startServer(t)
	hup := func(p *process) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	hup(signer)
	signer.logs(`"msg":"certificate reloaded"`)
	signer.logs(`"msg":"client authorities reloaded"`)
	signer.logs(`"msg":"log level reloaded","level":"INFO"`)
	if strings.Contains(signer.log.String(), "need a restart") {
		t.Errorf("settings that have not changed need a restart:\n%s", &signer.log)
	}
	// What cannot be taken up is named.
	const restart = `"level":"WARN","msg":"settings have changed that need a restart","settings":`
	s.appendTo(t, "server.yaml", "idle: 70d\nlimit: {uploads: 7}\n")
	hup(server)
	server.logs(restart + `["idle","limit.uploads"]`)
	write(t, s.file("signer.yaml"), strings.Replace(readFile(t, s.file("signer.yaml")), "[operate, forget]", "[operate]", 1)+"audit-retention: 70d\n")
	hup(signer)
	signer.logs(restart + `["identities","audit-retention"]`)
	for name, p := range map[string]*process{"signer.yaml": signer, "server.yaml": server} {
		s.appendTo(t, name, "log-level: loud\n")
		hup(p)
		p.logs(`"msg":"log level not reloaded"`)
		raw, err := os.ReadFile(s.file(name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, s.file(name), strings.Replace(string(raw), "loud", "error", 1))
		hup(p)
		p.logs(`"msg":"log level reloaded","level":"ERROR"`)
	}
	server.logs(`"msg":"certificate reloaded"`)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(server.log.String(), `"msg":"published"`) {
		t.Errorf("logged below its level:\n%s", &server.log)
	}
	// An authority that is withdrawn no longer vouches for callers that connect.
	other := newAuthority(t, t.TempDir(), "other")
	raw, err := os.ReadFile(other.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.file("signer.yaml"), strings.Replace(readFile(t, s.file("signer.yaml")), "log-level: error", "log-level: debug", 1))
	late := s.dial(t, s.ca, s.caller)
	if err := late.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	late.Close()
	write(t, s.ca.file, string(raw))
	hup(signer)
	signer.logs(`"msg":"log level reloaded","level":"DEBUG"`)
	fresh := s.dial(t, s.ca, s.caller)
	if err := fresh.Ping(t.Context()); err == nil {
		t.Error("an authority that was withdrawn still vouches for callers")
	}
	server.stop()
	signer.stop()
}

// namesOfMetrics returns the metrics that a text names. Endings of histograms
// are left out.
func namesOfMetrics(text string) (all []string) {
	for _, name := range regexp.MustCompile(`\b(?:iechor|notary)_(?:server|signer|database|traces|build)_[a-z0-9_]+`).FindAllString(text, -1) {
		for _, end := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, end)
		}
		if name != "notary_server_health" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
