package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/iechor/trust/bench/client"
	"github.com/iechor/trust/certs"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/notary/notarytest"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A stage is everything that runs during a measurement.
type stage struct {
	o    options
	say  func(string)
	dir  string // removed by close
	sock string // likewise; a Unix socket's path must be short
	tls  string // folder of certificates by host
	self string // this program

	built map[string]bool // our programs, by name; only of the main goroutine
	env   []string
	certs certificates

	ctx     context.Context // of the services
	stop    context.CancelFunc
	running sync.WaitGroup

	ours, stock *peer    // stock is nil if it is not measured
	onDatabases []*peer  // the stock one first, if it is measured
	absent      []string // what of the databases is not measured, and why
	databases   []*databasetest.Server
	crowd       *crowd // nil until it is asked for
	static      *load  // nil until it is asked for
	redone      int    // measurements that a restart spoiled
	named       int    // see unique
}

// A peer is one side: its services and its client program.
type peer struct {
	name      string
	stock     bool
	on        string // what keeps its data
	addr      string // host:port
	ca        string // file
	processes []*process
	client    func(url, ca, home, verb string, args ...string) []string // argv
	seed      *seed                                                     // nil: nothing is published yet
	version   string

	db      *databasetest.Server // nil: none; what is published outlives its servers
	storage string               // setting of the server's storage
	socket  string               // of our signer
	second  *peer                // our other server on the same storage; nil unless it is asked for
	ctx     context.Context      // nil: its services run as long as bench
	end     context.CancelFunc   // ends ctx
	shelves []*shelf             // nil until they are asked for
	grown   grown
}

func (p *peer) url() string { return "https://" + p.addr }

// lives counts the starts of all services.
func (p *peer) lives() (n int64) {
	for _, s := range p.processes {
		n += s.lives.Load()
	}
	return n
}

// A seed is what was published on a peer, and where its publisher lives.
type seed struct {
	lives        int64 // of the services that have it
	home         string
	small, large tuf.GUN
	largest      tuf.GUN                   // empty until it is asked for
	files        map[tuf.RoleName]tuf.File // of small
}

// newStage starts our services, and the stock ones if they are installed and
// wanted. The caller closes it.
func newStage(ctx context.Context, o options, say func(string)) (_ *stage, err error) {
	s := &stage{o: o, say: say, built: map[string]bool{}}
	if s.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp(o.dir, "iechor-bench-"); err != nil {
		return nil, err
	}
	s.tls = filepath.Join(s.dir, "tls")
	if s.sock, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	s.ctx, s.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.env = []string{"HOME=" + s.dir}
	for _, role := range []string{"ROOT", "TARGETS", "SNAPSHOT", "DELEGATION"} {
		s.env = append(s.env, "NOTARY_"+role+"_PASSPHRASE="+string(client.Passphrase))
	}
	if s.certs, err = newCertificates(s.dir, time.Now()); err != nil {
		return nil, err
	}
	if err := s.startOurs(); err != nil {
		return nil, err
	}
	if o.stock && installed() {
		if err := s.startStock(); err != nil {
			return nil, err
		}
	}
	if o.databases {
		if err := s.startDatabases(); err != nil {
			return nil, err
		}
	}
	for _, p := range append(s.peers(), s.onDatabases...) {
		if err := s.ready(ctx, p); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// installed reports whether the stock programs are here.
func installed() bool {
	_, server := exec.LookPath("notary-server")
	_, client := exec.LookPath("notary")
	return server == nil && client == nil
}

// close ends everything and removes the folders.
func (s *stage) close() error {
	s.stop()
	s.running.Wait()
	for _, db := range s.databases {
		db.Close()
	}
	return errors.Join(os.RemoveAll(s.dir), os.RemoveAll(s.sock))
}

func (s *stage) peers() []*peer {
	if s.stock == nil {
		return []*peer{s.ours}
	}
	return []*peer{s.stock, s.ours}
}

// freeAddr returns an address of this machine that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return "localhost:" + port, errors.Join(err, l.Close())
}

// trust lets our client trust a server.
func (s *stage) trust(addr, ca string) error {
	dir := certs.Dir(s.tls, addr)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	raw, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "ca.crt"), raw, 0o600)
}

