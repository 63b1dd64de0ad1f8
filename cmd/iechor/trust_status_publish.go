package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type publishOptions struct {
	image   image
	yes     bool
	propose string // file; empty: publish
}

func newTrustPublishCmd(a *app) *cobra.Command {
	var o publishOptions
	cmd := &cobra.Command{
		Use:   "publish [flags] REPOSITORY",
		Short: "Publish the changes that are staged for a repository",
		Example: `  iechor trust status registry.example.com/app
  iechor trust publish registry.example.com/app`,
		Long: `Publish signs and uploads everything that is staged for the repository, in its
order, whoever staged it: this program, notary or docker. If one change is not
understood nothing is published. A repository that was made here and never
published is published for the first time.

With --propose nothing is published: where more people must sign than have their
keys here, the file goes to them. What is staged stays so until it is dropped,
with "iechor trust reset".`,
		Args: exactArgs(1, "one repository"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.image.typed = printable(args[0])
			if o.image.ref, err = parseRepository(cmd, args[0]); err != nil {
				return err
			}
			return a.publishStaged(cmd.Context(), o)
		},
	}
	addYesFlag(cmd, &o.yes)
	addProposeFlag(cmd, &o.propose)
	return cmd
}

// publishStaged shows what would disappear, publishes, and sees that what was
// staged is what consumers get.
func (a *app) publishStaged(ctx context.Context, o publishOptions) (err error) {
	if err := newPath(o.propose); err != nil {
		return err
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.image.ref)
	if err != nil {
		return err
	}
	staged, err := repo.Staged()
	if err != nil {
		return repo.about(err)
	}
	var changes []tuf.Change
	var unclear []string
	for n, s := range staged {
		if s.Change == nil {
			unclear = append(unclear, fmt.Sprint(n))
		}
		changes = append(changes, s.Change)
	}
	if len(unclear) > 0 {
		return &statedError{
			sentence: fmt.Sprintf("iechor: nothing was published: staged change %s of %s is not understood", strings.Join(unclear, ", "), o.image.typed),
			hints: []string{
				"to look at it: iechor trust status " + o.image.typed,
				fmt.Sprintf("to drop it: iechor trust reset --number %s %s", strings.Join(unclear, ","), o.image.typed),
			},
		}
	}
	if err := d.agree(ctx, repo, changes, o.yes); err != nil {
		return unlessAborted(err)
	}
	if o.propose != "" {
		return d.propose(ctx, repo, func(*tuf.Set) ([]tuf.Change, error) { return changes, nil }, o.propose)
	}
	fmt.Fprintf(d.out, "Pushing changes to %s\n", repo.GUN())
	done, err := repo.PublishStaged(ctx)
	if err != nil {
		return repo.about(err)
	}
	if len(done.Files) == 0 && len(changes) == 0 {
		_, err = fmt.Fprintf(d.out, "No unpublished changes for %s\n", repo.GUN())
		return err
	}
	if err := d.verified(ctx, repo, done, func(set *tuf.Set) bool { return shows(set, changes) }); err != nil {
		return err
	}
	if done.First {
		fmt.Fprintf(d.out, "Finished initializing %q\n", repo.GUN())
	}
	_, err = fmt.Fprintf(d.out, "Successfully published changes for repository %s\n", repo.GUN())
	return err
}

// agree warns about the tags that staged changes of delegations take from
// consumers, and asks.
func (d *desk) agree(ctx context.Context, repo *repository, changes []tuf.Change, yes bool) error {
	if !slices.ContainsFunc(changes, func(c tuf.Change) bool { return delegationOf(c) != "" }) {
		return nil
	}
	set, err := repo.Update(ctx)
	if errors.Is(err, trust.ErrNotSigned) {
		return nil // nothing can be lost yet
	}
	if err != nil {
		return repo.about(err)
	}
	asked := false
	for _, l := range lossesOf(set, changes) {
		l.warn(d.app, repo)
		asked = true
	}
	if !asked || yes {
		return nil
	}
	return d.confirm(ctx, "Are you sure you want to continue?", "--yes")
}

