package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

func newTrustSignerCmd(a *app) *cobra.Command {
	return group(a, "signer", "Manage who may sign the tags of a repository",
		`  iechor trust signer add --key alice.pub alice registry.example.com/app
  iechor trust signer list registry.example.com/app
  iechor trust signer remove alice registry.example.com/app`,
		newTrustSignerAddCmd(a), newTrustSignerRemoveCmd(a), newTrustSignerListCmd(a),
	)
}

type signerListOptions struct {
	image image
	json  bool
}

func newTrustSignerListCmd(a *app) *cobra.Command {
	var o signerListOptions
	cmd := &cobra.Command{
		Use:     "list [flags] REPOSITORY",
		Aliases: []string{"ls"},
		Short:   "Show who may sign the tags of a repository",
		Example: `  iechor trust signer list registry.example.com/app
  iechor trust signer list --json registry.example.com/app`,
		Long: `List shows the signers of a repository with the IDs of their keys, those whose
private half is on this machine marked with a star. --json prints an array of
objects with Name and Keys, each with its whole ID and whether it is Here.`,
		Args: exactArgs(1, "one repository"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := registry.ParseRef(args[0])
			if err != nil {
				return err
			}
			o.image = image{printable(args[0]), ref}
			return a.signerList(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// A listedSigner is a signer as --json shows it.
type listedSigner struct {
	Name string
	Keys []ownedKey
}

type ownedKey struct {
	ID   tuf.CanonicalID
	Here bool // the private half is on this machine
}

// signerList shows the direct signers of one repository, by name.
func (a *app) signerList(ctx context.Context, o signerListOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	v := d.view(ctx, o.image.ref)
	if v.set == nil {
		return &taskError{"error retrieving signers for " + o.image.typed + ": ", v.err}
	}
	signers := []listedSigner{}
	for _, g := range signersOf(v.set) {
		l := listedSigner{signerName(g.Name), []ownedKey{}}
		for _, k := range g.Keys {
			here, err := d.keys.Has(ctx, k.CanonicalID())
			if err != nil {
				return err
			}
			l.Keys = append(l.Keys, ownedKey{k.CanonicalID(), here})
		}
		slices.SortFunc(l.Keys, func(a, b ownedKey) int { return strings.Compare(string(a.ID), string(b.ID)) })
		signers = append(signers, l)
	}
	if o.json {
		return printJSON(d.out, signers)
	}
	if len(signers) == 0 {
		_, err = fmt.Fprintf(d.out, "No signers for %s\n", o.image.typed)
		return err
	}
	t := newTable(d.out, "SIGNER", "KEYS")
	for _, l := range signers {
		var ids []string
		for _, k := range l.Keys {
			id := string(k.ID)[:12]
			if k.Here {
				id += "*"
			}
			ids = append(ids, id)
		}
		t.line(printable(l.Name), strings.Join(ids, ", "))
	}
	t.end()
	return nil
}

// signersOf returns the delegations that are signers, by name: direct children
// of targets, but for the one that consumers read.
func signersOf(set *tuf.Set) []tuf.Delegation {
	if set == nil {
		return nil
	}
	signers := slices.DeleteFunc(set.Delegations(tuf.RoleTargets), func(g tuf.Delegation) bool { return g.Name == tuf.RoleReleases })
	slices.SortFunc(signers, func(a, b tuf.Delegation) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return signers
}

// signerRole returns the role of the signer with that name.
func signerRole(name string) (tuf.RoleName, error) {
	role := tuf.RoleTargets + "/" + tuf.RoleName(name)
	if !keyName.MatchString(name) || !role.Delegation() {
		return "", &statedError{sentence: fmt.Sprintf(`signer name %q must start with lowercase alphanumeric characters and can include "-" or "_" after the first character`, printable(name)),
			hints: []string{"choose a name such as alice or build-2"}}
	}
	if role == tuf.RoleReleases {
		return "", &statedError{sentence: "releases is a reserved keyword, use a different signer name",
			hints: []string{"the role targets/releases holds what consumers see; every signer signs it"}}
	}
	return role, nil
}

// maxPublicKey bounds a file with a public key, in bytes.
const maxPublicKey = 1 << 20

// readPublicKey reads the key in a PEM file: PUBLIC KEY, or a CERTIFICATE,
// which stands for the key in it (spec/cli.md 7.3).
func readPublicKey(path string, now time.Time) (tuf.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return tuf.PublicKey{}, &publicKeyError{path: path, unread: true, err: err}
	}
	defer f.Close()
	raw, err := readLimited(f, maxPublicKey)
	if err != nil {
		return tuf.PublicKey{}, &publicKeyError{path: path, unread: true, err: err}
	}
	k, err := parsePublicKey(raw, now)
	if err != nil {
		return tuf.PublicKey{}, &publicKeyError{path: path, err: err}
	}
	return k, nil
}

func parsePublicKey(raw []byte, now time.Time) (tuf.PublicKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return tuf.PublicKey{}, errors.New("no valid public key found")
	}
	switch block.Type {
	case "PUBLIC KEY":
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return tuf.PublicKey{}, errors.New("no valid public key found")
		}
		return tuf.NewPublicKey(pub)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return tuf.PublicKey{}, errors.New("no valid certificate found")
		case now.After(cert.NotAfter):
			return tuf.PublicKey{}, fmt.Errorf("the certificate expired on %s", day(cert.NotAfter))
		}
		return tuf.NewPublicKey(cert.PublicKey)
	}
	return tuf.PublicKey{}, fmt.Errorf("unsupported PEM block type %q, expected CERTIFICATE or PUBLIC KEY", printable(block.Type))
}

// A publicKeyError says which file is not a signer's public key.
type publicKeyError struct {
	path   string
	unread bool // there is no reading it
	err    error
}

func (e *publicKeyError) Error() string {
	if e.unread {
		if p := (*fs.PathError)(nil); errors.As(e.err, &p) {
			return "unable to read public key from file: " + p.Error()
		}
		return fmt.Sprintf("unable to read public key from file: %s: %v", e.path, e.err)
	}
	return fmt.Sprintf("could not parse public key from file: %s: %v", e.path, e.err)
}

func (e *publicKeyError) Unwrap() error { return e.err }

// eachRepository does the same with several repositories. What goes wrong with
// one is said at once and does not stop the others; the user does. The error
// names those that failed, after the words of failure (spec/cli.md 7.3).
func (a *app) eachRepository(ctx context.Context, names []string, failure string, do func(name string) error) error {
	var failed []string
	exit := exitCannot
	for _, name := range names {
		name = printable(name)
		err := do(name)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil, errors.Is(err, context.Canceled), errors.Is(err, terminal.ErrInterrupted):
			return err
		}
		if a.complain(err) == exitUntrusted {
			exit = exitUntrusted
		}
		fmt.Fprintln(a.err)
		failed = append(failed, name)
	}
	if len(failed) == 0 {
		return nil
	}
	return &statedError{sentence: failure + ": " + strings.Join(failed, ", "), exit: exit}
}

