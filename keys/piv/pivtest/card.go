// Package pivtest is a software PIV card, as test support: a [Card] does what
// the PIV applet of a YubiKey does, of firmware 4 or of 5.3 and later, and a
// [Daemon] puts cards into the readers of a real pcscd that only those can see
// who are told its socket.
package pivtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// What every card comes with.
const (
	FactoryPIN = "123456"
	FactoryPUK = "12345678"
)

// FactoryManagementKey is the management key that every card comes with.
var FactoryManagementKey = []byte{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}

// A Version is that of a firmware.
type Version [3]byte

// The firmware whose behaviour differs.
var (
	Firmware4  = Version{4, 3, 5} // 3DES, no metadata
	Firmware54 = Version{5, 4, 3} // metadata, 3DES
	Firmware57 = Version{5, 7, 1} // AES, Ed25519, removal of keys
)

func (v Version) atLeast(w Version) bool { return bytes.Compare(v[:], w[:]) >= 0 }

// A Card is one card. It is safe for concurrent use.
type Card struct {
	serial uint32

	mu       sync.Mutex // guards the fields below, and is held during a command
	version  Version
	touch    func(slot byte) bool
	chain    []byte // of a command that comes in pieces
	rest     []byte // of an answer that goes in pieces
	selected string // the applet
	verified bool   // PIN, since the applet was selected
	fresh    bool   // PIN, by the last command
	managed  bool   // management key
	witness  []byte // what the management key has to turn out
	pin, puk secret
	manage   managementKey
	objects  map[uint32][]byte
	keys     map[byte]*key
	root     *x509.Certificate
}

// A secret is a PIN or a PUK.
type secret struct {
	value       [8]byte
	total, left byte
	factory     bool
}

func newSecret(s string) secret {
	return secret{value: pad(s), total: 3, left: 3, factory: true}
}

// pad fills up a PIN as the standard says.
func pad(s string) (p [8]byte) {
	for i := copy(p[:], s); i < len(p); i++ {
		p[i] = 0xff
	}
	return p
}

// try compares, and counts. A blocked secret compares with nothing.
func (s *secret) try(given []byte) bool {
	if s.left == 0 {
		return false
	}
	if subtle.ConstantTimeCompare(given, s.value[:]) != 1 {
		s.left--
		return false
	}
	s.left = s.total
	return true
}

func (s *secret) set(given []byte) {
	copy(s.value[:], given)
	s.factory, s.left = false, s.total
}

// status is the answer to a wrong secret.
func (s *secret) status() uint16 {
	if s.left == 0 {
		return swBlocked
	}
	return swWrong | uint16(s.left)
}

// New makes a card in its factory state.
func New(serial uint32, v Version) *Card {
	c := &Card{serial: serial}
	c.Reset(v)
	return c
}

// Reset brings the card back to its factory state, with firmware v.
func (c *Card) Reset(v Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version, c.touch = v, nil
	c.reset()
}

// OnTouch sets what is called before each signature, with the slot, while the
// card is busy with it; it says whether the card was touched. A key that needs
// no touch signs in any case. Without it, the card is always touched at once.
func (c *Card) OnTouch(touch func(slot byte) (touched bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch = touch
}

// Serial is the card's serial number.
func (c *Card) Serial() string { return fmt.Sprint(c.serial) }

func (c *Card) reset() {
	c.pin, c.puk = newSecret(FactoryPIN), newSecret(FactoryPUK)
	c.manage = managementKey{algorithm: alg3DES, key: slices.Clone(FactoryManagementKey), factory: true}
	if c.version.atLeast(Firmware57) {
		c.manage.algorithm = algAES192
	}
	c.objects, c.keys = map[uint32][]byte{}, map[byte]*key{}
	c.root = c.newAttestation()
	c.deselect()
}

// Root is the certificate at the top of what the card attests with.
func (c *Card) Root() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.root
}

// PINTries returns how often a wrong PIN may still be given.
func (c *Card) PINTries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.pin.left)
}