// delegationOf returns the delegation that a change edits, "" if none.
func delegationOf(c tuf.Change) tuf.RoleName {
	switch c := c.(type) {
	case tuf.EditDelegation:
		return c.Role
	case tuf.RemoveDelegation:
		return c.Name
	case tuf.PurgeKeys:
		if c.Under == "" {
			return tuf.RoleTargets
		}
		return c.Under
	}
	return ""
}

// lossesOf returns what the changes take away, all of them together. A role
// that they also sign again loses no signature.
func lossesOf(set *tuf.Set, changes []tuf.Change) []loss {
	roles := map[tuf.RoleName]tuf.Role{}
	var losses []loss
	again := func(role tuf.RoleName) bool {
		return slices.ContainsFunc(changes, func(c tuf.Change) bool {
			switch c := c.(type) {
			case tuf.Resign:
				return c.Role == role
			case tuf.AddTarget:
				return c.Target.Role == role
			case tuf.RemoveTarget:
				return c.Role == role
			}
			return false
		})
	}
	edit := func(name tuf.RoleName, e tuf.EditDelegation) {
		role, ok := roles[name]
		if !ok {
			if role, ok = set.Role(name); !ok {
				return // new
			}
		}
		roles[name] = after(role, e)
	}
	for _, c := range changes {
		switch c := c.(type) {
		case tuf.EditDelegation:
			edit(c.Role, c)
		case tuf.PurgeKeys:
			for _, g := range delegations(set) {
				if strings.HasPrefix(string(g.Name), string(delegationOf(c))+"/") {
					edit(g.Name, tuf.EditDelegation{Role: g.Name, RemoveKeys: c.Keys})
				}
			}
		case tuf.RemoveDelegation:
			if role, ok := set.Role(c.Name); ok {
				l, _, _ := lossOf(set, role, c, nil) // asks for no key
				losses = append(losses, l)
			}
			delete(roles, c.Name)
		}
	}
	for _, name := range sortedRoleNames(roles) {
		was, ok := set.Role(name)
		if !ok {
			continue
		}
		signed := again(name)
		l, _, _ := lossOf(set, was, between(was, roles[name]), func(tuf.CanonicalID) (bool, error) { return signed, nil })
		if !l.none() {
			losses = append(losses, l)
		}
	}
	return losses
}

func sortedRoleNames(roles map[tuf.RoleName]tuf.Role) (names []tuf.RoleName) {
	for name := range roles {
		names = append(names, name)
	}
	sortRoles(names)
	return names
}

// between returns the edit that leads from one form of a role to another.
func between(was, is tuf.Role) tuf.EditDelegation {
	e := tuf.EditDelegation{Role: was.Name, AddPaths: is.Paths, ClearPaths: true}
	if is.Threshold != was.Threshold {
		e.Threshold = is.Threshold
	}
	for _, k := range was.Keys {
		if !holdsKey(is.Keys, k.CanonicalID()) {
			e.RemoveKeys = append(e.RemoveKeys, k.CanonicalID())
		}
	}
	for _, k := range is.Keys {
		if !holdsKey(was.Keys, k.CanonicalID()) {
			e.AddKeys = append(e.AddKeys, k.PublicKey)
		}
	}
	return e
}

