package backup

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// Errors of shares.
var (
	ErrNoShare   = errors.New("there is no share in it")
	ErrTooFew    = errors.New("not enough shares")
	ErrWrong     = errors.New("the shares do not open the key")
	ErrThreshold = errors.New("the threshold must be at least 2, and not higher than the number of shares, which is at most 255")
)

// A ShareError says that one share does not go with the others.
type ShareError struct {
	Index  int // in the list that was given
	Reason string
}

func (e *ShareError) Error() string { return fmt.Sprintf("share %d: %s", e.Index+1, e.Reason) }

// A LineError says that a line of a share was not copied rightly.
type LineError struct{ Line int }

func (e *LineError) Error() string { return fmt.Sprintf("line %d of the share is mistyped", e.Line) }

// field is the one in which shares are points: the numbers modulo the order of
// P-256. Shares of 32 bytes are what it takes, and every language has such
// numbers.
var field = group.P256

const valueSize = 32

// A Share is one of several, of which a threshold is needed.
type Share struct {
	Key       [4]byte // how the id of the key begins
	Set       [4]byte // how the SHA-256 of the sealed key begins
	Threshold int
	Number    int // from 1
	value     [valueSize]byte

	sealed []byte // the key file that comes with it, in DER; nil if not at hand
	block  *keys.Block
}

// Carries reports whether the sealed key came with the share.
func (s *Share) Carries() bool { return s.block != nil }

// SameAs reports whether two shares belong together.
func (s *Share) SameAs(o *Share) bool {
	return s.Set == o.Set && s.Key == o.Key && s.Threshold == o.Threshold
}

// Split makes shares of a key, as the texts of files to be printed or stored.
// The key is sealed by a random secret, which is what is shared; iterations is
// as for keys.Seal. Before it returns, it has put the key together from shares.
func Split(key crypto.Signer, info keys.Info, shares, threshold, iterations int) ([]string, error) {
	if threshold < 2 || shares < threshold || shares > 255 {
		return nil, ErrThreshold
	}
	secret := field.RandomNonZeroScalar(rand.Reader)
	passphrase, err := passphraseOf(secret)
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	file, err := keys.Seal(key, info, passphrase, iterations)
	if err != nil {
		return nil, err
	}
	p, _ := pem.Decode(file)
	set := sha256.Sum256(p.Bytes)
	id, err := hex.DecodeString(string(info.ID))
	if err != nil || !info.ID.Valid() {
		return nil, fmt.Errorf("%w: %q", tuf.ErrNoKey, info.ID)
	}
	all := make([]*Share, 0, shares)
	texts := make([]string, 0, shares)
	for i, point := range secretsharing.New(rand.Reader, uint(threshold-1), secret).Share(uint(shares)) {
		s := &Share{Key: [4]byte(id), Set: [4]byte(set[:]), Threshold: threshold, Number: i + 1}
		raw, err := point.Value.MarshalBinary()
		if err != nil {
			return nil, err
		}
		copy(s.value[:], raw)
		text := s.text(info, shares, file)
		if s, err = ParseShare([]byte(text)); err != nil {
			return nil, fmt.Errorf("check the new share: %w", err)
		}
		all, texts = append(all, s), append(texts, text)
	}
	again, _, err := Combine(all[shares-threshold:])
	if err != nil {
		return nil, fmt.Errorf("check the new shares: %w", err)
	}
	keys.Wipe(again)
	return texts, nil
}

// passphraseOf is the secret as a passphrase: 64 hexadecimal digits.
func passphraseOf(secret group.Scalar) ([]byte, error) {
	raw, err := secret.MarshalBinary()
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	return hex.AppendEncode(nil, raw), nil
}

