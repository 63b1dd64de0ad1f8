package main

import (
	"errors"
	"testing"

	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

// A no is a refusal like any other of first use; Ctrl-C is none.
func TestFirstUseErrors(t *testing.T) {
	t.Parallel()
	no := role("root", &firstUseError{gun: someRepository})
	if !errors.Is(no, tuf.ErrPin) || !errors.Is(no, tuf.ErrRoot) {
		t.Errorf("%v matches neither ErrPin nor ErrRoot", no)
	}
	if _, _, exit := explain(no); exit != exitUntrusted {
		t.Errorf("explain(%v) exits with %d, want %d", no, exit, exitUntrusted)
	}
	stopped := role("root", terminal.ErrInterrupted)
	if _, _, exit := explain(stopped); exit != exitInterrupted {
		t.Errorf("explain(%v) exits with %d, want %d", stopped, exit, exitInterrupted)
	}
}
