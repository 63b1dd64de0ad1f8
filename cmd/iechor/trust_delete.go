package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type deleteOptions struct {
	image  image
	remote bool
	yes    bool
}

func newTrustDeleteCmd(a *app) *cobra.Command {
	var o deleteOptions
	cmd := &cobra.Command{
		Use:   "delete [flags] REPOSITORY",
		Short: "Delete the trust data of a repository, here or on the server too",
		Example: `  iechor trust delete registry.example.com/app
  iechor trust delete --remote registry.example.com/app`,
		Long: `Delete removes what this machine remembers of the repository, and the changes
that are staged for it. Afterwards this machine trusts the first root that the
server shows, unless one is pinned: that is how a root that was made anew is
accepted.

With --remote it first deletes everything that the trust server has: no tag of
the repository is signed any more, for anybody, and machines that have seen the
signatures refuse to go on. Only those with all rights on the server may do so.
It asks before. Key files and images stay.`,
		Args: exactArgs(1, "one repository"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.image.typed = printable(args[0])
			if o.image.ref, err = parseRepository(cmd, args[0]); err != nil {
				return err
			}
			return a.delete(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.remote, "remote", false, "delete what the trust server has, too")
	addYesFlag(cmd, &o.yes)
	return cmd
}

// delete says what will be lost, asks, deletes, and looks whether it is gone.
func (a *app) delete(ctx context.Context, o deleteOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.image.ref)
	if err != nil {
		return err
	}
	here := d.announceLocal(repo)
	there := false
	if o.remote {
		if there, err = d.announceRemote(ctx, repo); err != nil {
			return repo.about(err)
		}
	}
	if !here && !there {
		where := "on this machine"
		if o.remote {
			where += " or at " + repo.server
		}
		_, err = fmt.Fprintf(d.out, "No trust data for repository %s %s\n", repo.GUN(), where)
		return err
	}
	stay, err := d.keysOf(ctx, repo)
	if err != nil {
		return err
	}
	if !o.yes {
		if err := d.confirm(ctx, fmt.Sprintf("Are you sure you want to delete the trust data of %s?", repo.GUN()), "--yes"); err != nil {
			return unlessAborted(err)
		}
	}
	fmt.Fprintf(d.out, "Deleting trust data for repository %s\n", repo.GUN())
	if err := repo.Delete(ctx, there); err != nil {
		return repo.about(err)
	}
	what := "local"
	if o.remote {
		what = "local and remote"
		if _, err := repo.Afresh(ctx); !errors.Is(err, trust.ErrNotSigned) {
			return repo.about(errNotDeleted)
		}
	}
	if past, err := repo.Local(); err != nil || past != nil {
		return repo.about(errors.Join(errNotDeleted, err))
	}
	fmt.Fprintf(d.out, "Successfully deleted %s trust data for repository %s\n", what, repo.GUN())
	for _, k := range stay {
		fmt.Fprintf(d.out, "Key %s stays in %s\n", described(k.Info), k.Store.Name())
	}
	return nil
}

// errNotDeleted says that a deletion succeeded and the data is still there.
var errNotDeleted = errors.New("it was deleted, and is still there; somebody may have published it anew")

// announceLocal says what this machine loses, and whether that is anything.
// Damage is no obstacle: this is its cure.
func (d *desk) announceLocal(repo *repository) bool {
	staged, err := repo.Staged()
	if err == nil && len(staged) > 0 {
		d.warn("%s of %s will be dropped", count(len(staged), "staged change"), repo.GUN())
	}
	past, e := repo.Local()
	published, e2 := repo.Published()
	switch e = errors.Join(e, e2); {
	case e != nil:
		d.warn("the local trust data of %s is damaged, and will be removed", repo.GUN())
	case past != nil && !published:
		d.warn("%s has been made here and was never published", repo.GUN())
	}
	return past != nil || e != nil || err != nil || len(staged) > 0
}

// announceRemote says what everybody loses, and whether that is anything.
func (d *desk) announceRemote(ctx context.Context, repo *repository) (bool, error) {
	set, err := repo.Afresh(ctx)
	switch {
	case errors.Is(err, trust.ErrNotSigned):
		return false, nil
	case refusedData(err):
		d.warn("what %s has of %s is not trustworthy, so that nobody can say what is in it: %s", repo.server, repo.GUN(), printable(err.Error()))
		return true, nil
	case err != nil:
		return false, err
	}
	tags := releasedTags(set)
	d.warn("%s of %s will not be signed any more, for anybody: %s", count(len(tags), "tag"), repo.GUN(), orNone(few(tags)))
	var names []string
	for _, g := range delegations(set) {
		if g.Name != tuf.RoleReleases {
			names = append(names, signerName(g.Name))
		}
	}
	if len(names) > 0 {
		d.warn("%s of %s will have to be added again: %s", count(len(names), "signer"), repo.GUN(), few(names))
	}
	d.warn("machines that have pulled from %s refuse to go on without its trust data, and refuse a new root, until they delete theirs", repo.GUN())
	return true, nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// refusedData reports whether err is about data that does not verify: it can
// be deleted, other than a server that does not answer.
func refusedData(err error) bool {
	var role *tuf.RoleError
	return errors.As(err, &role)
}

// keysOf lists the private keys that stay: those of the repository, and the
// root keys and signers' keys that are of others, too.
func (d *desk) keysOf(ctx context.Context, repo *repository) ([]keys.Located, error) {
	all, err := d.keys.List(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(k keys.Located) bool { return k.GUN != repo.GUN() }), nil
}
