package pkcs11

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"fmt"
	"slices"
	"sync"

	"github.com/iechor/trust/keys"
)

// A fakeModule is a token in memory, which counts tries as cards do: it locks
// after three wrong PINs. It makes P-256, P-384 and AES keys, and takes P-256.
type fakeModule struct {
	mu       sync.Mutex // guards all fields
	label    string
	serial   string
	pin      string
	left     int
	gone     bool
	in       bool // the user is logged in
	sessions int  // its number ends with a removal
	mechs    []uint
	objects  map[handle]map[uint]any
	secrets  map[handle]any
	last     handle

	asked  []string                // PINs that were tried
	before func(what string) error // each call of a session; may be nil
	loaded int
}

func newFake(label string) *fakeModule {
	return &fakeModule{
		label: label, serial: "serial of " + label, pin: testPIN, left: 3, mechs: []uint{mechECGenerate, mechAESGCM, mechAESCBC},
		objects: map[handle]map[uint]any{}, secrets: map[handle]any{},
	}
}

// fakeLibrary is a library with that token.
func fakeLibrary(m *fakeModule) *Library {
	l := NewLibrary("/fake")
	l.load = func(string) (module, error) { m.loaded++; return m, nil }
	return l
}

// pull takes the token out, and in again if back.
func (m *fakeModule) pull(back bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone, m.in = !back, false
	m.sessions++
}

func (m *fakeModule) slots() ([]uint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return nil, nil
	}
	return []uint{7}, nil
}

func (m *fakeModule) info(uint) (tokenInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return tokenInfo{}, codeTokenNotPresent
	}
	flags := uint(flagInitialized | flagLoginRequired | flagPINInitialized)
	switch m.left {
	case 2:
		flags |= flagPINCountLow
	case 1:
		flags |= flagPINCountLow | flagPINFinalTry
	case 0:
		flags |= flagPINLocked
	}
	return tokenInfo{m.label, "us", "fake", m.serial, flags}, nil
}

func (m *fakeModule) mechanisms(uint) ([]uint, error)      { return m.mechs, nil }
func (m *fakeModule) initToken(uint, string, string) error { return codeNotSupported }
func (m *fakeModule) close() error                         { return nil }

func (m *fakeModule) open(uint) (session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return nil, codeTokenNotPresent
	}
	return &fakeSession{m: m, of: m.sessions}, nil
}

type fakeSession struct {
	m  *fakeModule
	of int
}

// begin is before each call: it takes the lock, which the caller gives back.
func (s *fakeSession) begin(what string) error {
	s.m.mu.Lock()
	before := s.m.before
	s.m.mu.Unlock()
	if before != nil {
		if err := before(what); err != nil {
			s.m.mu.Lock()
			return err
		}
	}
	s.m.mu.Lock()
	switch {
	case s.m.gone:
		return codeDeviceRemoved
	case s.of != s.m.sessions:
		return codeSessionHandle
	}
	return nil
}

func (s *fakeSession) login(who uint, pin []byte) error {
	defer s.m.mu.Unlock()
	if err := s.begin("login"); err != nil {
		return err
	}
	s.m.asked = append(s.m.asked, string(pin))
	switch {
	case s.m.left == 0:
		return codePINLocked
	case s.m.in && who == user:
		return codeAlreadyLoggedIn
	case string(pin) != s.m.pin:
		s.m.left--
		return codePINIncorrect
	}
	s.m.in, s.m.left = true, 3
	return nil
}

func (s *fakeSession) logout() error                { return nil }
func (s *fakeSession) initPIN([]byte) error         { return codeNotSupported }
func (s *fakeSession) setPIN(old, new []byte) error { return codeNotSupported }
func (s *fakeSession) close() error                 { return nil }

