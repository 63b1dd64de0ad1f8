package tuf

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// The reasons why metadata is refused or cannot be made. Those about a file
// arrive wrapped in a [RoleError].
var (
	ErrMalformed    = errors.New("not valid metadata")
	ErrUnsigned     = errors.New("not enough valid signatures")
	ErrExpired      = errors.New("expired")
	ErrRollback     = errors.New("older than what is already trusted")
	ErrMismatch     = errors.New("content does not match the signed hash or length")
	ErrRoot         = errors.New("not a root that may speak for the repository")
	ErrPin          = errors.New("root is not the pinned one")
	ErrIncomplete   = errors.New("a file that is needed is missing")
	ErrLimit        = errors.New("larger than the configured limit")
	ErrNoTarget     = errors.New("no such target")
	ErrNoDelegation = errors.New("no such delegation")
	ErrRole         = errors.New("role cannot do that")
	ErrNoKey        = errors.New("signing key not found")
	ErrKey          = errors.New("key cannot be used")
)

// A RoleError says which file of which repository was refused, and why.
type RoleError struct {
	GUN     GUN
	Role    RoleName
	Version int64 // 0 if unknown
	Err     error
}

func (e *RoleError) Error() string { return fmt.Sprintf("%s of %s: %v", e.Role, e.GUN, e.Err) }
func (e *RoleError) Unwrap() error { return e.Err }

// A Malformed error says what is wrong with the structure of a file. It
// matches [ErrMalformed].
type Malformed struct{ Reason string }

func (e *Malformed) Error() string   { return "not valid metadata: " + e.Reason }
func (e *Malformed) Is(t error) bool { return t == ErrMalformed }

// malformed says it in one line that no terminal obeys, though names out of the
// file can be in it.
func malformed(format string, a ...any) error {
	return &Malformed{Reason: printable(fmt.Sprintf(format, a...))}
}

func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return unicode.ReplacementChar
		}
		return c
	}, text)
}

// A Shortage says how many of the keys that must sign did. It matches
// [ErrUnsigned].
type Shortage struct {
	Have, Need int
	Keys       []KeyID // the keys that may sign
}

func (e *Shortage) Error() string {
	return fmt.Sprintf("signed by %d of the %d keys that must sign it", e.Have, e.Need)
}
func (e *Shortage) Is(t error) bool { return t == ErrUnsigned }

// An Expired error says when a file's life ended. It matches [ErrExpired].
type Expired struct{ At time.Time }

func (e *Expired) Error() string   { return "expired at " + e.At.UTC().Format(time.UnixDate) }
func (e *Expired) Is(t error) bool { return t == ErrExpired }

// A Rollback says that a lower version was offered than one already seen,
// another file of the same version, or, if Offered is 0, that a role is hidden
// that was there before. It matches
// [ErrRollback].
type Rollback struct{ Offered, Seen int64 }

func (e *Rollback) Error() string {
	if e.Offered == 0 {
		return fmt.Sprintf("no longer listed, and version %d has already been seen", e.Seen)
	}
	if e.Offered == e.Seen {
		return fmt.Sprintf("not the version %d that has already been seen", e.Seen)
	}
	return fmt.Sprintf("version %d is lower than version %d, which has already been seen", e.Offered, e.Seen)
}
func (e *Rollback) Is(t error) bool { return t == ErrRollback }

// A Mismatch says that content is not what a signed file said it would be.
// Algorithm is "length" when the length differs; Want is then empty. It
// matches [ErrMismatch].
type Mismatch struct {
	Algorithm string
	Want      []byte
}

func (e *Mismatch) Error() string {
	if e.Algorithm == "length" {
		return "length does not match the signed length"
	}
	return fmt.Sprintf("%s checksum does not match: expected %x", e.Algorithm, e.Want)
}
func (e *Mismatch) Is(t error) bool { return t == ErrMismatch }

// RootReason says why a root was refused.
type RootReason int

// The reasons of a [RootRefusal].
const (
	NoLeaf              RootReason = iota // no certificate of the root role speaks for this repository now
	NotSignedByPrevious                   // a threshold of the previous root's keys did not sign it
	NotSignedBySelf                       // a threshold of its own (pinned) keys did not sign it
	NoPinMatch                            // none of its keys is a pinned one
	FirstUseRefused                       // nothing is pinned, and first use is not allowed
	VersionSkip                           // a version between the trusted root and this one is missing
	Denied                                // one of its keys is on the deny list
)

// A RootRefusal says why a root may not speak for a repository. It matches
// [ErrRoot]; for NoPinMatch, FirstUseRefused and Denied also [ErrPin]; for the
// two signature reasons also [ErrUnsigned].
type RootRefusal struct {
	Reason       RootReason
	Expired      string    // CN of a certificate that would do but for its time, if that is why NoLeaf
	From         time.Time // when a certificate becomes valid, if it is not yet
	Old, Offered int64     // versions, where they matter
}

func (e *RootRefusal) Error() string {
	switch e.Reason {
	case NoLeaf:
		if e.Expired != "" && !e.From.IsZero() {
			return fmt.Sprintf("the root certificate for %s is valid from %s on, and not yet: a clock is wrong, here or where it was made", e.Expired, e.From.UTC().Format(time.UnixDate))
		}
		if e.Expired != "" {
			return fmt.Sprintf("the root certificate for %s has expired", e.Expired)
		}
		return "no root certificate is valid for this repository"
	case NotSignedByPrevious:
		return "not signed by the root keys that are trusted now"
	case NotSignedBySelf:
		return "not signed by its own root keys"
	case NoPinMatch:
		return "no root key matches the pinned ones"
	case FirstUseRefused:
		return "nothing is pinned for this repository, and trust on first use is off"
	case VersionSkip:
		return fmt.Sprintf("version %d does not follow version %d", e.Offered, e.Old)
	case Denied:
		return "the root key is on the deny list"
	}
	return "refused"
}

func (e *RootRefusal) Is(t error) bool {
	switch t {
	case ErrRoot:
		return true
	case ErrPin:
		return e.Reason == NoPinMatch || e.Reason == FirstUseRefused || e.Reason == Denied
	case ErrUnsigned:
		return e.Reason == NotSignedByPrevious || e.Reason == NotSignedBySelf
	}
	return false
}

// A MissingKeys error says which keys would be needed to sign a role, and how
// many of them are at hand. It matches [ErrNoKey].
type MissingKeys struct {
	Role       RoleName
	Have, Need int
	Keys       []CanonicalID
}

func (e *MissingKeys) Error() string {
	ids := make([]string, len(e.Keys))
	for i, id := range e.Keys {
		ids[i] = string(id)
	}
	return fmt.Sprintf("%d of %d keys to sign %s at hand, of: %s", e.Have, e.Need, e.Role, strings.Join(ids, ", "))
}
func (e *MissingKeys) Is(t error) bool { return t == ErrNoKey }
