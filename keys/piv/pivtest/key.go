package pivtest

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Algorithms of keys.
const (
	algRSA3072 = 0x05
	algRSA1024 = 0x06
	algRSA2048 = 0x07
	algP256    = 0x11
	algP384    = 0x14
	algRSA4096 = 0x16
	algEd25519 = 0xe0
)

// Slots.
const (
	slotAuthentication = 0x9a
	slotManagement     = 0x9b
	slotSignature      = 0x9c
	slotExchange       = 0x9d
	slotCard           = 0x9e
	slotAttestation    = 0xf9
)

// Policies.
const (
	pinNever, pinOnce, pinAlways       = 1, 2, 3
	touchNever, touchAlways, touchHeld = 1, 2, 3
)

// A key is in a slot.
type key struct {
	algorithm  byte
	pin, touch byte
	imported   bool
	private    crypto.Signer
}

func (k *key) public() crypto.PublicKey { return k.private.Public() }

// encoded is the public half as answers have it.
func (k *key) encoded() []byte {
	switch pub := k.public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			panic(err) // it is on its curve
		}
		return tlv(0x86, point)
	case ed25519.PublicKey:
		return tlv(0x86, pub)
	case *rsa.PublicKey:
		return slices.Concat(tlv(0x81, pub.N.Bytes()), tlv(0x82, big.NewInt(int64(pub.E)).Bytes()))
	}
	panic("a key of a strange kind")
}

// slotOf reports whether a slot is for keys of the user.
func slotOf(s byte) bool {
	switch s {
	case slotAuthentication, slotSignature, slotExchange, slotCard:
		return true
	}
	return s >= 0x82 && s <= 0x95
}

// policies reads what a new key is to ask for, or fills in the defaults.
func (c *Card) policies(slot byte, parts map[byte][]byte) (pin, touch byte, ok bool) {
	pin, touch = pinOnce, touchNever
	switch slot {
	case slotSignature:
		pin = pinAlways
	case slotCard:
		pin = pinNever
	}
	if p := parts[0xaa]; len(p) == 1 && p[0] != 0 {
		pin = p[0]
	}
	if p := parts[0xab]; len(p) == 1 && p[0] != 0 {
		touch = p[0]
	}
	return pin, touch, pin <= pinAlways && touch <= touchHeld
}

// makeKey makes a key as firmware of that version can.
func (c *Card) makeKey(algorithm byte) (crypto.Signer, bool) {
	var k crypto.Signer
	var err error
	bits := 0
	switch algorithm {
	case algP256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case algP384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case algRSA1024:
		bits = 1024
	case algRSA2048:
		bits = 2048
	case algEd25519, algRSA3072, algRSA4096:
		switch {
		case !c.version.atLeast(Version{5, 7, 0}):
			return nil, false
		case algorithm == algEd25519:
			_, k, err = ed25519.GenerateKey(rand.Reader)
		case algorithm == algRSA3072:
			bits = 3072
		default:
			bits = 4096
		}
	default:
		return nil, false
	}
	if bits > 0 {
		k, err = rsa.GenerateKey(rand.Reader, bits)
	}
	if err != nil {
		panic(fmt.Sprint("no random numbers: ", err))
	}
	return k, true
}

func (c *Card) generate(cmd command) ([]byte, uint16) {
	if !c.managed {
		return nil, swDenied
	}
	outer, ok := untlv(cmd.data)
	if !ok {
		return nil, swData
	}
	parts, ok := untlv(outer[0xac])
	pin, touch, known := c.policies(cmd.p2, parts)
	if !ok || !known || !slotOf(cmd.p2) || len(parts[0x80]) != 1 {
		return nil, swData
	}
	private, ok := c.makeKey(parts[0x80][0])
	if !ok {
		return nil, swData
	}
	k := &key{algorithm: parts[0x80][0], pin: pin, touch: touch, private: private}
	c.keys[cmd.p2] = k
	return tlv(0x7f49, k.encoded()), swDone
}

func (c *Card) importKey(cmd command) uint16 {
	if !c.managed {
		return swDenied
	}
	parts, ok := untlv(cmd.data)
	pin, touch, known := c.policies(cmd.p2, parts)
	if !ok || !known || !slotOf(cmd.p2) {
		return swData
	}
	k := &key{algorithm: cmd.p1, pin: pin, touch: touch, imported: true}
	switch cmd.p1 {
	case algP256, algP384:
		curve := elliptic.P256()
		if cmd.p1 == algP384 {
			curve = elliptic.P384()
		}
		private, err := ecdsa.ParseRawPrivateKey(curve, parts[6])
		if err != nil {
			return swData
		}
		k.private = private
	case algEd25519:
		if !c.version.atLeast(Version{5, 7, 0}) || len(parts[7]) != ed25519.SeedSize {
			return swData
		}
		k.private = ed25519.NewKeyFromSeed(parts[7])
	case algRSA2048, algRSA3072, algRSA4096:
		if cmd.p1 != algRSA2048 && !c.version.atLeast(Version{5, 7, 0}) {
			return swData
		}
		private, err := rsaFrom(parts[1], parts[2])
		if err != nil {
			return swData
		}
		k.private = private
	default:
		return swData
	}
	c.keys[cmd.p2] = k
	return swDone
}

// rsaFrom makes a key of its primes.
func rsaFrom(p, q []byte) (*rsa.PrivateKey, error) {
	P, Q, one := new(big.Int).SetBytes(p), new(big.Int).SetBytes(q), big.NewInt(1)
	k := &rsa.PrivateKey{Primes: []*big.Int{P, Q}}
	k.N, k.E = new(big.Int).Mul(P, Q), 65537
	phi := new(big.Int).Mul(new(big.Int).Sub(P, one), new(big.Int).Sub(Q, one))
	k.D = new(big.Int).ModInverse(big.NewInt(int64(k.E)), phi)
	if k.D == nil {
		return nil, fmt.Errorf("not two primes")
	}
	k.Precompute()
	return k, k.Validate()
}

