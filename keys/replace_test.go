package keys_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

var errCrash = errors.New("crash")

// TestReplace gives a stored key another name and passphrase, in one step.
func TestReplace(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir()
	old := keystest.OpenDir(t, path, keystest.Passphrase("old passphrase"))
	info, err := old.Import(ctx, keys.Info{Role: "alice"}, key)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(role string) *keys.Block {
		raw, err := keys.Seal(key, keys.Info{ID: info.ID, Role: role}, []byte("new passphrase"), keystest.Iterations)
		if err != nil {
			t.Fatal(err)
		}
		b, err := keys.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	for _, step := range []string{"write", "sync", "close", "rename"} {
		crashing := keystest.OpenDir(t, path, nil)
		crashing.SetFault(func(s string) error {
			if s == step {
				return errCrash
			}
			return nil
		})
		if err := crashing.Replace(ctx, keys.Info{ID: info.ID, Role: "bob"}, sealed("bob")); !errors.Is(err, errCrash) {
			t.Errorf("Replace with a crash at %s: %v", step, err)
		}
		next := keystest.OpenDir(t, path, keystest.Passphrase("old passphrase"))
		if _, err := next.Open(ctx, info.ID); err != nil {
			t.Errorf("Open after a crash at %s: %v, want the key as it was", step, err)
		}
	}
	if err := old.Replace(ctx, keys.Info{ID: info.ID, Role: "bob"}, sealed("bob")); err != nil {
		t.Fatalf("Replace: %v", err)
	}
	again := keystest.OpenDir(t, path, keystest.Passphrase("new passphrase"))
	infos, err := again.List(ctx)
	if err != nil || len(infos) != 1 || infos[0].Role != "bob" {
		t.Fatalf("List after Replace = %v, %v, want the key as bob", infos, err)
	}
	if _, err := again.Open(ctx, info.ID); err != nil {
		t.Errorf("Open with the new passphrase: %v", err)
	}
	stale := keystest.OpenDir(t, path, keystest.Passphrase("old passphrase"))
	if _, err := stale.Open(ctx, info.ID); !errors.Is(err, keys.ErrPassphrase) {
		t.Errorf("Open with the old passphrase: %v, want ErrPassphrase", err)
	}

	if err := again.Replace(ctx, keys.Info{Role: "bob"}, sealed("bob")); !errors.Is(err, keys.ErrBroken) {
		t.Errorf("Replace without an id: %v, want ErrBroken", err)
	}
	if err := again.Replace(ctx, keys.Info{ID: info.ID}, sealed("bob")); !errors.Is(err, tuf.ErrRole) {
		t.Errorf("Replace without a role: %v, want ErrRole", err)
	}
	file := filepath.Join(path, string(info.ID)+".key")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Symlink(elsewhere, file); err != nil {
		t.Skip(err)
	}
	if err := again.Replace(ctx, keys.Info{ID: info.ID, Role: "bob"}, sealed("bob")); !errors.Is(err, keys.ErrBroken) {
		t.Errorf("Replace of a link: %v, want ErrBroken", err)
	}
	if _, err := os.Lstat(elsewhere); err == nil {
		t.Error("Replace wrote through a link")
	}
}
