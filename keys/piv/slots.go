package piv

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// An entry is what is known of a slot.
type entry struct {
	slot    Slot
	taken   bool             // something is there
	public  crypto.PublicKey // nil: no key, or one that cannot sign
	content content
	cert    *x509.Certificate
	info    keys.Info // ID is empty if the key is of no use to us
}

// entries reads all slots, once.
func (s *Store) entries(c card) ([]entry, error) {
	if s.found != nil {
		return s.found, nil
	}
	var out []entry
	for _, slot := range slotsFor(string(tuf.RoleRoot)) {
		e, err := read(c, slot)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	s.found = out
	return out, nil
}

// entry finds the slot of a key. The error matches tuf.ErrNoKey.
func (s *Store) entry(c card, id tuf.CanonicalID) (entry, error) {
	entries, err := s.entries(c)
	if err != nil {
		return entry{}, err
	}
	for _, e := range entries {
		if e.info.ID == id && id != "" {
			return e, nil
		}
	}
	return entry{}, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
}

// read finds out what is in a slot. What the card says of its key counts more
// than what the certificate says, which anybody may have put there.
func read(c card, slot Slot) (entry, error) {
	e := entry{slot: slot}
	var err error
	if e.cert, err = c.certificate(slot); err != nil && !errors.Is(err, errEmpty) {
		return e, err
	}
	// Cards without metadata take their time to say that there is nothing:
	// the slots that all programs use are asked, and those with a certificate.
	metadata := c.about().firmware.atLeast(5, 3)
	if metadata || e.cert != nil || slot >= Authentication {
		e.content, err = c.look(slot)
	} else {
		err = errUnseen
	}
	switch {
	case errors.Is(err, errEmpty):
		e.taken = e.cert != nil
		return e, nil
	case errors.Is(err, errUnseen) && e.cert == nil:
		return e, nil
	case errors.Is(err, errUnseen):
		e.public = e.cert.PublicKey
	case err != nil:
		return e, err
	default:
		e.public = e.content.public
	}
	e.taken = true
	pub, err := tuf.NewPublicKey(e.public)
	if err != nil {
		e.public = nil
		return e, nil // of a kind that does not sign metadata
	}
	if e.cert == nil && isNobody(e.public) {
		return entry{slot: slot}, nil
	}
	e.info = keys.Info{ID: pub.CanonicalID(), Type: pub.Type}
	if e.cert == nil {
		return e, nil
	}
	if certified, err := tuf.NewPublicKey(e.cert.PublicKey); err == nil && certified.CanonicalID() == e.info.ID {
		e.info.Role, e.info.GUN = purpose(e.cert.Subject)
	}
	return e, nil
}

// organization marks certificates of ours.
const organization = "iEchor content trust"

// purpose reads what a certificate says its key is for: one of ours, or one of
// the stock program, which has root keys only.
func purpose(subject pkix.Name) (role string, gun tuf.GUN) {
	ours := len(subject.Organization) == 1 && subject.Organization[0] == organization
	if len(subject.OrganizationalUnit) == 1 {
		gun = tuf.GUN(subject.OrganizationalUnit[0])
	}
	role = subject.CommonName
	switch {
	case role == string(tuf.RoleRoot):
		return role, ""
	case !ours, role == "", len(role) > 255, !utf8.ValidString(role), strings.TrimSpace(role) != role,
		strings.ContainsFunc(role, func(r rune) bool { return !unicode.IsPrint(r) }), gun != "" && !gun.Valid():
		return "", ""
	}
	return role, gun
}

// certify writes the certificate that says what a key is for. The key signs it
// itself.
func (s *Store) certify(info keys.Info, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := s.c.Now()
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: info.Role, Organization: []string{organization}},
		NotBefore:    now, NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if info.GUN != "" {
		t.Subject.OrganizationalUnit = []string{string(info.GUN)}
	}
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

// free chooses the slot for a new key.
func (s *Store) free(c card, role string) (Slot, error) {
	entries, err := s.entries(c)
	if err != nil {
		return 0, err
	}
	taken := map[Slot]bool{}
	for _, e := range entries {
		taken[e.slot] = e.taken
	}
	if s.c.Place.Slot != 0 {
		if taken[s.c.Place.Slot] {
			return 0, fmt.Errorf("%w: slot %s of %s", ErrSlot, s.c.Place.Slot, *s.last)
		}
		return s.c.Place.Slot, nil
	}
	for _, slot := range slotsFor(role) {
		if !taken[slot] {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%w: %s", keys.ErrTokenFull, *s.last)
}

// nobody is the key that takes the place of one that is removed: few cards can
// empty a slot, but all can overwrite what is in it. Everybody knows it.
func nobody() *ecdsa.PrivateKey {
	one := make([]byte, 32)
	one[31] = 1
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), one)
	if err != nil {
		panic(err) // one is in range
	}
	return key
}

func isNobody(pub crypto.PublicKey) bool {
	a, ok := pub.(*ecdsa.PublicKey)
	return ok && a.Equal(nobody().Public())
}

// write puts a key and its certificate into a slot. A key that stays without
// its certificate is taken out again.
func (s *Store) write(c card, slot Slot, cert []byte, put func(manage []byte) error) error {
	s.found = nil
	if err := put(s.manage); err != nil {
		return err
	}
	if err := c.setCertificate(s.manage, slot, cert); err != nil {
		return errors.Join(err, s.erase(c, slot))
	}
	return nil
}

// erase destroys the key in a slot, then says that it is free.
func (s *Store) erase(c card, slot Slot) error {
	s.found = nil
	if err := c.load(s.manage, slot, nobody(), Policy{PINOnce, TouchNever}); err != nil {
		return err
	}
	return c.setCertificate(s.manage, slot, nil)
}

// Remove destroys a key: another one, that everybody knows, takes its place.
func (s *Store) Remove(ctx context.Context, id tuf.CanonicalID) error {
	err := s.do(ctx, func(c card) error {
		e, err := s.entry(c, id)
		if err != nil {
			return err
		}
		if _, err := s.unlock(ctx, c); err != nil {
			return s.about(e.info, err)
		}
		return s.about(e.info, s.erase(c, e.slot))
	})
	if s.missed(err) {
		return fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	return err
}
