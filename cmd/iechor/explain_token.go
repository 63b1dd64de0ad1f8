package main

import (
	"errors"

	"github.com/iechor/trust/keys"
)

// The part of explain that is about tokens.

// explainTokens stands before what is said about keys: a token that cannot be
// used is not a key that is not there.
func explainTokens(err error, c subject) (answer, bool) {
	reason := withoutStore(err).Error()
	var (
		source *pinSourceError
		root   *rootTokenError
	)
	switch {
	case errors.As(err, &source):
		return c.could(source.Error(), "correct it, or \"pin\" in content-trust.tokens in config.json; \"ask\" asks you"), true
	case errors.As(err, &root):
		a, ok := explainTokens(root.err, c)
		a.hints = append(a.hints, "to have the root key in a file instead, take the token out of content-trust.tokens in config.json, or set that to [] where no token is named")
		if c.sign == nil {
			a.sentence = root.Error()
		}
		return a, ok
	}
	for _, known := range []struct {
		is    error
		hints []string
	}{
		{errNoToken, []string{"plug a YubiKey in, or name the library of the token's maker in content-trust.tokens in config.json: see doc/hardware.md"}},
		{errNoTokenChosen, []string{"try again and name one of the tokens by its label or serial number, or give --token"}},
		{keys.ErrNoSupport, []string{"install a build of iechor with cgo (CGO_ENABLED=1), or do without the token: take it out of content-trust.tokens in config.json"}},
		{keys.ErrDriver, []string{"install the library that the token's maker delivers (for SoftHSM: apt-get install softhsm2), and name its file in content-trust.tokens in config.json"}},
		{keys.ErrTokenGone, []string{"plug the token in again, and repeat the command", "a token that was set up anew has lost its keys: see \"iechor trust token list\""}},
		{keys.ErrTokenAbsent, []string{"plug the token in, and repeat the command; \"iechor trust token list\" shows which ones are there"}},
		{keys.ErrTokenBusy, []string{"end the other program that uses the token, and repeat the command"}},
		{keys.ErrTokenFull, []string{"see what is on it: iechor trust token list; and remove what nobody needs: iechor trust token remove ID"}},
		{keys.ErrTokenBlank, []string{"give it a name and PINs: iechor trust token setup"}},
		{keys.ErrSeveralTokens, []string{"say which one with --token LABEL or --token SERIAL, or for good in content-trust.tokens in config.json; \"iechor trust token list\" shows them"}},
		{keys.ErrPINLocked, []string{"whoever has the token's SO PIN or PUK can set a new PIN: iechor trust token unblock"}},
		{keys.ErrLastTry, []string{"it is not spent on a PIN that nobody types: enter it with \"iechor trust token change-pin\", and then correct the file or variable"}},
		{keys.ErrPIN, []string{"try again with the right PIN; a PIN that is forgotten is replaced with \"iechor trust token unblock\""}},
		{keys.ErrNoPIN, []string{"run it on a terminal, or name a file with \"pin\": \"file:PATH\" in content-trust.tokens in config.json"}},
		{keys.ErrTokenRefuses, []string{"see what the token's maker says it can do; tokens differ in what they make and import"}},
	} {
		if errors.Is(err, known.is) {
			return c.could(reason, known.hints...), true
		}
	}
	return answer{}, false
}

// hints say which tokens were not there. A nil error has none.
func (e *awayError) hints() []string {
	if e == nil {
		return nil
	}
	var out []string
	for _, err := range e.away {
		out = append(out, "the key may be on a token that cannot be used now: "+err.Error())
	}
	return out
}
