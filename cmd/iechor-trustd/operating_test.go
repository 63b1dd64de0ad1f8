package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/database/databasetest"
)

// The first chapter of doc/operating.md, as a new operator types it into a
// shell: with other ports, another folder, and a PostgreSQL and an engine that
// nobody has prepared.
func TestOperatingFromNothing(t *testing.T) {
	t.Parallel()
	docker := engine(t) // root, too
	for _, p := range []struct{ program, peer, pkg string }{
		{"docker-registry", "registry", "docker-registry"}, {"notary", "notary", "notary"}, {"openssl", "openssl", "openssl"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			lacks(t, p.peer, p.pkg)
			t.SkipNow()
		}
	}
	// The local superuser needs no password; all others need one, and TLS.
	port, socket := databasetest.StartPostgreSQL(t, map[string]string{
		"pg_hba.conf": "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
	}, "hba_file=DIR/pg_hba.conf", "fsync=off")

	page := readFile(t, filepath.Join("..", "..", "doc", "operating.md"))
	_, chapter, _ := strings.Cut(page, "## From nothing to a service\n")
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(chapter, -1)
	if len(blocks) != 9 {
		t.Fatalf("the chapter has %d blocks of commands", len(blocks))
	}
	// Whatever was started in the background ends with the shell.
	script := "trap 'kill $(jobs -p); wait' EXIT\n"
	for _, b := range blocks {
		script += b[1]
	}
	source, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	local := func() string { return "localhost:" + databasetest.FreePort(t) }
	registry := local()
	c := docker()
	write(t, filepath.Join(home, "script"), script)
	c.Path, c.Args, c.Err = "/bin/bash", []string{"bash", "-eu", "-o", "pipefail", filepath.Join(home, "script")}, nil
	c.Dir = home
	work := filepath.Join(home, "work")
	c.Env = append(c.Env,
		// The Debian client, where another one stands before it in the PATH: later
		// ones have lost part of what is tested here.
		"PATH="+filepath.Dir(programPath(t))+":/usr/bin:"+os.Getenv("PATH"),
		"HOME="+home, "TMPDIR="+home, "SOURCE="+source, "WORK="+work, "ETC="+filepath.Join(home, "etc"), "SERVER="+local(), "SIGNER="+local(), "DATABASE=localhost:"+port,
		"REGISTRY="+registry, "TOKENS="+local(), "SERVER_METRICS="+loopback(9090), "SIGNER_METRICS="+loopback(9090),
		"PSQL=psql -X -h "+socket+" -p "+port+" -U postgres")
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	t.Cleanup(func() {
		if made := strings.Fields(output(t, docker("images", "-q", registry+"/app"))); len(made) > 0 {
			_ = output(t, docker(append([]string{"rmi", "-f"}, made...)...))
		}
	})
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(5*time.Minute, func() { _ = c.Process.Signal(stopSignal) }) // gone if this fails
	defer late.Stop()
	if err := c.Wait(); err != nil {
		for _, name := range []string{"signer.log", "server.log", "sandbox.log", "registry.log"} {
			log, _ := os.ReadFile(filepath.Join(work, name)) // may not be there yet
			t.Logf("%s:\n%s", name, log)
		}
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{
		"can be the configuration of a signer", "can be the configuration of a trust server", "Login Succeeded", "Finished initializing", "Successfully signed",
		"Pull (1 of 1)", "nothing wrong found", "refused, as it must be",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nobody says %q:\n%s", want, &out)
		}
	}
	if !regexp.MustCompile(`(?m)^ *1 +[0-9a-f]{64} +\d+ +targets`).MatchString(out.String()) {
		t.Errorf("notary does not list the tag:\n%s", &out)
	}
}

// programPath returns where this program is in the PATH of the test.
func programPath(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("iechor-trustd")
	if err != nil {
		t.Fatal(err)
	}
	return path
}
