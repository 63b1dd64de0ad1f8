package trust

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// stockDir copies a trust directory of the stock programs.
func stockDir(t *testing.T, from string, gun tuf.GUN) *Dir {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trust")
	to := filepath.Join(path, filepath.FromSlash(gunDir(gun)))
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return NewDir(path)
}

const stockGUN = tuf.GUN("acme.example/team/delegations")

func TestStockChangelist(t *testing.T) {
	t.Parallel()
	dir := stockDir(t, "testdata/stock/delegations", stockGUN)
	r := Open(stockGUN, Config{Dir: dir})
	staged, err := r.Staged()
	if err != nil {
		t.Fatal(err)
	}
	unb64 := func(s string) []byte {
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var got []tuf.Change
	var keys []tuf.PublicKey
	for _, s := range staged {
		if e, ok := s.Change.(tuf.EditDelegation); ok {
			keys = append(keys, e.AddKeys...)
			e.AddKeys = nil
			s.Change = e
		}
		got = append(got, s.Change)
	}
	want := []tuf.Change{
		tuf.AddTarget{Target: tuf.Target{Name: "pending", Role: "targets", FileMeta: tuf.FileMeta{Length: 18, Hashes: map[string][]byte{
			"sha256": unb64("lLjmraO6r+5yVzhu+pNzVMflFN4YvYj6olmNMHelZP4="),
		}}}},
		tuf.RemoveTarget{Role: "targets/releases", Name: "v1"},
		tuf.EditDelegation{Role: "targets/later", Threshold: 1},
		tuf.EditDelegation{Role: "targets/later", AddPaths: []string{"later/"}},
		tuf.EditDelegation{Role: "targets/team", RemovePaths: []string{"shared/"}},
		tuf.PurgeKeys{Under: "targets", Keys: []tuf.CanonicalID{"13c7100e20558c7ce6f345b41d6eb4f62a3acf9edd245b64b5829676b6172da4"}},
		tuf.Resign{Role: "targets/bare"},
	}
	sha512 := got[0].(tuf.AddTarget).Target.Hashes["sha512"]
	want[0].(tuf.AddTarget).Target.Hashes["sha512"] = sha512
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("staged changes (-want +got):\n%s", diff)
	}
	if len(sha512) != 64 || len(keys) != 1 || keys[0].Type != tuf.ECDSAx509 {
		t.Errorf("sha512 %x, keys %v, want 64 bytes and a certificate", sha512, keys)
	}

	// What we read we would write the same.
	again := Open("acme.example/team/again", Config{Dir: dir, Now: newClock().now})
	for _, s := range staged {
		if err := again.Stage(s.Change); err != nil {
			t.Fatal(err)
		}
	}
	ours, err := again.Staged()
	if err != nil || len(ours) != len(staged) {
		t.Fatalf("Staged = %d files, %v, want %d", len(ours), err, len(staged))
	}
	name := regexp.MustCompile(`^\d{20}_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.change$`)
	for i := range ours {
		if !name.MatchString(ours[i].Name) {
			t.Errorf("name of a change file: %s", ours[i].Name)
		}
		if diff := cmp.Diff(string(staged[i].Raw), string(ours[i].Raw)); diff != "" {
			t.Errorf("change %d (-stock +ours):\n%s", i, diff)
		}
	}
	if err := r.Reset(staged[0].Name, "1_gone.change"); err != nil {
		t.Fatal(err)
	}
	if left, err := r.Staged(); err != nil || len(left) != len(staged)-1 {
		t.Errorf("Staged after Reset = %d, %v", len(left), err)
	}
	for _, bad := range []string{"../metadata/root.json", "x", "../x.change", `..\x.change`} {
		if err := r.Reset(bad); err == nil {
			t.Errorf("Reset(%q) = nil", bad)
		}
	}
}

