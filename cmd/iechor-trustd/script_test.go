package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/cmd/cmdtest"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	testscript.Main(cmdtest.Main(databasetest.Main(m)), map[string]func(){"iechor-trustd": main, "iechor-trustd-clock": clockMain, "faulty": sandboxtest.Main, "typing": cmdtest.Typing})
}

// peers are the foreign programs that scripts run, and the Debian packages
// that have them.
var peers = map[string]struct{ program, pkg string }{
	"notary":   {"notary", "notary"},
	"docker":   {"dockerd", "docker.io"},
	"registry": {"docker-registry", "docker-registry"},
}

// required reports whether IECHOR_REQUIRE forbids to do without a peer.
func required(peer string) bool {
	return slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), peer)
}

func TestScripts(t *testing.T) {
	p := scripts(startSandbox, check)
	p.Dir = "testdata"
	testscript.Run(t, p)
}

// scripts are run with a service that begin starts and look checks.
func scripts(begin, look func(*testscript.TestScript, bool, []string)) testscript.Params {
	return testscript.Params{
		Condition: peerCondition,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"ROOT", "TARGETS", "SNAPSHOT", "DELEGATION"} {
				e.Setenv("NOTARY_"+name+"_PASSPHRASE", "passphrase")
			}
			for _, name := range []string{"ROOT", "REPOSITORY"} {
				e.Setenv("DOCKER_CONTENT_TRUST_"+name+"_PASSPHRASE", "passphrase")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sandbox": begin, "dockerd": startDockerd, "docker-registry": startRegistry,
			"image": importImage, "keep": keep, "check": look, "stage": stage,
			// The operator's step after a deletion: "forget GUN". A sandbox is its own operator.
			"forget": func(*testscript.TestScript, bool, []string) {},
		},
	}
}

// peerCondition says whether the peer of a condition peer:NAME is installed.
func peerCondition(cond string) (bool, error) {
	name, ok := strings.CutPrefix(cond, "peer:")
	p, known := peers[name]
	if !ok || !known {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	if _, err := exec.LookPath(p.program); err != nil {
		if required(name) {
			return false, fmt.Errorf("%s is required and not installed: apt-get install %s", p.program, p.pkg)
		}
		return false, nil
	}
	return true, nil
}

// startSandbox starts a sandbox in $WORK/sandbox and sets REGISTRY, TRUST, CA;
// notary and docker find their way to it. An argument says how users log in:
// token, token-rsa or htpasswd. Then ALICE, BOB and CAROL are their passwords,
// and ALICE_AUTH and so on what the stock notary takes from NOTARY_AUTH.
func startSandbox(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("sandbox")
	c := sandbox.Config{Dir: dir}
	if len(args) > 0 {
		c.Auth, c.RSATokens = strings.CutSuffix(args[0], "-rsa")
	}
	s, err := sandbox.Start(context.Background(), c)
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
	for _, l := range s.Logins {
		name := strings.ToUpper(l.User)
		ts.Setenv(name, l.Password)
		ts.Setenv(name+"_AUTH", base64.StdEncoding.EncodeToString([]byte(l.User+":"+l.Password)))
	}
	ts.Setenv("REGISTRY", s.Registry)
	lead(ts, s.Trust, filepath.Join(dir, "ca.crt"))
}

// lead has notary and docker find the way to a trust server.
func lead(ts *testscript.TestScript, trust, authority string) {
	ts.Setenv("TRUST", trust)
	ts.Setenv("CA", authority)
	home := ts.MkAbs("home")
	ts.Setenv("HOME", home)
	tls := filepath.Join(home, ".docker", "tls", strings.TrimPrefix(trust, "https://"))
	ts.Check(os.MkdirAll(tls, 0o700))
	ca, err := os.ReadFile(authority)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(tls, "ca.crt"), ca, 0o644))
	ts.Check(os.MkdirAll(filepath.Join(home, ".notary"), 0o700))
	ts.Check(os.WriteFile(filepath.Join(home, ".notary", "config.json"),
		fmt.Appendf(nil, `{"remote_server":{"url":%q,"root_ca":%q}}`, trust, authority), 0o600))
	ts.Setenv("DOCKER_CONTENT_TRUST_SERVER", trust)
}

