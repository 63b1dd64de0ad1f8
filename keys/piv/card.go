package piv

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/iechor/trust/tuf"
)

// This file is what the rest of the package knows of a card. Its two
// implementations are pcsc.go and the card of the tests.

// A system is where readers are.
type system interface {
	readers() ([]string, error)
	connect(reader string) (card, error)
}

// A card is one that was opened: nobody else can use it until it is closed.
// Its errors match keys.ErrTokenGone and its like, or one of those below.
type card interface {
	about() about
	tries() (int, error) // for the PIN; errKnown if it was given
	login(pin string) error
	setPIN(old, new string) error
	setPUK(old, new string) error
	unblock(puk, newPIN string) error

	// authenticate tries a management key; there is no end of tries.
	authenticate(manage []byte) error
	setManagementKey(old, new []byte) error
	// kept returns the management key that the card keeps behind its PIN, or
	// nil; keep has it kept.
	kept(pin string) ([]byte, error)
	keep(manage, kept []byte) error

	certificate(s Slot) (*x509.Certificate, error)
	setCertificate(manage []byte, s Slot, der []byte) error // nil: none
	look(s Slot) (content, error)
	generate(manage []byte, s Slot, a kind, p Policy) (crypto.PublicKey, error)
	load(manage []byte, s Slot, key crypto.Signer, p Policy) error
	// sign takes a PIN for keys that ask for it each time.
	sign(s Slot, public crypto.PublicKey, p PINPolicy, pin string, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	attest(s Slot) (key, device *x509.Certificate, err error)
	close() error
}

var (
	errEmpty      = errors.New("there is nothing in the slot")
	errUnseen     = errors.New("the card does not tell what is in the slot")
	errKnown      = errors.New("the PIN was given already")
	errManagement = errors.New("that is not the management key")
)

// A wrongError says that a PIN or PUK was wrong, and how many tries are left.
type wrongError struct{ left int }

func (e *wrongError) Error() string { return fmt.Sprintf("wrong, %d tries left", e.left) }

// about is what a card says of itself.
type about struct {
	reader   string
	serial   string // empty: it has none
	firmware Version
}

// A Version is that of a card's firmware.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

func (v Version) atLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// A kind is one of keys that cards make.
type kind int

const (
	p256 kind = iota
	p384
)

// content is what a card says about the key in a slot.
type content struct {
	public    crypto.PublicKey // nil: of a kind that we do not know
	policy    Policy
	generated bool // on the card
}

// A Slot is a place for a key.
type Slot byte

// The slots that people know by name; those from 82 to 95 have numbers only.
const (
	Authentication Slot = 0x9a
	Signature      Slot = 0x9c
	KeyManagement  Slot = 0x9d
	CardKey        Slot = 0x9e
)

// Where root keys go first is where the stock program looks for them
// (notary-protocol 8); other keys leave those to whatever else the card is
// used for, as long as they can.
var (
	standard = []Slot{Signature, Authentication, KeyManagement, CardKey}
	retired  = func() (s []Slot) {
		for i := Slot(0x82); i <= 0x95; i++ {
			s = append(s, i)
		}
		return s
	}()
)

// slotsFor lists the slots for a key of the role, the best first.
func slotsFor(role string) []Slot {
	if role == string(tuf.RoleRoot) {
		return slices.Concat(standard, retired)
	}
	return slices.Concat(retired, standard)
}

func (s Slot) String() string { return strconv.FormatUint(uint64(s), 16) }

// ParseSlot reads the two hex digits that name a slot for keys.
func ParseSlot(text string) (Slot, error) {
	n, err := strconv.ParseUint(text, 16, 8)
	if s := Slot(n); err == nil && slices.Contains(slotsFor(""), s) {
		return s, nil
	}
	return 0, fmt.Errorf("%q is not a slot: it is one of 9c, 9a, 9d, 9e, and 82 to 95", text)
}

// A Policy says what a key asks for when it signs. It is fixed when the key
// comes onto the card.
type Policy struct {
	PIN   PINPolicy
	Touch TouchPolicy
}

// A PINPolicy says when a key wants the PIN.
type PINPolicy string

const (
	PINOnce   PINPolicy = "once" // a session
	PINAlways PINPolicy = "always"
	PINNever  PINPolicy = "never"
)

// A TouchPolicy says when a key wants the card to be touched.
type TouchPolicy string

const (
	TouchNever  TouchPolicy = "never"
	TouchAlways TouchPolicy = "always"
	TouchCached TouchPolicy = "cached" // for 15 seconds
)

// ParsePolicy reads the words of the two policies; an empty one is left empty,
// which stands for what is usual for the key's role.
func ParsePolicy(pin, touch string) (Policy, error) {
	p := Policy{PINPolicy(pin), TouchPolicy(touch)}
	pins, touches := []PINPolicy{"", PINOnce, PINAlways, PINNever}, []TouchPolicy{"", TouchNever, TouchAlways, TouchCached}
	if !slices.Contains(pins, p.PIN) {
		return Policy{}, fmt.Errorf("%q is not when a PIN is wanted: once, always or never", pin)
	}
	if !slices.Contains(touches, p.Touch) {
		return Policy{}, fmt.Errorf("%q is not when a touch is wanted: never, always or cached", touch)
	}
	return p, nil
}

// usual fills in what is usual: the PIN once, and a touch for root keys where
// the card has that.
func (p Policy) usual(role string, v Version) (Policy, error) {
	if p.PIN == "" {
		p.PIN = PINOnce
	}
	canTouch := v.atLeast(4, 0)
	switch {
	case p.Touch == "" && role == string(tuf.RoleRoot) && canTouch:
		p.Touch = TouchAlways
	case p.Touch == "":
		p.Touch = TouchNever
	case p.Touch != TouchNever && !canTouch:
		return p, fmt.Errorf("%w: firmware %s cannot be touched", ErrPolicy, v)
	case p.Touch == TouchCached && !v.atLeast(4, 3):
		return p, fmt.Errorf("%w: firmware %s does not remember a touch", ErrPolicy, v)
	}
	return p, nil
}

// ErrPolicy says that a token is too old for a policy.
var ErrPolicy = errors.New("the token does not have that policy")

// words joins what people read.
func words(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}
