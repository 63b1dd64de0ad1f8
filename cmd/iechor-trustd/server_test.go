package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/tuf"
)

// Two servers and a signer, one store: whatever is acknowledged stays, and
// nobody is told that the server is broken because others were faster.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) { testTwoServers(t, newSiteOn(t, fresh(t), fresh(t))) })
}

func testTwoServers(t *testing.T, s *site) {
	s.startSigner(t)
	servers := []*process{s.startServer(t), s.startServer(t)}
	shared := newPublisher(t, s, "registry.example/shared")
	if err := shared.init(t.Context(), servers[0], "first"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	tags := []string{"first"}
	for i := range 8 { // of one repository
		p, tag := shared.clone(), fmt.Sprint("v", i)
		tags = append(tags, tag)
		all.Go(func() {
			if err := p.publish(t.Context(), servers[i%2], tag); err != nil {
				t.Errorf("publish %s: %v", tag, err)
			}
		})
	}
	var others []*publisher
	for i := range 4 { // each of its own
		p := newPublisher(t, s, tuf.GUN(fmt.Sprint("registry.example/own", i)))
		others = append(others, p)
		all.Go(func() {
			err := p.init(t.Context(), servers[i%2], "a")
			if err == nil {
				err = p.publish(t.Context(), servers[(i+1)%2], "b")
			}
			if err != nil {
				t.Errorf("publish to %s: %v", p.gun, err)
			}
		})
	}
	all.Wait()
	for _, at := range servers {
		shared.has(at, tags...)
		for _, p := range others {
			p.has(at, "a", "b")
		}
		if status, body, err := s.get(t.Context(), "https://"+at.addr+"/_notary_server/health"); status != http.StatusOK || err != nil {
			t.Errorf("health = %d %s, %v", status, body, err)
		}
		at.stop()
	}
	s.sound(t)
	s.signer.stop()
}

// storm has several publishers publish until a process of theirs is killed,
// after enough was acknowledged. It returns what was acknowledged, and fails
// the test for an answer that is not allowed.
func storm(t *testing.T, p *publisher, at *process, round int, kill func(), allowed func(error) bool) []string {
	t.Helper()
	const publishers, enough = 4, 5
	acknowledged := make(chan string)
	var all sync.WaitGroup
	for i := range publishers {
		one := p.clone()
		all.Go(func() {
			for n := 0; ; n++ {
				tag := fmt.Sprintf("r%d-p%d-%d", round, i, n)
				if err := one.publish(context.Background(), at, tag); err != nil {
					if !allowed(err) {
						t.Errorf("publish %s: %v", tag, err)
					}
					return
				}
				acknowledged <- tag
			}
		})
	}
	go func() { all.Wait(); close(acknowledged) }()
	var tags []string
	for tag := range acknowledged {
		if tags = append(tags, tag); len(tags) == enough {
			kill()
		}
	}
	if len(tags) < enough {
		t.Fatalf("only %d publishes in round %d", len(tags), round)
	}
	return tags
}

// TestAttackKillServer: a server that is killed in the middle of publishes
// loses nothing that it has acknowledged.
func TestAttackKillServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	p := newPublisher(t, s, "registry.example/app")
	server := s.startServer(t)
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	tags := []string{"first"}
	for round := range 3 {
		tags = append(tags, storm(t, p, server, round, server.kill, func(err error) bool {
			return refusedBy(err) == 0 // broken connections only
		})...)
		s.sound(t) // after a kill, with nobody to clean up
		server = s.startServer(t)
		p.has(server, tags...)
	}
	if err := p.publish(t.Context(), server, "last"); err != nil {
		t.Error(err)
	}
	p.has(server, append(tags, "last")...)
	server.stop()
	s.sound(t)
}

// TestAttackKillSigner: the same for the signer. Meanwhile the server reads on
// and says that it cannot publish.
func TestAttackKillSigner(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	tags := []string{"first"}
	for round := range 3 {
		tags = append(tags, storm(t, p, server, round, s.signer.kill, func(err error) bool {
			return refusedBy(err) >= 500
		})...)
		p.has(server, tags...)
		s.sound(t)
		s.startSigner(t)
	}
	if err := p.publish(t.Context(), server, "last"); err != nil {
		t.Error(err)
	}
	p.has(server, append(tags, "last")...)
	server.stop()
	s.sound(t)
}

