package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A process is a service that runs until its context ends. One that ends by
// itself is started again: the stock server is known to end itself
// ("concurrent map writes"), and would otherwise take the measurement along.
type process struct {
	name  string
	lives atomic.Int64 // how often it was started
	pid   atomic.Int64
	past  atomic.Int64  // CPU time of earlier lives, in nanoseconds
	done  chan struct{} // closed when it will not be started again
	err   error         // set before done is closed: why it is not
}

// A process that is not ready after startTime has failed; one that does not end
// within endTime is killed.
const (
	startTime = 3 * time.Minute
	endTime   = 10 * time.Second
)

// start starts the process; running waits for it. Its output goes to the file
// log, so that an error can show the end of it.
func start(ctx context.Context, running *sync.WaitGroup, log string, env []string, name string, argv ...string) (*process, error) {
	p := &process{name: filepath.Base(argv[0]) + " " + name, done: make(chan struct{})}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	running.Go(func() {
		defer close(p.done)
		defer out.Close()
		for early := 0; early < 3; {
			began := time.Now()
			c := command(ctx, env, argv...)
			c.Stdout, c.Stderr = out, out
			err := c.Start()
			if err == nil {
				p.pid.Store(int64(c.Process.Pid))
				p.lives.Add(1)
				err = c.Wait()
				p.past.Add(int64(c.ProcessState.UserTime() + c.ProcessState.SystemTime()))
			}
			if ctx.Err() != nil {
				p.err = ctx.Err()
				return
			}
			p.err = fmt.Errorf("%s ended by itself: %v%s", p.name, err, tail(log))
			if time.Since(began) < time.Second {
				early++ // it does not run at all
			} else {
				early = 0
			}
		}
	})
	return p, nil
}

// command returns a command that is interrupted when ctx ends, and killed if
// it does not end then.
func command(ctx context.Context, env []string, argv ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env = append(os.Environ(), env...)
	c.Cancel = func() error {
		if err := c.Process.Signal(os.Interrupt); err != nil {
			return c.Process.Kill() // where there are no signals
		}
		return nil
	}
	c.WaitDelay = endTime
	return c
}

// until waits until try succeeds, as long as the process lives.
func (p *process) until(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", p.name, err)
		case <-tick.C:
		}
	}
}

// tail returns the end of a log, for an error.
func tail(log string) string {
	raw, err := os.ReadFile(log)
	if err != nil || len(raw) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-5):], "\n")
}

var errNoCPU = errors.New("this system does not tell how much CPU time a process used")

// cpu returns the CPU time that the process has used, in all its lives. Threads
// that have ended are not in it; the programs measured here keep theirs.
func (p *process) cpu() (time.Duration, error) {
	files, err := filepath.Glob(filepath.Join("/proc", strconv.FormatInt(p.pid.Load(), 10), "task", "*", "schedstat"))
	if err != nil || len(files) == 0 {
		return 0, errNoCPU
	}
	sum := time.Duration(p.past.Load())
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // it ended just now
		}
		first, _, _ := strings.Cut(string(raw), " ")
		n, perr := strconv.ParseInt(first, 10, 64)
		if err != nil || perr != nil {
			return 0, errNoCPU
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// familyCPU returns the CPU time that a process and its children have used, in
// steps of 10 ms: those that run, and those that it has waited for.
func familyCPU(pid int) (time.Duration, error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(all) == 0 {
		return 0, errNoCPU
	}
	const ppid, used, waited, end = 1, 11, 13, 15 // fields behind the name
	var ticks int64
	found := false
	for _, name := range all {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // it ended just now
		}
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		is := name == filepath.Join("/proc", strconv.Itoa(pid), "stat")
		switch {
		case len(fields) < end || !is && fields[ppid] != strconv.Itoa(pid):
			continue
		case is:
			found, fields = true, fields[used:end]
		default:
			fields = fields[used:waited]
		}
		for _, f := range fields {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, errNoCPU
			}
			ticks += n
		}
	}
	if !found {
		return 0, errNoCPU
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
