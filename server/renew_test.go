package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// meanwhile is a store where something happens between reading a state and
// whatever comes next.
type meanwhile struct {
	storage.Store
	then func()
}

func (m meanwhile) Current(ctx context.Context, gun tuf.GUN) (*storage.State, error) {
	s, err := m.Store.Current(ctx, gun)
	m.then()
	return s, err
}

const day = 24 * time.Hour

func versions(t *testing.T, w *world) (snapshot, timestamp int64) {
	t.Helper()
	s := w.state(t, app)
	return s.Roles[tuf.RoleSnapshot].Version, s.Roles[tuf.RoleTimestamp].Version
}

func twoWeeks(c *Config) { c.Lifetimes.Snapshot = 14 * day }

func TestRenew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, twoWeeks)
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	reader := newPublisher(t, w, app)
	for _, step := range []struct {
		pass                time.Duration
		snapshot, timestamp int64
	}{
		{23 * time.Hour, 1, 1}, // not a third of three days
		{2 * time.Hour, 1, 2},
		{0, 1, 2},
		{25 * time.Hour, 1, 3},
		{25 * time.Hour, 1, 4},
		{25 * time.Hour, 1, 5},
		{25 * time.Hour, 2, 6}, // a third of 14 days
	} {
		w.clock.pass(step.pass)
		if err := w.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s, ts := versions(t, w); s != step.snapshot || ts != step.timestamp {
			t.Errorf("at %v: snapshot %d and timestamp %d, want %d and %d", w.clock.Now(), s, ts, step.snapshot, step.timestamp)
		}
		reader.set(t)
	}
	p.publish(t, tag("2"))
	p.hasTags(t, "targets", "1", "2")
}

// A repository that nobody reads is no longer renewed ahead of time, and is at
// its next read; one that is read goes on (design amendment 19).
func TestRenewIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Idle = 5 * day })
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	version := func() int64 { _, ts := versions(t, w); return ts }
	live := func(days int, reads bool) {
		t.Helper()
		for range days {
			w.clock.pass(day)
			if reads {
				p.set(t)
			}
			if err := w.tellSeen(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := w.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	live(20, true)
	read := version()
	if read < 10 {
		t.Errorf("after 20 days of reads the timestamp has version %d", read)
	}
	live(30, false)
	idle := version()
	if idle == read || idle > read+7 {
		t.Errorf("in 30 days without reads the timestamp went from version %d to %d, want it renewed for 5 and a day of grace", read, idle)
	}
	p.set(t) // the read that has it signed
	if got := version(); got != idle+1 {
		t.Errorf("the next read makes version %d of %d", got, idle)
	}
	live(4, false)
	if got := version(); got <= idle+1 {
		t.Error("after a read it is not renewed ahead of time again")
	}
}

// The store that cannot be told, or whose owner wants all renewed, loses
// nobody's freshness.
func TestRenewNeverIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Idle = -1 })
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	for range 100 {
		w.clock.pass(day)
		if err := w.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, ts := versions(t, w); ts < 40 {
		t.Errorf("after 100 days the timestamp has version %d", ts)
	}
}

// S8: many read what has expired; it is signed once.
func TestAttackStampede(t *testing.T) {
	t.Parallel()
	w := newWorld(t, twoWeeks)
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	w.clock.pass(4 * day)
	var signed int
	var mu sync.Mutex
	w.keys.onSign(func(api.SignRequest) error {
		mu.Lock()
		defer mu.Unlock()
		signed++
		return nil
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			r := w.get(current(app, tuf.RoleTimestamp))
			m, err := tuf.Outline(tuf.RoleTimestamp, r.Body.Bytes(), tuf.Options{Now: w.clock.Now()})
			if err != nil || !m.Expires.After(w.clock.Now()) {
				t.Errorf("GET timestamp = %d, expires %v, %v", r.Code, m.Expires, err)
			}
		})
	}
	all.Wait()
	if signed != 1 {
		t.Errorf("%d signatures for one timestamp", signed)
	}
	// After a long holiday the snapshot too.
	w.clock.pass(30 * day)
	newPublisher(t, w, app).hasTags(t, "targets", "1")
	if s, ts := versions(t, w); s != 2 || ts != 3 {
		t.Errorf("snapshot %d and timestamp %d, want 2 and 3", s, ts)
	}
}

// A valid timestamp is served without the signer, an expired one is not passed
// off as valid when the signer is down.
func TestSignerDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	w.keys.onSign(func(api.SignRequest) error { return errSigner })
	w.clock.pass(2 * day)
	if err := w.Renew(t.Context()); err != nil {
		t.Errorf("Renew: %v", err)
	}
	if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != 200 {
		t.Errorf("GET of a valid timestamp without the signer = %d", r.Code)
	}
	w.clock.pass(2 * day)
	if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != 500 {
		t.Errorf("GET of an expired timestamp without the signer = %d, want 500", r.Code)
	}
	w.keys.onSign(nil)
	if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != 200 {
		t.Errorf("GET when the signer is back = %d", r.Code)
	}
	p.publish(t, tag("1"))
	p.hasTags(t, "targets", "1")
}

