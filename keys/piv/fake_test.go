package piv

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"

	"github.com/iechor/trust/keys"
)

// fakeSystem has cards in memory. It is a real one, but for the APDUs: cards
// are opened exclusively, count tries and keep policies.
type fakeSystem struct {
	mu    sync.Mutex
	cards map[string]*fakeCard // by reader
	err   error                // of the service
}

func (f *fakeSystem) readers() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.cards {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, f.err
}

func (f *fakeSystem) connect(reader string) (card, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.cards[reader]
	switch {
	case f.err != nil:
		return nil, f.err
	case c == nil:
		return nil, keys.ErrTokenAbsent
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		return nil, keys.ErrTokenBusy
	}
	c.open, c.verified = true, false
	return c, nil
}

// pull takes a card out.
func (f *fakeSystem) pull(reader string) {
	f.mu.Lock()
	c := f.cards[reader]
	f.cards[reader] = nil
	f.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
}

type fakeCard struct {
	a about

	mu       sync.Mutex
	open     bool
	gone     bool
	verified bool
	pin, puk string
	left     [2]int // tries for PIN and PUK
	manage   []byte
	held     []byte // the management key, behind the PIN
	slots    map[Slot]*fakeSlot
	failCert error // of the next certificate
	lie      bool  // sign with another key
	touched  func() bool
}

type fakeSlot struct {
	cert    *x509.Certificate
	key     crypto.Signer
	policy  Policy
	created bool
}

func newFake(serial string, v Version) *fakeCard {
	return &fakeCard{
		a:   about{reader: "Yubico YubiKey " + serial, serial: serial, firmware: v},
		pin: FactoryPIN, puk: FactoryPUK, left: [2]int{3, 3}, manage: factoryKey(), slots: map[Slot]*fakeSlot{},
	}
}

// use locks the card, or says that it is gone.
func (c *fakeCard) use() (func(), error) {
	c.mu.Lock()
	if c.gone || !c.open {
		c.mu.Unlock()
		return nil, keys.ErrTokenGone
	}
	return c.mu.Unlock, nil
}

func (c *fakeCard) about() about { return c.a }

func (c *fakeCard) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = false
	return nil
}

func (c *fakeCard) tries() (int, error) {
	done, err := c.use()
	if err != nil {
		return 0, err
	}
	defer done()
	if c.verified {
		return 0, errKnown
	}
	return c.left[0], nil
}

// check is for who holds the lock.
func (c *fakeCard) check(which int, is, given string) error {
	if c.left[which] == 0 || is != given {
		c.left[which] = max(0, c.left[which]-1)
		return &wrongError{c.left[which]}
	}
	c.left[which] = 3
	return nil
}

func (c *fakeCard) login(pin string) error {
	done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	err = c.check(0, c.pin, pin)
	c.verified = err == nil
	return err
}

func (c *fakeCard) setPIN(old, pin string) error {
	done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	if err := c.check(0, c.pin, old); err != nil {
		return err
	}
	c.pin = pin
	return nil
}

func (c *fakeCard) setPUK(old, puk string) error {
	done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	if err := c.check(1, c.puk, old); err != nil {
		return err
	}
	c.puk = puk
	return nil
}

func (c *fakeCard) unblock(puk, pin string) error {
	done, err := c.use()
	if err != nil {
		return err
	}
	defer done()
	if err := c.check(1, c.puk, puk); err != nil {
		return err
	}
	c.pin, c.left[0] = pin, 3
	return nil
}

func (c *fakeCard) managed(manage []byte) (func(), error) {
	done, err := c.use()
	if err == nil && !bytes.Equal(manage, c.manage) {
		done()
		return nil, errManagement
	}
	return done, err
}

func (c *fakeCard) authenticate(manage []byte) error {
	done, err := c.managed(manage)
	if err == nil {
		done()
	}
	return err
}

func (c *fakeCard) setManagementKey(old, key []byte) error {
	done, err := c.managed(old)
	if err != nil {
		return err
	}
	defer done()
	c.manage = bytes.Clone(key)
	return nil
}

