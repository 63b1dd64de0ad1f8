package drivers

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// mysql returns what connects to MariaDB, MySQL or a Galera cluster.
func (a *Address) mysql(how access) (driver.Connector, error) {
	all := &hosts{driver: mysql.MySQLDriver{}, names: a.Hosts}
	network := "tcp"
	if a.Socket != "" {
		network, all.names = "unix", []string{a.Socket}
	}
	for _, at := range all.names {
		c := mysql.NewConfig()
		c.User, c.DBName, c.Net, c.Addr = a.User, a.Database, network, at
		c.Timeout = a.ConnectTimeout
		c.DialFunc = a.dialer().DialContext
		c.Logger = log.New(io.Discard, "", 0) // what it says there is in the errors, too
		c.ClientFoundRows = true              // as the other dialects count
		c.InterpolateParams = true            // one round trip a statement,
		c.MultiStatements = true              // or several, see packets
		c.Collation = "utf8mb4_bin"
		if !how.unlimited {
			// A commit that a node cannot make ends some time, too.
			c.ReadTimeout = a.StatementTimeout + answerLimit
		}
		if network == "tcp" {
			host, _, err := net.SplitHostPort(at)
			if err != nil {
				return nil, err
			}
			if c.TLS, err = a.tlsConfig(host); err != nil {
				return nil, err
			}
		}
		if err := c.Apply(mysql.BeforeConnect(func(_ context.Context, c *mysql.Config) (err error) {
			c.Passwd, err = a.password()
			return err
		})); err != nil {
			return nil, err
		}
		inner, err := mysql.NewConnector(c)
		if err != nil {
			return nil, err
		}
		all.each = append(all.each, &session{Connector: inner, a: a, how: how})
	}
	return all, nil
}

// A session connector makes connections with the settings that are relied on.
type session struct {
	driver.Connector
	a   *Address
	how access
}

var errNotWritable = errors.New("this server is read-only, or a node without its cluster")

func (s *session) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.a.ConnectTimeout)
	defer cancel()
	conn, err := s.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	alone, err := s.prepare(ctx, conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if all, ok := conn.(connection); ok && alone {
		return packets{all}, nil
	}
	return conn, nil
}

// A connection is all that database/sql makes use of.
type connection interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// Packets are a connection to a server that is no node of a cluster, and takes
// several statements at once: it leaves off at one that fails.
type packets struct{ connection }

// TakesPackets implements the interface that package database looks for.
func (packets) TakesPackets() bool { return true }

// prepare has the session keep to what the tables are written for, as far as
// this server knows it: MariaDB, MySQL and builds without Galera differ. alone
// says that the server is certainly no node of a cluster.
func (s *session) prepare(ctx context.Context, conn driver.Conn) (alone bool, err error) {
	has, err := variables(ctx, conn, `SHOW SESSION VARIABLES WHERE Variable_name IN
		('read_only', 'wsrep_on', 'wsrep_sync_wait', 'group_replication_group_name', 'max_statement_time', 'max_execution_time', 'idle_transaction_timeout')`)
	if err != nil {
		return false, err
	}
	if !s.a.AnyServer && !s.how.readOnly {
		if has["read_only"] == "ON" || has["read_only"] == "1" {
			return false, errNotWritable
		}
		if has["wsrep_on"] == "ON" {
			status, err := variables(ctx, conn, "SHOW STATUS WHERE Variable_name = 'wsrep_ready'")
			if err != nil {
				return false, err
			}
			if status["wsrep_ready"] != "ON" {
				return false, errNotWritable
			}
		}
	}
	// Where any server will do it may be a replica, which rolls back as well.
	alone = !s.a.AnyServer && has["wsrep_on"] != "ON" && has["group_replication_group_name"] == ""
	set := []string{
		"sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
		"autocommit = 1", "foreign_key_checks = 1", "unique_checks = 1", "sql_safe_updates = 0",
	}
	limit := func(name, value string) {
		if _, ok := has[name]; ok {
			set = append(set, name+" = "+value)
		}
	}
	if s.how.unlimited {
		set = append(set, "innodb_lock_wait_timeout = 60", "lock_wait_timeout = 3600")
		limit("max_statement_time", "0")
		limit("max_execution_time", "0")
	} else {
		seconds := int(s.a.StatementTimeout.Seconds())
		set = append(set, fmt.Sprintf("innodb_lock_wait_timeout = %d", max(1, seconds/3)), fmt.Sprintf("lock_wait_timeout = %d", seconds))
		limit("max_statement_time", fmt.Sprint(s.a.StatementTimeout.Seconds()))
		limit("max_execution_time", millis(s.a.StatementTimeout))
		limit("idle_transaction_timeout", fmt.Sprint(max(1, int(s.a.idleLimit().Seconds()))))
	}
	if has["wsrep_on"] == "ON" {
		limit("wsrep_sync_wait", "1") // what was acknowledged by another node is seen
	}
	if err := execute(ctx, conn, "SET SESSION "+strings.Join(set, ", ")); err != nil {
		return false, err
	}
	// What writes says nothing else: that is a round trip less each time.
	if err := execute(ctx, conn, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"); err != nil {
		return false, err
	}
	if s.how.readOnly {
		err = execute(ctx, conn, "SET SESSION TRANSACTION READ ONLY")
	}
	return alone, err
}

func execute(ctx context.Context, conn driver.Conn, statement string) error {
	_, err := conn.(driver.ExecerContext).ExecContext(ctx, statement, nil)
	return err
}

// variables returns the rows of a SHOW statement: names and values.
func variables(ctx context.Context, conn driver.Conn, statement string) (map[string]string, error) {
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, statement, nil)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	row := make([]driver.Value, len(rows.Columns()))
	for err = rows.Next(row); err == nil; err = rows.Next(row) {
		name, ok := row[0].([]byte)
		value, okay := row[1].([]byte)
		if !ok || !okay {
			err = fmt.Errorf("%T is no text", row)
			break
		}
		all[string(name)] = string(value)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, errors.Join(err, rows.Close())
}
