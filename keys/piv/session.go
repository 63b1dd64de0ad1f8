package piv

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/iechor/trust/keys"
)

// do calls f with the token, which f must not keep. When ctx ends, f runs on
// without its caller: nothing can stop a token that waits for a touch.
func (s *Store) do(ctx context.Context, f func(c card) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		c, err := s.connected(ctx)
		if err == nil {
			err = f(c)
		}
		if errors.Is(err, keys.ErrTokenGone) && s.card != nil {
			s.forget()
		}
		s.leave()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter takes the turn, if the store can be used.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		<-s.turn
		return keys.ErrClosed
	}
	return nil
}

// leave gives the turn back. A store that was closed meanwhile is cleaned up.
func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.forget()
	}
	<-s.turn
}

// Close gives the token back and wipes what is in memory. A token that is
// waiting for a touch, because its caller has given up, is left to itself.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, m := range s.loose {
		errs = append(errs, m.Close())
	}
	s.loose = nil
	select {
	case s.turn <- struct{}{}:
		s.forget()
		<-s.turn
	default: // leave does it
	}
	return errors.Join(errs...)
}

// forget lets go of the card. It is for who has the turn.
func (s *Store) forget() {
	if s.card != nil {
		s.c.Shared.hold(s.card.about().reader, false)
		_ = s.card.close() // of a card that may be gone
	}
	clear(s.pin)
	clear(s.manage)
	s.card, s.pin, s.manage, s.found = nil, nil, nil, nil
}

// connected finds the token, if that has not been done. A token that was there
// and is gone stays gone: what comes back may be another one.
func (s *Store) connected(ctx context.Context) (card, error) {
	if s.card != nil {
		return s.card, nil
	}
	if s.last != nil {
		return nil, fmt.Errorf("%w: %s", keys.ErrTokenGone, *s.last)
	}
	c, err := find(ctx, s.system, s.c)
	if err != nil {
		return nil, err
	}
	t := describe(c)
	s.card, s.last = c, &t
	s.c.Shared.hold(c.about().reader, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial = t.Serial
	return c, nil
}

// find opens the token that is meant.
func find(ctx context.Context, sys system, conf Config) (card, error) {
	serial := conf.Serial
	names, err := fitting(sys, conf.Reader)
	if err != nil {
		return nil, err
	}
	var fit []card
	var unknown error // about a token that may be the one
	for _, name := range names {
		if conf.Shared.holds(name) {
			continue // it is another one
		}
		c, err := patiently(sys, name)
		switch {
		case errors.Is(err, keys.ErrTokenAbsent), errors.Is(err, keys.ErrTokenGone), errors.Is(err, errNotPIV):
		case err != nil:
			unknown = fmt.Errorf("%w: %s", err, name)
		case serial != "" && c.about().serial != serial:
			_ = c.close() // nothing was done with it
		default:
			fit = append(fit, c)
		}
	}
	switch {
	case len(fit) > 1:
		chosen, err := choose(ctx, conf, fit)
		for i, c := range fit {
			if i != chosen {
				_ = c.close() // nothing was done with it
			}
		}
		if err != nil {
			return nil, err
		}
		return fit[chosen], nil
	case len(fit) == 1 && (serial != "" || unknown == nil):
		return fit[0], nil
	case unknown != nil:
		for _, c := range fit {
			_ = c.close() // nothing was done with it
		}
		return nil, unknown
	}
	return nil, fmt.Errorf("%w: %s", keys.ErrTokenAbsent, words("YubiKey", serial))
}

// patiently opens a card. One that is busy may be so for a moment only: other
// programs look which cards are there, as we do.
func patiently(sys system, reader string) (card, error) {
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		c, err := sys.connect(reader)
		if !errors.Is(err, keys.ErrTokenBusy) || wait > time.Second {
			return c, err
		}
		time.Sleep(wait)
	}
}

// choose asks which of several cards is meant; on error it is none.
func choose(ctx context.Context, conf Config, fit []card) (int, error) {
	if conf.Choose == nil {
		return -1, fmt.Errorf("%w: %d are in readers", keys.ErrSeveralTokens, len(fit))
	}
	var among []keys.TokenInfo
	for _, c := range fit {
		among = append(among, describe(c))
	}
	chosen, err := conf.Choose(ctx, among)
	if err != nil {
		return -1, err
	}
	i := slices.Index(among, chosen)
	if i < 0 {
		return -1, fmt.Errorf("%w: %s", keys.ErrTokenAbsent, chosen)
	}
	return i, nil
}

