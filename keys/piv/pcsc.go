//go:build piv && cgo

package piv

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	yk "github.com/go-piv/piv-go/v2/piv"

	"github.com/iechor/trust/keys"
)

// pcsc is the system's smart card service. This is the only file that knows
// the library.
type pcsc struct{}

func newSystem() system { return pcsc{} }

func (pcsc) readers() ([]string, error) {
	names, err := yk.Cards()
	return names, meaning(err)
}

func (pcsc) connect(reader string) (card, error) {
	c, err := yk.Open(reader)
	if err != nil {
		return nil, meaning(err)
	}
	v := c.Version()
	p := &pcscCard{c: c, a: about{reader: reader, firmware: Version{v.Major, v.Minor, v.Patch}}}
	serial, err := c.Serial()
	switch {
	case err == nil:
		p.a.serial = fmt.Sprint(serial)
	case status(err) == 0:
		return nil, errors.Join(meaning(err), c.Close())
	}
	return p, nil
}

// service has what the smart card service says, which the library passes on as
// nothing but these texts. Everything else that it says of a card that was
// open means that the card is of no use any more. A test with a real service
// has each of those that can be had.
var service = map[string]error{
	"the Smart card resource manager is not running":                                                  ErrService,
	"the Smart card resource manager has shut down":                                                   ErrService,
	"the smart card cannot be accessed because of other connections outstanding":                      keys.ErrTokenBusy,
	"the Smart Card Resource Manager is too busy to complete this operation":                          keys.ErrTokenBusy,
	"the operation requires a Smart Card, but no Smart Card is currently in the device":               keys.ErrTokenAbsent,
	"the specified reader name is not recognized":                                                     keys.ErrTokenAbsent,
	"cannot find a smart card reader":                                                                 keys.ErrTokenAbsent,
	"the requested protocols are incompatible with the protocol currently in use with the smart card": errNotPIV,
	"the smart card is not responding to a reset":                                                     errNotPIV,
}

// status is what the card answered; 0 if it did not.
func status(err error) uint16 {
	var answered interface{ Status() uint16 }
	if errors.As(err, &answered) {
		return answered.Status()
	}
	return 0
}

// What cards answer.
const (
	swDenied      = 0x6982
	swNoMemory    = 0x6a84
	swUnknown     = 0x6d00
	swWrongApplet = 0x6a82
)

// meaning turns an error of the library into what the package can decide on.
func meaning(err error) error {
	if err == nil {
		return nil
	}
	var wrong yk.AuthErr
	if errors.As(err, &wrong) {
		return &wrongError{wrong.Retries}
	}
	switch status(err) {
	case 0:
	case swDenied:
		return fmt.Errorf("%w: %w", errDenied, err)
	case swNoMemory:
		return fmt.Errorf("%w: %w", keys.ErrTokenFull, err)
	case swWrongApplet, swUnknown:
		if strings.Contains(err.Error(), "applet") || strings.Contains(err.Error(), "version") {
			return fmt.Errorf("%w: %w", errNotPIV, err)
		}
		fallthrough
	default:
		return fmt.Errorf("%w: %w", keys.ErrTokenRefuses, err)
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if known, ok := service[inner.Error()]; ok {
			return known
		}
	}
	return fmt.Errorf("%w: %w", keys.ErrTokenGone, err)
}

type pcscCard struct {
	c *yk.YubiKey
	a about
}

func (p *pcscCard) about() about { return p.a }
func (p *pcscCard) close() error { return p.c.Close() }

func (p *pcscCard) tries() (int, error) {
	n, err := p.c.Retries()
	if err != nil && status(err) == 0 && errors.Unwrap(err) == nil {
		return 0, errKnown // it says so when there was no error
	}
	return n, meaning(err)
}

func (p *pcscCard) login(pin string) error        { return meaning(p.c.VerifyPIN(pin)) }
func (p *pcscCard) setPIN(old, new string) error  { return meaning(p.c.SetPIN(old, new)) }
func (p *pcscCard) setPUK(old, new string) error  { return meaning(p.c.SetPUK(old, new)) }
func (p *pcscCard) unblock(puk, pin string) error { return meaning(p.c.Unblock(puk, pin)) }
func (p *pcscCard) keep(manage, kept []byte) error {
	return p.managed(p.c.SetMetadata(manage, &yk.Metadata{ManagementKey: &kept}))
}

// authenticate has the library try to make a key of no kind at all: it proves
// the management key before it notices, and there is no other way to have it
// do only that.
func (p *pcscCard) authenticate(manage []byte) error {
	_, err := p.c.GenerateKey(manage, yk.SlotSignature, yk.Key{})
	if err != nil && err.Error() == "unsupported algorithm" {
		return nil
	}
	return p.managed(err)
}

// managed finds out that a management key is wrong.
func (p *pcscCard) managed(err error) error {
	switch {
	case err == nil:
		return nil
	case status(err) == swDenied, strings.Contains(err.Error(), "management key length"), strings.Contains(err.Error(), "challenge failed"):
		return errManagement
	}
	return meaning(err)
}

