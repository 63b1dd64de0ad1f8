package tuf

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// A Meta is the outline of one file: what a signer needs to know of it
// without the rest of the repository.
type Meta struct {
	Role      RoleName
	Version   int64
	Expires   time.Time
	Files     map[RoleName]FileMeta // what a snapshot or timestamp vouches for
	Canonical []byte                // the bytes that are signed
}

// Payload reads the payload of a snapshot or timestamp, strictly and as the
// Notary dialect writes it. raw must be in canonical form, so that there is
// one payload for one meaning, and have no member and no checksum that this
// package does not know: what is signed is what was judged. The error matches
// [ErrMalformed], [ErrLimit], or [ErrRole] for any other role.
func Payload(role RoleName, raw []byte) (Meta, error) {
	if role != RoleSnapshot && role != RoleTimestamp {
		return Meta{}, roleProblem(role, "only snapshot and timestamp are signed here")
	}
	o := Options{}.filled()
	if limit := o.Limits.of(role); int64(len(raw)) > limit {
		return Meta{}, &TooLarge{Limit: limit}
	}
	n, err := parsePayload(raw)
	if err != nil {
		return Meta{}, err
	}
	if !bytes.Equal(raw, appendCanonical(nil, n)) {
		return Meta{}, malformed("the payload is not in canonical form")
	}
	c, err := o.Dialect.decode(role, n)
	if err != nil {
		return Meta{}, err
	}
	if err := allKnown(n); err != nil {
		return Meta{}, err
	}
	return Meta{Role: role, Version: c.version, Expires: c.expires, Files: c.meta, Canonical: raw}, nil
}

// allKnown refuses a payload with members that are not known here.
func allKnown(payload node) error {
	if err := payload.only("_type", "expires", "meta", "version"); err != nil {
		return err
	}
	meta, _ := payload.get("meta")
	for i, name := range meta.names {
		err := meta.items[i].only("hashes", "length")
		if err == nil {
			hashes, _ := meta.items[i].get("hashes")
			err = hashes.only("sha256", "sha512")
		}
		if err != nil {
			return fmt.Errorf("the entry of %s: %w", name, err)
		}
	}
	return nil
}

// only refuses an object with other members.
func (n node) only(known ...string) error {
	for _, name := range n.names {
		if !slices.Contains(known, name) {
			return malformed("unknown member %q", name)
		}
	}
	return nil
}

// parsePayload parses a canonical payload, in which strings may hold raw
// control characters only if they were escaped in the file; such files are
// not signed here, so the strict JSON rules do.
func parsePayload(raw []byte) (node, error) {
	n, err := parseJSON(raw, maxDepth)
	if err == nil && n.kind != kindObject {
		err = malformed("not a JSON object")
	}
	return n, err
}

// VerifyFile verifies the structure of one file and its signatures by one
// role, and nothing else: neither expiry nor where the role comes from.
// Errors match ErrMalformed, ErrLimit or ErrUnsigned.
func VerifyFile(raw []byte, role Role, o Options) (Meta, error) {
	d, err := decode(o.filled(), role.Name, raw)
	if err != nil {
		return Meta{}, err
	}
	if err := d.verify(role); err != nil {
		return Meta{}, err
	}
	return Meta{Role: role.Name, Version: d.version, Expires: d.expires, Files: d.meta, Canonical: d.message}, nil
}

// Outline reads the structure of one file without verifying anything. Errors
// match ErrMalformed or ErrLimit.
func Outline(role RoleName, raw []byte, o Options) (Meta, error) {
	d, err := decode(o.filled(), role, raw)
	if err != nil {
		return Meta{}, err
	}
	return Meta{Role: role, Version: d.version, Expires: d.expires, Files: d.meta, Canonical: d.message}, nil
}

// TimestampPayload returns the payload of the timestamp over a snapshot, in
// canonical form: the one that [Draft.Sign] makes of a draft that began with
// [Receive].
func TimestampPayload(version int64, expires time.Time, snapshot []byte) []byte {
	d := Notary{}
	p := d.putMeta(d.blank(RoleTimestamp), RoleSnapshot, describe(snapshot))
	return appendCanonical(nil, d.stamp(p, version, expires))
}

// Envelope assembles a file from a payload in canonical form and its
// signatures. The error matches [ErrMalformed].
func Envelope(payload []byte, sigs ...Signature) ([]byte, error) {
	n, err := parsePayload(payload)
	if err != nil {
		return nil, err
	}
	return envelope(n, sigs), nil
}

// Matches reports, by a nil error, that raw is the file that m describes:
// every hash of a known algorithm and the length. At least one algorithm must
// be known. Errors match ErrMismatch or ErrMalformed.
func (m FileMeta) Matches(raw []byte) error { return m.matches(raw) }
