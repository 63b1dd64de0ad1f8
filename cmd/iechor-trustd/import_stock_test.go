package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/notary"
	"github.com/iechor/trust/notary/notarytest"
	"github.com/iechor/trust/tuf"
)

// A stock deployment: notary-server and notary-signer over one kind of
// database.
type stock struct {
	server, signer string // storage settings, as we write them
	url, ca        string
	end            func()
}

// startStock starts the stock programs over databases that fresh makes.
func startStock(t *testing.T, fresh databasetest.Fresh) *stock {
	t.Helper()
	s := &stock{server: fresh(t), signer: fresh(t)}
	stores := map[string]notarytest.Storage{}
	for name, setting := range map[string]string{notarytest.Server: s.server, notarytest.Signer: s.signer} {
		at, err := drivers.Parse(setting, os.Getenv)
		if err != nil {
			t.Fatal(err)
		}
		if err := notarytest.Migration(name)(t.Context(), databasetest.Open(t, setting)); err != nil {
			t.Fatal(err)
		}
		stores[name] = notarytest.On(at.Dialect, at.Socket, at.User, at.Database)
	}
	dir := t.TempDir()
	authority := newAuthority(t, dir, "stock")
	pair := authority.issue(t, dir, "stock", "localhost")
	files := notarytest.TLS{CA: authority.file, Certificate: pair.Certificate, Key: pair.Key}
	serverPort, signerPort := unusedPort(t), unusedPort(t)
	server, signer := filepath.Join(dir, "server.json"), filepath.Join(dir, "signer.json")
	write(t, signer, string(notarytest.SignerConfig("127.0.0.1:"+signerPort, stores[notarytest.Signer], files)))
	write(t, server, string(notarytest.ServerConfig("127.0.0.1:"+serverPort, signerPort, stores[notarytest.Server], files)))
	endSigner := foreign(t, []string{notarytest.SignerAlias}, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+signerPort)
		if err == nil {
			err = c.Close()
		}
		return err
	}, "notary-signer", "-config", signer)
	s.url, s.ca = "https://localhost:"+serverPort, authority.file
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	endServer := foreign(t, nil, func() error {
		r, err := client.Get(s.url + "/_notary_server/health")
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	}, "notary-server", "-config", server)
	s.end = func() { endServer(); endSigner() }
	return s
}

// unusedPort returns a port that nothing listens at.
func unusedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// foreign starts a program, waits until ready, and returns what ends it, which
// the end of the test does, too.
func foreign(t testing.TB, env []string, ready func() error, name string, args ...string) (end func()) {
	t.Helper()
	var out bytes.Buffer
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Wait() }() // how it ended is in out
	end = func() {
		_ = c.Process.Kill() // gone, if it ended by itself
		<-ended
	}
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return end
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("%s has ended: %s", name, out.String())
		case <-ctx.Done():
			t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

