package signer

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/tuf"
)

// A memoryToken is a token in memory, which can be pulled out.
type memoryToken struct {
	name string

	mu      sync.Mutex // guards the fields below
	away    error
	kept    map[tuf.CanonicalID]*memoryKey
	unkept  int
	signed  int
	onSign  func() // called before a signature, unlocked
	dies    bool   // between keeping a key and saying so
	without tuf.KeyType
}

type memoryKey struct {
	tuf.Signer
	role tuf.RoleName
	gun  tuf.GUN
}

func newToken(name string) *memoryToken {
	return &memoryToken{name: name, kept: map[tuf.CanonicalID]*memoryKey{}}
}

var errPulled = errors.New("pulled out")

func (m *memoryToken) Name() string { return m.name }

func (m *memoryToken) Generate(_ context.Context, kind tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, func(context.Context) error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return tuf.PublicKey{}, nil, m.away
	}
	if kind == m.without {
		return tuf.PublicKey{}, nil, tuf.ErrKey
	}
	var private crypto.Signer
	private, err := generate(kind)
	if err != nil {
		return tuf.PublicKey{}, nil, err
	}
	s, err := tuf.NewSigner(private)
	if err != nil {
		return tuf.PublicKey{}, nil, err
	}
	m.unkept++
	return s.PublicKey(), func(context.Context) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.away != nil {
			return m.away
		}
		m.unkept--
		m.kept[s.PublicKey().CanonicalID()] = &memoryKey{s, role, gun}
		if m.dies {
			return errPulled
		}
		return nil
	}, nil
}

func (m *memoryToken) Signer(_ context.Context, public tuf.PublicKey, role tuf.RoleName, gun tuf.GUN) (tuf.Signer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.kept[public.CanonicalID()]
	switch {
	case m.away != nil:
		return nil, m.away
	case k == nil:
		return nil, tuf.ErrNoKey
	case k.role != role || k.gun != gun:
		return nil, tuf.ErrKey
	}
	return &memorySigner{k, m}, nil
}

type memorySigner struct {
	*memoryKey
	m *memoryToken
}

func (s *memorySigner) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	s.m.mu.Lock()
	s.m.signed++
	on, away := s.m.onSign, s.m.away
	s.m.mu.Unlock()
	if on != nil {
		on()
	}
	if away != nil {
		return tuf.Signature{}, away
	}
	return s.memoryKey.Sign(ctx, message)
}

func (m *memoryToken) Remove(_ context.Context, id tuf.CanonicalID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return m.away
	}
	if m.kept[id] == nil {
		return tuf.ErrNoKey
	}
	delete(m.kept, id)
	return nil
}

func (m *memoryToken) set(f func(m *memoryToken)) { m.mu.Lock(); defer m.mu.Unlock(); f(m) }

// has fails the test unless n keys are on the token.
func (m *memoryToken) has(t testing.TB, n int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) != n {
		t.Errorf("%d keys are on %s, want %d", len(m.kept), m.name, n)
	}
}

// on returns a service of another process on the database of w, with m.
func (w *world) on(t testing.TB, m TokenKeys) *Service {
	t.Helper()
	kek := testKEK(t, 1)
	kek.tokens = m
	if strings.Contains(w.path, "://") || strings.HasPrefix(w.path, "sqlite:") {
		return w.service(t, tableOn(t, w.path, kek), nil)
	}
	return w.service(t, openTable(t, w.path, kek), nil)
}

func wantUnavailable(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, api.ErrUnavailable) || errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("%s = %v, want ErrUnavailable", what, err)
	}
	if status, _ := wireErrorOf(err); err != nil && status != 503 {
		t.Errorf("%s travels with status %d, want 503", what, status)
	}
}

// sweep removes what is dropped, and wants n keys removed.
func sweep(t testing.TB, s *Service, n int) {
	t.Helper()
	if got, err := s.table.RemoveDropped(t.Context(), s.now()); err != nil || got != n {
		t.Errorf("RemoveDropped = %d, %v, want %d", got, err, n)
	}
}

// Keys are made on the token and sign there, on every kind of database, beside
// keys that are wrapped; a rewrap leaves them alone, and two signers share them.
func TestTokenKeysOnDatabases(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		w := worldOn(t, fresh(t))
		wrapped := newServer(t, w, w, "registry.example/wrapped")
		wrapped.publish(t, "one")
		m := newToken("token hsm")
		two := [2]*Service{w.on(t, m), w.on(t, m)}
		s := newServer(t, w, two[0], app)
		s.publish(t, "one")
		m.has(t, 2)
		wrapped.keys = two[1]
		wrapped.publish(t, "two")
		for _, r := range w.trail(t, AuditQuery{GUN: app}) {
			if r.Event == AuditCreated && r.Detail != "on token hsm" {
				t.Errorf("entry of a key on a token: %+v", r)
			}
		}
		next := tableOn(t, w.path, testKEK(t, 2, 1))
		if n, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil || n != 2 {
			t.Errorf("Rewrap = %d, %v, want the 2 wrapped keys", n, err)
		}
		var group sync.WaitGroup
		for i := range 4 { // at once, the same key from both
			group.Go(func() {
				if _, err := two[i%2].CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, "registry.example/race"); err != nil {
					t.Errorf("CreateKey = %v", err)
				}
			})
		}
		group.Wait()
		s.keys = two[1]
		s.publish(t, "two")
		w.pass(2 * time.Hour)
		if _, err := two[0].table.RemoveDropped(t.Context(), w.clock()); err != nil {
			t.Error(err)
		}
		m.has(t, 3) // who lost the race left nothing
		if err := two[0].Forget(t.Context(), "registry.example/race"); err != nil {
			t.Fatal(err)
		}
		sweep(t, two[1], 1)
		sweep(t, two[0], 0)
		m.has(t, 2)
	})
}

