package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

const (
	gun        = tuf.GUN("registry.example/app")
	passphrase = "passphrase" // of everything in testdata
)

var message = []byte(`{"signed":"message"}`)

func TestDir(t *testing.T) {
	t.Parallel()
	keystest.Run(t, func(t *testing.T) keys.Store {
		return keystest.OpenDir(t, filepath.Join(t.TempDir(), "trust", "private"), keystest.Passphrase("correct horse"))
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()
	keystest.Run(t, func(*testing.T) keys.Store { return keys.NewMemory() })
}

// asker answers from a list and remembers the questions. It fails the test
// when it is asked more than it has answers for.
type asker struct {
	t       *testing.T
	mu      sync.Mutex
	old     []any // string or error
	new     []any
	asked   []keys.Info
	tries   []int
	answers [][]byte // the very slices that were handed out
}

func (a *asker) next(list *[]any) ([]byte, error) {
	a.t.Helper()
	if len(*list) == 0 {
		a.t.Error("asked once too often")
		return nil, keys.ErrNoPassphrase
	}
	v := (*list)[0]
	*list = (*list)[1:]
	if err, ok := v.(error); ok {
		return nil, err
	}
	b := []byte(v.(string))
	a.answers = append(a.answers, b)
	return b, nil
}

func (a *asker) Passphrase(_ context.Context, key keys.Info, attempt int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked, a.tries = append(a.asked, key), append(a.tries, attempt)
	return a.next(&a.old)
}

func (a *asker) NewPassphrase(_ context.Context, key keys.Info) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, key)
	return a.next(&a.new)
}

// wantWiped checks that all answers were overwritten.
func (a *asker) wantWiped() {
	a.t.Helper()
	for i, b := range a.answers {
		if !bytes.Equal(b, make([]byte, len(b))) {
			a.t.Errorf("answer %d was not wiped: %q", i, b)
		}
	}
}

// pub is the public half of a key.
func pub(t testing.TB, key crypto.Signer) tuf.PublicKey {
	t.Helper()
	p, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// signs checks that a signer works.
func signs(t testing.TB, s tuf.Signer) {
	t.Helper()
	sig, err := s.Sign(context.Background(), message)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	if err := s.PublicKey().Verify(message, sig); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if sig.KeyID != s.PublicKey().ID() {
		t.Errorf("signature is by %s, want %s", sig.KeyID, s.PublicKey().ID())
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// write makes a file as a key store would.
func write(t testing.TB, path string, raw []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// names lists a directory; nil if there is none.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files match %s (%v)", pattern, err)
	}
	return paths
}

// stockKey is a key file of the stock client, by its id.
func stockKey(t testing.TB) (tuf.CanonicalID, []byte) {
	t.Helper()
	path := slices.MaxFunc(glob(t, "testdata/stock/docker-trust/*.key"), strings.Compare)
	return tuf.CanonicalID(strings.TrimSuffix(filepath.Base(path), ".key")), read(t, path)
}

func signer(t testing.TB, key crypto.Signer) tuf.Signer {
	t.Helper()
	s, err := tuf.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