// Slots lists the slots that hold a key.
func (c *Card) Slots() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	slots := slices.Sorted(maps.Keys(c.keys))
	return slices.DeleteFunc(slots, func(s byte) bool { return s == slotAttestation })
}

// PublicKey returns the public half of the key in a slot, or nil.
func (c *Card) PublicKey(slot byte) crypto.PublicKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.keys[slot]; k != nil {
		return k.public()
	}
	return nil
}

// ATR is the answer to reset of a YubiKey 5.
func (c *Card) ATR() []byte {
	atr := append([]byte{0x3b, 0xfd, 0x13, 0x00, 0x00, 0x81, 0x31, 0xfe, 0x15, 0x80, 0x73, 0xc0, 0x21, 0xc0, 0x57}, "YubiKey"...)
	var sum byte
	for _, b := range atr[1:] {
		sum ^= b
	}
	return append(atr, sum)
}

// PowerOff forgets what was proved to the card.
func (c *Card) PowerOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deselect()
}

func (c *Card) deselect() {
	c.chain, c.rest, c.selected, c.witness = nil, nil, "", nil
	c.verified, c.fresh, c.managed = false, false, false
}

// Status words.
const (
	swDone        = 0x9000
	swWrong       = 0x63c0
	swLength      = 0x6700
	swDenied      = 0x6982
	swBlocked     = 0x6983
	swConditions  = 0x6985
	swData        = 0x6a80
	swNotFound    = 0x6a82
	swParameters  = 0x6a86
	swNoReference = 0x6a88
	swInstruction = 0x6d00
)

// A command is an APDU.
type command struct {
	ins, p1, p2 byte
	data        []byte
}

// Process answers an APDU.
func (c *Card) Process(raw []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, sw := c.process(raw)
	return binary.BigEndian.AppendUint16(data, sw)
}

func (c *Card) process(raw []byte) ([]byte, uint16) {
	if len(raw) < 4 {
		return nil, swLength
	}
	data, ok := body(raw[4:])
	if !ok {
		return nil, swLength
	}
	cmd := command{raw[1], raw[2], raw[3], data}
	if cmd.ins == 0xc0 { // GET RESPONSE
		return c.answer(c.rest)
	}
	c.chain = append(c.chain, data...)
	if len(c.chain) > 8192 {
		c.chain = nil
		return nil, swLength
	}
	if raw[0]&0x10 != 0 {
		return nil, swDone
	}
	cmd.data, c.chain = c.chain, nil
	fresh := c.fresh
	c.fresh = false
	out, sw := c.run(cmd, fresh)
	if sw != swDone {
		return nil, sw
	}
	return c.answer(out)
}

// answer returns as much as one answer holds, and keeps the rest.
func (c *Card) answer(out []byte) ([]byte, uint16) {
	if len(out) <= 256 {
		c.rest = nil
		return out, swDone
	}
	c.rest = out[256:]
	return slices.Clone(out[:256]), 0x6100 | uint16(min(len(c.rest), 255))
}

// body cuts the data out of what follows the head of an APDU.
func body(b []byte) ([]byte, bool) {
	switch {
	case len(b) <= 1:
		return nil, true
	case b[0] == 0 && len(b) >= 3: // the long form
		n := int(b[1])<<8 | int(b[2])
		if len(b) == 3 {
			return nil, true
		}
		return b[3:min(3+n, len(b))], len(b) >= 3+n
	}
	n := int(b[0])
	return b[1:min(1+n, len(b))], len(b) >= 1+n
}

// The applets.
const (
	appletPIV = "\xa0\x00\x00\x03\x08"
	appletOTP = "\xa0\x00\x00\x05\x27\x20\x01"
)