func (s *stage) launch(p *peer, name string, env []string, argv ...string) error {
	log := filepath.Join(s.dir, fmt.Sprintf("%s-%d.log", strings.ReplaceAll(p.name, " ", "-"), len(p.processes)))
	ctx := s.ctx
	if p.ctx != nil {
		ctx = p.ctx
	}
	process, err := start(ctx, &s.running, log, append(env, s.env...), name, argv...)
	if err == nil {
		p.processes = append(p.processes, process)
	}
	return err
}

func (s *stage) startOurs() error {
	p, err := s.newOurs("ours", "SQLite")
	if err != nil {
		return err
	}
	s.ours = p
	if err := s.build(s.ctx, "bench/benchclient"); err != nil {
		return err
	}
	data := filepath.Join(s.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if s.o.profile != "" {
		profile, err := filepath.Abs(s.o.profile)
		if err != nil {
			return err
		}
		p.ca, p.version = filepath.Join(data, "ca.crt"), "this source tree, sandbox under the profiler"
		return s.launch(p, "sandbox", nil, s.self, modeServe, "-d", data, "-addr", loopback(p.addr), "-cpuprofile", profile)
	}
	if err := s.build(s.ctx, "cmd/iechor-trustd"); err != nil {
		return err
	}
	if info, err := buildinfo.ReadFile(s.program("iechor-trustd")); err == nil {
		p.version = "iechor-trustd " + info.Main.Version + " (" + info.GoVersion + ")"
	}
	return s.serveOurs(p, "sqlite:"+filepath.Join(data, "server.db"), "sqlite:"+filepath.Join(data, "signer.db"))
}

// program is where build puts a program.
func (s *stage) program(name string) string {
	file := filepath.Join(s.dir, name)
	if runtime.GOOS == "windows" {
		file += ".exe"
	}
	return file
}

// build builds a program of ours, once, in pure Go, as we hand them out.
func (s *stage) build(ctx context.Context, pkg string) error {
	name := path.Base(pkg)
	if s.built[name] {
		return nil
	}
	s.say("building " + name)
	if text, err := command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-o", s.program(name), "github.com/iechor/trust/"+pkg).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, strings.TrimSpace(string(text)))
	}
	s.built[name] = true
	return nil
}

// loopback returns where a server of addr listens.
func loopback(addr string) string { return strings.Replace(addr, "localhost", "127.0.0.1", 1) }

func (s *stage) newOurs(name, on string) (*peer, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return &peer{name: name, on: on, addr: addr, ca: s.certs.ca, client: func(url, _, home, verb string, args ...string) []string {
		return append([]string{s.program("benchclient")}, client.Place{URL: url, TLS: s.tls, Home: home}.Argv(verb, args...)...)
	}}, nil
}

// serveOurs starts a signer and a server, with where each keeps its data.
func (s *stage) serveOurs(p *peer, server, signer string) error {
	kek := make([]byte, 32)
	if _, err := rand.Read(kek); err != nil {
		return err
	}
	p.storage, p.socket = server, filepath.Join(s.sock, "signer-"+p.on)
	config := filepath.Join(s.dir, "signer.yaml")
	if err := os.WriteFile(config, []byte("identities: {unix: [sign, create]}\n"), 0o600); err != nil {
		return err
	}
	err := s.launch(p, "signer", []string{"BENCH_KEK=" + hex.EncodeToString(kek)}, s.program("iechor-trustd"), "signer", "--config", config,
		"--listen", "unix:"+p.socket, "--storage", signer,
		"--key-encryption-key", "env:BENCH_KEK", "--limit-keys-per-day", "1000000", "--log-level", "warn")
	if err != nil {
		return err
	}
	// The server remembers for a while that a signer was not there.
	if err := p.processes[0].until(s.ctx, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", p.socket)
		if err == nil {
			err = c.Close()
		}
		return err
	}); err != nil {
		return err
	}
	return s.serveStore(p)
}

// serveStore starts our server of p, whose signer runs.
func (s *stage) serveStore(p *peer) error {
	return s.launch(p, "server", nil, s.program("iechor-trustd"), "server", "--listen", loopback(p.addr), "--authentication", "none",
		"--tls-certificate", s.certs.cert, "--tls-key", s.certs.key,
		"--storage", p.storage, "--signer-url", "unix:"+p.socket, "--log-level", "warn",
		"--limit-requests", "0", "--limit-changes", "0", "--limit-repository-changes", "0") // all of the load is one client's
}

