package signer

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// attacks.md G5: after Harden there is no core dump and no debugger. It is
// tried in a process of its own, since it cannot be undone.
func TestAttackCoreDump(t *testing.T) {
	t.Parallel()
	const mark = "IECHOR_TEST_HARDEN"
	if os.Getenv(mark) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestAttackCoreDump$", "-test.v")
		cmd.Env = append(os.Environ(), mark+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "hardened:") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	locked, err := Harden()
	if err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable = %d, %v, want 0", dumpable, err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil || l.Cur != 0 || l.Max != 0 {
		t.Errorf("core limit = %+v, %v, want 0", l, err)
	}
	if locked {
		// Memory that is taken later must still be there for the taking.
		b := make([]byte, 64<<20)
		b[len(b)-1] = 1
	}
	t.Log("hardened: memory locked:", locked)
}
