package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
)

// clockFile names a file that says how far the clock of a process is wrong.
const clockFile = "IECHOR_TRUSTD_TEST_CLOCK"

// clockMain is main with a clock that a file sets, at any time.
func clockMain() {
	ctx, stop := signal.NotifyContext(context.Background(), stopSignal)
	defer stop()
	now := func() time.Time {
		raw, err := os.ReadFile(os.Getenv(clockFile))
		if err != nil {
			panic(err)
		}
		wrong, err := time.ParseDuration(strings.TrimSpace(string(raw)))
		if err != nil {
			panic(err)
		}
		return time.Now().Add(wrong)
	}
	os.Exit((&app{out: os.Stdout, err: os.Stderr, env: os.Getenv, now: now}).run(ctx, os.Args[1:]))
}

// The clocks of server and signer jump by years while they run, one of them or
// both, forward and back. A publish may be refused meanwhile; nothing that was
// acknowledged is lost, no consumer is sent back, and when the clocks are right
// again everything works, with the same processes.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	at := func(part string) string { return s.file(part + ".clock") }
	set := func(part string, wrong time.Duration) {
		// Replaced in one step: it is read all the time.
		write(t, at(part)+".new", wrong.String())
		if err := os.Rename(at(part)+".new", at(part)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(part string) *process {
		set(part, 0)
		c := program(t, []string{clockFile + "=" + at(part)}, part, "--config", s.file(part+".yaml"))
		path, err := exec.LookPath("iechor-trustd-clock")
		if err != nil {
			t.Fatal(err)
		}
		c.Path = path
		c.Args[0] = "iechor-trustd-clock"
		return startCommand(t, c)
	}
	s.signer = run("signer")
	s.signerAt.lead(s.signer.addr)
	server := run("server")
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	tags := []string{"first"}
	const year = 365 * 24 * time.Hour
	for _, jump := range []struct {
		name           string
		server, signer time.Duration
	}{
		{"both-forward", 2 * year, 2 * year}, {"both-back", -2 * year, -2 * year},
		{"server-forward", 20 * year, 0}, {"server-back", -20 * year, 0},
		{"signer-forward", 0, 20 * year}, {"signer-back", 0, -20 * year},
	} {
		set("server", jump.server)
		set("signer", jump.signer)
		err := p.publish(t.Context(), server, jump.name)
		t.Logf("measured: %s: publish = %v", jump.name, err)
		switch {
		case err == nil:
			tags = append(tags, jump.name)
		case jump.server != jump.signer && jump.name != "server-forward": // there what is published has expired, and that is said
			if refused := new(api.Error); !errors.As(err, &refused) || refused.Status != 503 || !strings.HasPrefix(refused.Message, "A clock of this service is wrong") {
				t.Errorf("%s: publish = %+v, want 503 and a sentence about clocks", jump.name, err)
			}
		case refusedBy(err) < 400:
			t.Errorf("%s: publish = %v, want an answer", jump.name, err)
		}
		set("server", 0)
		set("signer", 0)
		tag := jump.name + "-over"
		if err := p.publish(t.Context(), server, tag); err != nil {
			t.Errorf("%s: publish when the clocks are right again: %v", jump.name, err)
			continue
		}
		tags = append(tags, tag)
		p.has(server, tags...) // by who remembers what was there
		newPublisher(t, s, p.gun).has(server, tags...)
	}
	server.stop()
	s.signer.stop()
	s.sound(t)
}
