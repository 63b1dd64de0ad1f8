package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for ES384 to RS512
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// TokenAlgorithms are the methods that tokens may be signed with.
var TokenAlgorithms = []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "EdDSA"}

// TokenKeys are the public keys of a token service. They do not change.
type TokenKeys struct {
	roots *x509.CertPool // nil: there are no certificates
	named map[string]tokenKey
}

// A tokenKey is a key that signs tokens, by one algorithm only if one is named.
type tokenKey struct {
	public    crypto.PublicKey
	algorithm string
}

const tokenChain = 10 // certificates in one token

// ParseTokenKeys reads the keys of a token service: PEM certificates, whose
// keys sign tokens or the certificates of those that do, or a JSON Web Key Set
// (RFC 7517).
func ParseTokenKeys(raw []byte) (*TokenKeys, error) {
	k := &TokenKeys{named: map[string]tokenKey{}}
	var err error
	if trimmed := bytes.TrimSpace(raw); bytes.HasPrefix(trimmed, []byte("{")) {
		err = k.parseSet(trimmed)
	} else {
		err = k.parseBundle(raw)
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

func (k *TokenKeys) parseBundle(rest []byte) error {
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return errors.New("there is a private key in it: whoever reads it can make tokens; put the certificates alone here")
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("there is a %q in it, and only certificates belong there", strings.ToLower(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", len(k.named)+1, err)
		}
		if err := usable(cert.PublicKey); err != nil {
			return fmt.Errorf("certificate of %q: %w", cert.Subject.String(), err)
		}
		if k.roots == nil {
			k.roots = x509.NewCertPool()
		}
		k.roots.AddCert(cert)
		k.named[TokenKeyID(cert.RawSubjectPublicKeyInfo)] = tokenKey{cert.PublicKey, ""}
	}
	if k.roots == nil {
		return errors.New("there is neither a PEM certificate nor a JSON Web Key Set in it")
	}
	return nil
}

func (k *TokenKeys) parseSet(raw []byte) error {
	var set struct {
		Keys []struct {
			jwk
			ID        string          `json:"kid"`
			Use       string          `json:"use"`
			Algorithm string          `json:"alg"`
			Private   json.RawMessage `json:"d"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	for i, one := range set.Keys {
		name := fmt.Sprintf("key %d", i+1)
		if one.ID != "" {
			name = fmt.Sprintf("key %q", one.ID)
		}
		switch {
		case one.Private != nil || one.Type == "oct":
			return fmt.Errorf("%s is secret: whoever reads it can make tokens; put public keys alone here", name)
		case one.Use != "" && one.Use != "sig":
			continue
		case one.Algorithm != "" && !slices.Contains(TokenAlgorithms, one.Algorithm):
			return fmt.Errorf("%s is for %q: choose of %s", name, one.Algorithm, strings.Join(TokenAlgorithms, ", "))
		}
		public, err := one.public()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		spki, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, twice := k.named[one.ID]; twice {
			return fmt.Errorf("two keys are called %q", one.ID)
		}
		key := tokenKey{public, one.Algorithm}
		if one.ID != "" {
			k.named[one.ID] = key
		}
		k.named[TokenKeyID(spki)] = key
	}
	if len(k.named) == 0 {
		return errors.New("there is no key for signatures in the JSON Web Key Set")
	}
	return nil
}

// TokenKeyID is the name of a key in the "kid" of a token, as libtrust has it:
// the first 30 bytes of the SHA-256 of its SubjectPublicKeyInfo in base32, in
// groups of four.
func TokenKeyID(spki []byte) string {
	sum := sha256.Sum256(spki)
	text := base32.StdEncoding.EncodeToString(sum[:30])
	groups := make([]string, 0, 12)
	for group := range slices.Chunk([]byte(text), 4) {
		groups = append(groups, string(group))
	}
	return strings.Join(groups, ":")
}

// usable refuses a key that no signature would be accepted of.
func usable(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if slices.ContainsFunc(curves[:], func(c curve) bool { return c.Curve == k.Curve }) {
			return nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSA && k.E > 1 && k.E&1 == 1 {
			return nil
		}
		return fmt.Errorf("an RSA key of %d bits is too weak: use %d or more", k.N.BitLen(), minRSA)
	}
	return fmt.Errorf("a key of type %T cannot sign tokens: use P-256, RSA or Ed25519", key)
}

const minRSA = 2048

// A curve is the one that an algorithm means (RFC 7518 3.4).
type curve struct {
	algorithm string
	elliptic.Curve
}

var curves = [...]curve{{"ES256", elliptic.P256()}, {"ES384", elliptic.P384()}, {"ES512", elliptic.P521()}}

type tokenHeader struct {
	Algorithm string          `json:"alg"`
	Chain     [][]byte        `json:"x5c"`
	Key       *jwk            `json:"jwk"`
	KeyID     string          `json:"kid"`
	Critical  json.RawMessage `json:"crit"` // nothing that must be understood is (RFC 7515 4.1.11)
}

// find finds the key that must have signed a token. Whatever a token brings
// along only says which of the trusted keys that is.
func (k *TokenKeys) find(h tokenHeader, now time.Time) (crypto.PublicKey, error) {
	chain := h.Chain
	if len(chain) == 0 && h.Key != nil {
		chain = h.Key.Chain
	}
	name := h.KeyID
	switch {
	case len(chain) > 0 && k.roots != nil:
		return k.certified(chain, now)
	case len(chain) > 0:
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			return nil, errToken
		}
		name = TokenKeyID(leaf.RawSubjectPublicKeyInfo)
	case h.Key != nil:
		pub, err := h.Key.public()
		if err != nil {
			return nil, errToken
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return nil, errToken
		}
		name = TokenKeyID(spki)
	}
	key, ok := k.named[name]
	if !ok || key.algorithm != "" && key.algorithm != h.Algorithm {
		return nil, errToken
	}
	return key.public, nil
}

// certified returns the key of a certificate that leads to the configured
// ones.
func (k *TokenKeys) certified(chain [][]byte, now time.Time) (crypto.PublicKey, error) {
	if len(chain) > tokenChain {
		return nil, errToken
	}
	between := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errToken
		}
		if i == 0 {
			leaf = cert
		} else {
			between.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: k.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, errToken
	}
	return leaf.PublicKey, nil
}

// A jwk is a public key in JSON (RFC 7517, RFC 8037).
type jwk struct {
	Chain [][]byte `json:"x5c"`
	Type  string   `json:"kty"`
	Curve string   `json:"crv"`
	X     string   `json:"x"`
	Y     string   `json:"y"`
	N     string   `json:"n"`
	E     string   `json:"e"`
}

func unbase64(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

// public returns the key, if signatures of it may be accepted.
func (k *jwk) public() (crypto.PublicKey, error) {
	var number [4][]byte
	for i, s := range []string{k.X, k.Y, k.N, k.E} {
		var err error
		if number[i], err = unbase64(s); err != nil {
			return nil, err
		}
	}
	x, y, n, e := number[0], number[1], number[2], new(big.Int).SetBytes(number[3])
	var public crypto.PublicKey
	switch {
	case k.Type == "OKP" && k.Curve == "Ed25519" && len(x) == ed25519.PublicKeySize:
		public = ed25519.PublicKey(x)
	case k.Type == "EC":
		for _, c := range curves {
			if c.Params().Name == k.Curve {
				point, err := ecdsa.ParseUncompressedPublicKey(c.Curve, bytes.Join([][]byte{{4}, x, y}, nil))
				if err != nil {
					return nil, err
				}
				public = point
			}
		}
	case k.Type == "RSA" && e.IsInt64() && e.Int64() <= 1<<31-1:
		public = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(e.Int64())}
	}
	if public == nil {
		return nil, fmt.Errorf("a key of type %q, curve %q cannot sign tokens: use EC on P-256, RSA, or OKP on Ed25519", k.Type, k.Curve)
	}
	return public, usable(public)
}

// signedBy verifies a signature by a method that the key admits.
func signedBy(key crypto.PublicKey, algorithm, message string, sig []byte) bool {
	if k, ok := key.(ed25519.PublicKey); ok {
		return algorithm == "EdDSA" && ed25519.Verify(k, []byte(message), sig)
	}
	hash, ok := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[strings.TrimLeft(algorithm, "ERS")]
	if !ok || len(algorithm) != 5 {
		return false
	}
	h := hash.New()
	h.Write([]byte(message))
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if !slices.Contains(curves[:], curve{algorithm, k.Curve}) {
			return false
		}
		n := (k.Curve.Params().BitSize + 7) / 8
		return len(sig) == 2*n && ecdsa.Verify(k, h.Sum(nil), new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case *rsa.PublicKey:
		return algorithm[:2] == "RS" && k.N.BitLen() >= minRSA && rsa.VerifyPKCS1v15(k, hash, h.Sum(nil), sig) == nil
	}
	return false
}