// Combine puts a key together. At least one share carries the sealed key. The
// error is a [*ShareError] where one share is to blame; it matches [ErrTooFew]
// or [ErrWrong], or is one of package keys. The caller owns the key.
func Combine(shares []*Share) (crypto.Signer, *keys.Block, error) {
	if len(shares) == 0 {
		return nil, nil, ErrTooFew
	}
	block, err := together(shares)
	if err != nil {
		return nil, nil, err
	}
	// If one of them is wrong, it is left out in one of these choices.
	for out := -1; out < len(shares); out++ {
		some := slices.Clone(shares)
		if out >= 0 {
			some = slices.Delete(some, out, out+1)
		}
		if len(some) < shares[0].Threshold {
			break
		}
		key, secret, err := open(block, some)
		if errors.Is(err, keys.ErrPassphrase) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		for i, s := range shares {
			if !leadsTo(secret, s, some) {
				keys.Wipe(key)
				return nil, nil, &ShareError{Index: i, Reason: "it is not the share that it says it is; the others open the key without it"}
			}
		}
		return key, block, nil
	}
	return nil, nil, ErrWrong
}

// leadsTo reports whether s, with the first of the shares that opened the key,
// gives the same secret.
func leadsTo(secret group.Scalar, s *Share, good []*Share) bool {
	some := []*Share{s}
	for _, g := range good[:s.Threshold] {
		if g.Number != s.Number && len(some) < s.Threshold {
			some = append(some, g)
		}
	}
	got, err := recoverFrom(some)
	return err == nil && got.IsEqual(secret)
}

// together sees that the shares belong together, and returns the sealed key.
func together(shares []*Share) (*keys.Block, error) {
	var block *keys.Block
	// Whom most agree with is right.
	right := slices.MaxFunc(shares, func(a, b *Share) int { return a.agree(shares) - b.agree(shares) })
	seen := map[int]bool{}
	for i, s := range shares {
		if !s.SameAs(right) {
			return nil, &ShareError{Index: i, Reason: fmt.Sprintf("it is of another set, %X of key %x, and not of set %X of key %x", s.Set, s.Key, right.Set, right.Key)}
		}
		if seen[s.Number] {
			return nil, &ShareError{Index: i, Reason: fmt.Sprintf("it is share number %d, which is there already", s.Number)}
		}
		seen[s.Number] = true
		if s.block == nil {
			continue
		}
		if sum := sha256.Sum256(s.sealed); [4]byte(sum[:]) != s.Set {
			return nil, &ShareError{Index: i, Reason: "the sealed key that comes with it is another one, or was altered"}
		}
		block = s.block
	}
	if n := right.Threshold; len(shares) < n {
		return nil, fmt.Errorf("%w: %d of the %d that it takes are here", ErrTooFew, len(shares), n)
	}
	if block == nil {
		return nil, fmt.Errorf("%w: the sealed key, which stands below the lines of every share, is missing", ErrTooFew)
	}
	return block, nil
}

func (s *Share) agree(shares []*Share) (n int) {
	for _, o := range shares {
		if s.SameAs(o) {
			n++
		}
	}
	return n
}

// recoverFrom computes the secret from the first shares that are enough.
func recoverFrom(shares []*Share) (group.Scalar, error) {
	var points []secretsharing.Share
	for _, s := range shares[:shares[0].Threshold] {
		value := field.NewScalar()
		if err := value.UnmarshalBinary(s.value[:]); err != nil {
			return nil, err
		}
		points = append(points, secretsharing.Share{ID: field.NewScalar().SetUint64(uint64(s.Number)), Value: value})
	}
	return secretsharing.Recover(uint(shares[0].Threshold-1), points)
}

// open unseals the key with the first shares that are enough.
func open(block *keys.Block, shares []*Share) (crypto.Signer, group.Scalar, error) {
	secret, err := recoverFrom(shares)
	if err != nil {
		return nil, nil, err
	}
	passphrase, err := passphraseOf(secret)
	if err != nil {
		return nil, nil, err
	}
	defer clear(passphrase)
	key, err := block.Key(passphrase)
	if err != nil {
		return nil, nil, err
	}
	public, err := tuf.NewPublicKey(key.Public())
	if err == nil && public.CanonicalID() != block.Info.ID {
		err = fmt.Errorf("%w: it is another key, %s", keys.ErrBroken, public.CanonicalID())
	}
	if err != nil {
		keys.Wipe(key)
		return nil, nil, err
	}
	return key, secret, nil
}

// order is how many numbers the field has.
var order, _ = new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
