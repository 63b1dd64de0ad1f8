package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/iechor/trust/keys"
)

// A connection is a token that was found and may be logged into: its sessions.
type connection struct {
	library *Library
	age     int // of the library
	slot    Slot
	keypad  bool
	in      bool    // logged in; for who has the turn
	anchor  session // keeps the login while no other session is open

	mu     sync.Mutex // guards the fields below
	dead   bool
	idle   []session
	secret map[string]handle // secret keys that were found, by name
}

// take returns a session that nobody else uses.
func (c *connection) take() (session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, age, err := c.library.module()
	if err != nil {
		return nil, err
	}
	if age != c.age || c.dead {
		return nil, codeSessionHandle
	}
	if n := len(c.idle); n > 0 {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return s, nil
	}
	return m.open(c.slot.Number)
}

// give takes a session back.
func (c *connection) give(s session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		_ = s.close() // of a token that is gone
		return
	}
	c.idle = append(c.idle, s)
}

// close ends the connection. Sessions in use are closed when they come back.
func (c *connection) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return nil
	}
	c.dead = true
	if _, age, err := c.library.module(); err != nil || age != c.age {
		return nil // its sessions ended with the library as it was
	}
	var errs []error
	for _, s := range append(c.idle, c.anchor) {
		if err := s.close(); !lost(err) {
			errs = append(errs, err)
		}
	}
	c.idle = nil
	return errors.Join(errs...)
}

// How a token is used.
type use struct {
	login bool // private objects are needed
	again bool // may be done twice: it is, when the token was lost meanwhile
}

// with calls f with a session, which f must not keep. When ctx ends f runs on
// without its caller: nothing can stop a token.
func (t *Token) with(ctx context.Context, how use, f func(c *connection, s session) error) error {
	for attempt := 1; ; attempt++ {
		c, err := t.connect(ctx, how.login)
		if err == nil {
			err = t.run(ctx, c, f)
		}
		if c == nil || !lost(err) {
			return explain(err)
		}
		t.drop(c)
		if !how.again || attempt == 3 {
			return explain(err)
		}
		if attempt == 2 { // a new session was not enough
			if err := c.library.again(c.age); err != nil {
				return err
			}
		}
	}
}

