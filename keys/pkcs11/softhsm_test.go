//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/iechor/trust/keys"
)

// softHSM is where Debian and others put the library.
var softHSM = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// The library reads its configuration when it is initialized, which happens
// once: all tests share one folder of tokens, each with tokens of its own.
var softHSMFolder string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "softhsm")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		softHSMFolder = filepath.Join(dir, "tokens")
		config := filepath.Join(dir, "softhsm2.conf")
		text := "directories.tokendir = " + softHSMFolder + "\nlog.level = ERROR\n"
		if err := errors.Join(os.Mkdir(softHSMFolder, 0o700), os.WriteFile(config, []byte(text), 0o600)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		os.Setenv("SOFTHSM2_CONF", config)
		return m.Run()
	}())
}

var theLibrary = sync.OnceValue(func() *Library {
	for _, path := range softHSM {
		if _, err := os.Stat(path); err == nil {
			return NewLibrary(path)
		}
	}
	return nil
})

// library returns SoftHSM, or skips the test.
func library(t testing.TB) *Library {
	t.Helper()
	l := theLibrary()
	if l == nil {
		missing(t, "softhsm", "SoftHSM is not here: apt-get install softhsm2")
	}
	return l
}

// missing skips the test, unless IECHOR_REQUIRE names the peer.
func missing(t testing.TB, peer, how string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), peer) {
		t.Fatal(how)
	}
	t.Skip(how)
}

// making is held while a token is made: SoftHSM shows one blank slot.
var making sync.Mutex

var counted atomic.Int64

// newToken makes a token, and returns it open.
func newToken(t testing.TB, pins keys.PINs) *Token {
	t.Helper()
	l, label := library(t), fmt.Sprintf("token-%d", counted.Add(1))
	making.Lock()
	defer making.Unlock()
	slots, err := l.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if slot.Token.Blank {
			if _, err := l.Setup(slot.Number, label, []byte(testSOPIN), []byte(testPIN)); err != nil {
				t.Fatalf("set up token %s: %v", label, err)
			}
		}
	}
	token := Open(Config{Library: l, Token: Choice{Label: label}, PINs: pins})
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return token
}
