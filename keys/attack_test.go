package keys_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// attacks.md N5
func TestAttackKeyFileReadableByOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes say nothing on Windows")
	}
	t.Parallel()
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o602, 0o610, 0o644, 0o777} {
		d, id, path := openStock(t, keystest.Passphrase(passphrase))
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := d.Open(t.Context(), id)
		if !errors.Is(err, keys.ErrShared) || errors.Is(err, tuf.ErrNoKey) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("Open with mode %o = %v, want ErrShared that names the chmod", mode, err)
		}
		if _, err := d.Export(t.Context(), id); !errors.Is(err, keys.ErrShared) {
			t.Errorf("Export with mode %o = %v, want ErrShared", mode, err)
		}
		if _, err := keys.ReadFile(path); !errors.Is(err, keys.ErrShared) {
			t.Errorf("ReadFile with mode %o = %v, want ErrShared", mode, err)
		}
		// It is there, which decides who could sign; and it is pointed out.
		if has, err := (keys.Ring{d}).Has(t.Context(), id); !has || err != nil {
			t.Errorf("Has = %v, %v", has, err)
		}
		if infos, err := d.List(t.Context()); err != nil || len(infos) != 1 {
			t.Errorf("List = %v, %v", infos, err)
		}
		if p := d.Problems(); len(p) != 1 || !errors.Is(p[0].Err, keys.ErrShared) {
			t.Errorf("Problems = %v", p)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := d.Open(t.Context(), id)
		if err != nil {
			t.Fatalf("Open after the chmod: %v", err)
		}
		signs(t, s)
	}
}

// attacks.md N5: the sentence can be pasted into a shell.
func TestAttackChmodSentenceQuotes(t *testing.T) {
	t.Parallel()
	err := &keys.SharedFile{Path: "/home/o'neil/my keys/$(x).key"}
	if want := `chmod 600 '/home/o'\''neil/my keys/$(x).key'`; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error is %v, want it to end with %s", err, want)
	}
}

// attacks.md N2: a link in the directory is not followed, for reading,
// removing or writing.
func TestAttackLinkedKeyFile(t *testing.T) {
	t.Parallel()
	id, raw := stockKey(t)
	outside := filepath.Join(t.TempDir(), "outside.key")
	write(t, outside, raw)
	dir := t.TempDir()
	link := filepath.Join(dir, string(id)+".key")
	if err := os.Symlink(outside, link); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
	if infos, err := d.List(t.Context()); err != nil || len(infos) > 0 {
		t.Errorf("List = %v, %v", infos, err)
	}
	if _, err := d.Open(t.Context(), id); !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Open = %v, want ErrNoKey", err)
	}
	if err := d.Remove(t.Context(), id); !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Remove = %v, want ErrNoKey", err)
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ImportEncrypted(t.Context(), keys.Info{ID: id, Role: "alice"}, blocks[0]); !errors.Is(err, keys.ErrBroken) {
		t.Errorf("ImportEncrypted = %v, want ErrBroken", err)
	}
	if _, err := os.Lstat(link); err != nil || !bytes.Equal(read(t, outside), raw) {
		t.Errorf("the link or its target was touched: %v", err)
	}
}

// attacks.md N1: nothing is written outside of the directory.
func TestAttackKeyIDAsPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "private")
	d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
	_, raw := stockKey(t)
	for _, path := range []string{"../../../" + strings.Repeat("a", 60), "..", "/etc/x", strings.Repeat("A", 64)} {
		blocks, err := keys.Parse(bytes.Replace(raw, []byte("role:"), []byte("path: "+path+"\nrole:"), 1))
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range []keys.Info{{}, {ID: tuf.CanonicalID(path)}} {
			if _, err := d.ImportEncrypted(t.Context(), info, blocks[0]); !errors.Is(err, keys.ErrBroken) {
				t.Errorf("ImportEncrypted with path %q = %v, want ErrBroken", path, err)
			}
		}
	}
	if got := names(t, filepath.Dir(dir)); got != nil {
		t.Errorf("written: %v", got)
	}
}

