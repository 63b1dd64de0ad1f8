package main

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

const defaultLoadName = "signer"

// openAttempts is how often the passphrase of a key file may be wrong.
const openAttempts = 4

type loadOptions struct {
	file string
	name string // empty: that in the file, else defaultLoadName
	yes  bool
}

func newKeyLoadCmd(a *app) *cobra.Command {
	var o loadOptions
	cmd := &cobra.Command{
		Use:   "load KEYFILE",
		Short: "Take over a private key that was made elsewhere",
		Example: `  iechor trust key load --name alice key.pem
  iechor trust key load 543bb8f720a539a5894c6d6f3cf80a9bc20dd2dba61bd7d0cf3baa3f9bff1a1a.key`,
		Long: `Load puts a signer's private key into the trust directory. KEYFILE may be
PKCS#8, PKCS#1 or SEC 1 in PEM, plain or encrypted, also what openssl, docker
and notary write, and a file out of another trust directory. ECDSA, RSA with at
least 2048 bits and Ed25519 keys can sign.

A plain key gets a passphrase that you choose; an encrypted one keeps its own,
and the encryption of today. What was stored is opened again before this
command says that it is there. KEYFILE stays as it is: remove it when you no
longer need it.`,
		Args: exactArgs(1, "one key file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			if cmd.Flags().Changed("name") {
				if err := checkKeyName(o.name); err != nil {
					return err
				}
			} else {
				o.name = ""
			}
			return a.loadKey(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.name, "name", defaultLoadName, "`name` of the signer; without it, that in the file counts if there is one")
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) loadKey(ctx context.Context, o loadOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	fmt.Fprintf(d.out, "Loading key from %q...\n", printable(o.file))
	blocks, err := readKeyFile(o.file)
	if err != nil {
		return err
	}
	for _, b := range blocks {
		loaded, err := d.loadBlock(ctx, o, b)
		if err != nil {
			return doing("error importing key from "+o.file, err)
		}
		if !loaded {
			return nil // it was the user's wish, and has been said
		}
	}
	fmt.Fprintf(d.out, "Successfully imported key from %s\n", printable(o.file))
	return nil
}

// readKeyFile reads all private keys in a file, and says in the words of
// spec/cli.md 7.2 why that cannot be.
func readKeyFile(path string) ([]*keys.Block, error) {
	refusing := "refusing to load key from " + path
	if _, err := os.Stat(path); err != nil {
		return nil, doing(refusing, err)
	}
	blocks, err := keys.ReadFile(path)
	switch {
	case errors.Is(err, keys.ErrBroken):
		return nil, doing("error importing key from "+path, stated(
			"provided file "+path+" is not a supported private key - to add a signer's public key use iechor trust signer add", notAKey(path, err)))
	case errors.Is(err, tuf.ErrKey):
		return nil, doing("error importing key from "+path, err)
	case err != nil:
		return nil, doing(refusing, err)
	}
	return blocks, nil
}

// notAKey says what is wrong with a file that holds no private key.
func notAKey(path string, err error) string {
	const most = 64 << 10
	if f, openErr := os.Open(path); openErr == nil {
		defer f.Close()
		head := make([]byte, most)
		n, _ := f.Read(head) // what cannot be read says nothing
		switch text := string(head[:n]); {
		case strings.Contains(text, "-----BEGIN OPENSSH PRIVATE KEY-----"):
			return "it is a key of OpenSSH; make a copy of it and convert that: ssh-keygen -p -m PKCS8 -f COPY"
		case strings.Contains(text, "-----BEGIN CERTIFICATE-----"):
			return "it holds a certificate, which is public; the private key that belongs to it is in another file"
		case strings.Contains(text, "-----BEGIN PUBLIC KEY-----"):
			return "it holds a public key; the private key that belongs to it is in another file"
		}
	}
	return err.Error()
}

// loadBlock stores one key, and opens what it has stored. It reports false if
// the user did not want to replace the key that is there.
func (d *desk) loadBlock(ctx context.Context, o loadOptions, b *keys.Block) (bool, error) {
	claimed := b.Info
	if id := tuf.CanonicalID(strings.TrimSuffix(filepath.Base(o.file), ".key")); claimed.ID == "" && id.Valid() {
		claimed.ID = id // out of a trust directory
	}
	key, passphrase, err := d.unlock(ctx, b, claimed)
	if err != nil {
		return false, err
	}
	defer func() { clear(passphrase) }()
	info, err := infoOf(key, keys.Info{Role: cmp.Or(o.name, b.Info.Role, defaultLoadName), GUN: b.Info.GUN})
	if err != nil {
		return false, err
	}
	if o.name != "" && b.Info.Role != "" && b.Info.Role != o.name {
		fmt.Fprintf(d.err, "iechor: notice: the file calls this key %q; it is loaded as %q\n", printable(b.Info.Role), o.name)
	}
	ok, err := d.replacing(ctx, info, o.yes)
	if err != nil || !ok {
		return false, err
	}
	if len(passphrase) == 0 {
		if passphrase, err = d.passphrases.NewPassphrase(ctx, info); err != nil {
			return false, err
		}
	}
	if err := d.store(ctx, key, info, passphrase); err != nil {
		return false, err
	}
	if note := legible(info.Type); note != "" {
		fmt.Fprintf(d.err, "iechor: notice: %s\n", note)
	}
	return true, nil
}

// unlock opens a key from a file. passphrase is what opened it, nil if it is
// not encrypted; the caller wipes it.
func (d *desk) unlock(ctx context.Context, b *keys.Block, claimed keys.Info) (key crypto.Signer, passphrase []byte, err error) {
	if !b.Encrypted() {
		key, err = b.Key(nil)
		return key, nil, err
	}
	for attempt := 1; ; attempt++ {
		passphrase, err = d.passphrases.Passphrase(ctx, claimed, attempt)
		if err != nil {
			return nil, nil, err
		}
		key, err = b.Key(passphrase)
		if err == nil {
			return key, passphrase, nil
		}
		clear(passphrase)
		if !errors.Is(err, keys.ErrPassphrase) {
			return nil, nil, err
		}
		if attempt == openAttempts {
			return nil, nil, &passphraseError{keyWords(claimed), "", err}
		}
	}
}

// infoOf completes what is known of a key.
func infoOf(key crypto.Signer, info keys.Info) (keys.Info, error) {
	pub, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		return info, err
	}
	info.ID, info.Type = pub.CanonicalID(), pub.Type
	switch tuf.RoleName(info.Role) {
	case tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp:
	default:
		info.GUN = "" // keys of other roles are not of one repository
	}
	return info, nil
}

