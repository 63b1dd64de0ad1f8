package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

var (
	_ keys.Token     = (*Token)(nil)
	_ keys.Finder    = (*Token)(nil)
	_ keys.Generator = (*Token)(nil)
	_ keys.Importer  = (*Token)(nil)
	_ keys.Remover   = (*Token)(nil)
)

// A loadError says that the library could not be loaded: then no token of it
// is there, as far as anybody can tell.
type loadError struct{ err error }

func (e *loadError) Error() string { return e.err.Error() }
func (e *loadError) Unwrap() error { return e.err }

// away reports whether err means that the token is not there and was not
// before, so that as a store it holds no keys.
func away(err error) bool {
	var load *loadError
	return errors.As(err, &load) || errors.Is(err, keys.ErrTokenAbsent) || errors.Is(err, keys.ErrTokenBlank)
}

// Away returns why the token has counted as one without keys; nil if it has
// not.
func (t *Token) Away() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.away
}

// missed remembers why the token holds no keys now, if err says so.
func (t *Token) missed(err error) bool {
	if !away(err) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.away = err
	return true
}

// fail names token and key.
func (t *Token) fail(info keys.Info, err error) error {
	var already *keys.StoreError
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, keys.ErrClosed):
		return err
	case errors.As(err, &already):
		return err
	case t.missed(err):
		return fmt.Errorf("%w: %s", tuf.ErrNoKey, info.ID)
	}
	return &keys.StoreError{Store: t.Name(), Key: info, Err: err}
}

// List describes the keys on the token; none while it is not there. Without
// the PIN that is what the token shows to everybody.
func (t *Token) List(ctx context.Context) ([]keys.Info, error) {
	var all []found
	err := t.with(ctx, use{again: true}, func(_ *connection, s session) (err error) {
		all, err = list(s)
		return err
	})
	if err != nil {
		if t.missed(err) {
			return nil, nil
		}
		return nil, err
	}
	var infos []keys.Info
	for _, f := range all {
		infos = append(infos, f.info)
	}
	keys.Sort(infos)
	return infos, nil
}

// lookup finds a key by what it consists of: names on a token can be anybody's
// (attacks.md G8). Our keys have the beginning of their id for CKA_ID.
func lookup(s session, id tuf.CanonicalID) (found, error) {
	if !id.Valid() {
		return found{}, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
	}
	for _, with := range [][]attribute{{{attrID, idOf(id)}}, nil} {
		all, err := list(s, with...)
		if err != nil {
			return found{}, err
		}
		if i := indexOf(all, id); i >= 0 {
			return all[i], nil
		}
	}
	return found{}, fmt.Errorf("%w: %s", tuf.ErrNoKey, id)
}

// Find describes a key.
func (t *Token) Find(ctx context.Context, id tuf.CanonicalID) (keys.Info, error) {
	var f found
	err := t.with(ctx, use{again: true}, func(_ *connection, s session) (err error) {
		f, err = lookup(s, id)
		return err
	})
	if err != nil {
		return keys.Info{}, t.lookedUp(id, err)
	}
	return f.info, nil
}

// lookedUp is fail for what may just not be there.
func (t *Token) lookedUp(id tuf.CanonicalID, err error) error {
	if errors.Is(err, tuf.ErrNoKey) {
		return err
	}
	return t.fail(keys.Info{ID: id}, err)
}

// half finds the private half of a key.
func (f found) half(s session) (handle, error) {
	handles, err := s.find(f.private())
	if err != nil {
		return 0, err
	}
	if len(handles) == 0 {
		return 0, fmt.Errorf("%w: %s: its public half alone is on the token", tuf.ErrNoKey, f.info.ID)
	}
	return handles[0], nil
}

// Open logs in if the token wants that, and returns a signer for a key.
func (t *Token) Open(ctx context.Context, id tuf.CanonicalID) (tuf.Signer, error) {
	// Who asks for a key that is not there is not asked for the PIN.
	if _, err := t.Find(ctx, id); err != nil {
		return nil, err
	}
	var f found
	err := t.with(ctx, use{login: true, again: true}, func(_ *connection, s session) (err error) {
		if f, err = lookup(s, id); err == nil {
			_, err = f.half(s)
		}
		return err
	})
	if err != nil {
		return nil, t.lookedUp(id, err)
	}
	return t.signer(f), nil
}

// signer returns what signs with a key on the token.
func (t *Token) signer(f found) tuf.Signer {
	return t.patient(&signer{t: t, key: f})
}

func (t *Token) patient(s *signer) tuf.Signer {
	if t.c.Waiting == nil {
		return s
	}
	return keys.Patiently(s, func() { t.c.Waiting(t.known()) })
}

// known is the token as it was when it was there.
func (t *Token) known() keys.TokenInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		return keys.TokenInfo{Label: t.c.Token.Label, Serial: t.c.Token.Serial}
	}
	return *t.last
}