// attacks.md K9: someone who can write to the directory, and knows the
// passphrase of a key of his own, puts it in the place of another.
func TestAttackKeyFileSwapped(t *testing.T) {
	t.Parallel()
	d, id, path := openStock(t, keystest.Passphrase(passphrase))
	honest := read(t, path)
	mine, err := keys.Seal(newKeys(t)["p256"], keys.Info{Role: "alice"}, []byte(passphrase), keystest.Iterations)
	if err != nil {
		t.Fatal(err)
	}
	for what, raw := range map[string][]byte{"encrypted": mine, "plain": read(t, "testdata/openssl/pkcs8-ec.pem")} {
		write(t, path, raw)
		if _, err := d.Open(t.Context(), id); !errors.Is(err, keys.ErrBroken) {
			t.Errorf("Open of the swapped %s key = %v, want ErrBroken", what, err)
		}
		if err := d.ChangePassphrase(t.Context(), id); !errors.Is(err, keys.ErrBroken) {
			t.Errorf("ChangePassphrase of the swapped %s key = %v, want ErrBroken", what, err)
		}
	}
	write(t, path, honest)
	s, err := d.Open(t.Context(), id)
	if err != nil {
		t.Fatalf("Open of the honest file: %v", err)
	}
	signs(t, s)
}

// attacks.md G6: a weakly encrypted key is encrypted again when it is used,
// under the same passphrase, and works also where that cannot be.
func TestAttackWeakEncryption(t *testing.T) {
	t.Parallel()
	id, raw := stockKey(t)
	dir := t.TempDir()
	path := filepath.Join(dir, string(id)+".key")
	write(t, path, raw)
	strict := func() *keys.Dir {
		d, err := keys.OpenDir(keys.Config{Path: dir, Passphrases: keystest.Passphrase(passphrase), Iterations: 4096})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() }) // cannot fail
		return d
	}

	full := strict()
	full.SetFault(func(string) error { return os.ErrPermission })
	s, err := full.Open(t.Context(), id)
	if err != nil {
		t.Fatalf("Open where nothing can be written: %v", err)
	}
	signs(t, s)
	if p := full.Problems(); len(p) != 1 || !errors.Is(p[0].Err, os.ErrPermission) {
		t.Errorf("Problems = %v", p)
	}
	if !bytes.Equal(read(t, path), raw) {
		t.Error("the file has changed")
	}

	if s, err = strict().Open(t.Context(), id); err != nil {
		t.Fatalf("Open: %v", err)
	}
	signs(t, s)
	better := read(t, path)
	before, err1 := keys.Parse(raw)
	after, err2 := keys.Parse(better)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if before[0].Cost() != 2048 || after[0].Cost() != 4096 || after[0].Info != before[0].Info {
		t.Errorf("cost %d became %d, %+v became %+v", before[0].Cost(), after[0].Cost(), before[0].Info, after[0].Info)
	}
	if _, err := strict().Open(t.Context(), id); err != nil {
		t.Errorf("Open again: %v", err)
	}
	if !bytes.Equal(read(t, path), better) {
		t.Error("a key that is well encrypted was written again")
	}
}

