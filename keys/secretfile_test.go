package keys_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
)

func TestReadSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, test := range []struct {
		content string
		mode    fs.FileMode
		want    string
		err     string
	}{
		{"secret", 0o600, "secret", ""},
		{"secret\n", 0o400, "secret", ""},
		{"secret\r\n", 0o600, "secret", ""},
		{" two\nlines \n\n", 0o600, " two\nlines \n", ""},
		{strings.Repeat("x", 4096), 0o600, strings.Repeat("x", 4096), ""},
		{strings.Repeat("x", 4096+1), 0o600, "", "larger than"},
		{"", 0o600, "", "empty"},
		{"\n", 0o600, "", "empty"},
		{"secret", 0o640, "", "readable or writable by others"},
		{"secret", 0o602, "", "readable or writable by others"},
	} {
		if runtime.GOOS == "windows" && test.mode&0o077 != 0 {
			continue
		}
		path := filepath.Join(dir, "file")
		_ = os.Remove(path) // not there the first time
		if err := os.WriteFile(path, []byte(test.content), test.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, test.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		got, err := keys.ReadSecret(path)
		if test.err == "" && (err != nil || string(got) != test.want) {
			t.Errorf("ReadSecret of %.20q = %.20q, %v, want %.20q", test.content, got, err, test.want)
		}
		if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("ReadSecret of %.20q, mode %o: %v, want %q", test.content, test.mode, err, test.err)
		}
	}
	if _, err := keys.ReadSecret(dir); err == nil {
		t.Error("ReadSecret takes a directory")
	}
}
