package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/pkcs11"
)

type tokenSetupOptions struct {
	label  string
	module string // empty: the configured one
	slot   int    // -1: the only blank one

	token         string // of YubiKeys: the serial number
	managementKey string // the same: "random" or "ask"
}

func newTokenSetupCmd(a *app) *cobra.Command {
	var o tokenSetupOptions
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Give a new token its name and PINs",
		Example: `  iechor trust token setup
  iechor trust token setup --label ci
  iechor trust token setup --label spare --module /usr/lib/softhsm/libsofthsm2.so --slot 1`,
		Long: `Setup without --label is for YubiKeys and other PIV cards: it asks for a PIN,
which every use needs, and for a PUK, with which a blocked or forgotten PIN is
replaced, and changes the management key, without which nobody can put keys on
the token. Keys that are on it stay. A YubiKey that is not new is asked for what
it has now.

With --label, setup takes a token out of its factory state: it asks for a PIN, which every use
needs, and for an SO PIN, with which a locked or forgotten PIN is replaced. Keep
the SO PIN where the token is not. Tokens that are in use are refused, because to
set them up again would destroy their keys.

At the end it prints what content-trust.tokens in config.json says of the token.`,
		Args: exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.managementKey != "random" && o.managementKey != "ask" {
				return usage(cmd, "--management-key takes random or ask")
			}
			if o.label == "" {
				if o.module != "" || o.slot >= 0 {
					return usage(cmd, "a token needs a name", "give it with --label")
				}
				return a.setupYubiKey(cmd.Context(), o)
			}
			return a.setupToken(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.label, "label", "", "`name` of the token, if it is no YubiKey")
	cmd.Flags().StringVar(&o.token, "token", "", "`serial` number of the YubiKey, if several are there")
	cmd.Flags().StringVar(&o.managementKey, "management-key", "random", "of a YubiKey: `kind`, random for one that it keeps behind its PIN, or ask for one of yours")
	cmd.Flags().StringVar(&o.module, "module", "", "`path` of the PKCS#11 library (default: that in config.json)")
	cmd.Flags().IntVar(&o.slot, "slot", -1, "`number` of the slot, if several tokens are new")
	return cmd
}

func (a *app) setupToken(ctx context.Context, o tokenSetupOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	l, slot, err := d.blankToken(o)
	if err != nil {
		return err
	}
	so, err := d.newPIN(ctx, "SO PIN")
	if err != nil {
		return err
	}
	pin, err := d.newPIN(ctx, "PIN")
	if err != nil {
		return err
	}
	if bytes.Equal(so, pin) {
		return cannot("the PIN and the SO PIN are the same", "choose two: who learns one must not have the other")
	}
	info, err := l.Setup(slot, o.label, so, pin)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.err, "iechor: notice: the %s is set up\n", printable(info.String()))
	entry, err := json.Marshal(map[string]string{"module": l.Path(), "label": info.Label, "serial": info.Serial})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, "%s\n", entry)
	return err
}

// blankToken finds the token that is to be set up.
func (d *desk) blankToken(o tokenSetupOptions) (*pkcs11.Library, uint, error) {
	known := slices.ContainsFunc(d.libraries, func(l *pkcs11.Library) bool { return l.Path() == o.module })
	if o.module != "" && !known {
		d.libraries = append(d.libraries, pkcs11.NewLibrary(o.module))
	}
	type place struct {
		l    *pkcs11.Library
		slot pkcs11.Slot
	}
	var blank []place
	for _, l := range d.libraries {
		if o.module != "" && l.Path() != o.module {
			continue
		}
		slots, err := l.Tokens()
		if err != nil {
			return nil, 0, err
		}
		for _, s := range slots {
			switch {
			case o.slot >= 0 && s.Number != uint(o.slot):
			case s.Token.Blank:
				blank = append(blank, place{l, s})
			case s.Token.Label == o.label:
				return nil, 0, cannot("there is a "+printable(s.Token.String())+" already", "choose another name with --label, so that they can be told apart")
			}
		}
	}
	switch {
	case len(d.libraries) == 0:
		return nil, 0, cannot("no token is configured", "name the library of the token's maker with --module")
	case len(blank) == 0:
		return nil, 0, cannot("there is no token that could be set up", "see which ones are there: iechor trust token list; a used one is emptied with its maker's tools")
	case len(blank) > 1:
		return nil, 0, cannot(fmt.Sprintf("there are %d new tokens", len(blank)), "say which one with --slot: see iechor trust token list")
	}
	return blank[0].l, blank[0].slot.Number, nil
}

