package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

type backupSplitOptions struct {
	file              string
	key               string // empty: the only root key
	shares, threshold int
	yes               bool
}

func newBackupSplitCmd(a *app) *cobra.Command {
	var o backupSplitOptions
	cmd := &cobra.Command{
		Use:   "split FILE",
		Short: "Write shares of the root key, of which several together give it",
		Example: `  iechor trust backup split root --shares 5 --threshold 3
  iechor trust backup split alice --key 543bb8f --shares 3 --threshold 2`,
		Long: `Split writes one file for each share: FILE.1-of-5.txt, FILE.2-of-5.txt, and so
on. As many of them as the threshold says give the key, without its passphrase;
fewer tell nothing about it. Give each to another person, printed or on a
stick, and remove the files here.

The key itself stays as it is. You are asked for its passphrase once, now; those
who put the key together with "iechor trust backup combine" need none, and
choose a new one.`,
		Args: exactArgs(1, "the name that the shares' files begin with"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			if o.threshold < 2 || o.shares < o.threshold || o.shares > 255 {
				return usage(cmd, "it takes --shares N and --threshold K with 2 <= K <= N <= 255", "for example --shares 5 --threshold 3")
			}
			return a.splitKey(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&o.shares, "shares", 0, "how many shares to make: `N`")
	cmd.Flags().IntVar(&o.threshold, "threshold", 0, "how many of them give the key: `K`")
	cmd.Flags().StringVar(&o.key, "key", "", "`ID` of the key, or how it begins (default: the only root key)")
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) splitKey(ctx context.Context, o backupSplitOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	k, err := d.keyToSplit(ctx, o.key)
	if err != nil {
		return err
	}
	paths := make([]string, o.shares)
	for i := range paths {
		paths[i] = fmt.Sprintf("%s.%d-of-%d.txt", o.file, i+1, o.shares)
		if ok, err := d.overwrites(ctx, paths[i], o.yes); err != nil || !ok {
			return err
		}
	}
	block, err := keyBlock(ctx, k)
	if err != nil {
		return err
	}
	key, passphrase, err := d.unlock(ctx, block, k.Info)
	clear(passphrase)
	if err != nil {
		return err
	}
	defer keys.Wipe(key)
	if got, err := infoOf(key, k.Info); err != nil || got.ID != k.ID {
		return errors.Join(fmt.Errorf("%w: it is another key, %s", keys.ErrBroken, got.ID), err)
	}
	done := d.busy("Making %d shares", o.shares)
	texts, err := backup.Split(key, k.Info, o.shares, o.threshold, d.testOnlyIterations)
	done()
	if err != nil {
		return err
	}
	for i, text := range texts {
		if err := writePrivately(paths[i], []byte(text)); err != nil {
			return doing("could not write "+paths[i], err)
		}
		fmt.Fprintf(d.out, "Wrote share %d of %d of %s to %s\n", i+1, o.shares, described(k.Info), printable(paths[i]))
	}
	fmt.Fprintf(d.err, "iechor: notice: any %d of these files give the key, to whoever has them: take them apart; before, see that they do: iechor trust backup combine --check FILE...\n", o.threshold)
	return nil
}

// keyToSplit finds the key that is meant.
func (d *desk) keyToSplit(ctx context.Context, id string) (keys.Located, error) {
	var k keys.Located
	if id != "" {
		var err error
		if k, err = d.findKey(ctx, id); err != nil {
			return k, err
		}
	} else {
		all, err := d.keys.List(ctx)
		if err != nil {
			return k, err
		}
		n := 0
		for _, found := range all {
			if found.Role == string(tuf.RoleRoot) && exportable(found) && found.ID != k.ID {
				k, n = found, n+1
			}
		}
		switch {
		case n == 0:
			return k, cannot("there is no root key here to split", "name another key with --key; \"iechor trust key list\" shows them")
		case n > 1:
			return k, cannot(fmt.Sprintf("there are %d root keys here", n), "say which one with --key; \"iechor trust key list\" shows them")
		}
	}
	if !exportable(k) {
		return k, cannot(fmt.Sprintf("key %s cannot leave %s", k.ID.Short(), k.Store.Name()), "only keys in files can be split")
	}
	return k, nil
}
