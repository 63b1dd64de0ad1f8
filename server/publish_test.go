package server

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	for _, clientSnapshot := range []bool{false, true} {
		w := newWorld(t, nil)
		p := newPublisher(t, w, app)
		if err := w.upload(t, app, p.first(t, clientSnapshot, tag("1.0"))...); err != nil {
			t.Fatalf("first publish: %v", err)
		}
		p.publish(t, tag("1.1"))
		p.publish(t, p.delegate("targets/releases", "alice"), tagIn("targets/releases", "2.0"))
		p.publish(t, tagIn("targets/releases", "2.1"))
		p.hasTags(t, "targets", "1.0", "1.1")
		p.hasTags(t, "targets/releases", "2.0", "2.1")
		s := p.set(t)
		for role, want := range map[tuf.RoleName]int64{"root": 1, "targets": 3, "targets/releases": 2, "snapshot": 4, "timestamp": 4} {
			if info, _ := s.Info(role); info.Version != want {
				t.Errorf("client snapshot %v: %s has version %d, want %d", clientSnapshot, role, info.Version, want)
			}
		}
		if info, _ := s.Info(tuf.RoleTimestamp); !info.Expires.Equal(w.clock.Now().Add(3 * 24 * time.Hour)) {
			t.Errorf("the timestamp expires at %v", info.Expires)
		}
	}
}

// An upload without files is what the stock client sends when nothing is
// staged: done, if there is a repository whose snapshot the server signs.
func TestPublishNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if err := w.upload(t, app); err == nil {
		t.Error("nothing was published to a repository that does not exist")
	}
	p := newPublisher(t, w, app)
	p.init(t, tag("1.0"))
	before := p.set(t)
	if err := w.upload(t, app); err != nil {
		t.Errorf("publish without files: %v", err)
	}
	was, _ := before.Info(tuf.RoleTimestamp)
	if is, _ := p.set(t).Info(tuf.RoleTimestamp); is.Version != was.Version {
		t.Errorf("nothing was published, and the timestamp went from version %d to %d", was.Version, is.Version)
	}
}

// The stock client uploads root 1 or 2, targets 2 and snapshot 2 at first
// (notary-protocol 2.1).
func TestFirstPublishOfTheStockClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	files := p.first(t, false)
	for i, f := range files {
		by := tuftest.Key(string(app) + " targets")
		if f.Role == tuf.RoleRoot {
			root := tuftest.Payload(t, f.Raw)
			_ = root
			signers := []tuf.Signer{}
			for _, s := range p.ring {
				if s.PublicKey().Type.Certificate() {
					signers = append(signers, s)
				}
			}
			by = signers[0]
		}
		files[i] = edited(t, f, func(o tuftest.Object) { o["version"] = number(2) }, by)
	}
	if err := w.upload(t, app, files...); err != nil {
		t.Fatalf("first publish at version 2: %v", err)
	}
	p.publish(t, tag("1.0"))
	p.hasTags(t, "targets", "1.0")
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	pending := w.key(t, http.MethodGet, app, tuf.RoleTimestamp)
	if again := w.key(t, http.MethodPost, app, tuf.RoleTimestamp); !again.Equal(pending) {
		t.Error("POST before the first publish does not return the pending key")
	}
	p.init(t, tag("1.0"))
	reader := newPublisher(t, w, app)
	reader.set(t) // knows the old root
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot} {
		active := w.key(t, http.MethodGet, app, role)
		fresh := w.key(t, http.MethodPost, app, role)
		if fresh.Equal(active) {
			t.Errorf("POST %s.key returned the key in use", role)
		}
		// S7: repeating makes no further keys.
		if again := w.key(t, http.MethodPost, app, role); !again.Equal(fresh) {
			t.Errorf("a second POST %s.key made another key", role)
		}
		if now := w.key(t, http.MethodGet, app, role); !now.Equal(active) {
			t.Errorf("GET %s.key returned the pending key before it was used", role)
		}
		// Until the new root is published, the old key goes on signing.
		p.publish(t, tag("before "+string(role)))
		p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(role, 1, fresh)})
		if now := w.key(t, http.MethodGet, app, role); !now.Equal(fresh) {
			t.Errorf("GET %s.key after the rotation does not return the new key", role)
		}
		p.publish(t, tag("after "+string(role)))
	}
	// Root and targets keys, too; and the snapshot goes to the client and back.
	root := tuftest.RootKey(t, app, "new root", w.clock.Now())
	p.ring.Add(root)
	p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleRoot, 1, root.PublicKey())})
	targets := tuftest.Key("new targets")
	p.ring.Add(targets)
	p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, targets.PublicKey())})
	mine := tuftest.Key("my snapshot")
	p.ring.Add(mine)
	p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleSnapshot, 1, mine.PublicKey())})
	p.publish(t, tag("signed by me"))
	back := w.key(t, http.MethodPost, app, tuf.RoleSnapshot)
	p.publish(t, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleSnapshot, 1, back)})
	p.publish(t, tag("signed by the server"))
	want := []string{"1.0", "before timestamp", "after timestamp", "before snapshot", "after snapshot", "signed by me", "signed by the server"}
	p.hasTags(t, "targets", want...)
	reader.hasTags(t, "targets", want...) // by the chain of roots
}

