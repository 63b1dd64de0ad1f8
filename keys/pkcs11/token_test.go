package pkcs11

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// typed answers with one PIN after the other, and notes what it was asked.
type typed struct {
	answers []string
	asked   []keys.PINRequest
}

func (p *typed) PIN(_ context.Context, r keys.PINRequest) ([]byte, error) {
	p.asked = append(p.asked, r)
	if len(p.asked) > len(p.answers) {
		return nil, keys.ErrCancelled
	}
	return []byte(p.answers[len(p.asked)-1]), nil
}

func openFake(t *testing.T, m *fakeModule, pins keys.PINs) *Token {
	t.Helper()
	token := Open(Config{Library: fakeLibrary(m), Token: Choice{Label: m.label}, PINs: pins})
	t.Cleanup(func() { _ = token.Close() }) // tested elsewhere
	return token
}

// TestStoreOnFake is what every store must do, everywhere.
func TestStoreOnFake(t *testing.T) {
	t.Parallel()
	keystest.Run(t, func(t *testing.T) keys.Store { return openFake(t, newFake("ci"), fixed(testPIN)) })
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestAttackPINTries sees that no try is spent that nobody knows of
// (attacks.md G4).
func TestAttackPINTries(t *testing.T) {
	t.Parallel()
	ctx := t.Context()

	m, pins := newFake("ci"), &typed{answers: []string{"1", "2", testPIN}}
	token := openFake(t, m, pins)
	if err := token.Unlock(ctx); err != nil {
		t.Fatalf("Unlock with the third answer: %v", err)
	}
	var left []keys.Tries
	for _, r := range pins.asked {
		left = append(left, r.Left)
	}
	if diff := cmp.Diff([]keys.Tries{keys.TriesUnknown, keys.TriesFew, 1}, left); diff != "" {
		t.Errorf("what was said to be left (-want +got):\n%s", diff)
	}

	m, pins = newFake("ci"), &typed{answers: []string{"1", "2", "3"}}
	token = openFake(t, m, pins)
	for range 2 { // the second time it is known
		wantErr(t, "Unlock with three wrong PINs", token.Unlock(ctx), keys.ErrPINLocked)
	}
	wantErr(t, "Unlock of a locked token", openFake(t, m, fixed(testPIN)).Unlock(ctx), keys.ErrPINLocked)
	if len(m.asked) != 3 {
		t.Errorf("the token was asked %d times: %q", len(m.asked), m.asked)
	}

	m = newFake("ci")
	token = openFake(t, m, fixed("wrong"))
	for range 3 {
		wantErr(t, "Unlock with a wrong PIN from a file", token.Unlock(ctx), keys.ErrPIN)
	}
	if m.left != 2 {
		t.Errorf("a PIN from a file was tried %d times", 3-m.left)
	}
	m.left = 1
	wantErr(t, "Unlock with one try left", openFake(t, m, fixed(testPIN)).Unlock(ctx), keys.ErrLastTry)
	if m.left != 1 {
		t.Error("the last try was spent on a PIN that nobody typed")
	}
	wantErr(t, "Unlock with nobody to ask", openFake(t, m, nil).Unlock(ctx), keys.ErrNoPIN)
}

// TestLost pulls the token out, and plugs it in again.
func TestLost(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newFake("ci")
	token := openFake(t, m, fixed(testPIN))
	k, err := token.MakeKEK(ctx, "kek")
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := k.Wrap(ctx, []byte("a key"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.Generate(ctx, token, keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	id := signer.PublicKey().CanonicalID()

	m.pull(false)
	_, err = k.Unwrap(ctx, wrapped)
	wantErr(t, "Unwrap without the token", err, keys.ErrTokenGone)
	_, err = signer.Sign(ctx, []byte("x"))
	wantErr(t, "Sign without the token", err, keys.ErrTokenGone)
	_, err = token.Open(ctx, id)
	wantErr(t, "Open after the token was pulled out", err, keys.ErrTokenGone)
	if errors.Is(err, tuf.ErrNoKey) {
		t.Error("a token that was pulled out counts as one without the key")
	}
	// For who has not met it, it is a store without keys, and says why.
	other := openFake(t, m, fixed(testPIN))
	if infos, err := other.List(ctx); len(infos) > 0 || err != nil {
		t.Errorf("List of a token that is not there = %v, %v", infos, err)
	}
	_, err = other.Open(ctx, id)
	wantErr(t, "Open of a token that is not there", err, tuf.ErrNoKey)
	wantErr(t, "Away", other.Away(), keys.ErrTokenAbsent)

	m.pull(true)
	if got, err := k.Unwrap(ctx, wrapped); err != nil || string(got) != "a key" {
		t.Errorf("Unwrap with the token back = %q, %v", got, err)
	}
	if _, err := signer.Sign(ctx, []byte("x")); err != nil {
		t.Errorf("Sign with the token back: %v", err)
	}

	// Many at once, while it goes and comes.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := k.Unwrap(ctx, wrapped); err != nil && !errors.Is(err, keys.ErrTokenGone) {
					t.Errorf("Unwrap: %v", err)
				}
			}
		})
	}
	m.pull(false)
	m.pull(true)
	wg.Wait()
	if got, err := k.Unwrap(ctx, wrapped); err != nil || string(got) != "a key" {
		t.Errorf("Unwrap in the end = %q, %v", got, err)
	}

	// Its PIN was changed while it was away: it is tried once, and no more.
	m.pin, m.left = "other", 3
	m.pull(false)
	m.pull(true)
	for range 5 {
		_, err = k.Unwrap(ctx, wrapped)
		wantErr(t, "Unwrap with another PIN", err, keys.ErrPIN)
	}
	if m.left != 2 {
		t.Errorf("a PIN that was right once was tried %d times", 3-m.left)
	}
}

