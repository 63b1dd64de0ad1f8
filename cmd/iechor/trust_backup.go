package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// newTrustBackupCmd is the family of commands about what is kept in a safe.
func newTrustBackupCmd(a *app) *cobra.Command {
	return group(a, "backup", "Keep copies of private keys, and get keys back from them",
		`  iechor trust backup create keys.age
  iechor trust backup verify keys.age
  iechor trust backup restore keys.age
  iechor trust backup split root --shares 5 --threshold 3`,
		newBackupCreateCmd(a), newBackupVerifyCmd(a), newBackupRestoreCmd(a), newBackupSplitCmd(a), newBackupCombineCmd(a),
	)
}

// Where the passphrase of a backup comes from without being asked for; its twin
// with fileSuffix names a file.
const backupPassphraseVariable = "IECHOR_CONTENT_TRUST_BACKUP_PASSPHRASE"

// aboutBackupPassphrase is in the help of commands that want one.
const aboutBackupPassphrase = `The passphrase of the backup is asked for on the terminal, or comes from
` + backupPassphraseVariable + `, or from the file that
` + backupPassphraseVariable + fileSuffix + ` names and only you can read.`

// backupWords is what prompts and errors call it.
const backupWords = "the backup"

func addIdentityFlag(cmd *cobra.Command, value *string) {
	cmd.Flags().StringVar(value, "identity", "", "`file` with the identity that the backup was encrypted for, as age-keygen writes it")
}

// newBackupPassphrase returns the passphrase of a backup that is being made.
func (p *passphrases) newBackupPassphrase(ctx context.Context) ([]byte, error) {
	return p.choose(ctx, newPassphrase{
		words: "backup", variables: []string{backupPassphraseVariable}, variable: backupPassphraseVariable,
	})
}

// tryBackup has open try passphrases until it does not return
// backup.ErrLocked: that of the variable, or what the user gives.
func (p *passphrases) tryBackup(ctx context.Context, open func(passphrase []byte) error) error {
	answer, name, err := p.variable([]string{backupPassphraseVariable})
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		if answer == nil {
			if answer, err = p.ask(ctx, "Enter passphrase for ", backupWords, backupPassphraseVariable); err != nil {
				return err
			}
		}
		err := backup.ErrLocked
		if len(answer) > 0 {
			err = open(answer)
		}
		clear(answer)
		answer = nil
		if !errors.Is(err, backup.ErrLocked) {
			return err
		}
		if name != "" || attempt == openAttempts {
			return &passphraseError{backupWords, name, keys.ErrPassphrase}
		}
		if err := p.terminal.Notice("Passphrase incorrect. Please retry."); err != nil {
			return err
		}
	}
}

// openBackup reads all of a backup. identity is a file, or empty.
func (d *desk) openBackup(ctx context.Context, path, identity string) (b *backup.Backup, err error) {
	f, err := backup.ReadFile(path)
	if err != nil {
		return nil, &backupError{path, err}
	}
	if f.Passphrase {
		if identity != "" {
			return nil, cannot(printable(path)+" is opened by a passphrase, and not by an identity", "leave out --identity")
		}
		err = d.passphrases.tryBackup(ctx, func(passphrase []byte) error {
			defer d.busy("Opening %s", printable(path))()
			by, err := backup.ByPassphrase(passphrase)
			if err == nil {
				b, err = f.Unlock(by)
			}
			return err
		})
		return b, aboutBackup(path, err)
	}
	if identity == "" {
		return nil, cannot(printable(path)+" was encrypted for recipients, so that an identity opens it", "name the file with the identity: --identity FILE")
	}
	by, err := d.readIdentity(ctx, identity)
	if err != nil {
		return nil, err
	}
	b, err = f.Unlock(by...)
	return b, aboutBackup(path, err)
}

// readIdentity reads a file with identities, which nobody else can read, and
// which is not encrypted.
func (d *desk) readIdentity(ctx context.Context, path string) (by []backup.Identity, err error) {
	raw, err := keys.ReadSecret(path)
	if err != nil {
		return nil, &identityError{path, err}
	}
	defer clear(raw)
	if by, err = backup.ParseIdentities(raw); err != nil {
		return nil, &identityError{path, err}
	}
	return by, nil
}

// A backupError says which backup or share an error is about.
type backupError struct {
	path string
	err  error
}

func (e *backupError) Error() string { return e.path + ": " + e.err.Error() }
func (e *backupError) Unwrap() error { return e.err }

// aboutBackup wraps what package backup refuses.
func aboutBackup(path string, err error) error {
	for _, known := range []error{backup.ErrForeign, backup.ErrDamaged, backup.ErrLater, backup.ErrLocked} {
		if errors.Is(err, known) {
			return &backupError{path, err}
		}
	}
	return err
}

// An identityError is about a file that should hold identities.
type identityError struct {
	path string
	err  error
}

func (e *identityError) Error() string { return e.path + ": " + e.err.Error() }
func (e *identityError) Unwrap() error { return e.err }

// busy says on a terminal what takes so long, until the result is called.
func (a *app) busy(format string, args ...any) (done func()) {
	if !a.bars {
		return func() {}
	}
	fmt.Fprintf(a.err, format+" ...", args...)
	return func() { fmt.Fprint(a.err, "\r\x1b[K") }
}

// exportable reports whether a key can be copied out of its store.
func exportable(k keys.Located) bool {
	_, ok := k.Store.(keys.Exporter)
	return ok
}

// publicHalves are the public keys that the trust data on this machine names.
func (d *desk) publicHalves(pasts []*tuf.Past) map[tuf.CanonicalID]*tuf.PublicKey {
	found := map[tuf.CanonicalID]*tuf.PublicKey{}
	for _, past := range pasts {
		for _, f := range past.Files() {
			role, _ := past.Role(f.Role)
			for _, k := range role.Keys {
				if bare := k.Bare(); bare.CanonicalID() != "" {
					found[bare.CanonicalID()] = &bare
				}
			}
		}
	}
	return found
}

// backupTable prints the keys of a backup.
type backupTable struct{ stockTable }

func (d *desk) backupTable() backupTable {
	return backupTable{newStockTable(d.out, "ROLE", "REPOSITORY", "KEY ID", "NOTE")}
}

func (t backupTable) key(k keys.Info, notes ...string) {
	notes = slices.DeleteFunc(notes, func(s string) bool { return s == "" })
	t.line(printable(k.Role), printable(string(k.GUN)), string(k.ID), strings.Join(notes, "; "))
}

// whichKeys says how many keys are something, and which.
func whichKeys(infos []keys.Info, what string) string {
	names := make([]string, len(infos))
	for i, k := range infos {
		names[i] = printable(k.String())
	}
	return fmt.Sprintf("%s %s (%s)", count(len(infos), "key"), what, few(names))
}
