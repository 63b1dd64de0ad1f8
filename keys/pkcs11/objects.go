package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// A key is three objects on the token that share their CKA_ID: the private
// half, the public half, and a self-signed certificate. The certificate's
// common name is the role, as stock Notary has it (notary-protocol 8), and its
// organizational unit the repository; the label of all three says both, in the
// form "role repository". A key that others made has at least its public half,
// and a label for its role.

// A found key is one that the token shows.
type found struct {
	info keys.Info
	pub  tuf.PublicKey
	id   []byte // CKA_ID
	name string // CKA_LABEL
	kind uint   // CKA_KEY_TYPE
}

// The curves that sign metadata, as EC_PARAMS names them.
var (
	oidP256    = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	oidP384    = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	oidP521    = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}
	oidEd25519 = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
)

// label is what the objects of a key are called.
func label(info keys.Info) string {
	return strings.TrimSpace(info.Role + " " + string(info.GUN))
}

// unsaved is the label of a key that was made and has not been saved: no key of
// ours is called so, and List does not show it.
const unsaved = "iechor: unsaved"

// parseLabel is the inverse of label. What others call a key is its role.
func parseLabel(s string) keys.Info {
	role, gun, _ := strings.Cut(s, " ")
	if info, err := (keys.Info{Role: role, GUN: tuf.GUN(gun)}).Clean(); err == nil && label(info) == s {
		return info
	}
	if info, err := (keys.Info{Role: s}).Clean(); err == nil {
		return info
	}
	return keys.Info{}
}

// idOf is the CKA_ID of our keys: how their canonical id begins.
func idOf(id tuf.CanonicalID) []byte {
	raw, _ := hex.DecodeString(string(id[:40])) // it is valid
	return raw
}

// list returns the signing keys that a session shows: all if it is logged in,
// else those whose public half or certificate anybody may see. with narrows
// the search.
func list(s session, with ...attribute) ([]found, error) {
	var out []found
	for _, kind := range []uint{keyEC, keyRSA, keyEdwards} {
		handles, err := s.find(append([]attribute{{attrClass, uint(classPublic)}, {attrKeyType, kind}}, with...))
		if err != nil {
			return nil, err
		}
		for _, h := range handles {
			f, err := read(s, h, kind)
			if err != nil {
				return nil, err
			}
			if f != nil && indexOf(out, f.info.ID) < 0 {
				out = append(out, *f)
			}
		}
	}
	return certified(s, out, with)
}

// read returns the key of a public object; nil if it is none that could sign
// metadata.
func read(s session, h handle, kind uint) (*found, error) {
	id, err := s.get(h, attrID)
	if err != nil {
		return nil, err
	}
	name, err := s.get(h, attrLabel)
	if err != nil {
		return nil, err
	}
	pub, err := readPublic(s, h, kind)
	if err != nil || pub == nil || string(name) == unsaved {
		return nil, err
	}
	f := &found{kind: kind, id: id, name: string(name)}
	return f, f.is(pub)
}

// readPublic returns nil for keys that could not sign metadata.
func readPublic(s session, h handle, kind uint) (crypto.PublicKey, error) {
	halves := [2]uint{attrECParams, attrECPoint}
	if kind == keyRSA {
		halves = [2]uint{attrModulus, attrPublicExponent}
	}
	a, err := s.get(h, halves[0])
	if err != nil {
		return nil, err
	}
	b, err := s.get(h, halves[1])
	if err != nil {
		return nil, err
	}
	pub, ok := publicKey(kind, a, b)
	if !ok {
		return nil, nil
	}
	return pub, nil
}

// is fills in which key f is. A key that must not sign is no error: the token
// may have it for something else.
func (f *found) is(pub crypto.PublicKey) error {
	key, err := tuf.NewPublicKey(pub)
	if err != nil {
		return err
	}
	f.pub, f.info = key, parseLabel(f.name)
	f.info.ID, f.info.Type = key.CanonicalID(), key.Type
	return nil
}

