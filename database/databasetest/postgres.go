package databasetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// postgresTool finds a program of PostgreSQL, of the newest version installed.
func postgresTool(name string) (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is sound
	if len(found) > 0 {
		slices.Sort(found)
		return found[len(found)-1], nil
	}
	return exec.LookPath(name)
}

func needPostgres(t testing.TB) {
	t.Helper()
	if !havePostgres() {
		missing(t, "postgres", "PostgreSQL", "postgresql")
	}
}

func havePostgres() bool {
	_, err := postgresTool("initdb")
	return err == nil
}

// A postgres is a PostgreSQL server: an own folder with data and socket.
type postgres struct {
	*process
	user account
	dir  string
	port string // "": on the Unix socket only

	super string // who is asked as, on the socket; "": trust, as elsewhere
}

// PostgreSQL is a [Fresh] of a PostgreSQL server. What was committed is not
// safe from a crash of that server.
func PostgreSQL(t testing.TB) string {
	t.Helper()
	needPostgres(t)
	s := once(t, "postgres", func() (*postgres, func(), error) {
		s, err := newPostgres("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=600")
		if err != nil {
			return nil, nil, err
		}
		return s, s.close, nil
	})
	name := fresh()
	// The cheapest copy of an empty database.
	if err := s.exec("postgres", "CREATE DATABASE "+name+" STRATEGY wal_log"); err != nil {
		t.Fatal(err)
	}
	return s.setting(name)
}

// setting returns the storage setting of a database.
func (s *postgres) setting(name string) string {
	return "postgres://trust@/" + name + "?pool=8&socket=" + s.dir
}

// newPostgres makes and starts a server with settings.
func newPostgres(settings ...string) (*postgres, error) {
	user, err := as("postgres")
	if err != nil {
		return nil, err
	}
	dir, err := folder(user, "postgres")
	if err != nil {
		return nil, err
	}
	s := &postgres{user: user, dir: dir}
	initdb, err := postgresTool("initdb")
	if err == nil {
		err = run(user, initdb, "-D", s.data(), "-N", "-A", "trust", "-E", "UTF8", "--no-locale", "-U", "trust")
	}
	if err == nil {
		err = s.start(settings...)
	}
	if err != nil {
		_ = os.RemoveAll(dir) // the first error is the one to report
		return nil, err
	}
	return s, nil
}

func (s *postgres) data() string { return filepath.Join(s.dir, "data") }

func (s *postgres) start(settings ...string) error {
	program, err := postgresTool("postgres")
	if err != nil {
		return err
	}
	args := []string{"-D", s.data(), "-k", s.dir}
	if s.port == "" {
		settings = append(settings, "listen_addresses=")
	} else {
		settings = append(settings, "listen_addresses=127.0.0.1", "port="+s.port)
	}
	for _, set := range append([]string{"logging_collector=off", "log_min_messages=fatal", "shared_buffers=32MB"}, settings...) {
		args = append(args, "-c", set)
	}
	if s.process, err = start(s.user, program, args...); err != nil {
		return err
	}
	return s.until(func() error { return s.exec("postgres", "SELECT 1") })
}

// query runs a statement, as it is with a superuser, and returns its first
// column as text.
func (s *postgres) query(database, statement string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	at := "host=" + s.dir + " port=5432"
	if s.port != "" {
		at = "host=127.0.0.1 port=" + s.port
	}
	name := "trust"
	if s.super != "" {
		at, name = "host="+s.dir+" port="+s.port, s.super
	}
	c, err := pgx.Connect(ctx, at+" user="+name+" sslmode=disable dbname="+database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close(ctx) }() // nothing is under way
	results, err := c.PgConn().Exec(ctx, statement).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", statement, err)
	}
	var out []string
	for _, row := range results[len(results)-1].Rows {
		out = append(out, string(row[0]))
	}
	return out, nil
}

func (s *postgres) exec(database, statement string) error {
	_, err := s.query(database, statement)
	return err
}

