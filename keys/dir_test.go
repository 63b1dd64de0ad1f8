package keys_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

func TestDirMissing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "trust", "private")
	d := keystest.OpenDir(t, dir, nil)
	if got, err := d.List(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("List = %v, %v", got, err)
	}
	if got := names(t, filepath.Dir(dir)); got != nil {
		t.Errorf("reading made %v", got)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if _, err := keys.NewDir(file, nil); err == nil {
		t.Error("a file was opened as a directory")
	}
	if _, err := keys.NewDir("", nil); err == nil {
		t.Error("a directory without name was opened")
	}
}

// TestDirModes: what is written is for the owner alone, whatever the umask.
func TestDirModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes say nothing on Windows")
	}
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "trust", "private")
	d := keystest.OpenDir(t, dir, keystest.Passphrase("secret"))
	d.SetFault(func(string) error {
		for _, name := range names(t, dir) {
			if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, %v while it is written", name, st.Mode(), err)
			}
		}
		return nil
	})
	if _, err := keys.Generate(t.Context(), d, "", keys.Info{Role: "root"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{filepath.Dir(dir): 0o700, dir: 0o700, glob(t, dir+"/*")[0]: 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, st.Mode().Perm(), want, err)
		}
	}
}

// TestDirPassesOver lists the things in a directory that are no keys, and that
// must not keep the others from working.
func TestDirPassesOver(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "private")
	id, good := stockKey(t)
	write(t, filepath.Join(dir, string(id)+".key"), good)
	name := func(c string) string { return filepath.Join(dir, strings.Repeat(c, 64)+".key") }
	bad := []string{name("1"), name("2"), name("3"), name("4"), name("5")}
	write(t, bad[0], nil)
	write(t, bad[1], []byte("not PEM at all"))
	write(t, bad[2], bytes.Replace(good, []byte("MIH"), []byte("AAA"), 1))
	write(t, bad[3], append(bytes.Repeat([]byte("x"), 70<<10), good...))
	write(t, bad[4], bytes.Replace(good, []byte("role: "), []byte("role: \x1b[31m"), 1))
	// Not even a problem:
	write(t, filepath.Join(dir, "README"), []byte("x"))
	write(t, filepath.Join(dir, "notes.key"), good)
	write(t, filepath.Join(dir, ".new-1234"), good)
	write(t, strings.TrimSuffix(name("6"), ".key")+".pem", good)
	if err := os.Mkdir(name("7"), 0o700); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside.key")
	write(t, outside, good)
	if err := os.Symlink(outside, name("8")); err != nil {
		t.Logf("no symbolic links here: %v", err)
	}

	d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
	infos, err := d.List(t.Context())
	if err != nil || len(infos) != 1 || infos[0].ID != id {
		t.Fatalf("List = %v, %v", infos, err)
	}
	var got []string
	for _, p := range d.Problems() {
		got = append(got, p.Path)
		if !errors.Is(p.Err, keys.ErrBroken) {
			t.Errorf("problem %v, want ErrBroken", p)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(bad, got); diff != "" {
		t.Errorf("Problems (-want +got):\n%s", diff)
	}
	for _, c := range "1234578" {
		_, err := d.Open(t.Context(), tuf.CanonicalID(strings.Repeat(string(c), 64)))
		want := keys.ErrBroken
		if c > '6' {
			want = tuf.ErrNoKey
		}
		if !errors.Is(err, want) {
			t.Errorf("Open(%c…) = %v, want %v", c, err, want)
		}
	}
	s, err := d.Open(t.Context(), id)
	if err != nil {
		t.Fatalf("Open of the good key: %v", err)
	}
	signs(t, s)
}

// TestDirImportInTheWay: a broken file may be all that is left of a key, and
// something that is no file is not ours.
func TestDirImportInTheWay(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"broken", "directory"} {
		dir := t.TempDir()
		key := newKeys(t)["p256"]
		path := filepath.Join(dir, string(pub(t, key).CanonicalID())+".key")
		if kind == "broken" {
			write(t, path, []byte("half a key"))
		} else if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		d := keystest.OpenDir(t, dir, keystest.Passphrase("secret"))
		_, err := d.Import(t.Context(), keys.Info{Role: "alice"}, key)
		if !errors.Is(err, keys.ErrBroken) || !strings.Contains(err.Error(), path) {
			t.Errorf("Import over a %s = %v, want ErrBroken that names the file", kind, err)
		}
		if got := names(t, dir); len(got) != 1 {
			t.Errorf("after Import over a %s there is %v", kind, got)
		}
	}
}

func openStock(t *testing.T, ask keys.Passphrases) (*keys.Dir, tuf.CanonicalID, string) {
	t.Helper()
	id, raw := stockKey(t)
	dir := filepath.Join(t.TempDir(), "private")
	path := filepath.Join(dir, string(id)+".key")
	write(t, path, raw)
	return keystest.OpenDir(t, dir, ask), id, path
}

