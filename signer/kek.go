package signer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/iechor/trust/tuf"
)

// ErrKEK says that private keys are wrapped under a key-encryption key other
// than those given.
var ErrKEK = errors.New("key-encryption key does not fit the key table")

// A KEK is the set of key-encryption keys that a [Table] works with: the
// current one, which wraps, and older ones, which only unwrap. It is immutable.
type KEK struct {
	current string
	open    map[string]cipher.AEAD // by check value
}

// NewKEK makes a KEK of keys of 32 bytes each. New private keys are wrapped
// under current; old ones unwrap what [Table.Rewrap] has not reached yet. The
// caller may wipe its slices afterwards.
func NewKEK(current []byte, old ...[]byte) (*KEK, error) {
	k := &KEK{open: map[string]cipher.AEAD{}}
	for i, key := range append([][]byte{current}, old...) {
		if len(key) != 32 {
			return nil, fmt.Errorf("a key-encryption key has 32 bytes, not %d", len(key))
		}
		if bytes.Count(key, key[:1]) == 32 {
			return nil, errors.New("the key-encryption key is one byte repeated, not a random key")
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		// The check value names the key without telling anything about it.
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte("iechor signer: check value of a key-encryption key"))
		id := hex.EncodeToString(mac.Sum(nil)[:8])
		if i == 0 {
			k.current = id
		}
		k.open[id] = aead
	}
	return k, nil
}

// ParseKEK reads a key-encryption key written as 64 hexadecimal digits or as
// base64. White space around it is ignored. The error does not repeat the text.
func ParseKEK(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if len(text) == 64 {
		if key, err := hex.DecodeString(text); err == nil {
			return key, nil
		}
	}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if key, err := e.Strict().DecodeString(text); err == nil && len(key) == 32 {
			return key, nil
		}
	}
	return nil, errors.New("a key-encryption key is 32 bytes, written as 64 hexadecimal digits or as base64")
}

// ReadKEK reads a key-encryption key from a file that only its owner can read
// (attacks.md G4); the format is that of [ParseKEK].
func ReadKEK(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read or changed by others than its owner (mode %04o): chmod 600 it", path, mode)
	}
	raw, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	key, err := ParseKEK(string(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// knows reports whether something wrapped under id can be unwrapped.
func (k *KEK) knows(id string) bool { return k.open[id] != nil }

// binding is what a wrapped key is bound to: a row of the table copied over
// another one does not open.
func binding(id tuf.CanonicalID, gun tuf.GUN, role tuf.RoleName) []byte {
	return []byte("iechor signer key 1\n" + string(id) + "\n" + string(role) + "\n" + string(gun))
}

// wrap encrypts plain under the current key.
func (k *KEK) wrap(plain, bound []byte) (wrapped []byte, kek string) {
	return k.open[k.current].Seal(nil, nil, plain, bound), k.current
}

// unwrap is the inverse of wrap. The caller wipes the result.
func (k *KEK) unwrap(wrapped []byte, kek string, bound []byte) ([]byte, error) {
	aead := k.open[kek]
	if aead == nil {
		return nil, fmt.Errorf("%w: it is wrapped under key %s, which is not given", ErrKEK, kek)
	}
	plain, err := aead.Open(nil, nil, wrapped, bound)
	if err != nil {
		return nil, errors.New("the wrapped private key has been changed, or belongs to another row")
	}
	return plain, nil
}
