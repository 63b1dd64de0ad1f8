package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/iechor/trust/tuf"
)

// sentence fails the test unless a process failed with one line that has want
// in it.
func sentence(t testing.TB, what string, status int, stdout, stderr, want string) {
	t.Helper()
	if status != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "iechor-trustd: ") || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("%s = %d %q\n%s, want one line with %q", what, status, stdout, stderr, want)
	}
}

// What is missing or contradicts itself is said before anything is done.
func TestServerRefusesToStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := newAuthority(t, s.dir, "other")
	foreign := other.issue(t, s.dir, "foreign", "localhost")
	write(t, s.file("garbage.db"), strings.Repeat("not a database ", 100))
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--authentication", "all"}, `authentication must be spelled out: token, htpasswd or certificate`},
		{[]string{"--plaintext"}, "both plaintext and tls are configured: choose one"},
		{[]string{"--tls-certificate", s.file("none")}, "none: no such file or directory"},
		{[]string{"--tls-certificate="}, "tls.certificate and tls.key must both be set"},
		{[]string{"--tls-key", foreign.Key}, "private key does not match public key"},
		{[]string{"--signer-url="}, "signer.url is not set: the server signs nothing by itself"},
		{[]string{"--signer-url", "http://localhost"}, `"http://localhost" is not the address of a signer`},
		{[]string{"--signer-url", "unix:/run/signer"}, "are of no use with a Unix socket"},
		{[]string{"--signer-ca="}, "signer.ca is not set: without it the signer could be anybody"},
		{[]string{"--signer-ca", s.file("server.key")}, "server.key: no certificate"},
		{[]string{"--signer-key="}, "signer.certificate and signer.key must both be set"},
		{[]string{"--storage="}, "storage: it must be sqlite:FILE, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"},
		{[]string{"--storage", "sqlite:"}, "storage: a file belongs after sqlite:"},
		{[]string{"--storage", "postgres://db"}, "storage: the name of the database is missing"},
		{[]string{"--storage", "sqlite:" + s.file("none/server.db")}, "open the database: open " + s.file("none/server.db") + ": no such file or directory"},
		{[]string{"--storage", "sqlite:" + s.dir}, "is a directory"},
		{[]string{"--storage", "sqlite:" + s.file("garbage.db")}, "file is not a database"},
		{[]string{"--key-type", "rsa"}, `keys of type "rsa"`},
		{[]string{"--prefixes", "acme"}, "invalid GUN prefix acme"},
		{[]string{"--lifetime-timestamp", "1s"}, "must live for a minute at least"},
		{[]string{"--retention-deleted", "0s"}, "retention.deleted must be longer than 0s"},
		{[]string{"--log-level", "loud"}, `log-level "loud": choose debug, info, warn or error`},
		{[]string{"--listen", "127.0.0.1:99999"}, "start the trust server: "},
	} {
		status, out, errs := runProcess(t, nil, append([]string{"server", "--config", s.file("server.yaml")}, tt.args...)...)
		sentence(t, fmt.Sprint(tt.args), status, out, errs, tt.want)
	}
	// Without a word about authentication there is no default.
	status, out, errs := runProcess(t, nil, "server")
	sentence(t, "server without a configuration", status, out, errs, "authentication must be spelled out")
}

func TestSignerRefusesToStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	write(t, s.file("readable"), kek("0123456789abcdef"))
	if err := os.Chmod(s.file("readable"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, s.file("nobody.yaml"), s.expand("listen: 127.0.0.1:0\n"))
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--tls-key="}, "tls.certificate and tls.key must both be set"},
		{[]string{"--tls-key", s.file("none")}, "none: no such file or directory"},
		{[]string{"--client-ca="}, "client-ca is not set: without it nobody could show who they are"},
		{[]string{"--client-ca", s.file("none")}, "none: no such file or directory"},
		{[]string{"--key-encryption-key="}, `key-encryption-key: a key-encryption key is named by "file:PATH" or "env:NAME"`},
		{[]string{"--key-encryption-key", "vault:iechor"}, `"vault:iechor" is not a transit key: "vault:transit/iechor" is`},
		{[]string{"--key-encryption-key", "vault:transit/iechor"}, "vault.address and vault.token must both be set"},
		{[]string{"--key-encryption-key", "vault:transit/iechor", "--vault-address", "http://vault.example", "--vault-token", "env:PATH"}, "must begin with https"},
		{[]string{"--key-encryption-key", "vault:transit/iechor", "--vault-address", "https://vault.example", "--vault-token", "s.12345"}, `vault.token is named by "file:PATH" or "env:NAME"`},
		{[]string{"--key-encryption-key", "vault:transit/iechor", "--vault-address", "https://vault.example", "--vault-token", "file:" + s.file("readable")}, "vault.token: file "},
		{[]string{"--key-encryption-key", "vault:transit/iechor", "--vault-address", "https://vault.example", "--vault-token", "env:NONE"}, "key-encryption-key: vault.token: variable NONE is empty"},
		{[]string{"--key-encryption-key", "pkcs11:token=x;object=y?pin-source=file:/x"}, "the PKCS#11 URI lacks module-path"},
		{[]string{"--key-encryption-key", "pkcs11:token=x?module-path=/x.so&pin-source=file:/x"}, "the PKCS#11 URI lacks object, the label of the key"},
		{[]string{"--key-encryption-key", "pkcs11:token=x;object=y?module-path=/x.so"}, "the PKCS#11 URI lacks pin-source"},
		{[]string{"--key-encryption-key", "env:NONE"}, "key-encryption-key: variable NONE is empty"},
		{[]string{"--key-encryption-key", "file:" + s.file("readable")}, "chmod 600 it"},
		{[]string{"--key-encryption-key", "file:" + s.file("server.yaml")}, "a key-encryption key is 32 bytes"},
		{[]string{"--old-key-encryption-keys", "file:" + s.file("none")}, "old-key-encryption-keys: open "},
		{[]string{"--storage", "memory"}, "storage: it must be sqlite:FILE, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"},
		{[]string{"--listen", "unix:" + s.file("sock")}, "tls and client-ca are of no use on a Unix socket: leave them out"},
		{[]string{"--listen", "unix:" + s.file("sock"), "--tls-certificate=", "--tls-key=", "--client-ca="}, `identities lacks "unix"`},
		{[]string{"--config", s.file("nobody.yaml")}, "identities is empty: nobody could call the signer"},
	} {
		status, out, errs := runProcess(t, nil, append([]string{"signer", "--config", s.file("signer.yaml")}, tt.args...)...)
		sentence(t, fmt.Sprint(tt.args), status, out, errs, tt.want)
	}
	if _, err := os.Stat(s.file("signer/signer.db")); !os.IsNotExist(err) {
		t.Errorf("a signer that did not start made its database: %v", err)
	}
}

