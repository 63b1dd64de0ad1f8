package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/metrics/metricstest"
	"github.com/iechor/trust/tuf"
)

// A scrape is what pages of metrics said at a moment, by instance and series.
type scrape map[string]map[string]float64

// look scrapes running processes, by the name of their instances.
func look(t testing.TB, all map[string]*process) scrape {
	t.Helper()
	s := scrape{}
	for instance, p := range all {
		_, page := fetch(t, &http.Client{Timeout: patience}, monitorAt(p)+"/metrics")
		s[instance] = metricstest.Parse(t, page)
	}
	return s
}

// An era is a part of a run: from what was scraped at its begin to its end is
// what happens each minute, for a number of minutes. With a nil begin the
// processes were started in between.
type era struct {
	begin, end scrape
	minutes    int
}

// A promtoolTest is one test of "promtool test rules".
type promtoolTest struct {
	Name        string              `yaml:"name"`
	Interval    string              `yaml:"interval"`
	InputSeries []map[string]string `yaml:"input_series"`
	Queries     []promtoolQuery     `yaml:"promql_expr_test"`
}

type promtoolQuery struct {
	Expr     string           `yaml:"expr"`
	EvalTime string           `yaml:"eval_time"`
	Samples  []promtoolSample `yaml:"exp_samples"`
}

type promtoolSample struct {
	Labels string  `yaml:"labels"`
	Value  float64 `yaml:"value"`
}

// play makes series of eras that follow each other, a sample a minute.
func play(eras ...era) (series []map[string]string) {
	for _, instance := range slices.Sorted(maps.Keys(eras[0].end)) {
		for _, name := range slices.Sorted(maps.Keys(eras[0].end[instance])) {
			var values []string
			for _, e := range eras {
				begin, end := 0.0, e.end[instance][name]
				if e.begin != nil {
					begin = e.begin[instance][name]
				}
				step := end - begin
				if !isCounter(name) {
					begin, step = end, 0
				}
				for range e.minutes {
					values = append(values, strconv.FormatFloat(begin, 'f', -1, 64))
					begin += step
				}
			}
			label := fmt.Sprintf(`instance=%q,job="iechor"`, instance)
			if head, rest, ok := strings.Cut(name, "{"); ok {
				name = head + "{" + label + "," + rest
			} else {
				name += "{" + label + "}"
			}
			series = append(series, map[string]string{"series": name, "values": strings.Join(values, " ")})
		}
	}
	return series
}

