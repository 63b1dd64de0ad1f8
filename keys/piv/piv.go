// Package piv keeps keys on YubiKeys and other smart cards whose PIV applet
// knows Yubico's commands.
//
// [Present] lists the tokens that are there, and [Open] gives a [Store] over
// one: a keys.Store whose keys sign on the token and never leave it. Keys are
// made in software and put onto the token ([Store.New], [Store.Import]), so
// that a copy can be kept elsewhere, or made on the token
// ([Store.GenerateOnToken]), which can then attest that ([Store.Attest],
// [Verify]). [Store.Setup] takes a token out of its factory state.
//
// Promised: a token is opened when it is first used, exclusively, and the PIN
// asked for once; a wrong PIN is never tried twice; each signature is verified
// before it is returned; a slot that holds something is not written to.
// Refused: the factory's PIN, unless Config says otherwise.
//
// Beside each key lies a certificate that says what it is for, in the form of
// the stock program (notary-protocol 8), whose root keys are found too. Keys
// of other programs are listed without a role.
//
// Builds without the tag "piv" have the package, and its tokens are
// keys.ErrNoSupport. Read piv.go, session.go, then slots.go, store.go and
// manage.go; card.go is what the package knows of a card, pcsc.go the only
// file that knows the library.
package piv

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// What a caller can decide on, besides what keys has about tokens.
var (
	// ErrFactory says that the token was not used because what protects it is
	// still what it came with, which everybody knows.
	ErrFactory = errors.New("the token has the PIN or management key that it came with")
	// ErrWellKnown refuses a new PIN, PUK or management key that tokens come
	// with.
	ErrWellKnown = errors.New("everybody knows that one, because tokens come with it")
	// ErrNotTouched says that a signature did not come because nobody touched
	// the token.
	ErrNotTouched = errors.New("the token was not touched in time")
	// ErrManagementKey says that the token was not changed because nobody knew
	// its management key.
	ErrManagementKey = errors.New("the token's management key is not known")
	// ErrPUK is about a PUK that is wrong: see [PUKError].
	ErrPUK = errors.New("wrong PUK")
	// ErrSlot says that a slot cannot take a key, because it holds one.
	ErrSlot = errors.New("the slot holds a key")

	// ErrService says that the system's smart card service does not run. It
	// matches keys.ErrDriver.
	ErrService = fmt.Errorf("%w: the system's smart card service does not run", keys.ErrDriver)
	// ErrBuild says that this build has no PIV support. It matches
	// keys.ErrNoSupport.
	ErrBuild = fmt.Errorf("%w: this build has no PIV support", keys.ErrNoSupport)

	errDenied = errors.New("the token wants the PIN, or a touch")
	errNotPIV = errors.New("not a card with a PIV applet that we can use")
)

// A PUKError says that a token did not take a PUK. It matches [ErrPUK].
type PUKError struct {
	Token keys.TokenInfo
	Left  int // tries; 0: it is blocked
}

func (e *PUKError) Error() string {
	return fmt.Sprintf("%s: %v: %d tries left", e.Token, ErrPUK, e.Left)
}

// Is reports whether t is ErrPUK.
func (e *PUKError) Is(t error) bool { return t == ErrPUK }

// A Config says which token to use, and who knows its secrets.
type Config struct {
	// Serial is the token's serial number, in decimal digits. Empty: the only
	// token that is there.
	Serial string
	// Reader is a part of the names of readers to look into. Empty: "yubikey".
	Reader string
	// Shared is the same for all stores of a process; nil: there is only one.
	Shared *Shared
	// PINs is asked for the PIN; nil: nobody can be.
	PINs keys.PINs
	// ManagementKey returns the management key of a token that does not keep
	// it behind its PIN; nil: nobody knows. What it returns is wiped.
	ManagementKey func(ctx context.Context, t keys.TokenInfo) ([]byte, error)
	// Waiting is called when a signature takes its time: somebody may have to
	// touch the token.
	Waiting func(t keys.TokenInfo)
	// AllowFactory lets a token be used in its factory state.
	AllowFactory bool
	// Choose is asked which of several tokens is meant, if Serial is empty;
	// nil: nobody can be.
	Choose func(ctx context.Context, among []keys.TokenInfo) (keys.TokenInfo, error)
	// Place is read when a key comes onto the token; nil: all as is usual.
	Place *Place
	// Now is for the certificates of new keys.
	Now func() time.Time
}

