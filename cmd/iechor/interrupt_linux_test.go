package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// interrupt runs a program on a terminal of its own, waits for prompts and
// answers them, and presses Ctrl-C at the last one:
//
//	interrupt PROMPT[=ANSWER]… -- PROGRAM ARGS…
//
// An answer ^C is that key. Afterwards the terminal must be as it was, the
// exit status 130, and no answer may have been shown.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	split := 0
	for split < len(args) && args[split] != "--" {
		split++
	}
	if split+1 >= len(args) {
		ts.Fatalf("usage: interrupt PROMPT[=ANSWER]… -- PROGRAM ARGS…")
	}
	master, slave, err := pty.Open()
	ts.Check(err)
	ts.Defer(func() { _ = errors.Join(master.Close(), slave.Close()) })
	program, err := lookPath(ts, args[split+1])
	ts.Check(err)
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program, args[split+2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environment(ts)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	ts.Check(cmd.Start())
	ts.Defer(func() { _ = cmd.Process.Kill() })                       // only if it hangs
	ts.Check(master.SetReadDeadline(time.Now().Add(5 * time.Minute))) // against a hang only
	seen, read := []byte(nil), 0
	for _, arg := range args[:split] {
		prompt, answer, _ := strings.Cut(arg, "=")
		for {
			if at := bytes.Index(seen[read:], []byte(prompt)); at >= 0 {
				read += at + len(prompt)
				break
			}
			buffer := make([]byte, 256)
			n, err := master.Read(buffer)
			seen = append(seen, buffer[:n]...)
			if err != nil {
				ts.Fatalf("waiting for %q: %v; shown %q, stderr %q", prompt, err, seen, stderr.String())
			}
		}
		key := answer + "\r"
		if answer == "" || answer == "^C" {
			answer, key = "", "\x03"
		}
		_, err := master.WriteString(key)
		ts.Check(err)
		if answer != "" && bytes.Contains(seen, []byte(answer)) {
			ts.Fatalf("the answer is shown: %q", seen)
		}
	}
	_ = cmd.Wait() // the status is compared
	if got := cmd.ProcessState.ExitCode(); got != exitInterrupted {
		ts.Fatalf("exit status %d, want %d; stderr %q", got, exitInterrupted, stderr.String())
	}
	if stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "iechor: interrupted") {
		ts.Fatalf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
	mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	ts.Check(err)
	if want := uint32(unix.ECHO | unix.ICANON | unix.ISIG); mode.Lflag&want != want {
		ts.Fatalf("the terminal is left with local modes %#x: echo, lines or signals are off", mode.Lflag)
	}
}

// lookPath finds a program in the script's PATH.
func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// environment is what a program started by exec would see of it.
func environment(ts *testscript.TestScript) []string {
	env := []string{"PATH=" + ts.Getenv("PATH")}
	for _, name := range []string{"HOME", "STATUS", "LATER", "GORACE", switchVariable, serverVariable, rootPassphraseVariable, repositoryPassphraseVariable} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}
