package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type backupRestoreOptions struct {
	file     string
	identity string
	replace  bool
	yes      bool
}

func newBackupRestoreCmd(a *app) *cobra.Command {
	var o backupRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Bring the keys of a backup back",
		Example: `  iechor trust backup restore /media/stick/keys.age
  iechor trust backup restore keys.age --identity identity.txt`,
		Long: `Restore reads all of a backup, shows what it would change on this machine, and
asks. Keys that are not here are added, under the passphrases that they had. A
key that is here already stays as it is, unless its file here is another one and
you say that it is to be replaced, or give --replace. All keys come in one step:
whatever happens, either all of them are here afterwards, or it is as before.

Repositories that this machine does not know begin with the root of the backup,
so that no server can show a first root of its own.

` + aboutBackupPassphrase,
		Args: exactArgs(1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return a.restoreBackup(cmd.Context(), o)
		},
	}
	addIdentityFlag(cmd, &o.identity)
	cmd.Flags().BoolVar(&o.replace, "replace", false, "replace keys whose file here is another one")
	addYesFlag(cmd, &o.yes)
	return cmd
}

// A keyState is how a key of a backup stands on this machine.
type keyState int

const (
	keyAbsent keyState = iota
	keySame
	keyDiffers
	keyDamaged
)

func (s keyState) note() string {
	return [...]string{"not on this machine", "", "another file of this key is on this machine", "damaged on this machine"}[s]
}

// standing finds out how a key of a backup stands here.
func (d *desk) standing(ctx context.Context, block *keys.Block) (keyState, error) {
	raw, _, err := d.dirKeys.File(ctx, block.Info)
	switch {
	case errors.Is(err, tuf.ErrNoKey):
		return keyAbsent, nil
	case errors.Is(err, keys.ErrBroken), errors.Is(err, tuf.ErrKey):
		return keyDamaged, nil
	case err != nil:
		return 0, err
	case bytes.Equal(raw, block.File()):
		return keySame, nil
	}
	return keyDiffers, nil
}

func (a *app) restoreBackup(ctx context.Context, o backupRestoreOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	b, err := d.openBackup(ctx, o.file, o.identity)
	if err != nil {
		return err
	}
	chosen, err := d.chooseRestored(ctx, b, o)
	if err != nil {
		return err
	}
	unknown, err := d.unknownRoots(b)
	if err != nil {
		return err
	}
	if len(chosen)+len(unknown) == 0 {
		fmt.Fprintf(d.out, "Nothing to restore from %s\n", printable(o.file))
		return nil
	}
	question := "Do you want to restore " + count(len(chosen), "key")
	if len(unknown) > 0 {
		question += fmt.Sprintf(" and %s", count(len(unknown), "root"))
	}
	question += "?"
	if ok, err := d.sure(ctx, question, o.yes); err != nil || !ok {
		return err
	}
	// The roots come first: who has the keys again must not meet a first root
	// unprepared.
	for n, r := range b.Manifest.Repositories {
		if unknown[n] {
			if err := d.adoptRoot(r.Name, b.Root(n)); err != nil {
				return err
			}
		}
	}
	if err := d.restoreKeys(ctx, chosen); err != nil {
		return doing("no key was restored from "+o.file, err)
	}
	for _, block := range chosen {
		fmt.Fprintf(d.out, "Restored %s\n", described(block.Info))
	}
	if pins, err := d.rootPins(); err == nil && len(b.Manifest.Pins) > 0 && !bytes.Equal(b.Manifest.Pins, pins) {
		fmt.Fprintf(d.err, "iechor: notice: the backup has other pins than config.json; to see them: iechor trust backup verify --json %s\n", printable(o.file))
	}
	if err := d.noteVerified(ctx, b.Keys()); err != nil {
		d.warn("it is not remembered that this backup was read: %s", printable(err.Error()))
	}
	return nil
}

// chooseRestored shows how every key of the backup stands here, and returns
// those that are to be written.
func (d *desk) chooseRestored(ctx context.Context, b *backup.Backup, o backupRestoreOptions) ([]*keys.Block, error) {
	var chosen, differ []*keys.Block
	t := d.backupTable()
	for _, block := range b.Keys() {
		state, err := d.standing(ctx, block)
		if err != nil {
			return nil, err
		}
		note := "is added"
		switch {
		case state == keySame:
			note = "is here already"
		case state == keyAbsent:
			chosen = append(chosen, block)
		default:
			note = state.note()
			differ = append(differ, block)
			if o.replace {
				note += ", and is replaced"
			}
		}
		t.key(block.Info, note)
	}
	for _, k := range b.Manifest.Tokens {
		t.key(k.Info(), "is not in the backup: it is in "+printable(k.Store))
	}
	t.end()
	if o.replace {
		return append(chosen, differ...), nil
	}
	for _, block := range differ {
		if o.yes || !d.terminal.Interactive() {
			fmt.Fprintf(d.err, "iechor: notice: key %s stays as it is; to have that of the backup instead, give --replace\n", block.Info.ID.Short())
			continue
		}
		ok, err := d.terminal.Confirm(ctx, fmt.Sprintf("Do you want to replace the %s by that of the backup, with the passphrase that it had then? [y/N] ", printable(block.Info.String())))
		if err != nil {
			return nil, err
		}
		if ok {
			chosen = append(chosen, block)
		}
	}
	return chosen, nil
}

// restoreKeys writes all keys in one step, and sees that they are there.
func (d *desk) restoreKeys(ctx context.Context, chosen []*keys.Block) error {
	if len(chosen) == 0 {
		return nil
	}
	if err := d.dirKeys.ReplaceAll(ctx, chosen); err != nil {
		return err
	}
	for _, block := range chosen {
		if state, err := d.standing(ctx, block); err != nil || state != keySame {
			return errors.Join(fmt.Errorf("%w: %s was written and is not there", keys.ErrBroken, block.Info), err)
		}
		if err := d.passphrases.memory.forget(ctx, block.Info.ID); err != nil {
			d.warn("%s", printable(err.Error()))
		}
	}
	return nil
}

// unknownRoots are the repositories of the backup, by number, of which this
// machine has nothing.
func (d *desk) unknownRoots(b *backup.Backup) (map[int]bool, error) {
	unknown := map[int]bool{}
	for n, r := range b.Manifest.Repositories {
		past, err := d.local(r.Name).Local()
		switch {
		case errors.Is(err, trust.ErrDamaged): // and has to be looked at
		case err != nil:
			return nil, err
		case past == nil:
			unknown[n] = true
			fmt.Fprintf(d.out, "%s begins with root version %d\n", printable(string(r.Name)), r.Root.Version)
		}
	}
	return unknown, nil
}

// local is a repository of which only what is here matters.
func (d *desk) local(gun tuf.GUN) *trust.Repository {
	return trust.Open(gun, trust.Config{Dir: trust.NewDir(filepath.Join(d.dir, "trust")), Now: d.now})
}

// adoptRoot makes a root what this machine begins with.
func (d *desk) adoptRoot(gun tuf.GUN, root tuf.File) error {
	_, err := d.local(gun).Begin(root)
	return err
}
