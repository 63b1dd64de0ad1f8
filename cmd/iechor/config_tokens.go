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
// Only module must be there. pin is "ask", the default, "file:PATH" or
// "env:NAME".
type tokenConfig struct {
	module string
	choice pkcs11.Choice
	pin    string
}

func (c *config) decodeTokens(s *strict) error {
	const name = "content-trust.tokens"
	return s.list(name, "objects", func() error {
		var t tokenConfig
		text := func(to *string) func() error { return func() error { return s.value(to, "a text") } }
		err := s.object(name, map[string]func() error{
			"module": func() error {
				if err := s.value(&t.module, "the path of a PKCS#11 library"); err != nil {
					return err
				}
				if !filepath.IsAbs(t.module) {
					return s.fail(fmt.Sprintf("%s: module must be a path from the root, and is %q", name, printable(t.module)))
				}
				return nil
			},
			"label": text(&t.choice.Label), "serial": text(&t.choice.Serial),
			"slot": func() error {
				slot := new(uint)
				t.choice.Slot = slot
				return s.value(slot, "the number of a slot")
			},
			"pin": func() error { return decodePINSource(s, &t.pin) },
		}, false)
		if err == nil && t.module == "" {
			err = s.fail(name + ": an entry lacks module, the library of the token's maker")
		}
		c.tokens = append(c.tokens, t)
		return err
	})
}

func decodePINSource(s *strict, to *string) error {
	if err := s.value(to, "where the PIN comes from"); err != nil {
		return err
	}
	kind, value, _ := strings.Cut(*to, ":")
	switch {
	case *to == "ask", kind == "env" && value != "", kind == "file" && filepath.IsAbs(value):
		return nil
	}
	e := s.at(s.dec.InputOffset()-1, `pin must be "ask", "file:PATH" with a path from the root, or "env:NAME"`)
	e.hint = "a PIN does not stand in the configuration: put it into a file that only you can read"
	return e
}
