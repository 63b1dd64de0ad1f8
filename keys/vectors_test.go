package keys_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// TestStockDirectories opens every key of directories that notary and docker
// wrote.
func TestStockDirectories(t *testing.T) {
	t.Parallel()
	var types map[tuf.CanonicalID]tuf.KeyType
	if err := json.Unmarshal(read(t, "testdata/stock/types.json"), &types); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range []string{"client-trust", "client-trust-ed25519", "client-trust-pinned-ca", "docker-trust", "ed25519"} {
		dir := filepath.Join(t.TempDir(), "private")
		var want []keys.Info
		for _, path := range glob(t, filepath.Join("testdata/stock", name, "*.key")) {
			raw := read(t, path)
			write(t, filepath.Join(dir, filepath.Base(path)), raw)
			b, _ := pem.Decode(raw)
			want = append(want, keys.Info{
				ID:   tuf.CanonicalID(strings.TrimSuffix(filepath.Base(path), ".key")),
				Role: b.Headers["role"],
				GUN:  tuf.GUN(b.Headers["gun"]),
			})
		}
		d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
		infos, err := d.List(t.Context())
		if err != nil {
			t.Fatalf("%s: List: %v", name, err)
		}
		byID := cmp.Transformer("set", func(in []keys.Info) map[keys.Info]bool {
			out := make(map[keys.Info]bool)
			for _, i := range in {
				out[i] = true
			}
			return out
		})
		if diff := cmp.Diff(want, infos, byID); diff != "" || len(infos) != len(want) {
			t.Errorf("%s: List (-want +got):\n%s", name, diff)
		}
		for _, info := range infos {
			s, err := d.Open(t.Context(), info.ID)
			if err != nil {
				t.Errorf("%s: Open(%v): %v", name, info, err)
				continue
			}
			if got := s.PublicKey().CanonicalID(); got != info.ID {
				t.Errorf("%s: Open(%v) opened %s", name, info, got)
			}
			if want, ok := types[info.ID]; ok {
				checked++
				if got := s.PublicKey().Type; got != want {
					t.Errorf("%s: %v has type %s, want %s", name, info, got, want)
				}
			}
			signs(t, s)
			file := string(info.ID) + ".key"
			if !bytes.Equal(read(t, filepath.Join(dir, file)), read(t, filepath.Join("testdata/stock", name, file))) {
				t.Errorf("%s: opening %v changed its file", name, info)
			}
		}
		if p := d.Problems(); len(p) > 0 {
			t.Errorf("%s: Problems = %v", name, p)
		}
		again, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range again {
			if info.Type == "" {
				t.Errorf("%s: the type of %v is unknown after it was opened", name, info)
			}
		}
	}
	if checked < len(types) {
		t.Errorf("compared %d types, want %d", checked, len(types))
	}
}

// TestStockInnerForm: what we would encrypt is, byte for byte, what the stock
// programs encrypt.
func TestStockInnerForm(t *testing.T) {
	t.Parallel()
	kinds := make(map[tuf.KeyType]int)
	for _, path := range glob(t, "testdata/stock/*/*.key") {
		blocks, err := keys.Parse(read(t, path))
		if err != nil {
			t.Errorf("Parse(%s): %v", path, err)
			continue
		}
		b, _ := pem.Decode(read(t, path))
		if b.Type != "ENCRYPTED PRIVATE KEY" {
			continue // by openssl
		}
		want, err := blocks[0].Content([]byte(passphrase))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		key, err := blocks[0].Key([]byte(passphrase))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got, err := keys.MarshalPKCS8(key)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: content is written as\n%x, %v, want\n%x", path, got, err, want)
		}
		kinds[pub(t, key).Type]++
	}
	for _, kind := range []tuf.KeyType{tuf.ECDSA, tuf.RSA, tuf.Ed25519} {
		if kinds[kind] == 0 {
			t.Errorf("no key of type %s seen", kind)
		}
	}
}

// TestStockLooseKeys reads the files that users bring.
func TestStockLooseKeys(t *testing.T) {
	t.Parallel()
	const dir = "testdata/stock/loose/"
	certs := map[string]string{
		"ec.key": "ec.crt", "ec384.key": "ec384.crt", "rsa.key": "rsa.crt", "ca.key": "ca.crt", "root-encrypted.key": "leaf.crt",
	}
	spkis := map[string]string{"bare.key": "bare.pub", "barersa.key": "barersa.pub", "generated-key.pem": "generated.pem"}
	for file, cert := range certs {
		want, err := tuf.NewCertificateKey(read(t, dir+cert))
		if err != nil {
			t.Fatal(err)
		}
		if got := onlyKey(t, dir+file); got.CanonicalID() != want.CanonicalID() {
			t.Errorf("%s is key %s, want %s", file, got.CanonicalID(), want.CanonicalID())
		}
	}
	for file, spki := range spkis {
		b, _ := pem.Decode(read(t, dir+spki))
		if got := onlyKey(t, dir+file); !bytes.Equal(got.Bytes, b.Bytes) {
			t.Errorf("%s is not the key of %s", file, spki)
		}
	}
	if got := onlyKey(t, dir+"ed25519.key"); got.Type != tuf.Ed25519 {
		t.Errorf("ed25519.key has type %s", got.Type)
	}
}

