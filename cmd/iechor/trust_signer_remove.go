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

type signerRemoveOptions struct {
	name         string
	force        bool
	repositories []string
}

func newTrustSignerRemoveCmd(a *app) *cobra.Command {
	var o signerRemoveOptions
	cmd := &cobra.Command{
		Use:     "remove [flags] NAME REPOSITORY...",
		Aliases: []string{"rm"},
		Short:   "Take from somebody the right to sign tags of repositories",
		Example: `  iechor trust signer remove alice registry.example.com/app
  iechor trust signer remove --force alice registry.example.com/app registry.example.com/api`,
		Long: `Remove takes the signer NAME out of each repository: the role with all that is
in it, and from what consumers read every key that no other signer has. It
needs the repository's key. If nobody who remains has signed what is released
now, so that consumers could not pull it any more, it asks.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(cmd, cmd.CommandPath()+" takes the name of a signer and one or more repositories")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.repositories = args[0], args[1:]
			return a.signerRemove(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "do not ask before the released tags become unpullable")
	return cmd
}

// signerRemove goes from one repository to the next.
func (a *app) signerRemove(ctx context.Context, o signerRemoveOptions) (err error) {
	if o.name == signerName(tuf.RoleReleases) {
		return &statedError{sentence: "releases is a reserved keyword and cannot be removed",
			hints: []string{"it is the role that consumers read; signers have other names: iechor trust signer list REPOSITORY"}}
	}
	s := signerRemoval{name: printable(o.name), role: tuf.RoleTargets + "/" + tuf.RoleName(o.name), force: o.force}
	if s.desk, err = a.desk(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return a.eachRepository(ctx, o.repositories, "Error removing signer from", func(name string) error {
		fmt.Fprintf(s.out, "Removing signer %q from %s...\n", s.name, name)
		err := s.remove(ctx, name)
		switch {
		case errors.Is(err, errAborted):
			return nil
		case errors.Is(err, trust.ErrNotSigned), errors.Is(err, trust.ErrGone):
			return &taskError{"error retrieving signers for " + name + ": ", err}
		case err != nil:
			return &taskError{err: err}
		}
		fmt.Fprintf(s.out, "Successfully removed %s from %s\n\n", s.name, name)
		return nil
	})
}

// A signerRemoval takes a signer out of repositories.
type signerRemoval struct {
	*desk
	name  string
	role  tuf.RoleName
	force bool
}

// errUnpullable stops a removal that nobody has agreed to.
var errUnpullable = errors.New("the removal makes what is released unpullable")

// remove publishes one repository without the signer, and sees that it is
// gone.
func (s *signerRemoval) remove(ctx context.Context, name string) error {
	ref, err := registry.ParseRef(name)
	if err != nil {
		return err
	}
	repo, err := s.repository(ref)
	if err != nil {
		return err
	}
	agreed := s.force
	var removed []tuf.CanonicalID
	plan := func(set *tuf.Set) ([]tuf.Change, error) {
		removed = onlyKeys(set, s.role)
		if !delegated(set, s.role) {
			return nil, s.noSuchSigner(name, set)
		}
		if !agreed && needsAnswer(set, removed) {
			return nil, errUnpullable
		}
		changes := []tuf.Change{tuf.RemoveDelegation{Name: s.role}}
		if delegated(set, tuf.RoleReleases) {
			changes = append(changes, tuf.EditDelegation{Role: tuf.RoleReleases, RemoveKeys: removed})
		}
		return changes, nil
	}
	done, err := repo.Publish(ctx, plan)
	if errors.Is(err, errUnpullable) {
		question := fmt.Sprintf("The signer %q signed the last released version of %s. Removing this signer will make %s unpullable. Are you sure you want to continue?", s.name, name, name)
		if err := s.confirm(ctx, question, "--force"); err != nil {
			return err
		}
		agreed = true
		done, err = repo.Publish(ctx, plan)
	}
	if err != nil {
		return repo.about(err)
	}
	after, err := repo.see(ctx)
	if err != nil {
		return err
	}
	releases, _ := after.Role(tuf.RoleReleases) // none: no keys
	if delegated(after, s.role) || slices.ContainsFunc(removed, func(id tuf.CanonicalID) bool { return holdsKey(releases.Keys, id) }) {
		return errUnseen
	}
	s.tell(repo, done)
	return nil
}

func (s *signerRemoval) noSuchSigner(name string, set *tuf.Set) error {
	e := &statedError{sentence: fmt.Sprintf("No signer %s for repository %s", s.name, name), hints: []string{"it has no signers"}}
	var names []string
	for _, g := range signersOf(set) {
		names = append(names, signerName(g.Name))
	}
	if len(names) > 0 {
		e.hints = []string{"its signers are: " + strings.Join(names, ", ")}
	}
	return e
}

// delegated reports whether targets delegates to role.
func delegated(set *tuf.Set, role tuf.RoleName) bool {
	return set != nil && slices.ContainsFunc(set.Delegations(tuf.RoleTargets), func(g tuf.Delegation) bool { return g.Name == role })
}

// onlyKeys returns the keys of a signer that no other signer has.
func onlyKeys(set *tuf.Set, signer tuf.RoleName) []tuf.CanonicalID {
	var only []tuf.CanonicalID
	signers := signersOf(set)
	for _, g := range signers {
		if g.Name != signer {
			continue
		}
		for _, k := range g.Keys {
			id := k.CanonicalID()
			if !slices.ContainsFunc(signers, func(o tuf.Delegation) bool { return o.Name != signer && holdsKey(o.Keys, id) }) {
				only = append(only, id)
			}
		}
	}
	return only
}

// needsAnswer reports whether something is released now, and would not be
// without the signatures of those keys: only those count that a key makes which
// is still in the role (spec/cli.md 7.7).
func needsAnswer(set *tuf.Set, without []tuf.CanonicalID) bool {
	info, usable := set.Info(tuf.RoleReleases)
	role, _ := set.Role(tuf.RoleReleases) // it is usable, so it is there
	if !usable {
		return false
	}
	released := false
	for range set.Targets(tuf.RoleReleases) {
		released = true
		break
	}
	remain := map[tuf.CanonicalID]bool{}
	for _, k := range role.Keys {
		if id := k.CanonicalID(); slices.Contains(info.Signers, k.ID) && !slices.Contains(without, id) {
			remain[id] = true
		}
	}
	return released && len(remain) < role.Threshold
}
