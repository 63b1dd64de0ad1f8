package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/sandbox"
)

// peers are the foreign programs that the stories of testdata/interop run, and
// the Debian packages that have them.
var peers = map[string]struct{ program, pkg string }{
	"notary":        {"notary", "notary"},
	"notary-server": {"notary-server", "notary"},
	"docker":        {"dockerd", "docker.io"},
	"registry":      {"docker-registry", "docker-registry"},
	"skopeo":        {"skopeo", "skopeo"},
	"opensc":        {"pkcs11-tool", "opensc"},

	"yubico-piv-tool": {"yubico-piv-tool", "yubico-piv-tool"},
}

// peer reports whether a peer is here. IECHOR_REQUIRE names those that must be.
func peer(cond string) (bool, error) {
	if cond == "peer:softhsm" {
		why := noTokens()
		if why != "" && slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), "softhsm") {
			return false, errors.New(why)
		}
		return why == "", nil
	}
	name, ok := strings.CutPrefix(cond, "peer:")
	p, known := peers[name]
	if !ok || !known {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	_, err := exec.LookPath(p.program)
	if err != nil && slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), name) {
		return false, fmt.Errorf("%s is required and not installed: apt-get install %s", p.program, p.pkg)
	}
	return err == nil, nil
}

// TestInterop runs the stories in testdata/interop: our client beside the stock
// notary and docker, against a stock trust server and a stock registry. All
// clients of one home share one trust directory, $TRUSTDIR.
func TestInterop(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:       "testdata/interop",
		Condition: peer,
		Setup: func(e *testscript.Env) error {
			e.Values[peersKey{}] = &peerWorld{}
			for name, value := range map[string]string{
				"STATUS": filepath.Join(e.WorkDir, "status"), "KEYS": keyFiles(), "ROOTVAR": rootPassphraseVariable, "REPOVAR": repositoryPassphraseVariable,
				switchVariable: "1", "DOCKER_CONTENT_TRUST": "1",
				rootPassphraseVariable: "passphrase", repositoryPassphraseVariable: "passphrase",
				"DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "passphrase", "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "passphrase",
				"NOTARY_ROOT_PASSPHRASE": "passphrase", "NOTARY_TARGETS_PASSPHRASE": "passphrase",
				"NOTARY_SNAPSHOT_PASSPHRASE": "passphrase", "NOTARY_DELEGATION_PASSPHRASE": "passphrase",
			} {
				e.Setenv(name, value)
			}
			// The Debian docker, where another one stands before it: later ones
			// have lost part of what is tested here. Our own programs stay first.
			const sep = string(os.PathListSeparator)
			ours, rest, _ := strings.Cut(e.Getenv("PATH"), sep)
			e.Setenv("PATH", strings.Join([]string{ours, "/usr/bin", rest}, sep))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"home": enterHome, "notary-server": notaryServer, "sandbox": startSandbox, "docker-registry": startRegistry,
			"dockerd": startDockerd, "image": importImage, "keep": keep, "agree": agree, "leaks": leaks,
			"status": status, "layout": layout, "index": index, "card": card,
		},
	})
}

type peersKey struct{}

// A peerWorld is what one story has started.
type peerWorld struct {
	stopNotary func()
	trust      string // URL of the trust server
	ca         []byte // PEM
}

func thePeers(ts *testscript.TestScript) *peerWorld { return ts.Value(peersKey{}).(*peerWorld) }

// enterHome makes a home directory, unless it is there, and enters it: "home
// NAME". Every client finds the trust server and its authority there.
func enterHome(ts *testscript.TestScript, _ bool, args []string) {
	w, home := thePeers(ts), ts.MkAbs(args[0])
	docker := filepath.Join(home, ".docker")
	ts.Setenv("HOME", home)
	ts.Setenv("IECHOR_CONFIG", docker)
	ts.Setenv("TRUSTDIR", filepath.Join(docker, "trust"))
	ca := filepath.Join(docker, "tls", strings.TrimPrefix(w.trust, "https://"), "ca.crt")
	ts.Check(os.MkdirAll(filepath.Dir(ca), 0o700))
	ts.Check(os.WriteFile(ca, w.ca, 0o600))
	ts.Check(os.MkdirAll(filepath.Join(home, ".notary"), 0o700))
	ts.Check(os.WriteFile(filepath.Join(home, ".notary", "config.json"), fmt.Appendf(nil,
		`{"trust_dir":%q,"remote_server":{"url":%q,"root_ca":%q}}`, filepath.Join(docker, "trust"), w.trust, ca), 0o600))
}