func TestStageRoundTrip(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := newClient(t, s)
	k := newKey(t)
	x := target("1")
	x.Custom = []byte(`{"a":1}`)
	changes := []tuf.Change{
		tuf.AddTarget{Target: x},
		tuf.EditDelegation{Role: "targets/a", Threshold: 1, AddKeys: []tuf.PublicKey{k}},
		tuf.EditDelegation{Role: "targets/a", AddPaths: []string{"", "v"}},
		tuf.EditDelegation{
			Role: "targets/b", Threshold: 2, AddKeys: []tuf.PublicKey{k}, RemoveKeys: []tuf.CanonicalID{k.CanonicalID()},
			AddPaths: []string{"x"}, RemovePaths: []string{"y"}, ClearPaths: true,
		},
		tuf.RemoveDelegation{Name: "targets/a"},
		tuf.PurgeKeys{Under: "targets/a", Keys: []tuf.CanonicalID{k.CanonicalID()}},
		tuf.Resign{Role: "targets"},
		tuf.RemoveTarget{Role: "targets", Name: "1"},
	}
	if err := c.Stage(changes...); err != nil {
		t.Fatal(err)
	}
	if err := c.Stage(tuf.EditDelegation{Role: "targets/c", AddKeys: []tuf.PublicKey{k}, AddPaths: []string{""}}); err != nil {
		t.Fatal(err)
	}
	changes = append(changes,
		tuf.EditDelegation{Role: "targets/c", Threshold: 1, AddKeys: []tuf.PublicKey{k}},
		tuf.EditDelegation{Role: "targets/c", AddPaths: []string{""}})
	staged, err := c.Staged()
	if err != nil {
		t.Fatal(err)
	}
	var got []tuf.Change
	for _, s := range staged {
		got = append(got, s.Change)
	}
	if diff := cmp.Diff(changes, got); diff != "" {
		t.Errorf("staged and read again (-want +got):\n%s", diff)
	}
	err = c.Stage(tuf.RemoveTarget{Name: "2"}, tuf.ReplaceKeys{})
	wantErr(t, "Stage of a key rotation", err, tuf.ErrRole)
	if left, err := c.Staged(); err != nil || len(left) != len(staged) {
		t.Errorf("a refused Stage left %d changes, %v, want %d", len(left), err, len(staged))
	}
}

