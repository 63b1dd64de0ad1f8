// Package cmdtest runs the tests of programs whose tests start the program as
// a process, again and again. Wrap the tests of a package in [Main].
package cmdtest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Main wraps the tests m of a program, so that what the race detector finds in
// the processes that they start fails them:
//
//	func TestMain(m *testing.M) { os.Exit(cmdtest.Main(m).Run()) }
func Main(m interface{ Run() int }) *Tests { return &Tests{m} }

// Tests are the tests of a program.
type Tests struct{ m interface{ Run() int } }

// Run runs them and returns the exit status.
//
// In a build for the race detector, every process of the program is watched as
// the tests themselves are, by options in GORACE: a test that gives a process
// an environment of its own passes that variable on.
//
//   - A report goes into a file here, and one file is a failure. On stderr it
//     would go unseen wherever a test expects the process to fail.
//   - A process that ends does not wait first for a second, its default, in
//     which goroutines left behind could race. Those seconds were most of the
//     time of these tests. What is no longer seen is only a race with a goroutine
//     that outlives main, after main's last line: it would need a command that
//     returns before its work is done. All that happens before is seen as ever.
func (t *Tests) Run() int {
	dir, err := os.MkdirTemp("", "races")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }() // empty, or just shown
		// The user's own options come last, and so they win.
		err = os.Setenv("GORACE", "atexit_sleep_ms=0 log_path="+filepath.Join(dir, "report")+" "+os.Getenv("GORACE"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare for reports of races:", err)
		return 1
	}
	code := t.m.Run()
	files, err := filepath.Glob(filepath.Join(dir, "report.*"))
	if err != nil {
		panic(err) // the pattern is bad
	}
	for _, file := range files {
		report, err := os.ReadFile(file)
		fmt.Fprintf(os.Stderr, "--- FAIL: a process that a test started has a race (%v)\n%s", err, report)
		code = 1
	}
	return code
}
