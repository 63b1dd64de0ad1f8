//go:build race

package cmdtest

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// mode tells a copy of this program what to be: the tests of a program whose
// child races, or that child.
const mode = "CMDTEST_MODE"

func TestMain(m *testing.M) {
	switch os.Getenv(mode) {
	case "tests":
		os.Exit(Main(parent{}).Run())
	case "child":
		race()
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// A parent are tests that want their child to fail, and so do not mind how.
type parent struct{}

func (parent) Run() int {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), mode+"=child")
	if err := c.Run(); err == nil {
		return 1
	}
	return 0
}

// race has two goroutines write one variable.
func race() {
	var n int
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { n++ })
	}
	both.Wait()
}

// A race in a process that is expected to fail is a failure all the same.
func TestRaceInAChild(t *testing.T) {
	t.Parallel()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), mode+"=tests", "GORACE=", "TMPDIR="+t.TempDir())
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "WARNING: DATA RACE") || !strings.Contains(string(out), "cmdtest.race") {
		t.Errorf("tests whose child races: %v\n%s", err, out)
	}
}
