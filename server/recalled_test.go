package server

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// What is kept is built on, and is what would be loaded.
func TestPublishOnWhatIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	for n := range 3 {
		p.publish(t, tag(fmt.Sprint("v", n)))
		state := w.state(t, app)
		kept := w.recalled.of(state)
		if kept == nil {
			t.Fatal("what was published is not kept")
		}
		if b, err := w.base(t.Context(), app); err != nil || b.past != kept.past {
			t.Fatalf("the next publish does not build on what is kept: %v", err)
		}
		w.recalled = recalled{}
		loaded, err := w.base(t.Context(), app)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(kept.linked, loaded.linked) || len(kept.raws) != len(loaded.raws) {
			t.Error("other files are kept than are stored")
		}
		for role, raw := range loaded.raws {
			a, _ := kept.past.Info(role)
			b, ok := loaded.past.Info(role)
			if !bytes.Equal(raw, kept.raws[role]) || !ok || a.SHA256 != b.SHA256 || kept.past.Floor(role) != loaded.past.Floor(role) {
				t.Errorf("%s is kept as another one than would be loaded", role)
			}
		}
		w.recalled.put(kept, kept.size())
	}
}

// What another server published, and what was deleted meanwhile, is not built
// on from memory.
func TestAttackStaleMemoryIsNotBuiltOn(t *testing.T) {
	t.Parallel()
	a, b, _ := newWorlds(t)
	p := newPublisher(t, a, app)
	p.init(t)
	for n := range 3 { // by turns
		p.w = a
		p.publish(t, tag(fmt.Sprint("a", n)))
		p.w = b
		p.publish(t, tag(fmt.Sprint("b", n)))
		if a.recalled.of(a.state(t, app)) != nil {
			t.Fatal("what the other server replaced counts as current")
		}
	}
	p.hasTags(t, "targets", "a0", "a1", "a2", "b0", "b1", "b2")

	// The same files under another number or in another life of the repository
	// are another state.
	for _, change := range []func(*storage.State){
		func(s *storage.State) { s.Seq++ },
		func(s *storage.State) { s.Incarnation++ },
	} {
		other := *b.state(t, app)
		if change(&other); b.recalled.of(&other) != nil {
			t.Error("another state counts as the one that is kept")
		}
	}
	// So is the same number with another file behind it, as after a database was
	// restored.
	restored := *b.state(t, app)
	if b.recalled.of(&restored) == nil {
		t.Fatal("what was published is not kept")
	}
	restored.Roles = maps.Clone(restored.Roles)
	e := restored.Roles[tuf.RoleTargets]
	e.SHA256[0] ^= 1
	restored.Roles[tuf.RoleTargets] = e
	if b.recalled.of(&restored) != nil {
		t.Error("another file counts as the one that is kept")
	}
}

