//go:build cgo

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

// The key-encryption key is an AES key in a token: moved to from a file, found
// again by a signer that was killed.
func TestTokenKEK(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	library := softHSM(t)
	if err := os.Mkdir(s.file("tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, s.file("softhsm2.conf"), s.expand("directories.tokendir = DIR/tokens\nlog.level = ERROR\n"))
	write(t, s.file("signer/pin"), "1234\n")
	env := []string{"SOFTHSM2_CONF=" + s.file("softhsm2.conf")}
	for _, args := range [][]string{
		{"softhsm2-util", "--init-token", "--free", "--label", "hsm", "--pin", "1234", "--so-pin", "12345678"},
		{"pkcs11-tool", "--module", library, "--token-label", "hsm", "--login", "--pin", "1234", "--keygen", "--key-type", "AES:32", "--label", "kek", "--id", "01"},
	} {
		c := exec.Command(args[0], args[1:]...)
		c.Env = append(os.Environ(), env...)
		if status, out, errs := waitFor(t, c); status != 0 {
			t.Fatalf("%v = %d %s%s", args, status, out, errs)
		}
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
