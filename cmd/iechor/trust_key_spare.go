package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/tuf"
)

// newKeySpareCmd is the family of commands about second root keys.
func newKeySpareCmd(a *app) *cobra.Command {
	return group(a, "spare", "Give repositories a second root key, so that one may be lost",
		`  iechor trust key spare add --all
  iechor trust key spare add --key 57954f0 registry.example.com/app
  iechor trust key spare remove --key 57954f0 --all`,
		newKeySpareAddCmd(a), newKeySpareRemoveCmd(a),
	)
}

type spareOptions struct {
	ref       registry.Ref
	all       bool
	key, of   string
	algorithm keys.Algorithm
	yes, dry  bool
}

// parse reads the repository, or that all are meant.
func (o *spareOptions) parse(cmd *cobra.Command, args []string) (err error) {
	if o.all == (len(args) == 1) || len(args) > 1 {
		return usage(cmd, cmd.CommandPath()+" takes one repository, or --all")
	}
	if !o.all {
		o.ref, err = parseRepository(cmd, args[0])
	}
	return err
}

func (o *spareOptions) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.all, "all", false, "in all repositories of the root key that this machine knows")
	addDryFlag(cmd, &o.dry)
}

func (o *spareOptions) where() string {
	if o.all {
		return "--all"
	}
	return o.ref.Repository
}

func newKeySpareAddCmd(a *app) *cobra.Command {
	var o spareOptions
	var algorithm string
	cmd := &cobra.Command{
		Use:   "add [flags] [REPOSITORY]",
		Short: "Add a second root key to repositories",
		Example: `  iechor trust key spare add --all
  iechor trust key spare add --key 57954f0 registry.example.com/app`,
		Long: `Add puts a second key into the root of a repository, or of all repositories of
a root key that this machine knows: a new one, or one that is here already. Each
repository gets a certificate of its own for it. One of the two is enough to
sign, so that either may be lost: with the other one, "iechor trust recover"
makes a new pair. Keep the spare in another place than the first: export it,
then remove it here.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := o.parse(cmd, args); err != nil {
				return err
			}
			if o.algorithm, err = parseAlgorithm(cmd, algorithm); err != nil {
				return err
			}
			return a.spareAdd(cmd.Context(), o)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.key, "key", "", "`ID` of a root key that is here, in place of a new one")
	cmd.Flags().StringVar(&o.of, "of", "", "`ID` of the root key that gets a spare, if several are here")
	cmd.Flags().StringVar(&algorithm, "algorithm", string(keys.P256), "`kind` of the new key: "+algorithmNames())
	return cmd
}

func newKeySpareRemoveCmd(a *app) *cobra.Command {
	var o spareOptions
	cmd := &cobra.Command{
		Use:   "remove [flags] [REPOSITORY]",
		Short: "Take a root key out of repositories that have another one",
		Example: `  iechor trust key spare remove --key 57954f0 --all
  iechor trust key spare remove --key 57954f0 registry.example.com/app`,
		Long: `Remove takes the key that --key names out of the root of a repository, or of all
that have it. Another root key that is here signs that; a root is never left with
fewer keys than must sign it. The private key stays where it is.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(cmd, args); err != nil {
				return err
			}
			if o.key == "" {
				return usage(cmd, "say which key is to be removed", "give its ID with --key; \"iechor trust status REPOSITORY\" shows them")
			}
			return a.spareRemove(cmd.Context(), o)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.key, "key", "", "`ID` of the root key that is removed; it need not be here")
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (a *app) spareAdd(ctx context.Context, o spareOptions) (err error) {
	if o.dry {
		a = looking(a)
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r := &rootRun{desk: d, what: "spare", adds: true, algorithm: o.algorithm, dry: o.dry}
	if o.key != "" {
		k, err := d.findKey(ctx, o.key)
		if err != nil {
			return err
		}
		if r.given = k.ID; k.Role != string(tuf.RoleRoot) {
			return cannot(fmt.Sprintf("%s is no root key", described(k.Info)), "see which keys are here: iechor trust key list")
		}
	}
	if o.all || o.of != "" {
		r.of, err = d.theRoot(ctx, o.of, "--of")
	} else {
		r.of, err = d.rootOf(ctx, o.ref)
	}
	if err != nil {
		return err
	}
	if !o.all {
		r.refs = []registry.Ref{o.ref}
	}
	r.again = fmt.Sprintf("iechor trust key spare add --of %s %s", r.of.Short(), o.where())
	if err := r.run(ctx); err != nil || o.dry || r.intent.New == "" {
		return err
	}
	fmt.Fprintf(d.out, "Successfully added the root key %s beside %s\n", r.intent.New.Short(), r.of.Short())
	fmt.Fprintf(d.err, "iechor: notice: a spare that lies beside the first is lost with it: iechor trust key export --key %s -o FILE, and then iechor trust key remove %[1]s\n", r.intent.New.Short())
	return nil
}

// rootOf returns a root key of a repository, one that is here if there is any.
func (d *desk) rootOf(ctx context.Context, ref registry.Ref) (tuf.CanonicalID, error) {
	repo, err := d.repository(ref)
	if err != nil {
		return "", err
	}
	set, err := d.current(ctx, repo)
	if err != nil {
		return "", repo.about(err)
	}
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	here, err := d.held(ctx, role)
	if err != nil {
		return "", err
	}
	if len(here) > 0 {
		return here[0].ID, nil
	}
	return role.Keys[0].CanonicalID(), nil
}

func (a *app) spareRemove(ctx context.Context, o spareOptions) (err error) {
	if o.dry {
		a = looking(a)
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r := &rootRun{desk: d, what: "spare", removes: true, yes: o.yes, dry: o.dry}
	if r.of, err = d.rootNamed(ctx, o.key); err != nil {
		return err
	}
	if !o.all {
		r.refs = []registry.Ref{o.ref}
	}
	r.again = fmt.Sprintf("iechor trust key spare remove --key %s %s", o.key, o.where())
	r.ask = func(n int) string {
		return fmt.Sprintf("Take the root key %s out of %s?", r.of.Short(), count(n, "repository"))
	}
	return r.run(ctx)
}

// rootNamed finds a root key by how its id begins: of those here, and of those
// that the repositories have which this machine knows.
func (d *desk) rootNamed(ctx context.Context, id string) (tuf.CanonicalID, error) {
	k, err := d.findKey(ctx, id)
	if err == nil {
		return k.ID, nil
	}
	refs, e := d.known()
	if e != nil {
		return "", e
	}
	for _, ref := range refs {
		repo, e := d.repository(ref)
		if e != nil {
			return "", e
		}
		past, e := repo.Local()
		if e != nil || past == nil {
			continue
		}
		role, _ := past.Role(tuf.RoleRoot) // every Past has one
		for _, k := range role.Keys {
			if len(id) >= shortestID && strings.HasPrefix(string(k.CanonicalID()), strings.ToLower(id)) {
				return k.CanonicalID(), nil
			}
		}
	}
	return "", err
}
