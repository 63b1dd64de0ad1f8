package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

type exportOptions struct {
	keys       []string
	repository string
	file       string // empty: standard output
	public     bool
	yes        bool
}

func newKeyExportCmd(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Copy private keys into a file, for safekeeping",
		Example: `  iechor trust key export -o backup.pem
  iechor trust key export --key 543bb8f -o alice.pem
  iechor trust key export --repository registry.example.com/app -o app.pem
  iechor trust key export --public --key 543bb8f -o alice.pub`,
		Long: `Export copies keys as they are: encrypted, under the passphrases that they have.
Without --key and --repository it copies all. "iechor trust key import" and
"notary key import" read the file. It is readable by you alone; keep it where
no fire, thief or lost laptop takes it together with this machine.

--public writes the public half instead, which is no secret: it is what an owner
needs to make the holder of the key a signer.`,
		Args: exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case len(o.keys) > 0 && o.repository != "":
				return usage(cmd, "Only the --gun or --key flag may be provided, not a mix of the two flags", "leave out one of them")
			case o.public && len(o.keys) != 1:
				return usage(cmd, "--public is about one key", "name it with --key")
			}
			return a.exportKeys(cmd.Context(), o)
		},
	}
	cmd.Flags().StringArrayVar(&o.keys, "key", nil, "`ID` of a key, or how it begins; may be given several times")
	addRepositoryFlag(cmd, &o.repository, "the keys of one `repository`")
	cmd.Flags().StringVarP(&o.file, "output", "o", "", "`file` to write (default: standard output)")
	cmd.Flags().BoolVar(&o.public, "public", false, "write the public half of a key")
	addYesFlag(cmd, &o.yes)
	return cmd
}

// addRepositoryFlag adds --repository, and --gun as notary calls it.
func addRepositoryFlag(cmd *cobra.Command, value *string, help string) {
	cmd.Flags().StringVar(value, "repository", "", help)
	cmd.Flags().StringVar(value, "gun", "", "the same as --repository")
}

func (a *app) exportKeys(ctx context.Context, o exportOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	chosen, err := d.chooseKeys(ctx, o)
	if err != nil {
		return err
	}
	if o.file != "" {
		if ok, err := d.overwrites(ctx, o.file, o.yes); err != nil || !ok {
			return err
		}
	}
	var out bytes.Buffer
	for _, k := range chosen {
		raw, err := d.exportKey(ctx, k, o.public)
		if err != nil {
			return err
		}
		out.Write(raw)
	}
	if o.file == "" {
		_, err := a.out.Write(out.Bytes())
		return err
	}
	if err := writePrivately(o.file, out.Bytes()); err != nil {
		return doing("could not write "+o.file, err)
	}
	for _, k := range chosen {
		fmt.Fprintf(d.out, "Exported %s to %s\n", described(k.Info), printable(o.file))
	}
	return nil
}

// chooseKeys finds the keys that are to be exported, each once.
func (d *desk) chooseKeys(ctx context.Context, o exportOptions) ([]keys.Located, error) {
	var chosen []keys.Located
	for _, id := range o.keys {
		k, err := d.findKey(ctx, id)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, k)
	}
	if len(o.keys) == 0 {
		all, err := d.keys.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			if o.repository != "" && k.GUN != tuf.GUN(o.repository) {
				continue
			}
			if isToken(k.Store) {
				d.warn("%s is on %s and cannot leave it: it is left out", described(k.Info), printable(k.Store.Name()))
				continue
			}
			chosen = append(chosen, k)
		}
	}
	seen := map[tuf.CanonicalID]bool{}
	chosen = slices.DeleteFunc(chosen, func(k keys.Located) bool {
		again := seen[k.ID]
		seen[k.ID] = true
		return again
	})
	if len(chosen) == 0 {
		return nil, cannot("there is no such key to export", "see which keys are here: iechor trust key list")
	}
	return chosen, nil
}

func (d *desk) exportKey(ctx context.Context, k keys.Located, public bool) ([]byte, error) {
	if public {
		s, err := k.Store.Open(ctx, k.ID)
		if err != nil {
			return nil, err
		}
		return publicPEM(s.PublicKey(), k.Role)
	}
	exporter, ok := k.Store.(keys.Exporter)
	if !ok {
		return nil, cannot(fmt.Sprintf("key %s cannot leave %s", k.ID.Short(), k.Store.Name()), "leave it out, with --key for the others")
	}
	raw, err := exporter.Export(ctx, k.ID)
	if err != nil {
		return nil, err
	}
	if blocks, err := keys.Parse(raw); err == nil && !blocks[0].Encrypted() {
		d.warn("key %s is not encrypted: whoever gets the file can sign; to encrypt it: iechor trust key passwd %s", k.ID.Short(), k.ID.Short())
	}
	return raw, nil
}

// overwrites asks before a file is replaced.
func (d *desk) overwrites(ctx context.Context, file string, yes bool) (bool, error) {
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	case !st.Mode().IsRegular():
		return false, cannot(printable(file)+" is there, and is not a file", "name another file")
	}
	return d.sure(ctx, printable(file)+" is there already. Do you want to replace it?", yes)
}

// writePrivately puts raw at path, whole or not at all, for the owner only.
func writePrivately(path string, raw []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()           // closed already, or about to be removed
			_ = os.Remove(tmp.Name()) // the first error is the one that counts
		}
	}()
	if _, err := tmp.Write(raw); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