// TestAttackOtherKeyOnToken replaces a key on the token by another one with the
// same names, and the token by another one with the same label (attacks.md G8).
func TestAttackOtherKeyOnToken(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newFake("ci")
	token := openFake(t, m, fixed(testPIN))
	signer, err := keys.Generate(ctx, token, keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	id := signer.PublicKey().CanonicalID()
	thief := newFake("ci")
	theirs, err := keys.Generate(ctx, openFake(t, thief, fixed(testPIN)), keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	private, public := thief.only(t, classPrivate), thief.only(t, classPublic)
	m.secrets[m.only(t, classPrivate)] = thief.secrets[private]
	_, err = signer.Sign(ctx, []byte("x"))
	wantErr(t, "Sign with a key that was replaced", err, keys.ErrTokenRefuses)

	// Their public half as well, under our names: a key is what it is.
	delete(m.objects, m.only(t, classCertificate))
	m.objects[m.only(t, classPublic)][attrECPoint] = thief.objects[public][attrECPoint]
	fresh := openFake(t, m, fixed(testPIN))
	_, err = fresh.Open(ctx, id)
	wantErr(t, "Open of a key that another one stands for", err, tuf.ErrNoKey)
	infos, err := fresh.List(ctx)
	if err != nil || len(infos) != 1 || infos[0].ID != theirs.PublicKey().CanonicalID() {
		t.Errorf("List = %v, %v; want the key that is there", infos, err)
	}
}

// only returns the only object of a class.
func (m *fakeModule) only(t *testing.T, class uint) handle {
	t.Helper()
	var found []handle
	for h, o := range m.objects {
		if o[attrClass] == class {
			found = append(found, h)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of class %d", len(found), class)
	}
	return found[0]
}

// TestHalves has objects fail at each step of an import: nothing is left.
func TestHalves(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for step := range 3 {
		m := newFake("ci")
		token := openFake(t, m, fixed(testPIN))
		key, err := keys.MakeKey(keys.P256)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		m.before = func(what string) error {
			if what == "create" {
				if n++; n == step+1 {
					return codeDeviceMemory
				}
			}
			return nil
		}
		_, err = token.Import(ctx, keys.Info{Role: "alice"}, key)
		wantErr(t, "Import into a full token", err, keys.ErrTokenFull)
		if len(m.objects) > 0 {
			t.Errorf("step %d: %d objects are left", step, len(m.objects))
		}
	}
}

// TestAlwaysAuthenticate has a key that wants the PIN for each signature.
func TestAlwaysAuthenticate(t *testing.T) {
	t.Parallel()
	m := newFake("ci")
	token := openFake(t, m, fixed(testPIN))
	signer, err := keys.Generate(t.Context(), token, keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	for h := range m.objects {
		m.objects[h][attrAlwaysAuthenticate] = true
	}
	before := len(m.asked)
	if _, err := signer.Sign(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if got := m.asked[before:]; !slices.Equal(got, []string{testPIN}) {
		t.Errorf("the PIN was given as %q", got)
	}
}

// TestWaiting sees that who may have to touch the token is told, and only when
// the signature does not come by itself.
func TestWaiting(t *testing.T) {
	t.Parallel()
	m := newFake("ci")
	told := make(chan string, 10)
	token := Open(Config{
		Library: fakeLibrary(m), Token: Choice{Label: "ci"}, PINs: fixed(testPIN),
		Waiting: func(i keys.TokenInfo) { told <- i.Label },
	})
	defer token.Close()
	if _, err := keys.Generate(t.Context(), token, keys.P256, keys.Info{Role: "root"}); err != nil {
		t.Fatal(err)
	}
	infos, err := token.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.Open(t.Context(), infos[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	m.before = func(what string) error {
		if what == "sign" && <-told != "ci" { // touched, when told to
			t.Error("the notice names another token")
		}
		return nil
	}
	if _, err := signer.Sign(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	// Whoever goes on waiting for a token that nobody touches can be stopped.
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	defer close(hang)
	m.mu.Lock()
	m.before = func(what string) error {
		if what == "sign" {
			cancel()
			<-hang
		}
		return nil
	}
	m.mu.Unlock()
	_, err = signer.Sign(ctx, []byte("x"))
	wantErr(t, "Sign that is cancelled", err, context.Canceled)
}

// TestEnvelope wraps on a token without GCM.
func TestEnvelope(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newFake("ci")
	m.mechs = []uint{mechAESCBC}
	k, err := openFake(t, m, fixed(testPIN)).MakeKEK(ctx, "kek")
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := k.Wrap(ctx, []byte("a key"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range wrapped {
		changed := slices.Clone(wrapped)
		changed[i] ^= 0x80
		if got, err := k.Unwrap(ctx, changed); !errors.Is(err, ErrUnwrap) {
			t.Fatalf("Unwrap with byte %d changed = %q, %v", i, got, err)
		}
	}
	if got, err := k.Unwrap(ctx, wrapped); err != nil || string(got) != "a key" {
		t.Errorf("Unwrap = %q, %v", got, err)
	}
}
