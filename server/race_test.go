package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func decode(t testing.TB, r *httptest.ResponseRecorder, v any) {
	t.Helper()
	if err := json.Unmarshal(r.Body.Bytes(), v); err != nil {
		t.Fatalf("%d %s: %v", r.Code, r.Body, err)
	}
}

// race has n publishers put one tag each, beginning again when another was
// faster, and returns the tags.
func race(t *testing.T, p *publisher, worlds []*world, n int, change func(int) (tuf.Change, string)) []string {
	t.Helper()
	var tags []string
	var all sync.WaitGroup
	for i := range n {
		one := p.clone()
		one.w = worlds[i%len(worlds)]
		c, name := change(i)
		tags = append(tags, name)
		all.Go(func() {
			for range 50 {
				err := one.try(t, c)
				if err == nil {
					return
				}
				if err.Code != api.Version {
					t.Errorf("publisher %d: %v, want success or VERSION", i, err)
					return
				}
			}
			t.Errorf("publisher %d never succeeded", i)
		})
	}
	all.Wait()
	return tags
}

// TestAttackInterleave: M10, and eight publishers who mean no harm.
func TestAttackInterleave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t)
	tags := race(t, p, []*world{w}, 8, func(i int) (tuf.Change, string) {
		name := fmt.Sprintf("v%d", i)
		return tag(name), name
	})
	p.hasTags(t, "targets", tags...)
}

