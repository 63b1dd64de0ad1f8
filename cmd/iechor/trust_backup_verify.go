package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

type backupVerifyOptions struct {
	file     string
	identity string
	open     bool
	json     bool
}

func newBackupVerifyCmd(a *app) *cobra.Command {
	var o backupVerifyOptions
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read all of a backup, and say what it is good for",
		Example: `  iechor trust backup verify /media/stick/keys.age
  iechor trust backup verify keys.age --identity identity.txt
  iechor trust backup verify keys.age --open`,
		Long: `Verify reads a backup from its first byte to its last, checks every key file in
it, and says how old it is and which keys of this machine it does not have. With
--open it also sees that each key opens, for which you are asked for the
passphrase of each.

A backup that was verified counts: "iechor trust status" reminds of keys that
are in none. --json prints the manifest, and what was found.

` + aboutBackupPassphrase,
		Args: exactArgs(1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return a.verifyBackup(cmd.Context(), o)
		},
	}
	addIdentityFlag(cmd, &o.identity)
	cmd.Flags().BoolVar(&o.open, "open", false, "see that every key opens with its passphrase")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// A verifiedBackup is what "backup verify --json" prints.
type verifiedBackup struct {
	backup.Manifest
	// Missing are the keys of this machine that the backup does not have, or
	// not as they are now.
	Missing []tuf.CanonicalID `json:"missing"`
	Opened  []tuf.CanonicalID `json:"opened,omitempty"`
}

func (a *app) verifyBackup(ctx context.Context, o backupVerifyOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	b, err := d.openBackup(ctx, o.file, o.identity)
	if err != nil {
		return err
	}
	notes, missing, err := d.compare(ctx, b)
	if err != nil {
		return err
	}
	exit := exitDone
	var opened []tuf.CanonicalID
	if o.open {
		for i, block := range b.Keys() {
			err := d.opensInBackup(ctx, block)
			if ctx.Err() != nil || errors.Is(err, keys.ErrCancelled) {
				return err
			}
			if err != nil {
				exit = max(exit, d.complain(doing("key "+block.Info.ID.Short()+" in "+o.file+" does not open", err)))
				continue
			}
			notes[i] = append(notes[i], "opens")
			opened = append(opened, block.Info.ID)
		}
	}
	if exit == exitDone {
		if err := d.noteVerified(ctx, b.Keys()); err != nil {
			d.warn("it is not remembered that this backup was verified: %s", printable(err.Error()))
		}
	}
	if o.json {
		v := verifiedBackup{Manifest: b.Manifest, Missing: []tuf.CanonicalID{}, Opened: opened}
		for _, k := range missing {
			v.Missing = append(v.Missing, k.ID)
		}
		err = printJSON(d.out, v)
	} else {
		d.printBackup(b, notes)
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		d.warn("%s; to have all in one: iechor trust backup create FILE", whichKeys(missing, "that this backup does not have as now on this machine"))
	}
	return told(exit)
}

// compare says of each key of a backup how it stands here, and which keys here
// the backup lacks.
func (d *desk) compare(ctx context.Context, b *backup.Backup) (notes [][]string, missing []keys.Info, err error) {
	all, err := d.keys.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	covered := map[tuf.CanonicalID]bool{}
	for _, block := range b.Keys() {
		state, err := d.standing(ctx, block)
		if err != nil {
			return nil, nil, err
		}
		covered[block.Info.ID] = state == keySame
		notes = append(notes, []string{state.note()})
	}
	for _, k := range all {
		if exportable(k) && !covered[k.ID] {
			covered[k.ID] = true
			missing = append(missing, k.Info)
		}
	}
	return notes, missing, nil
}

// opensInBackup sees that a key opens, and is the one that it should be.
func (d *desk) opensInBackup(ctx context.Context, block *keys.Block) error {
	key, passphrase, err := d.unlock(ctx, block, block.Info)
	clear(passphrase)
	if err != nil {
		return err
	}
	defer keys.Wipe(key)
	got, err := infoOf(key, block.Info)
	if err == nil && got.ID != block.Info.ID {
		err = fmt.Errorf("%w: it is another key, %s", keys.ErrBroken, got.ID)
	}
	return err
}

func (d *desk) printBackup(b *backup.Backup, notes [][]string) {
	m := b.Manifest
	fmt.Fprintf(d.out, "Backup of %s, %s old: %s\n\n", m.Created.UTC().Format(time.RFC3339), age(max(0, d.now().Sub(m.Created))), count(len(m.Keys), "key"))
	t := d.backupTable()
	for i, k := range m.Keys {
		t.key(k.Info(), notes[i]...)
	}
	for _, k := range m.Tokens {
		t.key(k.Info(), "not in the backup: it is in "+printable(k.Store))
	}
	t.end()
	if len(m.Repositories) == 0 {
		return
	}
	fmt.Fprintln(d.out)
	r := newStockTable(d.out, "REPOSITORY", "ROOT", "ROOT KEYS")
	for _, repo := range m.Repositories {
		ids := make([]string, len(repo.Root.Keys))
		for i, id := range repo.Root.Keys {
			ids[i] = id.Short()
		}
		r.line(printable(string(repo.Name)), fmt.Sprint(repo.Root.Version), few(ids))
	}
	r.end()
}
