package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// The part of explain that is about signers and signatures.

// explainStated has the words of spec/cli.md 7.
func explainStated(err error, c subject) (answer, bool) {
	var (
		stated *statedError
		public *publicKeyError
		keeps  *keepsTag
	)
	switch {
	case errors.As(err, &stated):
		return exactly(max(exitCannot, stated.exit), stated.sentence, stated.hints...)
	case errors.As(err, &public):
		return exactly(exitCannot, public.Error(), "give the public half of the signer's key, as \"iechor trust key generate\" writes it: NAME.pub")
	case errors.As(err, &keeps):
		ids := make([]string, len(keeps.missing.Keys))
		for i, id := range keeps.missing.Keys {
			ids[i] = string(id)
		}
		what := fmt.Sprintf("%d tags", len(keeps.tags))
		if len(keeps.tags) == 1 {
			what = "tag " + keeps.tags[0]
		}
		return plainly(exitCannot, fmt.Sprintf("role %s signs %s too, and at least %d of its keys must be available: %s", keeps.role, what, keeps.missing.Need, strings.Join(ids, ", ")),
			"nothing was changed: revoke it where that key is, or bring the key here")
	case errors.Is(err, tuf.ErrStale):
		return c.could("the proposal is void: "+tuf.ErrStale.Error(), "have it made again: iechor trust sign --propose FILE; to see what is published: iechor trust inspect --pretty "+c.gun), true
	case errors.Is(err, trust.ErrProposal):
		return plainly(exitUntrusted, err.Error(), "do not sign it; ask whoever gave it to you how it was made")
	case errors.Is(err, trust.ErrOtherRepository):
		return plainly(exitCannot, err.Error(), "name the repository that the proposal is for")
	case errors.Is(err, errNothingSigned):
		return plainly(exitCannot, errNothingSigned.Error(), "see what is signed: iechor trust inspect --pretty "+c.gun)
	case errors.Is(err, errNotDeleted):
		return c.could(err.Error(), "see what is published: iechor trust inspect --pretty "+c.gun), true
	case errors.Is(err, errUnseen):
		return c.could(err.Error(), "see what is published: iechor trust inspect --pretty "+c.gun), true
	case errors.Is(err, errMoved):
		return c.could(errMoved.Error(), "look at it, and sign it again or with --digest"), true
	case errors.Is(err, errUnpullable), errors.Is(err, errLoss), errors.Is(err, errAborted):
		return plainly(exitCannot, err.Error(), "give --force if that is meant")
	}
	return answer{}, false
}
