// Package keystest has the tests that every keys.Store must pass, and stores
// for the tests of packages that use keys.
package keystest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// Iterations is a PBKDF2 count for tests, which protects nothing.
const Iterations = 10

// A Passphrase answers every question with itself, and an empty one with
// keys.ErrNoPassphrase.
type Passphrase string

var _ keys.Passphrases = Passphrase("")

// Passphrase returns a copy of p.
func (p Passphrase) Passphrase(context.Context, keys.Info, int) ([]byte, error) {
	return p.answer()
}

// NewPassphrase returns a copy of p.
func (p Passphrase) NewPassphrase(context.Context, keys.Info) ([]byte, error) {
	return p.answer()
}

func (p Passphrase) answer() ([]byte, error) {
	if p == "" {
		return nil, keys.ErrNoPassphrase
	}
	return []byte(p), nil
}

// OpenDir opens a directory of keys that encrypts cheaply, and closes it when
// the test ends.
func OpenDir(t testing.TB, path string, ask keys.Passphrases) *keys.Dir {
	t.Helper()
	d, err := keys.OpenDir(keys.Config{Path: path, Passphrases: ask, Iterations: Iterations})
	if err != nil {
		t.Fatalf("OpenDir(%s): %v", path, err)
	}
	t.Cleanup(func() { _ = d.Close() }) // cannot fail
	return d
}

// NewDir opens a new directory, whose passphrase is "passphrase".
func NewDir(t testing.TB) *keys.Dir {
	t.Helper()
	return OpenDir(t, filepath.Join(t.TempDir(), "private"), Passphrase("passphrase"))
}

const gun = tuf.GUN("registry.example/app")

var message = []byte(`{"signed":"message"}`)

// Run tests the store that open returns. Each call of open returns a new,
// empty store, whose questions, if it asks any, are answered rightly. The
// store must be able to make or to import keys; what it cannot do is not
// tested.
func Run(t *testing.T, open func(t *testing.T) keys.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"empty", testEmpty},
		{"make", testMake},
		{"pending", testPending},
		{"roles", testRoles},
		{"import", testImport},
		{"import twice", testImportTwice},
		{"import weak", testImportWeak},
		{"export", testExport},
		{"remove", testRemove},
		{"passphrase", testPassphrase},
		{"cancelled", testCancelled},
		{"concurrent", testConcurrent},
		{"close", testClose},
		{"ring", testRing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() { _ = s.Close() }) // tested by "close"
			tt.run(t, &suite{s})
		})
	}
}

type suite struct{ keys.Store }

// can returns the store's ability A, or skips the test.
func can[A any](t *testing.T, s *suite) A {
	t.Helper()
	a, ok := s.Store.(A)
	if !ok {
		t.Skipf("%s is no %T", s.Name(), new(A))
	}
	return a
}

// put makes or imports a key of the role, for gun.
func (s *suite) put(t *testing.T, role string) tuf.Signer {
	t.Helper()
	ctx := context.Background()
	info := keys.Info{Role: role, GUN: gun}
	if g, ok := s.Store.(keys.Generator); ok {
		signer, err := keys.Generate(ctx, g, keys.P256, info)
		if err != nil {
			t.Fatalf("make a %s key: %v", role, err)
		}
		return signer
	}
	info, err := can[keys.Importer](t, s).Import(ctx, info, newKey(t))
	if err != nil {
		t.Fatalf("import a %s key: %v", role, err)
	}
	return s.open(t, info.ID)
}

func (s *suite) open(t *testing.T, id tuf.CanonicalID) tuf.Signer {
	t.Helper()
	signer, err := s.Open(context.Background(), id)
	if err != nil {
		t.Fatalf("Open(%s): %v", id.Short(), err)
	}
	if got := signer.PublicKey().CanonicalID(); got != id {
		t.Fatalf("Open(%s) opened %s", id.Short(), got)
	}
	return signer
}

// list returns what List says, without types, which may be unknown.
func (s *suite) list(t *testing.T) []keys.Info {
	t.Helper()
	infos, err := s.List(context.Background())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for i := range infos {
		infos[i].Type = ""
	}
	return infos
}

