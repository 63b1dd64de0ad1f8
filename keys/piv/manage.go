package piv

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/iechor/trust/keys"
)

// What every token comes with, and everybody knows.
const (
	FactoryPIN = "123456"
	FactoryPUK = "12345678"
)

func factoryKey() []byte { return bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 3) }

// managementKeyBytes is the length of management keys: of 3DES on older
// tokens, and of AES-192.
const managementKeyBytes = 24

// ErrLength refuses what cannot be a PIN or PUK: tokens take no others, or
// other programs cannot give them.
var ErrLength = errors.New("has 6 to 8 characters, letters and digits of ASCII")

// errSame refuses a PUK that whoever knows the PIN knows, too.
var errSame = fmt.Errorf("%w: it is the PIN", ErrWellKnown)

// checkLength says whether text can be a PIN or PUK.
func checkLength(what, text string) error {
	foreign := func(r rune) bool { return r < ' ' || r > '~' }
	if len(text) < 6 || len(text) > 8 || strings.ContainsFunc(text, foreign) {
		return fmt.Errorf("%s %w", what, ErrLength)
	}
	return nil
}

// A State says how far a token is from its factory state, as far as that can
// be found out without burning tries.
type State struct {
	Token keys.TokenInfo
	// FactoryManagementKey says that everybody can put keys onto the token.
	FactoryManagementKey bool
	Keys                 []KeyOn
}

// A KeyOn is a key on a token.
type KeyOn struct {
	keys.Info
	Slot      Slot
	Policy    Policy // as far as the token tells
	Generated bool   // on the token, as it says
}

// Inspect returns the state of the token, without unlocking anything.
func (s *Store) Inspect(ctx context.Context) (st State, err error) {
	err = s.do(ctx, func(c card) error {
		st.Token = describe(c)
		entries, err := s.entries(c)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.info.ID != "" {
				st.Keys = append(st.Keys, KeyOn{e.info, e.slot, e.content.policy, e.content.generated})
			}
		}
		err = c.authenticate(factoryKey())
		st.FactoryManagementKey = err == nil
		if errors.Is(err, errManagement) {
			return nil
		}
		return err
	})
	return st, err
}

// Secrets are what protects a token: for each, what it is, and what it is to
// be.
type Secrets struct {
	OldPIN, PIN string
	OldPUK, PUK string
	// OldManagementKey is nil for the factory's, or for one that the token
	// keeps behind its PIN.
	OldManagementKey []byte
	// ManagementKey of 24 bytes, or nil: one is made at random, and the token
	// keeps it behind its PIN.
	ManagementKey []byte
}

// Setup gives the token its secrets: first the management key, last the PIN,
// so that what is found half done can be done again from the start. It says
// how far it came by its error: the management key is not known, the PUK is
// wrong ([PUKError]), or the PIN ([keys.PINError]). Secrets that everybody
// knows are refused.
func (s *Store) Setup(ctx context.Context, n Secrets) error {
	for _, check := range []error{CheckNew("the PIN", n.PIN), CheckNew("the PUK", n.PUK)} {
		if check != nil {
			return check
		}
	}
	switch {
	case n.PIN == n.PUK:
		return fmt.Errorf("the PUK: %w", errSame)
	case bytes.Equal(n.ManagementKey, factoryKey()):
		return fmt.Errorf("the management key: %w", ErrWellKnown)
	case n.ManagementKey != nil && len(n.ManagementKey) != managementKeyBytes:
		return fmt.Errorf("a management key has %d bytes, and %d were given", managementKeyBytes, len(n.ManagementKey))
	}
	return s.do(ctx, func(c card) error {
		if err := s.give(c, n.OldPIN); err != nil {
			return err
		}
		old, err := s.oldKey(c, n)
		if err != nil {
			return err
		}
		defer clear(old)
		key := bytes.Clone(n.ManagementKey)
		if key == nil {
			key = make([]byte, managementKeyBytes)
			if _, err := rand.Read(key); err != nil {
				return err
			}
		}
		if err := s.puk(c.setPUK(n.OldPUK, n.PUK)); err != nil {
			clear(key)
			return err
		}
		if err := setKey(c, old, key, n.ManagementKey == nil); err != nil {
			clear(key)
			return err
		}
		clear(s.manage)
		s.manage = key
		return s.changePIN(c, n.OldPIN, n.PIN)
	})
}

