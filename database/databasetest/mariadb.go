package databasetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// A mariadb is a MariaDB server: an own folder with data and socket.
type mariadb struct {
	*process
	user account
	dir  string
	args []string
}

func needMariaDB(t testing.TB) {
	t.Helper()
	if !haveMariaDB() {
		missing(t, "mariadb", "MariaDB", "mariadb-server")
	}
}

func haveMariaDB() bool {
	_, server := mariadbTool("mariadbd")
	_, install := mariadbTool("mariadb-install-db")
	return server == nil && install == nil
}

func mariadbTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	return path, err
}

// MariaDB is a [Fresh] of a MariaDB server. What was committed is not safe
// from a crash of that server.
func MariaDB(t testing.TB) string {
	t.Helper()
	needMariaDB(t)
	s := once(t, "mariadb", func() (*mariadb, func(), error) {
		s, err := newMariaDB("--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync", "--sync-frm=0")
		if err == nil {
			err = s.start()
		}
		if err != nil {
			return nil, nil, err
		}
		return s, s.close, nil
	})
	name := fresh()
	if err := s.exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	return s.setting(name)
}

// setting returns the storage setting of a database.
func (s *mariadb) setting(name string) string {
	return "mysql://trust@/" + name + "?pool=8&socket=" + s.socket()
}

// newMariaDB makes the folder of a server that is to be started with args.
func newMariaDB(args ...string) (*mariadb, error) {
	user, err := as("mysql")
	if err != nil {
		return nil, err
	}
	dir, err := folder(user, "mariadb")
	if err != nil {
		return nil, err
	}
	s := &mariadb{user: user, dir: dir}
	s.args = append([]string{"--no-defaults", "--datadir=" + s.data(), "--socket=" + s.socket(), "--pid-file=" + filepath.Join(dir, "pid"), s.temporary(),
		"--innodb-log-file-size=16M", "--innodb-buffer-pool-size=64M", "--innodb-autoinc-lock-mode=2", "--binlog-format=ROW",
		"--skip-name-resolve", "--max-connections=600", "--table-open-cache=2000"}, args...)
	install, err := mariadbTool("mariadb-install-db")
	if err == nil {
		err = run(user, install, "--no-defaults", "--datadir="+s.data(), s.temporary(), "--auth-root-authentication-method=normal", "--skip-test-db",
			"--innodb-log-file-size=16M")
	}
	if err != nil {
		_ = os.RemoveAll(dir) // the first error is the one to report
		return nil, err
	}
	return s, nil
}

func (s *mariadb) data() string   { return filepath.Join(s.dir, "data") }
func (s *mariadb) socket() string { return filepath.Join(s.dir, "sock") }

// temporary is an option: TMPDIR may be closed to the server's user.
func (s *mariadb) temporary() string { return "--tmpdir=" + s.dir }

func (s *mariadb) start(more ...string) error {
	program, err := mariadbTool("mariadbd")
	if err != nil {
		return err
	}
	if s.process, err = start(s.user, program, append(s.args, more...)...); err != nil {
		return err
	}
	return s.until(func() error { return s.exec("CREATE USER IF NOT EXISTS trust; GRANT ALL ON *.* TO trust") })
}