func TestDirAsksFourTimes(t *testing.T) {
	t.Parallel()
	a := &asker{t: t, old: []any{"wrong1", "wrong2", "wrong3", "wrong4"}}
	d, id, path := openStock(t, a)
	before := read(t, path)
	_, err := d.Open(t.Context(), id)
	var se *keys.StoreError
	if !errors.Is(err, keys.ErrPassphrase) || errors.Is(err, tuf.ErrNoKey) || !errors.As(err, &se) {
		t.Fatalf("Open = %v, want a StoreError with ErrPassphrase", err)
	}
	if se.Key.ID != id || se.Key.Role == "" || se.Store != d.Name() || !strings.Contains(err.Error(), id.Short()) {
		t.Errorf("the error does not name the key: %+v", se)
	}
	if strings.Contains(err.Error(), "wrong1") {
		t.Errorf("the error shows an answer: %v", err)
	}
	if diff := cmp.Diff([]int{1, 2, 3, 4}, a.tries); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if a.asked[0] != se.Key {
		t.Errorf("asked for %+v, want %+v", a.asked[0], se.Key)
	}
	a.wantWiped()

	// Nothing is the worse for it, and the right answer is asked for once.
	a.old = []any{"wrong5", passphrase}
	for range 3 {
		s, err := d.Open(t.Context(), id)
		if err != nil {
			t.Fatalf("Open with the right passphrase: %v", err)
		}
		signs(t, s)
	}
	if len(a.tries) != 6 {
		t.Errorf("asked %d times, want 6", len(a.tries))
	}
	a.wantWiped()
	if !bytes.Equal(before, read(t, path)) {
		t.Error("opening changed the file")
	}
}

func TestDirAskerGivesUp(t *testing.T) {
	t.Parallel()
	for _, want := range []error{keys.ErrCancelled, keys.ErrNoPassphrase, keys.ErrPassphrase, context.DeadlineExceeded} {
		a := &asker{t: t, old: []any{"wrong", want}}
		d, id, _ := openStock(t, a)
		if _, err := d.Open(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("Open = %v, want %v", err, want)
		}
		if len(a.tries) != 2 {
			t.Errorf("after %v: asked %d times, want 2", want, len(a.tries))
		}
	}
	d, id, _ := openStock(t, nil)
	if _, err := d.Open(t.Context(), id); !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("Open with nobody to ask = %v, want ErrNoPassphrase", err)
	}
	if _, err := d.New(t.Context(), "", keys.Info{Role: "root"}); !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("New with nobody to ask = %v, want ErrNoPassphrase", err)
	}
}

// A quitter answers, but the command is over.
type quitter struct {
	answer string
	cancel context.CancelFunc
}

func (q quitter) Passphrase(context.Context, keys.Info, int) ([]byte, error) {
	q.cancel()
	return []byte(q.answer), nil
}

func (q quitter) NewPassphrase(context.Context, keys.Info) ([]byte, error) {
	q.cancel()
	return []byte(q.answer), nil
}

// TestDirContextDuringQuestion: an answer that comes after the command was
// broken off opens nothing and writes nothing.
func TestDirContextDuringQuestion(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	d, id, path := openStock(t, quitter{passphrase, cancel})
	if _, err := d.Open(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("Open = %v, want Canceled", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	d = keystest.OpenDir(t, filepath.Dir(path), quitter{passphrase, cancel})
	if _, err := d.New(ctx, "", keys.Info{Role: "root"}); !errors.Is(err, context.Canceled) {
		t.Errorf("New = %v, want Canceled", err)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// TestDirCancelledLeavesNothing: keys that were made, and even questions that
// were answered, leave nothing behind before Save.
func TestDirCancelledLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "private")
	a := &asker{t: t, new: []any{"secret", keys.ErrCancelled, ""}}
	d := keystest.OpenDir(t, dir, a)
	root, err := d.New(t.Context(), "", keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	signs(t, root.Signer())
	info := keys.Info{Role: "targets", GUN: gun}
	if _, err := d.New(t.Context(), "", info); !errors.Is(err, keys.ErrCancelled) {
		t.Errorf("New = %v, want ErrCancelled", err)
	}
	if _, err := d.New(t.Context(), "", info); !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("New with an empty passphrase = %v, want ErrNoPassphrase", err)
	}
	if got := names(t, dir); got != nil {
		t.Errorf("a cancelled command left %v", got)
	}
	if a.asked[0] != root.Info() || a.asked[0].ID == "" || a.asked[1].GUN != gun {
		t.Errorf("asked for %+v", a.asked)
	}
	a.wantWiped()
	if err := root.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("Save left %v", got)
	}
}

// TestDirFullDisk: at whatever step writing fails, the old content stays and
// nothing else is left.
func TestDirFullDisk(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"write", "sync", "close", "rename"} {
		d, id, path := openStock(t, keystest.Passphrase(passphrase))
		before := read(t, path)
		d.SetFault(func(s string) error {
			if s == step {
				return syscall.ENOSPC
			}
			return nil
		})
		p, err := d.New(t.Context(), "", keys.Info{Role: "root"})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Save(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: Save = %v, want ENOSPC", step, err)
		}
		if _, err := d.Import(t.Context(), keys.Info{Role: "alice"}, newKeys(t)["ed25519"]); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: Import = %v, want ENOSPC", step, err)
		}
		if err := d.ChangePassphrase(t.Context(), id); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: ChangePassphrase = %v, want ENOSPC", step, err)
		}
		if !bytes.Equal(read(t, path), before) {
			t.Errorf("%s: the old file has changed", step)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 1 {
			t.Errorf("%s: left behind: %v", step, got)
		}
		// The disk has room again.
		d.SetFault(nil)
		if err := p.Save(t.Context()); err != nil {
			t.Errorf("%s: Save again: %v", step, err)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 2 {
			t.Errorf("%s: after Save: %v", step, got)
		}
	}
}