// What a server supposes to be current is its own affair: nobody is refused, or
// let in, because it supposes wrongly.
func TestAttackSuppositionIsNotJudgedBy(t *testing.T) {
	t.Parallel()
	a, b, _ := newWorlds(t)
	p := newPublisher(t, a, app)
	p.init(t, tag("first"))
	hear := func() {
		t.Helper()
		if err := a.heads.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if a.supposed(app) != nil {
		t.Error("a server that hears of nothing supposes something")
	}
	hear()
	supposes := func(version int64) {
		t.Helper()
		kept := a.supposed(app)
		if kept == nil || !kept.supposed || kept.state.Roles[tuf.RoleTargets].Version != version {
			t.Fatalf("the server supposes %+v, want targets version %d", kept, version)
		}
	}
	p.publish(t, tag("by a"))
	supposes(2)

	// From here on publishers read from b, which asks its store each time.
	p.w = b
	through := func(files ...tuf.File) *api.Error { return a.upload(t, app, files...) }

	// Other keys since, which the other server knows.
	thief := p.targetsKey()
	targets := tuftest.Key("new targets")
	p.ring.Add(targets)
	p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, targets.PublicKey())})
	supposes(2)
	before := b.state(t, app)
	if err := through(edited(t, fileOf(t, p.clone().files(t, tag("by a thief")), tuf.RoleTargets), nil, thief)); err == nil {
		t.Error("a key that was replaced through another server signs here")
	}
	if now := b.state(t, app); now.Seq != before.Seq {
		t.Errorf("what was refused became state %d", now.Seq)
	}
	supposes(2)
	files := p.files(t, tag("with the new key"))
	a.store.Inject(storagetest.Fault{Method: "Current"})
	if err := through(files...); err == nil || err.Code != api.Unknown {
		t.Errorf("a publish with keys that came through another server, while the store cannot be asked = %v, want %s", err, api.Unknown)
	}
	a.store.Heal()
	supposes(2)
	if err := through(files...); err != nil {
		t.Errorf("a publish with keys that came through another server: %v", err)
	}
	p.hasTags(t, tuf.RoleTargets, "first", "by a", "with the new key")

	// A version that was taken meanwhile is taken.
	late := p.clone().files(t, tag("late"))
	p.publish(t, tag("by b"))
	if err := through(late...); err == nil || err.Code != api.Version {
		t.Errorf("an upload of a version that was published through another server = %v, want %s", err, api.Version)
	}
	p.hasTags(t, tuf.RoleTargets, "first", "by a", "with the new key", "by b")

	// What follows what was published through another server is nothing but the
	// next one. The signer is not troubled with older states, once the server has
	// heard of it.
	hear()
	if a.supposed(app) != nil {
		t.Error("the server supposes what it has heard was replaced")
	}
	if err := through(p.files(t, tag("on top of it"))...); err != nil {
		t.Errorf("a publish on top of another server's: %v", err)
	}
	p.hasTags(t, tuf.RoleTargets, "first", "by a", "with the new key", "by b", "on top of it")

	// A repository that was deleted through another server is gone.
	files = p.clone().files(t, tag("too late"))
	if r := b.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusOK {
		t.Fatalf("DELETE = %d %s", r.Code, r.Body)
	}
	if a.supposed(app) == nil {
		t.Fatal("the server supposes nothing")
	}
	if err := through(fileOf(t, files, tuf.RoleTargets)); err == nil || err.Code != api.InvalidUpdate {
		t.Errorf("an upload to what was deleted through another server = %v, want %s", err, api.InvalidUpdate)
	}
	p.past = nil
	if err := through(p.first(t, false, tag("anew"))...); err != nil {
		t.Errorf("a repository that begins anew: %v", err)
	}
	p.hasTags(t, tuf.RoleTargets, "anew")
	if v := b.state(t, app).Roles[tuf.RoleTimestamp].Version; v != 1 {
		t.Errorf("what begins anew begins with timestamp version %d", v)
	}
}

// A repository that was large is not kept, and all together are bounded.
func TestKeptIsBounded(t *testing.T) {
	t.Parallel()
	var r recalled
	const each = 60 << 10
	for n := range 3 * maxRecalled / each {
		gun := tuf.GUN(fmt.Sprint("registry.example/app", n))
		for range 2 { // again, which takes no more
			r.put(&base{gun: gun, state: &storage.State{GUN: gun}, raws: map[tuf.RoleName][]byte{tuf.RoleTargets: make([]byte, each)}}, each)
		}
		if r.m[gun] == nil {
			t.Fatal("the newest is not kept")
		}
	}
	all := 0
	for _, b := range r.m {
		all += b.size()
	}
	if all != r.bytes || all > maxRecalled || all < maxRecalled-each {
		t.Errorf("%d bytes are kept, and counted as %d; want at most %d, and not much less", all, r.bytes, maxRecalled)
	}

	repo := tuftest.New(t, app, tuftest.Lifetime(tuf.RoleTargets, time.Hour))
	var names []string
	for n := range 1000 {
		names = append(names, fmt.Sprint("v", n))
	}
	repo.Tag(t, names...)
	set := repo.Set(t)
	state := &storage.State{GUN: app, Roles: map[tuf.RoleName]storage.Entry{}}
	for _, role := range set.Roles() {
		info, _ := set.Info(role)
		state.Roles[role] = storage.Entry{Role: role, Version: info.Version, SHA256: info.SHA256}
	}
	if r.keep(state, set); r.m[app] != nil {
		t.Error("a large repository is kept")
	}
}