func isCounter(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	for _, end := range []string{"_total", "_bucket", "_sum", "_count"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// quick says whether no reader waited for a second.
func quick(e era) bool {
	for series, n := range e.end["server"] {
		if strings.HasPrefix(series, `iechor_server_request_duration_seconds_count{operation="GetRole`) {
			in := strings.Replace(strings.Replace(series, "_count{", "_bucket{", 1), "}", `,le="1"}`, 1)
			if e.end["server"][in]-e.begin["server"][in] != n-e.begin["server"][series] {
				return false
			}
		}
	}
	return len(e.end) > 0
}

// firing is a query that says whether an alert fires.
func firing(at, alert string, want bool) promtoolQuery {
	q := promtoolQuery{Expr: fmt.Sprintf(`group(ALERTS{alertname=%q,alertstate="firing"})`, alert), EvalTime: at, Samples: []promtoolSample{}}
	if want {
		q.Samples = []promtoolSample{{"{}", 1}}
	}
	return q
}

// panels returns the queries of the dashboard by the titles of their panels,
// as Grafana would ask them.
func panels(t testing.TB) map[string][]string {
	t.Helper()
	var board struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(deployFile(t, "dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		if all[p.Title] != nil || len(p.Targets) == 0 {
			t.Errorf("panel %q is there twice, or asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("panel %q: %s", p.Title, expr)
			}
			all[p.Title] = append(all[p.Title], expr)
		}
	}
	return all
}

// cut takes an address away, and ends what goes through it.
func (r *relay) cut(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r.lead(nobody)
	r.drop()
}

// Each alert fires over what running services count when they fail, and none
// over what they count when all is well; each query of the dashboard then has
// data. What is counted in a run is repeated every minute of Prometheus's
// virtual time.
func TestAlertsAndPanels(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("promtool"); err != nil {
		lacks(t, "promtool", "prometheus")
		t.SkipNow()
	}
	port, _ := databasetest.StartPostgreSQL(t, nil, "fsync=off")
	database := newRelay(t)
	database.lead("127.0.0.1:" + port)
	s := newSiteOn(t, "postgres://postgres@"+database.l.Addr().String()+"/postgres?pool=8", "sqlite:DIR/signer/signer.db")
	s.configureSigner(t, "metrics-listen: 127.0.0.1:0\n")
	serve := func(more ...string) *process {
		return start(t, append([]string{"server", "--config", s.file("server.yaml"), "--metrics-listen", "127.0.0.1:0"}, more...)...)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("accepted")
		}
	}

	// All is well.
	signer, server := s.startSigner(t), serve()
	both := map[string]*process{"server": server, "signer": signer}
	p := newPublisher(t, s, "registry.example/app")
	must(p.init(t.Context(), server, "first"))
	tags := []string{"first"}
	var well era
	for ok := false; !ok; ok = quick(well) { // a busy machine may keep readers waiting
		begin := look(t, both)
		tags = append(tags, fmt.Sprintf("tag-%d", len(tags)))
		must(p.publish(t.Context(), server, tags[len(tags)-1]))
		p.has(server, tags...)
		newPublisher(t, s, "registry.example/app").has(server, tags...)
		well = era{begin, look(t, both), 60}
	}

	// Readers wait: somebody holds the server's tables.
	direct := databasetest.Open(t, "postgres://postgres@127.0.0.1:"+port+"/postgres")
	tx, err := direct.SQL().BeginTx(t.Context(), nil)
	must(err)
	_, err = tx.ExecContext(t.Context(), "LOCK TABLE files, blobs, roles, repositories, counters IN ACCESS EXCLUSIVE MODE")
	must(err)
	read := make(chan error, 1)
	begin := look(t, both)
	go func() {
		_, err := p.clone().update(context.WithoutCancel(t.Context()), server)
		read <- err
	}()
	select {
	case err := <-read:
		t.Errorf("reads do not wait: %v", err)
	case <-time.After(1500 * time.Millisecond): // what is to be seen is a wait
		_ = tx.Rollback() // it only locks
		<-read            // late, or, on a busy machine, too late
	}
	slow := era{begin, look(t, both), 120}

	// Somebody who may not calls the signer.
	begin = look(t, both)
	mallory := s.dial(t, s.ca, s.ca.issue(t, s.dir, "mallory", "mallory.example"))
	refused(mallory.Ping(t.Context()))
	strangers := era{begin, look(t, both), 120}

	// What was deleted is published anew, and no operator has said that it may.
	gone := newPublisher(t, s, "registry.example/gone")
	must(gone.init(t.Context(), server, "first"))
	must(gone.publish(t.Context(), server, "second")) // the signer now knows that the first came to be
	begin = look(t, both)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "https://"+server.addr+api.Route{Kind: api.Repository, GUN: gone.gun}.Path(), nil)
	must(err)
	r, err := s.client.Do(req)
	must(err)
	must(r.Body.Close())
	if r.StatusCode != http.StatusOK {
		t.Errorf("DELETE = %s", r.Status)
	}
	refused(newPublisher(t, s, "registry.example/gone").init(t.Context(), server, "first"))
	deleted := era{begin, look(t, both), 120}

	// What owners sign expires soon, or has.
	soon := newPublisher(t, s, "registry.example/soon")
	soon.life = map[tuf.RoleName]time.Duration{tuf.RoleTargets: 20 * 24 * time.Hour}
	must(soon.init(t.Context(), server, "first"))
	var expired time.Time
	for life := 2 * time.Second; ; life *= 4 { // a busy machine may be too late
		late := newPublisher(t, s, tuf.GUN("registry.example/late-"+life.String()))
		late.life = map[tuf.RoleName]time.Duration{tuf.RoleTargets: life}
		err := late.init(t.Context(), server, "first")
		if expired = time.Now().Add(life); err == nil {
			break
		}
		if life > patience {
			t.Fatal(err)
		}
	}
	server.stop()
	expiring := serve()
	soonEra := era{nil, look(t, map[string]*process{"server": expiring, "signer": signer}), 120}
	expiring.stop()
	<-time.After(time.Until(expired))

	// The signer is gone, when timestamps are to be renewed.
	signer.kill()
	server = serve("--lifetime-timestamp", "14d")
	server.logs("not renewed")
	for range 3 {
		refused(p.publish(t.Context(), server, "third"))
	}
	last := well.end["signer"]
	withLast := func(page scrape) scrape { page["signer"] = last; return page }
	unsigned := era{nil, withLast(look(t, map[string]*process{"server": server})), 120}

	// The database is gone.
	database.cut(t)
	for range 6 {
		refused(p.publish(t.Context(), server, "third"))
	}
	away := era{unsigned.end, withLast(look(t, map[string]*process{"server": server})), 120}

	var tests []promtoolTest
	rules := alertRules(t)
	fires := map[string]bool{}
	healthy := promtoolTest{Name: "all is well", Interval: "1m", InputSeries: play(era{well.begin, well.end, 180})}
	healthy.Queries = append(healthy.Queries, promtoolQuery{"ALERTS", "170m", []promtoolSample{}})
	for title, queries := range panels(t) {
		for _, q := range queries {
			healthy.Queries = append(healthy.Queries, promtoolQuery{"group(" + q + ") # " + title, "170m", []promtoolSample{{"{}", 1}}})
		}
	}
	tests = append(tests, healthy)
	for name, c := range map[string]struct {
		failing era
		alerts  []string
	}{
		"readers wait":         {slow, []string{"SlowRequests"}},
		"strangers":            {strangers, []string{"StrangersAtTheSigner"}},
		"deleted":              {deleted, []string{"OperatorNeeded"}},
		"soon":                 {soonEra, []string{"TrustExpiresSoon"}},
		"the signer is gone":   {unsigned, []string{"RenewalsFail", "SignaturesFail", "ServerUnavailable", "TrustExpired"}},
		"the database is gone": {away, []string{"DatabaseFails", "ServerUnavailable"}},
	} {
		one := promtoolTest{Name: name, Interval: "1m", InputSeries: play(well, c.failing)}
		for _, alert := range c.alerts {
			fires[alert] = true
			one.Queries = append(one.Queries, firing("59m", alert, false), firing("175m", alert, true))
		}
		tests = append(tests, one)
	}
	for alert := range rules {
		if !fires[alert] {
			t.Errorf("nothing that happens here makes the alert %s fire", alert)
		}
	}
	runPromtool(t, tests)
}

func runPromtool(t testing.TB, tests []promtoolTest) {
	t.Helper()
	dir := t.TempDir()
	file, err := filepath.Abs(filepath.Join("..", "..", "deploy", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{"rule_files": []string{file}, "evaluation_interval": "1m", "tests": tests})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "test.yaml"), string(text))
	for _, args := range [][]string{{"check", "rules", "--lint-fatal", file}, {"test", "rules", filepath.Join(dir, "test.yaml")}} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