// Two signers are asked for one key at once: they answer the same.
func TestTokenKeyCreatedOnce(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	two := [2]*Service{w.on(t, m), w.on(t, m)}
	answers := make(chan tuf.CanonicalID, 8)
	var group sync.WaitGroup
	for i := range cap(answers) {
		group.Go(func() {
			key, err := two[i%2].CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
			if err != nil {
				t.Errorf("CreateKey = %v", err)
			}
			answers <- key.CanonicalID()
		})
	}
	group.Wait()
	close(answers)
	first := <-answers
	for id := range answers {
		if id != first {
			t.Errorf("CreateKey answered both %s and %s", first, id)
		}
	}
	w.pass(2 * time.Hour)
	if _, err := two[0].table.RemoveDropped(t.Context(), w.clock()); err != nil {
		t.Error(err)
	}
	m.has(t, 1)
}

// A token that is away, another one, or none, is never "no such key"; keys that
// are not on it go on, and so do the others when it is back.
func TestTokenAway(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	wrapped := newServer(t, w, w, "registry.example/wrapped")
	wrapped.publish(t, "one")
	one := w.on(t, m)
	s := newServer(t, w, one, app)
	s.publish(t, "one")
	if _, err := one.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, app); err != nil {
		t.Fatal(err)
	}
	m.set(func(m *memoryToken) { m.away = errPulled })
	for what, service := range map[string]*Service{
		"away": one, "no token": w.on(t, nil), "another token": w.on(t, newToken("token other")),
	} {
		r := s.snapshotRequest(t, 7, what)
		_, err := service.Sign(t.Context(), r)
		wantUnavailable(t, what, err)
		if held, err := service.Holds(t.Context(), app, tuf.RoleSnapshot, s.snapshotKey.CanonicalID()); !held || err != nil {
			t.Errorf("%s: Holds = %v, %v", what, held, err)
		}
		wrapped.keys = service
		wrapped.publish(t, what)
	}
	_, err := one.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, "registry.example/new")
	wantUnavailable(t, "a key of a token that is away", err)
	_, err = w.on(t, nil).CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, app)
	wantUnavailable(t, "a pending key that could not sign", err)
	_, err = one.Sign(t.Context(), api.SignRequest{GUN: app, Role: tuf.RoleSnapshot, Key: wrapped.snapshotKey.CanonicalID(),
		Payload: s.snapshotRequest(t, 7, "x").Payload, Timestamp: s.timestamp, BaseSnapshot: s.snapshot})
	if !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Sign with another repository's key = %v, want ErrNoKey", err)
	}
	m.set(func(m *memoryToken) { m.away = nil })
	s.publish(t, "two")
}

