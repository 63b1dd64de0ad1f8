package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// Two servers and a signer, one store: whatever is acknowledged stays, and
// nobody is told that the server is broken because others were faster.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
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
	set, err := p.update(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	body, ct, err := p.body(t.Context(), set.Draft(), "late")
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+server.addr+api.Route{Kind: api.Repository, GUN: p.gun}.Path(), r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ct)
	req.Header.Set("Expect", "100-continue") // the server has begun to read when the body is asked for
	answer := make(chan error, 1)
	go func() {
		resp, err := s.client.Do(req)
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
	if err := server.cmd.Process.Signal(stopSignal); err != nil {
		t.Fatal(err)
	}
	server.logs(`"msg":"stopping"`)
	if c, err := net.Dial("tcp", server.addr); err == nil {
		// The listener is closed a moment after that line; by the answer to
		// this it is.
		_, err = c.Read(make([]byte, 1))
		if err == nil {
			t.Error("a stopping server lets new clients in")
		}
		c.Close()
	}
	if _, err := w.Write(body[len(body)/2:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-answer; err != nil {
		t.Errorf("upload that was under way: %v", err)
	}
	server.ended()
	p.has(s.startServer(t), "first", "late")
	s.sound(t)
}
