package tuf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
)

// A KeyID names a key in metadata: the lowercase hex SHA-256 of the key's
// canonical JSON (notary-protocol 1.5).
type KeyID string

// A CanonicalID names key material: the KeyID of the bare key, also when the
// key travels in a certificate. Key files, key lists and change files use it.
type CanonicalID string

// Short returns the first seven digits, the form in which people see ids.
func (id CanonicalID) Short() string { return string(id[:min(7, len(id))]) }

// Valid reports whether id is 64 lowercase hex digits.
func (id CanonicalID) Valid() bool {
	if len(id) != 64 {
		return false
	}
	return strings.Trim(string(id), "0123456789abcdef") == ""
}

// A KeyType says how a public key is written and which signatures it makes.
type KeyType string

// The key types of the Notary dialect. Keys of other types are kept, and
// verify nothing.
const (
	ECDSA     KeyType = "ecdsa"
	ECDSAx509 KeyType = "ecdsa-x509"
	RSA       KeyType = "rsa"
	RSAx509   KeyType = "rsa-x509"
	Ed25519   KeyType = "ed25519"
)

// Certificate reports whether keys of this type travel in X.509 certificates.
func (t KeyType) Certificate() bool { return t == ECDSAx509 || t == RSAx509 }

// A PublicKey is a key as it stands in metadata. Bytes are DER
// SubjectPublicKeyInfo for ecdsa and rsa, the 32 raw bytes for ed25519, and a
// PEM chain, leaf first, for the x509 forms. The zero PublicKey is no key.
type PublicKey struct {
	Type  KeyType
	Bytes []byte
}

// NewPublicKey returns the bare form of an ECDSA, RSA or Ed25519 public key.
// The error matches [ErrKey] if the key is of another kind or too weak.
func NewPublicKey(pub crypto.PublicKey) (PublicKey, error) {
	k, err := bare(pub)
	if err != nil {
		return PublicKey{}, err
	}
	_, err = k.Public()
	return k, err
}

// bare is NewPublicKey without a look at how strong the key is.
func bare(pub crypto.PublicKey) (k PublicKey, err error) {
	switch p := pub.(type) {
	case ed25519.PublicKey:
		k = PublicKey{Ed25519, bytes.Clone(p)}
	case *ecdsa.PublicKey, *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(p)
		if err != nil {
			return PublicKey{}, fmt.Errorf("%w: %v", ErrKey, err)
		}
		k = PublicKey{ECDSA, der}
		if _, ok := p.(*rsa.PublicKey); ok {
			k.Type = RSA
		}
	default:
		return PublicKey{}, fmt.Errorf("%w: %T is not an ECDSA, RSA or Ed25519 key", ErrKey, pub)
	}
	return k, nil
}

// NewCertificateKey returns the x509 form of the key in a PEM chain, leaf
// first. Text around the blocks is dropped. The error matches [ErrKey].
func NewCertificateKey(chain []byte) (PublicKey, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return PublicKey{}, err
	}
	var out bytes.Buffer
	for _, c := range certs {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return PublicKey{}, err
		}
	}
	k := PublicKey{Bytes: out.Bytes()}
	switch certs[0].PublicKey.(type) {
	case *ecdsa.PublicKey:
		k.Type = ECDSAx509
	case *rsa.PublicKey:
		k.Type = RSAx509
	default:
		return PublicKey{}, fmt.Errorf("%w: the certificate's key is neither ECDSA nor RSA", ErrKey)
	}
	_, err = k.Public()
	return k, err
}

// ID returns the key's id in metadata. It covers the certificate's text.
func (k PublicKey) ID() KeyID {
	var room [512]byte // a longer key takes its own
	sum := sha256.Sum256(appendKey(room[:0], k))
	return KeyID(hex.EncodeToString(sum[:]))
}

// CanonicalID returns the id of the key material, the same for a key and for
// every certificate of it. A certificate that cannot be parsed is material of
// its own.
func (k PublicKey) CanonicalID() CanonicalID { return CanonicalID(k.Bare().ID()) }

