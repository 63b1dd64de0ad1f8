package signer

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/iechor/trust/tuf"
)

// What can be wrong with the key-encryption keys.
var (
	// ErrKEK says that private keys are wrapped under a key-encryption key
	// other than those given.
	ErrKEK = errors.New("key-encryption key does not fit the key table")
	// ErrSealed says that a key-encryption key cannot be used now: what keeps
	// it is out of reach, or does not let the signer use it.
	ErrSealed = errors.New("key-encryption key cannot be used now")
)

// A KeyEncryption is a key-encryption key that stays where it is: in Vault, in
// a token. It wraps the data keys of 32 bytes that private keys are encrypted
// with; a signature needs it only when a data key is not in memory. It must be
// safe for concurrent use, and honour ctx as far as it can.
type KeyEncryption interface {
	// ID names the key: printable text of at most 200 bytes, the same in every
	// process and for as long as what was wrapped can be unwrapped. It tells
	// nothing about the key itself. Versions of one key have one ID.
	ID() string
	// Wrap encrypts and authenticates plain under the newest version.
	Wrap(ctx context.Context, plain []byte) (wrapped []byte, err error)
	// Unwrap is the inverse of Wrap, for every version that is not withdrawn.
	// It fails if wrapped was changed. The caller wipes the result.
	Unwrap(ctx context.Context, wrapped []byte) (plain []byte, err error)
}

// KEKConfig is what a KEK is made of.
type KEKConfig struct {
	// Current wraps what is made from now on. Others only unwrap: former keys
	// that [Table.Rewrap] has not replaced yet, and coming ones.
	Current KeyEncryption
	Others  []KeyEncryption
	// Life is how long an unwrapped data key stays in memory without being
	// unwrapped anew: an hour if zero. Local keys are not concerned.
	Life time.Duration
	// Tokens is where private keys are made from now on, instead of being made
	// here and wrapped; nil: nowhere.
	Tokens TokenKeys
	Now    func() time.Time // nil: time.Now
}

// A KEK is the set of key-encryption keys that a [Table] works with, the data
// keys that it has unwrapped, and the token whose keys need neither. It is safe for concurrent use.
type KEK struct {
	current KeyEncryption
	local   map[string]*Local        // by ID
	remote  map[string]KeyEncryption // by ID
	life    time.Duration
	now     func() time.Time
	tokens  TokenKeys
	loading chan struct{} // holds a token while a data key is unwrapped

	mu     sync.Mutex
	opened map[string]*opened // guarded by mu; by check value
	failed map[string]failed  // guarded by mu; by check value
}

// opened is a data key in memory. Its bytes are wiped; what the cipher made of
// them goes when the garbage collector takes it, in memory that is not swapped
// ([Harden]).
type opened struct {
	aead  cipher.AEAD
	since time.Time
}

// failed keeps what keeps a key from being asked by every request while it
// does not answer.
type failed struct {
	err   error
	until time.Time
}

// Bounds of asking a key-encryption key.
const (
	defaultLife = time.Hour
	failedPause = 2 * time.Second
	maxID       = 200
)

// NewKEK makes a KEK.
func NewKEK(c KEKConfig) (*KEK, error) {
	if c.Current == nil {
		return nil, errors.New("the signer needs a key-encryption key")
	}
	k := &KEK{
		current: c.Current, local: map[string]*Local{}, remote: map[string]KeyEncryption{}, life: c.Life, now: c.Now, tokens: c.Tokens,
		loading: make(chan struct{}, 1), opened: map[string]*opened{}, failed: map[string]failed{},
	}
	if k.life <= 0 {
		k.life = defaultLife
	}
	if k.now == nil {
		k.now = time.Now
	}
	if t := c.Tokens; t != nil && (t.Name() == "" || len(t.Name()) > maxID) {
		return nil, fmt.Errorf("%q is not the name of a token", t.Name())
	}
	for _, one := range append([]KeyEncryption{c.Current}, c.Others...) {
		id := one.ID()
		if id == "" || len(id) > maxID {
			return nil, fmt.Errorf("%q is not the name of a key-encryption key", id)
		}
		if l, ok := one.(*Local); ok {
			k.local[id] = l
		} else {
			k.remote[id] = one
		}
	}
	return k, nil
}

