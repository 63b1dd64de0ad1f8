package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

type passwdOptions struct {
	id       string // empty: all keys
	remember bool
}

func newKeyPasswdCmd(a *app) *cobra.Command {
	var o passwdOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "passwd {ID | --all}",
		Short: "Change the passphrase of a key",
		Example: `  iechor trust key passwd 543bb8f
  iechor trust key passwd --all
  iechor trust key passwd 543bb8f --remember`,
		Long: `Passwd asks for the passphrase of a key, and twice for the new one, which may be
the same: then the key file gets the encryption of today, and nothing else
changes. The old passphrase may come from a variable or from the system's store
of secrets; the new one is always asked for, on the terminal or as lines of
standard input.

--remember puts the new passphrase into the system's store of secrets (Keychain,
Credential Manager, Secret Service), where every program of yours can have it
while you are logged in. Without it, what was remembered for the key is
forgotten.

Passphrases that are not remembered come from these variables, the first one
that is set: ` + keyPassphraseVariable + `<7 or more digits of the
key's ID>; then for root keys ` + rootPassphraseVariable + `,
and for all others ` + repositoryPassphraseVariable + `.
Each has a twin that ends in ` + fileSuffix + ` and names a file that only you can read.`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usage(cmd, "an ID cannot be given together with --all", "leave out one of them")
			case all:
				return nil
			}
			return exactArgs(1, "the ID of a key, or --all")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !all {
				o.id = args[0]
			}
			return a.passwd(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "change those of all keys, one after the other")
	cmd.Flags().BoolVar(&o.remember, "remember", false, "put the new passphrase into the system's store of secrets")
	return cmd
}

func (a *app) passwd(ctx context.Context, o passwdOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.passphrases.askNew = true
	if o.id != "" {
		k, err := d.findKey(ctx, o.id)
		if err != nil {
			return err
		}
		return d.changePassphrase(ctx, k, o.remember)
	}
	all, err := d.keys.List(ctx)
	if err != nil {
		return err
	}
	exit := exitDone
	for _, k := range all {
		if isToken(k.Store) {
			continue // it has a PIN: see "trust token change-pin"
		}
		err := d.changePassphrase(ctx, k, o.remember)
		if errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			exit = max(exit, a.complain(err))
		}
	}
	return told(exit)
}

// changePassphrase changes that of one key, and sees that the new one opens
// it.
func (d *desk) changePassphrase(ctx context.Context, k keys.Located, remember bool) error {
	store, ok := k.Store.(keys.Rewrapper)
	if !ok {
		return cannot(fmt.Sprintf("the passphrase of key %s cannot be changed: it is in %s", k.ID, k.Store.Name()), "use the tools of that device")
	}
	var chosen []byte
	defer func() { clear(chosen) }()
	d.passphrases.chosen = func(_ keys.Info, passphrase []byte) { chosen = bytes.Clone(passphrase) }
	defer func() { d.passphrases.chosen = nil }()
	failed := "could not change the passphrase of key " + k.ID.Short()
	if err := store.ChangePassphrase(ctx, k.ID); err != nil {
		return doing(failed, err)
	}
	if k.Store == keys.Store(d.dirKeys) {
		if err := d.opens(ctx, k.Info, chosen); err != nil {
			return doing(failed, err)
		}
	}
	fmt.Fprintf(d.out, "Successfully updated passphrase for key ID: %s\n", k.ID)
	d.rememberPassphrase(ctx, k.ID, chosen, remember)
	return nil
}

// rememberPassphrase puts a passphrase into the system's store of secrets, or
// takes the old one out. On machines without such a store that is no failure.
func (d *desk) rememberPassphrase(ctx context.Context, id tuf.CanonicalID, passphrase []byte, remember bool) {
	memory := d.passphrases.memory
	if !remember {
		had := memory.has(id)
		if err := memory.forget(ctx, id); err != nil {
			d.warn("%s", printable(err.Error()))
		} else if had {
			fmt.Fprintf(d.err, "iechor: notice: the old passphrase of key %s was removed from the system's store of secrets; --remember puts the new one there\n", id.Short())
		}
		return
	}
	if err := memory.set(ctx, id, string(passphrase)); err != nil {
		d.warn("the passphrase is not remembered, because the system's store of secrets cannot be used: %s", printable(err.Error()))
		return
	}
	if got, err := memory.get(ctx, id); err != nil || got != string(passphrase) {
		d.warn("the passphrase is not remembered: the system's store of secrets does not give it back")
		return
	}
	fmt.Fprintf(d.err, "iechor: notice: the passphrase of key %s is in the system's store of secrets\n", id.Short())
}
