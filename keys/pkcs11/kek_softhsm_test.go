//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// TestKEKOnSoftHSM wraps and unwraps on a real token, from many sides at once.
func TestKEKOnSoftHSM(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	token := newToken(t, fixed(testPIN))
	if _, err := token.KEK(ctx, "kek-1"); !errors.Is(err, tuf.ErrNoKey) {
		t.Fatalf("KEK of an empty token: %v, want ErrNoKey", err)
	}
	made, err := token.MakeKEK(ctx, "kek-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.MakeKEK(ctx, "kek-1"); !errors.Is(err, keys.ErrExists) {
		t.Errorf("MakeKEK again: %v, want ErrExists", err)
	}
	other, err := token.MakeKEK(ctx, "kek-2")
	if err != nil {
		t.Fatal(err)
	}
	k, err := token.KEK(ctx, "kek-1")
	if err != nil || k.ID() != made.ID() || k.ID() == other.ID() {
		t.Fatalf("KEK = %v, %v; made %v and %v", k, err, made, other)
	}
	if !k.gcm {
		t.Error("SoftHSM has GCM, and it is not used")
	}
	envelope := *k
	envelope.gcm = false
	for _, k := range []*KEK{k, &envelope} {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				plain := fmt.Appendf(nil, "a private key of some length, number %d", i)
				wrapped, err := k.Wrap(ctx, plain)
				if err != nil {
					t.Errorf("Wrap: %v", err)
					return
				}
				if bytes.Contains(wrapped, plain[:10]) {
					t.Error("the wrapped key can be read")
				}
				if got, err := k.Unwrap(ctx, wrapped); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("Unwrap = %q, %v", got, err)
				}
				if _, err := other.Unwrap(ctx, wrapped); !errors.Is(err, ErrUnwrap) {
					t.Errorf("Unwrap by another key: %v, want ErrUnwrap", err)
				}
				at := i * len(wrapped) / 20
				wrapped[at] ^= 1
				if _, err := k.Unwrap(ctx, wrapped); !errors.Is(err, ErrUnwrap) {
					t.Errorf("Unwrap with byte %d changed: %v, want ErrUnwrap", at, err)
				}
			})
		}
		wg.Wait()
	}
	for _, short := range [][]byte{nil, {1}, {2}, make([]byte, 200)} {
		if _, err := k.Unwrap(ctx, short); !errors.Is(err, ErrUnwrap) {
			t.Errorf("Unwrap of %d bytes: %v, want ErrUnwrap", len(short), err)
		}
	}
}

func BenchmarkKEK(b *testing.B) {
	token := newToken(b, fixed(testPIN))
	k, err := token.MakeKEK(b.Context(), "kek")
	if err != nil {
		b.Fatal(err)
	}
	plain := make([]byte, 138)
	wrapped, err := k.Wrap(b.Context(), plain)
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := k.Unwrap(b.Context(), wrapped); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// TestKEKOfPKCS11Tool takes a key that was made with OpenSC's tool, found by a
// URI.
func TestKEKOfPKCS11Tool(t *testing.T) {
	t.Parallel()
	token := newToken(t, nil)
	label := token.c.Token.Label
	run(t, "pkcs11-tool", "--module", token.c.Library.path, "--token-label", label, "--login", "--pin", testPIN,
		"--keygen", "--key-type", "AES:32", "--label", "iechor kek")
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(testPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := ParseURI("pkcs11:token=" + label + ";object=iechor%20kek?module-path=" + token.c.Library.path + "&pin-source=file:" + pin)
	if err != nil {
		t.Fatal(err)
	}
	c := u.Config()
	c.Library = token.c.Library // one for the process
	opened := Open(c)
	defer opened.Close()
	k, err := opened.KEK(t.Context(), u.Object)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := k.Wrap(t.Context(), []byte("a key"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Unwrap(t.Context(), wrapped); err != nil || string(got) != "a key" {
		t.Errorf("Unwrap = %q, %v", got, err)
	}
}

// run runs a peer, or skips the test.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		missing(t, "opensc", name+" is not here: apt-get install opensc")
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
