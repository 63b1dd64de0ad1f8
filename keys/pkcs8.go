package keys

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" // read only: openssl wrote it for decades
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // HMAC-SHA1 is the only PRF that Notary reads
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"math/big"

	"golang.org/x/crypto/scrypt"

	"github.com/iechor/trust/tuf"
)

// What is written: PBES2 with PBKDF2-HMAC-SHA1 and AES-256-CBC, the one
// combination that the stock programs read (notary-protocol 6.1). The count
// makes up for the function: it is what OWASP asks for SHA-1.
const (
	writeIterations = 1_300_000
	writeSaltBytes  = 16
)

// What is read. The bounds keep a hostile file from holding the machine for
// more than some seconds or 256 MiB.
const (
	maxIterations   = 10_000_000
	maxSaltBytes    = 1024
	maxScryptMemory = 256 << 20 // 128·N·r
	maxScryptWork   = 1 << 24   // N·r·p
	maxRSABits      = 16384
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}

	oidAES256CBC = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}

	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC            = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519       = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidNotaryEd25519 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 15, 1}
)

// prfs are the pseudorandom functions of PBKDF2 and the count below which a
// file is encrypted again when it is used (attacks.md G6).
var prfs = []struct {
	oid    asn1.ObjectIdentifier
	hash   func() hash.Hash
	strong int
}{
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}, sha1.New, writeIterations},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 8}, sha256.New224, 600_000},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, sha256.New, 600_000},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 10}, sha512.New384, 210_000},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}, sha512.New, 210_000},
}

// A blockCipher is used in CBC mode.
type blockCipher struct {
	new      func(key []byte) (cipher.Block, error)
	keyBytes int
	ivBytes  int
}

var ciphers = []struct {
	oid asn1.ObjectIdentifier
	blockCipher
}{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, blockCipher{aes.NewCipher, 16, 16}},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, blockCipher{aes.NewCipher, 24, 16}},
	{oidAES256CBC, blockCipher{aes.NewCipher, 32, 16}},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, blockCipher{des.NewTripleDESCipher, 24, 8}},
}

// The structures of RFC 5958 and RFC 8018.
type (
	algorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	encryptedKeyInfo struct {
		Algorithm algorithm
		Data      []byte
	}
	keyInfo struct {
		Version   int
		Algorithm algorithm
		Key       []byte
	}
	pbes2Params  struct{ KDF, Cipher algorithm }
	pbkdf2Params struct {
		Salt       []byte
		Iterations int
		KeyLength  int       `asn1:"optional"`
		PRF        algorithm `asn1:"optional"`
	}
	scryptParams struct {
		Salt      []byte
		N, R, P   int
		KeyLength int `asn1:"optional"`
	}
)

// unmarshal decodes all of der.
func unmarshal(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("data after the end")
	}
	return err
}

// A sealed key is an encrypted one whose parameters have been checked: only
// the passphrase is missing.
type sealed struct {
	derive func(passphrase []byte) ([]byte, error)
	cipher blockCipher
	iv     []byte
	data   []byte
	cost   int // of derive, in rounds of a hash
	strong bool
	stock  bool // in the form that the stock programs read
}

// parseSealed reads an EncryptedPrivateKeyInfo without decrypting it. The
// error matches ErrBroken.
func parseSealed(der []byte) (*sealed, error) {
	var info encryptedKeyInfo
	if err := unmarshal(der, &info); err != nil {
		return nil, broken("encrypted PKCS#8: %v", err)
	}
	if !info.Algorithm.OID.Equal(oidPBES2) {
		return nil, broken("encryption scheme %v is not PBES2", info.Algorithm.OID)
	}
	var p pbes2Params
	if err := unmarshal(info.Algorithm.Parameters.FullBytes, &p); err != nil {
		return nil, broken("PBES2 parameters: %v", err)
	}
	s := &sealed{data: info.Data}
	for _, c := range ciphers {
		if c.oid.Equal(p.Cipher.OID) {
			s.cipher = c.blockCipher
		}
	}
	if s.cipher.new == nil {
		return nil, broken("cipher %v is not supported", p.Cipher.OID)
	}
	if err := unmarshal(p.Cipher.Parameters.FullBytes, &s.iv); err != nil || len(s.iv) != s.cipher.ivBytes {
		return nil, broken("the cipher's IV is malformed")
	}
	if len(s.data) == 0 || len(s.data)%s.cipher.ivBytes != 0 {
		return nil, broken("the encrypted data is cut off")
	}
	if err := s.parseKDF(p.KDF); err != nil {
		return nil, err
	}
	s.stock = s.stock && p.Cipher.OID.Equal(oidAES256CBC)
	s.strong = s.strong && s.cipher.ivBytes == aes.BlockSize
	return s, nil
}

