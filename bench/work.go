package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/bench/client"
	"github.com/iechor/trust/tuf"
)

// A measurement does the work of a row once, on one side.
type measurement func(ctx context.Context, s *stage, p *peer) (sample, error)

// rows returns all rows, without results.
func (s *stage) rows() []*row { return newRows(s.o) }

func newRows(o options) []*row {
	large, larger, largest := thousands(int64(o.tags)), thousands(2*int64(o.tags)), thousands(10*int64(o.tags))
	const server, all, both = "server, each", "services and database, each", "client and server"
	const timestamp, root, targets = "GET timestamp.json", "GET root.json", "GET targets.SHA256.json"
	publishing := fmt.Sprintf("publishes to %d repositories, %d clients", o.repositories/50, publishers)
	pushed := "bytes stored by a push of one tag to " + larger
	return []*row{
		{key: "timestamp", name: timestamp, unit: perSecond, target: 4, cpu: server, run: get(tuf.RoleTimestamp, false, false)},
		{key: "root", name: root, unit: perSecond, target: 1.3, cpu: server, run: get(tuf.RoleRoot, false, false)},
		{key: "targets", name: targets, unit: perSecond, target: 1.3, cpu: server, run: get(tuf.RoleTargets, true, false)},
		{key: "new", name: "publish one tag, new repository", unit: seconds, target: 0.6, cpu: both, run: publishNew(false)},
		{key: "newone", name: "  the same, ours as one command", unit: seconds, target: 0.6, cpu: both, run: publishNew(true)},
		{key: "more", name: "publish one more tag in " + large, unit: seconds, target: 0.5, cpu: both, run: publishMore(false)},
		{key: "most", name: "publish one more tag in " + largest, unit: seconds, target: 0.5, cpu: both, run: publishMore(true)},
		{key: "list", name: "list " + large + " tags, cold", unit: seconds, target: 0.5, cpu: both, run: list(false)},
		{key: "relist", name: "list " + large + " tags, warm", unit: seconds, target: 0.5, cpu: both, run: list(true)},
		{key: "inspect", name: "trust inspect " + large + " tags, cold", unit: seconds, target: 0.5, cpu: "client", run: inspect(false, false)},
		{key: "memory", name: "  memory of that, at most", unit: mebibytes, target: 1, run: inspect(false, true)},
		{key: "reinspect", name: "trust inspect " + large + " tags, warm", unit: seconds, target: 0.5, cpu: "client", run: inspect(true, false)},
		{key: "rememory", name: "  memory of that, at most", unit: mebibytes, target: 1, run: inspect(true, true)},
		{key: "begin", name: "a client's program begins and ends", unit: seconds, cpu: "client", run: begin},
		{key: "cold", name: "requests of a verify, cold", unit: requests, most: 4, run: verify(false)},
		{key: "warm", name: "requests of a verify, warm", unit: requests, most: 1, run: verify(true)},
		{key: "crowd", name: "memory of a server, " + thousands(int64(o.repositories)) + " repositories read", unit: mebibytes, most: 64 << 20, alone: true, run: memory},

		{key: "dbtimestamp", name: timestamp, database: true, unit: perSecond, target: 10, cpu: all, run: get(tuf.RoleTimestamp, false, false)},
		{key: "dbroot", name: root, database: true, unit: perSecond, target: 8, cpu: all, run: get(tuf.RoleRoot, false, false)},
		{key: "dbtargets", name: targets, database: true, unit: perSecond, target: 8, cpu: all, run: get(tuf.RoleTargets, true, false)},
		{key: "dbpublish", name: publishing, database: true, unit: perSecond, target: 3, cpu: all, survives: true, run: sustained(false)},
		{key: "twotimestamp", name: "two servers: " + timestamp, database: true, alone: true, second: true, unit: perSecond, cpu: all, run: get(tuf.RoleTimestamp, false, true)},
		{key: "twopublish", name: "two servers: " + publishing, database: true, alone: true, second: true, unit: perSecond, cpu: all, run: sustained(true)},
		{key: "seen", name: "seen through the other server, by the publisher", database: true, alone: true, second: true, unit: seconds, most: 0.1, run: visible(false)},
		{key: "seenall", name: "seen through the other server, by everybody", database: true, alone: true, second: true, unit: seconds, most: 1, run: visible(true)},
		{key: "growth", name: pushed + ", at once", database: true, once: true, survives: true, unit: kilobytes, run: growth(false)},
		{key: "tidied", name: pushed + ", after an hour", database: true, once: true, survives: true, unit: kilobytes, target: 0.1, run: growth(true)},

		{key: "static", name: "GET a static file like timestamp.json, same TLS", unit: perSecond, limit: true, run: static},
		{key: "signature", name: "one P-256 signature", unit: seconds, limit: true, run: signature},
		{key: "fsync", name: "one fsync of 4 KiB", unit: seconds, limit: true, run: fsync},
		{key: "kdf", name: "open a key file as ours are by default", unit: seconds, limit: true, run: derive(0)},
		{key: "stockkdf", name: "open a key file as the stock programs write it", unit: seconds, limit: true, run: derive(client.StockRounds)},
	}
}

