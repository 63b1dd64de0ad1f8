package keys_test

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
)

// TestLeaks sees that the scanner of stories finds keys in every form, and
// takes an encrypted one for none.
func TestLeaks(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rivest, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": p256, "P-384": p384, "Ed25519": edwards, "RSA": rivest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sealed, err := keys.Seal(key, keys.Info{Role: "alice"}, []byte("passphrase"), keystest.Iterations)
			if err != nil {
				t.Fatal(err)
			}
			var l keystest.Leaks
			if err := l.Learn(sealed, "wrong", "passphrase"); err != nil || l.Known() != 1 {
				t.Fatalf("Learn: %v, %d keys known", err, l.Known())
			}
			if found := l.Find(sealed); found != "" {
				t.Errorf("Find(an encrypted key) = %q", found)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			var zipped bytes.Buffer
			z := gzip.NewWriter(&zipped)
			if _, err := z.Write(der); err != nil || z.Close() != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(map[string]string{"key": base64.StdEncoding.EncodeToString(der)})
			if err != nil {
				t.Fatal(err)
			}
			lines := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
			inJSON, err := json.Marshal(string(lines[30:]))
			if err != nil {
				t.Fatal(err)
			}
			forms := map[string][]byte{
				"PEM": lines, "PEM without its first line": lines[30:], "lines in JSON": inJSON, "DER": der, "compressed": zipped.Bytes(), "JSON": text,
				"hexadecimal": []byte(hex.EncodeToString(der)), "hexadecimal in capitals": fmt.Appendf(nil, "%X", der),
				"hexadecimal with colons": bytes.ReplaceAll(fmt.Appendf(nil, "% x", der), []byte(" "), []byte(":")),
			}
			for shift := range 5 {
				shifted := append(bytes.Repeat([]byte("x"), shift), der...)
				forms[fmt.Sprint("base64, shifted by ", shift)] = []byte(base64.StdEncoding.EncodeToString(shifted))
				forms[fmt.Sprint("base64 for addresses, shifted by ", shift)] = []byte(base64.RawURLEncoding.EncodeToString(shifted))
				forms[fmt.Sprint("base32, shifted by ", shift)] = []byte(base32.StdEncoding.EncodeToString(shifted))
			}
			for form, raw := range forms {
				if l.Find(append([]byte("before "), append(raw, " after"...)...)) == "" && l.Find(raw) == "" {
					t.Errorf("a key as %s is not found", form)
				}
			}
			if found := l.Find([]byte("nothing of interest")); found != "" {
				t.Errorf("Find(nothing) = %q", found)
			}
			dir := t.TempDir()
			for file, raw := range map[string][]byte{"sealed.key": sealed, "deep/below/tmp": der, "given.pem": lines} {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, file), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var fresh keystest.Leaks
			if found, err := fresh.Scan(dir, []string{"given.pem"}, "passphrase"); err != nil || len(found) != 1 || fresh.Known() != 1 {
				t.Errorf("Scan = %q, %v with %d keys, want the file that is deep below", found, err, fresh.Known())
			}
		})
	}
}