// shows reports whether set is as the changes, one after the other, leave it.
func shows(set *tuf.Set, changes []tuf.Change) bool {
	for n, c := range changes {
		later := changes[n+1:]
		switch c := c.(type) {
		case tuf.AddTarget:
			t, err := set.Lookup(c.Target.Name, roleOr(c.Target.Role))
			if !touched(later, c.Target.Role, c.Target.Name) && (err != nil || t.Length != c.Target.Length || string(t.SHA256()) != string(c.Target.SHA256())) {
				return false
			}
		case tuf.RemoveTarget:
			_, err := set.Lookup(c.Name, roleOr(c.Role))
			if !touched(later, c.Role, c.Name) && !errors.Is(err, tuf.ErrNoTarget) {
				return false
			}
		case tuf.EditDelegation, tuf.RemoveDelegation:
			role := delegationOf(c)
			if slices.ContainsFunc(later, func(o tuf.Change) bool { return delegationOf(o) != "" }) {
				continue // the last one tells
			}
			_, there := set.Role(role)
			if _, removed := c.(tuf.RemoveDelegation); there == removed {
				return false
			}
		}
	}
	return true
}

func roleOr(role tuf.RoleName) tuf.RoleName {
	if role == "" {
		return tuf.RoleTargets
	}
	return role
}

// touched reports whether one of the changes decides about a target, too, or
// about the role that holds it.
func touched(changes []tuf.Change, role tuf.RoleName, name string) bool {
	return slices.ContainsFunc(changes, func(c tuf.Change) bool {
		switch c := c.(type) {
		case tuf.AddTarget:
			return roleOr(c.Target.Role) == roleOr(role) && c.Target.Name == name
		case tuf.RemoveTarget:
			return roleOr(c.Role) == roleOr(role) && c.Name == name
		}
		return delegationOf(c) != ""
	})
}

type resetOptions struct {
	image   image
	numbers []int
	all     bool
}

func newTrustResetCmd(a *app) *cobra.Command {
	var o resetOptions
	cmd := &cobra.Command{
		Use:   "reset [flags] REPOSITORY",
		Short: "Drop changes that are staged for a repository",
		Example: `  iechor trust status registry.example.com/app
  iechor trust reset --number 0,2 registry.example.com/app
  iechor trust reset --all registry.example.com/app`,
		Long: `Reset drops staged changes that nobody needs any more: those with the numbers
that "iechor trust status" shows, or all. Nothing that is published changes.`,
		Args: exactArgs(1, "one repository"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.image.typed = printable(args[0])
			if o.image.ref, err = parseRepository(cmd, args[0]); err != nil {
				return err
			}
			if o.all == (len(o.numbers) > 0) {
				return usage(cmd, "say which changes are to be dropped", "give --number with their numbers, or --all")
			}
			return a.reset(cmd.Context(), o)
		},
	}
	cmd.Flags().IntSliceVarP(&o.numbers, "number", "n", nil, "`numbers` of the changes, as \"iechor trust status\" shows them")
	cmd.Flags().BoolVar(&o.all, "all", false, "drop all of them")
	return cmd
}

// reset drops change files, and sees that they are gone.
func (a *app) reset(_ context.Context, o resetOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.image.ref)
	if err != nil {
		return err
	}
	staged, err := repo.Staged()
	if err != nil {
		return repo.about(err)
	}
	var names []string
	for n, s := range staged {
		if o.all || slices.Contains(o.numbers, n) {
			names = append(names, s.Name)
		}
	}
	for _, n := range o.numbers {
		if n < 0 || n >= len(staged) {
			return &statedError{
				sentence: fmt.Sprintf("iechor: nothing was dropped: there is no staged change %d of %s", n, o.image.typed),
				hints:    []string{"see what is staged: iechor trust status " + o.image.typed},
			}
		}
	}
	if err := repo.Reset(names...); err != nil {
		return repo.about(err)
	}
	left, err := repo.Staged()
	if err != nil {
		return repo.about(err)
	}
	if slices.ContainsFunc(left, func(s trust.Staged) bool { return slices.Contains(names, s.Name) }) {
		return &statedError{sentence: "iechor: a staged change of " + o.image.typed + " is still there", hints: []string{"look into " + repo.folder}}
	}
	_, err = fmt.Fprintf(d.out, "Successfully reset specified changes for repository %s\n", repo.GUN())
	return err
}