// Bare returns the key without its certificate; k itself if it has none or if
// that cannot be parsed.
func (k PublicKey) Bare() PublicKey {
	if !k.Type.Certificate() {
		return k
	}
	certs, err := parseChain(k.Bytes)
	if err != nil {
		return k
	}
	t := ECDSA
	if k.Type == RSAx509 {
		t = RSA
	}
	return PublicKey{t, certs[0].RawSubjectPublicKeyInfo}
}

// material names what signs, however it is written down: a key, its
// certificates, and the same key in PEM are one (attacks.md K2). Keys that can
// verify nothing are material of their own.
func (k PublicKey) material() CanonicalID {
	if pub, err := k.Public(); err == nil {
		return k.materialOf(pub)
	}
	return k.CanonicalID()
}

// materialOf is material, for who has pub, which is k.Public, already: to read
// a key takes longer than the rest.
func (k PublicKey) materialOf(pub crypto.PublicKey) CanonicalID {
	if bare, err := bare(pub); err == nil {
		return CanonicalID(bare.ID())
	}
	return k.CanonicalID()
}

// Certificates returns the chain of an x509 key, leaf first. The error matches
// [ErrKey].
func (k PublicKey) Certificates() ([]*x509.Certificate, error) {
	if !k.Type.Certificate() {
		return nil, fmt.Errorf("%w: a key of type %s has no certificate", ErrKey, k.Type)
	}
	return parseChain(k.Bytes)
}

// Equal reports whether both are the same key in the same form.
func (k PublicKey) Equal(o PublicKey) bool { return k.Type == o.Type && bytes.Equal(k.Bytes, o.Bytes) }

// Public returns the key for package crypto. It fails, with an error matching
// [ErrKey], for keys that must not verify anything: unknown types, RSA below
// 2048 or above 16384 bits, points off their curve, weak Ed25519 points, bytes
// that do not fit the type.
func (k PublicKey) Public() (crypto.PublicKey, error) {
	bad := func(format string, a ...any) (crypto.PublicKey, error) {
		return nil, fmt.Errorf("%w: %s", ErrKey, printable(fmt.Sprintf(format, a...)))
	}
	var pub any
	var err error
	switch k.Type {
	case Ed25519:
		if len(k.Bytes) != ed25519.PublicKeySize {
			return bad("an ed25519 key has 32 bytes, not %d", len(k.Bytes))
		}
		if weakEd25519(k.Bytes) {
			return bad("the ed25519 key is a point of small order")
		}
		return ed25519.PublicKey(k.Bytes), nil
	case ECDSA, RSA:
		der := k.Bytes
		// Very old keys wrap the DER in PEM ("pycrypto" signatures).
		if b, _ := pem.Decode(der); b != nil && k.Type == RSA {
			der = b.Bytes
		}
		if pub, err = x509.ParsePKIXPublicKey(der); err != nil {
			return bad("%v", err)
		}
	case ECDSAx509, RSAx509:
		certs, err := parseChain(k.Bytes)
		if err != nil {
			return nil, err
		}
		pub = certs[0].PublicKey
	default:
		return bad("keys of type %q are not supported", k.Type)
	}
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Type == ECDSA || k.Type == ECDSAx509 {
			return p, nil
		}
	case *rsa.PublicKey:
		if k.Type != RSA && k.Type != RSAx509 {
			break
		}
		if n := p.N.BitLen(); n < 2048 || n > 16384 {
			return bad("an RSA key must have 2048 to 16384 bits, not %d", n)
		}
		return p, nil
	}
	return bad("the content is not a key of type %s", k.Type)
}

// parseChain reads a PEM bundle that consists of certificates only.
func parseChain(chain []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := chain; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: a PEM block of type %q among certificates", ErrKey, b.Type)
		}
		if len(certs) == 10 {
			return nil, fmt.Errorf("%w: more than 10 certificates in one chain", ErrKey)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrKey, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: no certificate found", ErrKey)
	}
	return certs, nil
}

// weakEd25519 reports whether the encoded point has small order: such a key
// accepts one signature for many messages. The list is the canonical and
// non-canonical encodings of the eight points of small order.
func weakEd25519(p []byte) bool {
	masked := bytes.Clone(p)
	masked[31] &= 0x7f // the sign bit distinguishes x from -x, both are weak
	text := hex.EncodeToString(masked)
	for _, w := range [...]string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		if text == w {
			return true
		}
	}
	return false
}

