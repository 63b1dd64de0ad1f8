package databasetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
)

// A Server is a database server for a program that is no test: it loses
// nothing that it has acknowledged, and tells what its databases take.
type Server struct {
	Dialect database.Dialect
	Version string // what it calls itself

	postgres *postgres
	mariadb  *mariadb
	number   int // of databases
}

// ErrNotInstalled says that there is no such database server here.
var ErrNotInstalled = errors.New("not installed")

// StartServer starts a server of [database.PostgreSQL] or [database.MySQL],
// which is MariaDB here, with the settings of its maker wherever they matter
// for speed and safety. The caller closes it.
func StartServer(d database.Dialect) (*Server, error) {
	s := &Server{Dialect: d}
	var err error
	switch {
	case d == database.PostgreSQL && !havePostgres(), d == database.MySQL && !haveMariaDB():
		return nil, ErrNotInstalled
	case d == database.PostgreSQL:
		s.postgres, err = newPostgres("shared_buffers=128MB", "max_connections=200")
	case d == database.MySQL:
		if s.mariadb, err = newMariaDB("--skip-networking", "--innodb-log-file-size=96M", "--innodb-buffer-pool-size=128M"); err == nil {
			err = s.mariadb.start()
		}
	default:
		return nil, fmt.Errorf("there is no server of %v", d)
	}
	if err == nil {
		err = s.scan("SELECT version()", &s.Version)
		s.Version, _, _ = strings.Cut(s.Version, " on ")
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the server and removes what it kept.
func (s *Server) Close() {
	if s.postgres != nil {
		s.postgres.close()
	}
	if s.mariadb != nil {
		s.mariadb.close()
	}
}

// Fresh makes an empty database and returns its storage setting.
func (s *Server) Fresh() (setting string, err error) {
	s.number++
	name := "db" + strconv.Itoa(s.number)
	if s.postgres != nil {
		return s.postgres.setting(name), s.postgres.exec("postgres", "CREATE DATABASE "+name)
	}
	return s.mariadb.setting(name), s.mariadb.exec("CREATE DATABASE " + name)
}

// Size returns how many bytes the tables of a database take on disk, once they
// are compacted.
func (s *Server) Size(setting string) (n int64, err error) {
	a, err := drivers.Parse(setting, func(string) string { return "" })
	if err != nil {
		return 0, err
	}
	if s.postgres != nil {
		if err := s.postgres.exec(a.Database, "VACUUM FULL"); err != nil {
			return 0, err
		}
		return n, s.scan("SELECT pg_database_size('"+a.Database+"')", &n)
	}
	var tables string
	err = s.scan("SELECT GROUP_CONCAT(CONCAT(TABLE_SCHEMA, '.', TABLE_NAME)) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '"+a.Database+"'", &tables)
	if err == nil {
		err = s.mariadb.exec("OPTIMIZE TABLE " + tables)
	}
	if err == nil {
		err = s.scan("SELECT SUM(FILE_SIZE) FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME LIKE '"+a.Database+"/%'", &n)
	}
	return n, err
}

// scan reads the first column of the one row that a query answers with.
func (s *Server) scan(query string, to any) error {
	if s.postgres != nil {
		rows, err := s.postgres.query("postgres", query)
		if err != nil {
			return err
		}
		if n, ok := to.(*int64); ok {
			*n, err = strconv.ParseInt(rows[0], 10, 64)
			return err
		}
		*to.(*string) = rows[0]
		return nil
	}
	db, err := s.mariadb.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = db.QueryRowContext(ctx, query).Scan(to)
	return errors.Join(err, db.Close())
}

// Alone starts a server for one test, with which it ends: for those that stop
// it, which others would notice.
func Alone(t testing.TB, d database.Dialect) *Server {
	t.Helper()
	if d == database.PostgreSQL {
		needPostgres(t)
	} else {
		needMariaDB(t)
	}
	s, err := StartServer(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Pid returns the id of the server's process, whose children serve connections
// where it is PostgreSQL.
func (s *Server) Pid() int {
	if s.postgres != nil {
		return s.postgres.cmd.Process.Pid
	}
	return s.mariadb.cmd.Process.Pid
}
