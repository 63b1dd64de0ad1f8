package keys_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
)

// blockOf makes a key and returns it sealed, with its id.
func blockOf(t *testing.T, role, passphrase string) *keys.Block {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := keys.NewMemory()
	info, err := m.Import(t.Context(), keys.Info{Role: role}, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := keys.Seal(key, info, []byte(passphrase), keystest.Iterations)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	blocks[0].Info.ID = info.ID
	return blocks[0]
}

// tree is everything below a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if e.Type()&fs.ModeSymlink != 0 {
			files[rel], err = os.Readlink(path)
			return err
		}
		raw, err := os.ReadFile(path)
		files[rel] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestReplaceAll puts two keys, one new and one in place of another file, into
// a directory: both or none, whatever step fails, and nothing else is touched.
func TestReplaceAll(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"there", "not there", "behind a link"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			top := t.TempDir()
			path := filepath.Join(top, "trust", "private")
			a, b := blockOf(t, "alice", "one"), blockOf(t, "bob", "one")
			want := map[string]string{}
			switch place {
			case "behind a link":
				if err := os.MkdirAll(filepath.Join(top, "trust"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(filepath.Join(top, "stick", "keys"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(filepath.Join(top, "stick", "keys"), path); err != nil {
					t.Skip(err) // Windows, without the right to
				}
				fallthrough
			case "there":
				first := keystest.OpenDir(t, path, nil)
				other := blockOf(t, "carol", "one")
				if err := first.ReplaceAll(ctx, []*keys.Block{other}); err != nil {
					t.Fatal(err)
				}
				for name, text := range map[string]string{string(a.Info.ID) + ".key": "damaged", "notes.txt": "mine", "folder/more": "mine too"} {
					if err := os.MkdirAll(filepath.Dir(filepath.Join(path, name)), 0o700); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			before := map[string]string{}
			if place != "not there" {
				before = tree(t, linked(t, path))
			}
			for name, text := range before {
				want[name] = text
			}
			want[string(a.Info.ID)+".key"], want[string(b.Info.ID)+".key"] = string(a.File()), string(b.File())
			steps := 0
			for n := 0; ; n++ {
				d := keystest.OpenDir(t, path, nil)
				steps = 0
				d.SetFault(func(string) error {
					if steps++; steps > n {
						return errCrash
					}
					return nil
				})
				err := d.ReplaceAll(ctx, []*keys.Block{a, b})
				if err == nil {
					break
				}
				if !errors.Is(err, errCrash) {
					t.Fatalf("ReplaceAll, failing at step %d: %v", n, err)
				}
				if _, err := os.Stat(path); err == nil || place != "not there" {
					if diff := cmp.Diff(before, tree(t, linked(t, path))); diff != "" {
						t.Fatalf("after a failure at step %d (-before +after):\n%s", n, diff)
					}
				}
			}
			if steps < 9 {
				t.Errorf("it took %d steps, and there are two files", steps)
			}
			if diff := cmp.Diff(want, tree(t, linked(t, path))); diff != "" {
				t.Errorf("after ReplaceAll (-want +got):\n%s", diff)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(linked(t, path)), ".*"))
			if err != nil || len(left) > 0 {
				t.Errorf("ReplaceAll left %q, %v", left, err)
			}
		})
	}
}

func linked(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Where directories cannot be exchanged in one step, a crash between the two
// leaves the old one under another name.
func TestReplaceAllUnfinished(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "private")
	k := blockOf(t, "alice", "one")
	if err := keystest.OpenDir(t, path, nil).ReplaceAll(t.Context(), []*keys.Block{k}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(filepath.Dir(path), ".private-old")); err != nil {
		t.Fatal(err)
	}
	for _, look := range []bool{true, false} {
		d, err := keys.OpenDir(keys.Config{Path: path, LookOnly: look})
		if err != nil {
			t.Fatal(err)
		}
		if list, err := d.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("looking only %t: List = %v, %v, want the key that was there", look, list, err)
		}
		if _, err := os.Stat(path); (err == nil) == look {
			t.Errorf("looking only %t: %s: %v", look, path, err)
		}
	}
}

func TestReplaceAllRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "private")
	d := keystest.OpenDir(t, path, nil)
	good, nameless := blockOf(t, "alice", "one"), blockOf(t, "bob", "one")
	nameless.Info.ID = ""
	if err := d.ReplaceAll(t.Context(), []*keys.Block{good, nameless}); !errors.Is(err, keys.ErrBroken) {
		t.Errorf("ReplaceAll with a key without an id: %v, want ErrBroken", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.ReplaceAll(ended, []*keys.Block{good}); !errors.Is(err, context.Canceled) {
		t.Errorf("ReplaceAll after the end: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want nothing", path, err)
	}
}