func (s *suite) wantList(t *testing.T, want ...keys.Info) {
	t.Helper()
	if diff := cmp.Diff(want, s.list(t)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

// wantSigns checks that signer signs, as the key that it says it is.
func wantSigns(t *testing.T, signer tuf.Signer) {
	t.Helper()
	sig, err := signer.Sign(context.Background(), message)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	pub := signer.PublicKey()
	if sig.KeyID != pub.ID() {
		t.Errorf("signature of key %s, want %s", sig.KeyID, pub.ID())
	}
	if err := pub.Verify(message, sig); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func idOf(t *testing.T, key crypto.Signer) tuf.CanonicalID {
	t.Helper()
	pub, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pub.CanonicalID()
}

func testEmpty(t *testing.T, s *suite) {
	ctx := context.Background()
	if s.Name() == "" {
		t.Error("the store has no name")
	}
	s.wantList(t)
	for _, id := range []tuf.CanonicalID{idOf(t, newKey(t)), "", "../../x", "0"} {
		_, err := s.Open(ctx, id)
		wantErr(t, fmt.Sprintf("Open(%q)", id), err, tuf.ErrNoKey)
		if r, ok := s.Store.(keys.Remover); ok {
			wantErr(t, fmt.Sprintf("Remove(%q)", id), r.Remove(ctx, id), tuf.ErrNoKey)
		}
		if r, ok := s.Store.(keys.Rewrapper); ok {
			wantErr(t, fmt.Sprintf("ChangePassphrase(%q)", id), r.ChangePassphrase(ctx, id), tuf.ErrNoKey)
		}
		if e, ok := s.Store.(keys.Exporter); ok {
			_, err := e.Export(ctx, id)
			wantErr(t, fmt.Sprintf("Export(%q)", id), err, tuf.ErrNoKey)
		}
	}
}

func testMake(t *testing.T, s *suite) {
	g := can[keys.Generator](t, s)
	ctx := context.Background()
	for a, want := range map[keys.Algorithm]tuf.KeyType{
		"": tuf.ECDSA, keys.P256: tuf.ECDSA, keys.P384: tuf.ECDSA, keys.Ed25519: tuf.Ed25519,
	} {
		signer, err := keys.Generate(ctx, g, a, keys.Info{Role: "alice"})
		if errors.Is(err, tuf.ErrKey) && a != "" {
			continue // tokens make some kinds only
		}
		if err != nil {
			t.Errorf("Generate(%q): %v", a, err)
			continue
		}
		if got := signer.PublicKey().Type; got != want {
			t.Errorf("Generate(%q) made a key of type %s, want %s", a, got, want)
		}
		wantSigns(t, signer)
		wantSigns(t, s.open(t, signer.PublicKey().CanonicalID()))
	}
	_, err := keys.Generate(ctx, g, "rot13", keys.Info{Role: "alice"})
	wantErr(t, "Generate(rot13)", err, tuf.ErrKey)
}

func testPending(t *testing.T, s *suite) {
	g := can[keys.Generator](t, s)
	ctx := context.Background()
	p, err := g.New(ctx, keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	id := p.Info().ID
	wantSigns(t, p.Signer())
	if got := p.Signer().PublicKey().CanonicalID(); got != id {
		t.Errorf("the pending key %s signs as %s", id, got)
	}
	s.wantList(t)
	_, err = s.Open(ctx, id)
	wantErr(t, "Open before Save", err, tuf.ErrNoKey)

	gone, cancel := context.WithCancel(ctx)
	cancel()
	wantErr(t, "Save after the context is done", p.Save(gone), context.Canceled)
	s.wantList(t)

	for range 2 {
		if err := p.Save(ctx); err != nil {
			t.Fatalf("Save: %v", err)
		}
		s.wantList(t, keys.Info{ID: id, Role: "root"})
	}
	wantSigns(t, p.Signer())
	wantSigns(t, s.open(t, id))
}

func testRoles(t *testing.T, s *suite) {
	g := can[keys.Generator](t, s)
	ctx := context.Background()
	var want []keys.Info
	for _, info := range []keys.Info{
		{Role: "root", GUN: gun}, {Role: "alice", GUN: gun}, {Role: "snapshot", GUN: gun}, {Role: "targets", GUN: gun},
	} {
		signer, err := keys.Generate(ctx, g, "", info)
		if err != nil {
			t.Fatalf("Generate(%v): %v", info, err)
		}
		info.ID = signer.PublicKey().CanonicalID()
		if info.Role == "root" || info.Role == "alice" {
			info.GUN = "" // they belong to no repository
		}
		want = append(want, info)
	}
	s.wantList(t, want...)
	for _, info := range []keys.Info{
		{}, {Role: "targets"}, {Role: "snapshot", GUN: "a//b"}, {Role: "a\nb: c"}, {Role: "\x1b[2J"}, {Role: " x"},
	} {
		_, err := keys.Generate(ctx, g, "", info)
		wantErr(t, fmt.Sprintf("Generate(%+v)", info), err, tuf.ErrRole)
	}
	s.wantList(t, want...)
}

func testImport(t *testing.T, s *suite) {
	im := can[keys.Importer](t, s)
	key := newKey(t)
	id := idOf(t, key)
	info, err := im.Import(context.Background(), keys.Info{ID: "ignored", Role: "targets", GUN: gun}, key)
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	if want := (keys.Info{ID: id, Type: tuf.ECDSA, Role: "targets", GUN: gun}); info != want {
		t.Errorf("Import = %+v, want %+v", info, want)
	}
	s.wantList(t, keys.Info{ID: id, Role: "targets", GUN: gun})
	wantSigns(t, s.open(t, id))
}

func testImportTwice(t *testing.T, s *suite) {
	im := can[keys.Importer](t, s)
	ctx := context.Background()
	key := newKey(t)
	again, other := *key, *key
	id := idOf(t, key)
	if _, err := im.Import(ctx, keys.Info{Role: "alice"}, key); err != nil {
		t.Fatalf("Import: %v", err)
	}
	if info, err := im.Import(ctx, keys.Info{Role: "alice"}, &again); err != nil || info.ID != id {
		t.Errorf("Import again for the same role = %v, %v", info, err)
	}
	_, err := im.Import(ctx, keys.Info{Role: "bob"}, &other)
	wantErr(t, "Import for another role", err, keys.ErrExists)
	var exists *keys.ExistsError
	if !errors.As(err, &exists) || exists.Role != "alice" || exists.ID != id {
		t.Errorf("Import for another role = %v, want an ExistsError that names alice", err)
	}
	s.wantList(t, keys.Info{ID: id, Role: "alice"})
	wantSigns(t, s.open(t, id))
}

// testImportWeak is attacks.md K11.
func testImportWeak(t *testing.T, s *suite) {
	im := can[keys.Importer](t, s)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, err = im.Import(context.Background(), keys.Info{Role: "alice"}, weak)
	wantErr(t, "Import of RSA with 1024 bits", err, tuf.ErrKey)
	s.wantList(t)
}

func testExport(t *testing.T, s *suite) {
	ex := can[keys.Exporter](t, s)
	im := can[keys.EncryptedImporter](t, s)
	rm := can[keys.Remover](t, s)
	ctx := context.Background()
	id := s.put(t, "targets").PublicKey().CanonicalID()
	raw, err := ex.Export(ctx, id)
	if err != nil {
		t.Fatalf("Export: %v", err)
	}
	blocks, err := keys.Parse(raw)
	if err != nil || len(blocks) != 1 || !blocks[0].Encrypted() {
		t.Fatalf("Parse of what Export wrote = %d blocks, %v", len(blocks), err)
	}
	want := keys.Info{ID: id, Role: "targets", GUN: gun}
	if got := blocks[0].Info; got != want {
		t.Errorf("exported block is %+v, want %+v", got, want)
	}
	if err := rm.Remove(ctx, id); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	for range 2 {
		if got, err := im.ImportEncrypted(ctx, keys.Info{}, blocks[0]); err != nil || got != want {
			t.Fatalf("ImportEncrypted = %+v, %v", got, err)
		}
	}
	_, err = im.ImportEncrypted(ctx, keys.Info{Role: "bob"}, blocks[0])
	wantErr(t, "ImportEncrypted for another role", err, keys.ErrExists)
	s.wantList(t, want)
	wantSigns(t, s.open(t, id))
	if back, err := ex.Export(ctx, id); err != nil || !bytes.Equal(back, raw) {
		t.Errorf("exported again after import: %v\n%s\nwant\n%s", err, back, raw)
	}
}

func testRemove(t *testing.T, s *suite) {
	rm := can[keys.Remover](t, s)
	ctx := context.Background()
	stay, gone := s.put(t, "root"), s.put(t, "alice")
	id := gone.PublicKey().CanonicalID()
	if err := rm.Remove(ctx, id); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	_, err := s.Open(ctx, id)
	wantErr(t, "Open after Remove", err, tuf.ErrNoKey)
	wantErr(t, "Remove again", rm.Remove(ctx, id), tuf.ErrNoKey)
	if _, err := gone.Sign(ctx, message); err == nil {
		t.Error("a removed key still signs")
	}
	s.wantList(t, keys.Info{ID: stay.PublicKey().CanonicalID(), Role: "root"})
	wantSigns(t, stay)
}

func testPassphrase(t *testing.T, s *suite) {
	rw := can[keys.Rewrapper](t, s)
	id := s.put(t, "targets").PublicKey().CanonicalID()
	if err := rw.ChangePassphrase(context.Background(), id); err != nil {
		t.Fatalf("ChangePassphrase: %v", err)
	}
	s.wantList(t, keys.Info{ID: id, Role: "targets", GUN: gun})
	wantSigns(t, s.open(t, id))
}

func testCancelled(t *testing.T, s *suite) {
	signer := s.put(t, "alice")
	id := signer.PublicKey().CanonicalID()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.List(ctx)
	wantErr(t, "List", err, context.Canceled)
	_, err = s.Open(ctx, id)
	wantErr(t, "Open", err, context.Canceled)
	_, err = signer.Sign(ctx, message)
	wantErr(t, "Sign", err, context.Canceled)
	if g, ok := s.Store.(keys.Generator); ok {
		_, err = g.New(ctx, "", keys.Info{Role: "bob"})
		wantErr(t, "New", err, context.Canceled)
	}
	if r, ok := s.Store.(keys.Remover); ok {
		wantErr(t, "Remove", r.Remove(ctx, id), context.Canceled)
	}
	s.wantList(t, keys.Info{ID: id, Role: "alice"})
}

func testConcurrent(t *testing.T, s *suite) {
	id := s.put(t, "alice").PublicKey().CanonicalID()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			signer, err := s.Open(context.Background(), id)
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			if _, err := signer.Sign(context.Background(), message); err != nil {
				t.Errorf("Sign: %v", err)
			}
			if _, err := s.List(context.Background()); err != nil {
				t.Errorf("List: %v", err)
			}
		})
	}
	wg.Wait()
}

func testClose(t *testing.T, s *suite) {
	ctx := context.Background()
	signer := s.put(t, "alice")
	id := signer.PublicKey().CanonicalID()
	var pending *keys.Pending
	if g, ok := s.Store.(keys.Generator); ok {
		var err error
		if pending, err = g.New(ctx, "", keys.Info{Role: "bob"}); err != nil {
			t.Fatalf("New: %v", err)
		}
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	_, err := s.Open(ctx, id)
	wantErr(t, "Open after Close", err, keys.ErrClosed)
	_, err = s.List(ctx)
	wantErr(t, "List after Close", err, keys.ErrClosed)
	_, err = signer.Sign(ctx, message)
	wantErr(t, "Sign after Close", err, keys.ErrClosed)
	if pending != nil {
		wantErr(t, "Save after Close", pending.Save(ctx), keys.ErrClosed)
		_, err = pending.Signer().Sign(ctx, message)
		wantErr(t, "Sign with a pending key after Close", err, keys.ErrClosed)
	}
}

func testRing(t *testing.T, s *suite) {
	ctx := context.Background()
	pub := s.put(t, "targets").PublicKey()
	r := keys.Ring{keys.NewMemory(), s.Store}
	signer, err := r.Signer(ctx, gun, tuf.RoleTargets, pub)
	if err != nil {
		t.Fatalf("Signer: %v", err)
	}
	wantSigns(t, signer)
	info, store, err := r.Find(ctx, pub.CanonicalID())
	if err != nil || store != s.Store || info.Role != "targets" || info.GUN != gun {
		t.Errorf("Find = %+v, %v, %v", info, store, err)
	}
}