// attacks.md G5: nothing secret stays in memory that we can reach.
func TestAttackKeysInMemoryAfterClose(t *testing.T) {
	t.Parallel()
	all := newKeys(t)
	for _, s := range []keys.Store{keystest.NewDir(t), keys.NewMemory()} {
		all := all
		if _, ok := s.(*keys.Memory); ok {
			all = newKeys(t)
		}
		for name, key := range all {
			if _, err := s.(keys.Importer).Import(t.Context(), keys.Info{Role: name}, key); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		zero := func(what string, n *big.Int) {
			for _, w := range n.Bits() {
				if w != 0 {
					t.Errorf("%s: %s is still in memory", s.Name(), what)
					return
				}
			}
		}
		//lint:ignore SA1019 whether it was wiped shows only here
		zero("P-256", all["p256"].(*ecdsa.PrivateKey).D)
		r := all["rsa"].(*rsa.PrivateKey)
		zero("RSA exponent", r.D)
		zero("RSA prime", r.Primes[0])
		zero("RSA prime", r.Primes[1])
		if k := all["ed25519"].(ed25519.PrivateKey); !bytes.Equal(k, make([]byte, len(k))) {
			t.Errorf("%s: Ed25519 key is still in memory", s.Name())
		}
	}
}

// attacks.md G4: passphrases are in no error and no file.
func TestAttackPassphraseShown(t *testing.T) {
	t.Parallel()
	const secret = "tr0ub4dor&3"
	dir := t.TempDir()
	d := keystest.OpenDir(t, dir, keystest.Passphrase(secret))
	s, err := keys.Generate(t.Context(), d, "", keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	id := s.PublicKey().CanonicalID()
	path := filepath.Join(dir, string(id)+".key")
	if bytes.Contains(read(t, path), []byte(secret)) {
		t.Error("the passphrase is in the file")
	}
	_, raw := stockKey(t)
	write(t, path, raw) // whose passphrase is another
	d = keystest.OpenDir(t, dir, keystest.Passphrase(secret))
	if _, err := d.Open(t.Context(), id); !errors.Is(err, keys.ErrPassphrase) || strings.Contains(err.Error(), secret) {
		t.Errorf("Open = %v", err)
	}
}

func pkcs8(t *testing.T, oid asn1.ObjectIdentifier, params, key any) []byte {
	t.Helper()
	inner, ok := key.([]byte)
	if !ok {
		inner = der(t, key)
	}
	alg := pkix.AlgorithmIdentifier{Algorithm: oid}
	if params != nil {
		alg.Parameters.FullBytes = der(t, params)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der(t, struct {
		Version int
		Alg     pkix.AlgorithmIdentifier
		Key     []byte
	}{0, alg, inner})})
}

func der(t *testing.T, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attacks.md K11: keys that must not sign are refused before they are stored.
func TestAttackWeakKey(t *testing.T) {
	t.Parallel()
	var (
		oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
		oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
		oidP256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
		oidNotary  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 15, 1}
		oidX25519  = asn1.ObjectIdentifier{1, 3, 101, 110}
		oidUnknown = asn1.ObjectIdentifier{1, 2, 3, 4}
	)
	type sec1 struct {
		Version int
		D       []byte
	}
	type pkcs1 struct {
		Version                     int
		N, E, D, P, Q, Dp, Dq, Qinv *big.Int
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 100_000)
	one := big.NewInt(1)
	zeroEd := make([]byte, 96) // claims the public key 0, of small order
	mixed := make([]byte, 96)
	_, a, _ := ed25519.GenerateKey(rand.Reader)
	_, b, _ := ed25519.GenerateKey(rand.Reader)
	copy(mixed, b[32:])
	copy(mixed[32:], a)
	tests := map[string]struct {
		raw  []byte
		want error
	}{
		"RSA 1024":           {read(t, "testdata/openssl/refused-rsa1024.pem"), tuf.ErrKey},
		"secp256k1":          {read(t, "testdata/openssl/refused-secp256k1.pem"), tuf.ErrKey},
		"EC scalar 0":        {pkcs8(t, oidEC, oidP256, sec1{1, make([]byte, 32)}), tuf.ErrKey},
		"EC scalar >= order": {pkcs8(t, oidEC, oidP256, sec1{1, elliptic.P256().Params().N.Bytes()}), tuf.ErrKey},
		"EC without curve":   {pkcs8(t, oidEC, nil, sec1{1, []byte{1}}), tuf.ErrKey},
		"RSA 100,000 bits":   {pkcs8(t, oidRSA, nil, pkcs1{0, huge, one, huge, huge, huge, one, one, one}), tuf.ErrKey},
		"RSA nonsense":       {pkcs8(t, oidRSA, nil, pkcs1{0, one, one, one, one, one, one, one, one}), tuf.ErrKey},
		"RSA negative":       {pkcs8(t, oidRSA, nil, pkcs1{0, big.NewInt(-5), one, one, one, one, one, one, one}), tuf.ErrKey},
		"RSA cut off":        {pkcs8(t, oidRSA, nil, []byte{0x30, 0x10}), keys.ErrBroken},
		"Ed25519 zero":       {pkcs8(t, oidNotary, nil, zeroEd), keys.ErrBroken},
		"Ed25519 mixed":      {pkcs8(t, oidNotary, nil, mixed), keys.ErrBroken},
		"Ed25519 short":      {pkcs8(t, oidNotary, nil, mixed[:95]), keys.ErrBroken},
		"X25519":             {pkcs8(t, oidX25519, nil, make([]byte, 34)), tuf.ErrKey},
		"unknown kind":       {pkcs8(t, oidUnknown, nil, []byte{1}), tuf.ErrKey},
		"no PKCS#8":          {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0x30, 0}}), keys.ErrBroken},
		"DSA":                {pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: []byte{0x30, 0}}), keys.ErrBroken},
		"OpenSSH":            {pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("x")}), keys.ErrBroken},
		"no block":           {[]byte("hello"), keys.ErrBroken},
		"empty":              {nil, keys.ErrBroken},
	}
	for name, tt := range tests {
		if _, err := keys.Parse(tt.raw); !errors.Is(err, tt.want) {
			t.Errorf("%s: Parse = %v, want %v", name, err, tt.want)
		} else if name == "RSA 100,000 bits" && !strings.Contains(err.Error(), "of 100001 bits") {
			t.Errorf("%s: Parse = %v: it was computed with", name, err)
		}
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Seal(small, keys.Info{Role: "root"}, []byte("x"), keystest.Iterations); !errors.Is(err, tuf.ErrKey) {
		t.Errorf("Seal of RSA 1024 = %v, want ErrKey", err)
	}
}

