package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// rootKey makes a root key in c's key ring.
func (c *client) rootKey(t *testing.T) tuf.CanonicalID {
	t.Helper()
	s, err := keys.Generate(t.Context(), c.mem, keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	return s.PublicKey().CanonicalID()
}

func TestEditRoot(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	consumer := newClient(t, s)
	consumer.update(t)
	first := roleIDs(t, consumer.update(t), tuf.RoleRoot)[0]
	spare := c.rootKey(t)

	edit := func(e RootEdit, want ...tuf.CanonicalID) *tuf.Set {
		t.Helper()
		for n := range 2 { // the second time changes nothing, unless certificates are renewed
			done, err := c.EditRoot(t.Context(), e)
			if err != nil {
				t.Fatalf("EditRoot(%+v): %v", e, err)
			}
			if changed := len(done.Files) > 0; changed != (n == 0 || len(e.Renew) > 0) {
				t.Errorf("EditRoot(%+v), time %d, changed %v", e, n, done.Files)
			}
		}
		set := consumer.update(t)
		if got := roleIDs(t, set, tuf.RoleRoot); !slices.Equal(got, want) {
			t.Errorf("EditRoot(%+v): root keys %v, want %v", e, got, want)
		}
		if _, err := Lookup(newClient(t, s).update(t), "1"); err != nil {
			t.Error(err)
		}
		return set
	}
	set := edit(RootEdit{Add: []tuf.CanonicalID{spare}}, first, spare)
	if role, _ := set.Role(tuf.RoleRoot); role.Threshold != 1 {
		t.Errorf("threshold %d, want 1", role.Threshold)
	}
	was, _ := set.Role(tuf.RoleRoot)
	is, _ := edit(RootEdit{Renew: []tuf.CanonicalID{first}}, first, spare).Role(tuf.RoleRoot)
	if was.Keys[0].ID == is.Keys[0].ID || was.Keys[1].ID != is.Keys[1].ID {
		t.Error("Renew of one key: not just its certificate is new")
	}
	// The first one is lost: the spare signs alone.
	if err := c.mem.Remove(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	edit(RootEdit{Remove: []tuf.CanonicalID{first}}, spare)
	_, err := c.EditRoot(t.Context(), RootEdit{Remove: []tuf.CanonicalID{spare}})
	wantErr(t, "EditRoot that leaves no key", err, tuf.ErrRole)
	_, err = c.EditRoot(t.Context(), RootEdit{Add: []tuf.CanonicalID{first}})
	wantErr(t, "EditRoot with a key that is not here", err, tuf.ErrNoKey)
}

// What owners have let expire can be signed again by them, and nobody else
// builds on it.
func TestLapsed(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1")
	consumer := newClient(t, s)
	consumer.update(t)
	s.clock.add(tuf.RootLifetime + 24*time.Hour) // root, its certificate, targets
	s.renew(t, app)
	_, err := consumer.Update(t.Context())
	wantErr(t, "Update of what has expired", err, tuf.ErrRoot)
	_, err = c.Publish(t.Context(), add("2"))
	wantErr(t, "Publish on what has expired", err, tuf.ErrRoot)
	root := roleIDs(t, mustLook(t, c.AllowLapsed()), tuf.RoleRoot)
	if _, err := c.EditRoot(t.Context(), RootEdit{Renew: root}); err != nil {
		t.Fatal(err)
	}
	if _, err := Lookup(consumer.update(t), "1"); err != nil {
		t.Error(err)
	}
	c.publish(t, "2")
	if _, err := Lookup(newClient(t, s).update(t), "2"); err != nil {
		t.Error(err)
	}
	// A timestamp that has expired is an old state, for owners too.
	s.clock.add(48 * time.Hour)
	_, err = c.AllowLapsed().Look(t.Context())
	wantErr(t, "Look at an expired timestamp", err, tuf.ErrExpired)
}

func mustLook(t *testing.T, r *Repository) *tuf.Set {
	t.Helper()
	set, err := r.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestAttackDeniedRootComesBack: attacks.md R13. A root that was given up is
// refused, whatever the server does and whatever else this machine forgets.
func TestAttackDeniedRootComesBack(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "old")
	var old *published
	s.set(func() { old = s.repos[app].copy(); delete(s.repos, app); delete(s.keys, app) })
	publisher(t, s, "new")
	var anew *published
	s.set(func() { anew = s.repos[app].copy(); s.repos[app] = old })
	c := newClient(t, s)
	c.update(t)
	s.set(func() { s.repos[app] = anew })
	set, err := c.Afresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Accept(set, nil); err != nil {
		t.Fatal(err)
	}
	c.update(t)
	s.set(func() { s.repos[app] = old })
	_, err = c.Update(t.Context())
	wantErr(t, "Update to the old root", err, tuf.ErrRoot)
	if err := c.dir.Drop(app); err != nil {
		t.Fatal(err)
	}
	_, err = c.Update(t.Context())
	wantErr(t, "first use of the old root", err, tuf.ErrPin)
	_, err = c.Afresh(t.Context())
	wantErr(t, "Afresh of the old root", err, tuf.ErrPin)
	made, file, err := c.Decisions()
	if err != nil || len(made) != 1 || len(made[0].Old) != 1 || len(made[0].New) != 1 {
		t.Errorf("Decisions = %+v, %v", made, err)
	}
	// Another repository of the same owner is not concerned.
	s.set(func() { s.repos[app] = anew })
	if _, err := Lookup(c.update(t), "new"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "x", `{"gun":"other/app","denied":[],"made":[]}`, `{"gun":"` + string(app) + `","denied":["x"],"made":[]}`, `{"gun":"` + string(app) + `","denied":[],"made":[],"more":1}`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := c.Update(t.Context())
		if e := (*DecisionsError)(nil); !errors.As(err, &e) {
			t.Errorf("Update with the decisions %q = %v, want a DecisionsError", bad, err)
		}
	}
}

// An accepting machine that dies between any two steps trusts neither root by
// itself, and the next attempt succeeds.
func TestAcceptInterrupted(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "old")
	var old *published
	s.set(func() { old = s.repos[app].copy(); delete(s.repos, app); delete(s.keys, app) })
	publisher(t, s, "new")
	anew := s.repos[app]
	for n := 0; ; n++ {
		s.set(func() { s.repos[app] = old })
		c := newClient(t, s)
		c.update(t)
		s.set(func() { s.repos[app] = anew })
		set, err := c.Afresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		writes, crash := 0, errors.New("crash")
		c.dir.testOnlyWrite = func(string) error {
			if writes++; writes > n {
				return crash
			}
			return nil
		}
		err = c.Accept(set, nil)
		c.dir.testOnlyWrite = nil
		if err == nil {
			if n == 0 {
				t.Fatal("Accept changed nothing")
			}
			break
		}
		s.set(func() { s.repos[app] = old })
		if decided, _, _ := c.Decisions(); len(decided) > 0 {
			if _, err := c.Update(t.Context()); err == nil {
				t.Errorf("after a crash before write %d, the old root is trusted", n)
			}
		}
		s.set(func() { s.repos[app] = anew })
		if err := c.Accept(set, nil); err != nil {
			t.Errorf("Accept after a crash before write %d: %v", n, err)
		}
		c.update(t)
	}
}

func TestNotice(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	owner := publisher(t, s, "1")
	consumer := newClient(t, s)
	consumer.update(t)
	past, err := consumer.Local()
	if err != nil {
		t.Fatal(err)
	}
	var with []tuf.PublicKey
	for _, name := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot} {
		role, _ := past.Role(name)
		with = append(with, role.Keys[0].PublicKey)
	}
	if err := owner.mem.Remove(t.Context(), with[0].CanonicalID()); err != nil {
		t.Fatal(err) // the root is lost
	}
	s.set(func() { delete(s.repos, app); delete(s.keys, app) })
	publisher(t, s, "1")
	set, err := consumer.Afresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root, _ := set.Role(tuf.RoleRoot)
	about := Notice{GUN: app, Made: s.clock.now(), Reason: "the root key is <lost>", Old: []tuf.KeyID{with[0].ID()}, New: []tuf.KeyID{root.Keys[0].ID}}
	n, err := SignNotice(t.Context(), about, with, keys.Ring{owner.mem})
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadNotice(n.Bytes())
	if err != nil || again.Sum() != n.Sum() || again.Reason != about.Reason || !again.Made.Equal(about.Made) {
		t.Fatalf("ReadNotice = %+v, %v", again, err)
	}
	vouchers, err := again.Vouchers(past, set)
	if err != nil || len(vouchers) != 1 || vouchers[0] != (Voucher{tuf.RoleTargets, with[1].CanonicalID()}) {
		t.Errorf("Vouchers = %v, %v, want the targets key alone", vouchers, err)
	}
	if err := consumer.Accept(set, again); err != nil {
		t.Fatal(err)
	}
	if made, _, err := consumer.Decisions(); err != nil || made[0].Notice != n.Sum() {
		t.Errorf("Decisions = %+v, %v", made, err)
	}
	_, err = SignNotice(t.Context(), about, with[:1], keys.Ring{owner.mem})
	wantErr(t, "SignNotice without a key", err, tuf.ErrNoKey)
	other := about
	other.New = []tuf.KeyID{with[0].ID()}
	if n, err = SignNotice(t.Context(), other, with, keys.Ring{owner.mem}); err != nil {
		t.Fatal(err)
	}
	_, err = n.Vouchers(past, set)
	wantErr(t, "Vouchers for another root", err, ErrNotice)
}

