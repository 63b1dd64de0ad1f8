package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/signer"
)

// overpowered is what is said of an identity that has what is for two.
func overpowered(may, mustNot, keep, give string) string {
	return "identities: a: who may " + may + " must not " + mustNot + ", or whoever breaks into a server could end repositories or set them back: leave it [" + keep +
		"], and list an operator's certificate with [" + give + "]"
}

func TestRights(t *testing.T) {
	t.Parallel()
	got, err := rights(map[string][]string{
		"server.example": {"sign", "create"}, "cleaner.example": {"forget"}, "operator.example": {"operate", "forget"}, "monitor.example": nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]signer.Rights{
		"server.example": {Sign: true, Create: true}, "cleaner.example": {Forget: true}, "operator.example": {Operate: true, Forget: true}, "monitor.example": {},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rights (-want +got):\n%s", d)
	}
	for _, tt := range []struct {
		config map[string][]string
		want   string
	}{
		{nil, "identities is empty: nobody could call the signer"},
		{map[string][]string{"b": {"rule"}, "a": {"sing"}}, `identities: a: "sing" is not a right: choose of sign, create, forget, operate`},
		{map[string][]string{"a": {"sign", "operate"}}, overpowered("sign", "operate", "sign", "operate")},
		{map[string][]string{"a": {"operate", "create"}}, overpowered("create", "operate", "create", "operate")},
		{map[string][]string{"a": {"sign", "create", "forget"}}, overpowered("sign and create", "forget", "sign, create", "forget")},
		{map[string][]string{"a": {"create", "forget"}}, overpowered("create", "forget", "create", "forget")},
		{map[string][]string{"a": {"forget", "sign", "operate"}}, overpowered("sign", "forget nor operate", "sign", "forget, operate")},
	} {
		if _, err := rights(tt.config); err == nil || err.Error() != tt.want {
			t.Errorf("rights(%v) = %v, want %s", tt.config, err, tt.want)
		}
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	file := filepath.Join(t.TempDir(), "kek")
	write(t, file, hex.EncodeToString(key)+"\n")
	env := func(name string) string {
		return map[string]string{"HEX": hex.EncodeToString(key), "BASE64": base64.StdEncoding.EncodeToString(key), "SHORT": "c2hvcnQtc2VjcmV0"}[name]
	}
	for _, name := range []string{"file:" + file, "env:HEX", "env:BASE64"} {
		if got, err := secret(name, env); err != nil || !bytes.Equal(got, key) {
			t.Errorf("secret(%s) = %x, %v", name, got, err)
		}
	}
	for setting, want := range map[string]string{
		"":                      `a key-encryption key is named by "file:PATH" or "env:NAME"`,
		hex.EncodeToString(key): `a key-encryption key is named by "file:PATH" or "env:NAME"`,
		"env:NONE":              "variable NONE is empty",
		"env:SHORT":             "variable SHORT: a key-encryption key is 32 bytes",
		"file:" + file + "x":    "no such file",
	} {
		_, err := secret(setting, env)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("secret(%q) = %v, want %q", setting, err, want)
		} else if strings.Contains(err.Error(), hex.EncodeToString(key)) || strings.Contains(err.Error(), env("SHORT")) {
			t.Errorf("secret(%q) tells the secret: %v", setting, err)
		}
	}
	if runtime.GOOS == "windows" {
		return // no such modes there
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := secret("file:"+file, env); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("secret in a file that all can read = %v", err)
	}
}

// shortDir makes a folder whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "iechor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestListenSigner(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "sock")
	l, err := listenSigner("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o660 {
		t.Errorf("mode of the socket: %v, %v, want 0660", info.Mode(), err)
	}
	if _, err := listenSigner("unix:" + path); err == nil || !strings.HasPrefix(err.Error(), "another process serves on ") {
		t.Errorf("second signer on a socket: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as if killed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = listenSigner("unix:" + path); err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	write(t, path, "a file of somebody's")
	if _, err := listenSigner("unix:" + path); err == nil {
		t.Error("a file gave way to a socket")
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "a file of somebody's" {
		t.Errorf("the file is now %q, %v", raw, err)
	}
}
