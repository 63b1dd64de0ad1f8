package piv

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

const (
	testPIN = "473829"
	testPUK = "90817263"
)

var message = []byte(`{"signed":"message"}`)

// fixedPIN knows the PIN.
type fixedPIN string

func (p fixedPIN) PIN(context.Context, keys.PINRequest) ([]byte, error) { return []byte(p), nil }

// answers gives one PIN after the other, and remembers what was asked.
type answers struct {
	t     *testing.T
	pins  []string
	asked []keys.PINRequest
}

func (a *answers) PIN(_ context.Context, r keys.PINRequest) ([]byte, error) {
	a.asked = append(a.asked, r)
	if len(a.pins) == 0 {
		a.t.Error("asked for the PIN once too often")
		return nil, keys.ErrNoPIN
	}
	pin := a.pins[0]
	a.pins = a.pins[1:]
	return []byte(pin), nil
}

// firmwares are those whose behaviour differs.
var firmwares = []Version{{4, 3, 5}, {5, 4, 3}, {5, 7, 1}}

// openFake returns a store over a fake card that is set up.
func openFake(t *testing.T, v Version, c Config) (*Store, *fakeCard, *fakeSystem) {
	t.Helper()
	card := newFake("1234567", v)
	sys := &fakeSystem{cards: map[string]*fakeCard{card.a.reader: card}}
	setup(t, sys, "")
	return openOn(t, sys, c), card, sys
}