// TestAttackForgedNotice: attacks.md R12. Nobody whom a machine does not know,
// and not the server, vouches for a root.
func TestAttackForgedNotice(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	publisher(t, s, "1")
	consumer := newClient(t, s)
	past := consumer.update(t).Past()
	s.set(func() { delete(s.repos, app); delete(s.keys, app) })
	thief := publisher(t, s, "evil")
	set, err := consumer.Afresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root, _ := set.Role(tuf.RoleRoot)
	about := Notice{GUN: app, Made: s.clock.now(), New: []tuf.KeyID{root.Keys[0].ID}}
	own, _ := set.Role(tuf.RoleTargets)
	theirs, _ := past.Role(tuf.RoleTimestamp)
	sign := func(with tuf.PublicKey, ring keys.Ring) *Notice {
		n, err := SignNotice(t.Context(), about, []tuf.PublicKey{with}, ring)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	forged := map[string]*Notice{
		"the thief's own key": sign(own.Keys[0].PublicKey, keys.Ring{thief.mem}),
		"the server's key":    sign(theirs.Keys[0].PublicKey, keys.Ring{s.mem}),
	}
	known, _ := past.Role(tuf.RoleTargets)
	relabelled := bytes.ReplaceAll(forged["the thief's own key"].Bytes(), []byte(own.Keys[0].ID), []byte(known.Keys[0].ID))
	if forged["a known key's id"], err = ReadNotice(relabelled); err != nil {
		t.Fatal(err)
	}
	for what, n := range forged {
		if v, err := n.Vouchers(past, set); !errors.Is(err, ErrNotice) {
			t.Errorf("signed by %s: Vouchers = %v, %v, want ErrNotice", what, v, err)
		}
	}
}

func TestNoticeRefused(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("ab", 32)
	good := `{"signed":{"_type":"Notice","version":1,"gun":"a/b","made":"2026-11-28T12:00:00Z","reason":"","old":[],"new":["` + id + `"]},"signatures":[]}`
	if _, err := ReadNotice([]byte(good)); err != nil {
		t.Fatalf("ReadNotice(good) = %v", err)
	}
	for what, change := range map[string][2]string{
		"not JSON":        {`{"signed"`, `{signed`},
		"more members":    {`"signatures":[]`, `"signatures":[],"x":1`},
		"more in payload": {`"reason":""`, `"reason":"","x":1`},
		"a member twice":  {`"reason":""`, `"reason":"","reason":""`},
		"another type":    {`"Notice"`, `"Targets"`},
		"another version": {`"version":1`, `"version":2`},
		"a bad name":      {`"a/b"`, `"a//b"`},
		"no new root":     {`["` + id + `"]`, `[]`},
		"a bad id":        {id, "x"},
		"a long reason":   {`"reason":""`, `"reason":"` + strings.Repeat("x", maxReason+1) + `"`},
		"a bad signature": {`"signatures":[]`, `"signatures":[{"keyid":"x","method":"ecdsa","sig":"-"}]`},
		"one key twice":   {`"signatures":[]`, `"signatures":[{"keyid":"x","method":"ecdsa","sig":""},{"keyid":"x","method":"ecdsa","sig":""}]`},
		"too large":       {`"reason":""`, `"reason":""` + strings.Repeat(" ", maxNotice)},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if n, err := ReadNotice([]byte(bad)); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("%s: ReadNotice = %v, %v, want ErrMalformed", what, n, err)
		}
	}
}