// parseKDF sets derive, cost, strong and stock.
func (s *sealed) parseKDF(a algorithm) error {
	n := s.cipher.keyBytes
	switch {
	case a.OID.Equal(oidPBKDF2):
		var p pbkdf2Params
		if err := unmarshal(a.Parameters.FullBytes, &p); err != nil {
			return broken("PBKDF2 parameters: %v", err)
		}
		if p.KeyLength != 0 && p.KeyLength != n || len(p.Salt) > maxSaltBytes {
			return broken("PBKDF2 parameters do not fit the cipher")
		}
		if p.Iterations < 1 || p.Iterations > maxIterations {
			return broken("%d PBKDF2 iterations, and only 1 to %d are accepted", p.Iterations, maxIterations)
		}
		prf := prfs[0] // absent means HMAC-SHA1
		if len(p.PRF.OID) > 0 {
			prf.hash = nil
			for _, f := range prfs {
				if f.oid.Equal(p.PRF.OID) {
					prf = f
				}
			}
		}
		if prf.hash == nil {
			return broken("PBKDF2 with function %v is not supported", p.PRF.OID)
		}
		s.stock = len(p.PRF.OID) == 0 && p.KeyLength == 0
		s.strong = p.Iterations >= prf.strong
		s.cost = p.Iterations
		s.derive = func(pass []byte) ([]byte, error) {
			return pbkdf2.Key(prf.hash, string(pass), p.Salt, p.Iterations, n)
		}
	case a.OID.Equal(oidScrypt):
		var p scryptParams
		if err := unmarshal(a.Parameters.FullBytes, &p); err != nil {
			return broken("scrypt parameters: %v", err)
		}
		if p.KeyLength != 0 && p.KeyLength != n || len(p.Salt) > maxSaltBytes {
			return broken("scrypt parameters do not fit the cipher")
		}
		const top = 1 << 24 // keeps the products below from overflowing
		if p.N < 2 || p.N&(p.N-1) != 0 || p.R < 1 || p.P < 1 || p.N > top || p.R > 1<<10 || p.P > 1<<10 ||
			128*int64(p.N)*int64(p.R) > maxScryptMemory || int64(p.N)*int64(p.R)*int64(p.P) > maxScryptWork {
			return broken("scrypt with N=%d r=%d p=%d is not accepted", p.N, p.R, p.P)
		}
		s.cost = p.N * p.R * p.P
		s.strong = p.N*p.R >= 16384*8
		s.derive = func(pass []byte) ([]byte, error) { return scrypt.Key(pass, p.Salt, p.N, p.R, p.P, n) }
	default:
		return broken("key derivation %v is not supported", a.OID)
	}
	return nil
}

// decrypt returns the content; the caller wipes it. The error matches
// ErrPassphrase if the padding is wrong, which is what a wrong passphrase
// leads to, mostly.
func (s *sealed) decrypt(passphrase []byte) ([]byte, error) {
	key, err := s.derive(passphrase)
	if err != nil {
		return nil, broken("%v", err)
	}
	defer clear(key)
	b, err := s.cipher.new(key)
	if err != nil {
		return nil, broken("%v", err)
	}
	out := make([]byte, len(s.data))
	cipher.NewCBCDecrypter(b, s.iv).CryptBlocks(out, s.data)
	pad := int(out[len(out)-1])
	if pad < 1 || pad > s.cipher.ivBytes || pad > len(out) {
		clear(out)
		return nil, ErrPassphrase
	}
	for _, c := range out[len(out)-pad:] {
		if int(c) != pad {
			clear(out)
			return nil, ErrPassphrase
		}
	}
	return out[:len(out)-pad], nil
}

