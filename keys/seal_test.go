package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

func newKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err3 := ed25519.GenerateKey(rand.Reader)
	r, err4 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"p256": p256, "p384": p384, "ed25519": ed, "rsa": r}
}

// TestSealForm checks the default form, field by field: it is what the stock
// programs read, and slow to guess at.
func TestSealForm(t *testing.T) {
	t.Parallel()
	key := newKeys(t)["p256"]
	raw, err := keys.Seal(key, keys.Info{Role: "targets", GUN: gun}, []byte("secret"), 0)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	const head = "-----BEGIN ENCRYPTED PRIVATE KEY-----\ngun: registry.example/app\nrole: targets\n\nMI"
	if !strings.HasPrefix(string(raw), head) {
		t.Errorf("file begins with\n%.120s\nwant\n%s", raw, head)
	}
	b, rest := pem.Decode(raw)
	if len(rest) > 0 {
		t.Errorf("%d bytes after the block", len(rest))
	}
	var got struct {
		Alg struct {
			OID    asn1.ObjectIdentifier
			Params struct {
				KDF struct {
					OID    asn1.ObjectIdentifier
					Params asn1.RawValue
				}
				Cipher struct {
					OID asn1.ObjectIdentifier
					IV  []byte
				}
			}
		}
		Data []byte
	}
	if rest, err := asn1.Unmarshal(b.Bytes, &got); err != nil || len(rest) > 0 {
		t.Fatalf("outer structure: %v", err)
	}
	for what, pair := range map[string][2]string{
		"scheme": {got.Alg.OID.String(), "1.2.840.113549.1.5.13"},
		"kdf":    {got.Alg.Params.KDF.OID.String(), "1.2.840.113549.1.5.12"},
		"cipher": {got.Alg.Params.Cipher.OID.String(), "2.16.840.1.101.3.4.1.42"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %s, want %s", what, pair[0], pair[1])
		}
	}
	// Exactly two fields: no key length, and no PRF, which means HMAC-SHA1.
	var salt []byte
	var count int
	rest, err = asn1.Unmarshal(got.Alg.Params.KDF.Params.Bytes, &salt)
	if err == nil {
		rest, err = asn1.Unmarshal(rest, &count)
	}
	if err != nil || len(rest) > 0 || len(salt) != 16 || count != 1_300_000 {
		t.Errorf("PBKDF2 has salt of %d bytes, %d iterations, %d bytes more, %v; want 16, 1300000, 0", len(salt), count, len(rest), err)
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	if _, err := blocks[0].Key([]byte("Secret")); !errors.Is(err, keys.ErrPassphrase) {
		t.Errorf("Key(wrong) = %v, want ErrPassphrase", err)
	}
	back, err := blocks[0].Key([]byte("secret"))
	if err != nil || !back.(*ecdsa.PrivateKey).Equal(key) {
		t.Errorf("Key = %v, %v", back, err)
	}
}

// TestSealRoundTrip is for every kind of key.
func TestSealRoundTrip(t *testing.T) {
	t.Parallel()
	for name, key := range newKeys(t) {
		first, err := keys.Seal(key, keys.Info{Role: "alice", GUN: gun}, []byte("secret"), keystest.Iterations)
		if err != nil {
			t.Errorf("Seal(%s): %v", name, err)
			continue
		}
		second, err := keys.Seal(key, keys.Info{Role: "alice"}, []byte("secret"), keystest.Iterations)
		if err != nil || bytes.Equal(first, second) {
			t.Errorf("Seal(%s) twice: %v, or the salt is not random", name, err)
		}
		blocks, err := keys.Parse(first)
		if err != nil {
			t.Errorf("Parse(%s): %v", name, err)
			continue
		}
		if want := (keys.Info{Role: "alice"}); blocks[0].Info != want {
			t.Errorf("%s: Info = %+v, want %+v", name, blocks[0].Info, want)
		}
		back, err := blocks[0].Key([]byte("secret"))
		if err != nil || !pub(t, back).Equal(pub(t, key)) {
			t.Errorf("%s: Key = %v", name, err)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	all := newKeys(t)
	_, err := keys.Seal(all["p256"], keys.Info{Role: "root"}, nil, keystest.Iterations)
	if !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("Seal without a passphrase = %v, want ErrNoPassphrase", err)
	}
	_, err = keys.Seal(all["p256"], keys.Info{Role: "targets"}, []byte("x"), keystest.Iterations)
	if !errors.Is(err, tuf.ErrRole) {
		t.Errorf("Seal of a targets key without GUN = %v, want ErrRole", err)
	}
	elsewhere := struct{ crypto.Signer }{all["p256"]}
	_, err = keys.Seal(elsewhere, keys.Info{Role: "root"}, []byte("x"), keystest.Iterations)
	if !errors.Is(err, tuf.ErrKey) {
		t.Errorf("Seal of a key that is elsewhere = %v, want ErrKey", err)
	}
}

// program finds a foreign program, or skips the test, or fails it where
// IECHOR_REQUIRE names the program.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), name) {
		t.Fatalf("%s is required and missing: apt install %s", name, pkg)
	}
	t.Skipf("needs %s: apt install %s", name, pkg)
	return ""
}

