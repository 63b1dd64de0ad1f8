package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/tuf"
)

// stopSignal is what service managers send.
const stopSignal = syscall.SIGTERM

// patience is how long a test waits for what should happen at once.
const patience = 5 * time.Minute

// A process is an iechor-trustd that runs.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	addr string // where it listens
	log  lines
	done chan struct{} // closed when it has ended
	news chan struct{} // has something when a line was logged
}

// program returns a command that is iechor-trustd, which TestMain put into the
// PATH. It sees no variables but env.
func program(t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command("iechor-trustd", args...)
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GORACE=" + os.Getenv("GORACE")}, env...)
	return c
}

// runProcess runs a command that ends by itself.
func runProcess(t testing.TB, env []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return waitFor(t, program(t, env, args...))
}

func waitFor(t testing.TB, c *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = c.Process.Kill() }) // gone if this fails
	defer late.Stop()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// start starts a server or signer and returns when it listens. It is killed
// with the test, at the latest.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	return startCommand(t, program(t, nil, args...))
}

func startCommand(t testing.TB, c *exec.Cmd) *process {
	t.Helper()
	p := begin(t, c)
	if p.addr == "" {
		t.Fatalf("%v ended: %v\n%s", c.Args[1:], p.cmd.ProcessState, &p.log)
	}
	return p
}

// begin starts a process and returns when it listens, or has ended.
func begin(t testing.TB, c *exec.Cmd) *process {
	t.Helper()
	args := c.Args[1:]
	p := &process{t: t, cmd: c, done: make(chan struct{}), news: make(chan struct{}, 1)}
	logged, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	go func() {
		defer close(p.done)
		in := bufio.NewScanner(logged)
		for in.Scan() {
			fmt.Fprintln(&p.log, in.Text())
			var line struct{ Msg, Listen string }
			if json.Unmarshal(in.Bytes(), &line) == nil && line.Listen != "" {
				listening <- line.Listen
			}
			select {
			case p.news <- struct{}{}:
			default:
			}
		}
		_ = p.cmd.Wait() // its status is looked at by stop
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			log := p.log.String()
			for line := range strings.Lines(log[:max(0, len(log)-4000)]) {
				if strings.Contains(line, `"level":"ERROR"`) {
					t.Logf("error in the log of %v: %s", args, line)
				}
			}
			t.Logf("end of the log of %v:\n%s", args, log[max(0, len(log)-4000):])
		}
	})
	select {
	case p.addr = <-listening:
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%v does not listen\n%s", args, &p.log)
	}
	return p
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// stop tells the process to end, and fails the test unless it ends well.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(stopSignal); err != nil {
		p.t.Fatal(err)
	}
	p.ended()
}

func (p *process) ended() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("process does not end when told so")
	}
	if s := p.cmd.ProcessState; s.ExitCode() != 0 {
		p.t.Errorf("process ended with %v\n%s", s, &p.log)
	}
}

// logs waits until the log has a text in it.
func (p *process) logs(text string) {
	p.t.Helper()
	p.logsTimes(text, 1)
}

// logsTimes waits until the log has a text in it so often.
func (p *process) logsTimes(text string, n int) {
	p.t.Helper()
	late := time.After(patience)
	for strings.Count(p.log.String(), text) < n {
		select {
		case <-p.news:
		case <-p.done:
			if strings.Count(p.log.String(), text) < n {
				p.t.Fatalf("process ended and has not logged %q\n%s", text, &p.log)
			}
		case <-late:
			p.t.Fatalf("%q is not logged\n%s", text, &p.log)
		}
	}
}

// A relay is an address that stays the same while what is behind it changes.
type relay struct {
	l       net.Listener
	mu      sync.Mutex
	to      string                // guarded by mu: host:port, or the path of a socket; "": nobody is there
	deaf    chan struct{}         // guarded by mu: closed when what is open passes nothing any more
	slow    time.Duration         // guarded by mu: how late each packet is
	open    map[net.Conn]struct{} // guarded by mu
	running sync.WaitGroup
}

func newRelay(t testing.TB) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l, open: map[net.Conn]struct{}{}, deaf: make(chan struct{})}
	r.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // a listener that was open
		r.drop()
		r.running.Wait()
	})
	return r
}

// drop ends what is open.
func (r *relay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close() // or ends by itself
	}
}

// forget has the connections that are open stay so and never pass anything
// again, as when a machine loses its power, or a firewall its memory.
func (r *relay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.deaf)
	r.deaf = make(chan struct{})
}

func (r *relay) lead(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// pass copies both ways until one side ends.
func (r *relay) pass(from net.Conn) {
	defer from.Close()
	r.mu.Lock()
	address, deaf := r.to, r.deaf
	r.mu.Unlock()
	network := "tcp"
	if filepath.IsAbs(address) {
		network = "unix"
	}
	to, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer to.Close()
	r.mu.Lock()
	r.open[from], r.open[to] = struct{}{}, struct{}{}
	r.mu.Unlock()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		r.running.Go(func() {
			_, _ = io.Copy(&far{way[0], r, deaf}, way[1]) // ends when either does
			ended <- struct{}{}
		})
	}
	<-ended
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, from)
	delete(r.open, to)
}

// A far end of a relay is reached late, or not at all.
type far struct {
	net.Conn
	r    *relay
	deaf chan struct{} // closed when nothing arrives any more
}