// The client signs the snapshot: only the timestamp is renewed, and an expired
// snapshot is served as it is, for its owner to replace.
func TestRenewClientSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	if err := w.upload(t, app, p.first(t, true, tag("1"))...); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(2 * day)
	if err := w.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, ts := versions(t, w); s != 1 || ts != 2 {
		t.Errorf("snapshot %d and timestamp %d, want 1 and 2", s, ts)
	}
	p.set(t)
	w.clock.pass(4 * 365 * day)
	for range 3 {
		r := w.get(current(app, tuf.RoleSnapshot))
		if r.Code != 200 {
			t.Fatalf("GET of an expired snapshot that the client signs = %d", r.Code)
		}
	}
	if _, ts := versions(t, w); ts != 3 {
		t.Errorf("timestamp %d, want 3: signed once", ts)
	}
	files := p.finish(t, p.past.Draft(), tuf.Resign{Role: tuf.RoleTargets})
	if err := w.upload(t, app, files...); err != nil {
		t.Errorf("repair: %v", err)
	}
	newPublisher(t, w, app).hasTags(t, "targets", "1")
}

// What was signed for a publish that then failed to be committed keeps nobody
// from the state before it: the signer gives it no date any more where the
// snapshot is a client's, but it can be read, and published on.
func TestRenewAfterFailedCommit(t *testing.T) {
	t.Parallel()
	for _, clientSnapshot := range []bool{false, true} {
		w := newWorld(t, nil)
		p := newPublisher(t, w, app)
		if err := w.upload(t, app, p.first(t, clientSnapshot, tag("1"))...); err != nil {
			t.Fatal(err)
		}
		files := p.files(t, tag("2"))
		w.store.Inject(storagetest.Fault{Method: "Commit", Call: 1, Err: errors.New("disk full")})
		if err := w.upload(t, app, files...); err == nil {
			t.Fatal("a publish that is not committed is acknowledged")
		}
		w.store.Heal()
		w.clock.pass(4 * day)
		if err := w.Renew(t.Context()); err != nil {
			t.Error(err)
		}
		if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != http.StatusOK {
			t.Errorf("client snapshot %v: GET of the timestamp after a failed commit = %d %s", clientSnapshot, r.Code, r.Body)
		}
		if _, err := p.update(); clientSnapshot != errors.Is(err, tuf.ErrExpired) || !clientSnapshot && err != nil {
			t.Errorf("client snapshot %v: update after a failed commit = %v", clientSnapshot, err)
		}
		if err := w.upload(t, app, p.finish(t, p.past.Draft(), tag("3"))...); err != nil {
			t.Errorf("client snapshot %v: publish after a failed commit: %v", clientSnapshot, err)
		}
		newPublisher(t, w, app).hasTags(t, "targets", "1", "3")
	}
}

// A renewal between a publisher's reading and its upload is no clash
// (design amendment 6), also when the snapshot is the client's; one between
// the server's reading and its commit neither.
func TestPublishDuringRenewal(t *testing.T) {
	t.Parallel()
	for _, clientSnapshot := range []bool{false, true} {
		w := newWorld(t, nil)
		p := newPublisher(t, w, app)
		if err := w.upload(t, app, p.first(t, clientSnapshot)...); err != nil {
			t.Fatal(err)
		}
		files := p.files(t, tag("1"))
		w.clock.pass(2 * day)
		if err := w.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.upload(t, app, files...); err != nil {
			t.Errorf("client snapshot %v: upload after a renewal: %v", clientSnapshot, err)
		}
		files = p.files(t, tag("2"))
		w.clock.pass(2 * day)
		other := newWorldOn(t, w.sql, w.keys.Keys, w.clock, nil)
		renewed := false
		w.keys.onSign(func(api.SignRequest) error {
			if !renewed {
				renewed = true
				return other.Renew(context.Background())
			}
			return nil
		})
		if err := w.upload(t, app, files...); err != nil {
			t.Errorf("client snapshot %v: upload during a renewal: %v", clientSnapshot, err)
		}
		p.hasTags(t, "targets", "1", "2")
	}
}

// Of two instances that renew at once one wins, and both are content.
func TestRenewTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	other := newWorldOn(t, w.sql, w.keys.Keys, w.clock, nil)
	w.clock.pass(2 * day)
	renewed := false
	w.keys.onSign(func(api.SignRequest) error {
		if !renewed {
			renewed = true
			return other.Renew(context.Background())
		}
		return nil
	})
	if err := w.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	if strings.Contains(w.log.String()+other.log.String(), "not renewed") {
		t.Error("losing to another instance is logged as a failure")
	}
	if _, ts := versions(t, w); ts != 2 {
		t.Errorf("timestamp %d, want 2", ts)
	}
	p.set(t)
}

