package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"

	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/tuf"
)

// The stock clients' whole life of a repository, with server and signer on
// every kind of database. On SQLite these are some of TestScripts.
func TestStockClientOnPostgreSQL(t *testing.T) { stockClient(t, databasetest.PostgreSQL) }
func TestStockClientOnMariaDB(t *testing.T)    { stockClient(t, databasetest.MariaDB) }

func stockClient(t *testing.T, fresh databasetest.Fresh) {
	t.Parallel()
	for _, story := range []string{"notary", "notary_delegations", "docker"} {
		t.Run(story, func(t *testing.T) {
			s := newSiteOn(t, fresh(t), fresh(t)) // the stories use the same names
			s.startSigner(t)
			server := s.startServer(t)
			p := scripts(func(ts *testscript.TestScript, _ bool, _ []string) {
				lead(ts, "https://"+server.addr, filepath.Join(s.dir, "site-ca.crt"))
			}, func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(ts.Exec("iechor-trustd", "check", "--config", s.file("server.yaml")))
			})
			p.Cmds["forget"] = func(_ *testscript.TestScript, _ bool, args []string) { s.forget(t, tuf.GUN(args[0])) }
			p.Files = []string{filepath.Join("testdata", "interop_"+story+".txtar")}
			testscript.Run(t, p)
		})
	}
}

// Replicas that start at once make the tables once; afterwards there is
// nothing to do, also for somebody who may only read.
func TestMigrate(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		s := newSiteOn(t, fresh(t), fresh(t))
		for config, first := range map[string]string{"server.yaml": "made storage 0001 init\n", "signer.yaml": "made signer 0001 signer\n"} {
			outs := make([]string, 4)
			var all sync.WaitGroup
			for i := range outs {
				all.Go(func() {
					status, out, errs := runApp(t, nil, "migrate", "--config", s.file(config))
					if status != 0 {
						t.Errorf("migrate --config %s = %d %s", config, status, errs)
					}
					outs[i] = out
				})
			}
			all.Wait()
			made := 0
			for _, out := range outs {
				if strings.HasPrefix(out, first) {
					made++
				}
			}
			if made == 0 {
				t.Errorf("nobody says to have made the tables of %s: %q", config, outs)
			}
			const nothing = "nothing to do: the tables are up to date\n"
			if status, out, errs := runApp(t, nil, "migrate", "--config", s.file(config)); status != 0 || out != nothing {
				t.Errorf("migrate --config %s again = %d %q %s", config, status, out, errs)
			}
			other := fresh(t)
			env := map[string]string{"IECHOR_TRUSTD_STORAGE": "memory"} // the flag stands over it
			if status, out, errs := runApp(t, env, "migrate", "--config", s.file(config), "--storage", other); status != 0 || !strings.HasPrefix(out, first) {
				t.Errorf("migrate --config %s --storage %s = %d %q %s", config, other, status, out, errs)
			}
		}
	})
}

// Nobody opens the tables of another program, or older ones, to look at them.
func TestCheckNeedsTables(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		empty := fresh(t)
		s := newSiteOn(t, empty, empty)
		if a, err := drivers.Parse(empty, os.Getenv); err != nil {
			t.Fatal(err)
		} else if db, err := a.Open(t.Context()); err != nil { // makes a file
			t.Fatal(err)
		} else if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		status, out, errs := runApp(t, nil, "check", "--config", s.file("server.yaml"))
		if status != exitFailed || out != "" || !strings.Contains(errs, `"iechor-trustd migrate", brings it up to date`) {
			t.Errorf("check of an empty database = %d %q %q", status, out, errs)
		}
	})
}

// The configurations that are shown can be used.
func TestOperatingExamples(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "doc", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(block, "```\n")
		name, _, _ := strings.Cut(block, "\n")
		switch name {
		case "# server.yaml":
			c := defaultServerConfig()
			if err := parseConfig([]byte(block), c); err != nil {
				t.Errorf("%s: %v", block, err)
			}
			shownStorage(t, c.Storage)
		case "# signer.yaml":
			c := defaultSignerConfig()
			if err := parseConfig([]byte(block), c); err != nil {
				t.Errorf("%s: %v", block, err)
			}
			if _, err := rights(c.Identities); err != nil {
				t.Errorf("%s: %v", block, err)
			}
			shownStorage(t, c.Storage)
		default:
			if err := yaml.Unmarshal([]byte(block), new(any)); err != nil {
				t.Errorf("%s: %v", block, err)
			}
			continue
		}
		seen++
	}
	if seen < 2 {
		t.Errorf("%d configurations are shown, want a server's and a signer's at least", seen)
	}
}

// shownStorage sees that only the password's file is wanting.
func shownStorage(t *testing.T, setting string) {
	t.Helper()
	if _, err := drivers.Parse(setting, os.Getenv); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("storage %s: %v, want only that the password's file is not there", setting, err)
	}
}
