package server

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// many is a store in which every repository has the files of one, each with
// memory of its own.
type many struct {
	storage.Store
	of    *storage.State
	files map[[32]byte][]byte
}

func (m many) Current(_ context.Context, gun tuf.GUN) (*storage.State, error) {
	state := *m.of
	state.GUN, state.Roles, state.Floors = gun, maps.Clone(state.Roles), maps.Clone(state.Floors)
	return &state, nil
}

func (m many) Blob(_ context.Context, _ tuf.GUN, role tuf.RoleName, sum [32]byte) ([]byte, time.Time, error) {
	return bytes.Clone(m.files[sum]), m.of.Roles[role].Created, nil
}

// What a repository that is read takes in memory is little more than its
// timestamp; all other files share what the cache may take. It does not run
// beside other tests, whose memory would be counted, too.
func TestMemoryOfManyRepositories(t *testing.T) {
	const (
		repositories = 1000
		each         = 1700 // bytes; the timestamp has 500 of them
		cached       = 256 << 10
	)
	w := newWorld(t, func(c *Config) { c.Limits.CacheBytes = cached })
	newPublisher(t, w, app).init(t, tag("1"))
	state := w.state(t, app)
	store := many{w.store, state, map[[32]byte][]byte{}}
	for role, e := range state.Roles {
		raw, _, err := w.store.Blob(t.Context(), app, role, e.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		store.files[e.SHA256] = raw
	}
	w.Server.c.Store = store
	if err := w.heads.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := inUse()
	for i := range repositories {
		gun := tuf.GUN(fmt.Sprintf("registry.example/team/application-%d", i))
		for role, e := range state.Roles {
			route := api.Route{Kind: api.FileByHash, GUN: gun, Role: role, SHA256: e.SHA256}
			if role == tuf.RoleTimestamp {
				route = api.Route{Kind: api.FileCurrent, GUN: gun, Role: role}
			}
			if r := w.get(route.Path()); r.Code != http.StatusOK {
				t.Fatalf("GET %s = %d %s", route.Path(), r.Code, r.Body)
			}
		}
	}
	took := inUse() - before
	if n := len(w.heads.m); n < repositories {
		t.Fatalf("%d repositories in memory, want %d", n, repositories)
	}
	if bytes, _ := w.blobs.holds(); bytes < cached*9/10 {
		t.Fatalf("%d bytes in the cache, want it full", bytes)
	}
	t.Logf("%d bytes for each repository, and %d for all", (took-cached)/repositories, cached)
	if took > repositories*each+cached {
		t.Errorf("%d repositories take %d bytes of memory, want at most %d each and %d for all", repositories, took, each, cached)
	}
	runtime.KeepAlive(w)
}

// inUse returns how many bytes of memory are in use.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools have let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
