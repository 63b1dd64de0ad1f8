package main

import (
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/database/databasetest"
)

// through puts a relay before a database server that is reached by a socket.
func through(t *testing.T, setting string) (*relay, string) {
	t.Helper()
	u, err := url.Parse(setting)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	socket := q.Get("socket")
	if u.Scheme == "postgres" {
		socket = filepath.Join(socket, ".s.PGSQL.5432")
	}
	q.Del("socket")
	r := newRelay(t)
	r.lead(socket)
	u.Host, u.RawQuery = r.l.Addr().String(), q.Encode()
	return r, u.String()
}

// A link is a connection that fails: of a server to its signer, or of server or
// signer to a database.
type link struct {
	name string
	*relay
	site   *site
	server *process
	p      *publisher
}

// Whatever happens between server, signer and their databases: a publish is
// answered in time, nothing that was acknowledged is lost, and when the network
// is well again, the service is, without a restart.
func TestNetworkFails(t *testing.T) {
	t.Parallel()
	plain := newSite(t)
	links := []*link{{name: "signer", relay: plain.signerAt, site: plain}}
	if _, err := exec.LookPath("mariadbd"); err == nil || required("mariadb") {
		r, setting := through(t, databasetest.MariaDB(t))
		links = append(links, &link{name: "server to MariaDB", relay: r, site: newSiteOn(t, setting, "sqlite:DIR/signer/signer.db")})
	}
	if databasetest.Required("postgres") || hasPostgreSQL() {
		r, setting := through(t, databasetest.PostgreSQL(t))
		links = append(links, &link{name: "server to PostgreSQL", relay: r, site: newSiteOn(t, setting, "sqlite:DIR/signer/signer.db")})
		r, setting = through(t, databasetest.PostgreSQL(t))
		links = append(links, &link{name: "signer to PostgreSQL", relay: r, site: newSiteOn(t, "sqlite:DIR/server/server.db", setting)})
	}
	var all sync.WaitGroup
	for _, l := range links {
		l.site.startSigner(t)
		l.server = l.site.startServer(t)
		l.p = newPublisher(t, l.site, "registry.example/app")
		if err := l.p.init(t.Context(), l.server, "first"); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { l.fail(t) }) // they wait, rather than work
	}
	all.Wait()
	for _, l := range links {
		l.server.stop()
		if status, out, errs := runProcess(t, nil, "check", "--config", l.site.file("server.yaml")); status != 0 {
			t.Errorf("%s: check = %d\n%s%s", l.name, status, out, errs)
		}
	}
}

func hasPostgreSQL() bool {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is sound
	return len(found) > 0
}

// fail has the link fail in each way.
func (l *link) fail(t *testing.T) {
	set := func(d time.Duration) { l.mu.Lock(); defer l.mu.Unlock(); l.slow = d }
	l.mu.Lock()
	to := l.to
	l.mu.Unlock()
	tags := []string{"first"}
	for _, fault := range []struct {
		name       string
		begin, end func()
	}{
		{"slow", func() { set(20 * time.Millisecond) }, func() { set(0) }},
		{"gone", func() { l.cut(t) }, func() { l.lead(to) }},
		{"half-open", l.forget, func() {}},
	} {
		fault.begin()
		began := time.Now()
		err := l.p.publish(t.Context(), l.server, fault.name)
		t.Logf("measured: %s, %s: answered after %v: %v", l.name, fault.name, time.Since(began).Round(time.Millisecond), err)
		if err != nil && refusedBy(err) != http.StatusServiceUnavailable {
			t.Errorf("%s, %s: publish = %v, want 503 at most", l.name, fault.name, err)
		}
		fault.end()
		began = time.Now()
		for err != nil {
			if time.Since(began) > 3*patience {
				t.Errorf("%s, %s: no publish after the fault was over: %v", l.name, fault.name, err)
				return
			}
			err = l.p.publish(t.Context(), l.server, fault.name)
		}
		t.Logf("measured: %s, %s: well again after %v", l.name, fault.name, time.Since(began).Round(time.Millisecond))
		tags = append(tags, fault.name)
		l.p.has(l.server, tags...)
	}
}
