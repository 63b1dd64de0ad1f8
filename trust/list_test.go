package trust

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

func TestDirList(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "trust")
	d := NewDir(path)
	if guns, err := d.List(); err != nil || guns != nil {
		t.Fatalf("List of a directory that is not there = %v, %v", guns, err)
	}
	want := []tuf.GUN{"localhost:5000/a", "localhost:5000/a/b", "localhost:5000/a/metadata", "registry.example.com/team/app"}
	for _, gun := range want {
		putFile(t, filepath.Join(path, filepath.FromSlash(pathOf(gun, tuf.RoleRoot))))
	}
	putFile(t, filepath.Join(path, "tuf", "only-staged", "changelist", "metadata", "root.json"))
	putFile(t, filepath.Join(path, "tuf", "no-root", "metadata", "targets.json"))
	putFile(t, filepath.Join(path, "tuf", "UPPER CASE", "metadata", "root.json"))
	putFile(t, filepath.Join(path, "tuf", "%6detadata", "metadata", "root.json")) // of nobody: escapes are upper case where they are needed
	if err := os.Symlink(filepath.Join(path, "tuf", "localhost:5000"), filepath.Join(path, "tuf", "link")); err != nil {
		t.Log(err)
	}
	got, err := d.List()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
}

func putFile(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
}
