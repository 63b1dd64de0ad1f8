package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

const app tuf.GUN = "registry.example/app"

// A world is a server with a real store and a real signer, whose store and
// signer can be made to fail, and a clock that stands still.
type world struct {
	*Server
	sql   storage.Store
	store *storagetest.Faulty
	keys  *faultyKeys
	clock *clock
	log   *lines
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// lines keep a log for tests that look at it.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// faultyKeys are the keys of a real signer. sign, if set, is called before
// each signature; with an error, that is the answer.
type faultyKeys struct {
	Keys
	mu    sync.Mutex
	sign  func(api.SignRequest) error            // under mu
	holds func(id tuf.CanonicalID) (bool, error) // under mu; decides instead of the signer
	lose  int                                    // under mu: answers to lose after signing
	both  bool                                   // under mu: snapshot and timestamp are signed at once
}

var errSigner = errors.New("signer unreachable")

func (k *faultyKeys) Sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error) {
	k.mu.Lock()
	hook := k.sign
	k.mu.Unlock()
	if hook != nil {
		if err := hook(r); err != nil {
			return tuf.Signature{}, err
		}
	}
	sig, err := k.Keys.Sign(ctx, r)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && k.lose > 0 {
		k.lose--
		return tuf.Signature{}, errSigner
	}
	return sig, err
}

// SignBoth is left to the tests that are about it: hooks are asked about one
// signature at a time.
func (k *faultyKeys) SignBoth(ctx context.Context, r api.SignRequest, next api.Successor) (snapshot, timestamp tuf.Signature, err error) {
	k.mu.Lock()
	both := k.both
	k.mu.Unlock()
	if !both {
		return snapshot, timestamp, errors.ErrUnsupported
	}
	return k.Keys.SignBoth(ctx, r, next)
}

func (k *faultyKeys) Holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	k.mu.Lock()
	hook := k.holds
	k.mu.Unlock()
	if hook != nil {
		return hook(id)
	}
	return k.Keys.Holds(ctx, gun, role, id)
}

func (k *faultyKeys) onSign(fn func(api.SignRequest) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sign = fn
}