func (p *pcscCard) setManagementKey(old, new []byte) error {
	return p.managed(p.c.SetManagementKey(old, new))
}

func (p *pcscCard) kept(pin string) ([]byte, error) {
	m, err := p.c.Metadata(pin)
	if err != nil && status(err) == 0 && meaning(err) != nil && strings.Contains(err.Error(), "unmarshal") {
		return nil, nil // something else is there
	}
	if err != nil {
		return nil, meaning(err)
	}
	if m.ManagementKey == nil {
		return nil, nil
	}
	return *m.ManagementKey, nil
}

func slotOf(s Slot) yk.Slot {
	for _, known := range []yk.Slot{yk.SlotAuthentication, yk.SlotSignature, yk.SlotKeyManagement, yk.SlotCardAuthentication} {
		if known.Key == uint32(s) {
			return known
		}
	}
	known, _ := yk.RetiredKeyManagementSlot(uint32(s))
	return known
}

func (p *pcscCard) certificate(s Slot) (*x509.Certificate, error) {
	cert, err := p.c.Certificate(slotOf(s))
	if err != nil && (errors.Is(err, yk.ErrNotFound) || status(err) == 0 && strings.Contains(err.Error(), "pars") || strings.Contains(err.Error(), "unmarshal")) {
		return nil, errEmpty
	}
	return cert, meaning(err)
}

func (p *pcscCard) setCertificate(manage []byte, s Slot, der []byte) error {
	return p.managed(p.c.SetCertificate(manage, slotOf(s), &x509.Certificate{Raw: der}))
}

var (
	pinPolicies   = map[yk.PINPolicy]PINPolicy{yk.PINPolicyNever: PINNever, yk.PINPolicyOnce: PINOnce, yk.PINPolicyAlways: PINAlways}
	touchPolicies = map[yk.TouchPolicy]TouchPolicy{yk.TouchPolicyNever: TouchNever, yk.TouchPolicyAlways: TouchAlways, yk.TouchPolicyCached: TouchCached}
)

func keyOf(p Policy) yk.Key {
	var k yk.Key
	for theirs, ours := range pinPolicies {
		if ours == p.PIN {
			k.PINPolicy = theirs
		}
	}
	for theirs, ours := range touchPolicies {
		if ours == p.Touch {
			k.TouchPolicy = theirs
		}
	}
	return k
}

// look reads the metadata of a slot. Cards before firmware 5.3 have none, but
// attest what was made on them.
func (p *pcscCard) look(s Slot) (content, error) {
	if !p.a.firmware.atLeast(5, 3) {
		key, _, err := p.attest(s)
		if err != nil {
			return content{}, err
		}
		a, err := readAttestation(key)
		if err != nil {
			return content{}, errUnseen
		}
		return content{public: key.PublicKey, policy: a.Policy, generated: true}, nil
	}
	i, err := p.c.KeyInfo(slotOf(s))
	switch {
	case errors.Is(err, yk.ErrNotFound):
		return content{}, errEmpty
	case err != nil && status(err) == 0 && !isService(err):
		return content{}, nil // a key of a kind, or with a policy, that the library does not know
	case err != nil:
		return content{}, meaning(err)
	}
	return content{i.PublicKey, Policy{pinPolicies[i.PINPolicy], touchPolicies[i.TouchPolicy]}, i.Origin == yk.OriginGenerated}, nil
}

// isService reports whether err came from the smart card service: it stands in
// the library's words for a command that could not be sent.
func isService(err error) bool { return strings.Contains(err.Error(), "transmitting request") }

func (p *pcscCard) generate(manage []byte, s Slot, k kind, policy Policy) (crypto.PublicKey, error) {
	key := keyOf(policy)
	key.Algorithm = map[kind]yk.Algorithm{p256: yk.AlgorithmEC256, p384: yk.AlgorithmEC384}[k]
	pub, err := p.c.GenerateKey(manage, slotOf(s), key)
	return pub, p.managed(err)
}

func (p *pcscCard) load(manage []byte, s Slot, key crypto.Signer, policy Policy) error {
	return p.managed(p.c.SetPrivateKeyInsecure(manage, slotOf(s), key, keyOf(policy)))
}

func (p *pcscCard) sign(s Slot, public crypto.PublicKey, policy PINPolicy, pin string, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	auth := yk.KeyAuth{PIN: pin, PINPolicy: keyOf(Policy{PIN: policy}).PINPolicy}
	key, err := p.c.PrivateKey(slotOf(s), public, auth)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrTokenRefuses, err)
	}
	sig, err := key.(crypto.Signer).Sign(rand.Reader, digest, opts)
	return sig, meaning(err)
}

func (p *pcscCard) attest(s Slot) (key, device *x509.Certificate, err error) {
	key, err = p.c.Attest(slotOf(s))
	switch {
	case errors.Is(err, yk.ErrNotFound), status(err) == swUnknown:
		return nil, nil, errUnseen
	case err != nil:
		return nil, nil, meaning(err)
	}
	device, err = p.c.AttestationCertificate()
	return key, device, meaning(err)
}
