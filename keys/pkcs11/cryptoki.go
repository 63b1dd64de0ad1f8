//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	p11 "github.com/miekg/pkcs11"

	"github.com/iechor/trust/keys"
)

// Supported says whether this build can use tokens.
const Supported = true

// cryptoki is a module that the system's loader has loaded. C code, which we
// did not write, runs in this process from here on.
type cryptoki struct {
	c     *p11.Ctx
	owner bool // of the initialization
}

// load loads and initializes the library at path.
func load(path string) (module, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrDriver, err)
	}
	c := p11.New(path)
	if c == nil {
		return nil, fmt.Errorf("%w: %s is not a PKCS#11 library for this system", keys.ErrDriver, path)
	}
	err := rv(c.Initialize())
	if err != nil && !is(err, codeAlreadyInitialized) {
		c.Destroy()
		return nil, fmt.Errorf("%w: %s does not start: %w", keys.ErrDriver, path, err)
	}
	return &cryptoki{c, err == nil}, nil
}

// rv turns an error of the binding into one of ours.
func rv(err error) error {
	var e p11.Error
	if errors.As(err, &e) {
		return code(e)
	}
	return err
}

func (m *cryptoki) close() error {
	defer m.c.Destroy()
	if !m.owner {
		return nil
	}
	return rv(m.c.Finalize())
}

func (m *cryptoki) slots() ([]uint, error) {
	s, err := m.c.GetSlotList(true)
	return s, rv(err)
}

func (m *cryptoki) info(slot uint) (tokenInfo, error) {
	i, err := m.c.GetTokenInfo(slot)
	text := func(s string) string { return string(bytes.TrimRight([]byte(s), " \x00")) }
	return tokenInfo{text(i.Label), text(i.ManufacturerID), text(i.Model), text(i.SerialNumber), i.Flags}, rv(err)
}

func (m *cryptoki) mechanisms(slot uint) ([]uint, error) {
	list, err := m.c.GetMechanismList(slot)
	kinds := make([]uint, len(list))
	for i, k := range list {
		kinds[i] = k.Mechanism
	}
	return kinds, rv(err)
}

func (m *cryptoki) initToken(slot uint, soPIN, label string) error {
	return rv(m.c.InitToken(slot, soPIN, label))
}

func (m *cryptoki) open(slot uint) (session, error) {
	s, err := m.c.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return nil, rv(err)
	}
	return &cryptokiSession{m.c, s}, nil
}

type cryptokiSession struct {
	c *p11.Ctx
	s p11.SessionHandle
}

// login makes a copy of the PIN that cannot be wiped: the binding wants a
// string.
func (s *cryptokiSession) login(user uint, pin []byte) error {
	return rv(s.c.Login(s.s, user, string(pin)))
}
func (s *cryptokiSession) logout() error            { return rv(s.c.Logout(s.s)) }
func (s *cryptokiSession) initPIN(pin []byte) error { return rv(s.c.InitPIN(s.s, string(pin))) }
func (s *cryptokiSession) setPIN(old, new []byte) error {
	return rv(s.c.SetPIN(s.s, string(old), string(new)))
}
func (s *cryptokiSession) close() error { return rv(s.c.CloseSession(s.s)) }

func attributes(in []attribute) []*p11.Attribute {
	out := make([]*p11.Attribute, len(in))
	for i, a := range in {
		out[i] = p11.NewAttribute(a.kind, a.value)
	}
	return out
}

func (s *cryptokiSession) find(template []attribute) ([]handle, error) {
	if err := s.c.FindObjectsInit(s.s, attributes(template)); err != nil {
		return nil, rv(err)
	}
	var out []handle
	for {
		some, _, err := s.c.FindObjects(s.s, 100)
		if err != nil {
			return nil, errors.Join(rv(err), rv(s.c.FindObjectsFinal(s.s)))
		}
		for _, h := range some {
			out = append(out, handle(h))
		}
		if len(some) == 0 || len(out) > maxObjects {
			return out, rv(s.c.FindObjectsFinal(s.s))
		}
	}
}

