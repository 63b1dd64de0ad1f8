package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// halt stops a process and its children, as a debugger or a machine that hangs
// does: the system goes on taking connections and bytes for them. It returns
// when none of their threads runs any more; goOn continues them.
func halt(t *testing.T, pid int) (goOn func()) {
	t.Helper()
	stopped := []int{pid}
	for i := 0; i < len(stopped); i++ { // a parent first, so that it gets no more of them
		stopOne(t, stopped[i])
		stopped = append(stopped, childrenOf(t, stopped[i])...)
	}
	goOn = sync.OnceFunc(func() {
		for _, pid := range stopped {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Errorf("continue %d: %v", pid, err)
			}
		}
	})
	t.Cleanup(goOn)
	return goOn
}

func stopOne(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		running := 0
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			if state := statOf(t, thread)[0]; state != "T" && state != "Z" && state != "X" {
				running++
			}
		}
		if running == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d threads of %d still run", running, pid)
		}
	}
}

func childrenOf(t *testing.T, pid int) (children []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if statOf(t, name)[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			children = append(children, child)
		}
	}
	return children
}

// statOf returns state and parent of a process or thread.
func statOf(t *testing.T, name string) [2]string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return [2]string{"X", ""}
	}
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // a name may hold anything
	return [2]string{string(fields[0]), string(fields[1])}
}

// The signer is stopped under a publish: it is answered 503, reads go on, and
// when the signer goes on everything does.
func TestSignerStopped(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	signer := s.startSigner(t)
	s.hangs(t, s.startServer(t), func() func() { return halt(t, signer.cmd.Process.Pid) })
}

// The database of server and signer is stopped, with every process of it. What
// is in memory is served on.
func TestDatabaseStopped(t *testing.T) {
	t.Parallel()
	for _, d := range []database.Dialect{database.PostgreSQL, database.MySQL} {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			db := databasetest.Alone(t, d)
			var settings [2]string
			for i := range settings {
				var err error
				if settings[i], err = db.Fresh(); err != nil {
					t.Fatal(err)
				}
			}
			s := newSiteOn(t, settings[0], settings[1])
			s.startSigner(t)
			s.hangs(t, start(t, "server", "--config", s.file("server.yaml"), "--max-age-current", "1h"), func() func() { return halt(t, db.Pid()) })
		})
	}
}

// One of two servers on one SQLite file is stopped while it is its turn to
// write, or whatever else holds the file. Nobody ends that, so nobody can
// publish until it goes on; the other server says so, and serves all reads.
func TestFileHeldByAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t) // makes the file
	another := databasetest.Open(t, "sqlite:"+s.file("server/server.db"))
	s.hangs(t, server, func() func() {
		held, free, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		hold := sync.OnceFunc(func() { close(held) })
		go func() {
			ended <- another.Update(t.Context(), func(*database.Tx) error { // SQLite has its lock now
				hold()
				<-free
				return nil
			})
		}()
		select {
		case <-held:
		case err := <-ended:
			t.Fatal(err)
		}
		goOn := sync.OnceFunc(func() {
			close(free)
			if err := <-ended; err != nil {
				t.Errorf("the transaction that held the file = %v", err)
			}
		})
		t.Cleanup(goOn)
		return goOn
	})
}

// hangs has what is behind a server stop, until a publish was refused for that.
func (s *site) hangs(t *testing.T, server *process, stop func() (goOn func())) {
	t.Helper()
	p, set := s.begun(t, server)
	served := s.everybody(t, server, p.gun)
	goOn := stop()
	began := time.Now()
	refused := make(chan error, 1)
	go func() { refused <- p.clone().upload(t.Context(), server, set.Draft(), "refused") }()
	var reads int
	var longest time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for ; err == nil; reads++ {
		<-tick.C
		at := time.Now()
		if s.everybody(t, server, p.gun) != served {
			t.Fatal("something else is served meanwhile")
		}
		longest = max(longest, time.Since(at))
		select {
		case err = <-refused:
			if err == nil {
				t.Fatal("published while nothing could be")
			}
		default:
		}
	}
	if refusedBy(err) != http.StatusServiceUnavailable {
		t.Errorf("publish = %v, want 503", err)
	}
	t.Logf("measured: publish answered after %v; %d reads meanwhile, the longest %v", time.Since(began).Round(time.Millisecond), reads, longest.Round(time.Millisecond))
	goOn()
	s.wellAgain(t, server, p, "first")
	server.stop()
	s.sound(t)
	signedOnce(t, s, s.expand(s.signerStorage), 1)
}

