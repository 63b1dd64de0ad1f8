package main

import (
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/iechor/trust/database/databasetest"
)

// backupCommands returns how operating.md says to back a kind of database up,
// and how to restore it.
func backupCommands(t *testing.T, kind string) (backup, restore string) {
	t.Helper()
	page := readFile(t, filepath.Join("..", "..", "doc", "operating.md"))
	row := regexp.MustCompile(`(?m)^\| ` + kind + `[^|]* \| ([^|]*) \| ([^|]*) \|$`).FindStringSubmatch(page)
	if row == nil {
		t.Fatalf("operating.md does not say how to back %s up", kind)
	}
	command := func(cell string) string {
		_, rest, _ := strings.Cut(cell, "`")
		text, _, _ := strings.Cut(rest, "`")
		return text
	}
	return command(row[1]), command(row[2])
}

// A service is backed up while it runs, and set back to that, as operating.md
// says. The check finds what was lost and says how to go on; done so, publishing
// goes on.
func TestBackup(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		_, kind, _ := strings.Cut(t.Name(), "/")
		storage := fresh(t)
		s := newSiteOn(t, storage, "sqlite:DIR/signer/signer.db")
		s.startSigner(t)
		server := s.startServer(t)
		p := newPublisher(t, s, "registry.example/app")
		if err := p.init(t.Context(), server, "1"); err != nil {
			t.Fatal(err)
		}
		backup, restore := backupCommands(t, kind)
		s.shell(t, backup, storage)
		for _, tag := range []string{"2", "3", "4"} {
			if err := p.publish(t.Context(), server, tag); err != nil {
				t.Fatal(err)
			}
		}
		server.stop()
		if file, ok := strings.CutPrefix(storage, "sqlite:"); ok {
			for _, end := range []string{"-wal", "-shm"} {
				if err := os.Remove(file + end); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
			if err := os.Rename(s.file("copy"), file); err != nil {
				t.Fatal(err)
			}
		} else {
			empty := fresh(t)
			s.shell(t, restore, empty)
			write(t, s.file("server.yaml"), strings.Replace(readFile(t, s.file("server.yaml")), storage, empty, 1))
		}

		check := []string{"check", "--config", s.file("server.yaml")}
		status, out, _ := runProcess(t, nil, check...)
		found := regexp.MustCompile(`(?m)^timestamp of registry\.example/app: version 1 is current, and the signer knows that 3 was published: the store was set back; .*: iechor-trustd (floor .*)$`).FindStringSubmatch(out)
		if status != exitFailed || found == nil {
			t.Fatalf("check of what was restored = %d, want what was lost and how to go on\n%s", status, out)
		}
		how := append(strings.Fields(found[1]), "--config", s.file("server.yaml"), "--signer-certificate", s.operator.Certificate, "--signer-key", s.operator.Key)
		if status, out, errs := runProcess(t, nil, how...); status != 0 {
			t.Fatalf("%v = %d %s%s", how, status, out, errs)
		}
		if status, out, errs := runProcess(t, nil, check...); status != 0 || out != "nothing wrong found\n" {
			t.Errorf("check after that = %d %s%s", status, out, errs)
		}
		server = s.startServer(t)
		again := newPublisher(t, s, "registry.example/app")
		if err := again.publish(t.Context(), server, "5"); err != nil {
			t.Errorf("publish after that: %v", err)
		}
		again.has(server, "1", "5")
	})
}

// shell runs a command of the page for a database, with its file, its name and
// its server instead of those of the page, and with the copy in the site.
func (s *site) shell(t *testing.T, command, storage string) {
	t.Helper()
	program, _, _ := strings.Cut(command, " ")
	if _, err := exec.LookPath(program); err != nil {
		if databasetest.Required(program) {
			t.Fatalf("%s is required and not installed", program)
		}
		t.Skipf("%s is not installed: apt-get install %s", program, map[string]string{
			"sqlite3": "sqlite3", "pg_dump": "postgresql-client", "mariadb-dump": "mariadb-client"}[program])
	}
	c := exec.Command("sh", "-c", command)
	c.Dir = s.dir
	replace := []string{"COPY", "copy"}
	if file, ok := strings.CutPrefix(storage, "sqlite:"); ok {
		replace = append(replace, "FILE", file)
		c.Env = os.Environ()
	} else {
		u, err := url.Parse(storage)
		if err != nil {
			t.Fatal(err)
		}
		socket := u.Query().Get("socket")
		name := strings.Trim(u.Path, "/")
		replace = append(replace, "trust", name)
		write(t, s.file(".my.cnf"), "[client]\nuser="+u.User.Username()+"\nsocket="+socket+"\n")
		c.Env = append(os.Environ(), "HOME="+s.dir, "PGHOST="+socket, "PGUSER="+u.User.Username())
	}
	c.Args[2] = strings.NewReplacer(replace...).Replace(command)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", c.Args[2], err, out)
	}
}
