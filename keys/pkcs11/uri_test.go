package pkcs11

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	three := uint(3)
	for s, want := range map[string]URI{
		"pkcs11:token=hsm;object=kek?module-path=/lib/p11.so&pin-source=file:/etc/pin": {"/lib/p11.so", Choice{Label: "hsm"}, "kek", "/etc/pin"},
		"pkcs11:token=my%20hsm;serial=12%3b;slot-id=3?module-path=/a%20b.so":           {"/a b.so", Choice{"my hsm", "12;", &three}, "", ""},
		"pkcs11:?module-path=/lib/p11.so&pin-source=/etc/pin":                          {"/lib/p11.so", Choice{}, "", "/etc/pin"},
		"pkcs11:?module-path=/lib/p11.so&pin-source=file:///etc/pin":                   {"/lib/p11.so", Choice{}, "", "/etc/pin"},
	} {
		got, err := ParseURI(s)
		if err != nil {
			t.Errorf("ParseURI(%s): %v", s, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseURI(%s) (-want +got):\n%s", s, diff)
		}
	}
	for s, want := range map[string]string{
		"file:/x":                                     "begins with",
		"pkcs11:token=x":                              "lacks module-path",
		"pkcs11:token=x?module-path=":                 "no proper value",
		"pkcs11:token=%zz?module-path=/x":             "no proper value",
		"pkcs11:token=x;token=y?module-path=/x":       "twice",
		"pkcs11:manufacturer=x?module-path=/x":        `"manufacturer" is not used`,
		"pkcs11:slot-id=-1?module-path=/x":            "not a number",
		"pkcs11:?module-path=/x&pin-source=pin":       "path from the root",
		"pkcs11:?module-path=/x&pin-value=1234":       "would show the PIN",
		"pkcs11:pin-value=1234?module-path=/x":        "would show the PIN",
		"pkcs11:object=k?module-path=/x&token=hsm":    `"token" is not used`,
		"pkcs11:module-path=/x;object=k?module-path=": `"module-path" is not used`,
	} {
		_, err := ParseURI(s)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "1234") {
			t.Errorf("ParseURI(%s) = %v, want %q", s, err, want)
		}
	}
}
