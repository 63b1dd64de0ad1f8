// Package databasetest gives tests real databases: PostgreSQL and MariaDB
// servers of their own, which nobody else uses, found where Debian installs
// them, on Unix sockets in a temporary folder. A test program starts each kind
// at most once; every test gets an empty database in it.
//
// Wrap the tests of a package in [Main], then call [Each], or [PostgreSQL] and
// [MariaDB]. [StartPair] and [StartGalera] are several servers that replicate,
// for tests that kill some.
//
// What is not installed is skipped with a line that names the Debian package;
// IECHOR_REQUIRE=postgres,mariadb,galera makes that a failure.
package databasetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
)

// Main wraps the tests of a program, so that the servers end with them:
//
//	func TestMain(m *testing.M) { os.Exit(databasetest.Main(m).Run()) }
func Main(m *testing.M) *Tests { return &Tests{m} }

// Tests are the tests of a program.
type Tests struct{ m *testing.M }

// Run runs them and returns the exit status.
func (t *Tests) Run() int {
	mu.Lock()
	wrapped = true
	mu.Unlock()
	code := t.m.Run()
	mu.Lock()
	defer mu.Unlock()
	for _, end := range slices.Backward(ends) {
		end()
	}
	return code
}

// What all tests of this program share.
var (
	mu      sync.Mutex
	wrapped bool                // guarded by mu
	ends    []func()            // guarded by mu
	started = map[string]any{}  // guarded by mu: by kind
	number  int                 // guarded by mu: of databases
	ports   = map[string]bool{} // guarded by mu: that were given out
)

// A Fresh makes an empty database, which is there until t ends, and returns
// its storage setting.
type Fresh func(t testing.TB) string

// Each runs a test with each kind of database, at the same time.
func Each(t *testing.T, test func(t *testing.T, fresh Fresh)) {
	for _, kind := range []struct {
		name  string
		fresh Fresh
	}{{"SQLite", SQLite}, {"PostgreSQL", PostgreSQL}, {"MariaDB", MariaDB}} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			test(t, kind.fresh)
		})
	}
}

// SQLite is a [Fresh] of a file.
func SQLite(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") }

// Open opens what a setting names until t ends.
func Open(t testing.TB, setting string) *database.DB {
	t.Helper()
	a, err := drivers.Parse(setting, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	db, err := a.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close database: %v", err)
		}
	})
	return db
}

// TakesPackets reports whether d sends several statements at once, to a server
// of MySQL.
func TakesPackets(t testing.TB, d *database.DB) (yes bool) {
	t.Helper()
	conn, err := d.SQL().Conn(t.Context())
	if err == nil {
		err = conn.Raw(func(c any) error {
			p, ok := c.(interface{ TakesPackets() bool })
			yes = ok && p.TakesPackets()
			return nil
		})
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// Required reports whether IECHOR_REQUIRE forbids to do without a peer.
func Required(peer string) bool {
	return slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), peer)
}

// missing skips the test, or fails it where the peer is required.
func missing(t testing.TB, peer, program, pkg string) {
	t.Helper()
	if Required(peer) {
		t.Fatalf("%s is required and not installed: apt-get install %s", program, pkg)
	}
	t.Skipf("%s is not installed: apt-get install %s", program, pkg)
}

// once returns the server of a kind, which start starts if nobody has.
func once[T any](t testing.TB, kind string, start func() (T, func(), error)) T {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if !wrapped {
		t.Fatal("TestMain must run databasetest.Main, or the servers would outlive the tests")
	}
	if s, ok := started[kind]; ok {
		if err, failed := s.(error); failed {
			t.Fatal(err)
		}
		return s.(T)
	}
	s, end, err := start()
	if err != nil {
		started[kind] = err
		t.Fatal(err)
	}
	started[kind] = s
	ends = append(ends, end)
	return s
}

func fresh() string {
	mu.Lock()
	defer mu.Unlock()
	number++
	return fmt.Sprintf("test%d", number)
}

// A process is a server that runs.
type process struct {
	name string
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed when it has ended
}

// An output keeps the end of what a server said.
type output struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b, p...)
	o.b = o.b[max(0, len(o.b)-8<<10):]
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(bytes.TrimSpace(o.b))
}

// start starts a server as a user. The system ends it if this program dies.
func start(user account, name string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(name), cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Dir = "/"
	p.cmd.SysProcAttr = user.attributes()
	p.cmd.WaitDelay = 10 * time.Second // for what still holds its output
	begun := make(chan error)
	go func() {
		stay() // the system watches the thread that started it
		begun <- p.cmd.Start()
		if p.cmd.Process != nil {
			_ = p.cmd.Wait() // how it ended does not matter
		}
		close(p.done)
	}()
	if err := <-begun; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// end ends the process with a signal, or kills it when that takes too long.
func (p *process) end(s os.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.kill()
	}
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// patience is how long a server may take to start, on a busy machine.
const patience = 3 * time.Minute

// until waits until ready returns nil.
func (p *process) until(ready func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v\n%s", p.name, p.cmd.ProcessState, &p.out)
		case <-late:
			return fmt.Errorf("%s is not ready: %w\n%s", p.name, err, &p.out)
		case <-tick.C:
		}
	}
}

// run runs a command that ends by itself.
func run(user account, name string, args ...string) error {
	p, err := start(user, name, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("%s: %v\n%s", p.name, p.cmd.ProcessState, &p.out)
	}
	return nil
}

// folder makes a temporary folder that a user owns. Its path is short, as it
// holds sockets.
func folder(user account, name string) (string, error) {
	dir, err := os.MkdirTemp("", "iechor-"+name+"-")
	if err != nil {
		return "", err
	}
	if err := user.own(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// FreePort returns a port of the loopback address that nobody listens on, and
// that the system gives to nobody who asks for any.
func FreePort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(12_000 + rand.IntN(20_000))
		mu.Lock()
		taken := ports[port]
		ports[port] = true
		mu.Unlock()
		if taken {
			continue
		}
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}
