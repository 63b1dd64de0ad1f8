package pkcs11

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// ErrUnwrap says that something was not wrapped by this key, or was changed.
var ErrUnwrap = errors.New("the wrapped key has been changed, or was wrapped by another key")

// A KEK is a key-encryption key: an AES key of 256 bits that never leaves its
// token. It is safe for concurrent use, and outlives the loss of the
// connection to the token.
type KEK struct {
	t     *Token
	label string
	id    string
	gcm   bool
}

// What a wrapped key begins with says how it was wrapped.
const (
	// The token encrypts: then come 12 bytes of nonce and AES-256-GCM.
	wrapGCM = 1
	// A token without GCM encrypts a key that is made for this once: then come
	// 16 bytes of nonce, the key in AES-256-CBC (32 bytes), and AES-256-GCM
	// under that key, made here. Who changes the one cannot make the other fit.
	wrapEnvelope = 2
)

// KEK returns the AES key with the label. The error matches tuf.ErrNoKey if the
// token is there and has none.
func (t *Token) KEK(ctx context.Context, label string) (*KEK, error) {
	k := &KEK{t: t, label: label}
	err := t.with(ctx, use{login: true, again: true}, func(c *connection, s session) error {
		h, err := k.find(c, s)
		if err != nil {
			return err
		}
		id, err := s.get(h, attrID)
		if err != nil {
			return err
		}
		k.id = nameKEK(id, label)
		k.gcm, err = c.offers(mechAESGCM)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("key-encryption key %s in %s: %w", label, t.Name(), err)
	}
	return k, nil
}

// MakeKEK makes an AES key with the label on the token, where it stays. The
// error matches keys.ErrExists if there is one.
func (t *Token) MakeKEK(ctx context.Context, label string) (*KEK, error) {
	if label == "" {
		return nil, errors.New("a key-encryption key needs a label")
	}
	id := make([]byte, 16)
	rand.Read(id)
	err := t.with(ctx, use{login: true}, func(c *connection, s session) error {
		there, err := s.find(secretKey(label))
		if err != nil {
			return err
		}
		if len(there) > 0 {
			return keys.ErrExists
		}
		_, err = s.generate(mechanism{kind: mechAESGenerate}, append(secretKey(label),
			attribute{attrID, id}, attribute{attrToken, true}, attribute{attrPrivate, true}, attribute{attrValueLen, uint(32)},
			attribute{attrSensitive, true}, attribute{attrExtractable, false}, attribute{attrEncrypt, true}, attribute{attrDecrypt, true},
		))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make key-encryption key %s in %s: %w", label, t.Name(), err)
	}
	return t.KEK(ctx, label)
}

func secretKey(label string) []attribute {
	return []attribute{{attrClass, uint(classSecret)}, {attrKeyType, uint(keyAES)}, {attrLabel, label}}
}

// offers reports whether the token has a mechanism.
func (c *connection) offers(kind uint) (bool, error) {
	m, _, err := c.library.module()
	if err != nil {
		return false, err
	}
	kinds, err := m.mechanisms(c.slot.Number)
	return slices.Contains(kinds, kind), err
}

// find returns the key's handle, which holds as long as the connection.
func (k *KEK) find(c *connection, s session) (handle, error) {
	c.mu.Lock()
	h, ok := c.secret[k.label]
	c.mu.Unlock()
	if ok {
		return h, nil
	}
	found, err := s.find(secretKey(k.label))
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, tuf.ErrNoKey
	case len(found) > 1:
		return 0, fmt.Errorf("%w: %d AES keys have this label", keys.ErrExists, len(found))
	}
	if k.id != "" { // not the first time: it must be the same
		id, err := s.get(found[0], attrID)
		if err != nil {
			return 0, err
		}
		if k.id != nameKEK(id, k.label) {
			return 0, fmt.Errorf("%w: another key has its label now", tuf.ErrNoKey)
		}
	}
	c.mu.Lock()
	c.secret[k.label] = found[0]
	c.mu.Unlock()
	return found[0], nil
}

// nameKEK names a key by its id on the token. Who made it may have given it
// none: then its label says which key it is.
func nameKEK(id []byte, label string) string {
	if len(id) == 0 || len(id) > 64 {
		sum := sha256.Sum256([]byte(label))
		return "pkcs11:label:" + hex.EncodeToString(sum[:8])
	}
	return "pkcs11:" + hex.EncodeToString(id)
}

// ID names the key, and stays the same as long as it lives. It is no secret.
func (k *KEK) ID() string { return k.id }

// Wrap encrypts and authenticates plain, such as a key.
func (k *KEK) Wrap(ctx context.Context, plain []byte) ([]byte, error) {
	if !k.gcm {
		return k.wrapEnvelope(ctx, plain)
	}
	nonce := make([]byte, 12)
	rand.Read(nonce)
	var out []byte
	err := k.use(ctx, func(s session, h handle) error {
		iv, sealed, err := s.encrypt(mechanism{kind: mechAESGCM, iv: nonce}, h, plain)
		if err == nil && (len(iv) != 12 || len(sealed) != len(plain)+16) {
			err = fmt.Errorf("%w: it encrypts in a form of its own", keys.ErrTokenRefuses)
		}
		out = slices.Concat([]byte{wrapGCM}, iv, sealed)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wrap with %s: %w", k.label, err)
	}
	return out, nil
}

func (k *KEK) wrapEnvelope(ctx context.Context, plain []byte) ([]byte, error) {
	fresh := make([]byte, 32+16)
	rand.Read(fresh)
	defer clear(fresh)
	once, iv := fresh[:32], slices.Clone(fresh[32:])
	var sealed []byte
	err := k.use(ctx, func(s session, h handle) (err error) {
		_, sealed, err = s.encrypt(mechanism{kind: mechAESCBC, iv: iv}, h, once)
		if err == nil && len(sealed) != 32 {
			err = fmt.Errorf("%w: it encrypts in a form of its own", keys.ErrTokenRefuses)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wrap with %s: %w", k.label, err)
	}
	aead, err := newGCM(once)
	if err != nil {
		return nil, err
	}
	head := slices.Concat([]byte{wrapEnvelope}, iv, sealed)
	return aead.Seal(head, nil, plain, nil), nil
}

// newGCM is AES-GCM that chooses its nonce and puts it before what it seals.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Unwrap is the inverse of Wrap. The caller wipes the result. The error matches
// ErrUnwrap if wrapped is not of this key, or was changed; every other error is
// about the token.
func (k *KEK) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	switch {
	case len(wrapped) > 1+12+16 && wrapped[0] == wrapGCM:
		return k.decrypt(ctx, mechanism{kind: mechAESGCM, iv: wrapped[1:13]}, wrapped[13:])
	case len(wrapped) > 1+16+32+12+16 && wrapped[0] == wrapEnvelope:
		once, err := k.decrypt(ctx, mechanism{kind: mechAESCBC, iv: wrapped[1:17]}, wrapped[17:49])
		if err != nil {
			return nil, err
		}
		defer clear(once)
		aead, err := newGCM(once)
		if err != nil {
			return nil, err
		}
		plain, err := aead.Open(nil, nil, wrapped[49:], nil)
		if err != nil {
			return nil, ErrUnwrap
		}
		return plain, nil
	}
	return nil, ErrUnwrap
}

func (k *KEK) decrypt(ctx context.Context, m mechanism, sealed []byte) ([]byte, error) {
	var plain []byte
	open := func() error {
		return k.once(ctx, func(s session, h handle) (err error) {
			plain, err = s.decrypt(m, h, sealed)
			return err
		})
	}
	err := open()
	if is(err, vague...) {
		// Libraries disagree about how to say that a seal is broken, and some
		// say the same of a broken connection. See that the key works, if need
		// be over a new one, and ask again.
		if _, e := k.Wrap(ctx, []byte("iechor")); e != nil {
			return nil, e
		}
		err = open()
	}
	switch {
	case err == nil:
		return plain, nil
	case is(err, codeEncryptedData, codeEncryptedLength), is(err, vague...):
		return nil, ErrUnwrap
	}
	return nil, fmt.Errorf("unwrap with %s: %w", k.label, err)
}

// vague are the codes for whatever went wrong.
var vague = []code{codeGeneral, codeFailed, codeData, codeDataLength}

// once calls f with the key.
func (k *KEK) once(ctx context.Context, f func(s session, h handle) error) error {
	var used *connection
	err := k.t.with(ctx, use{login: true, again: true}, func(c *connection, s session) error {
		used = c
		h, err := k.find(c, s)
		if err != nil {
			return err
		}
		return f(s, h)
	})
	if is(err, vague...) {
		return &vagueError{err, used}
	}
	return err
}

// A vagueError may be about the connection.
type vagueError struct {
	err error
	c   *connection
}

func (e *vagueError) Error() string { return e.err.Error() }
func (e *vagueError) Unwrap() error { return e.err }

// use is once for what does not fail: when it did, that may be the connection
// to the token, and f is called again with a new one.
func (k *KEK) use(ctx context.Context, f func(s session, h handle) error) error {
	err := k.once(ctx, f)
	var maybe *vagueError
	if errors.As(err, &maybe) {
		k.t.drop(maybe.c)
		return k.once(ctx, f)
	}
	return err
}