func rowKeys() (keys []string) {
	for _, w := range newRows(options{}) {
		keys = append(keys, w.key)
	}
	return keys
}

// peersOf returns who does the work of w.
func (s *stage) peersOf(w *row) []*peer {
	peers := s.peers()
	switch {
	case w.limit, w.alone && !w.database:
		return []*peer{s.ours}
	case w.database:
		peers = slices.Clone(s.onDatabases)
	}
	if w.alone {
		peers = slices.DeleteFunc(peers, func(p *peer) bool { return p.stock })
	}
	return peers
}

// measure does the work of w on p. If a service of p ended by itself meanwhile,
// all of it is done again on the new one.
func (s *stage) measure(ctx context.Context, w *row, p *peer) (sample, error) {
	defer p.endSecond()
	for range 4 {
		lives := p.lives()
		var got sample
		var err error
		if p.seed == nil || p.seed.lives != lives && p.db == nil {
			err = s.plant(ctx, p)
		}
		if err == nil {
			got, err = w.run(ctx, s, p)
		}
		switch same := p.lives() == lives || w.survives; {
		case err == nil && same:
			return got, nil
		case ctx.Err() != nil || same && !s.restarted(ctx, p, lives):
			return sample{}, err
		}
		s.redone++
	}
	return sample{}, fmt.Errorf("the services of %s end by themselves again and again", p.name)
}

// restarted reports whether p is another one than it was. A service that is
// just ending does not answer, so that its successor is waited for.
func (s *stage) restarted(ctx context.Context, p *peer, lives int64) bool {
	return s.ready(ctx, p) == nil && p.lives() != lives
}

// cpu returns the CPU time that the services of p, those of a second server, and
// their database have used, or false.
func (p *peer) cpu() (sum time.Duration, ok bool) {
	if p.db != nil {
		d, err := familyCPU(p.db.Pid())
		if err != nil {
			return 0, false
		}
		sum += d
	}
	services := p.processes
	if p.second != nil {
		services = append(slices.Clone(services), p.second.processes...)
	}
	for _, s := range services {
		d, err := s.cpu()
		if err != nil {
			return 0, false
		}
		sum += d
	}
	return sum, true
}

// spent returns what the services of p have used since before, at least 1 ns,
// or 0 if that is not known.
func (p *peer) spent(before time.Duration, known bool) time.Duration {
	after, ok := p.cpu()
	if !ok || !known {
		return 0
	}
	return max(after-before, 1)
}

// get measures requests for a file of the small repository.
func get(role tuf.RoleName, hashed, two bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		f, ok := p.seed.files[role]
		if !ok {
			return sample{}, fmt.Errorf("no %s was published", role)
		}
		file := serving("", f.Raw)
		route := api.Route{Kind: api.FileCurrent, GUN: p.seed.small, Role: role}
		if hashed {
			route.Kind, route.SHA256 = api.FileByHash, file.sum
		}
		file.path = route.Path()
		conf, err := clientTLS(p.ca)
		if err != nil {
			return sample{}, err
		}
		addrs, err := s.servers(p, two)
		if err != nil {
			return sample{}, err
		}
		l := &load{addrs: addrs, tls: conf, files: []served{file}}
		var before time.Duration
		var known bool
		n, took, err := l.run(ctx, s.o.duration, func() { before, known = p.cpu() })
		if err != nil {
			return sample{}, err
		}
		got := sample{value: float64(n) / took.Seconds()}
		if spent := p.spent(before, known); n > 0 {
			got.cpu = spent / time.Duration(n)
		}
		return got, nil
	}
}

// commands runs programs of p's client one after the other and returns how
// long that took, the CPU time of all, and what they printed.
func (s *stage) commands(ctx context.Context, p *peer, argvs ...[]string) (sample, string, error) {
	var out bytes.Buffer
	var clients time.Duration
	before, known := p.cpu()
	began := time.Now()
	for _, argv := range argvs {
		var problem bytes.Buffer
		c := command(ctx, s.env, argv...)
		c.Stdout, c.Stderr = &out, &problem
		if err := c.Run(); err != nil {
			return sample{}, "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(argv[0]), strings.Join(argv[1:], " "), err, strings.TrimSpace(problem.String()))
		}
		clients += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}
	got := sample{value: time.Since(began).Seconds()}
	if spent := p.spent(before, known); spent > 0 {
		got.cpu = clients + spent
	}
	return got, out.String(), nil
}

// argv is a call of p's client in its own directory.
func (p *peer) argv(verb string, args ...string) []string {
	return p.client(p.url(), p.ca, p.seed.home, verb, args...)
}

// unique numbers what must not be there yet. It only counts.
func (s *stage) unique() string {
	s.named++
	return strconv.Itoa(s.named)
}