func (f *far) Write(b []byte) (int, error) {
	f.r.mu.Lock()
	slow := f.r.slow
	f.r.mu.Unlock()
	time.Sleep(slow) // the way itself, not something that a test waits for
	select {
	case <-f.deaf:
		return len(b), nil
	default:
		return f.Conn.Write(b)
	}
}

const serverIdentity = "trust-server.example"

// A site is a folder with the configuration of a server and of its signer, and
// with the certificates that they need.
type site struct {
	dir      string
	ca       *authority       // of everything here
	caller   certificateFiles // what the server shows the signer
	operator certificateFiles
	tls      certificateFiles // of the server
	signerAt *relay
	signer   *process
	client   *http.Client

	signerStorage string
}

// kek returns a key-encryption key.
func kek(seed string) string { return strings.Repeat(seed, 64/len(seed)) }

func newSite(t testing.TB) *site {
	t.Helper()
	return newSiteOn(t, "sqlite:DIR/server/server.db", "sqlite:DIR/signer/signer.db")
}

// newSiteOn makes a site whose server and signer keep their data there.
func newSiteOn(t testing.TB, server, signer string) *site {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("processes are told to end by signals here")
	}
	dir := t.TempDir()
	s := &site{dir: dir, signerAt: newRelay(t), signerStorage: signer}
	s.ca = newAuthority(t, dir, "site")
	s.caller = s.ca.issue(t, dir, "caller", serverIdentity)
	s.operator = s.ca.issue(t, dir, "operator", "operator.example")
	s.tls = s.ca.issue(t, dir, "server", "localhost")
	s.ca.issue(t, dir, "signer", "signer.example")
	s.client = httpClient(t, s.ca, nil)
	for _, part := range []string{"server", "signer"} { // as in a sandbox
		if err := os.Mkdir(s.file(part), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s.file("signer/kek"), kek("0123456789abcdef"))
	s.configureSigner(t, "")
	write(t, s.file("server.yaml"), s.expand(`
listen: 127.0.0.1:0
authentication: none
tls: {certificate: DIR/server.crt, key: DIR/server.key}
storage: "`+server+`"
signer: {url: "https://SIGNER", ca: DIR/site-ca.crt, certificate: DIR/caller.crt, key: DIR/caller.key}
max-age: {current: 0s}
key-type: ed25519
`))
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

func (s *site) expand(text string) string {
	return strings.NewReplacer("DIR", s.dir, "SIGNER", s.signerAt.l.Addr().String()).Replace(text)
}

// configureSigner writes the signer's configuration, with more lines.
func (s *site) configureSigner(t testing.TB, more string) {
	t.Helper()
	if !strings.Contains(more, "\nkey-encryption-key:") {
		more += "\nkey-encryption-key: file:DIR/signer/kek"
	}
	write(t, s.file("signer.yaml"), s.expand(`
listen: 127.0.0.1:0
tls: {certificate: DIR/signer.crt, key: DIR/signer.key}
client-ca: DIR/site-ca.crt
storage: "`+s.signerStorage+`"
identities:
  `+serverIdentity+`: [sign, create]
  operator.example: [operate, forget]
`+more+"\n"))
}

func (s *site) startSigner(t testing.TB) *process {
	t.Helper()
	s.signer = start(t, "signer", "--config", s.file("signer.yaml"))
	s.signerAt.lead(s.signer.addr)
	return s.signer
}

func (s *site) startServer(t testing.TB) *process {
	t.Helper()
	return start(t, "server", "--config", s.file("server.yaml"))
}

// dial returns a client of the signer that shows a certificate.
func (s *site) dial(t testing.TB, ca *authority, show certificateFiles) *signer.Client {
	t.Helper()
	config := clientTLS(t, ca, &show)
	c, err := signer.Dial("https://"+s.signerAt.l.Addr().String(), func() *tls.Config { return config })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// forget is what an operator does after a repository was deleted.
func (s *site) forget(t testing.TB, gun tuf.GUN) {
	t.Helper()
	status, out, errs := runProcess(t, nil, "floor", "--config", s.file("server.yaml"), "--gun", string(gun), "--forget",
		"--signer-certificate", s.operator.Certificate, "--signer-key", s.operator.Key)
	if status != 0 || out != "forgotten: the next "+string(gun)+" begins anew\n" {
		t.Errorf("floor --forget = %d %q %s", status, out, errs)
	}
}

// check runs "iechor-trustd check" on the stores of both server and signer.
func (s *site) check(t testing.TB) (status int, stdout, stderr string) {
	t.Helper()
	if strings.HasPrefix(s.signerStorage, "sqlite:DIR/") {
		return runProcess(t, nil, "check", "--dir", s.dir) // whether they run or not
	}
	return runProcess(t, nil, "check", "--config", s.file("server.yaml"))
}

// sound fails the test unless check finds nothing.
func (s *site) sound(t testing.TB) {
	t.Helper()
	if status, out, errs := s.check(t); status != 0 || out != "nothing wrong found\n" || errs != "" {
		t.Errorf("check = %d\n%s%s", status, out, errs)
	}
}

// get fetches what every server knows by now, as publishers do, and returns the
// status and the body.
func (s *site) get(ctx context.Context, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