// TestAttackRestoredStore: S9. A store that was set back is noticed, nothing is
// built on it, and an operator, nobody else, may say that it is meant so.
func TestAttackRestoredStore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	server.stop() // all of the store is in one file now
	backup, err := os.ReadFile(s.file("server/server.db"))
	if err != nil {
		t.Fatal(err)
	}
	server = s.startServer(t)
	for _, tag := range []string{"2", "3", "4"} {
		if err := p.publish(t.Context(), server, tag); err != nil {
			t.Fatal(err)
		}
	}
	server.stop()
	write(t, s.file("server/server.db"), string(backup))
	server = s.startServer(t)
	fresh := newPublisher(t, s, "registry.example/app") // has not seen what was lost
	if err := fresh.publish(t.Context(), server, "5"); refusedBy(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "until the operator of this service says whether a backup was restored") {
		t.Errorf("publish on a restored store = %v, want 400 and why", err)
	}
	if status, out, errs := s.check(t); status != exitFailed || !strings.Contains(out, "timestamp of registry.example/app: version 1 is current, and the signer knows that 3 was published: the store was set back; ") {
		t.Errorf("check of a restored store = %d\n%s%s", status, out, errs)
	}

	floor := []string{"floor", "--config", s.file("server.yaml"), "--gun", "registry.example/app"}
	status, out, errs := runProcess(t, nil, append(floor, "--lower-to", "1")...)
	sentence(t, "floor lowered by the server's identity", status, out, errs, "the signer denies this client")
	floor = append(floor, "--signer-certificate", s.operator.Certificate, "--signer-key", s.operator.Key)
	if status, out, errs := runProcess(t, nil, floor...); status != 0 || out != "incarnation 1: timestamp signed 4, published 3; snapshot signed 4, published 3, dated 4\n" || errs != "" {
		t.Errorf("floor = %d %q %q", status, out, errs)
	}
	status, out, errs = runProcess(t, nil, append(floor[:4:4], append([]string{"registry.example/none"}, floor[5:]...)...)...)
	sentence(t, "floor of a repository that is not there", status, out, errs, "the signer has signed nothing for registry.example/none")
	if status, out, errs := runProcess(t, nil, append(floor, "--lower-to", "1")...); status != 0 || out != "incarnation 1: timestamp signed 4, published 1; snapshot signed 4, published 0, dated 0\n" || errs != "" {
		t.Errorf("floor --lower-to 1 = %d %q %q", status, out, errs)
	}
	s.sound(t)
	if err := fresh.publish(t.Context(), server, "6"); err != nil {
		t.Errorf("publish after the floor was lowered: %v", err)
	}
	fresh.has(server, "1", "6")
	if _, err := p.update(t.Context(), server); !errors.Is(err, tuf.ErrRollback) {
		t.Errorf("whoever has seen what was lost reads %v, want ErrRollback", err)
	}
	server.stop()
	s.sound(t)
}

// An upload that is under way when the server is told to stop is finished and
// acknowledged, and nobody new is let in.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	rest := halfUpload(t, p, server, "late")
	if err := server.cmd.Process.Signal(stopSignal); err != nil {
		t.Fatal(err)
	}
	server.logs(`"msg":"stopping"`)
	again := time.NewTicker(5 * time.Millisecond) // the listener is closed a moment after that line
	defer again.Stop()
	late := time.After(drain / 2)
	for {
		c, err := net.Dial("tcp", server.addr)
		if err != nil {
			break
		}
		c.Close()
		select {
		case <-again.C:
		case <-late:
			t.Fatal("a stopping server lets new clients in")
		}
	}
	if err := rest(); err != nil {
		t.Errorf("upload that was under way: %v", err)
	}
	server.ended()
	p.has(s.startServer(t), "first", "late")
	s.sound(t)
}

// halfUpload sends half of a publish; rest sends the other half and returns how
// it went.
func halfUpload(t *testing.T, p *publisher, at *process, tag string) (rest func() error) {
	t.Helper()
	set, err := p.update(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	body, ct, err := p.body(t.Context(), set.Draft(), tag)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+at.addr+api.Route{Kind: api.Repository, GUN: p.gun}.Path(), r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ct)
	req.Header.Set("Expect", "100-continue") // the server has begun to read when the body is asked for
	answer := make(chan error, 1)
	go func() {
		resp, err := p.site.client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		answer <- err
	}()
	if _, err := w.Write(body[:len(body)/2]); err != nil {
		t.Fatal(err)
	}
	return func() error {
		_, err := w.Write(body[len(body)/2:])
		return errors.Join(err, w.Close(), <-answer)
	}
}

// A second signal ends a process that waits for a peer who dawdles.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	rest := halfUpload(t, p, server, "never")
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.After(drain / 2) // without the second signal it takes all of it
	for ended := false; !ended; {
		_ = server.cmd.Process.Signal(stopSignal) // it has ended if this fails
		select {
		case <-server.done:
			ended = true
		case <-again.C:
		case <-late:
			t.Fatal("the process waits on after a second signal")
		}
	}
	if err := rest(); err == nil {
		t.Error("an upload to a server that is gone was acknowledged")
	}
	if status := server.cmd.ProcessState.ExitCode(); status == 0 {
		t.Error("exit status 0 of a server that was cut off")
	}
	s.sound(t)
}

// The authorities that vouch for the signer are replaced while the server runs:
// whom they do not vouch for any more is not asked, and a file that cannot be
// read changes nothing.
func TestSignerAuthoritiesReload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	ours, other := readFile(t, s.ca.file), readFile(t, newAuthority(t, s.dir, "other").file)
	file := s.file("signer-ca.crt")
	write(t, file, ours)
	server := start(t, "server", "--config", s.file("server.yaml"), "--signer-ca", file)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	replace := func(text, told string) {
		t.Helper()
		const last = `"msg":"log level reloaded"`
		before := strings.Count(server.log.String(), last)
		write(t, file, text)
		if err := server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		server.logsTimes(last, before+1)
		if !strings.Contains(server.log.String(), told) {
			t.Errorf("the log has no %s", told)
		}
	}
	var err error
	for n, end := 2, time.Now().Add(patience); err == nil && time.Now().Before(end); n++ {
		// A connection that was in use at that moment is left to itself.
		replace(other, `"msg":"signer's authorities reloaded"`)
		err = p.publish(t.Context(), server, fmt.Sprint("before-", n))
	}
	if refusedBy(err) < 500 {
		t.Errorf("publish by a signer of another authority = %v, want 5xx", err)
	}
	replace(ours, `"msg":"signer's authorities reloaded"`)
	if err := p.publish(t.Context(), server, "3"); err != nil {
		t.Errorf("publish after the authority came back: %v", err)
	}
	replace("no certificate\n", `"msg":"signer's authorities not reloaded"`)
	if err := p.publish(t.Context(), server, "4"); err != nil {
		t.Errorf("publish with the authorities of before: %v", err)
	}
	server.stop()
	s.sound(t)
}