func (c *Card) run(cmd command, fresh bool) ([]byte, uint16) {
	if cmd.ins == 0xa4 {
		return c.selectApplet(cmd)
	}
	switch c.selected {
	case appletOTP:
		if cmd.ins == 0x01 && cmd.p1 == 0x10 {
			return binary.BigEndian.AppendUint32(nil, c.serial), swDone
		}
		return nil, swInstruction
	case appletPIV:
	default:
		return nil, swInstruction
	}
	switch cmd.ins {
	case 0x20:
		return nil, c.verify(cmd)
	case 0x24:
		return nil, c.change(cmd)
	case 0x2c:
		return nil, c.unblock(cmd)
	case 0x47:
		return c.generate(cmd)
	case 0x87:
		return c.authenticate(cmd, fresh)
	case 0xcb:
		return c.getData(cmd)
	case 0xdb:
		return nil, c.putData(cmd)
	case 0xf6:
		return nil, c.move(cmd)
	case 0xf7:
		return c.metadata(cmd)
	case 0xf8:
		if c.version.atLeast(Version{5}) {
			return binary.BigEndian.AppendUint32(nil, c.serial), swDone
		}
	case 0xf9:
		return c.attest(cmd)
	case 0xfa:
		return nil, c.setTries(cmd)
	case 0xfb:
		return nil, c.wipe()
	case 0xfd:
		return slices.Clone(c.version[:]), swDone
	case 0xfe:
		return nil, c.importKey(cmd)
	case 0xff:
		return nil, c.setManagementKey(cmd)
	}
	return nil, swInstruction
}

func (c *Card) selectApplet(cmd command) ([]byte, uint16) {
	if cmd.p1 != 4 {
		return nil, swParameters
	}
	for _, applet := range []string{appletPIV, appletOTP} {
		// The name may be longer, or cut short.
		if len(cmd.data) < 5 || !bytes.HasPrefix(cmd.data, []byte(applet)) {
			continue
		}
		c.deselect()
		c.selected = applet
		if applet == appletOTP {
			return append(slices.Clone(c.version[:]), 0, 0, 0, 0), swDone
		}
		return tlv(0x61, tlv(0x4f, []byte{0, 0, 0x10, 0, 1, 0}), tlv(0x79, tlv(0x4f, []byte(appletPIV)))), swDone
	}
	return nil, swNotFound
}

// Reference data.
const (
	refPIN = 0x80
	refPUK = 0x81
)

func (c *Card) verify(cmd command) uint16 {
	switch {
	case cmd.p2 != refPIN:
		return swNoReference
	case cmd.p1 == 0xff: // log out
		c.verified = false
		return swDone
	case len(cmd.data) == 0 && c.verified:
		return swDone
	case len(cmd.data) == 0:
		return c.pin.status()
	case len(cmd.data) != 8:
		return swData
	}
	c.verified = c.pin.try(cmd.data)
	if !c.verified {
		return c.pin.status()
	}
	c.fresh = true
	return swDone
}

func (c *Card) change(cmd command) uint16 {
	if len(cmd.data) != 16 {
		return swData
	}
	s := &c.pin
	switch cmd.p2 {
	case refPIN:
	case refPUK:
		s = &c.puk
	default:
		return swNoReference
	}
	if !s.try(cmd.data[:8]) {
		return s.status()
	}
	s.set(cmd.data[8:])
	return swDone
}

func (c *Card) unblock(cmd command) uint16 {
	if len(cmd.data) != 16 || cmd.p2 != refPIN {
		return swData
	}
	if !c.puk.try(cmd.data[:8]) {
		return c.puk.status()
	}
	c.pin.set(cmd.data[8:])
	return swDone
}

func (c *Card) setTries(cmd command) uint16 {
	if !c.managed || !c.verified {
		return swDenied
	}
	if cmd.p1 == 0 || cmd.p2 == 0 {
		return swData
	}
	c.pin, c.puk = newSecret(FactoryPIN), newSecret(FactoryPUK)
	c.pin.total, c.pin.left, c.puk.total, c.puk.left = cmd.p1, cmd.p1, cmd.p2, cmd.p2
	return swDone
}

// wipe is the reset that a user can ask for, when nothing can be opened.
func (c *Card) wipe() uint16 {
	if c.pin.left != 0 || c.puk.left != 0 {
		return swConditions
	}
	c.reset()
	c.selected = appletPIV
	return swDone
}

// random returns n bytes.
func random(n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprint("no random numbers: ", err))
	}
	return b
}