// login gives the token its PIN, asking for it once in the life of the store.
func (s *Store) login(ctx context.Context, c card) error {
	if s.pin != nil {
		return nil
	}
	if s.refused != nil {
		return s.refused
	}
	pin, err := s.askPIN(ctx, c)
	if err == nil && string(pin) == FactoryPIN && !s.c.AllowFactory {
		clear(pin)
		err = fmt.Errorf("%w: the PIN of %s", ErrFactory, *s.last)
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, keys.ErrTokenGone) {
			s.refused = err
		}
		return err
	}
	s.pin = pin
	return nil
}

// maxPINs bounds how often people are asked for a PIN.
const maxPINs = 3

// askPIN asks until the token takes the PIN.
func (s *Store) askPIN(ctx context.Context, c card) ([]byte, error) {
	if s.c.PINs == nil {
		return nil, keys.ErrNoPIN
	}
	for attempt := 1; ; attempt++ {
		left, err := c.tries()
		if err != nil && !errors.Is(err, errKnown) {
			return nil, err
		}
		if err == nil && left == 0 {
			return nil, &keys.PINError{Token: *s.last, Locked: true}
		}
		pin, err := s.c.PINs.PIN(ctx, keys.PINRequest{Token: *s.last, Attempt: attempt, Left: keys.Tries(left)})
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && len(pin) == 0 {
			err = keys.ErrNoPIN
		}
		if err != nil {
			clear(pin)
			return nil, err
		}
		if err = checkLength("a PIN", string(pin)); err == nil {
			err = c.login(string(pin))
		}
		if err == nil {
			return pin, nil
		}
		clear(pin)
		wrong := (*wrongError)(nil)
		switch {
		case errors.Is(err, ErrLength):
			wrong = &wrongError{left} // the token was not bothered with it
		case !errors.As(err, &wrong):
			return nil, err
		}
		s.last.Tries = keys.Tries(wrong.left)
		if wrong.left == 0 || attempt == maxPINs {
			return nil, &keys.PINError{Token: *s.last, Left: keys.Tries(wrong.left), Locked: wrong.left == 0}
		}
	}
}

// Sign signs on the card.
func (k *slotKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	policy := k.e.content.policy.PIN
	if policy == "" {
		policy = PINAlways // does for all
	}
	pin := string(k.s.pin)
	if policy == PINNever {
		pin = ""
	}
	done := k.s.waiting()
	sig, err := k.c.sign(k.e.slot, k.e.public, policy, pin, digest, opts)
	done()
	switch wrong := (*wrongError)(nil); {
	case errors.As(err, &wrong):
		return nil, &keys.PINError{Token: *k.s.last, Left: keys.Tries(wrong.left), Locked: wrong.left == 0}
	case errors.Is(err, errDenied) && k.e.content.policy.Touch != TouchNever:
		return nil, fmt.Errorf("%w: %w", ErrNotTouched, err)
	case errors.Is(err, errDenied):
		return nil, fmt.Errorf("%w: %w", keys.ErrTokenRefuses, err)
	}
	return sig, err
}

// waiting has the caller of the store told when a signature takes its time.
func (s *Store) waiting() (done func()) {
	if s.c.Waiting == nil {
		return func() {}
	}
	token := *s.last
	return keys.Notice(func() { s.c.Waiting(token) })
}

// unlock sees to the management key: what changes the token needs it.
func (s *Store) unlock(ctx context.Context, c card) ([]byte, error) {
	if s.manage != nil {
		return s.manage, nil
	}
	factory := factoryKey()
	switch err := c.authenticate(factory); {
	case err == nil && !s.c.AllowFactory:
		return nil, fmt.Errorf("%w: the management key of %s", ErrFactory, *s.last)
	case err == nil:
		s.manage = factory
		return s.manage, nil
	case !errors.Is(err, errManagement):
		return nil, err
	}
	if err := s.login(ctx, c); err != nil {
		return nil, err
	}
	key, err := c.kept(string(s.pin))
	if err != nil {
		return nil, err
	}
	if key == nil && s.c.ManagementKey != nil {
		if key, err = s.c.ManagementKey(ctx, *s.last); err != nil {
			return nil, err
		}
	}
	if key == nil {
		return nil, fmt.Errorf("%w: %s", ErrManagementKey, *s.last)
	}
	if err := c.authenticate(key); err != nil {
		clear(key)
		if errors.Is(err, errManagement) {
			err = fmt.Errorf("%w: what was given is not it: %s", ErrManagementKey, *s.last)
		}
		return nil, err
	}
	s.manage = bytes.Clone(key)
	clear(key)
	return s.manage, nil
}
