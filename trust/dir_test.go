package trust

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

func TestPathOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		goos string
		gun  tuf.GUN
		role tuf.RoleName
		want string
	}{
		{"linux", "registry.example:5000/team/app", "root", "tuf/registry.example:5000/team/app/metadata/root.json"},
		{"linux", app, "targets/releases", "tuf/registry.example/team/app/metadata/targets/releases.json"},
		{"linux", "x/metadata/targets", "root", "tuf/x/%6Detadata/targets/metadata/root.json"},
		{"linux", "x/Changelist", "root", "tuf/x/%43hangelist/metadata/root.json"},
		{"linux", "Upper.example/a", "root", "tuf/Upper.example/a/metadata/root.json"},
		{"darwin", "Upper.example/a", "root", "tuf/%55pper.example/a/metadata/root.json"},
		{"windows", "registry.example:5000/a", "root", "tuf/registry.example%3A5000/a/metadata/root.json"},
		{"windows", "x/con", "targets/nul", "tuf/x/%63on/metadata/targets/%6Eul.json"},
		{"windows", "x/aux.y", "targets/com1/x", "tuf/x/%61ux.y/metadata/targets/%63om1/x.json"},
		{"windows", "x/y.", "root", "tuf/x/y%2E/metadata/root.json"},
		{"windows", "x/metada~1", "root", "tuf/x/metada%7E1/metadata/root.json"},
	} {
		if got := pathOn(c.goos, c.gun, c.role); got != c.want {
			t.Errorf("pathOn(%s, %s, %s) = %s, want %s", c.goos, c.gun, c.role, got, c.want)
		}
	}
}