// A Signature is one entry of a file's signature list.
type Signature struct {
	KeyID  KeyID
	Method string
	Value  []byte
}

// Signature methods (notary-protocol 1.6). The message is always the canonical
// form of the payload.
const (
	methodECDSA  = "ecdsa"       // r‖s over SHA-256, each half as long as the curve's order
	methodPSS    = "rsapss"      // SHA-256, salt of 32 bytes
	methodPKCS1  = "rsapkcs1v15" // SHA-256; never made
	methodEdDSA  = "eddsa"
	methodPyPSS  = "pycrypto-pkcs#1 pss" // as rsapss, and the key is PEM; never made
	pssSaltBytes = 32
)

// Method names the signatures that keys of type t make; it is empty for types
// that make none.
func (t KeyType) Method() string {
	switch t {
	case ECDSA, ECDSAx509:
		return methodECDSA
	case RSA, RSAx509:
		return methodPSS
	case Ed25519:
		return methodEdDSA
	}
	return ""
}

// Verify reports, by a nil error, that s is a signature of message by k. The
// key's own type decides how to verify; the method that the signature names
// is only compared with it (attacks.md K8). s.KeyID is not looked at.
func (k PublicKey) Verify(message []byte, s Signature) error {
	pub, err := k.Public()
	if err != nil {
		return err
	}
	return k.verify(pub, message, s)
}

// verify is Verify with pub, which is k.Public.
func (k PublicKey) verify(pub crypto.PublicKey, message []byte, s Signature) (err error) {
	bad := fmt.Errorf("%w: the signature is not valid", ErrUnsigned)
	wrongMethod := fmt.Errorf("%w: method %q does not fit a key of type %s", ErrUnsigned, s.Method, k.Type)
	sum := sha256.Sum256(message)
	switch p := pub.(type) {
	case ed25519.PublicKey:
		if s.Method != methodEdDSA {
			return wrongMethod
		}
		if !ed25519.Verify(p, message, s.Value) {
			return bad
		}
	case *ecdsa.PublicKey:
		if s.Method != methodECDSA {
			return wrongMethod
		}
		n := orderBytes(p.Curve)
		if len(s.Value) != 2*n {
			return bad
		}
		r, t := new(big.Int).SetBytes(s.Value[:n]), new(big.Int).SetBytes(s.Value[n:])
		if !ecdsa.Verify(p, sum[:], r, t) {
			return bad
		}
	case *rsa.PublicKey:
		isPEM := bytes.HasPrefix(bytes.TrimSpace(k.Bytes), []byte("-----BEGIN"))
		switch {
		case s.Method == methodPSS && (k.Type == RSAx509 || !isPEM),
			s.Method == methodPyPSS && k.Type == RSA && isPEM:
			err = rsa.VerifyPSS(p, crypto.SHA256, sum[:], s.Value, &rsa.PSSOptions{SaltLength: pssSaltBytes, Hash: crypto.SHA256})
		case s.Method == methodPKCS1 && (k.Type == RSAx509 || !isPEM):
			err = rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], s.Value)
		default:
			return wrongMethod
		}
		if err != nil {
			return bad
		}
	default:
		return wrongMethod
	}
	return nil
}

// orderBytes is the length of each half of an ECDSA signature on c.
func orderBytes(c elliptic.Curve) int { return (c.Params().BitSize + 7) / 8 }

// A Signer signs with one key, wherever its private half lives. The Signature
// it returns bears the id of exactly the key that PublicKey returns.
type Signer interface {
	PublicKey() PublicKey
	Sign(ctx context.Context, message []byte) (Signature, error)
}

// NewSigner returns a Signer for a private key of package crypto: ECDSA, RSA
// (PSS) or Ed25519. The error matches [ErrKey].
func NewSigner(key crypto.Signer) (Signer, error) {
	pub, err := NewPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return softSigner{pub, key}, nil
}

type softSigner struct {
	pub PublicKey
	key crypto.Signer
}

func (s softSigner) PublicKey() PublicKey { return s.pub }