func FuzzReadNotice(f *testing.F) {
	f.Add([]byte(`{"signed":{"_type":"Notice","version":1,"gun":"a/b","made":"2026-11-28T12:00:00Z","reason":"","old":[],"new":["` + strings.Repeat("ab", 32) + `"]},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := ReadNotice(raw)
		if err != nil {
			oneLine(t, raw, err)
			return
		}
		if !n.GUN.Valid() || len(n.New) == 0 || !json.Valid(n.Bytes()) {
			t.Errorf("ReadNotice(%q) = %+v", raw, n)
		}
	})
}

func TestIntent(t *testing.T) {
	t.Parallel()
	c := newClient(t, newServer(newClock()))
	of, made := c.rootKey(t), c.rootKey(t)
	i := Intent{What: "rotate", Of: of, New: made}
	if got, err := c.dir.Intent("rotate", of); err != nil || got.New != "" {
		t.Errorf("Intent of nothing = %+v, %v", got, err)
	}
	if err := c.dir.Begin(i); err != nil {
		t.Fatal(err)
	}
	if got, err := c.dir.Intent("rotate", of); err != nil || got != i {
		t.Errorf("Intent = %+v, %v, want %+v", got, err, i)
	}
	if got, err := c.dir.Intent("spare", of); err != nil || got.New != "" {
		t.Errorf("Intent of something else = %+v, %v", got, err)
	}
	for _, broken := range []string{"{", strings.Repeat("9", maxState+1)} {
		if err := os.WriteFile(c.dir.file(i.name()), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.dir.Intent("rotate", of); err != nil || got.New != "" {
			t.Errorf("Intent of a file with %.10s = %+v, %v", broken, got, err)
		}
	}
	for range 2 {
		if err := c.dir.End(i); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTagList(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	c := publisher(t, s, "1", "2")
	signer := c.rootKeyNamed(t, "alice")
	_, err := c.Publish(t.Context(), func(*tuf.Set) ([]tuf.Change, error) {
		released := target("2")
		released.Role, released.Hashes = tuf.RoleReleases, map[string][]byte{"sha256": bytes.Repeat([]byte{7}, 32)}
		return []tuf.Change{
			tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{signer}, AddPaths: []string{""}}, tuf.AddTarget{Target: released},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	set := c.update(t)
	list, left := ListTags(set, s.clock.now())
	raw, err := list.Bytes()
	if err != nil || len(left) > 0 {
		t.Fatal(err, left)
	}
	got, err := ReadTagList(raw)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.Bytes(); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("read and written again it is\n%s\nwant\n%s", again, raw)
	}
	tags, from := got.Released()
	if len(tags) != 2 || from["1"] != tuf.RoleTargets || from["2"] != tuf.RoleReleases {
		t.Errorf("Released = %v, %v", tags, from)
	}
	for _, tag := range tags {
		want, err := Lookup(set, tag.Name)
		if is := tag.Target(from[tag.Name]); err != nil || !bytes.Equal(is.SHA256(), want.SHA256()) || is.Length != want.Length {
			t.Errorf("tag %s is %v, want %v", tag.Name, is, want)
		}
	}
	cached, err := c.Cached()
	if err != nil || cached == nil {
		t.Fatalf("Cached = %v, %v", cached, err)
	}
	if offline, _ := ListTags(cached, s.clock.now()); len(offline.Roles) != len(list.Roles) {
		t.Errorf("of the copy at hand %d roles are listed, want %d", len(offline.Roles), len(list.Roles))
	}
	for what, change := range map[string][2]string{
		"not JSON":           {`{`, `[`},
		"another type":       {`"Tags"`, `"Notice"`},
		"another version":    {`"version": 1`, `"version": 2`},
		"more members":       {`"made"`, `"more": 1, "made"`},
		"a bad name":         {string(app), "a//b"},
		"a bad root":         {string(list.Root[0]), "x"},
		"no root":            {`"` + string(list.Root[0]) + `"`, ``},
		"an odd role":        {`"targets/releases"`, `"snapshot"`},
		"a role twice":       {`"targets/releases"`, `"targets"`},
		"an orphan":          {`"targets/releases"`, `"targets/a/b"`},
		"no threshold":       {`"threshold": 1`, `"threshold": 0`},
		"a tag twice":        {`"name": "2"`, `"name": "1"`},
		"no digest":          {tags[0].SHA256, strings.Repeat("0", 64)},
		"a short digest":     {tags[0].SHA256, "00"},
		"an upper-case one":  {tags[0].SHA256, strings.Repeat("AB", 32)},
		"a negative length":  {`"length": 1`, `"length": -1`},
		"an odd public half": {`"keytype":`, `"keytypes":`},
	} {
		bad := strings.Replace(string(raw), change[0], change[1], 1)
		if bad == string(raw) {
			t.Errorf("%s: nothing was changed", what)
		}
		if l, err := ReadTagList([]byte(bad)); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("%s: ReadTagList = %v, %v, want ErrMalformed", what, l, err)
		}
	}
}

func (c *client) rootKeyNamed(t *testing.T, name string) tuf.PublicKey {
	t.Helper()
	s, err := keys.Generate(t.Context(), c.mem, keys.P256, keys.Info{Role: name})
	if err != nil {
		t.Fatal(err)
	}
	return s.PublicKey()
}

func FuzzReadTagList(f *testing.F) {
	id := strings.Repeat("ab", 32)
	f.Add([]byte(`{"_type":"Tags","version":1,"gun":"a/b","made":"2026-11-28T12:00:00Z","root":["` + id + `"],"roles":[{"name":"targets","threshold":1,"keys":[],"paths":null,"tags":[{"name":"1","sha256":"` + id + `","length":1}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := ReadTagList(raw)
		if err != nil {
			oneLine(t, raw, err)
			return
		}
		again, err := list.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadTagList(again); err != nil {
			t.Errorf("ReadTagList of what was written of %q: %v", raw, err)
		}
	})
}