// TestAttackStrangersAtTheSigner: G1.
func TestAttackStrangersAtTheSigner(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	other := newAuthority(t, s.dir, "other")
	url := "https://" + s.signerAt.l.Addr().String() + "/v1/create-key"
	ask := func(show *certificateFiles) (*http.Response, error) {
		body := strings.NewReader(`{"type":"ed25519","role":"timestamp","gun":"registry.example/app"}`)
		return httpClient(t, s.ca, show).Post(url, "application/json", body)
	}
	foreign := other.issue(t, s.dir, "foreign", serverIdentity)
	for name, show := range map[string]*certificateFiles{"no certificate": nil, "another authority's certificate": &foreign} {
		if resp, err := ask(show); err == nil {
			resp.Body.Close()
			t.Errorf("%s: the signer answers %s, want a broken handshake", name, resp.Status)
		}
		// What HTTP says of the break depends on who is first; TLS itself is exact.
		conn, err := tls.Dial("tcp", s.signerAt.l.Addr().String(), clientTLS(t, s.ca, show))
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if alert := (*net.OpError)(nil); !errors.As(err, &alert) || alert.Op != "remote error" {
			t.Errorf("%s: %v, want an alert of TLS", name, err)
		}
	}
	unlisted := s.ca.issue(t, s.dir, "unlisted", "unlisted.example")
	for name, show := range map[string]certificateFiles{"an unlisted identity": unlisted, "an identity without the right": s.operator} {
		resp, err := ask(&show)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusForbidden || bytes.Contains(body, []byte("key\":")) {
			t.Errorf("%s: the signer answers %s %s, %v, want 403 and nothing", name, resp.Status, body, err)
		}
	}
	// The one who may still can, and plaintext is not spoken.
	if err := s.dial(t, s.ca, s.caller).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if resp, err := http.Get("http://" + s.signer.addr + "/v1/ping"); err == nil {
		if resp.Body.Close(); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plaintext is answered with %s", resp.Status)
		}
	}
	s.signer.stop()
	if log := s.signer.log.String(); !strings.Contains(log, `"identity":"sha256:`) || strings.Contains(log, kek("0123456789abcdef")) {
		t.Errorf("the log lacks the stranger, or has a secret:\n%s", log)
	}
}

func TestKeyEncryptionKeyRotation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	client := s.dial(t, s.ca, s.caller)
	pending, err := client.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, "registry.example/next")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(when, want string) {
		t.Helper()
		status, out, errs := runProcess(t, nil, "signer", "--config", s.file("signer.yaml"))
		sentence(t, when, status, out, errs, want)
	}
	goesOn := func(tag string) {
		t.Helper()
		s.startSigner(t)
		if err := p.publish(t.Context(), server, tag); err != nil {
			t.Errorf("publish %s: %v", tag, err)
		}
		if key, err := client.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, "registry.example/next"); err != nil || !key.Equal(pending) {
			t.Errorf("%s: the pending key is now %v, %v", tag, key, err)
		}
	}
	s.signer.stop()
	write(t, s.file("signer/new"), kek("fedcba9876543210"))

	s.configureSigner(t, "\nkey-encryption-key: file:DIR/signer/new")
	refused("a signer with a wrong key", "key-encryption key does not fit the key table")
	s.configureSigner(t, "\nkey-encryption-key: file:DIR/signer/new\nold-key-encryption-keys: [file:DIR/signer/kek]")
	goesOn("with-old")
	for _, want := range []string{"3 keys moved", "0 keys moved"} {
		status, out, errs := runProcess(t, nil, "signer", "rewrap", "--config", s.file("signer.yaml"))
		if status != 0 || !strings.HasPrefix(out, want+"; all are under ") || !strings.Contains(out, "\nnot needed any more: ") {
			t.Errorf("signer rewrap = %d %q %q, want %s", status, out, errs, want)
		}
	}
	s.signer.stop()

	s.configureSigner(t, "")
	refused("a signer with the former key", "key-encryption key does not fit the key table")
	if err := os.Rename(s.file("signer/new"), s.file("signer/kek")); err != nil {
		t.Fatal(err)
	}
	goesOn("without-old")
	s.signer.stop()
	p.has(server, "first", "with-old", "without-old")
	server.stop()
	s.sound(t)
}

