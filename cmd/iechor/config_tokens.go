package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/iechor/trust/keys/pkcs11"
)

// A tokenConfig is an entry of "tokens":
//
//	{"module": "/usr/lib/softhsm/libsofthsm2.so", "label": "ci", "serial": "4f2a9c01", "slot": 3, "pin": "file:/run/secrets/pin"}
//
//	{"module": "piv", "serial": "1234567", "pin": "ask", "management-key": "file:/run/secrets/key", "reader": "yubikey", "allow-factory-pin": true}
//
// Only module must be there. pin and management-key are "ask", the default,
// "file:PATH" or "env:NAME". The second kind is a YubiKey, or another PIV card.
type tokenConfig struct {
	module string
	choice pkcs11.Choice
	pin    string

	auto          bool   // nobody has configured it, and it need not be there
	managementKey string // as pin
	reader        string // part of the names of readers
	allowFactory  bool
}

// yubiKey stands for whatever YubiKey is there, where no tokens are configured.
var yubiKey = tokenConfig{module: pivModule, auto: true}

func (c *config) decodeTokens(s *strict) error {
	const name = "content-trust.tokens"
	c.tokens = []tokenConfig{} // an empty list means that no token is wanted
	return s.list(name, "objects", func() error {
		var t tokenConfig
		text := func(to *string) func() error { return func() error { return s.value(to, "a text") } }
		err := s.object(name, map[string]func() error{
			"module": func() error {
				if err := s.value(&t.module, "the path of a PKCS#11 library"); err != nil {
					return err
				}
				if t.module != pivModule && !filepath.IsAbs(t.module) {
					return s.fail(fmt.Sprintf("%s: module must be a path from the root, or %q, and is %q", name, pivModule, printable(t.module)))
				}
				return nil
			},
			"label": text(&t.choice.Label), "serial": text(&t.choice.Serial),
			"slot": func() error {
				slot := new(uint)
				t.choice.Slot = slot
				return s.value(slot, "the number of a slot")
			},
			"pin":               func() error { return decodePINSource(s, "pin", &t.pin) },
			"management-key":    func() error { return decodePINSource(s, "management-key", &t.managementKey) },
			"reader":            text(&t.reader),
			"allow-factory-pin": func() error { return s.value(&t.allowFactory, "true or false") },
		}, false)
		if err == nil && t.module == "" {
			err = s.fail(name + ": an entry lacks module, the library of the token's maker")
		}
		if err == nil {
			err = t.check(s, name)
		}
		c.tokens = append(c.tokens, t)
		return err
	})
}

// check refuses members that mean nothing together.
func (t *tokenConfig) check(s *strict, name string) error {
	switch piv := t.module == pivModule; {
	case piv && (t.choice.Label != "" || t.choice.Slot != nil):
		return s.fail(name + ": a PIV token is known by its serial number, and has no label and no number of a slot")
	case !piv && (t.managementKey != "" || t.reader != "" || t.allowFactory):
		return s.fail(fmt.Sprintf("%s: management-key, reader and allow-factory-pin are for the module %q only", name, pivModule))
	}
	return nil
}

func decodePINSource(s *strict, name string, to *string) error {
	if err := s.value(to, "where the PIN comes from"); err != nil {
		return err
	}
	kind, value, _ := strings.Cut(*to, ":")
	switch {
	case *to == "ask", kind == "env" && value != "", kind == "file" && filepath.IsAbs(value):
		return nil
	}
	e := s.at(s.dec.InputOffset()-1, name+` must be "ask", "file:PATH" with a path from the root, or "env:NAME"`)
	e.hint = "a PIN does not stand in the configuration: put it into a file that only you can read"
	return e
}