// sealPKCS8 encrypts content in the form of notary-protocol 6.1.
func sealPKCS8(content, passphrase []byte, iterations int) ([]byte, error) {
	salt := make([]byte, writeSaltBytes)
	iv := make([]byte, aes.BlockSize)
	rand.Read(salt)
	rand.Read(iv)
	key, err := pbkdf2.Key(sha1.New, string(passphrase), salt, iterations, 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(content)%aes.BlockSize
	data := make([]byte, len(content)+pad)
	copy(data, content)
	for i := len(content); i < len(data); i++ {
		data[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(b, iv).CryptBlocks(data, data)

	kdf, err := withParameters(oidPBKDF2, struct {
		Salt       []byte
		Iterations int
	}{salt, iterations})
	if err != nil {
		return nil, err
	}
	enc, err := withParameters(oidAES256CBC, iv)
	if err != nil {
		return nil, err
	}
	scheme, err := withParameters(oidPBES2, pbes2Params{kdf, enc})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(encryptedKeyInfo{scheme, data})
}

func withParameters(oid asn1.ObjectIdentifier, params any) (algorithm, error) {
	der, err := asn1.Marshal(params)
	return algorithm{oid, asn1.RawValue{FullBytes: der}}, err
}

// errStructure says that bytes are not what they should be at all: after
// decryption, the mark of a wrong passphrase.
var errStructure = errors.New("malformed")

// parsePKCS8 reads a PrivateKeyInfo as the stock programs and openssl write
// it: any version, RSA with or without NULL, both forms of Ed25519. The error
// matches errStructure if der is no PrivateKeyInfo, else tuf.ErrKey.
func parsePKCS8(der []byte) (crypto.Signer, error) {
	var info keyInfo
	if err := unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("%w: PKCS#8: %v", errStructure, err)
	}
	switch oid := info.Algorithm.OID; {
	case oid.Equal(oidNotaryEd25519):
		return parseEd25519Blob(info.Key)
	case oid.Equal(oidRSA):
		return parsePKCS1(info.Key)
	case oid.Equal(oidEC), oid.Equal(oidEd25519):
		key, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", tuf.ErrKey, err)
		}
		if s, ok := key.(crypto.Signer); ok {
			return s, nil
		}
		return nil, fmt.Errorf("%w: %T", tuf.ErrKey, key)
	default:
		return nil, fmt.Errorf("%w: private keys of kind %v are not supported", tuf.ErrKey, oid)
	}
}

// parsePKCS1 reads an RSAPrivateKey.
func parsePKCS1(der []byte) (crypto.Signer, error) {
	var p struct {
		Version int
		N       *big.Int
	}
	if err := unmarshal(der, &p); err != nil {
		return nil, fmt.Errorf("%w: PKCS#1: %v", errStructure, err)
	}
	// Before any arithmetic: checking a huge key takes minutes.
	if n := p.N.BitLen(); n > maxRSABits {
		return nil, fmt.Errorf("%w: an RSA key of %d bits", tuf.ErrKey, n)
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", tuf.ErrKey, err)
	}
	return key, nil
}

// parseSEC1 reads an ECPrivateKey that names its curve.
func parseSEC1(der []byte) (crypto.Signer, error) {
	var p struct {
		Version int
		D       []byte
	}
	if err := unmarshal(der, &p); err != nil {
		return nil, fmt.Errorf("%w: SEC 1: %v", errStructure, err)
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", tuf.ErrKey, err)
	}
	return key, nil
}

// parseEd25519Blob reads Notary's form: public ‖ seed ‖ public.
func parseEd25519Blob(b []byte) (crypto.Signer, error) {
	const pub, seed = ed25519.PublicKeySize, ed25519.SeedSize
	if len(b) != pub+ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: an ed25519 key of %d bytes", errStructure, len(b))
	}
	key := ed25519.NewKeyFromSeed(b[pub : pub+seed])
	// A public half that is not the seed's gives the seed away with the first
	// two signatures.
	if subtle.ConstantTimeCompare(key[seed:], b[:pub])&subtle.ConstantTimeCompare(key[seed:], b[pub+seed:]) != 1 {
		return nil, fmt.Errorf("%w: the halves of the ed25519 key do not belong together", errStructure)
	}
	return key, nil
}

// marshalPKCS8 writes the content exactly as the stock programs do; the caller
// wipes it. The error matches tuf.ErrKey if the private half is elsewhere.
func marshalPKCS8(key crypto.Signer) ([]byte, error) {
	var info keyInfo
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		sec1, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", tuf.ErrKey, err)
		}
		spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", tuf.ErrKey, err)
		}
		var pub struct {
			Algorithm algorithm
			Bits      asn1.BitString
		}
		if err := unmarshal(spki, &pub); err != nil {
			return nil, err
		}
		info = keyInfo{1, pub.Algorithm, sec1} // version 1, sic
	case *rsa.PrivateKey:
		info = keyInfo{0, algorithm{OID: oidRSA}, x509.MarshalPKCS1PrivateKey(k)} // no NULL, sic
	case ed25519.PrivateKey:
		pub := k[ed25519.SeedSize:]
		blob := make([]byte, 0, len(pub)+len(k))
		blob = append(append(blob, pub...), k...)
		info = keyInfo{0, algorithm{OID: oidNotaryEd25519}, blob}
	default:
		return nil, fmt.Errorf("%w: the private half of a %T cannot be written", tuf.ErrKey, key)
	}
	defer clear(info.Key)
	return asn1.Marshal(info)
}
