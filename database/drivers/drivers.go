// Package drivers opens the database that a storage setting names: a SQLite
// file, PostgreSQL, or MariaDB and MySQL, Galera included. It is where the SQL
// drivers are put to work; everything else speaks through package database.
//
// [Parse] a setting, then [Address.Open] it. What the package promises: a
// setting is taken exactly or refused in one sentence; no password is ever in
// an error or in [Address.String]; every connection has the session settings
// that the tables rely on, whatever the server's defaults are; and a server
// that is a read-only copy, or a Galera node without its cluster, is passed
// over for the next one of the list.
//
// Read address.go (the settings), then drivers.go, postgres.go, mysql.go.
package drivers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/iechor/trust/database"
)

// Open opens the database and sees that it answers. A SQLite file is made if
// it is not there, for nobody else to read. The caller closes it.
func (a *Address) Open(ctx context.Context) (*database.DB, error) {
	if a.Dialect == database.SQLite {
		// The system says better than SQLite what is wrong with a path.
		f, err := os.OpenFile(a.Path, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("open the database: %w", err)
		}
	}
	return a.open(ctx, access{})
}

// OpenExisting is [Address.Open] for a database that is there; it makes none.
func (a *Address) OpenExisting(ctx context.Context) (*database.DB, error) {
	return a.existing(ctx, access{existing: true})
}

// OpenReadOnly is [Address.OpenExisting] for those who change nothing.
func (a *Address) OpenReadOnly(ctx context.Context) (*database.DB, error) {
	return a.existing(ctx, access{existing: true, readOnly: true})
}

func (a *Address) existing(ctx context.Context, how access) (*database.DB, error) {
	if a.Dialect == database.SQLite {
		if _, err := os.Stat(a.Path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no database %s", a.Path)
		} else if err != nil {
			return nil, fmt.Errorf("open the database: %w", err)
		}
	}
	return a.open(ctx, how)
}

// Migrate opens the database as migrations need it, which may take longer than
// other statements, has migrate do its work, and closes it. A process that
// dies meanwhile leaves no lock behind.
func (a *Address) Migrate(ctx context.Context, migrate func(context.Context, *database.DB) error) error {
	if a.Dialect == database.SQLite {
		db, err := a.Open(ctx)
		if err != nil {
			return err
		}
		return errors.Join(migrate(ctx, db), db.Close())
	}
	db, err := a.open(ctx, access{unlimited: true})
	if err != nil {
		return err
	}
	return errors.Join(migrate(ctx, db), db.Close())
}

// maxReaders bounds how many connections read a SQLite file: each has a cache
// of its own.
const maxReaders = 8

// An access is how a database is used.
type access struct {
	existing  bool
	readOnly  bool
	unlimited bool // statements may take as long as they do
}

func (a *Address) open(ctx context.Context, how access) (*database.DB, error) {
	var raw *sql.DB
	switch a.Dialect {
	case database.SQLite:
		dsn := database.SQLiteDSN(a.Path)
		if how.existing {
			// To ask for the write-ahead log would write into a file that
			// lacks it.
			dsn = strings.Replace(dsn, "_pragma=journal_mode(WAL)&", "", 1) + "&mode=rw"
		}
		var err error
		if raw, err = sql.Open("sqlite", dsn); err != nil {
			return nil, err
		}
		// One writes at a time, and as many read as there are processors. More
		// would not be faster, and to open one takes longer than a query.
		most := 1 + min(runtime.GOMAXPROCS(0), maxReaders)
		raw.SetMaxOpenConns(most)
		raw.SetMaxIdleConns(most)
	default:
		connect := a.postgres
		if a.Dialect == database.MySQL {
			connect = a.mysql
		}
		c, err := connect(how)
		if err != nil {
			return nil, fmt.Errorf("open the database %s: %w", a, err)
		}
		raw = sql.OpenDB(c)
		raw.SetMaxOpenConns(a.Pool)
		raw.SetMaxIdleConns(a.Pool)
		raw.SetConnMaxIdleTime(5 * time.Minute)
		raw.SetConnMaxLifetime(a.ConnectionLife)
	}
	db := database.New(raw, a.Dialect)
	if err := answers(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database %s: %w", a, err), db.Close())
	}
	return db, nil
}

// answers waits for a database that is on its way, within reason: a service
// manager may start both at once. SQLite says of a new file at once, without
// waiting, that another process is writing the beginning of it.
func answers(ctx context.Context, db *database.DB) error {
	return db.View(ctx, func(t *database.Tx) error {
		var one int
		return t.QueryRow(ctx, "SELECT 1").Scan(&one)
	})
}

// dialer returns how a connection is made: one whose other end has died ends
// within about ten seconds, be it idle or waited for.
func (a *Address) dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         a.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control:         unanswered(10 * time.Second),
	}
}

// Check reads the files that the setting names, as opening the database would.
// It does not connect.
func (a *Address) Check() error {
	if _, err := a.tlsConfig(""); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

// tlsConfig returns how the server of that name is spoken to; nil: without TLS.
func (a *Address) tlsConfig(host string) (*tls.Config, error) {
	if !a.TLS {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if a.CA != "" {
		raw, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, fmt.Errorf("tls_ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("tls_ca: %s holds no certificate (PEM)", a.CA)
		}
	}
	if a.Certificate != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(a.Certificate, a.Key)
			return &pair, err
		}
		if _, err := load(nil); err != nil {
			return nil, fmt.Errorf("tls_certificate: %w", err)
		}
		c.GetClientCertificate = load // read anew for each connection
	}
	return c, nil
}

// A hosts connector tries one server after the other, in the order of the
// list, so that several processes write through the same one.
type hosts struct {
	driver driver.Driver
	each   []driver.Connector
	names  []string
}

func (h *hosts) Driver() driver.Driver { return h.driver }

func (h *hosts) Connect(ctx context.Context) (driver.Conn, error) {
	var errs []error
	for i, c := range h.each {
		conn, err := c.Connect(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, fmt.Errorf("%s: %w", h.names[i], err))
	}
	return nil, errors.Join(errs...)
}

// answerLimit is how much longer than the server's own limit of a statement its
// answer may take.
const answerLimit = 5 * time.Second

// idleLimit is how long a transaction may wait for its next statement: of a
// process that is stopped, or died with its machine, while others wait for
// their turn. They wait for no longer than a statement may take.
func (a *Address) idleLimit() time.Duration { return a.StatementTimeout * 2 / 3 }

// millis is d as PostgreSQL and MySQL count it.
func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
