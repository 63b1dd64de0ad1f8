package signer

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// A Local is a key-encryption key whose bytes are here: from a file or a
// variable. Private keys are encrypted with it directly.
type Local struct {
	id   string
	aead cipher.AEAD
}

// NewLocal makes a key-encryption key of 32 bytes. The caller may wipe its
// slice afterwards.
func NewLocal(key []byte) (*Local, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("a key-encryption key has 32 bytes, not %d", len(key))
	}
	if bytes.Count(key, key[:1]) == 32 {
		return nil, errors.New("the key-encryption key is one byte repeated, not a random key")
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return &Local{checkValue(key), aead}, nil
}

// ID implements [KeyEncryption]: it names the key and tells nothing about it.
func (l *Local) ID() string { return l.id }

// Wrap implements [KeyEncryption].
func (l *Local) Wrap(_ context.Context, plain []byte) ([]byte, error) {
	return l.aead.Seal(nil, nil, plain, nil), nil
}

// Unwrap implements [KeyEncryption].
func (l *Local) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	return l.aead.Open(nil, nil, wrapped, nil)
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
