package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// algorithms are what keys can be made for.
var algorithms = []keys.Algorithm{keys.P256, keys.P384, keys.Ed25519, keys.RSA3072}

func algorithmNames() string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a)
	}
	return strings.Join(names, ", ")
}

// parseAlgorithm reads the flag --algorithm.
func parseAlgorithm(cmd *cobra.Command, name string) (keys.Algorithm, error) {
	for _, a := range algorithms {
		if string(a) == name {
			return a, nil
		}
	}
	return "", usage(cmd, fmt.Sprintf("there are no keys of kind %q", printable(name)), "--algorithm takes one of: "+algorithmNames())
}

type generateOptions struct {
	name      string
	dir       string // empty: the current one
	algorithm keys.Algorithm
}

func newKeyGenerateCmd(a *app) *cobra.Command {
	var o generateOptions
	var algorithm string
	cmd := &cobra.Command{
		Use:   "generate NAME",
		Short: "Make a signer's key",
		Example: `  iechor trust key generate alice
  iechor trust key generate alice --dir keys --algorithm ed25519`,
		Long: `Generate makes a key for the signer NAME. The private half goes into the trust
directory, encrypted with a passphrase that you choose. The public half goes
into NAME.pub: give that to the owner of a repository, who makes you a signer
with "iechor trust signer add".

--algorithm says what kind of key:
  ecdsa-p256   what all clients make and use (default)
  ecdsa-p384   all clients can use it; docker and notary do not make it
  rsa-3072     all clients can use it; docker and notary do not make it
  ed25519      docker and notary verify what it signs, but do not load it, nor
               take its public half for a signer: only iechor does`,
		Args: exactArgs(1, "one name"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.name = args[0]
			if o.algorithm, err = parseAlgorithm(cmd, algorithm); err != nil {
				return err
			}
			return a.generateKey(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.dir, "dir", "", "`directory` for the public half (default: the current one)")
	cmd.Flags().StringVar(&algorithm, "algorithm", string(keys.P256), "`kind` of key: "+algorithmNames())
	return cmd
}

// generateKey checks everything before there is a key. The private half is
// safe before the public half, without which nobody can use it, is written.
func (a *app) generateKey(ctx context.Context, o generateOptions) (err error) {
	if err := checkKeyName(o.name); err != nil {
		return err
	}
	path, err := o.publicFile()
	if err != nil {
		return err
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	failed := "failed to generate key for " + o.name
	fmt.Fprintf(d.out, "Generating key for %s...\n", o.name)
	pending, err := d.keys.New(ctx, o.algorithm, keys.Info{Role: o.name})
	if err != nil {
		return doing(failed, err)
	}
	public, err := publicPEM(pending.Signer().PublicKey(), o.name)
	if err != nil {
		return doing(failed, err)
	}
	if err := pending.Save(ctx); err != nil {
		return doing(failed, err)
	}
	if err := writeNew(path, public); err != nil {
		return cannot(fmt.Sprintf("the private key %s was stored, but its public half could not be written: %v", pending.Info().ID, err),
			fmt.Sprintf("write it with: iechor trust key export --public --key %s -o FILE", pending.Info().ID.Short()))
	}
	if note := legible(pending.Info().Type); note != "" {
		fmt.Fprintf(d.err, "iechor: notice: %s\n", note)
	}
	fmt.Fprintf(d.out, "Successfully generated and loaded private key. Corresponding public key available: %s\n", path)
	return nil
}

// publicFile returns the path for the public half, which can be written as far
// as one can tell.
func (o generateOptions) publicFile() (string, error) {
	dir := o.dir
	if dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		dir = wd
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return "", stated(fmt.Sprintf("public key path does not exist: %q", printable(dir)), "make that directory, or name another one with --dir")
	}
	path := filepath.Join(dir, o.name+".pub")
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return "", stated(fmt.Sprintf("public key file already exists: %q", printable(path)), "choose another name, or another directory with --dir")
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	// The rest is found out by writing: the directory may be read-only.
	probe, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	return path, errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// publicPEM writes a public key as docker does, with the name of the signer.
func publicPEM(key tuf.PublicKey, role string) ([]byte, error) {
	pub, err := key.Public()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	b := &pem.Block{Type: "PUBLIC KEY", Bytes: der}
	if role != "" {
		b.Headers = map[string]string{"role": role}
	}
	return pem.EncodeToMemory(b), nil
}

// writeNew writes a file for its owner only, whole or not at all, and never
// over another one.
func writeNew(path string, raw []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // for its owner only
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // a second name by then, or nothing's
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link does not replace. File systems without links
	// have no such step; there the name is taken first.
	if err = os.Link(f.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	taken, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(taken.Close(), os.Rename(f.Name(), path))
}