// publicKey reads a public key: modulus and exponent, or curve and point.
func publicKey(kind uint, a, b []byte) (crypto.PublicKey, bool) {
	if kind == keyRSA {
		e := new(big.Int).SetBytes(b)
		if !e.IsInt64() || e.Int64() > 1<<31-1 || len(a) > 4096 {
			return nil, false
		}
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(a), E: int(e.Int64())}
		return pub, usable(pub)
	}
	var point []byte
	if rest, err := asn1.Unmarshal(b, &point); err != nil || len(rest) > 0 {
		point = b // some leave the wrapping out
	}
	if kind == keyEdwards {
		return ed25519.PublicKey(point), len(point) == ed25519.PublicKeySize && usable(ed25519.PublicKey(point))
	}
	for _, c := range []struct {
		oid   []byte
		curve elliptic.Curve
	}{{oidP256, elliptic.P256()}, {oidP384, elliptic.P384()}, {oidP521, elliptic.P521()}} {
		if bytes.Equal(a, c.oid) {
			pub, err := ecdsa.ParseUncompressedPublicKey(c.curve, point)
			return pub, err == nil
		}
	}
	return nil, false
}

func usable(pub crypto.PublicKey) bool {
	_, err := tuf.NewPublicKey(pub)
	return err == nil
}