func (s softSigner) Sign(ctx context.Context, message []byte) (Signature, error) {
	if err := ctx.Err(); err != nil {
		return Signature{}, err
	}
	sum := sha256.Sum256(message)
	sig := Signature{KeyID: s.pub.ID(), Method: s.pub.Type.Method()}
	var err error
	switch s.pub.Type {
	case Ed25519:
		sig.Value, err = s.key.Sign(rand.Reader, message, crypto.Hash(0))
	case RSA:
		sig.Value, err = s.key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: pssSaltBytes, Hash: crypto.SHA256})
	case ECDSA:
		var der []byte
		if der, err = s.key.Sign(rand.Reader, sum[:], crypto.SHA256); err == nil {
			curve := s.key.Public().(*ecdsa.PublicKey).Curve
			sig.Value, err = rawECDSA(der, orderBytes(curve))
		}
	}
	return sig, err
}

type ecdsaDER struct{ R, S *big.Int }

// rawECDSA turns an ASN.1 signature into r‖s, each left-padded to n bytes.
func rawECDSA(der []byte, n int) ([]byte, error) {
	var v ecdsaDER
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
		return nil, errors.New("the signature is not in DER form")
	}
	out := make([]byte, 2*n)
	v.R.FillBytes(out[:n])
	v.S.FillBytes(out[n:])
	return out, nil
}

// As returns a Signer that signs with s and speaks as key, which must have the
// same material: the way to sign with a bare key for its certificate. The
// error matches [ErrKey].
func As(key PublicKey, s Signer) (Signer, error) {
	have := s.PublicKey()
	if key.Equal(have) {
		return s, nil
	}
	if key.CanonicalID() != have.CanonicalID() {
		return nil, fmt.Errorf("%w: key %s is not key %s", ErrKey, have.CanonicalID().Short(), key.CanonicalID().Short())
	}
	return relabelled{key, key.ID(), s}, nil
}

type relabelled struct {
	key PublicKey
	id  KeyID
	s   Signer
}

func (r relabelled) PublicKey() PublicKey { return r.key }

func (r relabelled) Sign(ctx context.Context, message []byte) (Signature, error) {
	sig, err := r.s.Sign(ctx, message)
	sig.KeyID = r.id
	return sig, err
}

// A Ring finds the signer for a public key. Its Signer reports exactly the
// PublicKey asked for, certificate included. The error matches [ErrNoKey] when
// the ring works but does not hold the key, and only then.
type Ring interface {
	Signer(ctx context.Context, gun GUN, role RoleName, key PublicKey) (Signer, error)
}

// appendKey appends the canonical JSON of k.
func appendKey(b []byte, k PublicKey) []byte {
	b = append(b, `{"keytype":`...)
	b = appendCanonicalString(b, string(k.Type))
	b = append(b, `,"keyval":{"private":null,"public":"`...)
	b = base64.StdEncoding.AppendEncode(b, k.Bytes)
	return append(b, `"}}`...)
}

// MarshalJSON writes the key as it stands in metadata (notary-protocol 1.4),
// with "private" null.
func (k PublicKey) MarshalJSON() ([]byte, error) {
	return appendFileForm(nil, keyToTree(k)), nil
}

// UnmarshalJSON reads a key as it stands in metadata. Unknown types are kept.
// Private halves are refused. The error matches [ErrMalformed].
func (k *PublicKey) UnmarshalJSON(raw []byte) error {
	t, err := parseJSON(raw, 8)
	if err != nil {
		return err
	}
	*k, err = keyFromTree(t)
	return err
}

// messageSigner lets package x509 sign certificates with a Signer.
type messageSigner struct {
	ctx context.Context
	s   Signer
	pub crypto.PublicKey
}

func (m messageSigner) Public() crypto.PublicKey { return m.pub }

func (m messageSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("signs whole messages only")
}

func (m messageSigner) SignMessage(_ io.Reader, msg []byte, _ crypto.SignerOpts) ([]byte, error) {
	sig, err := m.s.Sign(m.ctx, msg)
	if err != nil {
		return nil, err
	}
	if sig.Method != methodECDSA {
		return sig.Value, nil
	}
	n := len(sig.Value) / 2
	return asn1.Marshal(ecdsaDER{new(big.Int).SetBytes(sig.Value[:n]), new(big.Int).SetBytes(sig.Value[n:])})
}
