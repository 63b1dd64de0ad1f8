package main

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// The time of a process and its children is counted, and one that is gone is no
// process that used none.
func TestFamilyCPU(t *testing.T) {
	t.Parallel()
	before, err := familyCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "-test.run=^TestBurn$")
	c.Env = append(os.Environ(), "BENCH_BURN=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after, err := familyCPU(os.Getpid())
	if used := c.ProcessState.UserTime() + c.ProcessState.SystemTime(); err != nil || after-before < used-20*time.Millisecond {
		t.Errorf("familyCPU grew by %v, %v, when a child had used %v", after-before, err, used)
	}
	if _, err := familyCPU(c.Process.Pid); err == nil {
		t.Error("a process that has ended is counted")
	}
}

// TestBurn is the child of TestFamilyCPU.
func TestBurn(t *testing.T) {
	if os.Getenv("BENCH_BURN") == "" {
		return
	}
	for sum := [32]byte{}; ; sum = sha256.Sum256(sum[:]) {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			t.Fatal(err)
		}
		if used.Utime.Nano()+used.Stime.Nano() > 100*int64(time.Millisecond) {
			return
		}
	}
}
