package server

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// While the database fails over, what is in memory is served for as long as
// caches may keep it; everything else is answered 503 with the advice to try
// again, and works when the database is back.
func TestStoreIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.MaxAge.Current = time.Minute })
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	poll := func() error { return w.heads.poll(t.Context()) }
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleTargets} { // into memory
		if r := w.get(current(app, role)); r.Code != http.StatusOK {
			t.Fatalf("GET %s = %d", role, r.Code)
		}
	}
	files := p.files(t, tag("2"))

	away := fmt.Errorf("read: %w: connection refused", storage.ErrUnavailable)
	for _, method := range []string{"Current", "Blob", "Version", "Heads", "Commit", "Delete", "Changes"} {
		w.store.Inject(storagetest.Fault{Method: method, Err: away})
	}
	w.clock.pass(2 * staleAfter)
	if err := poll(); err == nil {
		t.Fatal("poll of a store that is away = nil")
	}
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleTargets} {
		if r := w.get(current(app, role)); r.Code != http.StatusOK {
			t.Errorf("GET %s while the store is away = %d %s, want what is in memory", role, r.Code, r.Body)
		}
	}
	busy := func(what string, code int, header http.Header) {
		t.Helper()
		if code != http.StatusServiceUnavailable || header.Get("Retry-After") != "2" {
			t.Errorf("%s while the store is away = %d, Retry-After %q; want 503 and 2", what, code, header.Get("Retry-After"))
		}
	}
	r := w.get(current(app, tuf.RoleTimestamp), "Cache-Control", "no-cache")
	busy("GET by a publisher", r.Code, r.Header())
	r = w.get(current("registry.example/other", tuf.RoleTimestamp))
	busy("GET of another repository", r.Code, r.Header())
	r = w.get(api.Route{Kind: api.FileByVersion, GUN: app, Role: tuf.RoleRoot, Version: 1}.Path())
	busy("GET by version", r.Code, r.Header())
	r = w.do(http.MethodDelete, repository(app), nil)
	busy("DELETE", r.Code, r.Header())
	if e := w.upload(t, app, files...); e == nil || e.Status != http.StatusServiceUnavailable || e.Code != api.Unavailable {
		t.Errorf("publish while the store is away = %v, want 503", e)
	}

	w.clock.pass(time.Minute) // longer than caches may
	r = w.get(current(app, tuf.RoleTimestamp))
	busy("GET of what has become too old", r.Code, r.Header())

	w.store.Heal()
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	if e := w.upload(t, app, files...); e != nil {
		t.Errorf("publish when the store is back = %v", e)
	}
}

// A store that takes questions and says nothing, which is what a database that
// is stopped looks like, is as good as away.
func TestStoreHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.MaxAge.Current = time.Minute })
	newPublisher(t, w, app).init(t, tag("1"))
	if err := w.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.store.Inject(storagetest.Fault{Method: "Heads", Err: context.DeadlineExceeded})
	w.store.Inject(storagetest.Fault{Method: "Current", Err: context.DeadlineExceeded})
	w.clock.pass(2 * staleAfter)
	if err := w.heads.poll(t.Context()); err == nil {
		t.Fatal("poll of a store that hangs = nil")
	}
	if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != http.StatusOK {
		t.Errorf("GET = %d %s, want what is in memory", r.Code, r.Body)
	}
	w.store.Heal()
}

// Clients wait for a minute. A publish that cannot be done is answered before.
func TestPublishIsAnsweredInTime(t *testing.T) {
	t.Parallel()
	if w := newWorld(t, nil); w.c.Limits.Publish > 50*time.Second {
		t.Errorf("a publish may take %v", w.c.Limits.Publish)
	}
}

// A server that may not be cached at all serves nothing that it cannot ask for.
func TestStoreIsAwayWithoutCaches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.MaxAge.Current = -1 })
	newPublisher(t, w, app).init(t, tag("1"))
	if err := w.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"Current", "Heads"} {
		w.store.Inject(storagetest.Fault{Method: method, Err: storage.ErrUnavailable})
	}
	w.clock.pass(2 * staleAfter)
	if err := w.heads.poll(t.Context()); err == nil {
		t.Fatal("poll of a store that is away = nil")
	}
	if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != http.StatusServiceUnavailable {
		t.Errorf("GET = %d, want 503", r.Code)
	}
	w.store.Heal()
}

// A commit whose outcome is not known, and that is not found afterwards, is no
// fault of the publisher: to try again is the cure.
func TestUncertainCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	files := p.files(t, tag("2"))
	w.store.Inject(storagetest.Fault{Method: "Commit", Call: 1, Err: storage.ErrUncertain})
	if e := w.upload(t, app, files...); e == nil || e.Status != http.StatusServiceUnavailable {
		t.Errorf("publish = %v, want 503", e)
	}
	if e := w.upload(t, app, files...); e != nil {
		t.Errorf("publish again = %v", e)
	}
	w.store.Inject(storagetest.Fault{Method: "Commit", Call: 1, After: true, Err: storage.ErrUncertain})
	if e := w.upload(t, app, p.files(t, tag("3"))...); e != nil {
		t.Errorf("publish that has happened = %v, want it acknowledged", e)
	}
}
