package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// defaultImportRole is what stock programs call a key without a name.
const defaultImportRole = "delegation"

type importOptions struct {
	role       string
	repository string
}

func newKeyImportCmd(a *app) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Bring back private keys that were exported",
		Example: `  iechor trust key import backup.pem
  iechor trust key import --role root root.pem`,
		Long: `Import reads what "iechor trust key export" and "notary key export" have written,
with any number of keys in a file. Encrypted keys are stored as they are, under
the passphrases that they have. Plain ones get a passphrase that you choose.
What the file says about role and repository counts; --role and --repository
say it for keys about which the file says nothing. A key that is here already
is left as it is.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "iechor trust key import takes one or more files, and got none")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if r := tuf.RoleName(o.role); o.repository == "" && (r == tuf.RoleTargets || r == tuf.RoleSnapshot) {
				return usage(cmd, fmt.Sprintf("a %s key is one of a repository", o.role), "name that with --repository")
			}
			return a.importKeys(cmd.Context(), o, args)
		},
	}
	cmd.Flags().StringVar(&o.role, "role", defaultImportRole, "`role` of keys that name none: root, targets, snapshot, or the name of a signer")
	addRepositoryFlag(cmd, &o.repository, "`repository` of keys that name none")
	return cmd
}

// importKeys goes through all files, also if some are no good.
func (a *app) importKeys(ctx context.Context, o importOptions, files []string) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	exit := exitDone
	for _, file := range files {
		blocks, err := readKeyFile(file)
		if err != nil {
			exit = max(exit, a.complain(err))
			continue
		}
		for _, b := range blocks {
			err := d.importBlock(ctx, o, b)
			if errors.Is(err, context.Canceled) {
				return err
			}
			if err != nil {
				exit = max(exit, a.complain(doing("error importing key from "+file, err)))
			}
		}
	}
	return told(exit)
}

func (d *desk) importBlock(ctx context.Context, o importOptions, b *keys.Block) error {
	info := b.Info
	info.Role = cmp.Or(info.Role, o.role)
	info.GUN = cmp.Or(info.GUN, tuf.GUN(o.repository))
	if r := tuf.RoleName(info.Role); info.GUN == "" && (r == tuf.RoleTargets || r == tuf.RoleSnapshot || r == tuf.RoleTimestamp) {
		return stated("invalid key pem block: it is a "+info.Role+" key, and does not say of which repository", "name that with --repository")
	}
	if b.Encrypted() && info.ID.Valid() {
		return d.importAsItIs(ctx, info, b)
	}
	// Only the key itself says which one it is.
	claimed := b.Info
	if info.Role == string(tuf.RoleRoot) {
		claimed.Role = info.Role // whose passphrase comes from another variable
	}
	key, passphrase, err := d.unlock(ctx, b, claimed)
	if err != nil {
		return err
	}
	clear(passphrase)
	if info, err = infoOf(key, info); err != nil {
		return err
	}
	if b.Encrypted() {
		return d.importAsItIs(ctx, info, b)
	}
	if here, err := d.here(ctx, info); here || err != nil {
		return err
	}
	if passphrase, err = d.passphrases.NewPassphrase(ctx, info); err != nil {
		return err
	}
	defer clear(passphrase)
	if err := d.store(ctx, key, info, passphrase); err != nil {
		return err
	}
	d.imported(info)
	return nil
}

// importAsItIs stores an encrypted key unchanged, and sees that it is there.
func (d *desk) importAsItIs(ctx context.Context, info keys.Info, b *keys.Block) error {
	if here, err := d.here(ctx, info); here || err != nil {
		return err
	}
	info, err := d.dirKeys.ImportEncrypted(ctx, info, b)
	if err != nil {
		return err
	}
	found, _, err := d.keys.Find(ctx, info.ID)
	if err != nil {
		return err
	}
	d.imported(found)
	return nil
}

// here reports, and says, that a key is here under the same role. Under
// another one the error matches keys.ErrExists.
func (d *desk) here(ctx context.Context, info keys.Info) (bool, error) {
	old, _, err := d.keys.Find(ctx, info.ID)
	switch {
	case errors.Is(err, tuf.ErrNoKey):
		return false, nil
	case errors.Is(err, keys.ErrBroken):
		return false, stated("the file of key "+string(info.ID)+" is here already, and is damaged", "remove it first: iechor trust key remove "+string(info.ID))
	case err != nil:
		return false, err
	case old.Role != info.Role:
		return false, &keys.ExistsError{ID: info.ID, Role: old.Role}
	}
	fmt.Fprintf(d.out, "Key %s is here already, and stays as it is\n", described(old))
	return true, nil
}

func (d *desk) imported(info keys.Info) {
	fmt.Fprintf(d.out, "Successfully imported key %s\n", described(info))
}