// Publishers of different roles do not get into each other's way, although
// all change snapshot and timestamp.
func TestRolesInParallel(t *testing.T) {
	t.Parallel()
	a, b, _ := newWorlds(t)
	worlds := []*world{a, b}
	p := newPublisher(t, worlds[0], app)
	p.init(t)
	var changes []tuf.Change
	for i := range 6 {
		changes = append(changes, p.delegate(tuf.RoleName(fmt.Sprintf("targets/r%d", i)), fmt.Sprint("key", i)))
	}
	p.publish(t, changes...)
	var all sync.WaitGroup
	for i := range 6 {
		one := p.clone()
		one.w = worlds[i%2]
		one.ring = tuftest.NewRing(tuftest.Key(fmt.Sprint("key", i)))
		all.Go(func() {
			for n := range 4 {
				if err := one.try(t, tagIn(tuf.RoleName(fmt.Sprintf("targets/r%d", i)), fmt.Sprint(n))); err != nil {
					t.Errorf("publisher %d of a role of its own: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	for i := range 6 {
		p.hasTags(t, tuf.RoleName(fmt.Sprintf("targets/r%d", i)), "0", "1", "2", "3")
	}
}

// Several servers, one file: what one commits the others serve.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	a, b, c := newWorlds(t)
	p := newPublisher(t, a, app)
	p.init(t)
	other := p.clone()
	other.w = b
	tags := race(t, p, []*world{a, b}, 8, func(i int) (tuf.Change, string) {
		name := fmt.Sprintf("v%d", i)
		return tag(name), name
	})
	p.hasTags(t, "targets", tags...)
	other.hasTags(t, "targets", tags...)

	// With polling, memory is trusted until the next poll, and no longer.
	for _, w := range []*world{a, b} {
		if err := w.heads.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before := b.get(current(app, tuf.RoleTimestamp)).Body.String()
	p.publish(t, tag("news"))
	if got := a.get(current(app, tuf.RoleTimestamp)).Body.String(); got == before {
		t.Error("the server that committed serves the old timestamp")
	}
	if got := b.get(current(app, tuf.RoleTimestamp)).Body.String(); got != before {
		t.Error("the other server asked the database although it polls")
	}
	if got := b.get(current(app, tuf.RoleTimestamp), "Cache-Control", "no-cache").Body.String(); got == before {
		t.Error("no-cache is answered from memory")
	}
	p.publish(t, tag("more news"))
	before = b.get(current(app, tuf.RoleTimestamp)).Body.String()
	if err := b.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.get(current(app, tuf.RoleTimestamp)).Body.String(); got == before {
		t.Error("a poll did not bring the news")
	}
	// When polling stops, reads go through.
	p.publish(t, tag("last news"))
	before = b.get(current(app, tuf.RoleTimestamp)).Body.String()
	c.pass(staleAfter + time.Second)
	if got := b.get(current(app, tuf.RoleTimestamp)).Body.String(); got == before {
		t.Error("memory is trusted although polling has stopped")
	}
	// Deletion is news too.
	if err := b.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.do("DELETE", repository(app), nil)
	if err := b.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := b.get(current(app, tuf.RoleTimestamp)); r.Code != 404 {
		t.Errorf("the other server serves a deleted repository: %d", r.Code)
	}
}

// beforeCommit is a store to which something happens before each commit.
type beforeCommit struct {
	storage.Store
	do func()
}

func (s beforeCommit) Commit(ctx context.Context, gun tuf.GUN, base *storage.State, files []storage.NewFile, drop []tuf.RoleName, now time.Time, by *storage.Actor) (*storage.State, error) {
	s.do()
	return s.Store.Commit(ctx, gun, base, files, drop, now, by)
}

// Who deletes by way of one server what another one is about to publish for
// the first time has its keys forgotten. Then nothing is published that could
// never be renewed, and the name can be used again. Found by the model (seed
// 854674149).
func TestDeleteWhileBegun(t *testing.T) {
	t.Parallel()
	c := &clock{now: tuftest.Start}
	for name, test := range map[string]struct {
		late bool // the commit comes before the keys are forgotten, and else after that
		want int  // status of the publish
	}{
		"before the commit": {false, http.StatusBadRequest},
		"around the commit": {true, http.StatusOK}, // it was there, and is deleted
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			keys := openSigner(t, filepath.Join(dir, "signer.db"), c.Now)
			path := filepath.Join(dir, "server.db")
			var a, b *world
			deleted := func() {
				if r := b.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusOK {
					t.Errorf("DELETE = %d %s", r.Code, r.Body)
				}
			}
			published := 0
			publish := func() {
				p := newPublisher(t, a, app)
				if err := a.upload(t, app, p.first(t, false, tag("first"))...); err == nil {
					published = http.StatusOK
				} else {
					published = err.Status
				}
			}
			var once sync.Once
			a = newWorldOn(t, beforeCommit{openStore(t, path), func() {
				if !test.late {
					once.Do(deleted)
				}
			}}, keys, c, nil)
			b = newWorldOn(t, openStore(t, path), keys, c, func(conf *Config) {
				conf.Forget = func(ctx context.Context, gun tuf.GUN) error {
					if test.late {
						once.Do(publish)
					}
					return keys.Forget(ctx, gun)
				}
			})
			if test.late {
				deleted()
			} else {
				publish()
			}
			if published != test.want {
				t.Errorf("the publish was answered with %d, want %d", published, test.want)
			}
			for i, w := range []*world{a, b} {
				if r := w.get(current(app, tuf.RoleTimestamp), "Cache-Control", "no-cache"); r.Code != http.StatusNotFound {
					t.Errorf("server %d serves what was deleted: %d", i, r.Code)
				}
			}
			p := newPublisher(t, b, app)
			p.init(t, tag("again"))
			p.hasTags(t, "targets", "again")
			p.publish(t, tag("more"))
		})
	}
}

// TestAttackStaleReplica: S9. Who may publish sees at once what was published
// through another instance; who only reads sees it after the next poll.
func TestAttackStaleReplica(t *testing.T) {
	t.Parallel()
	c := &clock{now: tuftest.Start}
	dir := t.TempDir()
	keys := openSigner(t, filepath.Join(dir, "signer.db"), c.Now)
	path := filepath.Join(dir, "server.db")
	a := newWorldOn(t, openStore(t, path), keys, c, nil)
	b := newWorldOn(t, openStore(t, path), keys, c, func(c *Config) { c.Auth = byName{} })
	p := newPublisher(t, a, app)
	p.init(t)
	if err := b.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	path = current(app, tuf.RoleTimestamp)
	before := b.get(path).Body.String()
	p.publish(t, tag("1"))
	if got := b.get(path).Body.String(); got != before {
		t.Error("a reader is answered from the store")
	}
	if got := b.get(path, "Authorization", "publisher").Body.String(); got == before {
		t.Error("a publisher is answered from memory")
	}
}

// byName takes a request's word for what it is.
type byName struct{}

func (byName) Authorize(r *http.Request, a Access) (Grant, error) {
	return Grant{Publisher: a.Name == string(app) && r.Header.Get("Authorization") == "publisher"}, nil
}

// An instance whose clock is set back does not believe that it has just heard
// from the others.
func TestClockSetBackIsNotFresh(t *testing.T) {
	t.Parallel()
	a := newWorld(t, nil)
	mine := &clock{now: a.clock.Now().Add(24 * time.Hour)}
	b := newWorldOn(t, a.sql, a.keys.Keys, mine, nil)
	p := newPublisher(t, a, app)
	p.init(t, tag("1"))
	if r := b.get(current(app, tuf.RoleTargets)); r.Code != http.StatusOK {
		t.Fatalf("GET = %d", r.Code)
	}
	if err := b.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.publish(t, tag("2"))
	mine.pass(-24 * time.Hour)
	if r := b.get(current(app, tuf.RoleTargets)); !strings.Contains(r.Body.String(), `"2"`) {
		t.Errorf("an instance whose clock was set back serves what is %d bytes old", r.Body.Len())
	}
}
