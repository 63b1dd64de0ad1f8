package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/iechor/trust/sandbox/sandboxtest"
	"github.com/iechor/trust/tuf"
)

// A faultWorld is a site one process of which has faults, and the repositories
// that are published to it.
type faultWorld struct {
	*site
	t     *testing.T
	part  string // "server" or "signer": which one it is
	other *process
	repos []*faultRepo
	begun bool // it has started once, and made its tables
}

// A faultRepo is a repository, and what of it was acknowledged.
type faultRepo struct {
	*publisher
	tags []string
	next string // what is to be published next; "" if nothing
}

func newFaultWorld(t *testing.T, part string) *faultWorld {
	w := &faultWorld{site: newSite(t), t: t, part: part}
	if part == "server" {
		w.startSigner(t)
	} else {
		w.startSigner(t).stop() // the keys are there
		w.other = w.startServer(t)
	}
	return w
}

// start starts the process with a fault. It has ended if it does not listen.
func (w *faultWorld) start(f sandboxtest.Fault) (p *process, report func() string) {
	w.t.Helper()
	f.Dir, f.Report = w.file(w.part), w.file("report")
	if err := os.RemoveAll(f.Report); err != nil {
		w.t.Fatal(err)
	}
	c := f.Command("iechor-trustd", w.part, "--config", w.file(w.part+".yaml"))
	c.Env = program(w.t, nil).Env
	p = begin(w.t, c)
	w.begun = w.begun || p.addr != ""
	if w.part == "signer" && p.addr != "" {
		w.signerAt.lead(p.addr)
	}
	return p, func() string {
		<-p.done
		raw, err := os.ReadFile(f.Report)
		if err != nil {
			w.t.Fatal(err)
		}
		return string(raw)
	}
}

// server is the server that is asked, p or the one beside it.
func (w *faultWorld) server(p *process) *process {
	if w.other != nil {
		return w.other
	}
	return p
}

// work has everything published that is due: what the last process did not
// acknowledge, then two tags of a new repository. It ends at an error.
func (w *faultWorld) work(at *process) error {
	if len(w.repos) > 0 {
		r := w.repos[len(w.repos)-1]
		if len(r.tags) > 0 {
			r.has(at, r.tags...)
		}
		if err := w.advance(r, at); err != nil {
			return err
		}
	}
	gun := tuf.GUN(fmt.Sprint("registry.example/app", len(w.repos)))
	r := &faultRepo{publisher: newPublisher(w.t, w.site, gun), next: "first"}
	w.repos = append(w.repos, r)
	if err := w.advance(r, at); err != nil {
		return err
	}
	r.next = "second"
	return w.advance(r, at)
}

// advance publishes what is due to r.
func (w *faultWorld) advance(r *faultRepo, at *process) error {
	if r.next == "" {
		return nil
	}
	err := r.publish(w.t.Context(), at, r.next)
	if errors.Is(err, tuf.ErrIncomplete) {
		err = r.init(w.t.Context(), at, r.next)
	}
	if err == nil {
		r.tags, r.next = append(r.tags, r.next), ""
	}
	return err
}

// settled fails the test unless both stores are sound and everything that was
// acknowledged is there, with processes that have no faults.
func (w *faultWorld) settled() {
	w.t.Helper()
	p, _ := w.start(sandboxtest.Fault{})
	if err := w.work(w.server(p)); err != nil {
		w.t.Errorf("publish when all is well: %v", err)
	}
	for _, r := range w.repos {
		if len(r.tags) > 0 {
			r.has(w.server(p), r.tags...)
		}
	}
	p.stop()
	w.sound(w.t)
}