// Shared is what the stores of a process know of each other: a token that one
// of them has open is not busy, but another one. The zero value is ready.
type Shared struct {
	mu   sync.Mutex
	held map[string]bool // readers
}

func (h *Shared) holds(reader string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[reader]
}

func (h *Shared) hold(reader string, held bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = map[string]bool{}
	}
	h.held[reader] = held
}

// A Place is where a new key goes, and what it will ask for. What is empty is
// chosen by the role of the key.
type Place struct {
	Slot   Slot
	Policy Policy
}

// A Store is one token. It is safe for concurrent use; the token does one
// thing at a time. Nothing is done before it is used.
type Store struct {
	c      Config
	system system
	turn   chan struct{} // held by who uses the token

	mu     sync.Mutex // guards the fields below
	closed bool
	serial string         // as soon as it is known
	away   error          // why the token has counted as one without keys
	loose  []*keys.Memory // of keys that are not on the token yet

	// For who has the turn:
	card    card
	last    *keys.TokenInfo // as it was when it was there
	refused error           // the PIN was: nobody is asked again
	pin     []byte          // as it was accepted
	manage  []byte          // the management key, as it was accepted
	found   []entry         // what is in the slots; nil: not read
}

var (
	_ keys.Token      = (*Store)(nil)
	_ keys.Unlocker   = (*Store)(nil)
	_ keys.PINChanger = (*Store)(nil)
	_ keys.Generator  = (*Store)(nil)
	_ keys.Importer   = (*Store)(nil)
	_ keys.Remover    = (*Store)(nil)
)

// Open returns a token, which need not be there.
func Open(c Config) *Store {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Place == nil {
		c.Place = new(Place)
	}
	if c.Shared == nil {
		c.Shared = new(Shared)
	}
	return &Store{c: c, serial: c.Serial, system: newSystem(), turn: make(chan struct{}, 1)}
}

// Name is how people know the token: with its serial number, as soon as that
// is known.
func (s *Store) Name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return words("YubiKey", s.serial)
}

// A Found is a token that is there, or that may be.
type Found struct {
	Reader string
	Token  keys.TokenInfo
	Err    error // why nothing is known of it: keys.ErrTokenBusy
}

// Present lists the tokens in readers whose names contain reader; if that is
// empty, "yubikey". The error matches keys.ErrNoSupport or keys.ErrDriver.
func Present(reader string) ([]Found, error) { return present(newSystem(), reader) }

