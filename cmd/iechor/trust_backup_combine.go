package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
)

type backupCombineOptions struct {
	files []string
	check bool
	yes   bool
}

func newBackupCombineCmd(a *app) *cobra.Command {
	var o backupCombineOptions
	cmd := &cobra.Command{
		Use:   "combine FILE...",
		Short: "Put a key together from shares",
		Example: `  iechor trust backup combine root.1-of-5.txt root.4-of-5.txt typed.txt
  iechor trust backup combine --check root.*-of-5.txt`,
		Long: `Combine reads as many shares as their threshold says, one in each file, puts the
key together, and stores it on this machine under a passphrase that you choose.

Of a share on paper, the five numbered lines are enough, typed into a file; case
and spaces do not matter. At least one of the files must be whole, or a scan of
a whole one, since the sealed key stands below those lines. A share that was
mistyped, belongs to another key, or is not genuine is named.

--check only says which key it is, and that the shares open it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, cmd.CommandPath()+" takes the files of shares, and got none")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.files = args
			return a.combineShares(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.check, "check", false, "store nothing")
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) combineShares(ctx context.Context, o backupCombineOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	var shares []*backup.Share
	for _, path := range o.files {
		s, err := readShare(path)
		if err != nil {
			return &backupError{path, err}
		}
		shares = append(shares, s)
	}
	done := d.busy("Putting the key together")
	key, block, err := backup.Combine(shares)
	done()
	if wrong := (*backup.ShareError)(nil); errors.As(err, &wrong) {
		return &backupError{o.files[wrong.Index], err}
	}
	if err != nil {
		return err
	}
	defer keys.Wipe(key)
	info, err := infoOf(key, block.Info)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "%s give key %s\n", count(len(shares), "share"), described(info))
	if o.check {
		return d.noteShares(ctx, info)
	}
	if ok, err := d.replacing(ctx, info, o.yes); err != nil || !ok {
		return err
	}
	passphrase, err := d.passphrases.NewPassphrase(ctx, info)
	if err != nil {
		return err
	}
	defer clear(passphrase)
	if err := d.store(ctx, key, info, passphrase); err != nil {
		return doing("could not store key "+info.ID.Short(), err)
	}
	d.imported(info)
	return nil
}

// readShare reads the file of a share, or what was typed of it.
func readShare(path string) (*backup.Share, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 1 << 20
	raw, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, err
	}
	return backup.ParseShare(raw)
}