// move puts a key into another slot, or nowhere. It came with firmware 5.7.
func (c *Card) move(cmd command) uint16 {
	switch k := c.keys[cmd.p2]; {
	case !c.version.atLeast(Version{5, 7, 0}):
		return swInstruction
	case !c.managed:
		return swDenied
	case k == nil || !slotOf(cmd.p2):
		return swNoReference
	case cmd.p1 == 0xff:
	case !slotOf(cmd.p1) || c.keys[cmd.p1] != nil:
		return swData
	default:
		c.keys[cmd.p1] = k
	}
	delete(c.keys, cmd.p2)
	return swDone
}

// authenticate is every use of a key.
func (c *Card) authenticate(cmd command, fresh bool) ([]byte, uint16) {
	outer, ok := untlv(cmd.data)
	if !ok {
		return nil, swData
	}
	parts, ok := untlv(outer[0x7c])
	if !ok {
		return nil, swData
	}
	if cmd.p2 == slotManagement {
		return c.manageWith(cmd, parts)
	}
	k := c.keys[cmd.p2]
	switch {
	case k == nil || cmd.p2 == slotAttestation:
		return nil, swNoReference
	case k.algorithm != cmd.p1:
		return nil, swData
	case k.pin == pinAlways && !fresh, k.pin == pinOnce && !c.verified:
		return nil, swDenied
	}
	touched := c.touch == nil || c.touch(cmd.p2)
	if k.touch != touchNever && !touched {
		return nil, swDenied
	}
	out, err := k.use(parts)
	if err != nil {
		return nil, swData
	}
	return tlv(0x7c, tlv(0x82, out)), swDone
}

// use signs, or agrees with a point.
func (k *key) use(parts map[byte][]byte) ([]byte, error) {
	input := parts[0x81]
	switch private := k.private.(type) {
	case *ecdsa.PrivateKey:
		if point := parts[0x85]; point != nil {
			mine, err := private.ECDH()
			if err != nil {
				return nil, err
			}
			theirs, err := mine.Curve().NewPublicKey(point)
			if err != nil {
				return nil, err
			}
			return ecdhWith(mine, theirs)
		}
		return ecdsa.SignASN1(rand.Reader, private, input)
	case ed25519.PrivateKey:
		return ed25519.Sign(private, input), nil
	case *rsa.PrivateKey:
		if len(input) != private.Size() {
			return nil, fmt.Errorf("not a block of the key's size")
		}
		m := new(big.Int).SetBytes(input)
		if m.Cmp(private.N) >= 0 {
			return nil, fmt.Errorf("larger than the modulus")
		}
		return m.Exp(m, private.D, private.N).FillBytes(make([]byte, private.Size())), nil
	}
	return nil, fmt.Errorf("a key of a strange kind")
}

func ecdhWith(mine *ecdh.PrivateKey, theirs *ecdh.PublicKey) ([]byte, error) {
	return mine.ECDH(theirs)
}

// newAttestation gives the card the key and certificate that it attests with,
// and returns the root above.
func (c *Card) newAttestation() *x509.Certificate {
	rootKey, _ := c.makeKey(algP256)
	root := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "Test PIV Root CA"},
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, rootKey.Public(), rootKey)
	private, _ := c.makeKey(algP256)
	device := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "Yubico PIV Attestation"},
		BasicConstraintsValid: c.version.atLeast(Version{5}), IsCA: c.version.atLeast(Version{5}), // YubiKeys 4 leave it out
	}, root, private.Public(), rootKey)
	c.keys[slotAttestation] = &key{algorithm: algP256, pin: pinNever, touch: touchNever, private: private}
	c.objects[objAttestation] = slices.Concat(tlv(0x70, device.Raw), tlv(0x71, []byte{0}), tlv(0xfe))
	return root
}

// sign makes a certificate; without a parent, it signs itself.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	template.SerialNumber = new(big.Int).SetBytes(random(8))
	template.NotBefore = time.Date(2016, 3, 14, 0, 0, 0, 0, time.UTC)
	template.NotAfter = time.Date(2052, 4, 17, 0, 0, 0, 0, time.UTC)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		panic(fmt.Sprint("certificate of a test card: ", err))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprint("certificate of a test card: ", err))
	}
	return cert
}

// attest says that a key was made on the card.
func (c *Card) attest(cmd command) ([]byte, uint16) {
	k, by := c.keys[cmd.p1], c.keys[slotAttestation]
	if k == nil || k.imported || by == nil || !slotOf(cmd.p1) {
		return nil, swData
	}
	parts, ok := untlv(c.objects[objAttestation])
	if !ok {
		return nil, swConditions
	}
	parent, err := x509.ParseCertificate(parts[0x70])
	if err != nil {
		return nil, swConditions
	}
	serial, err := asn1.Marshal(int(c.serial))
	if err != nil {
		return nil, swConditions
	}
	oid := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, n} }
	cert := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: fmt.Sprintf("YubiKey PIV Attestation %x", cmd.p1)},
		ExtraExtensions: []pkix.Extension{
			{Id: oid(3), Value: c.version[:]}, {Id: oid(7), Value: serial},
			{Id: oid(8), Value: []byte{k.pin, k.touch}}, {Id: oid(9), Value: []byte{1}},
		},
	}, parent, k.public(), by.private)
	return cert.Raw, swDone
}