func (t *Token) run(ctx context.Context, c *connection, f func(c *connection, s session) error) error {
	select {
	case t.many <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan error, 1)
	c.library.begin()
	go func() {
		s, err := c.take()
		if err == nil {
			err = f(c, s)
			c.give(s)
		}
		c.library.end()
		<-t.many
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Login finds the token and logs in, if that has not been done. A nil error
// says that its keys can be used. For a token that is not there the library is
// started anew, because some see only then that it has come: that is for
// services, which wait for it, and not too often.
func (t *Token) Login(ctx context.Context) error {
	look := func() error {
		return t.with(ctx, use{login: true, again: true}, func(c *connection, _ session) error {
			_, err := c.library.info(c.slot.Number)
			return err
		})
	}
	err := look()
	if !errors.Is(err, keys.ErrTokenAbsent) && !errors.Is(err, keys.ErrTokenGone) {
		return err
	}
	_, age, failed := t.c.Library.module()
	if failed == nil {
		failed = t.c.Library.again(age)
	}
	if failed != nil {
		return failed
	}
	return look()
}

// connect finds the token, and logs in if that is needed.
func (t *Token) connect(ctx context.Context, login bool) (*connection, error) {
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	t.c.Library.begin()
	defer t.c.Library.end()
	c, err := t.connected(ctx)
	if err != nil {
		return nil, err
	}
	if !login || c.in {
		return c, nil
	}
	return c, t.login(ctx, c)
}

// connected is for who has the turn.
func (t *Token) connected(ctx context.Context) (*connection, error) {
	t.mu.Lock()
	c := t.conn
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	l := t.c.Library
	slot, err := t.find(ctx)
	if err != nil {
		return nil, err
	}
	if slot.Token.Blank {
		return nil, fmt.Errorf("%w: %s", keys.ErrTokenBlank, slot.Token)
	}
	m, age, err := l.module()
	if err != nil {
		return nil, err
	}
	info, err := m.info(slot.Number)
	if err != nil {
		return nil, explain(err)
	}
	anchor, err := m.open(slot.Number)
	if err != nil {
		return nil, explain(err)
	}
	c = &connection{
		library: l, age: age, slot: slot, anchor: anchor, secret: map[string]handle{},
		in: info.flags&flagLoginRequired == 0, keypad: info.flags&flagKeypad != 0,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn, t.last = c, &slot.Token
	return c, nil
}

// drop forgets a connection that is of no use any more.
func (t *Token) drop(c *connection) {
	t.mu.Lock()
	if t.conn == c {
		t.conn = nil
	}
	t.mu.Unlock()
	_ = c.close() // it is lost
}

// maxPINs bounds how often people are asked for a PIN.
const maxPINs = 3

// login is for who has the turn.
func (t *Token) login(ctx context.Context, c *connection) error {
	t.mu.Lock()
	pin, refused := bytes.Clone(t.pin), t.refused
	t.mu.Unlock()
	defer func() { clear(pin) }()
	if refused != nil {
		return refused
	}
	for attempt := 1; ; attempt++ {
		now, err := t.c.Library.info(c.slot.Number)
		if err != nil {
			return err
		}
		if now.Locked {
			return t.refuse(&keys.PINError{Token: now, Locked: true})
		}
		if pin == nil {
			if pin, err = t.ask(ctx, keys.PINRequest{Token: now, Attempt: attempt, Left: now.Tries, Keypad: c.keypad}); err != nil {
				return t.refuse(err)
			}
		}
		err = c.anchor.login(user, pin)
		// The process may be logged in by another Token of this library.
		if err == nil || is(err, codeAlreadyLoggedIn) {
			c.in = true
			t.mu.Lock()
			clear(t.pin)
			t.pin = bytes.Clone(pin)
			t.mu.Unlock()
			return nil
		}
		clear(pin)
		pin = nil
		switch {
		case is(err, codePINLocked):
			return t.refuse(&keys.PINError{Token: now, Locked: true})
		case is(err, codeNotInitializedPIN):
			return t.refuse(fmt.Errorf("%w: it has no PIN: %s", keys.ErrTokenBlank, now))
		case is(err, codePINExpired):
			return t.refuse(fmt.Errorf("%w: its PIN has expired and must be changed: %s", keys.ErrTokenRefuses, now))
		case !is(err, codePINIncorrect, codePINInvalid, codePINLength):
			return err
		}
		if now, err = t.c.Library.info(c.slot.Number); err != nil {
			return err
		}
		if now.Locked || attempt == maxPINs {
			return t.refuse(&keys.PINError{Token: now, Left: now.Tries, Locked: now.Locked})
		}
	}
}

// refuse remembers why there is no PIN: what is needed again asks no second
// time.
func (t *Token) refuse(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.pin)
	t.pin = nil
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		t.refused = err
	}
	return err
}

func (t *Token) ask(ctx context.Context, r keys.PINRequest) ([]byte, error) {
	if t.c.PINs == nil {
		return nil, keys.ErrNoPIN
	}
	pin, err := t.c.PINs.PIN(ctx, r)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && len(pin) == 0 && !r.Keypad {
		err = keys.ErrNoPIN
	}
	if err != nil {
		clear(pin)
		return nil, err
	}
	return pin, nil
}

// info describes the token in a slot.
func (l *Library) info(slot uint) (keys.TokenInfo, error) {
	m, _, err := l.module()
	if err != nil {
		return keys.TokenInfo{}, err
	}
	i, err := m.info(slot)
	return i.public(), err
}

// explain turns what a library returned into what a caller can decide on.
func explain(err error) error {
	for _, m := range []struct {
		means error
		codes []code
	}{
		{keys.ErrTokenGone, []code{codeSlotInvalid, codeDeviceRemoved, codeTokenNotPresent, codeTokenNotRecognized, codeSessionClosed, codeSessionHandle, codeNotLoggedIn, codeKeyHandle, codeObjectHandle}},
		{keys.ErrTokenBusy, []code{codeSessionCount, codeAnotherLoggedIn}},
		{keys.ErrTokenFull, []code{codeDeviceMemory}},
		{keys.ErrTokenRefuses, []code{
			codeDevice, codeAttributeReadOnly, codeAttributeType, codeAttributeValue, codeNotSupported, codeKeyFunction, codeFunctionCanceled,
			codeMechanism, codeSessionReadOnly, codeTemplateIncomplete, codeTemplateInconsisent, codeWriteProtected, codeCurveNotSupported,
		}},
	} {
		if is(err, m.codes...) {
			return fmt.Errorf("%w: %w", m.means, err)
		}
	}
	return err
}