// openOn returns a store over the cards of sys.
func openOn(t *testing.T, sys system, c Config) *Store {
	t.Helper()
	if c.PINs == nil {
		c.PINs = fixedPIN(testPIN)
	}
	s := Open(c)
	s.system = sys
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// setup takes the only card of a system out of its factory state.
func setup(t *testing.T, sys system, reader string) {
	t.Helper()
	s := Open(Config{Reader: reader})
	s.system = sys
	defer s.Close()
	err := s.Setup(context.Background(), Secrets{OldPIN: FactoryPIN, PIN: testPIN, OldPUK: FactoryPUK, PUK: testPUK})
	if err != nil {
		t.Fatalf("Setup: %v", err)
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	for _, v := range firmwares {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			keystest.Run(t, func(t *testing.T) keys.Store {
				s, _, _ := openFake(t, v, Config{})
				return s
			})
		})
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// put imports a new key and returns what is known of it.
func put(t *testing.T, s *Store, role string) keys.Info {
	t.Helper()
	info, err := s.Import(context.Background(), keys.Info{Role: role, GUN: "registry.example/app"}, newKey(t))
	if err != nil {
		t.Fatalf("Import of a %s key: %v", role, err)
	}
	return info
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// sign opens a key and signs with it.
func sign(s *Store, id tuf.CanonicalID) error {
	signer, err := s.Open(context.Background(), id)
	if err != nil {
		return err
	}
	sig, err := signer.Sign(context.Background(), message)
	if err != nil {
		return err
	}
	return signer.PublicKey().Verify(message, sig)
}

func TestAbsent(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{keys.ErrDriver, keys.ErrNoSupport, nil} {
		s := openOn(t, &fakeSystem{err: cause}, Config{})
		if infos, err := s.List(context.Background()); err != nil || infos != nil {
			t.Errorf("List = %v, %v", infos, err)
		}
		wantErr(t, "Open", sign(s, tuf.CanonicalID(strings.Repeat("a", 64))), tuf.ErrNoKey)
		want := cause
		if want == nil {
			want = keys.ErrTokenAbsent
		}
		_, err := s.Look(context.Background())
		wantErr(t, "Look", err, want)
		_, err = s.New(context.Background(), "", keys.Info{Role: "root"})
		wantErr(t, "New", err, want)
		wantErr(t, "Away", s.Away(), want)
	}
}

// TestAttackTokenGone is issue 6, rule 3: what was there and is gone is an
// error, never a missing key.
func TestAttackTokenGone(t *testing.T) {
	t.Parallel()
	s, card, sys := openFake(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "root").ID
	sys.pull(card.a.reader)
	wantErr(t, "Open", sign(s, id), keys.ErrTokenGone)
	_, err := s.List(context.Background())
	wantErr(t, "List", err, keys.ErrTokenGone)

	sys.cards[card.a.reader] = newFake("1234567", Version{5, 7, 1})
	wantErr(t, "Open of another card in its place", sign(s, id), keys.ErrTokenGone)
}

func TestBusy(t *testing.T) {
	t.Parallel()
	s, card, sys := openFake(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "root").ID
	other := openOn(t, sys, Config{Serial: "1234567"})
	wantErr(t, "Open", sign(other, id), keys.ErrTokenBusy)
	found, err := present(sys, "")
	if err != nil || len(found) != 1 || !errors.Is(found[0].Err, keys.ErrTokenBusy) {
		t.Errorf("present = %v, %v", found, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sign(other, id); err != nil {
		t.Errorf("after the other program has closed it: %v", err)
	}
	_ = card
}

func TestChoice(t *testing.T) {
	t.Parallel()
	sys := &fakeSystem{cards: map[string]*fakeCard{}}
	for _, serial := range []string{"1000001", "1000002"} {
		c := newFake(serial, Version{5, 7, 1})
		sys.cards[c.a.reader] = c
		setup(t, sys, serial)
	}
	sys.cards["Some other reader"] = newFake("7", Version{5, 7, 1})
	_, err := openOn(t, sys, Config{}).Look(context.Background())
	wantErr(t, "Look without a choice", err, keys.ErrSeveralTokens)
	for i, serial := range []string{"1000001", "1000002"} {
		s := openOn(t, sys, Config{Choose: func(_ context.Context, among []keys.TokenInfo) (keys.TokenInfo, error) { return among[i], nil }})
		if token, err := s.Look(context.Background()); err != nil || token.Serial != serial {
			t.Errorf("Look at the token that was chosen = %v, %v, want %s", token, err, serial)
		}
		_ = s.Close()
	}
	s := openOn(t, sys, Config{Serial: "1000002"})
	if token, err := s.Look(context.Background()); err != nil || token.Serial != "1000002" {
		t.Errorf("Look = %v, %v", token, err)
	}
	_ = s.Close()
	_, err = openOn(t, sys, Config{Serial: "7"}).Look(context.Background())
	wantErr(t, "Look at a token that is in no such reader", err, keys.ErrTokenAbsent)
}

// TestShared: two tokens that are open at once do not keep each other busy.
func TestShared(t *testing.T) {
	t.Parallel()
	sys, shared := &fakeSystem{cards: map[string]*fakeCard{}}, new(Shared)
	for _, serial := range []string{"1000001", "1000002"} {
		c := newFake(serial, Version{5, 7, 1})
		sys.cards[c.a.reader] = c
		setup(t, sys, serial)
	}
	for _, serial := range []string{"1000001", "1000002", "1000003"} {
		s := openOn(t, sys, Config{Serial: serial, Shared: shared})
		_, err := s.Look(context.Background())
		if serial == "1000003" {
			wantErr(t, "Look at a token that is not there", err, keys.ErrTokenAbsent)
		} else if err != nil {
			t.Errorf("Look at %s: %v", serial, err)
		}
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, card, sys := openFake(t, Version{5, 7, 1}, Config{})
	put(t, s, "root")
	put(t, s, "alice")
	id := put(t, s, "root").ID
	slots := func() (out []Slot) {
		for slot, k := range card.slots {
			if k.key != nil && !isNobody(k.key.Public()) {
				out = append(out, slot)
			}
		}
		slices.Sort(out)
		return out
	}
	if got, want := slots(), []Slot{0x82, Authentication, Signature}; !slices.Equal(got, want) {
		t.Errorf("two root keys and one of alice are in %v, want %v", got, want)
	}
	if root := card.slots[Signature].policy; root != (Policy{PINOnce, TouchAlways}) {
		t.Errorf("policy of a root key is %v", root)
	}
	if alice := card.slots[0x82].policy; alice != (Policy{PINOnce, TouchNever}) {
		t.Errorf("policy of another key is %v", alice)
	}
	if err := s.Remove(ctx, id); err != nil {
		t.Fatal(err)
	}
	if got, want := slots(), []Slot{0x82, Signature}; !slices.Equal(got, want) {
		t.Errorf("after Remove, keys are in %v, want %v", got, want)
	}
	_ = s.Close()

	s = openOn(t, sys, Config{Place: &Place{0x82, Policy{PINAlways, TouchCached}}})
	_, err := s.Import(ctx, keys.Info{Role: "bob"}, newKey(t))
	wantErr(t, "Import into a slot that is taken", err, ErrSlot)
	_ = s.Close()
	s = openOn(t, sys, Config{Place: &Place{0x95, Policy{PINAlways, TouchCached}}})
	bob := put(t, s, "bob").ID
	if got := card.slots[0x95].policy; got != (Policy{PINAlways, TouchCached}) {
		t.Errorf("policy as chosen is %v", got)
	}
	for range 2 {
		if err := sign(s, bob); err != nil {
			t.Errorf("a key that wants the PIN each time: %v", err)
		}
	}
	_ = s.Close()
	s = openOn(t, sys, Config{})
	for i := range 24 - 3 {
		put(t, s, fmt.Sprintf("signer%d", i))
	}
	_, err = s.Import(ctx, keys.Info{Role: "onetoomany"}, newKey(t))
	wantErr(t, "Import onto a full token", err, keys.ErrTokenFull)
}

// TestForeign: keys of other programs can sign, and nothing is written over
// them.
func TestForeign(t *testing.T) {
	t.Parallel()
	for _, v := range firmwares {
		s, card, _ := openFake(t, v, Config{})
		key := newKey(t)
		card.slots[Signature] = &fakeSlot{key: key, policy: Policy{PINOnce, TouchNever}, created: true}
		infos, err := s.List(context.Background())
		if err != nil || len(infos) != 1 || infos[0].Role != "" {
			t.Fatalf("firmware %s: List = %v, %v, want one key without a role", v, infos, err)
		}
		if err := sign(s, infos[0].ID); err != nil {
			t.Errorf("firmware %s: %v", v, err)
		}
		put(t, s, "root")
		if card.slots[Signature].key != crypto.Signer(key) {
			t.Errorf("firmware %s: the key of another program was overwritten", v)
		}
	}
}

// TestAttackCertificate is attacks.md G8: a certificate beside a key that says
// that it is another one does not make it so.
func TestAttackCertificate(t *testing.T) {
	t.Parallel()
	s, card, _ := openFake(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "root").ID
	card.slots[Signature].key = newKey(t)
	s.found = nil
	infos, err := s.List(context.Background())
	if err != nil || len(infos) != 1 || infos[0].ID == id || infos[0].Role != "" {
		t.Errorf("List = %v, %v, want the key that is there, without the role of the other", infos, err)
	}
	wantErr(t, "Open", sign(s, id), tuf.ErrNoKey)
}

// TestAttackReplacedKey is attacks.md G8 where the card does not tell: what
// another key signs does not get out.
func TestAttackReplacedKey(t *testing.T) {
	t.Parallel()
	s, card, _ := openFake(t, Version{4, 3, 5}, Config{})
	id := put(t, s, "root").ID
	card.slots[Signature].key = newKey(t)
	s.found = nil
	wantErr(t, "Sign", sign(s, id), keys.ErrTokenRefuses)
}

func TestTouch(t *testing.T) {
	t.Parallel()
	var told []keys.TokenInfo
	s, card, _ := openFake(t, Version{5, 7, 1}, Config{Waiting: func(i keys.TokenInfo) { told = append(told, i) }})
	id := put(t, s, "root").ID
	if err := sign(s, id); err != nil || len(told) > 0 {
		t.Errorf("touched at once: %v, and told %v", err, told)
	}
	card.touched = func() bool { return false }
	wantErr(t, "not touched", sign(s, id), ErrNotTouched)
	noticed := make(chan struct{})
	s.c.Waiting = func(keys.TokenInfo) { close(noticed) }
	card.touched = func() bool { <-noticed; return true }
	if err := sign(s, id); err != nil {
		t.Errorf("touched after the notice: %v", err)
	}
}

// TestCancelledTouch: whoever does not want to wait need not.
func TestCancelledTouch(t *testing.T) {
	t.Parallel()
	s, card, _ := openFake(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "root").ID
	signer, err := s.Open(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	release := make(chan struct{})
	card.touched = func() bool { cancel(); <-release; return true }
	_, err = signer.Sign(ctx, message)
	wantErr(t, "Sign", err, context.Canceled)
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	close(release)
	_, err = signer.Sign(context.Background(), message)
	wantErr(t, "Sign after Close", err, keys.ErrClosed)
}

// TestHalfWritten: a key whose certificate could not be written does not stay.
func TestHalfWritten(t *testing.T) {
	t.Parallel()
	s, card, _ := openFake(t, Version{5, 7, 1}, Config{})
	p, err := s.New(context.Background(), "", keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	card.failCert = keys.ErrTokenFull
	wantErr(t, "Save", p.Save(context.Background()), keys.ErrTokenFull)
	if infos, err := s.List(context.Background()); err != nil || len(infos) != 0 {
		t.Errorf("List = %v, %v, want nothing", infos, err)
	}
	if err := p.Save(context.Background()); err != nil {
		t.Errorf("Save again: %v", err)
	}
	if err := sign(s, p.Info().ID); err != nil {
		t.Error(err)
	}
}

func TestGenerateOnToken(t *testing.T) {
	t.Parallel()
	s, card, _ := openFake(t, Version{5, 7, 1}, Config{})
	signer, err := s.GenerateOnToken(context.Background(), keys.P384, keys.Info{Role: "targets", GUN: "registry.example/app"})
	if err != nil {
		t.Fatal(err)
	}
	id := signer.PublicKey().CanonicalID()
	infos, err := s.List(context.Background())
	if want := []keys.Info{{ID: id, Type: tuf.ECDSA, Role: "targets", GUN: "registry.example/app"}}; err != nil || !slices.Equal(infos, want) {
		t.Errorf("List = %v, %v, want %v", infos, err, want)
	}
	if err := sign(s, id); err != nil {
		t.Error(err)
	}
	card.touched = func() bool { return false }
	_, err = s.GenerateOnToken(context.Background(), "", keys.Info{Role: "root"})
	wantErr(t, "not touched", err, ErrNotTouched)
	if infos, err := s.List(context.Background()); err != nil || len(infos) != 1 {
		t.Errorf("after a key that was not touched, List = %v, %v", infos, err)
	}
	_, err = s.GenerateOnToken(context.Background(), keys.Ed25519, keys.Info{Role: "root"})
	wantErr(t, "Ed25519", err, tuf.ErrKey)
	_, err = s.GenerateOnToken(context.Background(), "", keys.Info{Role: "targets"})
	wantErr(t, "targets without a repository", err, tuf.ErrRole)
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"9c", "9A", "9d", "9e", "82", "95"} {
		if s, err := ParseSlot(text); err != nil || s.String() != strings.ToLower(text) {
			t.Errorf("ParseSlot(%q) = %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "9b", "81", "96", "f9", "9cc", "0x9c", "-1"} {
		if s, err := ParseSlot(text); err == nil {
			t.Errorf("ParseSlot(%q) = %v", text, s)
		}
	}
	if p, err := ParsePolicy("once", "cached"); err != nil || p != (Policy{PINOnce, TouchCached}) {
		t.Errorf("ParsePolicy = %v, %v", p, err)
	}
	for _, bad := range [][2]string{{"sometimes", ""}, {"", "maybe"}} {
		if p, err := ParsePolicy(bad[0], bad[1]); err == nil {
			t.Errorf("ParsePolicy(%q) = %v", bad, p)
		}
	}
	for _, bad := range []string{"12345", "123456789", "12345\x00", "12345ä"} {
		wantErr(t, fmt.Sprintf("CheckNew(%q)", bad), CheckNew("the PIN", bad), ErrLength)
	}
}
