package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/tuf"
)

type attestOptions struct {
	id     string // of a key here; empty: file has the attestation
	file   string
	output string
	roots  string
	json   bool
}

func newTokenAttestCmd(a *app) *cobra.Command {
	var o attestOptions
	cmd := &cobra.Command{
		Use:   "attest [flags] [ID]",
		Short: "Show, save and verify a token's word that it made a key itself",
		Example: `  iechor trust token attest 543bb8f --root yubico-piv-ca.pem -o alice.attestation.pem
  iechor trust token attest --file alice.attestation.pem --root yubico-piv-ca.pem`,
		Long: `Attest asks the YubiKey that holds a key whether it made the key itself: such a
key cannot be copied. A key that was imported, such as a root key with a backup,
has no attestation. The token's word is a certificate for the key, signed by the
token's own, which its maker has signed.

-o saves it, to be given away beside the public key. Whoever gets it verifies it
with --file, and compares the ID of the key.

--root names a file with the certificates of makers that you believe, such as
Yubico's "PIV Root CA". Without it, the token's own signature is checked alone,
and anybody could have made that. "attestation-roots" in content-trust in
config.json names the file for good.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.id = args[0]
			}
			if (o.id == "") == (o.file == "") {
				return usage(cmd, "either the ID of a key is given, or a --file", "see which keys are here: iechor trust token list")
			}
			return a.attest(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.file, "file", "", "`file` with an attestation that somebody has saved")
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "`file` to save the attestation in")
	cmd.Flags().StringVar(&o.roots, "root", "", "`file` with certificates of makers of tokens")
	cmd.Flags().BoolVar(&o.json, "json", false, "print a JSON object")
	return cmd
}

// attest verifies before it saves: what proves nothing is not kept.
func (a *app) attest(ctx context.Context, o attestOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	roots, err := d.attestationRoots(o.roots)
	if err != nil {
		return err
	}
	var chain []byte
	var id tuf.CanonicalID
	if o.file != "" {
		chain, err = readFileLimited(o.file)
	} else {
		id, chain, err = d.attestation(ctx, o.id)
	}
	if err != nil {
		return err
	}
	word, err := piv.Verify(chain, roots)
	if err != nil {
		return err
	}
	if id != "" && word.Key != id {
		return fmt.Errorf("%w: it is about another key, %s", piv.ErrAttestation, word.Key)
	}
	if o.output != "" {
		if err := writeNew(o.output, chain); err != nil {
			return doing("could not write "+o.output, err)
		}
	}
	if err := a.printAttestation(word, o.json); err != nil {
		return err
	}
	if roots == nil {
		a.warn("nobody has vouched for the token: name the certificates of its maker with --root")
	}
	return nil
}

// attestation has the token of a key here speak.
func (d *desk) attestation(ctx context.Context, text string) (tuf.CanonicalID, []byte, error) {
	k, err := d.findKey(ctx, text)
	if err != nil {
		return "", nil, err
	}
	s, ok := k.Store.(interface {
		Attest(context.Context, tuf.CanonicalID) ([]byte, error)
	})
	if !ok {
		return "", nil, cannot(fmt.Sprintf("%s makes no attestations", k.Store.Name()), "only keys on YubiKeys have one; see where keys are: iechor trust key list")
	}
	chain, err := s.Attest(ctx, k.ID)
	return k.ID, chain, err
}

// attestationRoots reads the certificates of makers; nil if none are named.
func (d *desk) attestationRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		path = d.config.relative(d.config.attestationRoots)
	}
	if path == "" {
		return nil, nil
	}
	raw, err := readFileLimited(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, cannot("there is no certificate in "+printable(path), "name a file with the maker's root certificates in PEM form")
	}
	return pool, nil
}

// readFileLimited reads a file that the user names.
func readFileLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, doing("could not read "+printable(path), err)
	}
	defer f.Close()
	raw, err := readLimited(f, maxConfig)
	if errors.Is(err, errTooLong) {
		return nil, cannot(fmt.Sprintf("%s is larger than %d bytes", printable(path), maxConfig), "see that it is the right file")
	}
	return raw, err
}

func (a *app) printAttestation(w piv.Attestation, asJSON bool) error {
	if asJSON {
		raw, err := json.MarshalIndent(map[string]any{
			"Key": w.Key, "Serial": w.Serial, "Firmware": w.Firmware.String(), "Slot": w.Slot.String(),
			"PIN": w.Policy.PIN, "Touch": w.Policy.Touch, "Authority": w.Authority,
		}, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s\n", raw)
		return err
	}
	authority := "nobody"
	if w.Authority != "" {
		authority = printable(w.Authority)
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{"Key", string(w.Key)}, {"Made by", fmt.Sprintf("token %d, firmware %s, in slot %s", w.Serial, w.Firmware, w.Slot)},
		{"PIN", orUnknown(string(w.Policy.PIN))}, {"Touch", orUnknown(string(w.Policy.Touch))}, {"Vouched for by", authority},
	} {
		fmt.Fprintln(t, strings.Join(line[:], "\t"))
	}
	return t.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