func (s *cryptokiSession) get(h handle, kind uint) ([]byte, error) {
	got, err := s.c.GetAttributeValue(s.s, p11.ObjectHandle(h), []*p11.Attribute{{Type: kind}})
	if err := rv(err); err != nil {
		if is(err, codeAttributeType, codeAttributeSensitive) {
			return nil, nil
		}
		return nil, err
	}
	return got[0].Value, nil
}

func (s *cryptokiSession) create(template []attribute) (handle, error) {
	h, err := s.c.CreateObject(s.s, attributes(template))
	return handle(h), rv(err)
}

func (s *cryptokiSession) set(h handle, values []attribute) error {
	return rv(s.c.SetAttributeValue(s.s, p11.ObjectHandle(h), attributes(values)))
}

func (s *cryptokiSession) destroy(h handle) error {
	return rv(s.c.DestroyObject(s.s, p11.ObjectHandle(h)))
}

func (s *cryptokiSession) generate(m mechanism, template []attribute) (handle, error) {
	h, err := s.c.GenerateKey(s.s, plain(m), attributes(template))
	return handle(h), rv(err)
}

func (s *cryptokiSession) generatePair(m mechanism, public, private []attribute) (pub, priv handle, err error) {
	a, b, err := s.c.GenerateKeyPair(s.s, plain(m), attributes(public), attributes(private))
	return handle(a), handle(b), rv(err)
}

// plain is for mechanisms whose parameter holds no pointers.
func plain(m mechanism) []*p11.Mechanism {
	var parameter any
	switch {
	case m.pss:
		parameter = p11.NewPSSParams(p11.CKM_SHA256, p11.CKG_MGF1_SHA256, 32)
	case m.iv != nil:
		parameter = m.iv
	}
	return []*p11.Mechanism{p11.NewMechanism(m.kind, parameter)}
}

func (s *cryptokiSession) sign(m mechanism, key handle, message []byte, again func() error) ([]byte, error) {
	if err := s.c.SignInit(s.s, plain(m), p11.ObjectHandle(key)); err != nil {
		return nil, rv(err)
	}
	if again != nil {
		if err := again(); err != nil {
			return nil, err
		}
	}
	sig, err := s.c.Sign(s.s, message)
	return sig, rv(err)
}

func (s *cryptokiSession) encrypt(m mechanism, key handle, text []byte) (iv, sealed []byte, err error) {
	if m.kind != mechAESGCM {
		if err := s.c.EncryptInit(s.s, plain(m), p11.ObjectHandle(key)); err != nil {
			return nil, nil, rv(err)
		}
		sealed, err = s.c.Encrypt(s.s, text)
		return m.iv, sealed, rv(err)
	}
	p := p11.NewGCMParams(m.iv, nil, 128)
	defer p.Free()
	if err := s.c.EncryptInit(s.s, []*p11.Mechanism{p11.NewMechanism(m.kind, p)}, p11.ObjectHandle(key)); err != nil {
		return nil, nil, rv(err)
	}
	sealed, err = s.c.Encrypt(s.s, text)
	return p.IV(), sealed, rv(err)
}

func (s *cryptokiSession) decrypt(m mechanism, key handle, sealed []byte) ([]byte, error) {
	ms := plain(m)
	if m.kind == mechAESGCM {
		p := p11.NewGCMParams(m.iv, nil, 128)
		defer p.Free()
		ms = []*p11.Mechanism{p11.NewMechanism(m.kind, p)}
	}
	if err := s.c.DecryptInit(s.s, ms, p11.ObjectHandle(key)); err != nil {
		return nil, rv(err)
	}
	text, err := s.c.Decrypt(s.s, sealed)
	return text, rv(err)
}