func (s *fakeSession) find(template []attribute) ([]handle, error) {
	defer s.m.mu.Unlock()
	if err := s.begin("find"); err != nil {
		return nil, err
	}
	var out []handle
	for h, o := range s.m.objects {
		fits := s.m.in || o[attrPrivate] != true
		for _, a := range template {
			fits = fits && fmt.Sprint(o[a.kind]) == fmt.Sprint(a.value)
		}
		if fits {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (s *fakeSession) get(h handle, kind uint) ([]byte, error) {
	defer s.m.mu.Unlock()
	if err := s.begin("get"); err != nil {
		return nil, err
	}
	switch v := s.m.objects[h][kind].(type) {
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	case bool:
		if v {
			return []byte{1}, nil
		}
		return []byte{0}, nil
	}
	return nil, nil
}

// put is for who has the lock.
func (m *fakeModule) put(secret any, values ...attribute) handle {
	m.last++
	m.objects[m.last], m.secrets[m.last] = map[uint]any{}, secret
	for _, a := range values {
		m.objects[m.last][a.kind] = a.value
	}
	return m.last
}

func (s *fakeSession) create(template []attribute) (handle, error) {
	defer s.m.mu.Unlock()
	if err := s.begin("create"); err != nil {
		return 0, err
	}
	var secret any
	for _, a := range template {
		if scalar, ok := a.value.([]byte); ok && a.kind == attrValue && len(scalar) == 32 {
			key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
			if err != nil {
				return 0, codeAttributeValue
			}
			secret = key
		}
	}
	return s.m.put(secret, template...), nil
}

func (s *fakeSession) set(h handle, values []attribute) error {
	defer s.m.mu.Unlock()
	if err := s.begin("set"); err != nil {
		return err
	}
	for _, a := range values {
		s.m.objects[h][a.kind] = a.value
	}
	return nil
}

func (s *fakeSession) destroy(h handle) error {
	defer s.m.mu.Unlock()
	if err := s.begin("destroy"); err != nil {
		return err
	}
	delete(s.m.objects, h)
	return nil
}

func (s *fakeSession) generate(_ mechanism, template []attribute) (handle, error) {
	defer s.m.mu.Unlock()
	if err := s.begin("generate"); err != nil {
		return 0, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	return s.m.put(key, template...), nil
}

func (s *fakeSession) generatePair(_ mechanism, public, private []attribute) (pub, priv handle, err error) {
	defer s.m.mu.Unlock()
	if err := s.begin("generate"); err != nil {
		return 0, 0, err
	}
	curve := elliptic.P256()
	for _, a := range public {
		if params, ok := a.value.([]byte); ok && a.kind == attrECParams && bytes.Equal(params, oidP384) {
			curve = elliptic.P384()
		}
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return 0, 0, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return 0, 0, err
	}
	wrapped, err := asn1.Marshal(point)
	return s.m.put(nil, append(public, attribute{attrECPoint, wrapped})...), s.m.put(key, private...), err
}

func (s *fakeSession) sign(_ mechanism, h handle, digest []byte, again func() error) ([]byte, error) {
	if again != nil {
		if err := again(); err != nil {
			return nil, err
		}
	}
	defer s.m.mu.Unlock()
	if err := s.begin("sign"); err != nil {
		return nil, err
	}
	key := s.m.secrets[h].(*ecdsa.PrivateKey)
	r, t, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, err
	}
	n := (key.Curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*n)
	r.FillBytes(out[:n])
	t.FillBytes(out[n:])
	return out, nil
}

func (s *fakeSession) cipher(what string, h handle) (cipher.Block, error) {
	if err := s.begin(what); err != nil {
		return nil, err
	}
	if !s.m.in {
		return nil, codeNotLoggedIn
	}
	return aes.NewCipher(s.m.secrets[h].([]byte))
}

func (s *fakeSession) encrypt(m mechanism, h handle, plain []byte) (iv, sealed []byte, err error) {
	defer s.m.mu.Unlock()
	block, err := s.cipher("encrypt", h)
	if err != nil {
		return nil, nil, err
	}
	if m.kind == mechAESCBC {
		sealed = bytes.Clone(plain)
		cipher.NewCBCEncrypter(block, m.iv).CryptBlocks(sealed, sealed)
		return m.iv, sealed, nil
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, err
	}
	return m.iv, aead.Seal(nil, m.iv, plain, nil), nil
}

func (s *fakeSession) decrypt(m mechanism, h handle, sealed []byte) ([]byte, error) {
	defer s.m.mu.Unlock()
	block, err := s.cipher("decrypt", h)
	if err != nil {
		return nil, err
	}
	if m.kind == mechAESCBC {
		plain := bytes.Clone(sealed)
		cipher.NewCBCDecrypter(block, m.iv).CryptBlocks(plain, plain)
		return plain, nil
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, m.iv, sealed, nil)
	if err != nil {
		return nil, codeGeneral // as SoftHSM does
	}
	return plain, nil
}

const testPIN, testSOPIN = "1234", "12345678"

func fixed(pin string) keys.PINs {
	return keys.FixedPIN(func() ([]byte, error) { return []byte(pin), nil })
}