func (s *postgres) close() {
	if s.process != nil {
		s.end(syscall.SIGQUIT) // at once
	}
	_ = os.RemoveAll(s.dir) // a temporary folder
}

// StartPostgreSQL starts a server that nobody has prepared: its only role is
// postgres, who comes in from this machine without a password. It reads files of
// these names and contents, which settings may name as DIR/NAME. It returns its
// port of 127.0.0.1 and the folder of its socket, and ends with t.
func StartPostgreSQL(t testing.TB, files map[string]string, settings ...string) (port, socket string) {
	t.Helper()
	needPostgres(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	user, err := as("postgres")
	must(err)
	dir, err := folder(user, "postgres")
	must(err)
	s := &postgres{user: user, dir: dir, port: FreePort(t), super: "postgres"}
	t.Cleanup(s.close)
	for name, text := range files {
		file := filepath.Join(dir, name)
		must(os.WriteFile(file, []byte(text), 0o600))
		must(user.own(file))
	}
	initdb, err := postgresTool("initdb")
	must(err)
	must(run(user, initdb, "-D", s.data(), "-N", "-A", "trust", "-E", "UTF8", "--no-locale", "-U", s.super))
	for i := range settings {
		settings[i] = strings.ReplaceAll(settings[i], "DIR", dir)
	}
	must(s.start(settings...))
	return s.port, dir
}

// A Pair is a PostgreSQL primary with a standby that has everything which was
// acknowledged. Both are on the list of [Pair.Setting].
type Pair struct {
	t                testing.TB
	primary, standby *postgres
}

// StartPair starts a pair that ends with t. Crashes are survived.
func StartPair(t testing.TB) *Pair {
	t.Helper()
	needPostgres(t)
	user, err := as("postgres")
	if err != nil {
		t.Fatal(err)
	}
	p := &Pair{t: t}
	for _, s := range []**postgres{&p.primary, &p.standby} {
		dir, err := folder(user, "postgres")
		if err != nil {
			t.Fatal(err)
		}
		*s = &postgres{user: user, dir: dir, port: FreePort(t)}
		t.Cleanup((*s).close)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tool := func(name string) string {
		t.Helper()
		path, err := postgresTool(name)
		must(err)
		return path
	}
	must(run(user, tool("initdb"), "-D", p.primary.data(), "-N", "-A", "trust", "-E", "UTF8", "--no-locale", "-U", "trust"))
	must(p.primary.start())
	must(run(user, tool("pg_basebackup"), "-D", p.standby.data(), "-R", "-c", "fast", "-X", "stream", "-N", "-C", "-S", "standby",
		"-d", "host=127.0.0.1 port="+p.primary.port+" user=trust application_name=standby"))
	must(p.standby.start("hot_standby=on"))
	must(p.primary.exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'"))
	must(p.primary.exec("postgres", "SELECT pg_reload_conf()"))
	must(p.primary.until(func() error {
		state, err := p.primary.query("postgres", "SELECT sync_state FROM pg_stat_replication")
		if err == nil && strings.Join(state, " ") != "sync" {
			err = fmt.Errorf("replication is %q", state)
		}
		return err
	}))
	return p
}

// Setting makes an empty database and returns its storage setting.
func (p *Pair) Setting() string {
	p.t.Helper()
	name := fresh()
	if err := p.primary.exec("postgres", "CREATE DATABASE "+name); err != nil {
		p.t.Fatal(err)
	}
	return "postgres://trust@127.0.0.1:" + p.primary.port + ",127.0.0.1:" + p.standby.port + "/" + name
}

// Fail kills the primary and makes the standby the primary, as an operator or
// a watchdog does.
func (p *Pair) Fail() {
	p.t.Helper()
	p.primary.kill()
	if err := p.standby.exec("postgres", "SELECT pg_promote(true, 60)"); err != nil {
		p.t.Fatal(err)
	}
}
