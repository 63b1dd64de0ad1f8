package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/sandbox"
)

// The README's first command: every scene ends as content trust promises, or
// the tour fails by itself.
func TestTour(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{out: &out, err: &out, env: os.Getenv, now: time.Now}
	if status := a.run(context.Background(), []string{"sandbox", "--tour", "--exit", "--registry-addr", "127.0.0.1:0", "--trust-addr", "127.0.0.1:0"}); status != 0 {
		t.Fatalf("the tour ends with status %d:\n%s", status, out.String())
	}
	for _, want := range []string{
		"Successfully signed localhost:", "Pull (1 of 1): ", "filesystem layer verification failed for digest sha256:", "No valid trust data for unsigned",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tour does not show %q:\n%s", want, out.String())
		}
	}
}

// The commands of the README's five minutes by hand, in their order.
func TestReadmeTour(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the README's commands are for a Unix shell")
	}
	s, err := sandbox.Start(context.Background(), sandbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	a := &app{out: os.Stdout, err: &bytes.Buffer{}, env: os.Getenv, now: time.Now}
	client, err := findClient(context.Background(), a, s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "## Five minutes by hand")
	section, _, _ = strings.Cut(section, "\n## ")
	statuses := []int{0, 0, 0, 0, 0, 3, 1}
	env := append(os.Environ(), append(s.Env(), append(tourPassphrases,
		"SANDBOX="+s.Dir, "PATH="+filepath.Dir(client)+string(os.PathListSeparator)+os.Getenv("PATH"))...)...)
	dir := t.TempDir()
	n := 0
	for line := range strings.Lines(section) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		if n == len(statuses) {
			t.Fatalf("the README has more commands than this test expects: %s", command)
		}
		c := exec.Command("sh", "-c", strings.ReplaceAll(command, "localhost:5000", s.Registry))
		c.Dir, c.Env = dir, env
		text, err := c.CombinedOutput()
		status := 0
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if status != statuses[n] {
			t.Fatalf("%sends with status %d, want %d:\n%s", command, status, statuses[n], text)
		}
		n++
	}
	if n != len(statuses) {
		t.Errorf("the README has %d commands, want %d", n, len(statuses))
	}
}
