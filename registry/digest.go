package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Digest is the sha256 of content. The zero value means "no digest".
// Algorithms other than sha256 do not exist in this package (spec/cli.md 1.4).
type Digest [sha256.Size]byte

// ParseDigest reads "sha256:" and 64 lower-case hexadecimal digits. Anything
// else is an error that matches ErrReference.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(digits) != 2*len(d) || digits != strings.ToLower(digits) {
		return Digest{}, fmt.Errorf("%w: digest %q is not sha256: and 64 hexadecimal digits", ErrReference, s)
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return Digest{}, fmt.Errorf("%w: digest %q is not sha256: and 64 hexadecimal digits", ErrReference, s)
	}
	if d.IsZero() {
		return Digest{}, fmt.Errorf("%w: digest %q is no digest of anything", ErrReference, s)
	}
	return d, nil
}

// DigestOf returns the digest of raw.
func DigestOf(raw []byte) Digest { return sha256.Sum256(raw) }

// IsZero reports whether d is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// Hex returns the 64 digits alone.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// Short returns the first twelve digits, as progress lines show them.
func (d Digest) Short() string { return d.Hex()[:12] }

// String returns "sha256:" and the digits, or "" for the zero value.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return "sha256:" + d.Hex()
}

// MarshalText makes a Digest a string in JSON.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
