package pivtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vpcd is the driver of virtual readers (Debian: vsmartcard-vpcd).
const vpcd = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"

// SocketVariable tells programs that use libpcsclite where the daemon is.
const SocketVariable = "PCSCLITE_CSOCK_NAME"

// A Daemon is a pcscd with two readers. It has file systems and a network of
// its own, so that nobody else on the machine meets its cards.
type Daemon struct {
	// Socket is the value of [SocketVariable] that reaches this daemon.
	Socket  string
	Readers [2]*Reader

	cmd   *exec.Cmd
	alive io.Closer // when it is closed, the daemon ends
}

// apart makes a process that sees mounts and networks of its own.
func apart(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	return cmd
}

// Missing says what is not here that [Start] needs; empty if nothing.
func Missing() string {
	if _, err := exec.LookPath("pcscd"); err != nil {
		return "no pcscd here: apt-get install pcscd"
	}
	if _, err := os.Stat(vpcd); err != nil {
		return "no vpcd here: apt-get install vsmartcard-vpcd"
	}
	if err := apart("true").Run(); err != nil {
		return "no namespaces for an emulated card here: run as root, where they are allowed"
	}
	return ""
}

// Peer skips the test unless an emulated card is possible here. If
// IECHOR_REQUIRE names pcscd, it fails instead.
func Peer(t testing.TB) {
	t.Helper()
	why := Missing()
	switch {
	case why == "":
	case slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), "pcscd"):
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// Start runs a daemon with empty readers.
func Start() (*Daemon, error) {
	dir, err := os.MkdirTemp("", "piv") // sockets have no long names
	if err != nil {
		return nil, err
	}
	d := &Daemon{Socket: filepath.Join(dir, "run", "pcscd.comm")}
	if err := d.start(dir); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("start pcscd: %w", err)
	}
	return d, nil
}

const port = 35963 // of the first reader, in the daemon's own network

// conf describes readers that Yubico's programs take for theirs.
const conf = `FRIENDLYNAME "Yubico YubiKey OTP+FIDO+CCID"
DEVICENAME /dev/null:%d
LIBPATH %s
CHANNELID %d
`

// script runs in the daemon's namespaces, and ends with its standard input.
const script = `mkdir -p /run/pcscd
mount --bind "$1/run" /run/pcscd
pcscd --foreground --config "$1/reader.conf" </dev/null >"$1/log" 2>&1 &
read end || true
kill $!
wait || true`

func (d *Daemon) start(dir string) error {
	for _, p := range []string{"run", "drop"} {
		if err := os.Mkdir(filepath.Join(dir, p), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "reader.conf"), fmt.Appendf(nil, conf, port, vpcd, port), 0o600); err != nil {
		return err
	}
	d.cmd = apart("sh", "-ec", script, "sh", dir)
	d.cmd.Env = append(os.Environ(), "PCSCLITE_HP_DROPDIR="+filepath.Join(dir, "drop")) // no real readers
	var err error
	if d.alive, err = d.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	for i := range d.Readers {
		d.Readers[i] = newReader(fmt.Sprintf("/proc/%d/ns/net", d.cmd.Process.Pid), port+i)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", d.Socket)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return errors.Join(fmt.Errorf("it does not listen: %w\n%s", err, text), d.Stop())
		}
	}
}

// Stop ends the daemon. Stopping again does nothing.
func (d *Daemon) Stop() error {
	if d.cmd == nil {
		return nil
	}
	for _, r := range d.Readers {
		r.close()
	}
	err := errors.Join(d.alive.Close(), d.cmd.Wait(), os.RemoveAll(filepath.Dir(filepath.Dir(d.Socket))))
	d.cmd = nil
	return err
}

// A Reader is a virtual reader. The daemon looks into it a few times a second.
type Reader struct {
	network string // the daemon's
	address string // of the driver
	done    sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	moved  *sync.Cond
	closed bool
	card   *Card
	conn   net.Conn // to the driver
	seen   int      // how often the daemon has looked since the last change
}

func newReader(network string, port int) *Reader {
	r := &Reader{network: network, address: fmt.Sprintf("127.0.0.1:%d", port)}
	r.moved = sync.NewCond(&r.mu)
	r.done.Go(r.run)
	return r
}

func (r *Reader) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Unplug()
	r.done.Wait()
}

// Insert puts a card in, and returns when the daemon has seen it: it reads the
// answer to reset when it looks, when it powers the card up, and then again.
func (r *Reader) Insert(c *Card) { r.put(c, 4) }

// Pull takes the card out, and returns when the daemon has seen that.
func (r *Reader) Pull() { r.put(nil, 2) }

// Unplug takes the card out at once: it may be called while the card works.
func (r *Reader) Unplug() { r.put(nil, 0) }

// put changes the card, and waits until the daemon has looked a few times.
func (r *Reader) put(c *Card, looks int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.card, r.seen = c, 0
	if r.conn != nil {
		_ = r.conn.Close() // a card that is pulled out says nothing more
	}
	for r.seen < looks && !r.closed {
		r.moved.Wait()
	}
}

// take makes conn the connection to the driver, unless the reader is closed.
func (r *Reader) take(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = conn
	return !r.closed
}

// run keeps a connection to the driver, whose network a thread has to enter
// for that. The thread ends with it.
func (r *Reader) run() {
	runtime.LockOSThread()
	if err := enter(r.network); err != nil {
		panic(fmt.Sprint("the network of an emulated card: ", err))
	}
	for r.take(nil) {
		conn, err := net.Dial("tcp", r.address)
		if err != nil { // the driver is not there yet
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if r.take(conn) {
			_ = r.serve(conn.(*net.TCPConn)) // it ends with the connection
		}
		_ = conn.Close()
	}
}

// enter moves the thread into a network, and brings up its loopback device.
func enter(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// What the driver sends besides commands: off, on, reset, and this.
const vpcdATR = 4

// serve speaks the driver's protocol: a length of two bytes, and a command or
// a byte that is no command. Which card is in the reader counts when the
// driver asks for the first time; without one, the connection ends.
func (r *Reader) serve(conn *net.TCPConn) error {
	var c *Card
	for first := true; ; first = false {
		in, err := read(conn)
		if err != nil {
			return err
		}
		if first {
			c = r.look(nil)
			if c == nil {
				return nil
			}
			c.PowerOff()
		}
		var out []byte
		switch {
		case len(in) == 1 && in[0] == vpcdATR:
			r.look(c)
			out = c.ATR()
		case len(in) == 1:
			c.PowerOff()
			continue
		default:
			out = c.Process(in)
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return err
		}
	}
}

// look counts a look of the daemon at card, if that is what is there, and
// returns what is.
func (r *Reader) look(c *Card) *Card {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.card == c {
		r.seen++
		r.moved.Broadcast()
	}
	return r.card
}

// read reads one message. The driver writes the length first and waits, with
// the rest, until it is acknowledged: without TCP_QUICKACK that takes 40 ms.
func read(conn *net.TCPConn) ([]byte, error) {
	var head [2]byte
	if err := quickly(conn); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	if err := quickly(conn); err != nil {
		return nil, err
	}
	in := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(conn, in)
	return in, err
}

func quickly(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
	if err != nil {
		return err
	}
	return set
}
