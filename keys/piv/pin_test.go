package piv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/iechor/trust/keys"
)

func TestPIN(t *testing.T) {
	t.Parallel()
	s, card, _ := openFake(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "alice").ID
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reopen := func(pins ...string) (*Store, *answers) {
		a := &answers{t: t, pins: pins}
		s := Open(Config{PINs: a})
		s.system = &fakeSystem{cards: map[string]*fakeCard{card.a.reader: card}}
		t.Cleanup(func() { _ = s.Close() })
		return s, a
	}

	s, a := reopen("000000", "1", testPIN)
	for range 2 {
		if err := sign(s, id); err != nil {
			t.Fatalf("after a wrong PIN and one that is none: %v", err)
		}
	}
	var left []keys.Tries
	for _, r := range a.asked {
		left = append(left, r.Left)
	}
	if want := []keys.Tries{3, 2, 2}; !slices.Equal(left, want) {
		t.Errorf("asked with %v tries left, want %v: what is no PIN must not burn one", left, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s, _ = reopen("000000", "000001", "000002")
	for range 2 { // and asks nobody a second time
		wantErr(t, "three wrong PINs", sign(s, id), keys.ErrPINLocked)
	}
	_ = s.Close()
	s, _ = reopen()
	wantErr(t, "a locked token", sign(s, id), keys.ErrPINLocked)
	_, err := s.Look(context.Background())
	if err != nil {
		t.Errorf("Look at a locked token: %v", err)
	}

	wrong := s.Unblock(context.Background(), []byte("00000000"), []byte("294857"))
	var puk *PUKError
	if !errors.As(wrong, &puk) || puk.Left != 2 {
		t.Errorf("Unblock with a wrong PUK = %v, want 2 tries left", wrong)
	}
	if err := s.Unblock(context.Background(), []byte(testPUK), []byte("294857")); err != nil {
		t.Fatalf("Unblock: %v", err)
	}
	if err := sign(s, id); err != nil {
		t.Errorf("after Unblock: %v", err)
	}
	if err := s.ChangePIN(context.Background(), []byte("294857"), []byte(testPIN)); err != nil {
		t.Errorf("ChangePIN: %v", err)
	}
	if err := s.ChangePUK(context.Background(), []byte(testPUK), []byte("55554444")); err != nil {
		t.Errorf("ChangePUK: %v", err)
	}
	if card.pin != testPIN || card.puk != "55554444" {
		t.Errorf("PIN %s and PUK %s", card.pin, card.puk)
	}
}

// TestAttackFixedPIN is attacks.md G4: a PIN that nobody types is tried once.
func TestAttackFixedPIN(t *testing.T) {
	t.Parallel()
	s, card, sys := openFake(t, Version{5, 7, 1}, Config{})
	id := put(t, s, "alice").ID
	_ = s.Close()
	wrong := keys.FixedPIN(func() ([]byte, error) { return []byte("000000"), nil })
	for i, want := range []error{keys.ErrPIN, keys.ErrPIN, keys.ErrLastTry, keys.ErrLastTry} {
		s := openOn(t, sys, Config{PINs: wrong})
		wantErr(t, fmt.Sprintf("run %d", i+1), sign(s, id), want)
		_ = s.Close()
	}
	if card.left[0] != 1 {
		t.Errorf("%d tries are left, want 1", card.left[0])
	}
}

// TestAttackFactoryPIN: a token that anybody can open signs nothing.
func TestAttackFactoryPIN(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	card := newFake("1234567", Version{5, 7, 1})
	sys := &fakeSystem{cards: map[string]*fakeCard{card.a.reader: card}}
	s := openOn(t, sys, Config{PINs: fixedPIN(FactoryPIN)})
	if token, err := s.Look(ctx); !errors.Is(err, keys.ErrTokenBlank) || !token.Blank {
		t.Errorf("Look = %+v, %v, want a blank token", token, err)
	}
	_, err := s.Import(ctx, keys.Info{Role: "root"}, newKey(t))
	wantErr(t, "Import", err, ErrFactory)
	_ = s.Close()

	told := openOn(t, sys, Config{PINs: fixedPIN(FactoryPIN), AllowFactory: true})
	id := put(t, told, "root").ID
	if err := sign(told, id); err != nil {
		t.Errorf("where it is allowed: %v", err)
	}
	_ = told.Close()
	s = openOn(t, sys, Config{PINs: fixedPIN(FactoryPIN)})
	wantErr(t, "Open", sign(s, id), ErrFactory)
	for _, n := range []Secrets{
		{PIN: FactoryPIN, PUK: testPUK}, {PIN: testPIN, PUK: FactoryPUK}, {PIN: "999999", PUK: "999999"},
		{PIN: testPIN, PUK: testPUK, ManagementKey: factoryKey()},
	} {
		wantErr(t, fmt.Sprintf("Setup(%+v)", n), s.Setup(ctx, n), ErrWellKnown)
	}
	wantErr(t, "ChangePIN", s.ChangePIN(ctx, []byte(FactoryPIN), []byte(FactoryPIN)), ErrWellKnown)
}

func TestManagementKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	card := newFake("1234567", Version{5, 7, 1})
	sys := &fakeSystem{cards: map[string]*fakeCard{card.a.reader: card}}
	mine := []byte("0123456789abcdef01234567")
	s := openOn(t, sys, Config{})
	n := Secrets{OldPIN: FactoryPIN, PIN: testPIN, OldPUK: FactoryPUK, PUK: testPUK, ManagementKey: mine}
	if err := s.Setup(ctx, n); err != nil {
		t.Fatalf("Setup: %v", err)
	}
	_ = s.Close()
	_, err := openOn(t, sys, Config{}).Import(ctx, keys.Info{Role: "root"}, newKey(t))
	wantErr(t, "Import without the management key", err, ErrManagementKey)
	for _, st := range sys.cards {
		st.open = false
	}
	given := func(key []byte) *Store {
		return openOn(t, sys, Config{ManagementKey: func(context.Context, keys.TokenInfo) ([]byte, error) { return slices.Clone(key), nil }})
	}
	s = given(factoryKey())
	_, err = s.Import(ctx, keys.Info{Role: "root"}, newKey(t))
	wantErr(t, "Import with another management key", err, ErrManagementKey)
	_ = s.Close()
	s = given(mine)
	put(t, s, "root")
	_ = s.Close()

	// Setting it up again puts it behind the PIN.
	n = Secrets{OldPIN: testPIN, PIN: "294857", OldPUK: testPUK, PUK: "55554444", OldManagementKey: mine}
	if err := s.Setup(ctx, n); !errors.Is(err, keys.ErrClosed) {
		t.Errorf("Setup after Close = %v", err)
	}
	s = openOn(t, sys, Config{PINs: fixedPIN("294857")})
	if err := s.Setup(ctx, n); err != nil {
		t.Fatalf("Setup again: %v", err)
	}
	put(t, s, "alice")
}
