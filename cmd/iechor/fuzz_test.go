package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
)

// FuzzPublicKeyFile: the key of a signer to be is one that can verify, or is
// refused in one line.
func FuzzPublicKeyFile(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgl3rzMPMEKhS1k/AX16MM4PdidpjJr+z4pj0Td+30QnpbOIARgpyR1PiFztU8BZlqG3cUazvFclr2q/xHvfrqw==\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN \x1b[31m-----\nAAAA\n-----END \x1b[31m-----\n"))
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := parsePublicKey(raw, now)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("parsePublicKey(%q) = %q", raw, err)
			}
			return
		}
		if _, err := k.Public(); err != nil || !k.CanonicalID().Valid() {
			t.Errorf("the key of %q cannot verify: %v", raw, err)
		}
	})
}

// FuzzTyped: what is typed as an address or a time is one, or is refused in
// one line; and what is remembered of backups, and was altered, stands for
// nothing that harms.
func FuzzTyped(f *testing.F) {
	for _, s := range []string{"https://trust.example:4443/x", "trust.example", "http://a", "https://u:secret@h/", "https://h/?q#f", "36h", "2d", "-1d", "99999999999d", "login.example:5000", "*.x", `{"keys":null}`, `{"keys":{"x":{"sum":1}}}`, "\x1b[31m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := checkServer(s, "an option"); err != nil {
			sentence, hints, exit := explain(err)
			if exit == exitDone || len(hints) == 0 || strings.ContainsFunc(sentence+strings.Join(hints, ""), unicode.IsControl) {
				t.Errorf("checkServer(%q) is explained as %q, %q, %d", s, sentence, hints, exit)
			}
		} else if !strings.HasPrefix(strings.ToLower(s), "https:") {
			t.Errorf("%q is accepted as the address of a trust server", s)
		}
		if err := checkHost(s); err == nil && strings.ContainsAny(s, "/@?#* \t\r\n") {
			t.Errorf("%q is accepted as a host", s)
		}
		if d, err := parseAge(s); err == nil && (d <= 0 || d > 200*366*24*time.Hour && strings.HasSuffix(s, "d")) {
			t.Errorf("parseAge(%q) = %v", s, d)
		}
		d := &desk{app: &app{}, dir: t.TempDir()}
		if err := errors.Join(os.MkdirAll(filepath.Dir(d.backupStateFile()), 0o700), os.WriteFile(d.backupStateFile(), []byte(s), 0o600)); err != nil {
			t.Fatal(err)
		}
		if d.backupState().Keys == nil {
			t.Errorf("backupState of %q has no keys", s)
		}
		if n, err := objectAt([]byte(s), 0, "{", "a[", "{"); err == nil && (n < 1 || n > len(s) || s[n-1] != '{' || !json.Valid([]byte(s)) && json.Valid([]byte(s[:n]))) {
			t.Errorf("objectAt(%q) = %d", s, n)
		}
	})
}