// each calls try with 0, 1, 2 and so on until it reports that there were not so
// many changes. Most are left out unless IECHOR_FAULTS=every: what is looked for
// hardly depends on the one write.
func each(t *testing.T, step int, try func(n int) (ended bool)) {
	t.Helper()
	if os.Getenv("IECHOR_FAULTS") == "every" {
		step = 1
	} else if raceDetector {
		step *= 5
	}
	tried := 0
	for n := 0; !try(n); n += step {
		if tried++; t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("measured: %d of the moments tried", tried)
}

// Server and signer are killed before each change of their files: while they
// start, also on what an earlier kill has left, and while they publish. Nothing
// that was acknowledged is lost, the stores are sound, and the next process
// goes on by itself.
func TestKilledAtEachWrite(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"server", "signer"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			w := newFaultWorld(t, part)
			each(t, 8, func(n int) (ended bool) {
				p, report := w.start(sandboxtest.Fault{First: n, Count: 1})
				var err error
				if p.addr != "" {
					err = w.work(w.server(p))
				}
				if p.addr != "" && err == nil {
					p.stop()
				}
				what := report()
				if status := refusedBy(err); err != nil && (part == "server") != (status == 0) {
					t.Errorf("write %d, %s: %v", n, what, err)
				}
				w.stillSound(n, what)
				return strings.HasPrefix(what, "ended ")
			})
			w.settled()
		})
	}
}

// Writes and syncs of server and signer fail, once or for a while. Whatever
// could not be made durable is not acknowledged; when the disk is well again,
// the same process goes on.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	if !sandboxtest.CanFail {
		t.Skip("calls can be made to fail on linux/amd64 alone")
	}
	for _, part := range []string{"server", "signer"} {
		for _, fails := range []struct {
			errno syscall.Errno
			step  int
		}{{syscall.ENOSPC, 12}, {syscall.EIO, 1}} {
			t.Run(fmt.Sprint(part, " ", fails.errno), func(t *testing.T) {
				t.Parallel()
				w := newFaultWorld(t, part)
				refused, ended := 0, 0
				each(t, fails.step, func(n int) bool {
					p, report := w.start(sandboxtest.Fault{Errno: fails.errno, First: n, Count: 1 + n%2*9})
					if p.addr != "" {
						for tries := 1; ; tries++ {
							err := w.work(w.server(p))
							if err == nil {
								break
							}
							if refused++; refusedBy(err) < 500 || tries == 100 {
								t.Fatalf("try %d with the %d-th change that fails: %v", tries, n, err)
							}
						}
						p.stop()
					} else if ended++; strings.Count(p.log.String(), "\n") != 1 || !strings.HasPrefix(p.log.String(), "iechor-trustd: ") {
						t.Errorf("%s did not start, and says:\n%s", part, &p.log)
					}
					what := report()
					w.stillSound(n, what)
					return strings.HasPrefix(what, "ended ")
				})
				t.Logf("measured: %d publishes refused, %d starts", refused, ended)
				w.settled()
			})
		}
	}
}

// A disk on which no sync succeeds: nothing is acknowledged, everything that
// was is served, and nothing is lost of it.
func TestNothingWithoutSync(t *testing.T) {
	t.Parallel()
	if !sandboxtest.CanFail {
		t.Skip("calls can be made to fail on linux/amd64 alone")
	}
	for _, part := range []string{"server", "signer"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			w := newFaultWorld(t, part)
			w.settled()
			old := w.repos[0]
			p, report := w.start(sandboxtest.Fault{Errno: syscall.EIO, Count: 1e6})
			for n := 1; p.addr == "" && n < 10; n++ { // a signer enters itself into its table
				p, report = w.start(sandboxtest.Fault{Errno: syscall.EIO, First: n, Count: 1e6})
			}
			if p.addr == "" {
				t.Fatalf("%s does not start:\n%s", part, &p.log)
			}
			for i := range 10 {
				if err := old.publish(t.Context(), w.server(p), fmt.Sprint("never", i)); refusedBy(err) < 500 {
					t.Errorf("publish %d = %v, want 5xx", i, err)
				}
				if err := w.work(w.server(p)); refusedBy(err) < 500 {
					t.Errorf("first publish %d = %v, want 5xx", i, err)
				}
				old.has(w.server(p), old.tags...)
			}
			p.stop()
			if what := report(); !strings.HasPrefix(what, "sync ") {
				t.Errorf("no sync has failed: %s", what)
			}
			w.settled()
		})
	}
}

// stillSound fails the test unless check finds nothing.
func (w *faultWorld) stillSound(n int, what string) {
	w.t.Helper()
	if status, out, errs := runApp(w.t, nil, "check", "--dir", w.dir); status != 0 && w.begun {
		w.t.Errorf("change %d, %s: check = %d\n%s%s", n, what, status, out, errs)
	}
}