// run starts a program that is ended with the script, and waits until ready
// says so.
func run(ts *testscript.TestScript, ready func(context.Context) error, name string, args ...string) {
	c := exec.Command(name, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	ts.Check(c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	ts.Defer(func() {
		_ = c.Process.Signal(os.Interrupt) // by its process id; gone if it ended by itself
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case werr := <-ended:
			ended <- werr
			ts.Fatalf("%s ended: %v\n%s", name, werr, out.String())
		case <-ctx.Done():
			ts.Fatalf("%s does not answer: %v", name, err)
		case <-tick.C:
		}
	}
}

func freePort(ts *testscript.TestScript) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	return port
}

// startDockerd starts an engine of its own and sets DOCKER_HOST.
func startDockerd(ts *testscript.TestScript, neg bool, args []string) {
	// A Unix socket's path is short.
	dir, err := os.MkdirTemp("", "dockerd")
	ts.Check(err)
	ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	sock := filepath.Join(dir, "sock")
	ready := func(ctx context.Context) error {
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", sock)
		}}}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
		if err != nil {
			return err
		}
		r, err := c.Do(req)
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	}
	run(ts, ready, "dockerd", "--storage-driver", "vfs", "--iptables=false", "--ip6tables=false", "--bridge=none",
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"-H", "unix://"+sock, "--pidfile", filepath.Join(dir, "pid"))
	ts.Setenv("DOCKER_HOST", "unix://"+sock)
	// The Debian client, where another one stands before it in the PATH: later
	// ones have lost part of what is tested here.
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		ts.Setenv("PATH", "/usr/bin"+string(os.PathListSeparator)+ts.Getenv("PATH"))
	}
}

// startRegistry starts a stock registry and sets REGISTRY to it. With the
// argument "token" it wants tokens of the sandbox's token service.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	port := freePort(ts)
	auth := ""
	if len(args) > 0 {
		auth = fmt.Sprintf("auth: {token: {realm: '%s/auth/token', service: a registry, issuer: sandbox, rootcertbundle: %s}}\n",
			ts.Getenv("TRUST"), ts.MkAbs("sandbox/token-service.crt"))
	}
	config := ts.MkAbs("registry.yml")
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:%s}\n%s",
		ts.MkAbs("registry"), port, auth), 0o600))
	run(ts, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	}, "docker-registry", "serve", config)
	ts.Setenv("REGISTRY", "localhost:"+port)
}

// importImage makes an image in the engine: image NAME TEXT.
func importImage(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image NAME TEXT")
	}
	dir := ts.MkAbs("image-" + args[1])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(os.WriteFile(filepath.Join(dir, "text"), []byte(args[1]), 0o600))
	ts.Check(ts.Exec("sh", "-c", fmt.Sprintf("tar -C '%s' -c . | docker import - '%s'", dir, args[0])))
}

// keep sets a variable to what the last command printed that follows a word:
// keep VAR stdout WORD.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: keep VAR stdout WORD")
	}
	_, after, ok := strings.Cut(ts.ReadFile(args[1]), args[2])
	fields := strings.Fields(after)
	if !ok || len(fields) == 0 {
		ts.Fatalf("nothing after %q", args[2])
	}
	ts.Setenv(args[0], fields[0])
}

// stage writes change files as the stock client does: stage TRUSTDIR GUN N adds
// N targets.
func stage(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: stage TRUSTDIR GUN N")
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	dir := filepath.Join(ts.MkAbs(args[0]), "tuf", filepath.FromSlash(args[1]), "changelist")
	ts.Check(os.MkdirAll(dir, 0o700))
	for i := range n {
		data := fmt.Appendf(nil, `{"length":%d,"hashes":{"sha256":%q}}`, i, base64.StdEncoding.EncodeToString(make([]byte, 32)))
		change := fmt.Sprintf(`{"action":"create","role":"targets","type":"target","path":"tag-%05d","data":%q}`, i, base64.StdEncoding.EncodeToString(data))
		name := fmt.Sprintf("%020d_11111111-1111-1111-1111-111111111111.change", i+1)
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(change), 0o600))
	}
}

// check verifies the sandbox's store.
func check(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("iechor-trustd", "check", "--dir", ts.MkAbs("sandbox")))
}