func TestNotUnderstood(t *testing.T) {
	t.Parallel()
	data := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	line := func(action, role, kind, path, data string) string {
		return `{"action":"` + action + `","role":"` + role + `","type":"` + kind + `","path":"` + path + `","data":` + data + `}`
	}
	hash := `"hashes":{"sha256":"AAAA"}`
	for name, content := range map[string]string{
		"empty":                 "",
		"not JSON":              "x",
		"twice":                 `{"action":"create","action":"delete","role":"targets","type":"target","path":"1","data":null}`,
		"more":                  `{"action":"delete","role":"targets","type":"target","path":"1","data":null,"x":1}`,
		"action":                line("explode", "targets", "target", "1", "null"),
		"type":                  line("delete", "targets", "thing", "1", "null"),
		"target of root":        line("delete", "root", "target", "1", "null"),
		"target without a name": line("delete", "targets", "target", "", "null"),
		"target without data":   line("create", "targets", "target", "1", "null"),
		"target with more":      line("create", "targets", "target", "1", `"`+data(`{"length":1,`+hash+`,"x":1}`)+`"`),
		"target negative":       line("create", "targets", "target", "1", `"`+data(`{"length":-1,`+hash+`}`)+`"`),
		"target unhashed":       line("create", "targets", "target", "1", `"`+data(`{"length":1}`)+`"`),
		"renamed delegation":    line("update", "targets/a", "delegation", "", `"`+data(`{"new_name":"targets/b"}`)+`"`),
		"delegation of targets": line("update", "targets", "delegation", "", `"`+data(`{"threshold":2}`)+`"`),
		"purge and more":        line("update", "targets/*", "delegation", "", `"`+data(`{"remove_keys":["x"],"clear_paths":true}`)+`"`),
		"purge of nothing":      line("update", "targets/*", "delegation", "", `"`+data(`{}`)+`"`),
		"purge created":         line("create", "targets/*", "delegation", "", `"`+data(`{"remove_keys":["x"]}`)+`"`),
		"witness of root":       line("update", "root", "witness", "", "null"),
		"root keys":             line("create", "root", "role", "targets", `"`+data(`{"keys":[],"role":"targets"}`)+`"`),
		"negative threshold":    line("update", "targets/a", "delegation", "", `"`+data(`{"threshold":-1}`)+`"`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(newClock())
			c := publisher(t, s, "1")
			write(t, c, gunDir(app)+"/changelist/00000000000000000001_x.change", content)
			staged, err := c.Staged()
			if err != nil || len(staged) != 1 || staged[0].Change != nil || string(staged[0].Raw) != content {
				t.Errorf("Staged = %+v, %v, want one that is not understood", staged, err)
			}
			if err := c.Stage(tuf.AddTarget{Target: target("2")}); err != nil {
				t.Fatal(err)
			}
			s.seen()
			_, err = c.PublishStaged(t.Context())
			var e *NotUnderstood
			if !errors.As(err, &e) || len(e.Names) != 1 || len(s.seen()) > 0 {
				t.Errorf("PublishStaged = %v, want NotUnderstood and no request", err)
			}
			if left, err := c.Staged(); err != nil || len(left) != 2 {
				t.Errorf("Staged = %d, %v, want 2", len(left), err)
			}
			if err := c.Reset(e.Names...); err != nil {
				t.Fatal(err)
			}
			if _, err := c.PublishStaged(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStagedFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	c := newClient(t, newServer(newClock()))
	write(t, c, gunDir(app)+"/changelist/1_x.change", strings.Repeat(" ", maxChange+1))
	write(t, c, gunDir(app)+"/changelist/notes.txt", "x")
	staged, err := c.Staged()
	if err != nil || len(staged) != 1 || staged[0].Raw != nil || staged[0].Change != nil {
		t.Errorf("Staged = %v, %v, want one that cannot be read", staged, err)
	}
}

// The directory of a stock client serves offline, with nothing else.
func TestStockDirectory(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
	s := newServer(c)
	s.before = down
	r := Open(stockGUN, Config{Remote: s, Dir: stockDir(t, "testdata/stock/delegations", stockGUN), Now: c.now})
	set, err := r.Update(t.Context())
	if set == nil || !errors.Is(err, ErrUnreachable) {
		t.Fatalf("Update offline = %v, %v, want a Set", set, err)
	}
	want := []tuf.RoleName{"root", "timestamp", "snapshot", "targets", "targets/releases", "targets/releases/nightly", "targets/team", "targets/bare"}
	got := set.Roles()
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
}

type passphrase string

func (p passphrase) Passphrase(context.Context, keys.Info, int) ([]byte, error) {
	return []byte(p), nil
}
func (p passphrase) NewPassphrase(context.Context, keys.Info) ([]byte, error) { return []byte(p), nil }

// What the stock client has only initialised, ours publishes.
func TestStockInitialised(t *testing.T) {
	t.Parallel()
	const gun = "acme.example/team/local-snapshot"
	c := &clock{t: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
	s := newServer(c)
	private := t.TempDir()
	if err := os.CopyFS(private, os.DirFS("testdata/unpublished/private")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(private)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Chmod(filepath.Join(private, e.Name()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := keys.NewDir(private, passphrase("passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	up := &uploads{server: s}
	dir := stockDir(t, "testdata/unpublished", gun)
	r := Open(gun, Config{Remote: up, Dir: dir, Now: c.now, Keys: keys.Ring{store}})
	p, err := r.Publish(t.Context(), add("1"))
	if err != nil || !p.First {
		t.Fatalf("Publish = %+v, %v, want a first one", p, err)
	}
	cached, err := os.ReadFile("testdata/unpublished/metadata/root.json")
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[tuf.RoleName]int64)
	for _, f := range up.files {
		versions[f.Role] = f.Version
		if f.Role == tuf.RoleRoot && string(f.Raw) != string(cached) {
			t.Error("the root was not uploaded as it was initialised")
		}
	}
	if diff := cmp.Diff(map[tuf.RoleName]int64{"root": 1, "targets": 2, "snapshot": 2}, versions); diff != "" {
		t.Errorf("versions uploaded (-want +got):\n%s", diff)
	}
}

// uploads keeps what is uploaded.
type uploads struct {
	*server
	files []tuf.File
}

func (u *uploads) Upload(_ context.Context, _ tuf.GUN, files []tuf.File) error {
	u.files = files
	return nil
}