// publishNew measures the first publish, as the two commands that it takes
// with the stock client, or, on our side, in one.
func publishNew(one bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		gun := fmt.Sprintf("bench.example/new/%s", s.unique())
		tag := []string{gun, "latest", strconv.Itoa(size), digest("latest")}
		argvs := [][]string{p.argv(client.Init, gun), p.argv(client.Add, tag...)}
		if one && !p.stock {
			argvs = [][]string{p.argv(client.Publish, tag...)}
		}
		got, _, err := s.commands(ctx, p, argvs...)
		if err != nil {
			return got, err
		}
		return got, s.published(ctx, p, gun, "latest")
	}
}

// publishMore measures one more tag in the large repository, or in one that is
// ten times as large.
func publishMore(most bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		gun, tag := p.seed.large, "extra-"+s.unique()
		if most {
			var err error
			if gun, err = s.largest(ctx, p); err != nil {
				return sample{}, err
			}
		}
		got, _, err := s.commands(ctx, p, p.argv(client.Add, string(gun), tag, strconv.Itoa(size), digest(tag)))
		if err != nil {
			return got, err
		}
		return got, s.published(ctx, p, string(gun), tag)
	}
}

func digest(tag string) string {
	sum := sha256.Sum256([]byte(tag))
	return hex.EncodeToString(sum[:])
}

// published sees, with a client that knows nothing, that the tag is there.
func (s *stage) published(ctx context.Context, p *peer, gun, tag string) error {
	home, err := os.MkdirTemp(s.dir, "cold-")
	if err != nil {
		return err
	}
	_, out, err := s.commands(ctx, p, p.client(p.url(), p.ca, home, client.Lookup, gun, tag))
	if err != nil {
		return err
	}
	if !strings.Contains(out, digest(tag)) {
		return fmt.Errorf("%s was published in %s, and is not there", tag, gun)
	}
	return os.RemoveAll(home)
}

// list measures the list of the large repository, in an empty directory or the
// second time.
func list(warm bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		home, err := os.MkdirTemp(s.dir, "list-")
		if err != nil {
			return sample{}, err
		}
		argv := p.client(p.url(), p.ca, home, client.List, string(p.seed.large))
		if warm {
			if _, _, err := s.commands(ctx, p, argv); err != nil {
				return sample{}, err
			}
		}
		got, out, err := s.commands(ctx, p, argv)
		if err != nil {
			return got, err
		}
		for _, i := range []int{0, s.o.tags - 1} {
			if !strings.Contains(out, digest(tagName(i))) {
				return got, fmt.Errorf("the list lacks %s", tagName(i))
			}
		}
		if n := strings.Count(out, "\n"); n < s.o.tags {
			return got, fmt.Errorf("a list of %d tags has %d lines", s.o.tags, n)
		}
		return got, os.RemoveAll(home)
	}
}

// verify counts the requests of a client that looks up a tag, in an empty
// directory or the second time.
func verify(warm bool) measurement {
	return func(ctx context.Context, s *stage, p *peer) (sample, error) {
		home, err := os.MkdirTemp(s.dir, "verify-")
		if err != nil {
			return sample{}, err
		}
		c, err := s.newCounter(p)
		if err != nil {
			return sample{}, err
		}
		defer c.close()
		look := func() error {
			_, out, err := s.commands(ctx, p, p.client("https://"+c.addr, s.certs.ca, home, client.Lookup, string(p.seed.large), tagName(0)))
			if err == nil && !strings.Contains(out, digest(tagName(0))) {
				err = fmt.Errorf("lookup does not name the digest of %s", tagName(0))
			}
			return err
		}
		if err := look(); err != nil {
			return sample{}, err
		}
		before := int64(0)
		if warm {
			before = c.n.Load()
			if err := look(); err != nil {
				return sample{}, err
			}
		}
		return sample{value: float64(c.n.Load() - before)}, os.RemoveAll(home)
	}
}

// A counter passes requests on to a peer and counts them.
type counter struct {
	addr    string
	n       atomic.Int64
	server  *http.Server
	serving sync.WaitGroup
}

func (s *stage) newCounter(p *peer) (*counter, error) {
	conf, err := clientTLS(p.ca)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(s.certs.cert, s.certs.key)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counter{addr: strings.Replace(l.Addr().String(), "127.0.0.1", "localhost", 1)}
	to := &url.URL{Scheme: "https", Host: p.addr}
	quiet := log.New(io.Discard, "", 0) // what goes wrong, the client says
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{TLSClientConfig: conf}, ErrorLog: quiet,
	}
	c.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.n.Add(1)
			proxy.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, ErrorLog: quiet,
		ReadHeaderTimeout: 10 * time.Second,
	}
	if err := s.trust(c.addr, s.certs.ca); err != nil {
		_ = l.Close() // the first error is the one to report
		return nil, err
	}
	c.serving.Go(func() { _ = c.server.ServeTLS(l, "", "") }) // returns ErrServerClosed at close
	return c, nil
}

func (c *counter) close() {
	_ = c.server.Close() // nobody is connected any more
	c.serving.Wait()
}