func (s *mariadb) open() (*sql.DB, error) {
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.MultiStatements = "root", "unix", s.socket(), true
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (s *mariadb) exec(statements string) error {
	db, err := s.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = db.ExecContext(ctx, statements)
	return errors.Join(err, db.Close())
}

// status returns a value of SHOW STATUS.
func (s *mariadb) status(name string) (string, error) {
	db, err := s.open()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var key, value string
	err = db.QueryRowContext(ctx, "SHOW STATUS LIKE '"+name+"'").Scan(&key, &value)
	return value, errors.Join(err, db.Close())
}

func (s *mariadb) close() {
	if s.process != nil {
		s.kill() // nothing of it is kept
	}
	_ = os.RemoveAll(s.dir) // a temporary folder
}

// A Galera is a cluster of MariaDB servers, each of which takes writes.
type Galera struct {
	t     testing.TB
	nodes []*node
}

type node struct {
	*mariadb
	port, group string // of clients, and of the cluster
}

// StartGalera starts a cluster of n nodes that ends with t.
func StartGalera(t testing.TB, n int) *Galera {
	t.Helper()
	needMariaDB(t)
	const provider = "/usr/lib/galera/libgalera_smm.so"
	if _, err := os.Stat(provider); err != nil {
		missing(t, "galera", "Galera", "galera-4")
	}
	if _, err := exec.LookPath("rsync"); err != nil {
		missing(t, "galera", "rsync, which brings a node up to date,", "rsync")
	}
	g := &Galera{t: t}
	var addresses []string
	for range n {
		one := &node{port: FreePort(t), group: FreePort(t)}
		ist, sst := FreePort(t), FreePort(t)
		addresses = append(addresses, "127.0.0.1:"+one.group)
		var err error
		one.mariadb, err = newMariaDB("--bind-address=127.0.0.1", "--port="+one.port, "--innodb-flush-log-at-trx-commit=2",
			"--wsrep-on=ON", "--wsrep-provider="+provider, "--wsrep-cluster-name=test", "--wsrep-sst-method=rsync",
			"--wsrep-node-address=127.0.0.1:"+one.group, "--wsrep-sst-receive-address=127.0.0.1:"+sst,
			"--wsrep-provider-options=base_port="+one.group+";gmcast.listen_addr=tcp://127.0.0.1:"+one.group+
				";ist.recv_addr=127.0.0.1:"+ist+";gcache.size=16M")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(one.close)
		g.nodes = append(g.nodes, one)
	}
	for i, one := range g.nodes {
		cluster := "--wsrep-cluster-address=gcomm://" + strings.Join(addresses, ",")
		if i == 0 {
			cluster = "--wsrep-cluster-address=gcomm://"
		}
		if err := one.start(cluster); err != nil {
			t.Fatal(err)
		}
		one.args = append(one.args, "--wsrep-cluster-address=gcomm://"+strings.Join(addresses, ",")) // when it comes back
	}
	g.whole(n)
	return g
}

// whole waits until the cluster has so many nodes.
func (g *Galera) whole(n int) {
	g.t.Helper()
	last := g.nodes[len(g.nodes)-1]
	if err := last.until(func() error {
		size, err := last.status("wsrep_cluster_size")
		if err == nil && size != fmt.Sprint(n) {
			err = fmt.Errorf("the cluster has %s nodes", size)
		}
		return err
	}); err != nil {
		g.t.Fatal(err)
	}
}

// Setting makes an empty database and returns a storage setting for each node,
// which has that node at the head of its list.
func (g *Galera) Setting() []string {
	g.t.Helper()
	name := fresh()
	if err := g.nodes[0].exec("CREATE DATABASE " + name); err != nil {
		g.t.Fatal(err)
	}
	var all []string
	for first := range g.nodes {
		var list []string
		for i := range g.nodes {
			list = append(list, "127.0.0.1:"+g.nodes[(first+i)%len(g.nodes)].port)
		}
		all = append(all, "mysql://trust@"+strings.Join(list, ",")+"/"+name)
	}
	return all
}

// Kill kills a node as kill -9 does.
func (g *Galera) Kill(i int) { g.nodes[i].kill() }

// Rejoin starts a killed node again and waits until the cluster is whole.
func (g *Galera) Rejoin(i int) {
	g.t.Helper()
	begin := time.Now()
	if err := g.nodes[i].start(); err != nil {
		g.t.Fatal(err)
	}
	g.whole(len(g.nodes))
	g.t.Logf("node %d is back after %v", i, time.Since(begin).Round(100*time.Millisecond))
}
