package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

const childVariable = "IECHOR_TERMINAL_TEST"

// TestMain runs this program again as the one that asks, on a terminal of its
// own.
func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		os.Exit(child(what))
	}
	os.Exit(m.Run())
}

func child(what string) int {
	t := New(Config{Input: strings.NewReader("from standard input\n")})
	defer t.Close()
	ctx := context.Background()
	var answers []string
	var err error
	for _, kind := range strings.Fields(what) {
		var answer string
		switch kind {
		case "secret":
			var secret []byte
			secret, err = t.Secret(ctx, "Enter passphrase: ")
			answer = string(secret)
		case "line":
			answer, err = t.Line(ctx, "Name: ")
		case "confirm":
			var yes bool
			yes, err = t.Confirm(ctx, "Sure? [y/N] ")
			answer = fmt.Sprint(yes)
		case "notice":
			err = t.Notice("You are about to choose a passphrase.")
			continue
		case "timeout":
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			_, err = t.Secret(short, "Enter passphrase: ")
			cancel()
			answer = fmt.Sprint(errors.Is(err, context.DeadlineExceeded))
			err = nil
		}
		if err != nil {
			break
		}
		answers = append(answers, answer)
	}
	fmt.Printf("%q %v", answers, err)
	if errors.Is(err, ErrInterrupted) {
		return 130
	}
	return 0
}

// A console is both ends of a terminal, and the program that runs on it.
type console struct {
	t             *testing.T
	master, slave *os.File
	cmd           *exec.Cmd
	stdout        bytes.Buffer
	seen          []byte // all that was shown
	read          int    // how much of it wait has passed
}

func start(t *testing.T, what string) *console {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { _ = errors.Join(master.Close(), slave.Close()) })
	p := &console{t: t, master: master, slave: slave}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childVariable+"="+what)
	p.cmd.Stdout = &p.stdout
	p.cmd.Stderr = slave // the descriptor that becomes the controlling terminal
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	_ = master.SetReadDeadline(time.Now().Add(5 * time.Minute)) // against a hang only
	return p
}

func control(t *testing.T, f *os.File, do func(fd int) error) {
	t.Helper()
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}

// wait reads until text is shown.
func (p *console) wait(text string) {
	p.t.Helper()
	for {
		if at := bytes.Index(p.seen[p.read:], []byte(text)); at >= 0 {
			p.read += at + len(text)
			return
		}
		buffer := make([]byte, 256)
		n, err := p.master.Read(buffer)
		p.seen = append(p.seen, buffer[:n]...)
		if err != nil {
			p.t.Fatalf("waiting for %q: %v; shown %q", text, err, p.seen)
		}
	}
}

func (p *console) enter(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the program, and checks what it must leave behind.
func (p *console) end(stdout string, status int) {
	p.t.Helper()
	_ = p.cmd.Wait() // the status is compared
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Errorf("exit status %d, want %d", got, status)
	}
	if got := p.stdout.String(); got != stdout {
		p.t.Errorf("answers %s, want %s", got, stdout)
	}
	control(p.t, p.slave, func(fd int) error {
		mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && mode.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != unix.ECHO|unix.ICANON|unix.ISIG {
			p.t.Errorf("the terminal is left with local modes %#x: echo, lines or signals are off", mode.Lflag)
		}
		return err
	})
}

func TestSecret(t *testing.T) {
	t.Parallel()
	p := start(t, "notice secret secret")
	p.wait("You are about to choose a passphrase.\r\n")
	p.wait("Enter passphrase: ")
	p.enter("hunter2\r")
	p.wait("\r\n")
	p.wait("Enter passphrase: ")
	p.enter("\x04")
	p.wait("\r\n")
	p.end(`["hunter2" ""] <nil>`, 0)
	if bytes.Contains(p.seen, []byte("hunter2")) {
		t.Errorf("the secret was shown: %q", p.seen)
	}
}

func TestLineAndConfirm(t *testing.T) {
	t.Parallel()
	p := start(t, "line confirm confirm")
	p.wait("Name: ")
	p.enter("alicf\x7fe\r")
	p.wait("alicf\b \be\r\n")
	p.wait("Sure? [y/N] ")
	p.enter("Y\r")
	p.wait("Y\r\n")
	p.wait("Sure? [y/N] ")
	p.enter("\r")
	p.end(`["alice" "true" "false"] <nil>`, 0)
}

// What is typed ahead, in the terminal's own line mode, is an answer too.
func TestTypedAhead(t *testing.T) {
	t.Parallel()
	p := start(t, "line line line")
	p.enter("one\ntwo\n\x04")
	p.wait("Name: ")
	p.wait("Name: ")
	p.wait("Name: ")
	p.end(`["one" "two" ""] <nil>`, 0)
}

// spec/cli.md 4.3: one Ctrl-C ends the question and restores the terminal.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	p := start(t, "secret")
	p.wait("Enter passphrase: ")
	p.enter("hun\x03")
	p.wait("\r\n")
	p.end(`[] interrupted`, 130)
}

func TestInterruptFromOutside(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p := start(t, "secret")
		p.wait("Enter passphrase: ")
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		p.wait("\r\n")
		p.end(`[] interrupted`, 130)
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	p := start(t, "timeout line")
	p.wait("Enter passphrase: ")
	p.wait("Name: ")
	p.enter("alice\r")
	p.end(`["true" "alice"] <nil>`, 0)
}