type signer struct {
	t *Token

	mu  sync.Mutex
	key found // guarded by mu; what is saved changes its name
}

func (s *signer) PublicKey() tuf.PublicKey { return s.now().pub }

func (s *signer) now() found {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

var mechanisms = map[uint]mechanism{keyEC: {kind: mechECDSA}, keyRSA: {kind: mechPSS, pss: true}, keyEdwards: {kind: mechEdDSA}}

// Sign returns a signature that verifies, or an error: a token that signs with
// another key, or nonsense, does not get through (attacks.md G8).
func (s *signer) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	key := s.now()
	digest := message
	if key.kind != keyEdwards {
		sum := sha256.Sum256(message)
		digest = sum[:]
	}
	var value []byte
	err := s.t.with(ctx, use{login: true, again: true}, func(c *connection, on session) error {
		h, err := key.half(on)
		if errors.Is(err, tuf.ErrNoKey) {
			return fmt.Errorf("%w: the key is not on it any more", keys.ErrTokenGone)
		}
		if err != nil {
			return err
		}
		var again func() error
		if flag, err := on.get(h, attrAlwaysAuthenticate); err != nil {
			return err
		} else if bytes.ContainsFunc(flag, func(r rune) bool { return r != 0 }) {
			again = func() error { return s.t.loginAgain(on) }
		}
		value, err = on.sign(mechanisms[key.kind], h, digest, again)
		return err
	})
	if err != nil {
		return tuf.Signature{}, s.t.fail(key.info, err)
	}
	sig := tuf.Signature{KeyID: key.pub.ID(), Method: key.pub.Type.Method(), Value: value}
	if err := key.pub.Verify(message, sig); err != nil {
		return tuf.Signature{}, s.t.fail(key.info, fmt.Errorf("%w to sign as the key that it shows: %w", keys.ErrTokenRefuses, err))
	}
	return sig, nil
}

// loginAgain gives the PIN for one signature.
func (t *Token) loginAgain(s session) error {
	t.mu.Lock()
	pin := bytes.Clone(t.pin)
	t.mu.Unlock()
	defer clear(pin)
	return s.login(userContextSpecific, pin)
}

// Import puts a key that was made elsewhere on the token. It is wiped from
// memory when the token is closed.
func (t *Token) Import(ctx context.Context, info keys.Info, key crypto.Signer) (keys.Info, error) {
	info, err := info.Clean()
	if err != nil {
		return keys.Info{}, err
	}
	pub, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		return keys.Info{}, err
	}
	info.ID, info.Type = pub.CanonicalID(), pub.Type
	kind, public, private, err := material(key)
	if err != nil {
		return keys.Info{}, err
	}
	err = t.with(ctx, use{login: true}, func(_ *connection, s session) error {
		there, err := lookup(s, info.ID)
		if err == nil {
			_, err = there.half(s)
		}
		switch {
		case err == nil && there.info.Role != info.Role:
			return &keys.StoreError{Store: t.Name(), Key: there.info, Err: &keys.ExistsError{ID: info.ID, Role: there.info.Role}}
		case err == nil || !errors.Is(err, tuf.ErrNoKey):
			return err
		}
		shared, own := templates(kind, idOf(info.ID), label(info))
		return whole(s, info, key.Public(), append(own, private...), append(shared, public...))
	})
	if err != nil {
		return keys.Info{}, t.fail(info, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.soft = append(t.soft, key)
	return info, nil
}

// whole creates the objects of a key, all or none: those given, and the
// certificate.
func whole(s session, info keys.Info, pub crypto.PublicKey, objects ...[]attribute) (err error) {
	var made []handle
	defer func() {
		if err != nil {
			for _, h := range made {
				_ = s.destroy(h) // the first error is the one that counts
			}
		}
	}()
	for _, o := range objects {
		h, err := s.create(o)
		if err != nil {
			return err
		}
		made = append(made, h)
	}
	cert, err := certificate(info, pub)
	if err != nil {
		return err
	}
	_, err = s.create(cert)
	if errors.Is(explain(err), keys.ErrTokenRefuses) {
		err = nil // the label says the same
	}
	return err
}

// certificate is the template of the certificate that carries role and
// repository. Nobody trusts it for anything, and so a key that exists for this
// once signs it: the key itself might want a touch.
func certificate(info keys.Info, pub crypto.PublicKey) ([]attribute, error) {
	once, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	subject := pkix.Name{CommonName: info.Role, Organization: []string{organization}}
	if info.GUN != "" {
		subject.OrganizationalUnit = []string{string(info.GUN)}
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: subject,
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: none
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, pub, once)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	number, err := asn1.Marshal(cert.SerialNumber)
	return []attribute{
		{attrClass, uint(classCertificate)}, {attrCertificateType, uint(0)}, {attrToken, true}, {attrPrivate, false},
		{attrSubject, cert.RawSubject}, {attrIssuer, cert.RawIssuer}, {attrSerialNumber, number}, {attrValue, raw},
		{attrID, idOf(info.ID)}, {attrLabel, label(info)},
	}, err
}

// NewOnToken is New, by a name that says where.
func (t *Token) NewOnToken(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	return t.New(ctx, a, info)
}

// New has the token make a key. Until it is saved it is there under a name that
// nobody looks for; Close removes what was never saved. The error matches
// tuf.ErrKey for kinds that the token does not make.
func (t *Token) New(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	info, err := info.Clean()
	if err != nil {
		return nil, err
	}
	kind, ways, err := generators(a)
	if err != nil {
		return nil, err
	}
	var f found
	var halves [2]handle
	err = t.with(ctx, use{login: true}, func(c *connection, s session) error {
		offered, err := c.offers(ways[0].mechanism)
		if err != nil {
			return err
		}
		if !offered {
			return fmt.Errorf("%w: the token makes no keys of kind %s", tuf.ErrKey, a)
		}
		if err := sweep(s); err != nil {
			return err
		}
		id := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix()))
		id = append(id, make([]byte, 8)...)
		rand.Read(id[8:])
		public, private := templates(kind, id, unsaved)
		for _, w := range ways {
			halves[0], halves[1], err = s.generatePair(mechanism{kind: w.mechanism}, append(public, w.public...), private)
			if err == nil || lost(err) {
				break
			}
		}
		if err != nil {
			return err
		}
		f, err = made(s, halves[0], kind, id)
		if err != nil {
			return errors.Join(err, s.destroy(halves[0]), s.destroy(halves[1]))
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, tuf.ErrKey) {
			return nil, err
		}
		return nil, t.fail(info, err)
	}
	f.info.Role, f.info.GUN = info.Role, info.GUN
	t.mu.Lock()
	t.unsaved[halves] = true
	t.mu.Unlock()
	own := &signer{t: t, key: f}
	return keys.NewPending(f.info, t.patient(own), func(ctx context.Context) error { return t.save(ctx, own, halves) }), nil
}