// A delegation that was removed and comes back begins at version 1, which is
// below what was stored (design amendment 17).
func TestDelegationComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	p.publish(t, p.delegate("targets/tmp", "alice"), tagIn("targets/tmp", "1"))
	p.publish(t, tagIn("targets/tmp", "2"))
	p.publish(t, tuf.RemoveDelegation{Name: "targets/tmp"})
	if r := w.get(current(app, "targets/tmp")); r.Code != http.StatusNotFound {
		t.Errorf("GET of a delegation that was removed = %d, want 404", r.Code)
	}
	if _, ok := w.state(t, app).Roles["targets/tmp"]; ok {
		t.Error("a delegation that was removed is still current")
	}
	// A new publisher's machine knows nothing of the old versions.
	fresh := p.clone()
	fresh.past = nil
	fresh.publish(t, fresh.delegate("targets/tmp", "bob"), tagIn("targets/tmp", "3"))
	fresh.hasTags(t, "targets/tmp", "3")
	if e := w.state(t, app).Roles["targets/tmp"]; e.Version != 1 {
		t.Errorf("the delegation came back as version %d, want 1", e.Version)
	}
}

// D10: keys of a delegation are removed, and its file falls below the
// threshold. That must be publishable, and repairable by whoever is left.
func TestDelegationBelowThreshold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("stays"))
	p.publish(t, p.delegate("targets/releases", "alice"), p.delegate("targets/releases", "bob"))
	alice, bob := tuftest.Key("alice").PublicKey(), tuftest.Key("bob").PublicKey()
	onlyAlice := p.clone()
	onlyAlice.ring = tuftest.NewRing(tuftest.Key("alice"))
	onlyAlice.publish(t, tagIn("targets/releases", "1"))
	p.publish(t, tuf.EditDelegation{Role: "targets/releases", RemoveKeys: []tuf.CanonicalID{alice.CanonicalID()}})
	s := p.set(t)
	if u := s.Unusable(); len(u) != 1 || u[0].Role != "targets/releases" {
		t.Fatalf("unusable: %v, want targets/releases", u)
	}
	// Others go on, alice does not, bob repairs it.
	p.publish(t, tag("goes on"))
	stolen := p.clone()
	stolen.ring = tuftest.NewRing(tuftest.Key("alice"), tuftest.Key("bob"))
	f := fileOf(t, s.Files(), "targets/releases")
	evil := edited(t, f, func(o tuftest.Object) { o["version"] = number(f.Version + 1) }, tuftest.Key("alice"))
	if err := w.upload(t, app, evil); refusal(err) != "INVALID_UPDATE ErrBadTargets" {
		t.Errorf("upload by the key that was removed = %v, want ErrBadTargets", err)
	}
	onlyBob := p.clone()
	onlyBob.ring = tuftest.NewRing(tuftest.Key("bob"))
	onlyBob.publish(t, tuf.Resign{Role: "targets/releases"})
	p.hasTags(t, "targets/releases", "1")
	// The last key goes: allowed as well.
	p.publish(t, tuf.EditDelegation{Role: "targets/releases", RemoveKeys: []tuf.CanonicalID{bob.CanonicalID()}})
	p.hasTags(t, "targets", "stays", "goes on")
}