type (
	algID struct {
		OID    asn1.ObjectIdentifier
		Params any
	}
	pbes2 struct{ KDF, Cipher asn1.RawValue }
)

// sealedWith builds an encrypted block from parts.
func sealedWith(t *testing.T, kdf, cipher algID, data []byte) []byte {
	t.Helper()
	raw := func(a algID) asn1.RawValue { return asn1.RawValue{FullBytes: der(t, a)} }
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der(t, struct {
		Alg  asn1.RawValue
		Data []byte
	}{raw(algID{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, pbes2{raw(kdf), raw(cipher)}}), data})})
}

// attacks.md L1, L2: what a file makes us do is bounded before anything is
// asked or computed.
func TestAttackExpensiveKeyFile(t *testing.T) {
	t.Parallel()
	type pbkdf2 struct {
		Salt       []byte
		Iterations int
	}
	type pbkdf2Long struct {
		Salt              []byte
		Iterations, Bytes int
	}
	type pbkdf2PRF struct {
		Salt       []byte
		Iterations int
		PRF        struct{ OID asn1.ObjectIdentifier }
	}
	type scrypt struct {
		Salt    []byte
		N, R, P int
	}
	aes := algID{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, make([]byte, 16)}
	kdf := func(p any) algID { return algID{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}, p} }
	scr := func(p any) algID { return algID{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}, p} }
	salt := make([]byte, 8)
	data := make([]byte, 32)
	good := kdf(pbkdf2{salt, 10})
	if _, err := keys.Parse(sealedWith(t, good, aes, data)); err != nil {
		t.Fatalf("the honest form is refused: %v", err)
	}
	for _, p := range []scrypt{{salt, 1 << 15, 8, 1}, {salt, 1 << 17, 8, 1}, {salt, 1 << 14, 8, 16}} {
		if _, err := keys.Parse(sealedWith(t, scr(p), aes, data)); err != nil {
			t.Errorf("scrypt %d %d %d is refused: %v", p.N, p.R, p.P, err)
		}
	}
	unknown := pbkdf2PRF{Salt: salt, Iterations: 10}
	unknown.PRF.OID = asn1.ObjectIdentifier{1, 2, 3}
	for name, raw := range map[string][]byte{
		"0 iterations":          sealedWith(t, kdf(pbkdf2{salt, 0}), aes, data),
		"negative iterations":   sealedWith(t, kdf(pbkdf2{salt, -1}), aes, data),
		"10,000,001 iterations": sealedWith(t, kdf(pbkdf2{salt, 10_000_001}), aes, data),
		"2^62 iterations":       sealedWith(t, kdf(pbkdf2{salt, 1 << 62}), aes, data),
		"salt of 2 kB":          sealedWith(t, kdf(pbkdf2{make([]byte, 2048), 10}), aes, data),
		"key length 16":         sealedWith(t, kdf(pbkdf2Long{salt, 10, 16}), aes, data),
		"unknown PRF":           sealedWith(t, kdf(unknown), aes, data),
		"unknown KDF":           sealedWith(t, algID{asn1.ObjectIdentifier{1, 2, 3}, salt}, aes, data),
		"unknown cipher":        sealedWith(t, good, algID{asn1.ObjectIdentifier{1, 2, 3}, make([]byte, 16)}, data),
		"short IV":              sealedWith(t, good, algID{aes.OID, make([]byte, 8)}, data),
		"no data":               sealedWith(t, good, aes, nil),
		"cut off":               sealedWith(t, good, aes, data[:31]),
		"PBES1":                 read(t, "testdata/openssl/refused-pbes1.pem"),
		"scrypt N=0":            sealedWith(t, scr(scrypt{salt, 0, 8, 1}), aes, data),
		"scrypt N=1000":         sealedWith(t, scr(scrypt{salt, 1000, 8, 1}), aes, data),
		"scrypt N=2^30":         sealedWith(t, scr(scrypt{salt, 1 << 30, 8, 1}), aes, data),
		"scrypt 512 MiB":        sealedWith(t, scr(scrypt{salt, 1 << 19, 8, 1}), aes, data),
		"scrypt p=2^40":         sealedWith(t, scr(scrypt{salt, 1024, 8, 1 << 40}), aes, data),
		"scrypt r overflows":    sealedWith(t, scr(scrypt{salt, 1 << 24, 1 << 60, 1}), aes, data),
		"scrypt negative":       sealedWith(t, scr(scrypt{salt, 1024, -8, 1}), aes, data),
		"DEK without IV":        []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC\n\nAAAAAAAAAAAAAAAAAAAAAA==\n-----END EC PRIVATE KEY-----\n"),
		"DEK with RC2":          []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: RC2-CBC,0011223344556677\n\nAAAAAAAAAAAAAAAAAAAAAA==\n-----END EC PRIVATE KEY-----\n"),
		"DEK missing":           []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAAAAAAAAAAAAAAAAAAAA==\n-----END EC PRIVATE KEY-----\n"),
		"DEK cut off":           []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566770011223344556677\n\nAAAA\n-----END EC PRIVATE KEY-----\n"),
		"1001 keys":             bytes.Repeat(read(t, "testdata/openssl/dek-ec-des.pem"), 1001),
	} {
		if _, err := keys.Parse(raw); !errors.Is(err, keys.ErrBroken) {
			t.Errorf("%s: Parse = %v, want ErrBroken", name, err)
		}
	}
}