// sweep removes keys that were made more than an hour ago and never saved: the
// process that made them was killed.
func sweep(s session) error {
	left, err := s.find([]attribute{{attrLabel, unsaved}})
	if err != nil {
		return err
	}
	for _, h := range left {
		id, err := s.get(h, attrID)
		if err != nil {
			return err
		}
		if len(id) == 16 && time.Since(time.Unix(int64(binary.BigEndian.Uint64(id)), 0)) > time.Hour {
			if err := s.destroy(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// made reads a key that was just made.
func made(s session, h handle, kind uint, id []byte) (found, error) {
	f := found{kind: kind, id: id, name: unsaved}
	pub, err := readPublic(s, h, kind)
	if err == nil && pub == nil {
		err = fmt.Errorf("%w to show the public half of the key that it made", keys.ErrTokenRefuses)
	}
	if err != nil {
		return f, err
	}
	return f, f.is(pub)
}

// save gives a key its name.
func (t *Token) save(ctx context.Context, own *signer, halves [2]handle) error {
	f := own.now()
	pub, err := f.pub.Public()
	if err != nil {
		return err
	}
	name := []attribute{{attrID, idOf(f.info.ID)}, {attrLabel, label(f.info)}}
	err = t.with(ctx, use{login: true}, func(_ *connection, s session) error {
		// The private half first: with its public half a key is there.
		if err := s.set(halves[1], name); err != nil {
			return err
		}
		if err := s.set(halves[0], name); err != nil {
			return err
		}
		return whole(s, f.info, pub)
	})
	if err != nil {
		return t.fail(f.info, err)
	}
	f.id, f.name = idOf(f.info.ID), label(f.info)
	own.mu.Lock()
	own.key = f
	own.mu.Unlock()
	t.mu.Lock()
	delete(t.unsaved, halves)
	t.mu.Unlock()
	return nil
}

// Remove destroys a key and what belongs to it.
func (t *Token) Remove(ctx context.Context, id tuf.CanonicalID) error {
	if _, err := t.Find(ctx, id); err != nil {
		return err
	}
	var f found
	err := t.with(ctx, use{login: true}, func(_ *connection, s session) error {
		var err error
		if f, err = lookup(s, id); err != nil {
			return err
		}
		private, err := s.find(f.private())
		if err != nil {
			return err
		}
		// The private half first, which is what counts.
		for _, h := range private {
			if err := s.destroy(h); err != nil {
				return err
			}
		}
		for _, class := range []uint{classPublic, classCertificate} {
			handles, err := s.find([]attribute{{attrClass, class}, f.private()[2]})
			if err != nil {
				return err
			}
			for _, h := range handles {
				if err := s.destroy(h); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return t.lookedUp(id, err)
	}
	return nil
}
