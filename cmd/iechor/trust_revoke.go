package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type revokeOptions struct {
	ref registry.Ref // with a tag, or all tags are meant
	yes bool
}

func newTrustRevokeCmd(a *app) *cobra.Command {
	var o revokeOptions
	cmd := &cobra.Command{
		Use:   "revoke [flags] IMAGE[:TAG]",
		Short: "Take back the signatures of a tag, or of all tags",
		Example: `  iechor trust revoke registry.example.com/app:1.2
  iechor trust revoke --yes registry.example.com/app`,
		Long: `Revoke removes the tag, or after a question all tags, from everything that
consumers read and from the roles of the signers whose keys are here. If the key
of a role is not here that would keep a tag pullable, nothing is changed. Images,
signers and keys stay.`,
		Args: exactArgs(1, "one image name"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.ref, err = registry.ParseRef(args[0]); err != nil {
				return err
			}
			if !o.ref.Digest.IsZero() {
				return errDigestReference
			}
			return a.revoke(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask before all tags are revoked")
	return cmd
}

// revoke sees what there is to revoke, asks, publishes, and sees that it is
// gone.
func (a *app) revoke(ctx context.Context, o revokeOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.ref)
	if err != nil {
		return err
	}
	r := &revocation{signing: &signing{desk: d, repo: repo}, tag: o.ref.Tag}
	could := func(err error) error {
		return &taskError{"could not remove signature for " + o.ref.String() + ": ", repo.about(err)}
	}
	set, err := repo.Update(ctx)
	if err != nil {
		return could(err)
	}
	if _, err := r.changes(ctx, set); err != nil {
		return could(err)
	}
	if o.ref.Tag == "" && !o.yes {
		err := d.confirm(ctx, fmt.Sprintf("Please confirm you would like to delete all signature data for %s?", o.ref), "--yes")
		if errors.Is(err, errAborted) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	done, err := repo.Publish(ctx, func(set *tuf.Set) ([]tuf.Change, error) {
		r.removed = nil
		changes, err := r.changes(ctx, set)
		if err != nil {
			return nil, err
		}
		return r.signable(ctx, set, changes)
	})
	if err != nil {
		return could(err)
	}
	if err := r.look(ctx); err != nil {
		return could(err)
	}
	fmt.Fprintf(d.out, "Successfully deleted signature for %s\n", o.ref)
	d.tell(repo, done)
	return nil
}

// A revocation removes one tag, or all.
type revocation struct {
	*signing
	tag     string // empty: all
	removed []string
}

// errNothingSigned says that there is nothing to revoke.
var errNothingSigned = errors.New("no signed tags to remove")

// changes returns what removes the tags from every role that lists them and
// whose keys are here. That some are not is an error for the roles by which
// consumers would still get a tag, in particular an older content that targets
// has (spec/cli.md 7.6).
func (r *revocation) changes(ctx context.Context, set *tuf.Set) ([]tuf.Change, error) {
	roles := []tuf.RoleName{tuf.RoleTargets}
	if set != nil {
		for _, g := range set.Delegations(tuf.RoleTargets) {
			roles = append(roles, g.Name)
		}
	}
	var changes []tuf.Change
	listed := false
	for _, role := range roles {
		tags := r.listedIn(set, role)
		if len(tags) == 0 {
			continue
		}
		listed = true
		missing, err := r.missing(ctx, set, role)
		switch {
		case err != nil:
			return nil, err
		case missing != nil && read(role):
			return nil, &keepsTag{role: role, tags: tags, missing: missing}
		case missing != nil:
			continue // nobody reads it
		}
		for _, tag := range tags {
			changes = append(changes, tuf.RemoveTarget{Role: role, Name: tag})
			r.removed = append(r.removed, tag)
		}
	}
	switch {
	case len(changes) > 0:
		return changes, nil
	case r.tag != "":
		return nil, &trust.NoTrustData{GUN: r.repo.GUN(), Tag: r.tag, InOther: listed}
	case listed:
		return nil, trust.ErrNoDelegationKey
	}
	return nil, errNothingSigned
}

// read reports whether consumers get what a role lists.
func read(role tuf.RoleName) bool { return role == tuf.RoleTargets || role == tuf.RoleReleases }

// listedIn returns those tags that a role lists.
func (r *revocation) listedIn(set *tuf.Set, role tuf.RoleName) (tags []string) {
	if set == nil {
		return nil
	}
	for t := range set.Targets(role) {
		if r.tag == "" || t.Name == r.tag {
			tags = append(tags, t.Name)
		}
	}
	return tags
}

// missing returns what is missing to sign a role, nil if nothing is.
func (r *revocation) missing(ctx context.Context, set *tuf.Set, name tuf.RoleName) (*tuf.MissingKeys, error) {
	role, _ := set.Role(name) // it was just listed
	m := &tuf.MissingKeys{Role: name, Need: role.Threshold}
	for _, k := range role.Keys {
		m.Keys = append(m.Keys, k.CanonicalID())
	}
	slices.Sort(m.Keys)
	m.Keys = slices.Compact(m.Keys)
	for _, id := range m.Keys {
		has, err := r.keys.Has(ctx, id)
		if err != nil {
			return nil, err
		}
		if has {
			m.Have++
		}
	}
	if m.Have >= m.Need {
		return nil, nil
	}
	return m, nil
}

// signable leaves out the changes of signers whose keys are here and do not
// open.
func (r *revocation) signable(ctx context.Context, set *tuf.Set, changes []tuf.Change) ([]tuf.Change, error) {
	var roles []tuf.RoleName
	of := func(c tuf.Change) tuf.RoleName { return c.(tuf.RemoveTarget).Role } // as made by changes
	for _, c := range changes {
		if role := of(c); role != tuf.RoleTargets && !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	open, err := r.openRoles(ctx, set, roles)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(changes, func(c tuf.Change) bool {
		return of(c) != tuf.RoleTargets && !slices.Contains(open, of(c))
	}), nil
}

// look sees that consumers get none of the tags any more.
func (r *revocation) look(ctx context.Context) error {
	set, err := r.repo.see(ctx)
	if err != nil {
		return err
	}
	slices.Sort(r.removed)
	for _, tag := range slices.Compact(r.removed) {
		if t, err := trust.Lookup(set, tag); err == nil {
			return fmt.Errorf("%w: %s is still signed in %s", errUnseen, printable(tag), t.Role)
		}
	}
	for _, g := range signersOf(set) {
		if tags := r.listedIn(set, g.Name); len(tags) > 0 {
			r.warn("%s still lists %s, since its keys are not here; consumers do not read it", g.Name, printable(strings.Join(sortedTags(tags), ", ")))
		}
	}
	return nil
}

// A keepsTag says which role would keep tags pullable, and which of its keys
// are missing.
type keepsTag struct {
	role    tuf.RoleName
	tags    []string
	missing *tuf.MissingKeys
}

func (e *keepsTag) Error() string { return fmt.Sprintf("%s keeps %d tags signed", e.role, len(e.tags)) }