// IDs lists the keys, the current one first.
func (k *KEK) IDs() []string {
	out := []string{k.current.ID()}
	for _, id := range slices.Sorted(func(yield func(string) bool) {
		for id := range k.local {
			if !yield(id) {
				return
			}
		}
		for id := range k.remote {
			if !yield(id) {
				return
			}
		}
	}) {
		if id != out[0] {
			out = append(out, id)
		}
	}
	return out
}

// knows reports whether id is one of the keys.
func (k *KEK) knows(id string) bool { return k.local[id] != nil || k.remote[id] != nil }

// checkValue names a key of 32 bytes without telling anything about it.
func checkValue(key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("iechor signer: check value of a key-encryption key"))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// binding is what a wrapped key is bound to: a row of the table copied over
// another one does not open.
func binding(id tuf.CanonicalID, gun tuf.GUN, role tuf.RoleName) []byte {
	return []byte("iechor signer key 1\n" + string(id) + "\n" + string(role) + "\n" + string(gun))
}

// cipher returns what opens and seals rows that are wrapped under id: a local
// key or a data key that is in memory, else nil.
func (k *KEK) cipher(id string) cipher.AEAD {
	if l := k.local[id]; l != nil {
		return l.aead
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.opened[id]
	if o == nil {
		return nil
	}
	if age := k.now().Sub(o.since); age < 0 || age >= k.life {
		delete(k.opened, id)
		return nil
	}
	return o.aead
}

// aging lists the data keys in memory whose life is more than half over.
func (k *KEK) aging() (ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, o := range k.opened {
		if k.now().Sub(o.since) >= k.life/2 {
			ids = append(ids, id)
		}
	}
	return ids
}

// A dataKey is a row that holds a data key.
type dataKey struct {
	id      string // its check value
	wrapper string // the ID of the key-encryption key
	wrapped []byte
}

// unwrap asks the key-encryption key of d for it, and keeps it for its life.
// Requests that come together ask once.
func (k *KEK) unwrap(ctx context.Context, d dataKey, anew bool) error {
	by := k.remote[d.wrapper]
	if by == nil {
		return fmt.Errorf("%w: a data key is wrapped under %s, which is not given", ErrKEK, d.wrapper)
	}
	select {
	case k.loading <- struct{}{}:
		defer func() { <-k.loading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !anew && k.cipher(d.id) != nil {
		return nil
	}
	if err := k.lately(d.id); err != nil {
		return err
	}
	plain, err := by.Unwrap(ctx, d.wrapped)
	defer clear(plain) // G5
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %s: %w", ErrSealed, d.wrapper, err)
	case len(plain) != 32 || checkValue(plain) != d.id:
		err = fmt.Errorf("%w: what %s unwraps is not the data key %s", ErrKEK, d.wrapper, d.id)
	default:
		var aead cipher.AEAD
		if aead, err = newAEAD(plain); err == nil {
			k.keep(d.id, aead)
			return nil
		}
	}
	if ctx.Err() == nil { // who went away says nothing about the key
		k.mu.Lock()
		defer k.mu.Unlock()
		k.failed[d.id] = failed{err, k.now().Add(failedPause)}
	}
	return err
}

// keep puts a data key into memory.
func (k *KEK) keep(id string, aead cipher.AEAD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened[id] = &opened{aead, k.now()}
	delete(k.failed, id)
}

// lately returns why id could not be unwrapped a moment ago.
func (k *KEK) lately(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.failed[id]; f.err != nil && k.now().Before(f.until) {
		return f.err
	}
	return nil
}
