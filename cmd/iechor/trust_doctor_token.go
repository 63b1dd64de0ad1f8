package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/iechor/trust/keys"
)

// tokens looks at those that are configured, without asking for a PIN. One that
// is not there is a warning: it may not be needed today.
func (x *examination) tokens(ctx context.Context, d *desk) {
	for _, t := range d.tokens {
		info, err := t.Look(ctx)
		if err == nil && info.Locked {
			err = &keys.PINError{Token: info, Locked: true}
		}
		switch {
		case t.auto && absent(err), t.auto && errors.Is(err, keys.ErrTokenBlank):
			continue // a YubiKey that nobody has spoken of
		case errors.Is(err, keys.ErrTokenAbsent):
			x.failed("tokens", stateWarning, err)
			continue
		case err != nil:
			x.failed("tokens", stateBroken, err)
			continue
		}
		infos, err := t.List(ctx)
		if err != nil {
			x.failed("tokens", stateBroken, err)
			continue
		}
		state, text := stateOK, fmt.Sprintf("%s: %s", info, plural(len(infos), "key", "keys"))
		var cures []string
		if info.Tries != keys.TriesUnknown && info.Tries < 3 {
			state, text = stateWarning, text+"; "+info.Tries.String()
			cures = []string{"give the right PIN once, for example with iechor trust token change-pin"}
		}
		x.note("tokens", state, text, cures...)
	}
}