// No two pairs of a GUN and a role share a file, a change folder or an
// ancestor that is a file, also where case is ignored (attacks.md N1).
func TestAttackPathCollision(t *testing.T) {
	t.Parallel()
	words := []string{
		"x", "X", "metadata", "Metadata", "METADATA", "changelist", "targets", "root", "root.json", "targets.json", "con", "nul", "con.x",
		"a.", "a", "registry:5000", "registry", "metada~1", "x.change", "state", "com1", "lpt9.json", "aux",
	}
	roles := []tuf.RoleName{
		"root", "targets", "snapshot", "timestamp", "targets/metadata", "targets/metadata/root", "targets/root", "targets/con",
		"targets/nul", "targets/x", "targets/x/metadata/root", "targets/changelist",
	}
	var guns []tuf.GUN
	for _, a := range words {
		guns = append(guns, tuf.GUN(a))
		for _, b := range words {
			guns = append(guns, tuf.GUN(a+"/"+b))
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var s []string
		for range 1 + rng.IntN(5) {
			s = append(s, words[rng.IntN(len(words))])
		}
		guns = append(guns, tuf.GUN(strings.Join(s, "/")))
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		fold := func(s string) string {
			if goos != "linux" {
				return strings.ToLower(s)
			}
			return s
		}
		owner := make(map[string]string) // path to pair
		done := make(map[tuf.GUN]bool)
		folders := make(map[string]bool)
		for _, gun := range guns {
			if !gun.Valid() || done[gun] {
				continue
			}
			done[gun] = true
			for _, role := range roles {
				p, pair := fold(pathOn(goos, gun, role)), string(gun)+" "+string(role)
				if other, taken := owner[p]; taken {
					t.Fatalf("%s: %s is the file of %q and of %q", goos, p, other, pair)
				}
				owner[p] = pair
				for d := p; strings.Contains(d, "/"); {
					d = d[:strings.LastIndexByte(d, '/')]
					folders[d] = true
				}
			}
			d := fold(gunDirOn(goos, gun) + "/" + changelistDir)
			if owner[d] != "" {
				t.Fatalf("%s: the changes of %s are in the file of %s", goos, gun, owner[d])
			}
			folders[d+"/x.change"] = true
		}
		for p, pair := range owner {
			if folders[p] {
				t.Fatalf("%s: the file %s of %q is also a folder", goos, p, pair)
			}
		}
	}
}

// On Windows every name is one that can be had, and stays what it is: none is
// a device, ends in a dot or a space, is a short name or names a stream.
func TestPathOnWindowsIsLegal(t *testing.T) {
	t.Parallel()
	words := []string{
		"registry.example:5000", "localhost:80", "con", "con.x", "nul", "aux.tar.gz", "com1", "lpt9.json", "prn", "conin$", "x.", "..x",
		"metada~1", "metadata", "Upper", "a_b-c", "com10", "console",
	}
	roles := []tuf.RoleName{"root", "targets", "targets/con", "targets/nul/x", "targets/com1", "targets/releases"}
	for _, a := range words {
		for _, b := range words {
			gun := tuf.GUN(a + "/" + b)
			if !gun.Valid() {
				continue
			}
			for _, role := range roles {
				path := pathOn("windows", gun, role)
				if !filepath.IsLocal(filepath.FromSlash(path)) || strings.ContainsAny(path, "<>:\"|?*\\~ ") || strings.ToLower(path) != path && !strings.Contains(path, "%") {
					t.Errorf("%s of %s is in %s", role, gun, path)
				}
				for name := range strings.SplitSeq(path, "/") {
					before, _, _ := strings.Cut(name, ".")
					if name == "" || strings.HasSuffix(name, ".") || device(strings.ToLower(before)) {
						t.Errorf("%s of %s is in %s: %q is no name", role, gun, path, name)
					}
				}
			}
		}
	}
}

// Messages name the folder where the files are.
func TestDirFolder(t *testing.T) {
	t.Parallel()
	c := publisher(t, newServer(newClock()), "1")
	c.update(t)
	if _, err := os.Stat(filepath.Join(c.dir.Folder(app), metadataDir, "root.json")); err != nil {
		t.Error(err)
	}
}

func TestDirModes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	s := newServer(newClock())
	c := publisher(t, s, "1")
	c.update(t)
	if err := c.Stage(tuf.RemoveTarget{Name: "1"}); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(c.dir.Path(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = fs.ModeDir | 0o700
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// write puts bytes into a file of the trust directory.
func write(t *testing.T, c *client, name, content string) {
	t.Helper()
	path := filepath.Join(c.dir.Path(), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRoot(t *testing.T) { // F7
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	other := newServer(s.clock)
	publisher(t, other, "1")
	rootPath := pathOf(app, tuf.RoleRoot)
	good := string(s.repos[app].files[tuf.RoleRoot].Raw)
	for name, content := range map[string]string{
		"empty": "", "not JSON": "<html>", "half": good[:len(good)/2], "a byte changed": strings.Replace(good, `"expires":"20`, `"expires":"21`, 1),
		"too long": good + strings.Repeat(" ", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, s)
			c.update(t)
			write(t, c, rootPath, content)
			before := metadata(t, c)
			_, err := c.Update(t.Context())
			var e *Damaged
			if !errors.As(err, &e) || e.File != filepath.Join(c.dir.Path(), filepath.FromSlash(rootPath)) {
				t.Errorf("Update = %v, want a Damaged that names root.json", err)
			}
			if diff := cmp.Diff(before, metadata(t, c)); diff != "" {
				t.Errorf("files changed:\n%s", diff)
			}
			if err := c.dir.Forget(app); err != nil {
				t.Fatal(err)
			}
			c.update(t)
		})
	}
}

func TestMissingRoot(t *testing.T) { // F7
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	c := newClient(t, s)
	c.update(t)
	if err := os.Remove(c.dir.file(pathOf(app, tuf.RoleRoot))); err != nil {
		t.Fatal(err)
	}
	_, err := c.Update(t.Context())
	wantErr(t, "Update without a root beside other files", err, ErrDamaged)
	if want := "root.json: is missing, although other trust data is there"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("Update without a root: %q, want the end %q", err, want)
	}
	_, err = c.Init(t.Context(), InitOptions{})
	wantErr(t, "Init without a root beside other files", err, ErrDamaged)
	if err := c.dir.Forget(app); err != nil {
		t.Fatal(err)
	}
	c.update(t)
	// The documented cure by hand is to remove the whole folder.
	if err := os.RemoveAll(c.dir.file(gunDir(app))); err != nil {
		t.Fatal(err)
	}
	c.update(t)
}

func TestDamagedFilesAreFetchedAgain(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		for _, content := range []string{"", "{", string(s.repos[app].files[tuf.RoleRoot].Raw), strings.Repeat("[", 100000)} {
			c := newClient(t, s)
			c.update(t)
			good := metadata(t, c)
			write(t, c, pathOf(app, role), content)
			c.update(t)
			if diff := cmp.Diff(good, metadata(t, c)); diff != "" {
				t.Errorf("%s was not repaired:\n%s", role, diff)
			}
		}
	}
}

func TestDirIgnoresStrangers(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	c := newClient(t, s)
	c.update(t)
	folder := gunDir(app) + "/metadata/"
	for _, name := range []string{"targets/../../x.json", "README", "targets/UPPER.json", "other.json", "targets/%74.json", "%tmp-abc"} {
		write(t, c, folder+name, "{}")
	}
	c.update(t)
}

// Nothing outside of the trust directory is read or written through a link.
func TestAttackLink(t *testing.T) { // N2
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim.json")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, s)
	c.update(t)
	targets := c.dir.file(pathOf(app, tuf.RoleTargets))
	if err := os.Remove(targets); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, targets); err != nil {
		t.Skipf("cannot make links here: %v", err)
	}
	c.update(t)
	root := c.dir.file(pathOf(app, tuf.RoleRoot))
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, root); err != nil {
		t.Fatal(err)
	}
	_, err := c.Update(t.Context())
	wantErr(t, "Update with a link for a root", err, ErrDamaged)

	d := newClient(t, s)
	if err := os.MkdirAll(d.dir.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(d.dir.Path(), "tuf")); err != nil {
		t.Fatal(err)
	}
	if set, err := d.Update(t.Context()); err == nil {
		t.Errorf("Update through a linked folder = %v, want an error", set)
	}
	if got := tree(t, outside); len(got) != 1 || got["victim.json"] != "precious" {
		t.Errorf("outside of the directory there is now %v", got)
	}
}