func TestDirChangePassphrase(t *testing.T) {
	t.Parallel()
	a := &asker{t: t, old: []any{"wrong", passphrase}, new: []any{"new secret"}}
	d, id, path := openStock(t, a)
	if err := d.ChangePassphrase(t.Context(), id); err != nil {
		t.Fatalf("ChangePassphrase: %v", err)
	}
	a.wantWiped()
	headers := func(raw []byte) string {
		head, _, _ := strings.Cut(string(raw), "\n\n")
		return head
	}
	_, stock := stockKey(t)
	if got := headers(read(t, path)); got != headers(stock) {
		t.Errorf("headers are now\n%s\nwant\n%s", got, headers(stock))
	}
	for pass, want := range map[string]error{passphrase: keys.ErrPassphrase, "new secret": nil} {
		_, err := keystest.OpenDir(t, filepath.Dir(path), keystest.Passphrase(pass)).Open(t.Context(), id)
		if !errors.Is(err, want) {
			t.Errorf("Open with %q = %v, want %v", pass, err, want)
		}
	}

	before := read(t, path)
	for name, a := range map[string]*asker{
		"old":  {t: t, old: []any{keys.ErrCancelled}},
		"new":  {t: t, old: []any{"new secret"}, new: []any{keys.ErrCancelled}},
		"none": {t: t, old: []any{"new secret"}, new: []any{""}},
	} {
		d := keystest.OpenDir(t, filepath.Dir(path), a)
		err := d.ChangePassphrase(t.Context(), id)
		if !errors.Is(err, keys.ErrCancelled) && !errors.Is(err, keys.ErrNoPassphrase) {
			t.Errorf("%s: ChangePassphrase = %v", name, err)
		}
		if !bytes.Equal(before, read(t, path)) {
			t.Errorf("%s: the file has changed", name)
		}
	}
}

// TestDirPlainKey: keys that are not encrypted need no answer, and get one
// when their passphrase is changed.
func TestDirPlainKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const file = "testdata/openssl/pkcs8-ec.pem"
	id := onlyKey(t, file).CanonicalID()
	path := filepath.Join(dir, string(id)+".key")
	write(t, path, read(t, file))
	a := &asker{t: t, new: []any{"secret"}}
	d := keystest.OpenDir(t, dir, a)
	infos, err := d.List(t.Context())
	if want := (keys.Info{ID: id, Type: tuf.ECDSA}); err != nil || len(infos) != 1 || infos[0] != want {
		t.Errorf("List = %+v, %v, want %+v", infos, err, want)
	}
	s, err := d.Open(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	blocks, err := keys.Parse(read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ImportEncrypted(t.Context(), keys.Info{ID: id, Role: "alice"}, blocks[0]); !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("ImportEncrypted of a plain key = %v, want ErrNoPassphrase", err)
	}
	if err := d.ChangePassphrase(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if blocks, err = keys.Parse(read(t, path)); err != nil || !blocks[0].Encrypted() {
		t.Errorf("the key is still plain (%v)", err)
	}
}

func TestDirRemoveBroken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id := tuf.CanonicalID(strings.Repeat("1", 64))
	write(t, filepath.Join(dir, string(id)+".key"), []byte("rubbish"))
	d := keystest.OpenDir(t, dir, nil)
	if err := d.Remove(t.Context(), id); err != nil {
		t.Errorf("Remove of a broken file: %v", err)
	}
	if got := names(t, dir); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "k.pem")
	if _, err := keys.ReadFile(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadFile of nothing = %v", err)
	}
	write(t, path, read(t, "testdata/openssl/ec-parameters.pem"))
	blocks, err := keys.ReadFile(path)
	if err != nil || len(blocks) != 1 || blocks[0].Encrypted() {
		t.Errorf("ReadFile = %d blocks, %v", len(blocks), err)
	}
	if _, err := keys.ReadFile(filepath.Dir(path)); !errors.Is(err, keys.ErrBroken) {
		t.Errorf("ReadFile of a directory = %v, want ErrBroken", err)
	}
	write(t, path, read(t, "testdata/stock/loose/generated.pem"))
	if _, err := keys.ReadFile(path); !errors.Is(err, keys.ErrBroken) {
		t.Errorf("ReadFile of a public key = %v, want ErrBroken", err)
	}
}
