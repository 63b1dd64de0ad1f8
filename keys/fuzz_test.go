package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// FuzzParse: no bytes make the reader panic or answer with an error that says
// nothing, and what it reads comes back when it is written.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/stock/*/*.key", "testdata/stock/loose/*", "testdata/openssl/*"} {
		for _, path := range glob(f, pattern) {
			f.Add(read(f, path))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		blocks, err := keys.Parse(raw)
		if err != nil {
			if !errors.Is(err, keys.ErrBroken) && !errors.Is(err, tuf.ErrKey) {
				t.Errorf("Parse = %v, which is neither ErrBroken nor ErrKey", err)
			}
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("Parse = %q", err)
			}
			return
		}
		for _, b := range blocks {
			if b.Cost() > keys.MaxCost {
				t.Errorf("a key that costs %d rounds", b.Cost())
			}
			if b.Cost() > 1<<14 {
				continue // takes long, on purpose
			}
			key, err := b.Key([]byte(passphrase))
			if err != nil {
				if !errors.Is(err, keys.ErrBroken) && !errors.Is(err, tuf.ErrKey) && !errors.Is(err, keys.ErrPassphrase) {
					t.Errorf("Key = %v, which says nothing", err)
				}
				continue
			}
			signs(t, signer(t, key))
			file, err := keys.Seal(key, keys.Info{Role: "alice"}, []byte(passphrase), keystest.Iterations)
			if err != nil {
				t.Fatalf("Seal: %v", err)
			}
			again, err := keys.Parse(file)
			if err != nil {
				t.Fatalf("Parse of what Seal wrote: %v", err)
			}
			back, err := again[0].Key([]byte(passphrase))
			if err != nil || !pub(t, back).Equal(pub(t, key)) {
				t.Errorf("Key of what Seal wrote: %v", err)
			}
		}
	})
}

// FuzzDir: whatever lies in the directory of keys, each file is a key of its
// name, or a problem that is told, or not ours. A look changes nothing, and
// what stock programs of old have left is moved, never lost.
func FuzzDir(f *testing.F) {
	for _, path := range glob(f, "testdata/stock/*/*.key") {
		raw := read(f, path)
		f.Add(filepath.Base(path), raw)
		f.Add("root_keys/"+filepath.Base(path), raw)
		f.Add("tuf_keys/registry.example/app/"+strings.TrimSuffix(filepath.Base(path), ".key")+"_targets.key", raw)
	}
	f.Add(strings.Repeat("ab", 32)+".key", []byte("-----BEGIN EC PRIVATE KEY-----\nrole: root\n\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if !filepath.IsLocal(name) || len(name) > 200 || os.MkdirAll(filepath.Dir(file), 0o700) != nil || os.WriteFile(file, raw, 0o600) != nil {
			return // such a file there cannot be
		}
		open := func(lookOnly bool) *keys.Dir {
			d, err := keys.OpenDir(keys.Config{Path: dir, Passphrases: keystest.Passphrase(passphrase), Iterations: keystest.Iterations, LookOnly: lookOnly})
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := open(true)
		infos, err := d.List(t.Context())
		if err != nil {
			t.Fatalf("List = %v", err)
		}
		for _, p := range d.Problems() {
			if strings.ContainsFunc(p.Err.Error(), unicode.IsControl) {
				t.Errorf("Problems = %q", p.Err)
			}
		}
		for _, k := range infos {
			if filepath.Clean(name) != string(k.ID)+".key" || !k.ID.Valid() {
				t.Errorf("%q holds the key %+v", name, k)
			}
			if b, err := keys.Parse(raw); err != nil || b[0].Cost() > 1<<14 {
				continue // takes long, on purpose
			}
			if s, err := d.Open(t.Context(), k.ID); err == nil && s.PublicKey().CanonicalID() != k.ID {
				t.Errorf("%s opens as %s", k.ID, s.PublicKey().CanonicalID())
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if now := read(t, file); !bytes.Equal(now, raw) {
			t.Errorf("%q became %q by a look", raw, now)
		}
		d = open(false)
		defer d.Close()
		if infos, err = d.List(t.Context()); err != nil {
			t.Fatalf("List = %v", err)
		}
		if _, err := os.Stat(file); err != nil && len(infos) == 0 {
			t.Errorf("%s is gone (%v), and the keys are %v", name, err, infos)
		}
	})
}