// certified adds what certificates say: the role of keys that have no label of
// ours, and keys whose public half is nowhere else.
func certified(s session, out []found, with []attribute) ([]found, error) {
	handles, err := s.find(append([]attribute{{attrClass, uint(classCertificate)}}, with...))
	if err != nil {
		return nil, err
	}
	for _, h := range handles {
		raw, err := s.get(h, attrValue)
		if err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil || !usable(cert.PublicKey) {
			continue // not ours
		}
		f := found{kind: keyEC}
		switch cert.PublicKey.(type) {
		case *rsa.PublicKey:
			f.kind = keyRSA
		case ed25519.PublicKey:
			f.kind = keyEdwards
		}
		if f.id, err = s.get(h, attrID); err != nil {
			return nil, err
		}
		name, err := s.get(h, attrLabel)
		if err != nil {
			return nil, err
		}
		f.name = string(name)
		if err := f.is(cert.PublicKey); err != nil {
			return nil, err
		}
		info := keys.Info{Role: cert.Subject.CommonName}
		if len(cert.Subject.OrganizationalUnit) == 1 {
			info.GUN = tuf.GUN(cert.Subject.OrganizationalUnit[0])
		}
		info, err = info.Clean()
		role := tuf.RoleName(info.Role)
		// Only a role's name speaks: others put anything into certificates.
		if err == nil && (role.TopLevel() || cert.Subject.Organization != nil && cert.Subject.Organization[0] == organization) {
			f.info.Role, f.info.GUN = info.Role, info.GUN
		}
		if i := indexOf(out, f.info.ID); i >= 0 {
			out[i].info.Role, out[i].info.GUN = f.info.Role, f.info.GUN
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

func indexOf(all []found, id tuf.CanonicalID) int {
	for i, f := range all {
		if f.info.ID == id {
			return i
		}
	}
	return -1
}

// organization marks certificates that we have made.
const organization = "iEchor content trust"

// private is the template of a key's private half.
func (f found) private() []attribute {
	t := []attribute{{attrClass, uint(classPrivate)}, {attrKeyType, f.kind}}
	if len(f.id) > 0 {
		return append(t, attribute{attrID, f.id})
	}
	return append(t, attribute{attrLabel, f.name})
}

// templates are the attributes of a new key's two halves, except what the key
// itself consists of.
func templates(kind uint, id []byte, label string) (public, private []attribute) {
	common := []attribute{{attrKeyType, kind}, {attrToken, true}, {attrID, id}, {attrLabel, label}}
	public = append([]attribute{{attrClass, uint(classPublic)}, {attrPrivate, false}, {attrVerify, true}}, common...)
	private = append([]attribute{
		{attrClass, uint(classPrivate)}, {attrPrivate, true}, {attrSign, true}, {attrSensitive, true}, {attrExtractable, false},
	}, common...)
	return public, private
}

// material returns what an imported key consists of, its two halves.
func material(key crypto.Signer) (kind uint, public, private []attribute, err error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		oid := map[elliptic.Curve][]byte{elliptic.P256(): oidP256, elliptic.P384(): oidP384, elliptic.P521(): oidP521}[k.Curve]
		point, err := k.PublicKey.Bytes()
		if err != nil || oid == nil {
			return 0, nil, nil, fmt.Errorf("%w: its curve is not one of P-256, P-384, P-521", tuf.ErrKey)
		}
		scalar, err := k.Bytes()
		if err != nil {
			return 0, nil, nil, fmt.Errorf("%w: %v", tuf.ErrKey, err)
		}
		wrapped, err := asn1.Marshal(point)
		return keyEC, []attribute{{attrECParams, oid}, {attrECPoint, wrapped}},
			[]attribute{{attrECParams, oid}, {attrValue, scalar}}, err
	case ed25519.PrivateKey:
		wrapped, err := asn1.Marshal([]byte(k.Public().(ed25519.PublicKey)))
		return keyEdwards, []attribute{{attrECParams, oidEd25519}, {attrECPoint, wrapped}},
			[]attribute{{attrECParams, oidEd25519}, {attrValue, k.Seed()}}, err
	case *rsa.PrivateKey:
		if len(k.Primes) != 2 {
			return 0, nil, nil, fmt.Errorf("%w: an RSA key of %d primes", tuf.ErrKey, len(k.Primes))
		}
		k.Precompute()
		e := big.NewInt(int64(k.E)).Bytes()
		public := []attribute{{attrModulus, k.N.Bytes()}, {attrPublicExponent, e}}
		return keyRSA, public, append(public[:2:2],
			attribute{attrPrivateExponent, k.D.Bytes()}, attribute{attrPrime1, k.Primes[0].Bytes()}, attribute{attrPrime2, k.Primes[1].Bytes()},
			attribute{attrExponent1, k.Precomputed.Dp.Bytes()}, attribute{attrExponent2, k.Precomputed.Dq.Bytes()},
			attribute{attrCoefficient, k.Precomputed.Qinv.Bytes()}), nil
	}
	return 0, nil, nil, fmt.Errorf("%w: %T is not an ECDSA, RSA or Ed25519 key", tuf.ErrKey, key)
}

// generators are the ways to have a token make a key; the first that it takes.
func generators(a keys.Algorithm) (kind uint, ways []way, err error) {
	switch a {
	case "", keys.P256:
		return keyEC, []way{{mechECGenerate, []attribute{{attrECParams, oidP256}}}}, nil
	case keys.P384:
		return keyEC, []way{{mechECGenerate, []attribute{{attrECParams, oidP384}}}}, nil
	case keys.Ed25519:
		named, err := asn1.MarshalWithParams("edwards25519", "printable")
		return keyEdwards, []way{
			{mechEdwardsGenerate, []attribute{{attrECParams, oidEd25519}}},
			{mechEdwardsGenerate, []attribute{{attrECParams, named}}}, // version 3.0 of the standard
		}, err
	case keys.RSA3072:
		return keyRSA, []way{{mechRSAGenerate, []attribute{{attrModulusBits, uint(3072)}, {attrPublicExponent, []byte{1, 0, 1}}}}}, nil
	}
	return 0, nil, fmt.Errorf("%w: algorithm %q is not one of %s, %s, %s, %s", tuf.ErrKey, a, keys.P256, keys.P384, keys.Ed25519, keys.RSA3072)
}

type way struct {
	mechanism uint
	public    []attribute
}
