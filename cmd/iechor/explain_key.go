package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// The part of explain that is about the trust key commands.

// A keyFileError is about a key on its way into or out of the key store, not
// about one that is there.
type keyFileError struct{ err error }

func (e *keyFileError) Error() string { return e.err.Error() }
func (e *keyFileError) Unwrap() error { return e.err }

// doing puts the words of spec/cli.md 7.1 and 7.2 before the reason why
// something could not be done with a key.
func doing(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if s := (*statedError)(nil); errors.As(err, &s) && strings.HasPrefix(s.sentence, "iechor: ") {
		return err // it is no reason, but a message of its own
	}
	return &taskError{what + ": ", &keyFileError{err}}
}

// stated says why a command could not, in the words of the specification, or as
// the reason in a taskError; cannot says it in words of ours.
func stated(sentence string, hints ...string) error {
	return &statedError{sentence: sentence, hints: hints}
}

func cannot(sentence string, hints ...string) error { return stated("iechor: "+sentence, hints...) }

// explainKeyWork has the words of spec/cli.md 7.1 and 7.2.
func explainKeyWork(err error, c subject) (answer, bool) {
	var (
		moved  *keyFileError
		file   *passphraseFileError
		shared *keys.SharedFile
		rotate *trust.NotRotatable
	)
	switch {
	case errors.As(err, &file) && errors.Is(err, keys.ErrSharedSecret):
		return c.could(file.Error(), "find out who could have read it; to go on, chmod 600 "+file.path), true
	case errors.As(err, &file):
		return c.could(file.Error(), "correct "+file.variable+" or the file that it names, or unset it to be asked"), true
	case errors.Is(err, keys.ErrSharedSecret):
		return c.could(err.Error(), "find out who could have read it; to go on, make it yours alone: chmod 600"), true
	case errors.As(err, &rotate):
		return exactly(exitCannot, rotationRefused(rotate), "the client keeps the keys of root and targets, the server that of timestamp; for snapshot it may be either; signers are changed with \"iechor trust signer\"")
	case !errors.As(err, &moved):
		return answer{}, false
	case errors.As(err, &shared):
		return c.could("private key file "+shared.Path+" must not be readable or writable by others", "find out who could have copied it; to go on, chmod 600 "+shared.Path), true
	case errors.Is(err, tuf.ErrKey), errors.Is(err, keys.ErrBroken):
		return c.could(withoutStore(err).Error(), "see that it is the right file, and that it is whole"), true
	case errors.Is(err, keys.ErrExists):
		return c.could(withoutStore(err).Error(), "to give the key another name, load it with \"iechor trust key load --name NAME\""), true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrPermission):
		return c.could(err.Error(), "see that the path is right, and who may use it"), true
	}
	return answer{}, false
}

// withoutStore takes off what a key store says about where and which.
func withoutStore(err error) error {
	if store := new(keys.StoreError); errors.As(err, &store) {
		return store.Err
	}
	return err
}

// rotationRefused has the words of notary-protocol 7.8.
func rotationRefused(e *trust.NotRotatable) string {
	switch {
	case e.Role == tuf.RoleTimestamp:
		return "notary does not permit the client managing the timestamp key"
	case e.Server && (e.Role == tuf.RoleTargets || e.Role == tuf.RoleRoot):
		return fmt.Sprintf("notary does not permit the server managing the %s key", e.Role)
	}
	return fmt.Sprintf("notary does not currently permit rotating the %s key", e.Role)
}
