package server

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
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

// An upload that nobody has signed takes about as much memory as it has bytes
// while it waits for its turn, and not as much as what it can be decoded to,
// forty times that. (It does not run beside other tests either.)
func TestAttackUploadOfValues(t *testing.T) {
	var files []tuf.File
	total := int64(0)
	for i := range 100 {
		raw := []byte(`{"signed":{"_type":"Targets","delegations":{"keys":{},"roles":[]},"expires":"2035-01-01T00:00:00Z","targets":{},"version":1,"x":[0` +
			strings.Repeat(",0", 16_000) + `]},"signatures":[]}`)
		files = append(files, tuf.File{Role: tuf.RoleName(fmt.Sprint("targets/a", i)), Version: 1, Raw: raw})
		total += int64(len(raw))
	}
	var body bytes.Buffer
	kind, err := api.WriteFiles(&body, files)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, nil)
	unlock, err := w.publishing.lock(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	before := inUse()
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, repository(app), &body)
		r.Header.Set("Content-Type", kind)
		w.ServeHTTP(httptest.NewRecorder(), r)
	}()
	waits := func() bool {
		w.publishing.mu.Lock()
		defer w.publishing.mu.Unlock()
		return w.publishing.held[app].users == 2
	}
	for !waits() {
		runtime.Gosched()
	}
	if used := inUse() - before; used > 3*total {
		t.Errorf("an upload of %d bytes takes %d while it waits", total, used)
	}
	cancel()
	<-answered
	unlock()
}