func (s *stage) startStock() error {
	p, err := s.newStock("stock", "memory")
	if err != nil {
		return err
	}
	s.stock = p
	return s.serveStock(p, "", notarytest.Memory)
}

func (s *stage) newStock(name, on string) (*peer, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	p := &peer{name: name, stock: true, on: on, addr: addr, ca: s.certs.ca, version: "notary-server"}
	p.client = func(url, ca, home, verb string, args ...string) []string {
		if verb == client.Add { // GUN TAG SIZE SHA256
			args = []string{args[0], args[1], args[2], "--sha256", args[3], "-p"}
		}
		return append([]string{"notary", "-s", url, "--tlscacert", ca, "-d", home, verb}, args...)
	}
	if path, err := exec.LookPath("notary-server"); err == nil {
		if info, err := buildinfo.ReadFile(path); err == nil {
			p.version += " (" + info.GoVersion + ")"
		}
	}
	if pkg, err := command(s.ctx, nil, "dpkg-query", "-W", "-f", "${Version}", "notary").Output(); err == nil {
		p.version += " of Debian's notary " + strings.TrimSpace(string(pkg))
	}
	return p, nil
}

func (s *stage) serveStock(p *peer, signerPort string, storage notarytest.Storage) error {
	path := filepath.Join(s.dir, "notary-server-"+p.on+".json")
	if err := os.WriteFile(path, notarytest.ServerConfig(loopback(p.addr), signerPort, storage, s.stockTLS()), 0o600); err != nil {
		return err
	}
	return s.launch(p, "", nil, "notary-server", "-config", path)
}

func (s *stage) stockTLS() notarytest.TLS {
	return notarytest.TLS{CA: s.certs.ca, Certificate: s.certs.cert, Key: s.certs.key}
}

// ready waits until p answers and says that it is well.
func (s *stage) ready(ctx context.Context, p *peer) error {
	last := p.processes[len(p.processes)-1]
	return last.until(ctx, func(ctx context.Context) error {
		conf, err := clientTLS(p.ca)
		if err != nil {
			return err
		}
		t := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url()+"/_notary_server/health", nil)
		if err != nil {
			return err
		}
		answer, err := t.RoundTrip(req)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			err = errors.New(answer.Status)
		}
		return errors.Join(err, answer.Body.Close())
	})
}

// plant publishes a small and a large repository with our client library,
// which the stock server cannot tell from its own: both sides then serve the
// same tags, and either client can go on in the directory of the other.
func (s *stage) plant(ctx context.Context, p *peer) error {
	if err := s.ready(ctx, p); err != nil {
		return err
	}
	if err := s.trust(p.addr, p.ca); err != nil {
		return err
	}
	lives := p.lives()
	n := &seed{
		lives: lives, home: s.home(p, strconv.FormatInt(lives, 10)),
		small: tuf.GUN(fmt.Sprintf("bench.example/%d/small", lives)), large: tuf.GUN(fmt.Sprintf("bench.example/%d/large", lives)),
		files: map[tuf.RoleName]tuf.File{},
	}
	for _, g := range []struct {
		gun  tuf.GUN
		tags int
	}{{n.small, 1}, {n.large, s.o.tags}} {
		if p.db != nil && g.gun == n.large {
			continue // nothing that needs it is measured there
		}
		s.say(fmt.Sprintf("publishing %d tags (%s)", g.tags, p.name))
		set, err := plantRepository(ctx, client.Place{URL: p.url(), TLS: s.tls, Home: n.home}, g.gun, g.tags)
		if err != nil {
			return fmt.Errorf("publish %d tags: %w", g.tags, err)
		}
		if g.gun == n.small {
			for _, f := range set.Files() {
				n.files[f.Role] = f
			}
		}
	}
	p.seed = n
	return nil
}

// largest returns a repository of ten times as many tags as the large one.
func (s *stage) largest(ctx context.Context, p *peer) (tuf.GUN, error) {
	if p.seed.largest == "" {
		s.say(fmt.Sprintf("publishing %d tags (%s)", 10*s.o.tags, p.name))
		gun := tuf.GUN(fmt.Sprintf("bench.example/%d/largest", p.seed.lives))
		if _, err := plantRepository(ctx, client.Place{URL: p.url(), TLS: s.tls, Home: p.seed.home}, gun, 10*s.o.tags); err != nil {
			return "", fmt.Errorf("publish %d tags: %w", 10*s.o.tags, err)
		}
		p.seed.largest = gun
	}
	return p.seed.largest, nil
}

