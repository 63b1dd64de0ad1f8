package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/cmd/cmdtest"
	"github.com/iechor/trust/database/databasetest"
)

// TestMain lets bench run itself, as it does outside of tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && isMode(os.Args[1]) {
		main()
		return
	}
	os.Exit(cmdtest.Main(m).Run())
}

// One very short round has every row: both sides where the stock programs are
// installed, otherwise ours and a sentence that says so. Nothing is left.
func TestShortRound(t *testing.T) {
	t.Parallel()
	if databasetest.Required("notary") && !installed() {
		t.Error("notary and notary-server are required and not installed: apt-get install notary")
	}
	dir := t.TempDir()
	var out, progress bytes.Buffer
	args := strings.Fields("-timeout 30m -rounds 1 -duration 20ms -tags 20 -repositories 50 -pushes 2 -dir " + dir)
	if raced {
		args = append(args, "-databases=false")
	}
	o, err := parse(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	status := run(t.Context(), args, &out, &progress, true)
	if status != 0 {
		t.Fatalf("run = %d, want 0\n%s\n%s", status, &out, &progress)
	}
	absent := func(name string) bool {
		is := raced || strings.Contains(out.String(), name+" is not installed")
		if is && !raced && databasetest.Required(map[string]string{"MariaDB": "mariadb", "PostgreSQL": "postgres"}[name]) {
			t.Errorf("%s is required and not installed", name)
		}
		return is
	}
	sqlite, databases := []string{""}, []string{}
	for _, name := range []string{"MariaDB", "PostgreSQL"} {
		if !absent(name) {
			databases = append(databases, ", "+name)
		}
	}
	const rate, span, count = `[\d,]+/s`, `[\d.]+ (µs|ms)`, `\d+`
	for _, w := range newRows(o) {
		value := map[unit]string{perSecond: rate, seconds: span, requests: count, mebibytes: `[\d.]+ MiB`, kilobytes: `[\d.]+ kB`}[w.unit]
		sides, names := value+`\s+`+value+`\s+(\d+\.\d\d|-)`, sqlite
		if w.database {
			names = databases
		}
		switch {
		case w.limit:
			sides = value
		case !installed(), w.alone, w.database && absent("MariaDB"):
			sides = `-\s+` + value + `\s+-`
		}
		for _, name := range names {
			re := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(w.name+name) + `\s+` + sides + `(\s+[≥≤] [\d.]+( MiB| ms)?( met| missed)?)?\s+-\s+1$`)
			if !re.Match(out.Bytes()) {
				t.Errorf("no line like %q in\n%s", re, &out)
			}
		}
	}
	if says := strings.Contains(out.String(), "stock:   not installed"); says == installed() {
		t.Errorf("says that stock is absent: %t; it is installed: %t\n%s", says, installed(), &out)
	}
	if !strings.Contains(progress.String(), "round 1 of 1") {
		t.Errorf("no progress on the terminal: %q", &progress)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	var out, progress bytes.Buffer
	if status := run(ctx, []string{"-dir", dir}, &out, &progress, false); status != exitFailed {
		t.Errorf("run in an ended context = %d, want %d", status, exitFailed)
	}
	if got, want := progress.String(), "bench: context canceled\n"; got != want {
		t.Errorf("stderr = %q, want %q: no progress where there is no terminal, and one sentence", got, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args string
		want string
	}{
		{"-only timestamp,snapshot", `bench: -only: there is no row "snapshot": choose of timestamp, root, `},
		{"-rounds 0", "bench: -rounds, -duration and -timeout must be more than nothing"},
		{"-tags 20000", "bench: -tags: 1 to 10000"},
		{"-repositories 49", "bench: -repositories: 50 to 50000"},
		{"-pushes 0", "bench: -pushes must be more than nothing"},
		{"timestamp", `bench: unexpected argument "timestamp"`},
		{"-round 1", "bench: flag provided but not defined: -round"},
	} {
		var out, problem bytes.Buffer
		if status := run(t.Context(), strings.Fields(test.args), &out, &problem, false); status != exitUsage {
			t.Errorf("run(%s) = %d, want %d", test.args, status, exitUsage)
		}
		if got := problem.String(); !strings.HasPrefix(got, test.want) || strings.Count(got, "\n") != 1 || out.Len() > 0 {
			t.Errorf("run(%s) wrote %q and %q, want nothing and one line %q", test.args, &out, got, test.want)
		}
	}
}

// What a second server has published is in nobody's way but that of rows which
// are about it.
func TestSecondServerComesLast(t *testing.T) {
	t.Parallel()
	rows := []*row{{key: "one"}, {key: "two", second: true}, {key: "once", once: true}}
	var got []string
	for round, w := range inTurn(rows, 2) {
		got = append(got, fmt.Sprint(w.key, " ", round))
	}
	if diff := cmp.Diff([]string{"one 0", "once 0", "one 1", "two 0", "two 1"}, got); diff != "" {
		t.Error(diff)
	}
	for _, w := range newRows(options{}) {
		if about := strings.HasPrefix(w.key, "two") || strings.HasPrefix(w.key, "seen"); w.second != about {
			t.Errorf("row %s: a second server takes part: %t", w.key, w.second)
		}
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 100}, 3}} {
		if got := median(test.in); got != test.want {
			t.Errorf("median(%v) = %v, want %v", test.in, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	second := func(v ...float64) (s []sample) {
		for _, x := range v {
			s = append(s, sample{x, time.Duration(x * float64(time.Millisecond))})
		}
		return s
	}
	r := report{
		facts: []string{"machine: a table"},
		rows: []*row{
			{name: "rate", unit: perSecond, target: 4, cpu: "server, each", stock: second(1000, 2000, 1500), ours: []side{{"SQLite", second(6000, 4000, 7500)}}},
			{name: "time", unit: seconds, target: 0.2, stock: second(0.1, 0.3), ours: []side{{"SQLite", second(0.05, 0.05)}}},
			{name: "alone", unit: requests, most: 4, ours: []side{{"SQLite", second(4)}}},
			{name: "stored", unit: kilobytes, target: 0.1, database: true, stock: second(1000), ours: []side{{"MariaDB", second(90)}, {"PostgreSQL", second(200)}}},
			{name: "one signature", unit: seconds, limit: true, ours: []side{{"SQLite", second(0.00002, 0.00004)}}},
		},
		notes: []string{"a note"},
	}
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	want := `machine: a table

STOCK IN MEMORY, OURS ON SQLITE  STOCK    OURS     OURS/STOCK  TARGET        LOWEST–HIGHEST  ROUNDS
rate                             1,500/s  6,000/s  4.00        ≥ 4 met       2.00–6.00       3
  CPU, server, each              1500 ms  6000 ms  4.00                      2.00–6.00       3
time                             200 ms   50.0 ms  0.25        ≤ 0.2 missed  0.17–0.50       2
alone                            -        4        -           ≤ 4 met       -               1

STOCK ON MARIADB, OURS ON  STOCK   OURS    OURS/STOCK  TARGET        LOWEST–HIGHEST  ROUNDS
stored, MariaDB            1.0 kB  0.1 kB  0.09        ≤ 0.1 met     -               1
stored, PostgreSQL         1.0 kB  0.2 kB  0.20        ≤ 0.1 missed  -               1

LIMIT          THIS MACHINE  LOWEST–HIGHEST  ROUNDS
one signature  30 µs         20 µs–40 µs     2

a note
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// serve answers over TLS on loopback, and returns a load on it.
func serve(t *testing.T, h http.HandlerFunc, body string) *load {
	t.Helper()
	certs, err := newCertificates(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certs.cert, certs.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ServeTLS(l, "", "") }() // ErrServerClosed at the end
	t.Cleanup(func() { _ = s.Close(); <-done })
	conf, err := clientTLS(certs.ca)
	if err != nil {
		t.Fatal(err)
	}
	return &load{addrs: []string{l.Addr().String()}, tls: conf, files: []served{serving("/file", []byte(body))}}
}

func TestLoadCountsAnswers(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(w http.ResponseWriter, body string){
		"with a length": func(w http.ResponseWriter, body string) { _, _ = io.WriteString(w, body) },
		"in chunks": func(w http.ResponseWriter, body string) {
			_, _ = io.WriteString(w, body[:3])
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, body[3:])
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			body := strings.Repeat("content ", 1000)
			l := serve(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); send(w, body) }, body)
			const d = 50 * time.Millisecond
			began := time.Now()
			var first int64
			n, took, err := l.run(t.Context(), d, func() { first = asked.Load() })
			if err != nil {
				t.Fatal(err)
			}
			if first != connections || n == 0 || n != asked.Load()-first {
				t.Errorf("counted %d of %d requests, %d of them for %d connections", n, asked.Load(), first, connections)
			}
			if whole := time.Since(began); took < d || took > whole {
				t.Errorf("took %v, want %v to %v", took, d, whole)
			}
		})
	}
}

// A service that answers quickly and wrongly has no rate.
func TestLoadRefusesWrongAnswers(t *testing.T) {
	t.Parallel()
	const body = "the right answer"
	for name, test := range map[string]struct {
		answer func(n int64, w http.ResponseWriter)
		want   string
	}{
		"an error":        {func(_ int64, w http.ResponseWriter) { http.Error(w, body, http.StatusNotFound) }, `answered with "HTTP/1.1 404`},
		"an error, later": {func(n int64, w http.ResponseWriter) { later(n, w, http.StatusInternalServerError, body) }, `answered with "HTTP/1.1 500`},
		"less, later":     {func(n int64, w http.ResponseWriter) { later(n, w, http.StatusOK, body[1:]) }, "answered with 15 bytes, not 16"},
		"another file":    {func(_ int64, w http.ResponseWriter) { _, _ = io.WriteString(w, strings.ToUpper(body)) }, "another file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			l := serve(t, func(w http.ResponseWriter, _ *http.Request) { test.answer(n.Add(1), w) }, body)
			answered, _, err := l.run(t.Context(), 10*time.Second, func() {})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("run = %v, %v, want an error with %q", answered, err, test.want)
			}
		})
	}
}

