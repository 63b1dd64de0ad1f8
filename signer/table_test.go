package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/iechor/trust/tuf"
)

func TestWrongKEKAtStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Also while no key is in the table yet: two instances must not each wrap
	// under their own.
	_, err := OpenTable(t.Context(), openDB(t, w.path), testKEK(t, 2))
	if !errors.Is(err, ErrKEK) {
		t.Errorf("OpenTable(another KEK, no keys) = %v, want ErrKEK", err)
	}
	newServer(t, w, w, app)
	_, err = OpenTable(t.Context(), openDB(t, w.path), testKEK(t, 2))
	if !errors.Is(err, ErrKEK) || !strings.HasPrefix(err.Error(), "key-encryption key does not fit the key table: keys are wrapped under ") {
		t.Errorf("OpenTable(another KEK) = %v, want ErrKEK in one sentence", err)
	}
	if _, err := OpenTable(t.Context(), openDB(t, w.path), nil); err == nil {
		t.Error("OpenTable(no KEK) should be refused")
	}
}

// attacks.md G9: the wrapping key is changed while the service signs.
func TestRewrap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	for i := range 120 {
		if _, err := w.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, tuf.GUN("registry.example/app"+strings.Repeat("x", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	// Every process learns the new key before one wraps under it.
	first := w.service(t, openTable(t, w.path, testKEK(t, 1, 2)), nil)
	second := openTable(t, w.path, testKEK(t, 2, 1))
	moved, err := second.Rewrap(t.Context(), RewrapOptions{}, w.clock)
	if err != nil || moved != 122 {
		t.Errorf("Rewrap = %d, %v, want 122", moved, err)
	}
	s.keys = first
	s.publish(t, "two, by a process whose current key is the old one")
	s.keys = w.service(t, second, nil)
	s.publish(t, "three")
	s.keys = w
	if _, err := s.prepare(t, "four, by a process that has the old key only"); !errors.Is(err, ErrKEK) {
		t.Errorf("Sign without the new KEK = %v, want ErrKEK", err)
	}

	last := openTable(t, w.path, testKEK(t, 2)) // the old key is gone
	s.keys = w.service(t, last, nil)
	s.publish(t, "four")
	if moved, err := last.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil || moved != 0 {
		t.Errorf("Rewrap again = %d, %v, want 0", moved, err)
	}
	if _, err := OpenTable(t.Context(), openDB(t, w.path), testKEK(t, 1)); !errors.Is(err, ErrKEK) {
		t.Errorf("OpenTable(the old KEK) = %v, want ErrKEK", err)
	}
}

func TestParseKEK(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(200 + i)
	}
	for _, text := range []string{hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)), base64.StdEncoding.EncodeToString(key),
		base64.RawStdEncoding.EncodeToString(key), base64.URLEncoding.EncodeToString(key), " " + hex.EncodeToString(key) + "\r\n"} {
		if got, err := ParseKEK(text); err != nil || !bytes.Equal(got, key) {
			t.Errorf("ParseKEK(%q) = %x, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "secret", hex.EncodeToString(key[:31]), hex.EncodeToString(key) + "00", base64.StdEncoding.EncodeToString(key[:31]), strings.Repeat("x", 64)} {
		got, err := ParseKEK(text)
		if err == nil {
			t.Errorf("ParseKEK(%q) = %x, want an error", text, got)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
	for _, key := range [][]byte{nil, make([]byte, 32), make([]byte, 16)} {
		if _, err := NewLocal(key); err == nil {
			t.Errorf("NewLocal(%x) should be refused", key)
		}
	}
}

// attacks.md G4: a secret file that others can read is refused.
func TestReadKEK(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kek")
	text := strings.Repeat("0123456789abcdef", 4)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := ReadKEK(path); err != nil || hex.EncodeToString(key) != text {
		t.Errorf("ReadKEK = %x, %v", key, err)
	}
	if _, err := ReadKEK(filepath.Dir(path)); err == nil {
		t.Error("ReadKEK(directory) should be refused")
	}
	if _, err := ReadKEK(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadKEK(no file) = %v", err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKEK(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("ReadKEK(mode %o) = %v, want a refusal that says what to do", mode, err)
		}
	}
}

func TestNewRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for what, c := range map[string]Config{
		"no table":           {},
		"negative limit":     {Table: w.table, Limits: Limits{Timestamp: -1}},
		"empty identity":     {Table: w.table, Identities: map[string]Rights{"": {Sign: true}}},
		"bad fingerprint":    {Table: w.table, Identities: map[string]Rights{"sha256:ABCD": {Sign: true}}},
		"identity with room": {Table: w.table, Identities: map[string]Rights{"a b": {Sign: true}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("New(%s) should be refused", what)
		}
	}
}

func TestPingOfAClosedTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.table.db.SQL().Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Ping(t.Context()); err == nil {
		t.Error("Ping of a closed database should fail")
	}
	if held, err := w.Holds(t.Context(), app, tuf.RoleTimestamp, tuf.CanonicalID(strings.Repeat("0", 64))); held || err == nil {
		t.Errorf("Holds = %v, %v, want an error: not there and could not look are different", held, err)
	}
}
