package trust

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

const app = tuf.GUN("registry.example/team/app")

// A clock is set by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A server is an honest trust server in memory. Hooks make it fail.
type server struct {
	clock *clock
	mem   *keys.Memory

	mu       sync.Mutex
	host     string
	repos    map[tuf.GUN]*published
	keys     map[tuf.GUN]map[tuf.RoleName]tuf.PublicKey
	requests []string

	// before fails a call before it does anything; after fails it when it has
	// been done; alter changes what a fetch answers.
	before func(op string) error
	after  func(op string) error
	alter  func(w tuf.Want, raw []byte) ([]byte, error)
}

type published struct {
	files  map[tuf.RoleName]tuf.File
	hashes map[[32]byte][]byte
	roots  map[int64][]byte
	floors map[tuf.RoleName]int64
}

func newServer(c *clock) *server {
	return &server{
		clock: c, mem: keys.NewMemory(), host: "trust.example",
		repos: make(map[tuf.GUN]*published), keys: make(map[tuf.GUN]map[tuf.RoleName]tuf.PublicKey),
	}
}

func (s *server) Host() string { return s.host }

// begin records a request and lets it fail.
func (s *server) begin(op string) error {
	s.requests = append(s.requests, op)
	if s.before != nil {
		return s.before(op)
	}
	return nil
}

func (s *server) end(op string) error {
	if s.after != nil {
		return s.after(op)
	}
	return nil
}

// seen returns the requests since the last call.
func (s *server) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.requests
	s.requests = nil
	return out
}

func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *server) Fetch(_ context.Context, gun tuf.GUN, w tuf.Want) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.begin("GET " + string(w.Role)); err != nil {
		return nil, err
	}
	raw := s.find(gun, w)
	if s.alter != nil {
		var err error
		if raw, err = s.alter(w, raw); err != nil {
			return nil, err
		}
	}
	if raw == nil {
		return nil, &NotSigned{s.host, gun}
	}
	if int64(len(raw)) > w.MaxLength {
		raw = raw[:w.MaxLength+1]
	}
	return raw, nil
}

func (s *server) find(gun tuf.GUN, w tuf.Want) []byte {
	p := s.repos[gun]
	switch {
	case p == nil:
		return nil
	case w.Version > 0:
		return p.roots[w.Version]
	case w.SHA256 != nil:
		return p.hashes[[32]byte(w.SHA256)]
	}
	return p.files[w.Role].Raw
}

func (s *server) options() tuf.Options { return tuf.Options{Now: s.clock.now()} }

func (s *server) Upload(ctx context.Context, gun tuf.GUN, files []tuf.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.begin("POST"); err != nil {
		return err
	}
	if err := s.commit(ctx, gun, files); err != nil {
		return err
	}
	return s.end("POST")
}

func (s *server) commit(ctx context.Context, gun tuf.GUN, files []tuf.File, again ...tuf.Change) error {
	p := s.repos[gun]
	var past *tuf.Past
	floors := make(map[tuf.RoleName]int64)
	if p != nil {
		var err error
		if past, err = tuf.Recall(gun, slices.Collect(maps.Values(p.files)), s.options()); err != nil {
			return err
		}
		floors = p.floors
	} else {
		p = &published{
			files: make(map[tuf.RoleName]tuf.File), hashes: make(map[[32]byte][]byte),
			roots: make(map[int64][]byte), floors: make(map[tuf.RoleName]int64),
		}
	}
	d := tuf.Receive(gun, past, floors, s.options())
	order := func(r tuf.RoleName) int {
		if r == tuf.RoleSnapshot {
			return 1000
		}
		return rank(r)
	}
	files = slices.SortedFunc(slices.Values(files), func(a, b tuf.File) int { return order(a.Role) - order(b.Role) })
	for _, f := range files {
		if err := d.Adopt(f); err != nil {
			if errors.Is(err, tuf.ErrRollback) {
				return &ServerRefusal{s.host, api.NewError(api.Version, api.Empty{})}
			}
			return &ServerRefusal{s.host, api.NewError(api.InvalidUpdate, &api.Invalid{Fault: api.BadTargets, Msg: err.Error()})}
		}
	}
	if err := d.Apply(again...); err != nil {
		return err
	}
	made, err := d.Sign(ctx, keys.Ring{s.mem}, tuf.SignOptions{Now: s.clock.now(), Lifetimes: map[tuf.RoleName]time.Duration{
		tuf.RoleTimestamp: 24 * time.Hour, tuf.RoleSnapshot: 7 * 24 * time.Hour,
	}})
	if err != nil {
		return err
	}
	for _, f := range append(files, made...) {
		p.files[f.Role] = f
		p.hashes[sha256.Sum256(f.Raw)] = f.Raw
		p.floors[f.Role] = f.Version
		if f.Role == tuf.RoleRoot {
			p.roots[f.Version] = f.Raw
		}
	}
	for name := range p.files {
		if _, ok := d.Role(name); !ok {
			delete(p.files, name)
		}
	}
	s.repos[gun] = p
	return nil
}

