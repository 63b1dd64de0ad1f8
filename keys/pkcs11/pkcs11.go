// Package pkcs11 keeps keys on tokens that speak PKCS#11: security modules,
// smart cards, SoftHSM.
//
// A [Library] is the module that the maker of the token delivers. [Open] gives
// a [Token] of it, which is a keys.Store: its keys sign, and never leave it.
// [Token.KEK] gives a key of it that wraps other keys.
//
// Promised: the token is touched when it is used, and logged into once; a PIN
// that was refused is not tried again; after the token was lost it is found
// again by its label or serial number, and what could be done twice is done
// again; a key is known by its public half, not by its name, and each
// signature is verified before it is returned. Refused: tokens that are locked
// or not set up, PINs from a file when only one try is left.
//
// Builds without cgo have the package, and every use of it is
// keys.ErrNoSupport. Read pkcs11.go, connection.go, then store.go, objects.go
// and kek.go; standard.go is what is used of PKCS#11, cryptoki.go is the only
// file that knows the binding.
package pkcs11

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/iechor/trust/keys"
)

// maxObjects bounds what is read of one token.
const maxObjects = 10_000

// A Library is a PKCS#11 module, loaded when it is first used. A process needs
// one Library for each file: PKCS#11 logs a whole process in. It is safe for
// concurrent use.
type Library struct {
	path string
	load func(path string) (module, error)

	mu     sync.Mutex // guards the fields below
	m      module     // nil: not loaded
	busy   int        // calls under way that may outlive their caller
	age    int        // how often it was loaded
	closed bool
}

// NewLibrary returns the library at path, which must be absolute.
func NewLibrary(path string) *Library { return &Library{path: path, load: load} }

// Path is where the library is.
func (l *Library) Path() string { return l.path }

// module loads the library if that has not been done.
func (l *Library) module() (module, int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded()
}

func (l *Library) loaded() (module, int, error) {
	if l.closed {
		return nil, 0, keys.ErrClosed
	}
	if l.m == nil {
		if !filepath.IsAbs(l.path) {
			return nil, 0, &loadError{fmt.Errorf("%w: %q is not an absolute path", keys.ErrDriver, l.path)}
		}
		m, err := l.load(l.path)
		if err != nil {
			return nil, 0, &loadError{err}
		}
		l.m = m
		l.age++
	}
	return l.m, l.age, nil
}

// again starts the library anew, unless somebody has done so since age: some
// find a token that was away only then. Nothing may be under way.
func (l *Library) again(age int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil || l.age != age || l.busy > 0 {
		return nil
	}
	err := l.m.close()
	l.m = nil
	_, _, again := l.loaded()
	return errors.Join(err, again)
}

// begin and end are around calls into the library.
func (l *Library) begin() { l.mu.Lock(); l.busy++; l.mu.Unlock() }
func (l *Library) end()   { l.mu.Lock(); l.busy--; l.mu.Unlock() }

// Close unloads the library. Close its tokens first. A call that hangs in the
// token, because its caller has given up, is left to the end of the process.
func (l *Library) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.m == nil || l.busy > 0 {
		return nil
	}
	err := l.m.close()
	l.m = nil
	return err
}

// A Slot is a place of the library where a token is.
type Slot struct {
	Number uint
	Token  keys.TokenInfo
}

// Tokens lists what is there now, blank tokens included.
func (l *Library) Tokens() ([]Slot, error) {
	m, _, err := l.module()
	if err != nil {
		return nil, err
	}
	numbers, err := m.slots()
	if err != nil {
		return nil, driverError(l.path, err)
	}
	var out []Slot
	for _, n := range numbers {
		i, err := m.info(n)
		if lost(err) {
			continue // pulled out since
		}
		if err != nil {
			return nil, driverError(l.path, err)
		}
		out = append(out, Slot{n, i.public()})
	}
	return out, nil
}

func driverError(path string, err error) error {
	return fmt.Errorf("%w: %s: %w", keys.ErrDriver, path, err)
}

// public says what i means.
func (i tokenInfo) public() keys.TokenInfo {
	t := keys.TokenInfo{
		Label: i.label, Serial: i.serial, Manufacturer: i.manufacturer, Model: i.model,
		Blank:  i.flags&flagInitialized == 0 || i.flags&(flagLoginRequired|flagPINInitialized) == flagLoginRequired,
		Locked: i.flags&flagPINLocked != 0,
	}
	switch {
	case i.flags&flagPINFinalTry != 0:
		t.Tries = 1
	case i.flags&flagPINCountLow != 0:
		t.Tries = keys.TriesFew
	}
	return t
}

// A Choice says which token of a library is meant. What is empty does not
// decide; if all is, there must be one token only.
type Choice struct {
	Label, Serial string
	Slot          *uint // changes when tokens are set up: the others are better
}

func (c Choice) fits(s Slot) bool {
	return (c.Label == "" || c.Label == s.Token.Label) &&
		(c.Serial == "" || c.Serial == s.Token.Serial) &&
		(c.Slot == nil || *c.Slot == s.Number)
}