// CheckNew says whether text can be the new PIN or PUK, which what names. The
// error matches ErrLength or ErrWellKnown.
func CheckNew(what, text string) error {
	if err := checkLength(what, text); err != nil {
		return err
	}
	if text == FactoryPIN || text == FactoryPUK {
		return fmt.Errorf("%s: %w", what, ErrWellKnown)
	}
	return nil
}

// oldKey finds the management key that the token has.
func (s *Store) oldKey(c card, n Secrets) ([]byte, error) {
	tries := [][]byte{factoryKey()}
	if n.OldManagementKey != nil {
		tries = [][]byte{bytes.Clone(n.OldManagementKey)}
	} else if kept, err := c.kept(n.OldPIN); err != nil {
		return nil, err
	} else if kept != nil {
		tries = append(tries, kept)
	}
	for _, key := range tries {
		err := c.authenticate(key)
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, errManagement) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrManagementKey, *s.last)
}

// setKey changes the management key. One that is kept behind the PIN is
// written there first: then it is never unknown to everybody.
func setKey(c card, old, key []byte, keep bool) error {
	if keep {
		if err := c.keep(old, key); err != nil {
			return err
		}
	}
	return c.setManagementKey(old, key)
}

// give gives the token a PIN that is not asked for here.
func (s *Store) give(c card, pin string) error { return s.pinError(c.login(pin)) }

// changePIN sets the PIN, which from then on is the one that is used.
func (s *Store) changePIN(c card, old, pin string) error {
	if err := s.pinError(c.setPIN(old, pin)); err != nil {
		return err
	}
	clear(s.pin)
	s.pin, s.refused = nil, nil
	if err := s.give(c, pin); err != nil {
		return err
	}
	s.pin = []byte(pin)
	return nil
}

// pinError says which token has refused a PIN.
func (s *Store) pinError(err error) error {
	var wrong *wrongError
	if !errors.As(err, &wrong) {
		return err
	}
	s.last.Tries = keys.Tries(wrong.left)
	return &keys.PINError{Token: *s.last, Left: keys.Tries(wrong.left), Locked: wrong.left == 0}
}

// puk says which token has refused a PUK.
func (s *Store) puk(err error) error {
	var wrong *wrongError
	if !errors.As(err, &wrong) {
		return err
	}
	return &PUKError{*s.last, wrong.left}
}

// ChangePIN changes the PIN. The errors are a [keys.PINError], or those of CheckNew.
func (s *Store) ChangePIN(ctx context.Context, old, pin []byte) error {
	if err := CheckNew("the PIN", string(pin)); err != nil {
		return err
	}
	return s.do(ctx, func(c card) error { return s.changePIN(c, string(old), string(pin)) })
}

// ChangePUK changes the PUK. The errors are a [PUKError], or those of CheckNew.
func (s *Store) ChangePUK(ctx context.Context, old, puk []byte) error {
	if err := CheckNew("the PUK", string(puk)); err != nil {
		return err
	}
	return s.do(ctx, func(c card) error { return s.puk(c.setPUK(string(old), string(puk))) })
}

// Unblock sets a new PIN with the PUK. The errors are a [PUKError], or those of
// CheckNew.
func (s *Store) Unblock(ctx context.Context, puk, pin []byte) error {
	if err := CheckNew("the PIN", string(pin)); err != nil {
		return err
	}
	return s.do(ctx, func(c card) error {
		if err := s.puk(c.unblock(string(puk), string(pin))); err != nil {
			return err
		}
		clear(s.pin)
		s.pin, s.refused = nil, nil
		if err := s.give(c, string(pin)); err != nil {
			return err
		}
		s.pin = bytes.Clone(pin)
		s.last.Locked = false
		return nil
	})
}

// Unlock asks for the PIN, if that has not been done.
func (s *Store) Unlock(ctx context.Context) error {
	return s.do(ctx, func(c card) error { return s.login(ctx, c) })
}