// later answers rightly until every connection has been opened and used.
func later(n int64, w http.ResponseWriter, status int, body string) {
	if n > 2*connections {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return
	}
	_, _ = io.WriteString(w, "the right answer")
}

// A service that ends by itself is started again and counted, and one that
// never runs is given up with its last words.
func TestProcessRestarts(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &stage{o: options{}, dir: dir, ctx: ctx, stop: cancel}
	p := &peer{name: "faulty"}
	if err := s.launch(p, "one", nil, self, modeStatic, filepath.Join(dir, "absent")); err != nil {
		t.Fatal(err)
	}
	<-p.processes[0].done
	s.running.Wait()
	if got := p.lives(); got != 3 {
		t.Errorf("started %d times, want 3", got)
	}
	if err := s.ready(ctx, p); err == nil || !strings.Contains(err.Error(), "ended by itself") || !strings.Contains(err.Error(), "absent") {
		t.Errorf("ready = %v, want why the process ends", err)
	}
}

// A service that ends in the middle spoils no measurement: what it had is
// published anew, the work is done again, and the report says so.
func TestMeasuredAgainAfterRestart(t *testing.T) {
	t.Parallel()
	s, err := newStage(t.Context(), options{rounds: 1, duration: 20 * time.Millisecond, tags: 1, repositories: 50}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	w := s.rows()[0]
	if _, err := s.measure(t.Context(), w, s.ours); err != nil {
		t.Fatal(err)
	}
	before := s.ours.seed
	work := w.run
	w.run = func(ctx context.Context, s *stage, p *peer) (sample, error) {
		if p.seed == before {
			server := p.processes[1] // the signer is the first
			lives := server.lives.Load()
			process, err := os.FindProcess(int(server.pid.Load()))
			if err == nil {
				err = process.Kill()
			}
			if err == nil {
				err = server.until(ctx, func(context.Context) error {
					if server.lives.Load() == lives {
						return errors.New("it has not been started again")
					}
					return nil
				})
			}
			if err != nil {
				t.Error(err)
			}
		}
		return work(ctx, s, p)
	}
	got, err := s.measure(t.Context(), w, s.ours)
	if err != nil || got.value <= 0 {
		t.Errorf("measure after the server was killed = %v, %v", got, err)
	}
	if s.redone != 1 || s.ours.seed == before {
		t.Errorf("%d measurements were made again, want 1 with what was published anew", s.redone)
	}
	if notes := strings.Join(s.notes(), "\n"); !strings.Contains(notes, "ours: restarts of services that ended by themselves: 1.") {
		t.Errorf("the notes do not tell:\n%s", notes)
	}
}

// The commands that the documents and continuous integration show are ones that
// bench takes.
func TestShownCommands(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"../doc/performance.md", "../.ci/run", "main.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown := regexp.MustCompile(`(?m)^(?:\$ |//\t)?go run \./bench(.*)$`).FindAllStringSubmatch(string(text), -1)
		if len(shown) == 0 {
			t.Errorf("%s shows no command", file)
		}
		for _, args := range shown {
			if _, err := parse(strings.Fields(args[1]), io.Discard); err != nil {
				t.Errorf("%s shows go run ./bench%s: %v", file, args[1], err)
			}
		}
	}
}