func TestDeleteAndRecreate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("old"))
	p.publish(t, tag("older"))
	old := w.state(t, app)
	used := w.key(t, http.MethodGet, app, tuf.RoleTimestamp)
	byHash := w.get(current(app, tuf.RoleTargets))
	etag := byHash.Header().Get("ETag")
	for range 2 { // to delete what is not there is success
		if r := w.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusOK || r.Body.Len() != 0 {
			t.Fatalf("DELETE = %d %s", r.Code, r.Body)
		}
	}
	for _, path := range []string{
		current(app, tuf.RoleTimestamp), current(app, tuf.RoleRoot),
		"/v2/" + string(app) + "/_trust/tuf/1.root.json", "/v2/" + string(app) + "/_trust/tuf/targets." + etag[1:65] + ".json",
	} {
		if r := w.get(path); r.Code != http.StatusNotFound {
			t.Errorf("GET %s after DELETE = %d, want 404", path, r.Code)
		}
	}
	if k := w.key(t, http.MethodGet, app, tuf.RoleTimestamp); k.Equal(used) {
		t.Error("a key that was used is handed out for the repository that comes after")
	}
	// Who comes next starts at version 1, and the old base is of no use.
	next := newPublisher(t, w, app)
	next.init(t, tag("new"))
	next.hasTags(t, "targets", "new")
	if _, err := w.sql.Commit(context.Background(), app, old, nil, nil, w.clock.Now(), nil); err == nil {
		t.Error("a base from before the deletion can be committed on")
	}
	if r := w.get("/v2/" + string(app) + "/_trust/tuf/targets." + etag[1:65] + ".json"); r.Code != http.StatusNotFound {
		t.Errorf("a file from before the deletion is served: %d", r.Code)
	}
}

// A publish whose answer was lost is repeated by a client that does not know:
// VERSION, and then it sees its change.
func TestPublishTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	files := p.files(t, tag("1"))
	if err := w.upload(t, app, files...); err != nil {
		t.Fatal(err)
	}
	if err := w.upload(t, app, files...); refusal(err) != "VERSION" {
		t.Errorf("the same upload again = %v, want VERSION", err)
	}
	p.hasTags(t, "targets", "1")
}

func TestChangefeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	p.publish(t, tag("1"))
	w.do(http.MethodDelete, repository(app), nil)
	r := w.get("/v2/" + string(app) + "/_trust/changefeed?records=10")
	var list struct {
		Count   int
		Records []struct {
			ID, GUN, SHA256, Category string
			Version                   int
		}
	}
	decode(t, r, &list)
	var got []string
	for _, c := range list.Records {
		got = append(got, c.Category)
	}
	if want := []string{"update", "update", "deletion"}; list.Count != 3 || !slices.Equal(got, want) {
		t.Errorf("changes = %s, want %v", r.Body, want)
	}
	if last := list.Records[2]; last.Version != 0 || last.SHA256 != "" {
		t.Errorf("the deletion has version %d and hash %q", last.Version, last.SHA256)
	}
}

// deaf is a signer that does not answer.
type deaf struct{ Keys }

func (deaf) Ping(context.Context) error { return errSigner }

// What the signer could not be told to forget would keep a new repository of
// that name from being published, so it must be there when one is deleted.
func TestDeleteWithoutSigner(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("kept"))
	alone := newWorldOn(t, w.sql, deaf{w.keys}, w.clock, func(c *Config) { c.Forget = func(context.Context, tuf.GUN) error { return errSigner } })
	if r := alone.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusInternalServerError {
		t.Errorf("DELETE without the signer = %d %s, want 500", r.Code, r.Body)
	}
	p.hasTags(t, "targets", "kept")
	if r := w.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusOK {
		t.Errorf("DELETE = %d %s", r.Code, r.Body)
	}
	newPublisher(t, w, app).init(t, tag("new"))
}