// Run polls, renews and ends with its context.
func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	newPublisher(t, w, app).init(t)
	w.clock.pass(2 * day)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	seen := make(chan struct{}, 100)
	w.keys.onSign(func(api.SignRequest) error {
		seen <- struct{}{}
		return nil
	})
	go func() {
		w.Run(ctx)
		close(ended)
	}()
	<-seen // a renewal was begun
	cancel()
	<-ended
	if w.heads.following() {
		t.Error("memory is trusted after Run has ended")
	}
}

func TestCheckFinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	find := func(store storage.Store, keys Keys) (found []Problem) {
		t.Helper()
		if err := Check(t.Context(), store, keys, w.clock.Now(), func(p Problem) { found = append(found, p) }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := find(w.sql, w.keys); len(found) != 0 {
		t.Errorf("Check of a sound store = %v", found)
	}
	w.clock.pass(4 * day)
	if found := find(w.sql, w.keys); len(found) != 1 || found[0].Role != tuf.RoleTimestamp || !errors.Is(found[0].Err, tuf.ErrExpired) {
		t.Errorf("Check of an expired timestamp = %v", found)
	}
	w.clock.pass(-4 * day)
	// A store that somebody has edited.
	state := w.state(t, app)
	for name, c := range map[string]struct {
		edit func(*testing.T, []storage.NewFile) []storage.NewFile
		role tuf.RoleName
	}{
		"targets of another": {func(t *testing.T, f []storage.NewFile) []storage.NewFile {
			q := newPublisher(t, newWorld(t, nil), app)
			evil := fileOf(t, q.first(t, false, tag("evil")), tuf.RoleTargets)
			return replace(f, storage.NewFile{File: evil, Expires: f[0].Expires})
		}, tuf.RoleTargets},
		"no targets": {func(_ *testing.T, f []storage.NewFile) []storage.NewFile {
			return without(f, tuf.RoleTargets)
		}, tuf.RoleTargets},
		"no timestamp": {func(_ *testing.T, f []storage.NewFile) []storage.NewFile {
			return without(f, tuf.RoleTimestamp)
		}, tuf.RoleTimestamp},
		"wrong version": {func(_ *testing.T, f []storage.NewFile) []storage.NewFile {
			for i := range f {
				if f[i].Role == tuf.RoleSnapshot {
					f[i].Version = 9
				}
			}
			return f
		}, tuf.RoleSnapshot},
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, t.TempDir()+"/edited.db")
			var files []storage.NewFile
			for role, e := range state.Roles {
				raw, _, err := w.sql.Blob(t.Context(), app, role, e.SHA256)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, storage.NewFile{File: tuf.File{Role: role, Version: e.Version, Raw: raw}, Expires: e.Expires})
			}
			if _, err := store.Commit(t.Context(), app, nil, c.edit(t, files), nil, w.clock.Now(), nil); err != nil {
				t.Fatal(err)
			}
			var roles []tuf.RoleName
			for _, p := range find(store, nil) {
				roles = append(roles, p.Role)
				if p.Role == c.role {
					return
				}
			}
			t.Errorf("Check found problems with %v, want one with %s", roles, c.role)
		})
	}
	// A signer without the keys.
	if found := find(w.sql, noKeys{w.keys}); len(found) != 1 || !errors.Is(found[0].Err, tuf.ErrNoKey) {
		t.Errorf("Check with a signer without keys = %v", found)
	}
	// A repository of which nothing but the name is left.
	if found := find(nameless{w.sql}, nil); len(found) != 1 || !errors.Is(found[0].Err, storage.ErrNotFound) {
		t.Errorf("Check of a repository without a state = %v", found)
	}
	broken := storagetest.NewFaulty(w.sql)
	broken.Inject(storagetest.Fault{Method: "Blob"})
	if err := Check(t.Context(), broken, nil, w.clock.Now(), func(p Problem) { t.Errorf("reported %v", p) }); err == nil {
		t.Error("Check of a store that cannot be read = nil")
	}
}

// nameless is a store that lists repositories and has none of them.
type nameless struct{ storage.Store }

func (nameless) Current(context.Context, tuf.GUN) (*storage.State, error) {
	return nil, storage.ErrNotFound
}

type noKeys struct{ Keys }

func (noKeys) Holds(context.Context, tuf.GUN, tuf.RoleName, tuf.CanonicalID) (bool, error) {
	return false, nil
}

func without(files []storage.NewFile, role tuf.RoleName) (out []storage.NewFile) {
	for _, f := range files {
		if f.Role != role {
			out = append(out, f)
		}
	}
	return out
}

func replace(files []storage.NewFile, f storage.NewFile) []storage.NewFile {
	return append(without(files, f.Role), f)
}
