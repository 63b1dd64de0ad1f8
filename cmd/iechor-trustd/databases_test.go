package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/database/databasetest"
)

// The stock client's whole life of a repository, with server and signer on
// every kind of database. On SQLite it is one of TestScripts.
func TestStockClientOnPostgreSQL(t *testing.T) { stockClient(t, databasetest.PostgreSQL) }
func TestStockClientOnMariaDB(t *testing.T)    { stockClient(t, databasetest.MariaDB) }

func stockClient(t *testing.T, fresh databasetest.Fresh) {
	t.Parallel()
	s := newSiteOn(t, fresh(t), fresh(t))
	s.startSigner(t)
	server := s.startServer(t)
	p := scripts(func(ts *testscript.TestScript, _ bool, _ []string) {
		lead(ts, "https://"+server.addr, filepath.Join(s.dir, "site-ca.crt"))
	}, func(ts *testscript.TestScript, _ bool, _ []string) {
		ts.Check(ts.Exec("iechor-trustd", "check", "--config", s.file("server.yaml")))
	})
	p.Files = []string{filepath.Join("testdata", "interop_notary.txtar")}
	testscript.Run(t, p)
}
