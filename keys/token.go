package keys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/tuf"
)

// What a caller can decide on about tokens: smart cards, security modules, and
// everything else that keeps keys to itself.
var (
	// ErrNoSupport says that this build cannot talk to such tokens at all.
	ErrNoSupport = errors.New("this build has no support for the token")
	// ErrDriver says that what stands between us and tokens is missing or
	// does not work: a library, a service.
	ErrDriver = errors.New("the token's driver cannot be used")
	// ErrTokenAbsent says that there is no such token now, and there was none
	// since the store was opened.
	ErrTokenAbsent = errors.New("the token is not there")
	// ErrTokenGone says that the token was there, and is not any more.
	ErrTokenGone = errors.New("the token was pulled out, or reset")
	// ErrTokenBusy says that other programs keep us from using the token.
	ErrTokenBusy = errors.New("the token is busy")
	// ErrTokenFull says that nothing more fits.
	ErrTokenFull = errors.New("the token has no room for another key")
	// ErrTokenBlank says that the token has not been set up yet.
	ErrTokenBlank = errors.New("the token is not set up")
	// ErrSeveralTokens says that more than one fits what is known of it.
	ErrSeveralTokens = errors.New("there are several such tokens")
	// ErrTokenRefuses says that the token does not do what it is asked.
	ErrTokenRefuses = errors.New("the token refuses")
	// ErrPIN is about a PIN that is wrong. See [PINError].
	ErrPIN = errors.New("wrong PIN")
	// ErrPINLocked is about a PIN that was wrong too often.
	ErrPINLocked = errors.New("the PIN is locked")
	// ErrLastTry says that a PIN that nobody types was not tried, because the
	// token would lock if it were wrong.
	ErrLastTry = errors.New("only one try is left")
	// ErrNoPIN says that there is nobody to ask for the PIN.
	ErrNoPIN = errors.New("no PIN was given")
)

// A TokenInfo is what a token says about itself without being unlocked.
type TokenInfo struct {
	Label, Serial       string // by which people choose it
	Manufacturer, Model string

	Blank  bool // it has not been set up
	Locked bool // its PIN was wrong too often
	// Tries are what is left of them: see [PINRequest].
	Tries Tries
}

// String names the token as people know it.
func (t TokenInfo) String() string {
	switch {
	case t.Label != "" && t.Serial != "":
		return fmt.Sprintf("token %s (serial number %s)", t.Label, t.Serial)
	case t.Label != "":
		return "token " + t.Label
	}
	return "token with serial number " + t.Serial
}

// Named returns the names of t alone.
func (t TokenInfo) Named() TokenInfo { return TokenInfo{Label: t.Label, Serial: t.Serial} }

// Tries says how many wrong PINs a token takes before it locks. Many tokens
// tell no number.
type Tries int

const (
	TriesUnknown Tries = 0
	TriesFew     Tries = -1 // fewer than at first
)

func (t Tries) String() string {
	switch {
	case t == 1:
		return "1 try is left, then it locks"
	case t > 1:
		return fmt.Sprintf("%d tries are left", int(t))
	case t == TriesFew:
		return "not all tries are left; the token does not tell their number"
	}
	return "the token does not tell how many tries are left"
}

// A PINRequest says which PIN is asked for.
type PINRequest struct {
	Token   TokenInfo
	Attempt int // counts from 1
	Left    Tries
	// Keypad says that the PIN is entered at the device: the answer is not
	// used, and the call is there to tell the user.
	Keypad bool
}

// PINs asks for the PINs of tokens, as [Passphrases] does for files. The bytes
// it returns are wiped after use.
//
// The error matches [ErrCancelled] if the user broke off, [ErrNoPIN] if there
// is nobody to ask, and [ErrPIN] if asking again cannot help because the only
// answer was wrong; each ends the attempt and reaches the caller.
type PINs interface {
	PIN(ctx context.Context, r PINRequest) ([]byte, error)
}

// A PINError says that a token did not take a PIN. It matches [ErrPIN], or
// [ErrPINLocked] if that was the last try.
type PINError struct {
	Token  TokenInfo
	Left   Tries
	Locked bool
}

func (e *PINError) Error() string {
	if e.Locked {
		return fmt.Sprintf("%s: %v", e.Token, ErrPINLocked)
	}
	return fmt.Sprintf("%s: %v: %s", e.Token, ErrPIN, e.Left)
}

func (e *PINError) Is(t error) bool { return t == ErrPIN && !e.Locked || t == ErrPINLocked && e.Locked }

// A FixedPIN is a PIN that nobody types: from a file, or a variable. It is
// tried once, and not if the token would lock after it (attacks.md G4).
type FixedPIN func() ([]byte, error)

// PIN returns the PIN at the first attempt.
func (p FixedPIN) PIN(_ context.Context, r PINRequest) ([]byte, error) {
	switch {
	case r.Attempt > 1:
		return nil, &PINError{Token: r.Token, Left: r.Left}
	case r.Left == 1:
		return nil, fmt.Errorf("%w: %s", ErrLastTry, r.Token)
	case r.Keypad:
		return nil, nil
	}
	return p()
}

// A Token is a [Store] in a device that can be locked, busy, or not there. As
// a store it holds no keys while it is not there: List is empty, and Open and
// all others return tuf.ErrNoKey. Look tells the difference.
type Token interface {
	Store
	// Look returns what the token says about itself, without asking for the
	// PIN. The error matches one of those above.
	Look(ctx context.Context) (TokenInfo, error)
	// Away returns why the store has held no keys, if it was asked for some:
	// its token was not there, or could not be looked for.
	Away() error
}

// An Unlocker is a Token that can be asked to ask for the PIN, if it has not
// been given yet, before other questions are asked.
type Unlocker interface {
	Unlock(ctx context.Context) error
}

// A PINChanger is a Token whose PINs can be changed. Each PIN that is given is
// tried once.
type PINChanger interface {
	ChangePIN(ctx context.Context, old, new []byte) error
	// Unblock sets a new PIN with the PUK: with PKCS#11, the PIN of the
	// security officer.
	Unblock(ctx context.Context, puk, pin []byte) error
	ChangePUK(ctx context.Context, old, new []byte) error
}

// slow is after how much time without a signature somebody may have to touch
// the token.
const slow = 500 * time.Millisecond

// Patiently returns a signer that calls notice when s has not signed after
// half a second: many tokens wait for a touch and have no way to say so.
func Patiently(s tuf.Signer, notice func()) tuf.Signer {
	if notice == nil {
		return s
	}
	return patient{s, notice}
}

type patient struct {
	tuf.Signer
	notice func()
}

func (p patient) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	defer Notice(p.notice)()
	return p.Signer.Sign(ctx, message)
}

// Notice calls notice in half a second, unless done is called before. What
// comes after done comes after the notice.
func Notice(notice func()) (done func()) {
	said := make(chan struct{})
	timer := time.AfterFunc(slow, func() { defer close(said); notice() })
	return func() {
		if !timer.Stop() {
			<-said
		}
	}
}
