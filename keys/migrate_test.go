package keys_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// TestMigrate brings both old directories into today's layout.
func TestMigrate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "private")
	bare := func(path string) []byte { // as before 0.4: without headers
		raw := read(t, path)
		head, body, _ := bytes.Cut(raw, []byte("\n\n"))
		begin, _, _ := bytes.Cut(head, []byte("\n"))
		return append(append(begin, '\n'), body...)
	}
	ids := make([]string, 0, 6)
	for _, path := range glob(t, "testdata/stock/client-trust/*.key")[:6] {
		ids = append(ids, strings.TrimSuffix(filepath.Base(path), ".key"))
	}
	from := func(i int) []byte { return bare("testdata/stock/client-trust/" + ids[i] + ".key") }
	write(t, filepath.Join(dir, "root_keys", ids[0]+"_root.key"), from(0))
	write(t, filepath.Join(dir, "tuf_keys", "registry.example", "app", ids[1]+"_targets.key"), from(1))
	write(t, filepath.Join(dir, "tuf_keys", "registry.example", "app", ids[2]+"_snapshot.key"), from(2))
	withRole := bytes.Replace(from(3), []byte("-----\n"), []byte("-----\nrole: alice\n\n"), 1)
	write(t, filepath.Join(dir, "tuf_keys", ids[3]+".key"), withRole)
	// Done already, but for the last step:
	write(t, filepath.Join(dir, "root_keys", ids[4]+"_root.key"), from(4))
	write(t, filepath.Join(dir, ids[4]+".key"), bytes.Replace(from(4), []byte("-----\n"), []byte("-----\nrole: root\n\n"), 1))
	// Cannot be moved:
	stays := []string{
		filepath.Join(dir, "root_keys", ids[5]+"_root.key"), // there with other content
		filepath.Join(dir, "root_keys", "nonsense.key"),
		filepath.Join(dir, "tuf_keys", ids[5]+".key"), // whose role nobody knows
		filepath.Join(dir, "tuf_keys", "x", strings.Repeat("1", 64)+"_targets.key"),
	}
	write(t, stays[0], from(5))
	write(t, filepath.Join(dir, ids[5]+".key"), bytes.Replace(from(0), []byte("-----\n"), []byte("-----\nrole: root\n\n"), 1))
	write(t, stays[1], from(0))
	write(t, stays[2], from(5))
	write(t, stays[3], []byte("not PEM"))

	// Who only looks moves nothing.
	before := glob(t, filepath.Join(dir, "*", "*.key"))
	look, err := keys.OpenDir(keys.Config{Path: dir, LookOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if infos, err := look.List(t.Context()); err != nil || len(infos) != 2 || len(look.Problems()) != 0 {
		t.Errorf("List with LookOnly = %v, %v, problems %v", infos, err, look.Problems())
	}
	if diff := cmp.Diff(before, glob(t, filepath.Join(dir, "*", "*.key"))); diff != "" {
		t.Errorf("OpenDir with LookOnly moved files:\n%s", diff)
	}

	for run := range 2 {
		d := keystest.OpenDir(t, dir, keystest.Passphrase(passphrase))
		infos, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, i := range infos {
			got[string(i.ID)] = fmt.Sprint(i.Role, " ", i.GUN)
		}
		want := map[string]string{
			ids[0]: "root ", ids[1]: "targets registry.example/app", ids[2]: "snapshot registry.example/app",
			ids[3]: "alice ", ids[4]: "root ", ids[5]: "root ",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("run %d: List (-want +got):\n%s", run, diff)
		}
		var left []string
		for _, p := range d.Problems() {
			left = append(left, p.Path)
			if _, err := os.Stat(p.Path); err != nil {
				t.Errorf("run %d: a file that was not migrated is gone: %v", run, p)
			}
		}
		slices.Sort(left)
		slices.Sort(stays)
		if diff := cmp.Diff(stays, left); diff != "" {
			t.Errorf("run %d: Problems (-want +got):\n%s", run, diff)
		}
		for _, id := range ids[:5] {
			s, err := d.Open(t.Context(), tuf.CanonicalID(id))
			if err != nil {
				t.Fatalf("run %d: Open(%s): %v", run, id, err)
			}
			signs(t, s)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "tuf_keys", "registry.example")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an emptied directory stays: %v", err)
	}
	for _, p := range stays {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	keystest.OpenDir(t, dir, nil)
	for _, name := range []string{"root_keys", "tuf_keys"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s stays: %v", name, err)
		}
	}
}

// TestMigratePlain: of keys that are not encrypted it is seen at once that
// their name is right; and the name may hold a role with slashes.
func TestMigratePlain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw := read(t, "testdata/openssl/pkcs8-ec.pem")
	id := string(onlyKey(t, "testdata/openssl/pkcs8-ec.pem").CanonicalID())
	swapped := filepath.Join(dir, "root_keys", strings.Repeat("1", 64)+"_root.key")
	write(t, filepath.Join(dir, "tuf_keys", id+"_targets", "releases.key"), raw)
	write(t, swapped, raw)
	d := keystest.OpenDir(t, dir, nil)
	infos, err := d.List(t.Context())
	want := keys.Info{ID: tuf.CanonicalID(id), Type: tuf.ECDSA, Role: "targets/releases"}
	if err != nil || len(infos) != 1 || infos[0] != want {
		t.Errorf("List = %+v, %v, want %+v", infos, err, want)
	}
	if p := d.Problems(); len(p) != 1 || p[0].Path != swapped || !errors.Is(p[0].Err, keys.ErrBroken) {
		t.Errorf("Problems = %v", p)
	}
	if runtime.GOOS != "windows" { // attacks.md N5
		if err := os.Remove(swapped); err != nil {
			t.Fatal(err)
		}
		open := filepath.Join(dir, "root_keys", id+"_root.key")
		write(t, open, raw)
		if err := os.Chmod(open, 0o644); err != nil {
			t.Fatal(err)
		}
		if p := keystest.OpenDir(t, dir, nil).Problems(); len(p) != 1 || !errors.Is(p[0].Err, keys.ErrShared) {
			t.Errorf("Problems with a file open to others = %v", p)
		}
	}
}

// TestImportLegacyPath: exports by old programs say role and repository in the
// path header.
func TestImportLegacyPath(t *testing.T) {
	t.Parallel()
	id, raw := stockKey(t)
	_, body, _ := bytes.Cut(raw, []byte("\n\n"))
	for path, want := range map[string]keys.Info{
		string(id):                          {ID: id},
		"root_keys/" + string(id) + "_root": {ID: id, Role: "root"},
		"tuf_keys/a.example/b/" + string(id) + "_targets": {ID: id, Role: "targets", GUN: "a.example/b"},
		"tuf_keys/" + string(id) + "_targets/x":           {ID: id, Role: "targets/x"},
		string(id) + "/x":                                 {},
		"x":                                               {},
	} {
		blocks, err := keys.Parse(append([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\npath: "+path+"\n\n"), body...))
		if err != nil {
			t.Fatalf("Parse with path %q: %v", path, err)
		}
		if got := blocks[0].Info; got != want {
			t.Errorf("path %q: Info = %+v, want %+v", path, got, want)
		}
	}
}