func TestForgetLeavesOthers(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	c.update(t)
	if err := c.Stage(tuf.RemoveTarget{Name: "1"}); err != nil {
		t.Fatal(err)
	}
	below := Open(app+"/below", c.c)
	if _, err := below.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := below.Publish(t.Context(), add("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := below.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.dir.Forget(app); err != nil {
		t.Fatal(err)
	}
	if files, err := c.dir.Load(app, tuf.Limits{}); err != nil || len(files) > 0 {
		t.Errorf("Load after Forget = %v, %v", files, err)
	}
	if left, err := c.Staged(); err != nil || len(left) != 1 {
		t.Errorf("Staged after Forget = %v, %v, want 1", left, err)
	}
	if files, err := c.dir.Load(app+"/below", tuf.Limits{}); err != nil || len(files) != 4 {
		t.Errorf("Load of the repository below = %d files, %v, want 4", len(files), err)
	}
	if err := c.Delete(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if left, err := c.Staged(); err != nil || len(left) > 0 {
		t.Errorf("Staged after Delete = %v, %v", left, err)
	}
	if err := below.Delete(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := metadata(t, c); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// A crash before any change of a file leaves a directory that works.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	crash := errors.New("crash")
	for _, start := range []string{"nothing", "older"} {
		for n := 0; ; n++ {
			c := newClient(t, s)
			if start == "older" {
				c.update(t)
				owner.publish(t, fmt.Sprintf("crash-%d", n))
				if _, err := owner.Rotate(t.Context(), Rotation{Role: tuf.RoleTimestamp, Server: true}); err != nil {
					t.Fatal(err)
				}
			}
			left := n
			c.dir.testOnlyWrite = func(string) error {
				if left--; left < 0 {
					return crash
				}
				return nil
			}
			_, err := c.Update(t.Context())
			c.dir.testOnlyWrite = nil
			if _, e := c.dir.Load(app, tuf.Limits{}); e != nil {
				t.Errorf("from %s, crash %d: Load = %v", start, n, e)
			}
			s.set(func() { s.before = down })
			if set, e := c.Update(t.Context()); set == nil && !errors.Is(e, ErrUnreachable) {
				t.Errorf("from %s, crash %d: Update offline = %v", start, n, e)
			}
			s.set(func() { s.before = nil })
			c.update(t)
			for name := range tree(t, c.dir.Path()) {
				if strings.Contains(name, "%tmp") {
					t.Errorf("from %s, crash %d: %s was left behind", start, n, name)
				}
			}
			if err == nil {
				break
			}
			wantErr(t, "Update", err, crash)
		}
	}
}

// A slower process has an older state to save than the one that is saved.
func TestSlowerProcess(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	reader := newClient(t, s)
	reader.update(t)
	fast := reader.another(func(*Config) {})
	owner.publish(t, "2")
	stopped := false
	s.set(func() {
		s.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
			if w.Role == tuf.RoleTargets && !stopped {
				stopped = true
				// While the slow one waits for an old file, the fast one gets
				// newer ones.
				s.mu.Unlock()
				owner.publish(t, "3")
				if _, err := fast.Update(t.Context()); err != nil {
					t.Error(err)
				}
				s.mu.Lock()
			}
			return raw, nil
		}
	})
	set := reader.update(t)
	if _, err := Lookup(set, "3"); err != nil {
		t.Errorf("the slow update ended on an older state: %v", err)
	}
	newest, _ := set.File(tuf.RoleTargets)
	if got := metadata(t, reader)[pathOf(app, tuf.RoleTargets)]; got != string(newest.Raw) {
		t.Error("the newest targets file is not the one that is saved")
	}
}

// What another process accepts on purpose is not undone by one that began
// before.
func TestAcceptedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	slow := newClient(t, s)
	slow.update(t)
	owner.publish(t, "2")
	anew := newServer(s.clock)
	publisher(t, anew, "1")
	fast := slow.another(func(c *Config) { c.Remote = anew })
	var accepted map[string]string
	s.set(func() {
		s.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
			if w.Role == tuf.RoleTargets && accepted == nil {
				set, err := fast.Afresh(t.Context())
				if err == nil {
					err = fast.Accept(set, nil)
				}
				if err != nil {
					t.Error(err)
				}
				accepted = metadata(t, slow)
			}
			return raw, nil
		}
	})
	_, err := slow.Update(t.Context())
	wantErr(t, "Update of the slow one", err, tuf.ErrRoot)
	if diff := cmp.Diff(accepted, metadata(t, slow)); diff != "" {
		t.Errorf("accepted files changed:\n%s", diff)
	}
}