func plantRepository(ctx context.Context, at client.Place, gun tuf.GUN, tags int) (*tuf.Set, error) {
	repo, ring, err := at.Open(gun)
	if err != nil {
		return nil, err
	}
	defer ring.Close() // wipes
	if _, err := repo.Init(ctx, trust.InitOptions{}); err != nil {
		return nil, err
	}
	changes := make([]tuf.Change, tags)
	for i := range changes {
		name := tagName(i)
		sum := sha256.Sum256([]byte(name))
		changes[i] = client.AddTag(name, size, sum[:])
	}
	if _, err := repo.Publish(ctx, func(*tuf.Set) ([]tuf.Change, error) { return changes, nil }); err != nil {
		return nil, err
	}
	return repo.Update(ctx)
}

// home is a trust directory on the file system that is measured.
func (s *stage) home(p *peer, name string) string {
	return filepath.Join(s.dir, strings.ReplaceAll(p.name, " ", "-")+"-"+name)
}

// size is what all tags say of their manifests' length.
const size = 1234

func tagName(i int) string { return fmt.Sprintf("v1.%d.%d", i/100, i%100) }

// facts are the lines above the table.
func (s *stage) facts() []string {
	f := []string{fmt.Sprintf("machine: %d cores, %s/%s%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, loadAverage())}
	how := "server and signer processes"
	if s.o.profile != "" {
		how = "one process"
	}
	f = append(f, fmt.Sprintf("ours:    %s, %s, SQLite, %s", s.ours.version, how, s.cipher(s.ours)))
	switch {
	case s.stock != nil:
		f = append(f, fmt.Sprintf("stock:   %s, one process, memory, %s", s.stock.version, s.cipher(s.stock)))
	case s.o.stock:
		f = append(f, `stock:   not installed, so there is nothing to compare with ("apt-get install notary" on Debian)`)
	default:
		f = append(f, "stock:   left out (-stock=false)")
	}
	for _, db := range s.databases {
		f = append(f, "on:      "+db.Version)
	}
	f = append(f, s.absent...)
	return append(f, fmt.Sprintf("each:    medians of rounds in which all take turns (%d); requests for %v over %d kept connections, sent from the same cores", s.o.rounds, s.o.duration, connections))
}

// cipher says what a connection to p is protected with.
func (s *stage) cipher(p *peer) string {
	conf, err := clientTLS(p.ca)
	if err != nil {
		return "no TLS"
	}
	d := tls.Dialer{Config: conf}
	c, err := d.DialContext(s.ctx, "tcp", p.addr)
	if err != nil {
		return "no TLS"
	}
	defer c.Close()
	state := c.(*tls.Conn).ConnectionState()
	return tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)
}

// loadAverage says how busy the machine is with other things.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	one, _, ok := strings.Cut(string(raw), " ")
	if err != nil || !ok {
		return ""
	}
	return ", load average before the start " + one
}

// notes are the lines below the table.
func (s *stage) notes() []string {
	n := []string{
		"OURS/STOCK is of the medians: above 1 is better for what is counted in a second, below 1 for the rest. LOWEST–HIGHEST is of single rounds.",
		fmt.Sprintf("\"trust inspect\" stands beside notary list; both ask our server, for the same repository. Publishing and listing are whole client processes, from an empty cache where it says cold: notary init, addhash -p, list, lookup, and a program of our client library that does the same; how long the programs take that users call, to begin and end, is a row of its own. Key files take %d PBKDF2 rounds on both sides, as the stock programs write them; what ours take by default is the row \"open a key file\".", client.StockRounds),
	}
	for _, p := range append(s.peers(), s.onDatabases...) {
		if again := p.lives() - int64(len(p.processes)); again > 0 {
			n = append(n, fmt.Sprintf("%s: restarts of services that ended by themselves: %d.", p.name, again))
		}
	}
	if s.redone > 0 {
		n = append(n, fmt.Sprintf("measurements that restarts spoiled and that were made again: %d.", s.redone))
	}
	return n
}