// attacks.md K6, design "keys": a store that has the key and cannot open it is
// not passed over, nor taken for one that does not have it.
func TestAttackLockedStorePassedOver(t *testing.T) {
	t.Parallel()
	key := newKeys(t)["p256"].(*ecdsa.PrivateKey)
	same := *key
	locked := &asker{t: t, new: []any{"secret"}, old: []any{keys.ErrCancelled}}
	dir := t.TempDir()
	d := keystest.OpenDir(t, dir, locked)
	if _, err := d.Import(t.Context(), keys.Info{Role: "alice"}, key); err != nil {
		t.Fatal(err)
	}
	d = keystest.OpenDir(t, dir, locked)
	m := keys.NewMemory()
	if _, err := m.Import(t.Context(), keys.Info{Role: "alice"}, &same); err != nil {
		t.Fatal(err)
	}
	p := pub(t, key)
	_, err := keys.Ring{d, m}.Signer(context.Background(), gun, "targets/alice", p)
	if !errors.Is(err, keys.ErrCancelled) || errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Signer = %v, want ErrCancelled", err)
	}
	s, err := keys.Ring{m, d}.Signer(context.Background(), gun, "targets/alice", p)
	if err != nil {
		t.Fatalf("Signer from the store that is open: %v", err)
	}
	signs(t, s)
}
