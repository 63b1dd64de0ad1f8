//go:build cgo

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// softHSM finds the library, or skips the test.
func softHSM(t testing.TB) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			if _, err := exec.LookPath("softhsm2-util"); err == nil {
				return found[0]
			}
		}
	}
	const how = "SoftHSM is not here: apt-get install softhsm2"
	if required("softhsm") {
		t.Fatal(how)
	}
	t.Skip(how)
	return ""
}

// newHSM makes the token hsm, and returns the library and the environment of
// who uses it. The PIN is in signer/pin.
func newHSM(t testing.TB, s *site) (library string, env []string) {
	t.Helper()
	library = softHSM(t)
	if err := os.Mkdir(s.file("tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, s.file("softhsm2.conf"), s.expand("directories.tokendir = DIR/tokens\nlog.level = ERROR\n"))
	write(t, s.file("signer/pin"), "1234\n")
	env = []string{"SOFTHSM2_CONF=" + s.file("softhsm2.conf")}
	c := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "hsm", "--pin", "1234", "--so-pin", "12345678")
	c.Env = append(os.Environ(), env...)
	if status, out, errs := waitFor(t, c); status != 0 {
		t.Fatalf("%v = %d %s%s", c.Args, status, out, errs)
	}
	return library, env
}

// The key-encryption key is an AES key in a token: moved to from a file, found
// again by a signer that was killed.
func TestTokenKEK(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	library, env := newHSM(t, s)
	c := exec.Command("pkcs11-tool", "--module", library, "--token-label", "hsm", "--login", "--pin", "1234", "--keygen", "--key-type", "AES:32", "--label", "kek", "--id", "01")
	c.Env = append(os.Environ(), env...)
	if status, out, errs := waitFor(t, c); status != 0 {
		t.Fatalf("%v = %d %s%s", c.Args, status, out, errs)
	}
	startOne := func() *process {
		one := startCommand(t, program(t, env, "signer", "--config", s.file("signer.yaml")))
		s.signerAt.lead(one.addr)
		return one
	}
	uri := "pkcs11:token=hsm;object=kek?module-path=" + library + "&pin-source=file:" + s.file("signer/pin")
	one := startOne()
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	one.stop()
	s.configureSigner(t, "\nkey-encryption-key: \""+uri+"\"\nold-key-encryption-keys: [file:DIR/signer/kek]")
	one = startOne()
	status, out, errs := runProcess(t, env, "signer", "rewrap", "--config", s.file("signer.yaml"))
	if status != 0 || !strings.HasPrefix(out, "2 keys moved; all are under pkcs11:01 now\nnot needed any more: ") {
		t.Errorf("signer rewrap = %d %q %q", status, out, errs)
	}
	if err := p.publish(t.Context(), server, "2"); err != nil {
		t.Error(err)
	}
	one.kill()
	s.configureSigner(t, "\nkey-encryption-key: \""+uri+"\"")
	one = startOne()
	if err := p.publish(t.Context(), server, "3"); err != nil {
		t.Error(err)
	}
	p.has(server, "1", "2", "3")
	one.stop()
	server.stop()
	wrong := strings.Replace(uri, "object=kek", "object=other", 1)
	status, out, errs = runProcess(t, env, "signer", "--config", s.file("signer.yaml"), "--key-encryption-key", wrong)
	sentence(t, "a key that the token does not have", status, out, errs, "key-encryption key other in token hsm: ")
}

// Timestamp and snapshot keys are made on a token, sign there for two signers
// and one that is started anew, and are not missing while the token is away. Keys from before go on.
func TestKeysOnToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	library, env := newHSM(t, s)
	startOne := func() *process {
		return startCommand(t, program(t, env, "signer", "--config", s.file("signer.yaml")))
	}
	first := startOne()
	s.signerAt.lead(first.addr)
	server := s.startServer(t)
	before := newPublisher(t, s, "registry.example/before")
	if err := before.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	first.stop()
	uri := "pkcs11:token=hsm?module-path=" + library + "&pin-source=file:" + s.file("signer/pin")
	s.configureSigner(t, "\nkeys-on-token: \""+uri+"\"")
	two := [2]*process{startOne(), startOne()}
	s.signerAt.lead(two[0].addr)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	if err := before.publish(t.Context(), server, "2"); err != nil {
		t.Errorf("publish with keys from before: %v", err)
	}
	list := exec.Command("pkcs11-tool", "--module", library, "--token-label", "hsm", "--login", "--pin", "1234", "--list-objects", "--type", "privkey")
	list.Env = append(os.Environ(), env...)
	status, out, errs := waitFor(t, list)
	if status != 0 || strings.Count(out, "Private Key Object") != 2 || !strings.Contains(out, "timestamp registry.example/app") || strings.Contains(out, "registry.example/before") {
		t.Errorf("pkcs11-tool sees %d %s%s", status, out, errs)
	}
	// A rotation of a key from before gets one on the token.
	resp, err := s.client.Post("https://"+server.addr+api.Route{Kind: api.Key, GUN: before.gun, Role: tuf.RoleTimestamp}.Path(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // what counts is on the token
	again := exec.Command(list.Path, list.Args[1:]...)
	again.Env = list.Env
	if status, out, errs := waitFor(t, again); resp.StatusCode != 200 || status != 0 || !strings.Contains(out, "timestamp registry.example/before") {
		t.Errorf("rotation = %d; pkcs11-tool sees %d %s%s", resp.StatusCode, status, out, errs)
	}
	two[0].kill()
	s.signerAt.lead(two[1].addr)
	if err := p.publish(t.Context(), server, "2"); err != nil {
		t.Errorf("publish by the other signer: %v", err)
	}
	two[1].stop()

	if err := os.Rename(s.file("tokens"), s.file("pulled")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.file("tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	one := startOne()
	s.signerAt.lead(one.addr)
	one.logs("the token cannot be used")
	if err := p.publish(t.Context(), server, "3"); refusedBy(err) < 500 {
		t.Errorf("publish while the token is away = %v, want 5xx", err)
	}
	if err := before.publish(t.Context(), server, "3"); err != nil {
		t.Errorf("publish with keys that are not on the token: %v", err)
	}
	if err := os.Remove(s.file("tokens")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.file("pulled"), s.file("tokens")); err != nil {
		t.Fatal(err)
	}
	err = p.publish(t.Context(), server, "3")
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		err = p.publish(t.Context(), server, "3")
	}
	if err != nil {
		t.Fatalf("publish with the token back: %v", err)
	}
	p.has(server, "1", "2", "3")
	before.has(server, "1", "2", "3")
	one.stop()
	server.stop()
	status, out, errs = runProcess(t, nil, "audit", "--config", s.file("signer.yaml"))
	if status != 0 || !strings.Contains(out, "on token hsm") {
		t.Errorf("audit = %d %s%s, want where keys were made", status, out, errs)
	}
	for what, tt := range map[string][2]string{
		"a key named": {strings.Replace(uri, "hsm?", "hsm;object=kek?", 1), "object has no place"},
		"no PIN":      {strings.Split(uri, "&")[0], "lacks pin-source"},
		"no token":    {strings.Replace(uri, "token=hsm", "", 1), "lacks token"},
		"no library":  {strings.Replace(uri, library, "/nonexistent.so", 1), "nonexistent.so"},
	} {
		status, out, errs = runProcess(t, env, "signer", "--config", s.file("signer.yaml"), "--keys-on-token", tt[0])
		sentence(t, what, status, out, errs, tt[1])
	}
}