// String names the token as far as it is known.
func (c Choice) String() string {
	switch {
	case c.Label != "":
		return "token " + c.Label
	case c.Serial != "":
		return "token with serial number " + c.Serial
	case c.Slot != nil:
		return fmt.Sprintf("token in slot %d", *c.Slot)
	}
	return "token"
}

// A SeveralError lists the tokens that fit a choice. It matches
// keys.ErrSeveralTokens.
type SeveralError struct {
	Choice Choice
	Tokens []keys.TokenInfo
}

func (e *SeveralError) Error() string {
	return fmt.Sprintf("%v: %d fit %s", keys.ErrSeveralTokens, len(e.Tokens), e.Choice)
}
func (e *SeveralError) Is(t error) bool { return t == keys.ErrSeveralTokens }

// find returns the slot of the token that is meant.
func (l *Library) find(c Choice) (Slot, error) {
	all, err := l.Tokens()
	if err != nil {
		return Slot{}, err
	}
	var fit []Slot
	for _, s := range all {
		// A blank token has neither label nor PIN: it is there to be set up,
		// and nothing else means it.
		if c.fits(s) && (!s.Token.Blank || s.Token.Label != "" || c.Slot != nil) {
			fit = append(fit, s)
		}
	}
	switch len(fit) {
	case 0:
		return Slot{}, fmt.Errorf("%w: %s at %s", keys.ErrTokenAbsent, c, l.path)
	case 1:
		return fit[0], nil
	}
	several := &SeveralError{Choice: c}
	for _, s := range fit {
		several.Tokens = append(several.Tokens, s.Token)
	}
	return Slot{}, several
}

// A Config says which token to use, and who knows its PIN.
type Config struct {
	Library *Library
	Token   Choice
	PINs    keys.PINs // nil: nobody can be asked
	// Choose says which token is meant when several fit; nil: nobody does.
	Choose func(ctx context.Context, among []keys.TokenInfo) (keys.TokenInfo, error)
	// Waiting is called when a signature takes its time: somebody may have to
	// touch the token.
	Waiting func(t keys.TokenInfo)
}

// A Token is one token. It is safe for concurrent use, by up to 16 callers at
// once; more wait. Nothing is done before it is used.
type Token struct {
	c    Config
	turn chan struct{} // held by who connects and logs in
	many chan struct{} // one for each session in use

	mu      sync.Mutex // guards the fields below
	closed  bool
	conn    *connection     // nil: none
	last    *keys.TokenInfo // as it was when it was there
	refused error           // the PIN was: it is not tried again
	away    error           // why there are no keys; see Away
	pin     []byte          // as it was accepted
	soft    []crypto.Signer // keys in memory, which were imported
	unsaved map[[2]handle]bool
}

// Open returns a token, which need not be there.
func Open(c Config) *Token {
	return &Token{c: c, turn: make(chan struct{}, 1), many: make(chan struct{}, 16), unsaved: map[[2]handle]bool{}}
}

// Name is how people know the token.
func (t *Token) Name() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c.Token != (Choice{}) {
		return t.c.Token.String()
	}
	return "token of " + t.c.Library.path
}

// Look returns what the token says about itself. A token that fits and is
// blank is keys.ErrTokenBlank.
func (t *Token) Look(ctx context.Context) (keys.TokenInfo, error) {
	if err := t.usable(ctx); err != nil {
		return keys.TokenInfo{}, err
	}
	s, err := t.find(ctx)
	if err != nil {
		return keys.TokenInfo{}, err
	}
	if s.Token.Blank {
		return s.Token, fmt.Errorf("%w: %s", keys.ErrTokenBlank, s.Token)
	}
	return s.Token, nil
}

// find returns the slot of the token. Which one is meant may be asked once.
func (t *Token) find(ctx context.Context) (Slot, error) {
	t.mu.Lock()
	choice := t.c.Token
	t.mu.Unlock()
	s, err := t.c.Library.find(choice)
	var several *SeveralError
	if !errors.As(err, &several) || t.c.Choose == nil {
		return s, t.absent(err)
	}
	chosen, err := t.c.Choose(ctx, several.Tokens)
	if err != nil {
		return s, err
	}
	choice.Label, choice.Serial = chosen.Label, chosen.Serial
	t.mu.Lock()
	t.c.Token = choice
	t.mu.Unlock()
	s, err = t.c.Library.find(choice)
	return s, t.absent(err)
}

// absent makes err say that a token that was there before is gone.
func (t *Token) absent(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last != nil && errors.Is(err, keys.ErrTokenAbsent) {
		return fmt.Errorf("%w: %s", keys.ErrTokenGone, *t.last)
	}
	return err
}

func (t *Token) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return keys.ErrClosed
	}
	return nil
}

// Close logs out and wipes what is in memory. The library stays.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	clear(t.pin)
	t.pin = nil
	for _, k := range t.soft {
		keys.Wipe(k)
	}
	c := t.conn
	t.conn, t.soft = nil, nil
	if c == nil {
		return nil
	}
	for halves := range t.unsaved {
		for _, h := range halves {
			_ = c.anchor.destroy(h) // who is away now keeps what has no name
		}
	}
	return c.close()
}
