package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/iechor/trust/sandbox/sandboxtest"
)

// onFullDisks are the commands whose writes fail: one by one with
// IECHOR_FAULTS=every, else some of them.
var onFullDisks = []string{"key generate", "key import", "key passwd", "key rotate targets", "key rotate root", "first push", "publish", "delete"}

// A client whose disk is full, or whose files cannot be made durable, says so
// in a sentence; no key is lost, and the same command works when there is
// space.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	if !sandboxtest.CanFail {
		t.Skip("calls can be made to fail on linux/amd64 alone")
	}
	s := startKillSandbox(t)
	images := twoImages(t)
	for _, c := range killCases {
		if !slices.Contains(onFullDisks, c.name) {
			continue
		}
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			t.Run(fmt.Sprint(c.name, " ", errno), func(t *testing.T) {
				t.Parallel()
				step := 5 // a file is replaced by three changes
				switch {
				case os.Getenv("IECHOR_FAULTS") == "every":
					step = 1
				case raceDetector:
					step = 11
				}
				for n := 0; ; n += step {
					gun := fmt.Sprintf("%s/%s-%d-%d", s.Registry, strings.ReplaceAll(c.name, " ", "-"), errno, n)
					w := &killWorld{t: t, at: fmt.Sprint("change ", n, " fails"), gun: gun, layout: images, home: t.TempDir(), server: s}
					if w.try(c, sandboxtest.Fault{Errno: errno, First: n, Count: 1 + n%2*1000}) {
						t.Logf("at most %d changes", n)
						return
					}
				}
			})
		}
	}
}

// said sees that the client has done its work, or says in a sentence why not.
func (w *killWorld) said(errno syscall.Errno, what, out string) {
	w.t.Helper()
	if strings.HasSuffix(what, ", ended 0") {
		return
	}
	if !strings.HasSuffix(what, ", ended 1") || !strings.Contains(out, errno.Error()) || !strings.Contains(out, "hint: ") || strings.Contains(out, "report it") {
		w.t.Errorf("%s: the client says\n%s", w.at, out)
	}
}