// trustServerIs makes all clients use a trust server.
func trustServerIs(ts *testscript.TestScript, url string, ca []byte) {
	w := thePeers(ts)
	w.trust, w.ca = url, ca
	ts.Setenv("TRUST", url)
	ts.Setenv(serverVariable, url)
	ts.Setenv("DOCKER_CONTENT_TRUST_SERVER", url)
	enterHome(ts, false, []string{"home"})
}

// notaryServer starts a stock trust server, which signs with Ed25519 and
// remembers nothing, or ends it: "notary-server", "notary-server stop",
// "notary-server restart" at the same address.
func notaryServer(ts *testscript.TestScript, _ bool, args []string) {
	w := thePeers(ts)
	if w.stopNotary != nil {
		w.stopNotary()
	}
	config := ts.MkAbs("notary-server.json")
	switch {
	case len(args) == 0:
		cert, ca := certificate(ts)
		port := freePort(ts)
		ts.Check(os.WriteFile(config, fmt.Appendf(nil, `{"server":{"http_addr":"127.0.0.1:%s","tls_key_file":%q,"tls_cert_file":%q},
"trust_service":{"type":"local"},"storage":{"backend":"memory"},"logging":{"level":"error"}}`, port, cert, cert), 0o600))
		trustServerIs(ts, "https://localhost:"+port, ca)
	case args[0] == "stop":
		return
	}
	w.stopNotary = start(ts, answersTCP(strings.TrimPrefix(w.trust, "https://")), "notary-server", "-config", config)
}

// certificate makes a self-signed certificate for localhost and returns the
// file with it and its key, and it alone.
func certificate(ts *testscript.TestScript) (file string, ca []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, BasicConstraintsValid: true, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	file = ts.MkAbs("notary-server.pem")
	ts.Check(os.WriteFile(file, append(bytes.Clone(ca), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), 0o600))
	return file, ca
}

// startSandbox starts our own trust server in place of the stock one.
func startSandbox(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs("sandbox")
	s, err := sandbox.Start(context.Background(), sandbox.Config{Dir: dir})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	ts.Check(err)
	ts.Setenv("REGISTRY", s.Registry)
	trustServerIs(ts, s.Trust, ca)
}

// startRegistry starts a stock registry and sets REGISTRY to it.
func startRegistry(ts *testscript.TestScript, _ bool, _ []string) {
	port, config := freePort(ts), ts.MkAbs("registry.yml")
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:%s}\n",
		ts.MkAbs("registry"), port), 0o600))
	start(ts, answersTCP("127.0.0.1:"+port), "docker-registry", "serve", config)
	ts.Setenv("REGISTRY", "localhost:"+port)
}

// startDockerd starts an engine of its own and sets DOCKER_HOST.
func startDockerd(ts *testscript.TestScript, _ bool, _ []string) {
	dir, err := os.MkdirTemp("", "dockerd") // a Unix socket's path is short
	ts.Check(err)
	ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	sock := filepath.Join(dir, "sock")
	engine := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}}
	start(ts, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", nil)
		if err != nil {
			return err
		}
		r, err := engine.Do(req)
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	}, "dockerd", "--storage-driver", "vfs", "--iptables=false", "--ip6tables=false", "--bridge=none",
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"-H", "unix://"+sock, "--pidfile", filepath.Join(dir, "pid"))
	ts.Setenv("DOCKER_HOST", "unix://"+sock)
}

// start starts a program, waits until ready says so, and returns what ends it,
// by its process id; the end of the script does that, too.
func start(ts *testscript.TestScript, ready func(context.Context) error, name string, args ...string) (stop func()) {
	c := exec.Command(name, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	ts.Check(c.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Wait() }() // how it ended is in out
	stop = func() {
		_ = c.Process.Signal(os.Interrupt) // gone, if it ended by itself
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
	}
	ts.Defer(stop)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return stop
		}
		select {
		case <-ended:
			ts.Fatalf("%s ended: %v\n%s", name, c.ProcessState, out.String())
		case <-ctx.Done():
			ts.Fatalf("%s does not answer: %v", name, err)
		case <-tick.C:
		}
	}
}

func answersTCP(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			c.Close()
		}
		return err
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

// importImage makes an image in the engine: "image NAME TEXT".
func importImage(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs("image-" + args[1])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(os.WriteFile(filepath.Join(dir, "text"), []byte(args[1]), 0o600))
	ts.Check(ts.Exec("sh", "-c", fmt.Sprintf("tar -C '%s' -c . | docker import - '%s'", dir, args[0])))
}

// keep sets a variable to what a pattern's parenthesis matches in what the last
// command printed: "keep VAR stdout PATTERN".
func keep(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(`(?m)` + args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) != 2 {
		ts.Fatalf("%s does not match %q", args[1], args[2])
	}
	ts.Setenv(args[0], m[1])
}