func present(sys system, reader string) ([]Found, error) {
	names, err := fitting(sys, reader)
	if err != nil {
		return nil, err
	}
	var out []Found
	for _, name := range names {
		c, err := patiently(sys, name)
		switch {
		case errors.Is(err, keys.ErrTokenAbsent), errors.Is(err, keys.ErrTokenGone), errors.Is(err, errNotPIV):
			continue // an empty reader, or a card of another kind
		case err != nil:
			out = append(out, Found{Reader: name, Err: err})
		default:
			f := Found{Reader: name, Token: describe(c)}
			out = append(out, f)
			if err := c.close(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// fitting lists the readers to look into.
func fitting(sys system, part string) ([]string, error) {
	if part == "" {
		part = "yubikey"
	}
	names, err := sys.readers()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		if strings.Contains(strings.ToLower(name), strings.ToLower(part)) {
			out = append(out, name)
		}
	}
	return out, nil
}

// describe says what a card says of itself without being unlocked.
func describe(c card) keys.TokenInfo {
	a := c.about()
	t := keys.TokenInfo{Serial: a.serial, Manufacturer: "Yubico", Model: "YubiKey " + a.firmware.String()}
	if !strings.Contains(strings.ToLower(a.reader), "yubi") {
		t.Manufacturer, t.Model = "", "PIV card in "+a.reader
	}
	if t.Serial == "" {
		t.Label = a.reader
	}
	if n, err := c.tries(); err == nil {
		t.Tries, t.Locked = keys.Tries(n), n == 0
	}
	return t
}

// Look returns what the token says about itself. A token in its factory state
// that holds no key is keys.ErrTokenBlank.
func (s *Store) Look(ctx context.Context) (t keys.TokenInfo, err error) {
	err = s.do(ctx, func(c card) error {
		t = describe(c)
		if s.pin != nil {
			t.Tries, t.Locked = s.last.Tries, false
		}
		entries, err := s.entries(c)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.taken {
				return nil
			}
		}
		switch err := c.authenticate(factoryKey()); {
		case errors.Is(err, errManagement):
			return nil
		case err != nil:
			return err
		}
		t.Blank = true
		return fmt.Errorf("%w: %s", keys.ErrTokenBlank, t)
	})
	return t, err
}

// List describes the keys on the token. Those of other programs have no role.
func (s *Store) List(ctx context.Context) (infos []keys.Info, err error) {
	err = s.do(ctx, func(c card) error {
		entries, err := s.entries(c)
		for _, e := range entries {
			if e.info.ID != "" {
				infos = append(infos, e.info)
			}
		}
		return err
	})
	if s.missed(err) {
		return nil, nil
	}
	keys.Sort(infos)
	return infos, err
}

// missed remembers err if it says that there is no token, and was none: then
// the store holds no keys.
func (s *Store) missed(err error) bool {
	if !errors.Is(err, keys.ErrTokenAbsent) && !errors.Is(err, keys.ErrDriver) && !errors.Is(err, keys.ErrNoSupport) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = err
	return true
}

// Away returns why the token has counted as one without keys; nil if it has
// not.
func (s *Store) Away() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// Open returns a signer for a key, after asking for the PIN if the key wants
// it.
func (s *Store) Open(ctx context.Context, id tuf.CanonicalID) (tuf.Signer, error) {
	var signer tuf.Signer
	err := s.do(ctx, func(c card) error {
		e, err := s.entry(c, id)
		if err != nil {
			return err
		}
		if err := s.mayUse(ctx, c, e); err != nil {
			return s.about(e.info, err)
		}
		signer, err = s.signer(e)
		return err
	})
	if s.missed(err) {
		return nil, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	return signer, err
}

// mayUse sees to what a key wants before it signs.
func (s *Store) mayUse(ctx context.Context, c card, e entry) error {
	if e.content.policy.PIN == PINNever {
		return nil
	}
	return s.login(ctx, c)
}

// about says which key err is about.
func (s *Store) about(info keys.Info, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &keys.StoreError{Store: s.Name(), Key: info, Err: err}
}

// signer signs with a key on the token, as long as it is there.
func (s *Store) signer(e entry) (tuf.Signer, error) {
	pub, err := tuf.NewPublicKey(e.public)
	if err != nil {
		return nil, err
	}
	return &onToken{s, e.info, pub}, nil
}

// An onToken is a tuf.Signer whose key is on a token.
type onToken struct {
	s    *Store
	info keys.Info
	pub  tuf.PublicKey
}

func (k *onToken) PublicKey() tuf.PublicKey { return k.pub }

// Sign verifies what it returns: a card can be replaced, and can be broken
// (attacks.md G8).
func (k *onToken) Sign(ctx context.Context, message []byte) (sig tuf.Signature, err error) {
	err = k.s.do(ctx, func(c card) error {
		e, err := k.s.entry(c, k.info.ID)
		if err != nil {
			return err
		}
		if err := k.s.mayUse(ctx, c, e); err != nil {
			return k.s.about(e.info, err)
		}
		signer, err := tuf.NewSigner(&slotKey{k.s, c, e})
		if err != nil {
			return err
		}
		if sig, err = signer.Sign(ctx, message); err != nil {
			return k.s.about(e.info, err)
		}
		if err := k.pub.Verify(message, sig); err != nil {
			return k.s.about(e.info, fmt.Errorf("%w: what it signed does not fit its key: %w", keys.ErrTokenRefuses, err))
		}
		return nil
	})
	if err != nil {
		return tuf.Signature{}, err
	}
	return sig, nil
}

// A slotKey is a crypto.Signer for who has the turn.
type slotKey struct {
	s *Store
	c card
	e entry
}

func (k *slotKey) Public() crypto.PublicKey { return k.e.public }
