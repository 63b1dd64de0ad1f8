package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

// pin returns what decides about roots: the configuration, and the user where
// that says so. Who only looks sees every root that is not pinned wrongly.
func (d *desk) pin() (tuf.Pins, error) {
	pins, err := d.config.pin()
	switch {
	case err != nil:
	case d.lookOnly:
		pins.Otherwise = nil
	case d.config.ask:
		pins.Otherwise = &firstUse{desk: d}
	}
	return pins, err
}

// A firstUse asks before a root is trusted only because it came first:
// "first-use": "ask". A root whose private key is here is the user's own, and
// is no question. It is asked once about the same keys, however often an
// update begins again.
type firstUse struct {
	*desk
	asked  string // about which repository and keys
	answer error
}

// Trusted implements [tuf.Pin].
func (f *firstUse) Trusted(gun tuf.GUN, keys []tuf.PublicKey, first bool, _ time.Time) ([]tuf.PublicKey, error) {
	if !first {
		return keys, nil
	}
	// A pin has no context. The terminal ends the question at an interrupt.
	ctx := context.Background()
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = string(k.ID())
		if mine, err := f.keys.Has(ctx, k.CanonicalID()); err == nil && mine {
			return keys, nil
		}
	}
	question := fmt.Sprintf("%s is new to this machine, and nobody vouches for its root:\n  %s\nCompare that with what its owners say. Trust it from now on? y/N ",
		gun, strings.Join(ids, "\n  "))
	if f.asked != question {
		f.asked, f.answer = question, f.confirm(ctx, gun, ids, question)
	}
	return keys, f.answer
}

func (f *firstUse) confirm(ctx context.Context, gun tuf.GUN, ids []string, question string) error {
	refused := &firstUseError{ids: ids, config: f.config.path, gun: gun}
	if !f.terminal.Interactive() {
		refused.nobody = true // a yes that waits on standard input was not meant for this
		return refused
	}
	yes, err := f.terminal.Confirm(ctx, question)
	switch {
	case errors.Is(err, terminal.ErrNoTerminal):
		refused.nobody = true
		return refused
	case err != nil:
		return err
	case !yes:
		return refused
	}
	return nil
}

// A firstUseError says that the user did not trust a root, or could not be
// asked. It matches what a refusal of first use does.
type firstUseError struct {
	gun    tuf.GUN
	ids    []string // of the root's keys, as they stand in metadata
	config string   // path of the configuration file
	nobody bool     // there was no terminal
}

func (e *firstUseError) Error() string {
	if e.nobody {
		return fmt.Sprintf("nothing is pinned for %s, and there is no terminal to ask on whether to trust its root", e.gun)
	}
	return fmt.Sprintf("you did not trust the root of %s", e.gun)
}

func (e *firstUseError) Unwrap() error { return &tuf.RootRefusal{Reason: tuf.FirstUseRefused} }

// howToPin says what to write to have these roots, and no others, trusted.
func howToPin(gun tuf.GUN, ids []string, config string) string {
	return fmt.Sprintf("to pin it, put \"cert-ids\": {%q: [\"%s\"]} under content-trust.trust-pinning in %s", gun, strings.Join(ids, `", "`), config)
}

// met announces a root that is trusted because it came first: nobody vouches
// for it, and who can should pin it (attacks.md R12). Who was asked knows.
func (d *desk) met(pins tuf.Pins) func(*tuf.Set) {
	return func(set *tuf.Set) {
		if _, pinned := pins.For(set.GUN()); pinned || d.config.ask {
			return
		}
		ids := rootIDs(set)
		fmt.Fprintf(d.err, "iechor: notice: trusting %s on first use: its root is %s\n", set.GUN(), strings.Join(ids, ", "))
		fmt.Fprintf(d.err, "hint: compare that with what the owners say; %s\n", howToPin(set.GUN(), ids, d.config.path))
	}
}

// rootIDs are the ids of the root's keys, as they stand in metadata.
func rootIDs(set *tuf.Set) []string {
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	ids := make([]string, len(role.Keys))
	for i, k := range role.Keys {
		ids[i] = string(k.ID)
	}
	return ids
}