// renew signs the timestamp and the snapshot again.
func (s *server) renew(t *testing.T, gun tuf.GUN) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.commit(t.Context(), gun, nil, tuf.Resign{Role: tuf.RoleSnapshot}, tuf.Resign{Role: tuf.RoleTimestamp})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *server) key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, fresh bool) (tuf.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.begin("KEY " + string(role)); err != nil {
		return tuf.PublicKey{}, err
	}
	if s.keys[gun] == nil {
		s.keys[gun] = make(map[tuf.RoleName]tuf.PublicKey)
	}
	if k, ok := s.keys[gun][role]; ok && !fresh {
		return k, nil
	}
	signer, err := keys.Generate(ctx, s.mem, keys.P256, keys.Info{Role: string(role), GUN: gun})
	if err != nil {
		return tuf.PublicKey{}, err
	}
	s.keys[gun][role] = signer.PublicKey()
	return signer.PublicKey(), nil
}

func (s *server) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	return s.key(ctx, gun, role, false)
}

func (s *server) RotateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName) (tuf.PublicKey, error) {
	return s.key(ctx, gun, role, true)
}

func (s *server) Delete(_ context.Context, gun tuf.GUN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.begin("DELETE"); err != nil {
		return err
	}
	delete(s.repos, gun)
	delete(s.keys, gun)
	return nil
}

// copy returns what a server has now, to be brought back later.
func (p *published) copy() *published {
	return &published{maps.Clone(p.files), maps.Clone(p.hashes), maps.Clone(p.roots), maps.Clone(p.floors)}
}

// A client is a machine.
type client struct {
	*Repository
	dir *Dir
	mem *keys.Memory
}

func newClient(t *testing.T, s *server, change ...func(*Config)) *client {
	t.Helper()
	mem := keys.NewMemory()
	t.Cleanup(func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := NewDir(filepath.Join(t.TempDir(), "trust"))
	c := Config{
		Remote: s, Dir: dir, Keys: keys.Ring{mem}, Now: s.clock.now,
		Sleep: func(context.Context, time.Duration) error { return nil },
	}
	for _, f := range change {
		f(&c)
	}
	return &client{Open(app, c), dir, mem}
}

// publisher is a client that has initialised and published the repository.
func publisher(t *testing.T, s *server, tags ...string) *client {
	t.Helper()
	c := newClient(t, s)
	if _, err := c.Init(t.Context(), InitOptions{}); err != nil {
		t.Fatalf("Init: %v", err)
	}
	c.publish(t, tags...)
	return c
}

func (c *client) publish(t *testing.T, tags ...string) Published {
	t.Helper()
	p, err := c.Publish(t.Context(), add(tags...))
	if err != nil {
		t.Fatalf("Publish(%v): %v", tags, err)
	}
	return p
}

func (c *client) update(t *testing.T) *tuf.Set {
	t.Helper()
	set, err := c.Update(t.Context())
	if err != nil {
		t.Fatalf("Update: %v", err)
	}
	return set
}

// another is a second repository value on the same machine.
func (c *client) another(change func(*Config)) *Repository {
	conf := c.c
	change(&conf)
	return Open(c.gun, conf)
}

func target(tag string) tuf.Target {
	sum := sha256.Sum256([]byte(tag))
	return tuf.Target{Name: tag, Role: tuf.RoleTargets, FileMeta: tuf.FileMeta{
		Length: int64(len(tag)), Hashes: map[string][]byte{"sha256": sum[:]},
	}}
}

// add plans to add tags to targets.
func add(tags ...string) Plan {
	return func(*tuf.Set) ([]tuf.Change, error) {
		var changes []tuf.Change
		for _, tag := range tags {
			changes = append(changes, tuf.AddTarget{Target: target(tag)})
		}
		return changes, nil
	}
}

// tree reads a directory: path to content, without locks.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".lock") {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(raw)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

// metadata is the part of tree that is trusted.
func metadata(t *testing.T, c *client) map[string]string {
	t.Helper()
	out := tree(t, c.dir.Path())
	maps.DeleteFunc(out, func(name, _ string) bool { return !strings.HasPrefix(name, "tuf/") })
	return out
}

// wantErr compares with errors.Is.
func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// down makes a server unreachable.
func down(string) error {
	return &Unreachable{"trust.example", fmt.Errorf("connection refused")}
}

// countSignatures counts the entries of a file's signature list.
func countSignatures(t *testing.T, raw []byte) int {
	t.Helper()
	var f struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return len(f.Signatures)
}

// witness plans to sign a role again as it is.
func witness(role tuf.RoleName) Plan {
	return func(*tuf.Set) ([]tuf.Change, error) { return []tuf.Change{tuf.Resign{Role: role}}, nil }
}
