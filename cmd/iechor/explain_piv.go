package main

import (
	"errors"

	"github.com/iechor/trust/keys/piv"
)

// The part of explain that is about PIV tokens, YubiKeys above all.

// explainPIV stands before what is said about all tokens.
func explainPIV(err error, c subject) (answer, bool) {
	reason := withoutStore(err).Error()
	if errors.Is(err, piv.ErrAttestation) {
		return plainly(exitUntrusted, reason, "do not take the key for one that a token made; to see what a token of your own says: iechor trust token attest ID")
	}
	for _, known := range []struct {
		is   error
		hint string
	}{
		{piv.ErrBuild, "install a build of iechor with PIV support (go build -tags piv, with cgo and the headers of libpcsclite), or use the token's PKCS#11 library: see doc/hardware.md"},
		{piv.ErrService, "install and start it (apt-get install pcscd), then repeat the command"},
		{piv.ErrFactory, "give it secrets of your own: iechor trust token setup; to use it as it is, set \"allow-factory-pin\" in content-trust.tokens in config.json"},
		{piv.ErrNotTouched, "repeat the command, and touch the token when it blinks"},
		{piv.ErrManagementKey, "whoever set the token up has it: name its file with \"management-key\": \"file:PATH\" in the token's entry in content-trust.tokens in config.json"},
		{piv.ErrPUK, "try again with the right PUK; when PUK and PIN are blocked, the token can only be reset, which destroys its keys (ykman piv reset)"},
		{piv.ErrSlot, "choose another slot, or none: then a free one is taken; \"iechor trust token list\" shows what is where"},
		{piv.ErrLength, "choose another one"},
		{piv.ErrWellKnown, "choose another one, for each something else"},
		{piv.ErrPolicy, "leave out --touch or --pin-policy, or use a newer token"},
	} {
		if errors.Is(err, known.is) {
			return c.could(reason, known.hint), true
		}
	}
	return answer{}, false
}
