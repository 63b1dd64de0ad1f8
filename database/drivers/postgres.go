package drivers

import (
	"context"
	"database/sql/driver"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgres returns what connects to PostgreSQL.
func (a *Address) postgres(how access) (driver.Connector, error) {
	// Nothing is taken from PGHOST and its like: the setting is all there is.
	c, err := pgx.ParseConfig("host=unset user=unset database=unset sslmode=disable")
	if err != nil {
		return nil, err
	}
	c.User, c.Database, c.Password = a.User, a.Database, ""
	c.ConnectTimeout = a.ConnectTimeout
	c.DialFunc = a.dialer().DialContext
	c.Fallbacks = nil
	c.RuntimeParams = map[string]string{
		"application_name":                    "iechor-trustd",
		"client_encoding":                     "UTF8",
		"standard_conforming_strings":         "on",
		"idle_in_transaction_session_timeout": "60000", // of a process that died with its machine, or is stopped
		"default_transaction_read_only":       "off",
	}
	if how.readOnly {
		c.RuntimeParams["default_transaction_read_only"] = "on"
	}
	if !how.unlimited {
		c.RuntimeParams["statement_timeout"] = millis(a.StatementTimeout)
		c.RuntimeParams["idle_in_transaction_session_timeout"] = millis(a.idleLimit())
		dial := c.DialFunc
		c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &impatient{Conn: conn, limit: a.StatementTimeout + answerLimit}, nil
		}
	}
	// One round trip a statement. To parse and plan one takes the server longer
	// than to run it, so that it keeps those of a connection, except where a
	// pooler stands between that does not bear it.
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 256, 0
	if a.Unprepared {
		c.DefaultQueryExecMode = pgx.QueryExecModeExec
		c.StatementCacheCapacity = 0
	}
	if !a.AnyServer && !how.readOnly {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if a.Socket != "" {
		c.Host, c.Port, c.TLSConfig = a.Socket, 5432, nil
	}
	for i, at := range a.Hosts {
		host, text, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, err
		}
		t, err := a.tlsConfig(host)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			c.Host, c.Port, c.TLSConfig = host, uint16(port), t
			continue
		}
		c.Fallbacks = append(c.Fallbacks, &pgconn.FallbackConfig{Host: host, Port: uint16(port), TLSConfig: t})
	}
	return pipelines{stdlib.GetConnector(*c, stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) (err error) {
		c.Password, err = a.password()
		return err
	}), stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool {
		return false // one that is gone is noticed by the transaction, which begins again
	}))}, nil
}

// pipelines connects with connections that are sent several statements at once.
type pipelines struct{ driver.Connector }

// Connect implements [driver.Connector].
func (p pipelines) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if on, ok := c.(*stdlib.Conn); ok {
		return pipeline{on}, nil
	}
	return c, err
}

type pipeline struct{ *stdlib.Conn }

// Pipeline implements the interface that package database looks for.
func (p pipeline) Pipeline(ctx context.Context, statements []string, values [][]any) ([]int64, error) {
	var all pgx.Batch
	for i, text := range statements {
		all.Queue(text, values[i]...)
	}
	results := p.Conn.Conn().SendBatch(ctx, &all)
	met := make([]int64, len(statements))
	for i := range met {
		tag, err := results.Exec()
		if err != nil {
			_ = results.Close() // has the same error
			if pgconn.SafeToRetry(err) {
				err = driver.ErrBadConn // as package stdlib says that nothing was sent
			}
			return nil, err
		}
		met[i] = tag.RowsAffected()
	}
	return met, results.Close()
}

// An impatient connection fails when the other end takes nothing, or says
// nothing, for as long as limit: a server that hangs keeps its connections, and
// its own limits do not count.
type impatient struct {
	net.Conn
	limit time.Duration

	mu   sync.Mutex
	told bool // guarded by mu: its user has set a deadline, which stands
}

// SetDeadline implements [net.Conn].
func (c *impatient) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = !t.IsZero()
	return c.Conn.SetDeadline(t)
}

func (c *impatient) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told {
		return nil
	}
	return c.Conn.SetDeadline(time.Now().Add(c.limit))
}

// Read implements [net.Conn].
func (c *impatient) Read(b []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write implements [net.Conn].
func (c *impatient) Write(b []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
