package pkcs11

import (
	"context"
	"errors"
	"fmt"

	"github.com/iechor/trust/keys"
)

// maxLabel bounds a token's label, in bytes: the standard has room for no more.
const maxLabel = 32

// Setup gives the token in a slot a label, the PIN of its security officer (who
// can set a new PIN) and its PIN. A token that is in use is refused: it would
// lose its keys. The slot may have another number afterwards.
func (l *Library) Setup(slot uint, label string, soPIN, pin []byte) (keys.TokenInfo, error) {
	if label == "" || len(label) > maxLabel {
		return keys.TokenInfo{}, fmt.Errorf("%w: a label has 1 to %d bytes", keys.ErrTokenRefuses, maxLabel)
	}
	m, _, err := l.module()
	if err != nil {
		return keys.TokenInfo{}, err
	}
	i, err := m.info(slot)
	if err != nil {
		return keys.TokenInfo{}, explain(err)
	}
	if !i.public().Blank {
		return i.public(), fmt.Errorf("%w: %s: to set it up again would destroy its keys", keys.ErrExists, i.public())
	}
	serial := i.serial
	if i.flags&flagInitialized == 0 {
		if err := m.initToken(slot, string(soPIN), label); err != nil {
			return i.public(), explain(err)
		}
	} else if i.label != label {
		return i.public(), fmt.Errorf("%w: it has the label %s already", keys.ErrTokenRefuses, i.label)
	}
	// SoftHSM gives it a new number, and a serial number.
	numbers, err := m.slots()
	if err != nil {
		return i.public(), explain(err)
	}
	for _, n := range numbers {
		now, err := m.info(n)
		if err != nil || now.label != label || now.serial != serial && n != slot && !now.public().Blank {
			continue
		}
		if err := asOfficer(m, n, soPIN, func(s session) error { return s.initPIN(pin) }); err != nil {
			return now.public(), err
		}
		now, err = m.info(n)
		return now.public(), explain(err)
	}
	return i.public(), fmt.Errorf("%w after it was initialized", keys.ErrTokenGone)
}

var _ keys.PINChanger = (*Token)(nil)

// asOfficer calls f as the security officer.
func asOfficer(m module, slot uint, soPIN []byte, f func(session) error) (err error) {
	s, err := m.open(slot)
	if err != nil {
		return explain(err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.login(userSO, soPIN); err != nil {
		if is(err, codePINIncorrect, codePINInvalid, codePINLength, codePINLocked) {
			i, _ := m.info(slot) // only for the name
			return fmt.Errorf("the SO PIN: %w", &keys.PINError{Token: i.public().Named(), Locked: is(err, codePINLocked)})
		}
		return explain(err)
	}
	err = f(s)
	if is(err, codePINInvalid, codePINLength) {
		err = fmt.Errorf("%w the new PIN: it is too short, too long, or too simple", keys.ErrTokenRefuses)
	}
	return errors.Join(explain(err), s.logout())
}

// officer calls f as the security officer of t.
func (t *Token) officer(ctx context.Context, soPIN []byte, f func(session) error) error {
	if err := t.usable(ctx); err != nil {
		return err
	}
	slot, err := t.find(ctx)
	if err != nil {
		return err
	}
	m, _, err := t.c.Library.module()
	if err != nil {
		return err
	}
	return asOfficer(m, slot.Number, soPIN, f)
}

// Unblock sets a new PIN with the PIN of the security officer.
func (t *Token) Unblock(ctx context.Context, soPIN, pin []byte) error {
	return t.officer(ctx, soPIN, func(s session) error { return s.initPIN(pin) })
}

// ChangePUK changes the PIN of the security officer.
func (t *Token) ChangePUK(ctx context.Context, old, new []byte) error {
	return t.officer(ctx, old, func(s session) error { return s.setPIN(old, new) })
}

// ChangePIN changes the PIN. The old one is tried once.
func (t *Token) ChangePIN(ctx context.Context, old, new []byte) error {
	return t.with(ctx, use{}, func(c *connection, s session) error {
		err := s.setPIN(old, new)
		switch {
		case is(err, codePINIncorrect), is(err, codePINLocked):
			now, e := t.c.Library.info(c.slot.Number)
			if e != nil {
				return e
			}
			return &keys.PINError{Token: now, Left: now.Tries, Locked: now.Locked || is(err, codePINLocked)}
		case is(err, codePINInvalid, codePINLength):
			return fmt.Errorf("%w the new PIN: it is too short, too long, or too simple", keys.ErrTokenRefuses)
		}
		return err
	})
}

// Unlock logs in, if the token wants that.
func (t *Token) Unlock(ctx context.Context) error {
	return t.with(ctx, use{login: true, again: true}, func(*connection, session) error { return nil })
}
