package keys

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/iechor/trust/tuf"
)

// PEM types and headers of private keys (notary-protocol 6.1).
const (
	typeEncrypted = "ENCRYPTED PRIVATE KEY"
	typePKCS8     = "PRIVATE KEY"
	typeRSA       = "RSA PRIVATE KEY"
	typeEC        = "EC PRIVATE KEY"
	typeEd25519   = "ED25519 PRIVATE KEY"

	headerRole = "role"
	headerGUN  = "gun"
	headerPath = "path"
)

// maxBlocks bounds how many keys one file may hold.
const maxBlocks = 1000

// A Block is one private key in PEM form, encrypted or not.
type Block struct {
	// Info is what the block's headers say. ID is empty unless it was exported
	// (header "path"), and is a claim until the key is opened. Type is known
	// for keys that are not encrypted.
	Info Info

	block  *pem.Block
	sealed *sealed // nil if not encrypted
}

// Parse reads all private keys in raw: PKCS#8, PKCS#1, SEC 1 and Notary's own
// Ed25519 form, encrypted or not, with text and other blocks around them. What
// can be checked without a passphrase is. The error matches [ErrBroken], or
// tuf.ErrKey for a key that must not sign.
func Parse(raw []byte) ([]*Block, error) {
	var out []*Block
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		if !strings.HasSuffix(b.Type, "PRIVATE KEY") {
			continue // EC PARAMETERS, CERTIFICATE
		}
		if len(out) == maxBlocks {
			return nil, broken("more than %d keys in one file", maxBlocks)
		}
		k, err := parseBlock(b)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, broken("no private key in PEM form found")
	}
	return out, nil
}

func parseBlock(b *pem.Block) (*Block, error) {
	k := &Block{block: b}
	var err error
	switch b.Type {
	case typeEncrypted:
		k.sealed, err = parseSealed(b.Bytes)
	case typePKCS8, typeRSA, typeEC, typeEd25519:
		k.sealed, err = parseDEK(b)
	default:
		return nil, broken("PEM blocks of type %q are not supported", b.Type)
	}
	if err != nil {
		return nil, err
	}
	if path, ok := b.Headers[headerPath]; ok {
		k.Info, _ = legacyPath(strings.TrimSuffix(filepath.ToSlash(path), ".key"))
	}
	if role := b.Headers[headerRole]; role != "" {
		k.Info.Role = role
	}
	if gun := b.Headers[headerGUN]; gun != "" {
		k.Info.GUN = tuf.GUN(gun)
	}
	// The headers are not covered by the encryption, and are shown to people.
	if !printable(k.Info.Role) || k.Info.GUN != "" && !k.Info.GUN.Valid() {
		return nil, broken("the headers name a role or repository that cannot be")
	}
	if k.sealed == nil {
		key, err := k.Key(nil)
		if err != nil {
			return nil, err
		}
		defer Wipe(key)
		pub, err := tuf.NewPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		k.Info.Type = pub.Type
	}
	return k, nil
}

// Encrypted reports whether Key needs a passphrase.
func (b *Block) Encrypted() bool { return b.sealed != nil }

// Key returns the private key; the caller owns it. A block that is not
// encrypted ignores the passphrase. The error matches [ErrPassphrase] if the
// passphrase is wrong, tuf.ErrKey if the key must not sign (attacks.md K11),
// else [ErrBroken].
func (b *Block) Key(passphrase []byte) (crypto.Signer, error) {
	content := b.block.Bytes
	if b.sealed != nil {
		var err error
		if content, err = b.sealed.decrypt(passphrase); err != nil {
			return nil, err
		}
		defer clear(content)
	}
	var key crypto.Signer
	var err error
	switch b.block.Type {
	case typeRSA:
		key, err = parsePKCS1(content)
	case typeEC:
		key, err = parseSEC1(content)
	case typeEd25519:
		key, err = parseEd25519Blob(content)
	default:
		key, err = parsePKCS8(content)
	}
	if errors.Is(err, errStructure) {
		if b.sealed != nil {
			return nil, ErrPassphrase
		}
		return nil, fmt.Errorf("%w: %v", ErrBroken, err)
	}
	if err != nil {
		return nil, err
	}
	if _, err := tuf.NewPublicKey(key.Public()); err != nil {
		Wipe(key)
		return nil, err
	}
	return key, nil
}

// weak reports whether the passphrase should get better protection.
func (b *Block) weak(iterations int) bool {
	s := b.sealed
	if s == nil || s.strong {
		return false
	}
	return !s.stock || s.cost < iterations
}

// encode writes the block for info, with a path header unless path is empty.
// Headers come out in alphabetical order.
func (b *Block) encode(info Info, path string) []byte {
	headers := make(map[string]string)
	maps.Copy(headers, b.block.Headers)
	set := func(name, value string) {
		delete(headers, name)
		if value != "" {
			headers[name] = value
		}
	}
	set(headerRole, info.Role)
	set(headerGUN, string(info.GUN))
	set(headerPath, path)
	return pem.EncodeToMemory(&pem.Block{Type: b.block.Type, Headers: headers, Bytes: b.block.Bytes})
}

// Seal returns the key file of notary-protocol 6.1, which Notary, Docker and
// (without its headers) openssl read. passphrase must not be empty. iterations
// is the PBKDF2 count, 0 the default of 1,300,000; tests alone take less. The
// error matches tuf.ErrKey, tuf.ErrRole or [ErrNoPassphrase].
func Seal(key crypto.Signer, info Info, passphrase []byte, iterations int) ([]byte, error) {
	info, err := info.Clean()
	if err != nil {
		return nil, err
	}
	if len(passphrase) == 0 {
		return nil, ErrNoPassphrase
	}
	if iterations <= 0 {
		iterations = writeIterations
	}
	if _, err := tuf.NewPublicKey(key.Public()); err != nil {
		return nil, err
	}
	b, err := seal(key, passphrase, iterations)
	if err != nil {
		return nil, err
	}
	return b.encode(info, ""), nil
}

// seal encrypts key into a block without headers.
func seal(key crypto.Signer, passphrase []byte, iterations int) (*Block, error) {
	content, err := marshalPKCS8(key)
	if err != nil {
		return nil, err
	}
	defer clear(content)
	der, err := sealPKCS8(content, passphrase, iterations)
	if err != nil {
		return nil, err
	}
	return &Block{block: &pem.Block{Type: typeEncrypted, Bytes: der}}, nil
}