// newPIN asks for a PIN to set, twice.
func (d *desk) newPIN(ctx context.Context, what string) ([]byte, error) {
	for range maxNewAnswers {
		first, err := d.askPIN(ctx, "new "+what)
		if err != nil {
			return nil, err
		}
		second, err := d.askPIN(ctx, "new "+what+" again")
		if err != nil {
			return nil, err
		}
		if bytes.Equal(first, second) {
			return first, nil
		}
		if err := d.terminal.Notice("They do not match. Please retry."); err != nil {
			return nil, err
		}
	}
	return nil, errTooManyAnswers
}

// newTokenSecretCmd is a command that changes a PIN with another one.
func newTokenSecretCmd(a *app, use, short, example, long, old, fresh string, change func(ctx context.Context, c keys.PINChanger, old, new []byte) error) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Long: long,
		Args: exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.changeSecret(cmd.Context(), name, old, fresh, change)
		},
	}
	addTokenFlag(cmd, &name)
	return cmd
}

func newTokenChangePINCmd(a *app) *cobra.Command {
	return newTokenSecretCmd(a, "change-pin", "Change the PIN of a token", "  iechor trust token change-pin --token ci",
		`Change-pin asks for the PIN, tries it once, and for a new one.`, "PIN", "PIN",
		func(ctx context.Context, c keys.PINChanger, old, new []byte) error {
			return c.ChangePIN(ctx, old, new)
		})
}

func newTokenChangePUKCmd(a *app) *cobra.Command {
	return newTokenSecretCmd(a, "change-puk", "Change the PUK (SO PIN) of a token", "  iechor trust token change-puk --token ci",
		`Change-puk asks for the PUK, which PKCS#11 calls SO PIN, tries it once, and for a
new one.`, "PUK (SO PIN)", "PUK (SO PIN)",
		func(ctx context.Context, c keys.PINChanger, old, new []byte) error {
			return c.ChangePUK(ctx, old, new)
		})
}

func newTokenUnblockCmd(a *app) *cobra.Command {
	return newTokenSecretCmd(a, "unblock", "Set a new PIN when the old one is locked or forgotten", "  iechor trust token unblock --token ci",
		`Unblock asks for the PUK, which PKCS#11 calls SO PIN, tries it once, and for a new
PIN. The keys on the token stay.`, "PUK (SO PIN)", "PIN",
		func(ctx context.Context, c keys.PINChanger, puk, pin []byte) error {
			return c.Unblock(ctx, puk, pin)
		})
}

func (a *app) changeSecret(ctx context.Context, name, old, fresh string, change func(context.Context, keys.PINChanger, []byte, []byte) error) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.token, d.lockedToo = name, true
	t, err := d.oneToken(ctx)
	if err != nil {
		return err
	}
	c, ok := t.Token.(keys.PINChanger)
	if !ok {
		return cannot("the PINs of "+printable(t.Name())+" cannot be changed here", "use the tools of its maker")
	}
	info, err := t.Look(ctx)
	if err != nil {
		return err
	}
	if info.Tries != keys.TriesUnknown && old == "PIN" {
		if err := d.terminal.Notice(printable(info.String()) + ": " + info.Tries.String() + "."); err != nil {
			return err
		}
	}
	was, err := d.askPIN(ctx, old+" of the "+printable(info.String()))
	if err != nil {
		return err
	}
	now, err := d.newPIN(ctx, fresh)
	if err != nil {
		return err
	}
	if err := change(ctx, c, was, now); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Successfully changed the %s of the %s\n", fresh, printable(info.String()))
	return nil
}
