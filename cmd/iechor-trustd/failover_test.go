package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/tuf"
)

// The primary of a pair is killed under load and its standby promoted.
func TestFailoverPostgreSQL(t *testing.T) {
	t.Parallel()
	pair := databasetest.StartPair(t)
	survive(t, newSiteOn(t, pair.Setting(), pair.Setting()), "", pair.Fail)
}

// A node of a cluster is killed under load and comes back. Each server has
// another node at the head of its list, so that two nodes are written to.
func TestFailoverGalera(t *testing.T) {
	t.Parallel()
	cluster := databasetest.StartGalera(t, 3)
	store, table := cluster.Setting(), cluster.Setting()
	s := newSiteOn(t, store[0], table[0])
	var all sync.WaitGroup
	for _, through := range table { // no lock keeps nodes apart, and still all end well
		all.Go(func() {
			if status, _, errs := runApp(t, nil, "migrate", "--config", s.file("signer.yaml"), "--storage", through); status != 0 {
				t.Errorf("migrate through %s = %d %s", through, status, errs)
			}
		})
	}
	all.Wait()
	survive(t, s, store[1], func() { cluster.Kill(0) })
	cluster.Rejoin(0)
	s.sound(t) // as the node has it that came back
}

const (
	failoverClients      = 8
	failoverRepositories = 20
	failoverBefore       = 40 // publishes before something is killed
	failoverAfter        = 80 // and afterwards
)

// An ack is a publish that was acknowledged.
type ack struct {
	repository int
	tag        string
	at         time.Time
}

// survive has clients publish to repositories through two servers while fail
// kills a database server: nothing that was acknowledged is lost, and whoever
// has been served again is served on. other is the second server's storage, if
// it is another one.
func survive(t *testing.T, s *site, other string, fail func()) {
	t.Helper()
	s.startSigner(t)
	servers := []*process{s.startServer(t), nil}
	if other == "" {
		servers[1] = s.startServer(t)
	} else {
		servers[1] = start(t, "server", "--config", s.file("server.yaml"), "--storage", other)
	}
	repositories := make([]*publisher, failoverRepositories)
	var all sync.WaitGroup
	for i := range failoverClients {
		all.Go(func() {
			for n := i; n < failoverRepositories; n += failoverClients {
				repositories[n] = newPublisher(t, s, tuf.GUN(fmt.Sprint("registry.example/app", n)))
				if err := repositories[n].init(t.Context(), servers[i%2], "first"); err != nil {
					t.Errorf("first publish to %s: %v", repositories[n].gun, err)
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}

	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	acks := make(chan ack)
	var mu sync.Mutex
	var killed time.Time                         // guarded by mu
	refused := 0                                 // guarded by mu
	served := make([]time.Time, failoverClients) // guarded by mu: the first acknowledgement since the kill
	judge := func(client int, tag string, err error) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		switch {
		case ctx.Err() != nil: // told to stop
		case err == nil:
			if !killed.IsZero() && served[client].IsZero() {
				served[client] = now
			}
		case refusedBy(err) != http.StatusServiceUnavailable:
			t.Errorf("publish %s: %v", tag, err)
		case killed.IsZero() || !served[client].IsZero():
			t.Errorf("publish %s, %v after the kill, by a client that was served before: %v", tag, now.Sub(killed), err)
		default:
			refused++
		}
	}
	for i := range failoverClients {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				repository := (n*failoverClients + i) % failoverRepositories
				tag := fmt.Sprintf("c%d-%d", i, n)
				err := repositories[repository].clone().publish(ctx, servers[(i+n)%2], tag)
				judge(i, tag, err)
				if err == nil {
					acks <- ack{repository, tag, time.Now()}
				}
			}
		})
	}
	go func() { all.Wait(); close(acks) }()

	failed := make(chan struct{})
	tags := make([][]string, failoverRepositories)
	var outage time.Duration
	last, total, after := time.Now(), 0, 0
	for a := range acks {
		tags[a.repository] = append(tags[a.repository], a.tag)
		outage = max(outage, a.at.Sub(last))
		last = a.at
		if total++; total == failoverBefore {
			outage = 0 // from here on it is measured
			mu.Lock()
			killed = time.Now()
			mu.Unlock()
			go func() { fail(); close(failed) }()
		}
		select {
		case <-failed:
			if after++; after >= failoverAfter {
				stop()
			}
		default:
		}
	}
	if after < failoverAfter {
		t.Fatalf("%d publishes, %d of them after the failure; want %d", total, after, failoverAfter)
	}
	t.Logf("measured: %d publishes acknowledged, the longest pause between two %v, %d answers 503", total, outage.Round(10*time.Millisecond), refused)
	for _, server := range servers {
		for i, p := range repositories {
			p.has(server, append(tags[i], "first")...)
		}
	}
	s.sound(t)
	for _, server := range servers {
		server.stop()
	}
}