// A signer on a Unix socket, in plaintext behind it a server: killed and
// started again, the signer takes its socket over.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sock := filepath.Join(shortDir(t), "sock")
	write(t, s.file("signer.yaml"), s.expand("listen: unix:"+sock+"\nstorage: sqlite:DIR/signer/signer.db\nkey-encryption-key: file:DIR/signer/kek\nidentities: {unix: [sign, create]}\n"))
	one := start(t, "signer", "--config", s.file("signer.yaml"))
	server := start(t, "server", "--listen", "127.0.0.1:0", "--plaintext", "--authentication=none", "--storage", "sqlite:"+s.file("server/server.db"), "--signer-url", "unix:"+sock)
	path := "http://" + server.addr + "/v2/registry.example/app/_trust/tuf/timestamp.key"
	for range 2 {
		status, body, err := s.get(t.Context(), path)
		if err != nil || status != http.StatusOK || !strings.Contains(body, "keyval") {
			t.Errorf("GET timestamp.key = %d %s, %v", status, body, err)
		}
		one.kill()
		one = start(t, "signer", "--config", s.file("signer.yaml"))
	}
	one.stop()
	server.stop()
}

// Databases are for their owner's eyes.
func TestDatabaseMode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t).stop()
	server := s.startServer(t)
	for _, name := range []string{"signer/signer.db", "server/server.db", "server/server.db-wal"} {
		if info, err := os.Stat(s.file(name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", name, info.Mode(), err)
		}
	}
	server.stop()
}

// A folder that cannot be written is a sentence.
func TestDatabaseInAClosedFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere: TestFullDisk is for root")
	}
	s := newSite(t)
	dir := s.file("closed")
	if err := os.Mkdir(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "server.db")
	status, out, errs := runProcess(t, nil, "server", "--config", s.file("server.yaml"), "--storage", "sqlite:"+file)
	sentence(t, "server in a folder that is not its own", status, out, errs, "open the database: open "+file+": permission denied")
}

// onDisk returns a command that is iechor-trustd in a name space of its own, in
// which dir is a file system in memory with the given options.
func onDisk(t testing.TB, dir, options string, args ...string) *exec.Cmd {
	t.Helper()
	script := fmt.Sprintf("mount -t tmpfs -o %s none '%s' || exit 99\nexec iechor-trustd \"$@\"", options, dir)
	c := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	c.Env = program(t, nil).Env
	ownMounts(c)
	return c
}

// A disk that cannot be written or is full is a sentence at the start. When it
// fills up later, publishers are told that the server has trouble, what was
// acknowledged can be read, and the log says why.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("a full disk is made on Linux, by root")
	}
	s := newSite(t)
	dir := s.file("disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := waitFor(t, onDisk(t, dir, "ro", "version")); status != 0 {
		t.Skipf("this root may not mount: %s", errs)
	}
	args := []string{"server", "--config", s.file("server.yaml"), "--storage", "sqlite:" + filepath.Join(dir, "server.db")}
	for options, want := range map[string]string{"ro": "read-only file system", "size=64k": "database or disk is full"} {
		status, out, errs := waitFor(t, onDisk(t, dir, options, args...))
		sentence(t, "server on a disk with "+options, status, out, errs, want)
	}

	s.startSigner(t)
	server := startCommand(t, onDisk(t, dir, "size=512k", args...))
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "first"); err != nil {
		t.Fatal(err)
	}
	tags := []string{"first"}
	var err error
	for err == nil && len(tags) < 1000 {
		tag := fmt.Sprint("v", len(tags))
		if err = p.publish(t.Context(), server, tag); err == nil {
			tags = append(tags, tag)
		}
	}
	if refusedBy(err) < 500 {
		t.Errorf("publish on a full disk = %v after %d tags, want 5xx", err, len(tags))
	}
	p.has(server, tags...)
	server.logs("database or disk is full")
	server.stop()
}

// A server whose signer is away starts, reads, and says so.
func TestServerWithoutSigner(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.signerAt.lead("127.0.0.1:1") // nobody
	server := s.startServer(t)
	server.logs(`"msg":"signer does not answer"`)
	status, body, err := s.get(t.Context(), "https://"+server.addr+"/_notary_server/health")
	var faults map[string]string
	if err != nil || status != http.StatusServiceUnavailable || json.Unmarshal([]byte(body), &faults) != nil || faults["Trust operational"] == "" {
		t.Errorf("health = %d %s, %v", status, body, err)
	}
	server.stop()
}
