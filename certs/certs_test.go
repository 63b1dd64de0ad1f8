package certs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirOfOddHosts(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"../x", "..", ".", `a\b`, ""} {
		if got := Dir(t.TempDir(), host); got != "" {
			t.Errorf("Dir(%q) = %q, want none", host, got)
		}
	}
	if got := Dir("", "registry.example"); got != "" {
		t.Errorf("Dir without a folder = %q", got)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"a certificate without its key":      {map[string]string{"me.cert": "x"}, []string{"me.cert", "me.key"}},
		"a key without its certificate":      {map[string]string{"me.key": "x"}, []string{"me.cert", "me.key"}},
		"an authority without certificate":   {map[string]string{"ca.crt": "no PEM"}, []string{"ca.crt"}},
		"a pair that is none":                {map[string]string{"me.cert": "x", "me.key": "y"}, []string{"me.cert"}},
		"a file larger than any of its kind": {map[string]string{"ca.crt": strings.Repeat("x", maxFile+1)}, []string{"ca.crt", "larger"}},
	} {
		dir := t.TempDir()
		for file, content := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Read(dir)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Read of %s = %v, want an error that names %s", name, err, want)
			}
		}
	}
}

// None is fine, and so are files and folders of other kinds.
func TestReadNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "old.crt"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", filepath.Join(dir, "none"), dir} {
		if f, err := Read(d); err != nil || len(f.Authorities)+len(f.Pairs) != 0 {
			t.Errorf("Read(%q) = %v, %v; want nothing", d, f, err)
		}
	}
}