func (c *fakeCard) kept(pin string) ([]byte, error) {
	if err := c.login(pin); err != nil {
		return nil, err
	}
	return bytes.Clone(c.held), nil
}

func (c *fakeCard) keep(manage, kept []byte) error {
	done, err := c.managed(manage)
	if err != nil {
		return err
	}
	defer done()
	c.held = bytes.Clone(kept)
	return nil
}

func (c *fakeCard) slot(s Slot) *fakeSlot {
	if c.slots[s] == nil {
		c.slots[s] = &fakeSlot{}
	}
	return c.slots[s]
}

func (c *fakeCard) certificate(s Slot) (*x509.Certificate, error) {
	done, err := c.use()
	if err != nil {
		return nil, err
	}
	defer done()
	if cert := c.slot(s).cert; cert != nil {
		return cert, nil
	}
	return nil, errEmpty
}

func (c *fakeCard) setCertificate(manage []byte, s Slot, der []byte) error {
	done, err := c.managed(manage)
	if err != nil {
		return err
	}
	defer done()
	if err, c.failCert = c.failCert, nil; err != nil {
		return err
	}
	c.slot(s).cert = nil
	if der != nil {
		c.slot(s).cert, err = x509.ParseCertificate(der)
	}
	return err
}

func (c *fakeCard) look(s Slot) (content, error) {
	done, err := c.use()
	if err != nil {
		return content{}, err
	}
	defer done()
	k := c.slot(s)
	switch metadata := c.a.firmware.atLeast(5, 3); {
	case k.key == nil && metadata:
		return content{}, errEmpty
	case k.key == nil, !metadata && !k.created:
		return content{}, errUnseen
	}
	return content{k.key.Public(), k.policy, k.created}, nil
}

func (c *fakeCard) generate(manage []byte, s Slot, a kind, p Policy) (crypto.PublicKey, error) {
	done, err := c.managed(manage)
	if err != nil {
		return nil, err
	}
	defer done()
	key, err := ecdsa.GenerateKey(map[kind]elliptic.Curve{p256: elliptic.P256(), p384: elliptic.P384()}[a], rand.Reader)
	if err != nil {
		return nil, err
	}
	*c.slot(s) = fakeSlot{c.slot(s).cert, key, p, true}
	return key.Public(), nil
}

func (c *fakeCard) load(manage []byte, s Slot, key crypto.Signer, p Policy) error {
	done, err := c.managed(manage)
	if err != nil {
		return err
	}
	defer done()
	if ec, ok := key.(*ecdsa.PrivateKey); ok { // a copy: the caller wipes his
		raw, err := ec.Bytes()
		if err != nil {
			return err
		}
		if key, err = ecdsa.ParseRawPrivateKey(ec.Curve, raw); err != nil {
			return err
		}
	}
	*c.slot(s) = fakeSlot{c.slot(s).cert, key, p, false}
	return nil
}

func (c *fakeCard) sign(s Slot, _ crypto.PublicKey, p PINPolicy, pin string, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	done, err := c.use()
	if err != nil {
		return nil, err
	}
	defer done()
	k := c.slot(s)
	if k.key == nil {
		return nil, fmt.Errorf("%w: the slot is empty", keys.ErrTokenRefuses)
	}
	if p == PINAlways || p == PINOnce && !c.verified {
		if err := c.check(0, c.pin, pin); err != nil {
			return nil, err
		}
		c.verified = true
	}
	if k.policy.PIN != PINNever && !c.verified {
		return nil, errDenied
	}
	touched := c.touched == nil || c.touched()
	if c.gone {
		return nil, keys.ErrTokenGone
	}
	if k.policy.Touch != TouchNever && !touched {
		return nil, errDenied
	}
	key := k.key
	if c.lie {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}
	return key.Sign(rand.Reader, digest, opts)
}

func (c *fakeCard) attest(s Slot) (key, device *x509.Certificate, err error) {
	return nil, nil, errUnseen
}
