package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/tuf"
)

// noLimits is for servers all of whose load is one client's.
const noLimits = "limit: {requests: 0, changes: 0, repository-changes: 0}\n"

// The primary of a pair is killed under load and its standby promoted.
func TestFailoverPostgreSQL(t *testing.T) {
	t.Parallel()
	pair := databasetest.StartPair(t)
	s := newSiteOn(t, pair.Setting(), pair.Setting())
	s.startSigner(t)
	s.appendTo(t, "server.yaml", noLimits)
	survive(t, s, []*process{s.startServer(t), s.startServer(t)}, pair.Fail)
}

// A node of a cluster is killed under load and comes back. Each server, and
// each one's signer, has another node at the head of its list, so that two
// nodes are written to, and two signers sign for the same repositories.
func TestFailoverGalera(t *testing.T) {
	t.Parallel()
	cluster := databasetest.StartGalera(t, 3)
	store, table := cluster.Setting(), cluster.Setting()
	t.Run("packets", func(t *testing.T) { // of its own, so that the connection ends before its node does
		if databasetest.TakesPackets(t, databasetest.Open(t, store[0])) {
			t.Error("a node is sent several statements at once, and goes on with them after it has rolled back")
		}
	})
	s := newSiteOn(t, store[0], table[0])
	s.appendTo(t, "server.yaml", noLimits)
	var all sync.WaitGroup
	for _, through := range table { // no lock keeps nodes apart, and still all end well
		all.Go(func() {
			if status, _, errs := runApp(t, nil, "migrate", "--config", s.file("signer.yaml"), "--storage", through); status != 0 {
				t.Errorf("migrate through %s = %d %s", through, status, errs)
			}
		})
	}
	all.Wait()
	s.startSigner(t)
	second := start(t, "signer", "--config", s.file("signer.yaml"), "--storage", table[1])
	server := start(t, "server", "--config", s.file("server.yaml"), "--storage", store[1], "--signer-url", "https://"+second.addr)
	survive(t, s, []*process{s.startServer(t), server}, func() { cluster.Kill(0) })
	for i, p := range []*process{s.signer, second} {
		if !strings.Contains(p.log.String(), `"msg":"signed"`) {
			t.Errorf("signer %d has signed nothing", i)
		}
	}
	signedOnce(t, s, table[1], failoverRepositories)
	cluster.Rejoin(0)
	s.sound(t) // as the node has it that came back
	signedOnce(t, s, table[0], failoverRepositories)
}

// signedOnce fails the test if the audit log of the signers does not verify, if
// two things were ever signed as one version of so many repositories, or if a
// floor is below what was signed.
func signedOnce(t *testing.T, s *site, table string, repositories int) {
	t.Helper()
	audit := []string{"audit", "--config", s.file("signer.yaml"), "--storage", table}
	if status, out, errs := runProcess(t, nil, append(audit, "--verify")...); status != 0 {
		t.Errorf("audit --verify = %d %q %q", status, out, errs)
	}
	status, out, errs := runProcess(t, nil, append(audit, "--json")...)
	if status != 0 || errs != "" {
		t.Errorf("audit = %d %s", status, errs)
	}
	type version struct {
		gun  tuf.GUN
		role tuf.RoleName
		n    int64
	}
	signed, highest := map[version]string{}, map[version]int64{}
	for line := range strings.Lines(out) {
		var e signer.AuditRecord
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Event != signer.AuditSigned {
			continue
		}
		v := version{e.GUN, e.Role, e.Version}
		if before, twice := signed[v]; twice {
			t.Errorf("%s %d of %s was signed twice: %s and %s", v.role, v.n, v.gun, before, e.Payload)
		}
		signed[v] = e.Payload
		highest[version{e.GUN, e.Role, 0}] = max(highest[version{e.GUN, e.Role, 0}], e.Version)
	}
	if len(highest) != 2*repositories {
		t.Errorf("%d roles were signed, want %d", len(highest), 2*repositories)
	}
	operator := s.dial(t, s.ca, s.operator)
	for v, n := range highest {
		floors, err := operator.Floors(t.Context(), v.gun)
		if err != nil || len(floors) != 1 {
			t.Errorf("floors of %s = %v, %v", v.gun, floors, err)
			continue
		}
		floor := floors[0].TimestampSigned
		if v.role == tuf.RoleSnapshot {
			floor = floors[0].SnapshotSigned
		}
		if floor != n {
			t.Errorf("%s of %s was signed up to version %d, and the floor is %d", v.role, v.gun, n, floor)
		}
	}
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
// has been served again is served on.
func survive(t *testing.T, s *site, servers []*process, fail func()) {
	t.Helper()
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