// A deployment that the stock programs made a moment ago moves over, from their
// live databases and from dumps, and the stock client with its old cache goes
// on as if nothing had happened.
func TestImportStockDeployment(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]databasetest.Fresh{"PostgreSQL": databasetest.PostgreSQL, "MariaDB": databasetest.MariaDB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("notary-server"); err != nil {
				if required("notary") {
					t.Fatal("notary-server is required and not installed: apt-get install notary")
				}
				t.Skip("notary-server is not installed: apt-get install notary")
			}
			old := startStock(t, fresh)
			home := t.TempDir()
			content := filepath.Join(home, "content")
			write(t, content, "content")
			client := func(url, ca string, args ...string) string {
				t.Helper()
				c := exec.Command("notary", append([]string{"-s", url, "--tlscacert", ca, "-d", filepath.Join(home, "trust")}, args...)...)
				c.Env = append(os.Environ(), "HOME="+home, "NOTARY_ROOT_PASSPHRASE=passphrase", "NOTARY_TARGETS_PASSPHRASE=passphrase",
					"NOTARY_SNAPSHOT_PASSPHRASE=passphrase", "NOTARY_DELEGATION_PASSPHRASE=passphrase")
				out, err := c.CombinedOutput()
				if err != nil {
					t.Fatalf("notary %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			const byClient, byServer = "stock.example/client", "stock.example/server"
			for _, gun := range []string{byClient, byServer} {
				client(old.url, old.ca, "init", "-p", gun)
				client(old.url, old.ca, "add", "-p", gun, "one", content)
			}
			client(old.url, old.ca, "key", "rotate", byServer, "snapshot", "-r")
			client(old.url, old.ca, "add", "-p", byServer, "two", content)
			client(old.url, old.ca, "key", "rotate", byServer, "timestamp", "-r")
			old.end()

			env := map[string]string{"NOTARY_SIGNER_ALIAS1": "correct horse"}
			run := func(args ...string) string {
				t.Helper()
				var o, e bytes.Buffer
				a := &app{out: &o, err: &e, env: func(name string) string { return env[name] }, now: time.Now}
				if status := a.run(t.Context(), append([]string{"import", "notary"}, args...)); status != 0 {
					t.Fatalf("import notary %q = %d %s%s", args, status, o.String(), e.String())
				}
				return o.String()
			}
			dir := t.TempDir()
			s := startHome(t, dir, time.Now) // runs meanwhile
			live := run("--server-db", old.server, "--signer-db", old.signer, "--dir", dir)
			if !strings.HasPrefix(live, "2 repositories with ") {
				t.Errorf("import notary says %q", live)
			}
			dumped := run("--dry-run", "--server-db", dump(t, old.server), "--signer-db", dump(t, old.signer))
			if want := strings.ReplaceAll(live, "taken over", "would be taken over"); dumped != want {
				t.Errorf("import of dumps says %q, of the live databases %q", dumped, want)
			}
			from := notary.New(databasetest.Open(t, old.server))
			for _, gun := range []tuf.GUN{byClient, byServer} {
				files, err := from.Files(t.Context(), gun)
				if err != nil || len(files) < 6 {
					t.Fatal(len(files), err)
				}
				for _, f := range files {
					want, err := from.Raw(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					if got, _, err := s.Store.Version(t.Context(), gun, f.Role, f.Version); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s version %d of %s differs: %v", f.Role, f.Version, gun, err)
					}
				}
			}
			ca := filepath.Join(dir, "ca.crt")
			for _, gun := range []string{byClient, byServer} {
				if out := client(s.Trust, ca, "lookup", gun, "one"); !strings.HasPrefix(out, "one sha256:") {
					t.Errorf("lookup says %q", out)
				}
				client(s.Trust, ca, "add", "-p", gun, "three", content)
				if out := client(s.Trust, ca, "list", gun); strings.Count(out, "\n") < 4 || !strings.Contains(out, "three") {
					t.Errorf("list says %q", out)
				}
			}
			client(s.Trust, ca, "key", "rotate", byServer, "timestamp", "-r")
		})
	}
}

// dump has the database's own program write it out.
func dump(t testing.TB, setting string) string {
	t.Helper()
	at, err := drivers.Parse(setting, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	var c *exec.Cmd
	switch at.Dialect {
	case database.PostgreSQL:
		found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
		if err != nil || len(found) == 0 {
			t.Fatalf("no pg_dump: %v", err)
		}
		c = exec.Command(found[len(found)-1], "-h", at.Socket, "-U", at.User, at.Database)
	case database.MySQL:
		c = exec.Command("mariadb-dump", "--no-defaults", "--socket", at.Socket, "--user", at.User, at.Database)
	}
	var problem bytes.Buffer
	c.Stderr = &problem
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", c, err, problem.String())
	}
	path := filepath.Join(t.TempDir(), "dump.sql")
	write(t, path, string(out))
	return path
}
