package backup_test

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

var update = flag.Bool("update", false, "write golden files that are not there")

const (
	gun       = tuf.GUN("registry.example:5000/team/app")
	cheap     = 2 // cost of a passphrase, for tests
	keyPass   = "passphrase of a key"
	safePass  = "passphrase of the backup"
	otherPass = "another passphrase"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicOf(t testing.TB, key crypto.Signer) *tuf.PublicKey {
	t.Helper()
	public, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &public
}

// sealed returns a key as a block that knows its id.
func sealed(t testing.TB, key crypto.Signer, role string, gun tuf.GUN) *keys.Block {
	t.Helper()
	info := keys.Info{ID: publicOf(t, key).CanonicalID(), Role: role, GUN: gun}
	raw, err := keys.Seal(key, info, []byte(keyPass), keystest.Iterations)
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

// example has one thing of each kind.
func example(t testing.TB) *backup.Backup {
	t.Helper()
	b := backup.New(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC))
	root, token := newKey(t), newKey(t)
	b.AddKey(sealed(t, root, "root", ""), publicOf(t, root))
	b.AddKey(sealed(t, newKey(t), "targets", gun), nil)
	b.AddToken(keys.Info{ID: publicOf(t, token).CanonicalID(), Role: "alice"}, "YubiKey 1234", publicOf(t, token))
	b.AddRepository(tuftest.New(t, gun).Trusted(t))
	b.Manifest.Pins = []byte(`{"first-use":"refuse"}`)
	return b
}

func write(t testing.TB, b *backup.Backup, to ...backup.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := backup.Write(&out, b, to...); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func forPassphrase(t testing.TB, passphrase string) backup.Recipient {
	t.Helper()
	r, err := backup.ForPassphrase([]byte(passphrase), cheap)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func byPassphrase(t testing.TB, passphrase string) backup.Identity {
	t.Helper()
	i, err := backup.ByPassphrase([]byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func read(raw []byte, by ...backup.Identity) (*backup.Backup, error) {
	f, err := backup.Read(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return f.Unlock(by...)
}

// same compares two backups, files included.
func same(t testing.TB, got, want *backup.Backup) {
	t.Helper()
	if diff := cmp.Diff(want.Manifest, got.Manifest); diff != "" {
		t.Errorf("the manifest (-want +got):\n%s", diff)
	}
	for i, k := range got.Keys() {
		if !bytes.Equal(k.File(), want.Keys()[i].File()) || k.Info.ID != want.Keys()[i].Info.ID {
			t.Errorf("key %d is\n%s, want\n%s", i, k.File(), want.Keys()[i].File())
		}
		if key, err := k.Key([]byte(keyPass)); err != nil || publicOf(t, key).CanonicalID() != k.Info.ID {
			t.Errorf("key %d does not open: %v", i, err)
		}
	}
	for i := range got.Manifest.Repositories {
		if !bytes.Equal(got.Root(i).Raw, want.Root(i).Raw) {
			t.Errorf("root %d differs", i)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	b := example(t)
	alice, bob := identity(t), identity(t)
	for _, test := range []struct {
		name       string
		raw        []byte
		passphrase bool
		by         backup.Identity
	}{
		{"passphrase", write(t, b, forPassphrase(t, safePass)), true, byPassphrase(t, safePass)},
		{"first recipient", write(t, b, alice.Recipient(), bob.Recipient()), false, alice},
		{"second recipient", write(t, b, alice.Recipient(), bob.Recipient()), false, bob},
		{"in letters", letters(t, write(t, b, forPassphrase(t, safePass))), true, byPassphrase(t, safePass)},
	} {
		f, err := backup.Read(bytes.NewReader(test.raw))
		if err != nil || f.Passphrase != test.passphrase {
			t.Errorf("%s: Read = %+v, %v, want Passphrase %t", test.name, f, err, test.passphrase)
			continue
		}
		got, err := f.Unlock(test.by)
		if err != nil {
			t.Errorf("%s: Unlock: %v", test.name, err)
			continue
		}
		same(t, got, b)
	}
	empty := backup.New(time.Now())
	if got, err := read(write(t, empty, alice.Recipient()), alice); err != nil {
		t.Errorf("an empty backup: %v", err)
	} else {
		same(t, got, empty)
	}
}

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// letters is raw in the form that can be sent by mail.
func letters(t testing.TB, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A backup of version 1 is read for ever: these files were made once, and are
// never made again.
func TestGolden(t *testing.T) {
	t.Parallel()
	golden := func(name string, now func() []byte) []byte {
		path := filepath.Join("testdata", name)
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && *update {
			raw = now()
			err = os.WriteFile(path, raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var b *backup.Backup
	made := func() *backup.Backup {
		if b == nil {
			b = example(t)
		}
		return b
	}
	id := identity(t)
	by, err := backup.ParseIdentities(golden("v1-identity.txt", func() []byte { return []byte(id.String() + "\n") }))
	if err != nil {
		t.Fatal(err)
	}
	manifest := golden("v1-manifest.json", func() []byte {
		raw, err := backup.EncodeManifest(made().Manifest)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	})
	for name, by := range map[string][]backup.Identity{
		"v1-passphrase.age": {byPassphrase(t, safePass)},
		"v1-recipient.age":  by,
	} {
		raw := golden(name, func() []byte {
			if name == "v1-recipient.age" {
				return write(t, made(), id.Recipient())
			}
			return write(t, made(), forPassphrase(t, safePass))
		})
		got, err := read(raw, by...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := backup.EncodeManifest(got.Manifest)
		if err != nil || !bytes.Equal(again, manifest) {
			t.Errorf("%s: the manifest is\n%s, %v, want\n%s", name, again, err, manifest)
		}
		if len(got.Keys()) != 2 || len(got.Manifest.Repositories) != 1 {
			t.Fatalf("%s: %d keys and %d repositories, want 2 and 1", name, len(got.Keys()), len(got.Manifest.Repositories))
		}
		same(t, got, got) // the keys open
	}
}

// The stock programs age and tar open a backup without us, and what they unpack
// is a directory of keys.
func TestPeerAge(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("age")
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), "age") {
			t.Fatal("age is required and not installed: apt-get install age")
		}
		t.Skip("age is not installed: apt-get install age")
	}
	b := example(t)
	id := identity(t)
	dir := t.TempDir()
	for name, raw := range map[string][]byte{"backup.age": write(t, b, id.Recipient()), "identity": []byte(id.String() + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", `"$0" -d -i identity backup.age | tar -x`, program)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	d := keystest.OpenDir(t, filepath.Join(dir, "private"), keystest.Passphrase(keyPass))
	for _, k := range b.Manifest.Keys {
		if _, err := d.Open(t.Context(), k.ID); err != nil {
			t.Errorf("a key that was unpacked by hand: %v", err)
		}
	}
	root, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(b.Manifest.Repositories[0].Root.File)))
	if err != nil || !bytes.Equal(root, b.Root(0).Raw) {
		t.Errorf("the root that was unpacked by hand: %v", err)
	}

	// and the other way round
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, f := range b.Archive(t) {
		if err := w.WriteHeader(f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(program, "-a", "-r", id.Recipient().String())
	cmd.Stdin = &packed
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(raw, id)
	if err != nil {
		t.Fatalf("what age encrypted: %v", err)
	}
	same(t, got, b)
}

func TestParse(t *testing.T) {
	t.Parallel()
	id := identity(t)
	if _, err := backup.ParseRecipient(id.Recipient().String()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "age1", "alice", id.String(), id.Recipient().String() + "\n" + id.Recipient().String()} {
		if _, err := backup.ParseRecipient(bad); !errors.Is(err, backup.ErrRecipient) {
			t.Errorf("ParseRecipient(%q): %v, want ErrRecipient", bad, err)
		}
	}
	if got, err := backup.ParseIdentities([]byte("# made for a test\n" + id.String() + "\n")); err != nil || len(got) != 1 {
		t.Errorf("ParseIdentities = %v, %v", got, err)
	}
	for _, bad := range []string{"", "nothing\n", id.String()[:20]} {
		if _, err := backup.ParseIdentities([]byte(bad)); !errors.Is(err, backup.ErrIdentity) || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("ParseIdentities(%q): %v, want ErrIdentity, and nothing of the secret", bad, err)
		}
	}
	if _, err := backup.ForPassphrase(nil, 0); !errors.Is(err, backup.ErrRecipient) {
		t.Errorf("ForPassphrase without one: %v", err)
	}
}

// errAfter fails after some bytes.
type errAfter struct{ r io.Reader }

var errDisk = errors.New("the disk is broken")

func (e errAfter) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err == io.EOF {
		err = errDisk
	}
	return n, err
}

func TestReadFails(t *testing.T) {
	t.Parallel()
	raw := write(t, example(t), forPassphrase(t, safePass))
	if _, err := backup.Read(errAfter{bytes.NewReader(raw)}); !errors.Is(err, errDisk) {
		t.Errorf("Read = %v, want the error of the disk", err)
	}
	if _, err := backup.ReadFile(t.TempDir()); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("ReadFile(a folder) = %v, want ErrForeign", err)
	}
}