func onlyKey(t *testing.T, path string) tuf.PublicKey {
	t.Helper()
	blocks, err := keys.Parse(read(t, path))
	if err != nil || len(blocks) != 1 {
		t.Fatalf("Parse(%s) = %d blocks, %v", path, len(blocks), err)
	}
	key, err := blocks[0].Key([]byte(passphrase))
	if err != nil {
		t.Fatalf("%s: Key: %v", path, err)
	}
	p := pub(t, key)
	if b := blocks[0]; !b.Encrypted() && b.Info.Type != p.Type {
		t.Errorf("%s: Info.Type = %q, want %q", path, b.Info.Type, p.Type)
	}
	return p
}

// TestStockExports imports what notary exported, without a passphrase, and
// opens it.
func TestStockExports(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"export-all.pem", "export-gun.pem"} {
		blocks, err := keys.Parse(read(t, "testdata/stock/loose/"+file))
		if err != nil || len(blocks) < 2 {
			t.Fatalf("Parse(%s) = %d blocks, %v", file, len(blocks), err)
		}
		dir := filepath.Join(t.TempDir(), "private")
		d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
		for _, b := range blocks {
			info, err := d.ImportEncrypted(t.Context(), keys.Info{}, b)
			if err != nil {
				t.Fatalf("%s: ImportEncrypted(%v): %v", file, b.Info, err)
			}
			s, err := d.Open(t.Context(), info.ID)
			if err != nil {
				t.Fatalf("%s: Open(%v): %v", file, info, err)
			}
			signs(t, s)
			stock := filepath.Join("testdata/stock/client-trust", string(info.ID)+".key")
			if want, err := os.ReadFile(stock); err == nil {
				if got := read(t, filepath.Join(dir, string(info.ID)+".key")); !bytes.Equal(got, want) {
					t.Errorf("%s: %v is stored as\n%s\nwant\n%s", file, info, got, want)
				}
			}
		}
	}
}

// TestOpenSSLFiles reads every form that openssl writes.
func TestOpenSSLFiles(t *testing.T) {
	t.Parallel()
	const dir = "testdata/openssl/"
	ec, ed, rsa := onlyKey(t, dir+"ec-parameters.pem"), onlyKey(t, dir+"pkcs8-ed25519.pem"), onlyKey(t, dir+"pkcs8-rsa.pem")
	encrypted := 0
	for _, path := range glob(t, dir+"*.pem") {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "refused-") {
			continue
		}
		got := onlyKey(t, path)
		want := ec
		switch {
		case strings.Contains(name, "ed25519"):
			want = ed
		case strings.Contains(name, "rsa"):
			want = rsa
		case name == "ec-p224.pem" || name == "ec-p521.pem":
			want = got
		}
		if !got.Equal(want) {
			t.Errorf("%s is key %s, want %s", name, got.CanonicalID(), want.CanonicalID())
		}
		blocks, err := keys.Parse(read(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if !blocks[0].Encrypted() {
			continue
		}
		encrypted++
		for _, wrong := range []string{"", "Passphrase", "passphrase "} {
			if _, err := blocks[0].Key([]byte(wrong)); !errors.Is(err, keys.ErrPassphrase) || errors.Is(err, keys.ErrBroken) {
				t.Errorf("%s: Key(%q) = %v, want ErrPassphrase", name, wrong, err)
			}
		}
	}
	if encrypted < 25 {
		t.Errorf("%d encrypted files tested", encrypted)
	}
}

// TestOpenSSLFileInDirectory: a file that the stock client cannot read works
// in a directory, and is made readable for it.
func TestOpenSSLFileInDirectory(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pbes2-hmacWithSHA256-aes-256-cbc.pem", "dek-ec-aes-128-cbc.pem", "pbes2-hmacWithSHA1-des3.pem"} {
		dir := t.TempDir()
		d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
		blocks, err := keys.Parse(read(t, "testdata/openssl/"+name))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.ImportEncrypted(t.Context(), keys.Info{Role: "alice"}, blocks[0])
		if !errors.Is(err, keys.ErrBroken) {
			t.Errorf("ImportEncrypted without an id = %v, want ErrBroken", err)
		}
		id := onlyKey(t, "testdata/openssl/"+name).CanonicalID()
		if _, err := d.ImportEncrypted(context.Background(), keys.Info{ID: id, Role: "alice"}, blocks[0]); err != nil {
			t.Fatalf("ImportEncrypted(%s): %v", name, err)
		}
		s, err := d.Open(t.Context(), id)
		if err != nil {
			t.Fatalf("Open(%s): %v", name, err)
		}
		signs(t, s)
		b, _ := pem.Decode(read(t, filepath.Join(dir, string(id)+".key")))
		if diff := cmp.Diff(map[string]string{"role": "alice"}, b.Headers); b.Type != "ENCRYPTED PRIVATE KEY" || diff != "" {
			t.Errorf("%s became %q with headers (-want +got):\n%s", name, b.Type, diff)
		}
		if got := onlyKey(t, filepath.Join(dir, string(id)+".key")); got.CanonicalID() != id {
			t.Errorf("%s became key %s", name, got.CanonicalID())
		}
	}
}
