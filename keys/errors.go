package keys

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/iechor/trust/tuf"
)

// What a caller can decide on.
var (
	ErrPassphrase   = errors.New("wrong passphrase")
	ErrCancelled    = errors.New("cancelled")
	ErrNoPassphrase = errors.New("no passphrase was given")
	ErrBroken       = errors.New("not a usable private key file")
	ErrShared       = errors.New("private key file must not be readable or writable by others")
	ErrSharedSecret = errors.New("it must not be readable or writable by others")
	ErrExists       = errors.New("key with same ID already exists")
	ErrClosed       = errors.New("the key store is closed")
)

// A StoreError says which key of which store could not be used, and why.
type StoreError struct {
	Store string // its Name
	Key   Info   // as far as known
	Err   error
}

func (e *StoreError) Error() string { return fmt.Sprintf("%s in %s: %v", e.Key, e.Store, e.Err) }
func (e *StoreError) Unwrap() error { return e.Err }

// An ExistsError says that a key is already stored for another role. It
// matches [ErrExists].
type ExistsError struct {
	ID   tuf.CanonicalID
	Role string // the role it is stored for
}

func (e *ExistsError) Error() string {
	return "key with same ID already exists for role: " + e.Role
}
func (e *ExistsError) Is(t error) bool { return t == ErrExists }

// A SharedFile says that a key file is open to other users. It matches
// [ErrShared].
type SharedFile struct{ Path string }

func (e *SharedFile) Error() string {
	return fmt.Sprintf("private key file %s must not be readable or writable by others: run chmod 600 %s", e.Path, shellWord(e.Path))
}
func (e *SharedFile) Is(t error) bool { return t == ErrShared }

// shellWord quotes s for a shell if that is needed.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._-+:@%=,", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// A Problem is something in a directory of keys that someone should look at.
// It keeps one file from being used, not the others.
type Problem struct {
	Path string
	Err  error
}

func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.Path, p.Err) }

// broken makes an error that matches ErrBroken and says why.
func broken(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, a...))
}
