package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type backupCreateOptions struct {
	file       string
	recipients []string
	tokens     bool
	yes        bool

	to []backup.Recipient
}

func newBackupCreateCmd(a *app) *cobra.Command {
	var o backupCreateOptions
	var passphrase bool
	cmd := &cobra.Command{
		Use:   "create FILE",
		Short: "Copy all keys of this machine into one encrypted file",
		Example: `  iechor trust backup create /media/stick/keys.age
  iechor trust backup create keys.age --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kud6nsfjqzyvz9k`,
		Long: `Create writes every private key of this machine, and the roots of the
repositories that it knows, into one file. Inside, the keys stay encrypted by
the passphrases that they have. The file is encrypted for recipients of age, or
else by a passphrase of its own. "iechor trust backup restore" reads it, and so
do age and tar: doc/format.md says how.

` + aboutBackupPassphrase + `

Keys on hardware do not leave it. With --tokens the backup notes that they
exist, and where.`,
		Args: exactArgs(1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			if passphrase && len(o.recipients) > 0 {
				return usage(cmd, "a backup is encrypted for recipients or by a passphrase, not both", "leave out --passphrase or --recipient")
			}
			for _, text := range o.recipients {
				to, err := backup.ParseRecipient(text)
				if err != nil {
					return usage(cmd, fmt.Sprintf("%q is not a recipient", printable(text)), "give what age-keygen prints as the public key: age1...")
				}
				o.to = append(o.to, to)
			}
			return a.createBackup(cmd.Context(), o)
		},
	}
	cmd.Flags().StringArrayVar(&o.recipients, "recipient", nil, "`age1...` whose identity will open it; may be given several times")
	cmd.Flags().BoolVar(&passphrase, "passphrase", false, "encrypt it by a passphrase, as without --recipient")
	cmd.Flags().BoolVar(&o.tokens, "tokens", false, "note the keys on hardware, which cannot be copied")
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) createBackup(ctx context.Context, o backupCreateOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	b, err := d.collect(ctx, o.tokens)
	if err != nil {
		return err
	}
	if ok, err := d.overwrites(ctx, o.file, o.yes); err != nil || !ok {
		return err
	}
	if len(o.to) == 0 {
		passphrase, err := d.passphrases.newBackupPassphrase(ctx)
		if err != nil {
			return err
		}
		defer clear(passphrase)
		to, err := backup.ForPassphrase(passphrase, d.testOnlyBackupCost)
		if err != nil {
			return err
		}
		o.to = []backup.Recipient{to}
	}
	var raw bytes.Buffer
	done := d.busy("Encrypting %s", count(len(b.Manifest.Keys), "key"))
	err = backup.Write(&raw, b, o.to...)
	done()
	if err != nil {
		return err
	}
	if err := writePrivately(o.file, raw.Bytes()); err != nil {
		return doing("could not write "+o.file, err)
	}
	if on, err := os.ReadFile(o.file); err != nil || !bytes.Equal(on, raw.Bytes()) {
		return errors.Join(cannot("what "+printable(o.file)+" has is not what was written there", "use another medium"), err)
	}
	for _, k := range b.Manifest.Keys {
		fmt.Fprintf(d.out, "Backed up %s to %s\n", described(k.Info()), printable(o.file))
	}
	for _, t := range b.Manifest.Tokens {
		fmt.Fprintf(d.out, "Noted %s, which is in %s\n", described(t.Info()), printable(t.Store))
	}
	fmt.Fprintf(d.err, "iechor: notice: make sure that every copy of it can be read: iechor trust backup verify %s\n", printable(o.file))
	return nil
}

// collect gathers what belongs into a backup. Nobody is asked.
func (d *desk) collect(ctx context.Context, tokens bool) (*backup.Backup, error) {
	all, err := d.keys.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range d.dirKeys.Problems() {
		d.warn("%s", printable(p.String()))
	}
	pasts, err := d.pasts()
	if err != nil {
		return nil, err
	}
	public := d.publicHalves(pasts)
	b := backup.New(d.now())
	seen := map[tuf.CanonicalID]bool{}
	var elsewhere []keys.Info
	for _, k := range all {
		switch {
		case !exportable(k) && tokens:
			b.AddToken(k.Info, k.Store.Name(), public[k.ID])
		case !exportable(k):
			elsewhere = append(elsewhere, k.Info)
		case !seen[k.ID]:
			seen[k.ID] = true
			block, err := keyBlock(ctx, k)
			if err != nil {
				return nil, err
			}
			b.AddKey(block, public[k.ID])
		}
	}
	if len(elsewhere) > 0 {
		d.warn("%s; to have them noted, give --tokens", whichKeys(elsewhere, "on devices that do not give them away"))
	}
	if len(b.Manifest.Keys)+len(b.Manifest.Tokens) == 0 {
		return nil, cannot("there is no key to back up", "see which keys are here: iechor trust key list")
	}
	for _, past := range pasts {
		b.AddRepository(past)
	}
	b.Manifest.Pins, err = d.rootPins()
	return b, err
}

// rootPins is what the configuration says about roots; nil if nothing.
func (d *desk) rootPins() (json.RawMessage, error) {
	p := d.config.pinning
	if d.config.ask {
		p.FirstUse = "ask"
	}
	raw, err := json.Marshal(p)
	if err != nil || string(raw) == "{}" {
		return nil, err
	}
	return raw, nil
}

// keyBlock returns a key as it is stored.
func keyBlock(ctx context.Context, k keys.Located) (*keys.Block, error) {
	raw, err := k.Store.(keys.Exporter).Export(ctx, k.ID)
	if err != nil {
		return nil, err
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return nil, err
	}
	if !blocks[0].Encrypted() {
		return nil, cannot("key "+k.ID.Short()+" is not encrypted, and is not put into a backup like that", "encrypt it first: iechor trust key passwd "+k.ID.Short())
	}
	return blocks[0], nil
}

// pasts are the repositories that this machine knows, as far as what it has of
// them is sound.
func (d *desk) pasts() ([]*tuf.Past, error) {
	dir := trust.NewDir(filepath.Join(d.dir, "trust"))
	guns, err := dir.List()
	if err != nil {
		return nil, err
	}
	var pasts []*tuf.Past
	for _, gun := range guns {
		past, err := trust.Open(gun, trust.Config{Dir: dir, Now: d.now}).Local()
		if err != nil {
			d.warn("the root of %s is not in the backup: %s", printable(string(gun)), printable(err.Error()))
			continue
		}
		if past != nil {
			pasts = append(pasts, past)
		}
	}
	return pasts, nil
}