// see updates after a publication, as a consumer would: nothing is told as
// done that the trust server does not show.
func (r *repository) see(ctx context.Context) (*tuf.Set, error) {
	set, err := r.Fresh().Update(ctx)
	if err != nil {
		return nil, &taskError{"it was published, and cannot be verified: ", r.about(err)}
	}
	return set, nil
}

// errUnseen says that a publication succeeded and does not show.
var errUnseen = errors.New("it was published, and the trust server does not show it")

// holdsAll reports whether a role of set has all of keys.
func holdsAll(set *tuf.Set, role tuf.RoleName, keys []tuf.PublicKey) bool {
	return len(missingIn(set, role, keys)) == 0
}

// missingIn returns those of keys that a role of set does not have.
func missingIn(set *tuf.Set, role tuf.RoleName, keys []tuf.PublicKey) []tuf.PublicKey {
	var have []tuf.Key
	if set != nil {
		r, _ := set.Role(role) // none: no keys
		have = r.Keys
	}
	return slices.DeleteFunc(slices.Clone(keys), func(k tuf.PublicKey) bool { return holdsKey(have, k.CanonicalID()) })
}

func holdsKey(keys []tuf.Key, id tuf.CanonicalID) bool {
	return slices.ContainsFunc(keys, func(k tuf.Key) bool { return k.CanonicalID() == id })
}

// trimmedPath is how a restriction of a role is shown.
func trimmedPath(paths []string) string {
	var b bytes.Buffer
	for i, p := range paths {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", printable(p))
	}
	return b.String()
}