// begun returns a publisher of a repository with the tag first, and what it is.
func (s *site) begun(t *testing.T, server *process) (*publisher, *tuf.Set) {
	t.Helper()
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	set, err := p.update(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	return p, set
}

// wellAgain waits until p can publish, and sees that nothing is lost.
func (s *site) wellAgain(t *testing.T, server *process, p *publisher, tags ...string) {
	t.Helper()
	began := time.Now()
	for err := p.publish(t.Context(), server, "again"); err != nil; err = p.publish(t.Context(), server, "again") {
		if refusedBy(err) < 500 || time.Since(began) > patience {
			t.Fatalf("publish when all is well: %v", err)
		}
	}
	t.Logf("measured: well again after %v", time.Since(began).Round(time.Millisecond))
	p.has(server, append(tags, "again")...)
}

// One of two servers on a database is stopped in the middle of a commit, while
// it is its turn to write. The database ends that, the other one goes on, and
// so does the first when it is continued.
func TestServerStoppedInItsTurn(t *testing.T) {
	t.Parallel()
	for _, on := range []struct {
		name   string
		fresh  databasetest.Fresh
		idle   string // how many seconds a transaction waits for its next statement
		behind string // counts the transactions that wait for this one
	}{
		{"PostgreSQL", databasetest.PostgreSQL, "SELECT EXTRACT(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval)::int",
			"SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"},
		{"MariaDB", databasetest.MariaDB, "SELECT @@idle_transaction_timeout", `SELECT COUNT(*) FROM information_schema.INNODB_LOCK_WAITS w
			JOIN information_schema.INNODB_TRX x ON x.trx_id = w.blocking_trx_id WHERE x.trx_mysql_thread_id = CONNECTION_ID()`},
	} {
		t.Run(on.name, func(t *testing.T) {
			t.Parallel()
			setting := on.fresh(t)
			s := newSiteOn(t, setting, on.fresh(t))
			s.startSigner(t)
			first, second := s.startServer(t), s.startServer(t)
			p, q := newPublisher(t, s, "registry.example/app"), newPublisher(t, s, "registry.example/other")
			for _, each := range []*publisher{p, q} {
				if err := each.init(t.Context(), first, "first"); err != nil {
					t.Fatal(err)
				}
			}
			published := make(chan error, 1)
			var goOn func()
			released := errors.New("released")
			err := databasetest.Open(t, setting).Update(t.Context(), func(x *database.Tx) error {
				idle := 0
				if err := x.QueryRow(t.Context(), on.idle).Scan(&idle); err != nil {
					return err
				}
				if idle != 10 {
					t.Errorf("others wait for %d seconds for a transaction that nobody goes on with, want 10", idle)
				}
				if _, err := x.Exec(t.Context(), "UPDATE repositories SET deleted = deleted WHERE gun = ?", string(p.gun)); err != nil {
					return err
				}
				go func() { published <- p.clone().publish(t.Context(), first, "stopped") }()
				tick := time.NewTicker(200 * time.Millisecond) // MariaDB tells the same again to who asks ten times a second
				defer tick.Stop()
				for end, waiting := time.Now().Add(patience), 0; waiting == 0; <-tick.C {
					if err := x.QueryRow(t.Context(), on.behind).Scan(&waiting); err != nil {
						return err
					}
					if time.Now().After(end) {
						return errors.New("no commit waits")
					}
				}
				goOn = halt(t, first.cmd.Process.Pid)
				return released
			})
			if !errors.Is(err, released) {
				t.Fatal(err)
			}
			p.has(second, "first")
			s.wellAgain(t, second, q, "first")
			goOn()
			tags := []string{"first"}
			if err := <-published; err == nil {
				tags = append(tags, "stopped")
			} else if refusedBy(err) != http.StatusServiceUnavailable {
				t.Errorf("the publish through it = %v, want 503 at most", err)
			}
			s.wellAgain(t, first, p, tags...)
			p.has(second, append(tags, "again")...)
			q.has(first, "first", "again")
			first.stop()
			second.stop()
			s.sound(t)
			signedOnce(t, s, s.signerStorage, 2)
		})
	}
}

// The server itself is stopped while clients pull and publish: they give up in
// their own time and say why. What it had been sent it does or does not do when
// it goes on, and nothing that was acknowledged before is lost.
func TestServerStopped(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p, set := s.begun(t, server)
	remote := func(deadline time.Duration) *trust.HTTP { // of a new client
		r, err := trust.NewHTTP(trust.HTTPConfig{Base: "https://" + server.addr, TLSDir: s.file("no-tls"), Deadline: deadline})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	timestamp := tuf.Want{Role: tuf.RoleTimestamp, MaxLength: 1 << 20}
	busy, fresh := remote(10*time.Second), remote(0)
	if _, err := busy.Fetch(t.Context(), p.gun, timestamp); err != nil {
		t.Fatal(err)
	}
	goOn := halt(t, server.cmd.Process.Pid)
	var all sync.WaitGroup
	for said, ask := range map[string]func() error{
		"the answers took too long": func() error { _, err := busy.Fetch(t.Context(), p.gun, timestamp); return err },
		"TLS handshake timeout":     func() error { _, err := fresh.Fetch(t.Context(), p.gun, timestamp); return err },
		context.DeadlineExceeded.Error(): func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			return p.clone().upload(ctx, server, set.Draft(), "unheard")
		},
	} {
		all.Go(func() {
			began := time.Now()
			if err := ask(); err == nil || !strings.Contains(err.Error(), said) {
				t.Errorf("a server that does not answer: %v, want %q", err, said)
			}
			t.Logf("measured: %s, after %v", said, time.Since(began).Round(time.Millisecond))
		})
	}
	all.Wait()
	goOn()
	for _, r := range []*trust.HTTP{busy, fresh} {
		began := time.Now()
		for _, err := r.Fetch(t.Context(), p.gun, timestamp); err != nil; _, err = r.Fetch(t.Context(), p.gun, timestamp) {
			if !errors.Is(err, trust.ErrUnreachable) || time.Since(began) > patience {
				t.Fatalf("read when it goes on: %v", err)
			}
		}
	}
	s.wellAgain(t, server, p, "first")
	server.stop()
	s.sound(t)
	signedOnce(t, s, s.expand(s.signerStorage), 1)
}