// replacing says that a key is here already, and asks whether it should get
// another name and passphrase. It reports whether to go on.
func (d *desk) replacing(ctx context.Context, info keys.Info, yes bool) (bool, error) {
	old, _, err := d.keys.Find(ctx, info.ID)
	switch {
	case errors.Is(err, tuf.ErrNoKey):
		return true, nil
	case errors.Is(err, keys.ErrBroken):
		fmt.Fprintf(d.err, "iechor: notice: the file of this key is here already, and is damaged: %s\n", printable(withoutStore(err).Error()))
		return d.sure(ctx, "Do you want to replace it?", yes)
	case err != nil:
		return false, err
	}
	change := "it keeps its name and gets the passphrase that is given now"
	if old.Role != info.Role || old.GUN != info.GUN {
		change = fmt.Sprintf("it becomes the %s, with the passphrase that is given now", info)
	}
	fmt.Fprintf(d.err, "iechor: notice: this key is here already, as %s; if it is loaded again, %s\n", described(old), printable(change))
	return d.sure(ctx, "Do you want to replace it?", yes)
}

// store encrypts a key, puts it into the trust directory, and sees that it can
// be opened there.
func (d *desk) store(ctx context.Context, key crypto.Signer, info keys.Info, passphrase []byte) error {
	raw, err := keys.Seal(key, info, passphrase, d.testOnlyIterations)
	if err != nil {
		return err
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return err
	}
	if err := d.dirKeys.Replace(ctx, info, blocks[0]); err != nil {
		return err
	}
	if err := d.passphrases.memory.forget(ctx, info.ID); err != nil {
		d.warn("%s", printable(err.Error()))
	}
	return d.opens(ctx, info, passphrase)
}

// opens sees that the file of a key has that key under that passphrase.
func (d *desk) opens(ctx context.Context, info keys.Info, passphrase []byte) error {
	raw, err := d.dirKeys.Export(ctx, info.ID)
	if err != nil {
		return err
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return err
	}
	key, err := blocks[0].Key(passphrase)
	if err != nil {
		return fmt.Errorf("the key was written and cannot be opened again: %w", err)
	}
	got, err := infoOf(key, info)
	if err == nil && (got.ID != info.ID || blocks[0].Info.Role != info.Role) {
		err = fmt.Errorf("%w: %s holds another key", keys.ErrBroken, d.dirKeys.Name())
	}
	return err
}