// run runs a program with its own home and passphrases.
func run(t *testing.T, env []string, path string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", path, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestOpenSSLReads gives what we write to openssl, which wants the headers
// removed.
func TestOpenSSLReads(t *testing.T) {
	t.Parallel()
	openssl := program(t, "openssl", "openssl")
	for name, key := range newKeys(t) {
		if name == "ed25519" {
			continue // Notary's form of it is its own
		}
		raw, err := keys.Seal(key, keys.Info{Role: "alice"}, []byte("secret"), 2048)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode(raw)
		b.Headers = nil
		file := filepath.Join(t.TempDir(), "key.pem")
		write(t, file, pem.EncodeToMemory(b))
		out := run(t, []string{"P=secret"}, openssl, "pkey", "-in", file, "-passin", "env:P", "-pubout")
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := pem.Decode([]byte(out)); got == nil || !bytes.Equal(got.Bytes, spki) {
			t.Errorf("openssl read another %s key:\n%s", name, out)
		}
	}
}

// TestNotaryReads: the stock client lists our directory, decrypts each of our
// keys, and we read what it then writes.
func TestNotaryReads(t *testing.T) {
	t.Parallel()
	notary := program(t, "notary", "notary")
	trust := t.TempDir()
	dir := filepath.Join(trust, "private")
	// One key with the real count; the others would only cost time.
	strong, err := keys.NewDir(dir, keystest.Passphrase("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer strong.Close()
	cheap := keystest.OpenDir(t, dir, keystest.Passphrase("secret"))
	var infos []keys.Info
	add := func(g keys.Generator, a keys.Algorithm, info keys.Info) {
		t.Helper()
		s, err := keys.Generate(t.Context(), g, a, info)
		if err != nil {
			t.Fatalf("Generate(%s): %v", a, err)
		}
		info.ID = s.PublicKey().CanonicalID()
		infos = append(infos, info)
	}
	add(strong, keys.P256, keys.Info{Role: "root"})
	add(cheap, keys.P256, keys.Info{Role: "targets", GUN: gun})
	add(cheap, keys.P384, keys.Info{Role: "snapshot", GUN: gun})
	add(cheap, keys.Ed25519, keys.Info{Role: "alice"})
	rsaInfo, err := cheap.Import(t.Context(), keys.Info{Role: "bob"}, newKeys(t)["rsa"])
	if err != nil {
		t.Fatal(err)
	}
	rsaInfo.Type = ""
	infos = append(infos, rsaInfo)

	list := run(t, nil, notary, "-d", trust, "key", "list")
	env := []string{}
	for _, role := range []string{"ROOT", "TARGETS", "SNAPSHOT", "DELEGATION"} {
		env = append(env, "NOTARY_"+role+"_PASSPHRASE=secret")
	}
	for _, info := range infos {
		line := ""
		for l := range strings.Lines(list) {
			if strings.Contains(l, string(info.ID)) {
				line = l
			}
		}
		if f := strings.Fields(line); len(f) == 0 || f[0] != info.Role || info.GUN != "" && f[1] != string(info.GUN) {
			t.Errorf("notary key list has line %q for %v", line, info)
		}
		file := filepath.Join(dir, string(info.ID)+".key")
		before := read(t, file)
		run(t, env, notary, "-d", trust, "key", "passwd", string(info.ID))
		if bytes.Equal(before, read(t, file)) {
			t.Errorf("notary key passwd left %v as it was", info)
		}
	}
	again := keystest.OpenDir(t, dir, keystest.Passphrase("secret"))
	got, err := again.List(t.Context())
	if err != nil || len(got) != len(infos) {
		t.Fatalf("List after notary = %v, %v", got, err)
	}
	for _, info := range infos {
		if !slices.Contains(got, info) {
			t.Errorf("after notary, %+v is missing in %+v", info, got)
		}
		s, err := again.Open(t.Context(), info.ID)
		if err != nil {
			t.Errorf("Open(%v) after notary: %v", info, err)
			continue
		}
		signs(t, s)
	}
}
