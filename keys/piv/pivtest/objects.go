package pivtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"slices"
)

// The data objects of a card, its management key, and how they are written.

// tlv encodes a value.
func tlv(tag uint16, parts ...[]byte) []byte {
	value := bytes.Join(parts, nil)
	var out []byte
	if tag > 0xff {
		out = append(out, byte(tag>>8))
	}
	out = append(out, byte(tag))
	switch n := len(value); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	default:
		out = append(out, 0x82, byte(n>>8), byte(n))
	}
	return append(out, value...)
}

// untlv takes values with tags of one byte apart.
func untlv(b []byte) (map[byte][]byte, bool) {
	out := map[byte][]byte{}
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, false
		}
		tag, n, head := b[0], int(b[1]), 2
		switch {
		case n == 0x81 && len(b) > 2:
			n, head = int(b[2]), 3
		case n == 0x82 && len(b) > 3:
			n, head = int(b[2])<<8|int(b[3]), 4
		case n >= 0x80:
			return nil, false
		}
		if len(b) < head+n {
			return nil, false
		}
		out[tag] = b[head : head+n]
		b = b[head+n:]
	}
	return out, true
}

// object reads the name of a data object.
func object(name []byte) (id uint32) {
	for _, b := range name {
		id = id<<8 | uint32(b)
	}
	return id
}

const (
	objDiscovery   = 0x7e
	objPrinted     = 0x5fc109
	objAttestation = 0x5fff01
)

func (c *Card) getData(cmd command) ([]byte, uint16) {
	parts, ok := untlv(cmd.data)
	if !ok || cmd.p1 != 0x3f || cmd.p2 != 0xff || len(parts[0x5c]) == 0 || len(parts[0x5c]) > 3 {
		return nil, swData
	}
	switch id := object(parts[0x5c]); {
	case id == objDiscovery:
		return tlv(0x7e, tlv(0x4f, []byte(appletPIV), []byte{0, 0, 0x10, 0, 1, 0}), tlv(0x5f2f, []byte{0x40, 0})), swDone
	case id == objPrinted && !c.verified:
		return nil, swDenied
	case len(c.objects[id]) == 0:
		return nil, swNotFound
	default:
		return tlv(0x53, c.objects[id]), swDone
	}
}

func (c *Card) putData(cmd command) uint16 {
	if !c.managed {
		return swDenied
	}
	parts, ok := untlv(cmd.data)
	if !ok || len(parts[0x5c]) == 0 || len(parts[0x5c]) > 3 {
		return swData
	}
	if len(parts[0x53]) > 3072 {
		return swLength
	}
	c.objects[object(parts[0x5c])] = slices.Clone(parts[0x53])
	return swDone
}

// Algorithms of management keys.
const (
	alg3DES   = 0x03
	algAES128 = 0x08
	algAES192 = 0x0a
	algAES256 = 0x0c
)

// A managementKey is needed to change what is on a card.
type managementKey struct {
	algorithm byte
	touch     byte
	key       []byte
	factory   bool
}

func (m *managementKey) cipher() cipher.Block {
	var b cipher.Block
	var err error
	if m.algorithm == alg3DES {
		b, err = des.NewTripleDESCipher(m.key)
	} else {
		b, err = aes.NewCipher(m.key)
	}
	if err != nil {
		panic(err) // setManagementKey has seen to the length
	}
	return b
}

// manageWith is the proof of the management key: of the client alone, or of
// both sides.
func (c *Card) manageWith(cmd command, parts map[byte][]byte) ([]byte, uint16) {
	if cmd.p1 != c.manage.algorithm && !(cmd.p1 == 0 && c.manage.algorithm == alg3DES) {
		return nil, swParameters
	}
	block := c.manage.cipher()
	n := block.BlockSize()
	encrypt := func(b []byte) []byte {
		out := make([]byte, n)
		block.Encrypt(out, b)
		return out
	}
	witness, hasWitness := parts[0x80]
	challenge, hasChallenge := parts[0x81]
	response, hasResponse := parts[0x82]
	expected := c.witness
	c.witness = nil
	switch {
	case hasWitness && len(witness) == 0:
		c.witness = random(n)
		return tlv(0x7c, tlv(0x80, encrypt(c.witness))), swDone
	case hasWitness && hasChallenge:
		if len(challenge) != n || expected == nil || !bytes.Equal(witness, expected) {
			return nil, swDenied
		}
		c.managed = true
		return tlv(0x7c, tlv(0x82, encrypt(challenge))), swDone
	case hasChallenge && len(challenge) == 0:
		plain := random(n)
		c.witness = encrypt(plain)
		return tlv(0x7c, tlv(0x81, plain)), swDone
	case hasResponse:
		if expected == nil || !bytes.Equal(response, expected) {
			return nil, swDenied
		}
		c.managed = true
		return nil, swDone
	}
	return nil, swData
}

func (c *Card) setManagementKey(cmd command) uint16 {
	if !c.managed {
		return swDenied
	}
	d := cmd.data
	if len(d) < 3 || d[1] != 0x9b || int(d[2]) != len(d)-3 || cmd.p1 != 0xff {
		return swData
	}
	size := map[byte]int{alg3DES: 24}
	if c.version.atLeast(Version{5, 4, 0}) {
		size[algAES128], size[algAES192], size[algAES256] = 16, 24, 32
	}
	if size[d[0]] != len(d)-3 {
		return swData
	}
	c.manage = managementKey{algorithm: d[0], key: slices.Clone(d[3:])}
	if cmd.p2 == 0xfe {
		c.manage.touch = touchAlways
	}
	return swDone
}

// metadata came with firmware 5.3.
func (c *Card) metadata(cmd command) ([]byte, uint16) {
	if !c.version.atLeast(Version{5, 3, 0}) {
		return nil, swInstruction
	}
	flag := func(b bool) []byte {
		if b {
			return []byte{1}
		}
		return []byte{0}
	}
	switch cmd.p2 {
	case refPIN, refPUK:
		s := c.pin
		if cmd.p2 == refPUK {
			s = c.puk
		}
		return bytes.Join([][]byte{tlv(1, []byte{0xff}), tlv(5, flag(s.factory)), tlv(6, []byte{s.total, s.left})}, nil), swDone
	case slotManagement:
		touch := max(c.manage.touch, touchNever)
		return bytes.Join([][]byte{tlv(1, []byte{c.manage.algorithm}), tlv(2, []byte{0, touch}), tlv(5, flag(c.manage.factory))}, nil), swDone
	}
	k := c.keys[cmd.p2]
	if k == nil {
		return nil, swNoReference
	}
	origin := byte(1)
	if k.imported {
		origin = 2
	}
	return bytes.Join([][]byte{
		tlv(1, []byte{k.algorithm}), tlv(2, []byte{k.pin, k.touch}), tlv(3, []byte{origin}), tlv(4, k.encoded()),
	}, nil), swDone
}
