package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/notary/notarytest"
)

// startDatabases starts what is measured over real databases: the stock server
// and signer on MariaDB, as people run them, and ours on MariaDB and on
// PostgreSQL. Each database server belongs to bench, with the settings of its
// maker: it syncs every commit. MariaDB is shared, as only one side works at a
// time.
func (s *stage) startDatabases() error {
	if s.o.profile != "" {
		s.absent = append(s.absent, "on:      no databases under the profiler")
		return nil
	}
	for _, kind := range []struct {
		name, pkg string
		dialect   database.Dialect
	}{{"MariaDB", "mariadb-server", database.MySQL}, {"PostgreSQL", "postgresql", database.PostgreSQL}} {
		s.say("starting " + kind.name)
		db, err := databasetest.StartServer(kind.dialect)
		if errors.Is(err, databasetest.ErrNotInstalled) {
			s.absent = append(s.absent, fmt.Sprintf("on:      %s is not installed (%q on Debian)", kind.name, "apt-get install "+kind.pkg))
			continue
		}
		if err != nil {
			return err
		}
		s.databases = append(s.databases, db)
		if kind.dialect == database.MySQL && s.stock != nil {
			if err := s.startStockOn(db, kind.name); err != nil {
				return err
			}
		}
		p, err := s.newOurs("ours on "+kind.name, kind.name)
		if err != nil {
			return err
		}
		p.db = db
		server, err := db.Fresh()
		if err != nil {
			return err
		}
		signer, err := db.Fresh()
		if err != nil {
			return err
		}
		s.onDatabases = append(s.onDatabases, p)
		if err := s.serveOurs(p, server, signer); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startStockOn(db *databasetest.Server, name string) error {
	p, err := s.newStock("stock on "+name, name)
	if err != nil {
		return err
	}
	p.db = db
	stores := map[string]notarytest.Storage{}
	for _, schema := range []string{notarytest.Server, notarytest.Signer} {
		setting, err := db.Fresh()
		if err != nil {
			return err
		}
		at, err := drivers.Parse(setting, os.Getenv)
		if err != nil {
			return err
		}
		if err := at.Migrate(s.ctx, notarytest.Migration(schema)); err != nil {
			return err
		}
		stores[schema] = notarytest.On(at.Dialect, at.Socket, at.User, at.Database)
		if schema == notarytest.Server {
			p.storage = setting
		}
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	config := filepath.Join(s.dir, "notary-signer.json")
	if err := os.WriteFile(config, notarytest.SignerConfig(loopback(addr), stores[notarytest.Signer], s.stockTLS()), 0o600); err != nil {
		return err
	}
	if err := s.launch(p, "signer", []string{notarytest.SignerAlias}, "notary-signer", "-config", config); err != nil {
		return err
	}
	s.onDatabases = append(s.onDatabases, p)
	return s.serveStock(p, port, stores[notarytest.Server])
}

// another returns a second server of ours, on the storage and with the signer
// of p, until the measurement ends: it follows what p publishes, and rows of one
// server are to be of one.
func (s *stage) another(p *peer) (*peer, error) {
	if p.second != nil {
		return p.second, nil
	}
	q, err := s.newOurs(p.name+" again", p.on)
	if err != nil {
		return nil, err
	}
	q.storage, q.socket = p.storage, p.socket
	q.ctx, q.end = context.WithCancel(s.ctx)
	p.second = q
	if err := s.serveStore(q); err != nil {
		return nil, err
	}
	return q, s.ready(s.ctx, q)
}

// endSecond ends what [stage.another] has started.
func (p *peer) endSecond() {
	if p.second == nil {
		return
	}
	p.second.end()
	for _, process := range p.second.processes {
		<-process.done
	}
	p.second = nil
}