func openDB(t testing.TB, path string) *database.DB {
	t.Helper()
	dsn := strings.Replace(database.SQLiteDSN(path), "synchronous(FULL)", "synchronous(OFF)", 1)
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	d := database.New(db, database.SQLite)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func openStore(t testing.TB, path string) storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), openDB(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openSigner(t testing.TB, path string, now func() time.Time) *signer.Service {
	t.Helper()
	secret := sha256.Sum256([]byte("a key of this test"))
	local, err := signer.NewLocal(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	kek, err := signer.NewKEK(signer.KEKConfig{Current: local})
	if err != nil {
		t.Fatal(err)
	}
	table, err := signer.OpenTable(t.Context(), openDB(t, path), kek)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.New(signer.Config{Table: table, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newWorld makes a server in a directory of its own. edit may be nil.
func newWorld(t testing.TB, edit func(*Config)) *world {
	t.Helper()
	c := &clock{now: tuftest.Start}
	dir := t.TempDir()
	return newWorldOn(t, openStore(t, filepath.Join(dir, "server.db")), openSigner(t, filepath.Join(dir, "signer.db"), c.Now), c, edit)
}

// newWorlds returns two servers on one store, with one signer and one clock.
func newWorlds(t *testing.T) (a, b *world, c *clock) {
	t.Helper()
	c = &clock{now: tuftest.Start}
	dir := t.TempDir()
	keys := openSigner(t, filepath.Join(dir, "signer.db"), c.Now)
	path := filepath.Join(dir, "server.db")
	return newWorldOn(t, openStore(t, path), keys, c, nil), newWorldOn(t, openStore(t, path), keys, c, nil), c
}

// newWorldOn makes a server on a store and a signer that others may use too.
// When the test ends, everything that must hold is checked.
func newWorldOn(t testing.TB, store storage.Store, keys Keys, c *clock, edit func(*Config)) *world {
	t.Helper()
	w := &world{sql: store, store: storagetest.NewFaulty(store), keys: &faultyKeys{Keys: keys}, clock: c, log: &lines{}}
	config := Config{
		Store: w.store, Keys: w.keys, Auth: NoAuth{}, KeyType: tuf.Ed25519, Now: c.Now,
		Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if all, ok := keys.(interface {
		Forget(context.Context, tuf.GUN) error
	}); ok { // as in a sandbox
		config.Forget = all.Forget
	}
	if edit != nil {
		edit(&config)
	}
	var err error
	if w.Server, err = New(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx := context.Background()
		if err := Check(ctx, store, nil, c.Now(), func(p Problem) {
			if !errors.Is(p.Err, tuf.ErrExpired) {
				t.Errorf("check: %v", p)
			}
		}); err != nil {
			t.Errorf("check: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", w.log)
		}
	})
	return w
}

// do sends a request without a network.
func (w *world) do(method, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

func (w *world) get(path string, header ...string) *httptest.ResponseRecorder {
	return w.do(http.MethodGet, path, nil, header...)
}

func current(gun tuf.GUN, role tuf.RoleName) string {
	return api.Route{Kind: api.FileCurrent, GUN: gun, Role: role}.Path()
}

func keyPath(gun tuf.GUN, role tuf.RoleName) string {
	return api.Route{Kind: api.Key, GUN: gun, Role: role}.Path()
}

func repository(gun tuf.GUN) string { return api.Route{Kind: api.Repository, GUN: gun}.Path() }

// key asks a key endpoint.
func (w *world) key(t testing.TB, method string, gun tuf.GUN, role tuf.RoleName) tuf.PublicKey {
	t.Helper()
	r := w.do(method, keyPath(gun, role), nil)
	if r.Code != http.StatusOK {
		t.Fatalf("%s %s = %d %s", method, keyPath(gun, role), r.Code, r.Body)
	}
	k, err := api.DecodeKey(r.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// upload sends files and returns the refusal, or nil.
func (w *world) upload(t testing.TB, gun tuf.GUN, files ...tuf.File) *api.Error {
	t.Helper()
	var b bytes.Buffer
	ct, err := api.WriteFiles(&b, files)
	if err != nil {
		t.Fatal(err)
	}
	r := w.do(http.MethodPost, repository(gun), b.Bytes(), "Content-Type", ct)
	if r.Code == http.StatusOK {
		if r.Body.Len() != 0 {
			t.Errorf("the answer to an upload has the body %q", r.Body)
		}
		return nil
	}
	if r.Body.Len() > api.MaxErrorBody {
		t.Errorf("the answer to an upload has %d bytes", r.Body.Len())
	}
	return api.ReadError(r.Result())
}

// A publisher owns a repository and publishes to it as a client does.
type publisher struct {
	w    *world
	gun  tuf.GUN
	ring tuftest.Ring
	past *tuf.Past
}

// newPublisher makes keys for a repository. Nothing is published yet.
func newPublisher(t testing.TB, w *world, gun tuf.GUN) *publisher {
	t.Helper()
	p := &publisher{w: w, gun: gun}
	p.ring = tuftest.NewRing(
		tuftest.RootKey(t, gun, string(gun)+" root", w.clock.Now().Add(-time.Hour)),
		tuftest.Key(string(gun)+" targets"),
	)
	return p
}

func (p *publisher) clone() *publisher { c := *p; return &c }

// first returns the files of a first publish.
func (p *publisher) first(t testing.TB, clientSnapshot bool, changes ...tuf.Change) []tuf.File {
	t.Helper()
	root := tuftest.RootKey(t, p.gun, string(p.gun)+" root", p.w.clock.Now().Add(-time.Hour))
	p.ring.Add(root)
	snapshot := tuftest.Key(string(p.gun) + " snapshot").PublicKey()
	if clientSnapshot {
		p.ring.Add(tuftest.Key(string(p.gun) + " snapshot"))
	} else {
		snapshot = p.w.key(t, http.MethodGet, p.gun, tuf.RoleSnapshot)
	}
	d, err := tuf.NewDraft(p.gun, []tuf.Role{
		tuf.NewRole(tuf.RoleRoot, 1, root.PublicKey()),
		tuf.NewRole(tuf.RoleTargets, 1, tuftest.Key(string(p.gun)+" targets").PublicKey()),
		tuf.NewRole(tuf.RoleSnapshot, 1, snapshot),
		tuf.NewRole(tuf.RoleTimestamp, 1, p.w.key(t, http.MethodGet, p.gun, tuf.RoleTimestamp)),
	}, tuf.Options{Now: p.w.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return p.finish(t, d, changes...)
}

func (p *publisher) finish(t testing.TB, d *tuf.Draft, changes ...tuf.Change) []tuf.File {
	t.Helper()
	if err := d.Apply(changes...); err != nil {
		t.Fatal(err)
	}
	files, err := d.Sign(t.Context(), p.ring, tuf.SignOptions{Now: p.w.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// init publishes the repository for the first time.
func (p *publisher) init(t testing.TB, changes ...tuf.Change) {
	t.Helper()
	if err := p.w.upload(t, p.gun, p.first(t, false, changes...)...); err != nil {
		t.Fatalf("first publish of %s: %v", p.gun, err)
	}
}

// update reads the repository as a client does that remembers what it saw.
func (p *publisher) update() (*tuf.Set, error) {
	u := tuf.Begin(p.gun, p.past, tuf.Options{Now: p.w.clock.Now()})
	for want, more := u.Next(); more; want, more = u.Next() {
		route := api.Route{Kind: api.FileCurrent, GUN: p.gun, Role: want.Role}
		switch {
		case want.Version != 0:
			route.Kind, route.Version = api.FileByVersion, want.Version
		case want.SHA256 != nil:
			route.Kind, route.SHA256 = api.FileByHash, [32]byte(want.SHA256)
		}
		r := p.w.get(route.Path())
		var err error
		switch r.Code {
		case http.StatusOK:
			err = u.Add(want, r.Body.Bytes())
		case http.StatusNotFound:
			err = u.Missing(want)
		default:
			err = fmt.Errorf("GET %s = %d %s", route.Path(), r.Code, r.Body)
		}
		if err != nil {
			return nil, err
		}
	}
	s, err := u.Set()
	if err == nil {
		p.past = s.Past()
	}
	return s, err
}

func (p *publisher) set(t testing.TB) *tuf.Set {
	t.Helper()
	s, err := p.update()
	if err != nil {
		t.Fatalf("update of %s: %v", p.gun, err)
	}
	return s
}

// files returns what a publish of changes would upload.
func (p *publisher) files(t testing.TB, changes ...tuf.Change) []tuf.File {
	t.Helper()
	return p.finish(t, p.set(t).Draft(), changes...)
}

// try publishes changes once.
func (p *publisher) try(t testing.TB, changes ...tuf.Change) *api.Error {
	t.Helper()
	return p.w.upload(t, p.gun, p.files(t, changes...)...)
}

// publish publishes changes, and fails the test if that is refused.
func (p *publisher) publish(t testing.TB, changes ...tuf.Change) {
	t.Helper()
	if err := p.try(t, changes...); err != nil {
		t.Fatalf("publish to %s: %v", p.gun, err)
	}
}

func tag(name string) tuf.Change { return tuf.AddTarget{Target: tuftest.Target(name)} }

func tagIn(role tuf.RoleName, name string) tuf.Change {
	return tuf.AddTarget{Target: tuftest.TargetIn(role, name)}
}

// delegate makes a delegation with the key of a label, which the publisher
// then holds.
func (p *publisher) delegate(role tuf.RoleName, label string) tuf.Change {
	p.ring.Add(tuftest.Key(label))
	return tuf.EditDelegation{Role: role, AddKeys: []tuf.PublicKey{tuftest.Key(label).PublicKey()}, AddPaths: []string{""}}
}

// hasTags fails the test unless exactly these targets can be read.
func (p *publisher) hasTags(t testing.TB, role tuf.RoleName, want ...string) {
	t.Helper()
	s := p.clone().set(t)
	got := map[string]bool{}
	for target := range s.Targets(role) {
		got[target.Name] = true
	}
	for _, name := range want {
		if !got[name] {
			t.Errorf("%s of %s lacks %s", role, p.gun, name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s of %s lists %v, want %v", role, p.gun, got, want)
	}
}

// state returns what is published, nil for nothing.
func (w *world) state(t testing.TB, gun tuf.GUN) *storage.State {
	t.Helper()
	s, err := w.sql.Current(context.Background(), gun)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// refusal describes what kind of refusal an answer is: the code, and the fault
// of an INVALID_UPDATE.
func refusal(e *api.Error) string {
	if e == nil {
		return "none"
	}
	var v *api.Invalid
	if errors.As(e, &v) {
		return string(e.Code) + " " + string(v.Fault)
	}
	return string(e.Code)
}

// edited returns a file with its payload changed and signed by the given keys.
func edited(t testing.TB, f tuf.File, edit func(tuftest.Object), signers ...tuf.Signer) tuf.File {
	t.Helper()
	f.Raw = tuftest.Reseal(t, f.Raw, edit, signers...)
	return f
}

func fileOf(t testing.TB, files []tuf.File, role tuf.RoleName) tuf.File {
	t.Helper()
	for _, f := range files {
		if f.Role == role {
			return f
		}
	}
	t.Fatalf("no %s among the files", role)
	return tuf.File{}
}

func number(n int64) json.Number { return json.Number(fmt.Sprint(n)) }