// Whatever is judged while the token signs: the ledger has the last word, and
// the same payload has one signature.
func TestTokenSignsOutsideTheLedger(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	one, two := w.on(t, m), w.on(t, m)
	s := newServer(t, w, one, app)
	r := s.snapshotRequest(t, 1, "mine")
	m.set(func(m *memoryToken) {
		m.onSign = func() {
			m.set(func(m *memoryToken) { m.onSign = nil })
			if _, err := two.Sign(t.Context(), s.snapshotRequest(t, 1, "theirs")); err != nil { // it is faster
				t.Errorf("Sign meanwhile = %v", err)
			}
		}
	})
	_, err := one.Sign(t.Context(), r)
	wantFloor(t, "a version that was signed meanwhile", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 1})

	var group sync.WaitGroup
	sigs := make(chan string, 6)
	r = s.snapshotRequest(t, 2, "same")
	for i := range cap(sigs) {
		group.Go(func() {
			sig, err := [2]*Service{one, two}[i%2].Sign(t.Context(), r)
			if err != nil {
				t.Errorf("Sign = %v", err)
			}
			sigs <- string(sig.Value)
		})
	}
	group.Wait()
	close(sigs)
	first := <-sigs
	for sig := range sigs {
		if sig != first {
			t.Error("one payload has two signatures")
		}
	}
	before := m.signed
	if _, err := one.Sign(t.Context(), s.snapshotRequest(t, 1, "late")); err == nil || m.signed != before {
		t.Errorf("a refused request = %v, and the token was asked %d times", err, m.signed-before)
	}
	// The repository is forgotten while the token signs for the first time.
	fresh := newServer(t, w, one, "registry.example/fresh")
	m.set(func(m *memoryToken) {
		m.onSign = func() {
			if err := two.Forget(t.Context(), fresh.gun); err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := one.Sign(t.Context(), fresh.snapshotRequest(t, 1, "x")); !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Sign with a key that was dropped meanwhile = %v, want ErrNoKey", err)
	}
}

// Keys of a deleted repository that never signed go from the token, if not at
// once then later; those that signed stay.
func TestTokenKeysDropped(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	one := w.on(t, m)
	s := newServer(t, w, one, app)
	s.publish(t, "one")
	pendings := 0
	for _, kind := range []tuf.KeyType{tuf.ECDSA, tuf.Ed25519} {
		if _, err := one.CreateKey(t.Context(), kind, tuf.RoleTimestamp, app); err != nil {
			t.Fatal(err)
		}
		pendings++
	}
	m.has(t, 2+pendings)
	m.set(func(m *memoryToken) { m.away = errPulled })
	if err := one.Forget(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	for what, service := range map[string]*Service{"away": one, "none": w.on(t, nil), "other": w.on(t, newToken("token other"))} {
		if n, err := service.table.RemoveDropped(t.Context(), w.clock()); err == nil || n != 0 || !strings.Contains(err.Error(), "2 of 2 keys that nobody needs are left") {
			t.Errorf("RemoveDropped, %s = %d, %v", what, n, err)
		}
	}
	m.set(func(m *memoryToken) { m.away = nil })
	sweep(t, one, pendings)
	m.has(t, 2)
	if err := one.Recall(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	s.publish(t, "after the recall")
}

// A signer that dies while it makes a key leaves nothing for ever, and what it
// left is not removed while another one may be making it.
func TestTokenKeyMakingInterrupted(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	one := w.on(t, m)
	m.set(func(m *memoryToken) { m.dies = true })
	for range 3 {
		_, err := one.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
		wantUnavailable(t, "a key whose making was interrupted", err)
	}
	m.has(t, 3)
	sweep(t, one, 0)
	w.pass(unkept + time.Minute)
	sweep(t, one, 3)
	m.has(t, 0)
	m.set(func(m *memoryToken) { m.dies = false })
	newServer(t, w, one, app).publish(t, "one")
}

// The bound of keys a day holds for keys on a token, before one is made.
func TestTokenKeysPerDay(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	one := w.on(t, m)
	one.limits.KeysPerDay = 2
	s := newServer(t, w, one, app)
	for i := range 2 {
		s.publish(t, fmt.Sprint(i))
		key, err := one.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleSnapshot, app)
		if i == 1 {
			wantRefusal(t, "a third key", err)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		s.snapshotKey = key
	}
	m.has(t, 3)
	if m.unkept != 0 {
		t.Errorf("%d keys were made for nothing", m.unkept)
	}
	m.set(func(m *memoryToken) { m.without = tuf.Ed25519 })
	_, err := one.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, app)
	wantRefusal(t, "a kind that the token does not make", err)
	_, err = one.CreateKey(t.Context(), tuf.RSA, tuf.RoleTimestamp, app)
	wantRefusal(t, "a kind that is not made", err)
}

// G9: a stolen database has nothing of keys on a token, and a changed one does
// not make one sign for another repository or role.
func TestAttackStolenDatabaseTokenKeys(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newToken("token hsm")
	one := w.on(t, m)
	s := newServer(t, w, one, app)
	other := newServer(t, w, one, "registry.example/other")
	var full int
	if err := w.table.db.SQL().QueryRow("SELECT COUNT(*) FROM signer_keys WHERE LENGTH(wrapped) > 0 OR kek IS NOT NULL OR token <> 'token hsm'").Scan(&full); err != nil || full != 0 {
		t.Errorf("%d rows of keys on a token have a private half, %v", full, err)
	}
	if _, err := w.table.db.SQL().Exec("UPDATE signer_keys SET gun = ? WHERE id = ?", app, other.snapshotKey.CanonicalID()); err != nil {
		t.Fatal(err)
	}
	r := s.snapshotRequest(t, 1, "x")
	r.Key = other.snapshotKey.CanonicalID()
	if _, err := one.Sign(t.Context(), r); err == nil || !strings.Contains(err.Error(), "on token hsm") {
		t.Errorf("a key that was moved to another repository = %v, want an error about the key", err)
	}
	s.publish(t, "one")
}

// A token needs a name that fits into the table.
func TestTokenName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", strings.Repeat("x", maxID+1)} {
		if _, err := NewKEK(KEKConfig{Current: testKEK(t, 1).current, Tokens: newToken(name)}); err == nil {
			t.Errorf("NewKEK with a token named %q: no error", name)
		}
	}
}
