package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/iechor/trust/keys"
)

// A URI names an object on a token, and how to get at it (RFC 7512):
//
//	pkcs11:token=hsm;object=kek?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/iechor/pin
type URI struct {
	Library string // module-path
	Token   Choice // token, serial, slot-id
	Object  string // object: the label
	PINFile string // pin-source
}

// ParseURI reads a URI. module-path must be there. A PIN in the text itself
// (pin-value) is refused: everybody sees it (attacks.md G4).
func ParseURI(s string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return u, errors.New(`a PKCS#11 URI begins with "pkcs11:"`)
	}
	path, query, _ := strings.Cut(rest, "?")
	seen := map[string]bool{}
	each := func(list, separator string, known map[string]func(v string) error) error {
		for part := range strings.SplitSeq(list, separator) {
			if part == "" {
				continue
			}
			name, v, _ := strings.Cut(part, "=")
			value, err := url.PathUnescape(v)
			set := known[name]
			switch {
			case name == "pin-value":
				return errors.New("pin-value would show the PIN: put it into a file, and name that with pin-source=file:PATH")
			case set == nil:
				return fmt.Errorf("%q is not used in a PKCS#11 URI here", name)
			case seen[name]:
				return fmt.Errorf("%s stands twice in the PKCS#11 URI", name)
			case err != nil || value == "":
				return fmt.Errorf("%s has no proper value in the PKCS#11 URI", name)
			}
			seen[name] = true
			if err := set(value); err != nil {
				return err
			}
		}
		return nil
	}
	text := func(to *string) func(string) error { return func(v string) error { *to = v; return nil } }
	err := each(path, ";", map[string]func(string) error{
		"token": text(&u.Token.Label), "serial": text(&u.Token.Serial), "object": text(&u.Object),
		"slot-id": func(v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return errors.New("slot-id is not a number in the PKCS#11 URI")
			}
			slot := uint(n)
			u.Token.Slot = &slot
			return nil
		},
	})
	if err != nil {
		return URI{}, err
	}
	err = each(query, "&", map[string]func(string) error{
		"module-path": text(&u.Library),
		"pin-source": func(v string) error {
			u.PINFile = strings.TrimPrefix(strings.TrimPrefix(v, "file:"), "//")
			if !strings.HasPrefix(u.PINFile, "/") {
				return errors.New("pin-source must be file:PATH with a path from the root in the PKCS#11 URI")
			}
			return nil
		},
	})
	if err == nil && u.Library == "" {
		err = errors.New("the PKCS#11 URI lacks module-path, the library of the token's maker")
	}
	if err != nil {
		return URI{}, err
	}
	return u, nil
}

// Config is what Open takes. Close the library after the token. The PIN is read
// when it is needed.
func (u URI) Config() Config {
	c := Config{Library: NewLibrary(u.Library), Token: u.Token}
	if u.PINFile != "" {
		c.PINs = keys.FixedPIN(func() ([]byte, error) {
			pin, err := keys.ReadSecret(u.PINFile)
			if err != nil {
				return nil, fmt.Errorf("PIN file %s: %w", u.PINFile, err)
			}
			return pin, nil
		})
	}
	return c
}
