// Bench measures our trust server and client beside the stock ones: the same
// requests, the same repositories, the same machine, in turn.
//
//	go run ./bench
//	go run ./bench -rounds 9 -duration 3s -only timestamp,root
//
// It builds iechor-trustd and runs server and signer as processes of their own,
// over SQLite; notary-server, where it is installed, keeps everything in memory
// and signs by itself. Where MariaDB and PostgreSQL are installed, it starts
// servers of its own of both, and measures notary-server with notary-signer on
// MariaDB beside ours on either. Every round measures all, and which of them
// comes first changes from round to round; what takes a second server has
// rounds of its own, after the others. The table shows medians, what one is of
// the other, and how far apart the rounds were. What the machine itself can do,
// and what protecting keys by a passphrase costs, stands apart.
//
// Everything listens on loopback, lies in temporary folders, and is ended by
// process id when bench ends.
//
// Read main.go, then work.go for what is measured, table.go for what is made of
// it, peers.go with databases.go and process.go for the services, load.go for
// the requests, publish.go for uploads, crowd.go for a server with very many
// repositories, inspect.go for "iechor trust inspect", client/client.go for our side
// of "notary init, addhash, list, lookup".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// options are what the flags say.
type options struct {
	rounds   int
	duration time.Duration // of one measurement of requests
	timeout  time.Duration // of everything
	tags     int           // in the large repository; twice and ten times as many in larger ones

	repositories int // that a server has whose memory is measured; a fiftieth of it is published to
	pushes       int // after which the growth of the databases is measured
	databases    bool
	only         []string // keys of rows; empty: all
	stock        bool
	dir          string // parent of the temporary folder
	profile      string // file for a CPU profile of our server
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && isMode(os.Args[1]) {
		if err := runMode(ctx, os.Args[1], os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
			os.Exit(exitFailed)
		}
		return
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, term.IsTerminal(int(os.Stderr.Fd()))))
}

// run measures and prints. It returns the exit status.
func run(ctx context.Context, args []string, out, progress io.Writer, terminal bool) int {
	o, err := parse(args, progress)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(progress, "bench: %v\n", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done after %v: choose fewer rounds, or a longer -timeout", o.timeout))
	defer cancel()
	say := func(s string) { // a round a line, where lines stay
		if strings.Contains(s, ", row 1 of ") {
			fmt.Fprintln(progress, "bench: "+s)
		}
	}
	if terminal {
		say = func(s string) { fmt.Fprintf(progress, "\r\x1b[K%s", s) }
	}
	r, err := bench(ctx, o, say)
	say("")
	if r != nil {
		if perr := r.print(out); err == nil {
			err = perr
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		fmt.Fprintf(progress, "bench: %v\n", err)
		return exitFailed
	}
	return 0
}

func parse(args []string, w io.Writer) (options, error) {
	var o options
	var only string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the one sentence is run's
	f.IntVar(&o.rounds, "rounds", 5, "how often each is measured")
	f.DurationVar(&o.duration, "duration", time.Second, "how long requests are sent each time")
	f.DurationVar(&o.timeout, "timeout", 20*time.Minute, "give up after this time")
	f.IntVar(&o.tags, "tags", 5000, "tags in the large repository; others have twice and ten times as many")
	f.IntVar(&o.repositories, "repositories", 10_000, "repositories of a server whose memory is measured; a fiftieth of them is published to by several")
	f.IntVar(&o.pushes, "pushes", 100, "pushes after which the growth of the databases is measured")
	f.BoolVar(&o.databases, "databases", true, "measure over MariaDB and PostgreSQL, too, where they are installed")
	f.StringVar(&only, "only", "", "rows to measure, comma-separated: "+strings.Join(rowKeys(), ","))
	f.BoolVar(&o.stock, "stock", true, "measure the stock programs, too, where they are installed")
	f.StringVar(&o.dir, "dir", "", "where the temporary folder is made: the file system that SQLite writes to")
	f.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of our server; server and signer are one process then")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(w, "Example: go run ./bench -rounds 9 -only timestamp,list\n\n")
			f.SetOutput(w)
			f.PrintDefaults()
		}
		return o, err
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, key := range o.only {
		if !slices.Contains(rowKeys(), key) {
			return o, fmt.Errorf("-only: there is no row %q: choose of %s", key, strings.Join(rowKeys(), ", "))
		}
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.rounds < 1 || o.duration <= 0 || o.timeout <= 0:
		return o, errors.New("-rounds, -duration and -timeout must be more than nothing")
	case o.tags < 1 || o.tags > 10_000:
		return o, errors.New("-tags: 1 to 10000")
	case o.repositories < 50 || o.repositories > 50_000:
		return o, errors.New("-repositories: 50 to 50000")
	case o.pushes < 1:
		return o, errors.New("-pushes must be more than nothing")
	}
	return o, nil
}

// bench starts both services, measures all rows round by round, and ends what
// it started. A report that is returned together with an error is incomplete.
func bench(ctx context.Context, o options, say func(string)) (_ *report, err error) {
	s, err := newStage(ctx, o, say)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	rows := slices.DeleteFunc(s.rows(), func(w *row) bool { return len(o.only) > 0 && !slices.Contains(o.only, w.key) })
	r := &report{rows: rows, facts: s.facts()}
	for round, w := range inTurn(rows, o.rounds) {
		peers := s.peersOf(w)
		if round%2 == 1 {
			slices.Reverse(peers)
		}
		for _, p := range peers {
			say(fmt.Sprintf("round %d of %d, row %d of %d: %s (%s)", round+1, o.rounds, slices.Index(rows, w)+1, len(rows), strings.TrimSpace(w.name), p.name))
			got, err := s.measure(ctx, w, p)
			if err != nil {
				return r, fmt.Errorf("%s, %s: %w", strings.TrimSpace(w.name), p.name, err)
			}
			w.add(p, got)
		}
	}
	r.notes = s.notes()
	return r, nil
}

// inTurn yields the rows of each round, with its number from 0. Rows with a
// second server have rounds of their own, after all others: what that one has
// published, the first one has to read again.
func inTurn(rows []*row, rounds int) iter.Seq2[int, *row] {
	return func(yield func(int, *row) bool) {
		for _, second := range []bool{false, true} {
			for round := range rounds {
				for _, w := range rows {
					if w.second == second && !(w.once && round > 0) && !yield(round, w) {
						return
					}
				}
			}
		}
	}
}

// A sample is what one measurement of one side gave.
type sample struct {
	value float64
	cpu   time.Duration // for one unit of work; 0: not known here
}

// median returns the middle of the values, the mean of the middle two, or NaN.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
