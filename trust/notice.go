package trust

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// A Notice tells the consumers of a repository that it was made anew with
// another root, and which one. It is a file that its owner signs with whatever
// old keys remain (format.md 7.4): who knows the repository can see that those
// who signed its tags speak for the new root, too. It decides nothing by itself.
type Notice struct {
	GUN    tuf.GUN
	Made   time.Time
	Reason string
	Old    []tuf.KeyID // keys of the root that was lost
	New    []tuf.KeyID // keys of the root that takes its place

	raw        []byte
	message    []byte // canonical form of what is signed
	signatures []tuf.Signature
}

// ErrNotice says that a notice does not hold for what it was asked about.
var ErrNotice = errors.New("the notice does not speak for this root")

const (
	noticeType    = "Notice"
	maxNotice     = 64 << 10
	maxNoticeKeys = 32
	maxReason     = 1000
	noticeVersion = 1
)

// A noticeFile is what stands in the file.
type noticeFile struct {
	Signed     json.RawMessage   `json:"signed"`
	Signatures []noticeSignature `json:"signatures"`
}

type noticePayload struct {
	Type    string      `json:"_type"`
	Version int         `json:"version"`
	GUN     tuf.GUN     `json:"gun"`
	Made    time.Time   `json:"made"`
	Reason  string      `json:"reason"`
	Old     []tuf.KeyID `json:"old"`
	New     []tuf.KeyID `json:"new"`
}

type noticeSignature struct {
	KeyID  tuf.KeyID `json:"keyid"`
	Method string    `json:"method"`
	Sig    string    `json:"sig"`
}

// ReadNotice reads a notice strictly. Its signatures are not looked at: see
// [Notice.Vouchers]. The error matches [tuf.ErrMalformed].
func ReadNotice(raw []byte) (*Notice, error) {
	bad := func(format string, a ...any) (*Notice, error) {
		return nil, &formatError{"notice", fmt.Sprintf(format, a...)}
	}
	if len(raw) > maxNotice {
		return bad("larger than %d bytes", maxNotice)
	}
	var f noticeFile
	if err := strict(raw, &f); err != nil {
		return bad("%v", err)
	}
	var p noticePayload
	if err := strict(f.Signed, &p); err != nil {
		return bad("%v", err)
	}
	switch {
	case p.Type != noticeType:
		return bad("it is a %q", p.Type)
	case p.Version != noticeVersion:
		return bad("version %d of the format is not known", p.Version)
	case !p.GUN.Valid():
		return bad("%q is not the name of a repository", string(p.GUN))
	case len(p.Reason) > maxReason:
		return bad("the reason is longer than %d bytes", maxReason)
	case len(p.New) == 0, len(p.New) > maxNoticeKeys, len(p.Old) > maxNoticeKeys:
		return bad("it names %d new and %d old keys", len(p.New), len(p.Old))
	case len(f.Signatures) > tuf.DefaultLimits().Signatures:
		return bad("%d signatures", len(f.Signatures))
	}
	for _, id := range slices.Concat(p.Old, p.New) {
		if !tuf.CanonicalID(id).Valid() {
			return bad("%q is not a key id", string(id))
		}
	}
	n := &Notice{GUN: p.GUN, Made: p.Made, Reason: p.Reason, Old: p.Old, New: p.New, raw: raw}
	var err error
	if n.message, err = tuf.Canonical(f.Signed); err != nil {
		return nil, err
	}
	for _, s := range f.Signatures {
		value, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			return bad("a signature is not base64")
		}
		if slices.ContainsFunc(n.signatures, func(o tuf.Signature) bool { return o.KeyID == s.KeyID }) {
			return bad("two signatures by key %q", string(s.KeyID))
		}
		n.signatures = append(n.signatures, tuf.Signature{KeyID: s.KeyID, Method: s.Method, Value: value})
	}
	return n, nil
}

// Sum returns the SHA-256 of the file, in hex.
func (n *Notice) Sum() string {
	sum := sha256.Sum256(n.raw)
	return hex.EncodeToString(sum[:])
}

// Bytes returns the file.
func (n *Notice) Bytes() []byte { return n.raw }

// SignNotice makes a notice about n.New, signed with those of with whose
// private keys are in ring: at least one of them, otherwise the error matches
// [tuf.ErrNoKey].
func SignNotice(ctx context.Context, n Notice, with []tuf.PublicKey, ring keys.Ring) (*Notice, error) {
	signed, err := json.Marshal(noticePayload{noticeType, noticeVersion, n.GUN, n.Made.UTC().Truncate(time.Second), n.Reason, n.Old, n.New})
	if err != nil {
		return nil, err
	}
	message, err := tuf.Canonical(signed)
	if err != nil {
		return nil, err
	}
	f := noticeFile{Signed: message}
	for _, k := range with {
		s, err := ring.Signer(ctx, n.GUN, tuf.RoleTargets, k)
		if errors.Is(err, tuf.ErrNoKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sig, err := s.Sign(ctx, message)
		if err != nil {
			return nil, err
		}
		id := k.ID()
		if slices.ContainsFunc(f.Signatures, func(o noticeSignature) bool { return o.KeyID == id }) {
			continue
		}
		f.Signatures = append(f.Signatures, noticeSignature{id, sig.Method, base64.StdEncoding.EncodeToString(sig.Value)})
	}
	if len(f.Signatures) == 0 {
		return nil, fmt.Errorf("%w: none of the old keys is here to sign a notice", tuf.ErrNoKey)
	}
	raw, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return ReadNotice(append(raw, '\n'))
}

// A Voucher is a key that a machine knew of old, and that signed a notice.
type Voucher struct {
	Role tuf.RoleName
	Key  tuf.CanonicalID
}

// Vouchers returns the keys of past, what this machine trusted so far, that
// signed the notice, if it says that exactly the root of set is the new one. Of
// which old one it speaks does not matter: past may be older than that. Snapshot and timestamp keys do not count, since the
// server has them. The error matches [ErrNotice] if nobody vouches.
func (n *Notice) Vouchers(past *tuf.Past, set *tuf.Set) ([]Voucher, error) {
	no := func(format string, a ...any) ([]Voucher, error) {
		return nil, fmt.Errorf("%w: %s", ErrNotice, fmt.Sprintf(format, a...))
	}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	switch {
	case n.GUN != set.GUN():
		return no("it is about %s", n.GUN)
	case !sameIDs(n.New, root.Keys):
		return no("it names another one")
	}
	var out []Voucher
	seen := func(id tuf.CanonicalID) bool {
		return slices.ContainsFunc(out, func(v Voucher) bool { return v.Key == id })
	}
	for _, f := range past.Files() {
		if f.Role != tuf.RoleRoot && !f.Role.HoldsTargets() {
			continue
		}
		role, ok := past.Role(f.Role)
		if !ok {
			continue
		}
		for _, k := range role.Keys {
			for _, s := range n.signatures {
				if s.KeyID == k.ID && k.PublicKey.ID() == k.ID && k.Verify(n.message, s) == nil && !seen(k.CanonicalID()) {
					out = append(out, Voucher{f.Role, k.CanonicalID()})
				}
			}
		}
	}
	if len(out) == 0 {
		return no("nobody has signed it whom this machine knows")
	}
	return out, nil
}

func sameIDs(ids []tuf.KeyID, of []tuf.Key) bool {
	var have []tuf.KeyID
	for _, k := range of {
		have = append(have, k.ID)
	}
	return slices.Equal(slices.Sorted(slices.Values(ids)), slices.Sorted(slices.Values(have)))
}
