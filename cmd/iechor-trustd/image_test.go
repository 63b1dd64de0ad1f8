package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/database/databasetest"
)

// engine returns a function that runs the docker client on a spare engine.
func engine(t testing.TB) func(args ...string) *exec.Cmd {
	t.Helper()
	host := os.Getenv("IECHOR_TEST_ENGINE")
	if host == "" {
		if required("docker") {
			t.Fatal("IECHOR_TEST_ENGINE is not set, and IECHOR_REQUIRE asks for docker")
		}
		t.Skip("set IECHOR_TEST_ENGINE to the address of a spare engine, such as unix:///tmp/docker.sock")
	}
	if os.Getuid() != 0 {
		t.Skip("only root can give files to the user of the image")
	}
	return func(args ...string) *exec.Cmd {
		c := exec.Command("docker", args...)
		c.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_BUILDKIT=0")
		return c
	}
}

// commandsOf returns the commands of a file's comments, as its reader copies
// them: the lines that are set in.
func commandsOf(text string) string {
	var all strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^#   (.*)$`).FindAllStringSubmatch(text, -1) {
		all.WriteString(m[1] + "\n")
	}
	return all.String()
}

// buildImage builds the image by the commands of the Dockerfile, and returns
// its name.
func buildImage(t testing.TB, docker func(...string) *exec.Cmd) string {
	t.Helper()
	name := "iechor-trustd-test:" + strings.ToLower(rand.Text())
	script := commandsOf(deployFile(t, "Dockerfile"))
	if strings.Count(script, "-t iechor-trustd ") != 1 {
		t.Fatalf("the Dockerfile says:\n%s", script)
	}
	script = strings.Replace(script, "-t iechor-trustd ", "-t "+name+" ", 1)
	c := docker()
	c.Path, c.Args, c.Err = "/bin/sh", []string{"sh", "-eu", "-c", script}, nil
	c.Dir = filepath.Join("..", "..")
	c.Env = append(c.Env, "TMPDIR="+t.TempDir())
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	t.Cleanup(func() {
		if out, err := docker("rmi", "-f", name).CombinedOutput(); err != nil {
			t.Errorf("docker rmi: %v %s", err, out)
		}
	})
	return name
}

// loopback returns an address of this machine that nobody else has a reason to
// listen on: Linux has sixteen million of them.
func loopback(port int) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("127.%d.%d.%d:%d", 1+b[0]%254, b[1], 1+b[2]%254, port)
}

// output returns what a command prints.
func output(t testing.TB, c *exec.Cmd) string {
	t.Helper()
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%v: %v\n%s", c.Args, err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// The image that the Dockerfile makes starts as server and as signer, as
// nobody in particular, on a read-only file system, and serves; it has nothing
// in it but the program.
func TestImage(t *testing.T) {
	t.Parallel()
	docker := engine(t)
	began := time.Now()
	stamp := func(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }
	image := buildImage(t, docker)

	var kept struct {
		User         string
		ExposedPorts map[string]struct{}
		Healthcheck  struct{ Test []string }
	}
	if err := json.Unmarshal([]byte(output(t, docker("image", "inspect", "--format", "{{json .Config}}", image))), &kept); err != nil {
		t.Fatal(err)
	}
	if kept.User != "65532:65532" || len(kept.ExposedPorts) != 3 || len(kept.Healthcheck.Test) == 0 {
		t.Errorf("the image says %+v", kept)
	}
	made := strings.TrimSpace(output(t, docker("create", image)))
	raw := output(t, docker("export", made))
	_ = output(t, docker("rm", "-v", made))
	for in := tar.NewReader(bytes.NewReader([]byte(raw))); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		switch name := path.Clean("/" + h.Name); {
		case name == "/var/lib/iechor-trustd":
			if h.Uid != 65532 || h.Typeflag != tar.TypeDir {
				t.Errorf("%s is of user %d", name, h.Uid)
			}
		case h.Typeflag == tar.TypeReg && h.Size > 0 && name != "/usr/bin/iechor-trustd":
			t.Errorf("the image has %s in it", name)
		}
	}

	database := databasetest.PostgreSQL(t)
	_, socket, ok := strings.Cut(database, "socket=")
	if !ok {
		t.Fatalf("%s has no socket", database)
	}
	if err := os.Chmod(socket, 0o711); err != nil { // for users beside its own
		t.Fatal(err)
	}
	s := newSiteOn(t, database, "sqlite:DIR/signer/signer.db")
	if err := filepath.WalkDir(s.dir, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, 65532, 65532))
	}); err != nil {
		t.Fatal(err)
	}
	container := func(part, monitor string) (string, *process) {
		name := strings.Replace(image, ":", "-"+part+"-", 1)
		t.Cleanup(func() { _ = docker("rm", "-f", "-v", name).Run() }) // gone if all went well
		p := startCommand(t, docker("run", "--rm", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL",
			"--security-opt", "no-new-privileges", "--health-interval", "1s", "--volume", s.dir+":"+s.dir, "--volume", socket+":"+socket,
			"--env", "IECHOR_TRUSTD_METRICS_LISTEN="+monitor, image, part, "--config", s.file(part+".yaml")))
		return name, p
	}
	signerName, signer := container("signer", loopback(9090))
	s.signerAt.lead(signer.addr)
	serverName, server := container("server", loopback(9090))

	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	p.has(server, "first")
	for _, name := range []string{signerName, serverName} {
		if got := output(t, docker("exec", name, "/usr/bin/iechor-trustd", "health", "--ready")); got != "well\n" {
			t.Errorf("health --ready in %s says %q", name, got)
		}
		// What the engine has said since the test began, and says until it is too late.
		said := docker("events", "--since", stamp(began), "--until", stamp(time.Now().Add(patience)),
			"--filter", "container="+name, "--filter", "event=health_status", "--format", "{{.Action}}")
		lines, err := said.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := said.Start(); err != nil {
			t.Fatal(err)
		}
		healthy := false
		for scan := bufio.NewScanner(lines); !healthy && scan.Scan(); {
			healthy = strings.HasSuffix(scan.Text(), ": healthy")
		}
		_ = said.Process.Kill() // or it has ended
		_ = said.Wait()
		if !healthy {
			t.Fatalf("the engine does not say that %s is healthy: %s", name, output(t, docker("inspect", "--format", "{{json .State.Health}}", name)))
		}
	}
	server.stop()
	signer.stop()
}
