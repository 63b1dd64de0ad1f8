package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/tuf"
)

type moveOptions struct {
	id    string
	to    string // token or file
	token string
	yes   bool
}

func newKeyMoveCmd(a *app) *cobra.Command {
	var o moveOptions
	cmd := &cobra.Command{
		Use:   "move ID --to {token | file}",
		Short: "Bring a key from a file to a token, or back",
		Example: `  iechor trust key move 543bb8f --to token
  iechor trust key move 543bb8f --to file`,
		Long: `Move --to token puts the key on the token, sees that the token signs with it, and
moves its file from the trust directory into the directory of backups: bring that
to a safe place.

Move --to file takes the key's copy out of the directory of backups, sees that it
opens, and destroys the key on the token. A key never leaves a token: without a
copy, this cannot be.`,
		Args: exactArgs(1, "the ID of a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.id = args[0]
			if o.to != "token" && o.to != "file" {
				return usage(cmd, "--to takes token or file")
			}
			return a.moveKey(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.to, "to", "", "`place` where the key is to be: token or file")
	addTokenFlag(cmd, &o.token)
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) moveKey(ctx context.Context, o moveOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.token = o.token
	if o.to == "token" {
		return d.moveToToken(ctx, o)
	}
	return d.moveToFile(ctx, o)
}

func (d *desk) moveToToken(ctx context.Context, o moveOptions) error {
	k, err := d.findKeyIn(ctx, o.id, func(s keys.Store) bool { return s == keys.Store(d.dirKeys) })
	if err != nil {
		return err
	}
	t, err := d.oneToken(ctx)
	if err != nil {
		return err
	}
	raw, err := d.dirKeys.Export(ctx, k.ID)
	if err != nil {
		return err
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return err
	}
	if err := d.blockToToken(ctx, t, blocks[0], k.Info); err != nil {
		return err
	}
	if err := d.dirKeys.Remove(ctx, k.ID); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Moved %s to %s\n", described(k.Info), printable(t.Name()))
	return nil
}

// blockToToken puts a key out of a file on a token, and its encrypted form into
// the directory of backups.
func (d *desk) blockToToken(ctx context.Context, t device, b *keys.Block, info keys.Info) error {
	if _, ok := t.Token.(keys.Importer); !ok {
		return cannot("keys cannot be put on "+printable(t.Name()), "have it make a key itself: iechor trust token generate --on-token-only")
	}
	if u, ok := t.Token.(keys.Unlocker); ok {
		if err := u.Unlock(ctx); err != nil {
			return err
		}
	}
	key, passphrase, err := d.unlock(ctx, b, info)
	if err != nil {
		return err
	}
	defer func() { clear(passphrase) }()
	got, err := infoOf(key, info)
	if err != nil {
		return err
	}
	if info.ID != "" && got.ID != info.ID {
		return fmt.Errorf("%w: it holds another key, %s", keys.ErrBroken, got.ID)
	}
	backups, err := d.backupDir()
	if err != nil {
		return err
	}
	sealed := b
	if !b.Encrypted() {
		d.passphrases.backup = backups.Name()
		passphrase, err = d.passphrases.NewPassphrase(ctx, got)
		d.passphrases.backup = ""
		if err != nil {
			return err
		}
		if sealed, err = sealBlock(key, got, passphrase, d.testOnlyIterations); err != nil {
			return err
		}
	}
	return d.putOnToken(ctx, t, backups, got, crypto.Signer(key), sealed)
}

func (d *desk) moveToFile(ctx context.Context, o moveOptions) error {
	k, err := d.findKeyIn(ctx, o.id, isToken)
	if err != nil {
		return err
	}
	backups, err := d.backupDir()
	if err != nil {
		return err
	}
	raw, err := backups.Export(ctx, k.ID)
	if errors.Is(err, tuf.ErrNoKey) {
		return cannot(fmt.Sprintf("key %s cannot leave %s, and there is no copy of it in %s", k.ID.Short(), k.Store.Name(), backups.Name()),
			"bring the copy there, or name its place with content-trust.backup-directory in config.json; a key without a copy is replaced: iechor trust key rotate")
	}
	if err != nil {
		return err
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return err
	}
	remover, ok := k.Store.(keys.Remover)
	if !ok {
		return cannot(fmt.Sprintf("key %s cannot be removed from %s", k.ID, k.Store.Name()), "use the tools of that device")
	}
	ok, err = d.sure(ctx, fmt.Sprintf("Are you sure you want to destroy %s on %s? Its copy becomes the key.", described(k.Info), printable(k.Store.Name())), o.yes)
	if err != nil || !ok {
		return err
	}
	if _, err := d.dirKeys.ImportEncrypted(ctx, k.Info, blocks[0]); err != nil {
		return err
	}
	if _, err := d.dirKeys.Open(ctx, k.ID); err != nil {
		return errors.Join(err, d.dirKeys.Remove(context.WithoutCancel(ctx), k.ID))
	}
	if err := remover.Remove(ctx, k.ID); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Moved %s to %s\n", described(k.Info), printable(d.dirKeys.Name()))
	return nil
}

func isToken(s keys.Store) bool {
	_, ok := s.(keys.Token)
	return ok
}

type tokenImportOptions struct {
	file       string
	role       string
	repository string
	token      string
	place      piv.Place
}

func newTokenImportCmd(a *app) *cobra.Command {
	var o tokenImportOptions
	var place placeFlags
	cmd := &cobra.Command{
		Use:   "import KEYFILE",
		Short: "Put a key from a file on a token",
		Example: `  iechor trust token import alice.pem --role alice
  iechor trust token import /media/safe/543bb8f720a539a5894c6d6f3cf80a9bc20dd2dba61bd7d0cf3baa3f9bff1a1a.key --token spare`,
		Long: `Import puts a private key on the token: such as the copy of one whose token is
lost, on its successor, or on a spare. KEYFILE may be anything that "iechor trust
key load" reads, and stays as it is. Its encrypted form is put into the directory
of backups, too.

--role says what the key is for: root, targets, snapshot, or the name of a signer;
without it, what the file says counts.`,
		Args: exactArgs(1, "one key file"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.file = args[0]
			if o.place, err = place.parse(); err != nil {
				return err
			}
			if o.role != "" {
				if _, err := tokenRole(cmd, o.role, o.repository); err != nil {
					return err
				}
			}
			return a.importToToken(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.role, "role", "", "what the key is for: a `role`, or the name of a signer")
	addRepositoryFlag(cmd, &o.repository, "the `repository` of a targets or snapshot key")
	addTokenFlag(cmd, &o.token)
	addPlaceFlags(cmd, &place)
	return cmd
}

func (a *app) importToToken(ctx context.Context, o tokenImportOptions) (err error) {
	blocks, err := readKeyFile(o.file)
	if err != nil {
		return err
	}
	if len(blocks) != 1 {
		return cannot(fmt.Sprintf("%s holds %d keys", printable(o.file), len(blocks)), "give each one a file of its own")
	}
	info := blocks[0].Info
	if o.role != "" {
		info.Role, info.GUN = o.role, tuf.GUN(o.repository)
	}
	if info.Role == "" {
		return cannot(printable(o.file)+" does not say what the key is for", "say it with --role: root, targets, snapshot, or the name of a signer")
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.token, d.place = o.token, o.place
	t, err := d.oneToken(ctx)
	if err != nil {
		return err
	}
	if err := d.blockToToken(ctx, t, blocks[0], info); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Imported the %s to %s\n", printable(info.String()), printable(t.Name()))
	return nil
}