// Two first uses at once must not pin one after the other.
func TestAttackSecondFirstUse(t *testing.T) { // R12
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	impostor := newServer(s.clock)
	publisher(t, impostor, "1")
	honest := newClient(t, s)
	fooled := honest.another(func(c *Config) { c.Remote = impostor })
	met := false
	impostor.set(func() {
		impostor.alter = func(w tuf.Want, raw []byte) ([]byte, error) {
			if w.Role == tuf.RoleTargets && !met {
				met = true
				if _, err := honest.Update(t.Context()); err != nil {
					t.Error(err)
				}
			}
			return raw, nil
		}
	})
	_, err := fooled.Update(t.Context())
	wantErr(t, "Update of the second first use", err, tuf.ErrRoot)
	if got := metadata(t, honest)[pathOf(app, tuf.RoleRoot)]; got != string(s.repos[app].files[tuf.RoleRoot].Raw) {
		t.Error("the root was replaced")
	}
	honest.update(t)
}

// TestLockAcrossProcesses runs this test program once more, which holds the
// lock until its input ends.
func TestLockAcrossProcesses(t *testing.T) {
	t.Parallel()
	if path := os.Getenv("TRUST_TEST_HOLD_LOCK"); path != "" {
		holdLock(t, path)
		return
	}
	dir := NewDir(t.TempDir())
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLockAcrossProcesses$")
	cmd.Env = append(os.Environ(), "TRUST_TEST_HOLD_LOCK="+dir.Path())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	root, err := dir.open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := root.OpenFile(filepath.FromSlash(lockName(app)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wantErr(t, "tryLock against another process", tryLock(f), errLocked)
	if unlock, err := dir.lock(root, app+"/other"); err != nil {
		t.Errorf("lock of another repository: %v", err)
	} else {
		unlock()
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := tryLock(f); err != nil {
		t.Errorf("tryLock after the other process has ended: %v", err)
	}
}

func holdLock(t *testing.T, path string) {
	d := NewDir(path)
	root, err := d.open(true)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	unlock, err := d.lock(root, app)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	fmt.Println("locked")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the parent is done
}
