package pkcs11

import (
	"crypto/elliptic"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

// A PKCS#11 URI names a library and never has a PIN in it, and what is refused
// leaves nothing.
func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"pkcs11:token=hsm;object=kek?module-path=/lib/p11.so&pin-source=file:/etc/pin", "pkcs11:token=my%20hsm;serial=12%3b;slot-id=3?module-path=/a%20b.so",
		"pkcs11:?module-path=/x&pin-value=8642", "pkcs11:slot-id=-1;;?&&", "pkcs11:%0a=%00?module-path=%1b",
		"pkcs11:token=a&pin-value=b?module-path=/x;pin-value=c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("ParseURI(%q) = %q", s, err)
			}
			if !cmp.Equal(u, URI{}) {
				t.Errorf("ParseURI(%q) = %+v, %v", s, u, err)
			}
			return
		}
		path, query, _ := strings.Cut(strings.TrimPrefix(s, "pkcs11:"), "?") // in which & and ; are parts of a value
		if strings.Contains(";"+path, ";pin-value=") || strings.Contains("&"+query, "&pin-value=") || u.Library == "" || u.PINFile != "" && !strings.HasPrefix(u.PINFile, "/") {
			t.Errorf("ParseURI(%q) = %+v", s, u)
		}
	})
}

// Whatever a token says about a public key, what is taken of it is a key that
// may sign here.
func FuzzPublicKey(f *testing.F) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		p := curve.Params()
		point := append([]byte{4}, append(p.Gx.FillBytes(make([]byte, (p.BitSize+7)/8)), p.Gy.FillBytes(make([]byte, (p.BitSize+7)/8))...)...)
		f.Add(uint(keyEC), oidP256, point)
		f.Add(uint(keyEC), oidP384, append([]byte{4, byte(len(point))}, point...))
	}
	f.Add(uint(keyRSA), append([]byte{0xc1}, make([]byte, 255)...), []byte{1, 0, 1})
	f.Add(uint(keyEdwards), []byte(nil), append([]byte{4, 32}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, kind uint, a, b []byte) {
		if pub, ok := publicKey(kind, a, b); ok {
			k, err := tuf.NewPublicKey(pub)
			if err != nil {
				t.Fatalf("publicKey(%d, %x, %x) may not sign: %v", kind, a, b, err)
			}
			if _, err := k.Public(); err != nil {
				t.Errorf("publicKey(%d, %x, %x) cannot verify: %v", kind, a, b, err)
			}
		}
	})
}
