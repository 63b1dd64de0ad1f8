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

// A delegationEdit creates, changes or removes one delegation. What is zero
// stays as it is.
type delegationEdit struct {
	*desk
	image image
	role  tuf.RoleName

	files       []string // of public keys to add
	addKeys     []tuf.PublicKey
	removeKeys  []string // ids, or how they begin
	addPaths    []string
	removePaths []string
	allPaths    bool // add "" or, when removing, all of them
	threshold   int
	drop        bool // the delegation as a whole

	stage bool
	yes   bool

	agreed loss // to which the user has said yes
	found  loss // by the last plan
}

func newTrustDelegationAddCmd(a *app) *cobra.Command {
	e := &delegationEdit{}
	cmd := &cobra.Command{
		Use:   "add [flags] REPOSITORY ROLE",
		Short: "Create a delegation, or give it more keys, paths, another threshold",
		Example: `  iechor trust delegation add registry.example.com/app targets/nightly --key ci.pub --path nightly-
  iechor trust delegation add registry.example.com/app targets/releases --key alice.pub --all-paths
  iechor trust delegation add registry.example.com/app targets/releases --threshold 2`,
		Long: `Add creates the delegation ROLE, or adds to it, and publishes that at once. It
needs the key of the role above: the repository's key for targets/NAME.

A key is the public half in a PEM file: PUBLIC KEY or CERTIFICATE. A path is the
beginning of the tags that the role may hold; a new role needs at least one, or
--all-paths. Consumers read targets/releases, and targets; to have somebody sign
for consumers, "iechor trust signer add" does all that is needed.

When the change would leave the role with fewer keys or signatures than its
threshold, the tags that would disappear are listed, and you are asked. Where
enough of the keys are here the role is signed again, and nothing disappears.`,
		Args: exactArgs(2, "a repository and a role"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := e.parse(cmd, args); err != nil {
				return err
			}
			if len(e.files)+len(e.addPaths)+e.threshold == 0 && !e.allPaths {
				return usage(cmd, "there is nothing to add", "give --key, --path, --all-paths or --threshold")
			}
			for _, file := range e.files {
				k, err := readPublicKey(file, a.now())
				if err != nil {
					return err
				}
				e.addKeys = append(e.addKeys, k)
			}
			if e.allPaths {
				e.addPaths = append(e.addPaths, "")
			}
			return a.editDelegation(cmd.Context(), e)
		},
	}
	cmd.Flags().StringArrayVar(&e.files, "key", nil, "`file` with a public key; may be repeated")
	cmd.Flags().StringArrayVar(&e.addPaths, "path", nil, "`beginning` of the tags that the role may hold; may be repeated")
	cmd.Flags().BoolVar(&e.allPaths, "all-paths", false, "the role may hold every tag")
	e.flags(cmd)
	return cmd
}

func newTrustDelegationRemoveCmd(a *app) *cobra.Command {
	e := &delegationEdit{}
	cmd := &cobra.Command{
		Use:     "remove [flags] REPOSITORY ROLE [KEYID...]",
		Aliases: []string{"rm"},
		Short:   "Remove a delegation, or some of its keys and paths",
		Example: `  iechor trust delegation remove registry.example.com/app targets/nightly
  iechor trust delegation remove registry.example.com/app targets/releases 543bb8f720a5
  iechor trust delegation remove registry.example.com/app targets/nightly --path nightly-`,
		Long: `Remove takes keys and paths from the delegation ROLE, or, if none are named, the
role itself with all that it holds, and publishes that at once. Keys go by their
ID, or by how it begins: see "iechor trust delegation list".

When too few signatures of the remaining keys are left on what the role holds,
the tags that would disappear are listed, and you are asked. Where enough of the
remaining keys are here the role is signed again, and nothing disappears.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(cmd, cmd.CommandPath()+" takes a repository, a role, and perhaps IDs of keys")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.parse(cmd, args); err != nil {
				return err
			}
			for _, id := range args[2:] {
				if len(id) < 7 || strings.Trim(id, "0123456789abcdef") != "" || len(id) > 64 {
					return usage(cmd, "invalid key ID "+printable(id), "give the 64 digits of the ID, or at least the first 7")
				}
				e.removeKeys = append(e.removeKeys, id)
			}
			e.drop = len(e.removeKeys)+len(e.removePaths)+e.threshold == 0 && !e.allPaths
			return a.editDelegation(cmd.Context(), e)
		},
	}
	cmd.Flags().StringArrayVar(&e.removePaths, "path", nil, "`beginning` of tags that the role may not hold any more; may be repeated")
	cmd.Flags().BoolVar(&e.allPaths, "all-paths", false, "the role may hold no tag any more")
	e.flags(cmd)
	return cmd
}

func (e *delegationEdit) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&e.threshold, "threshold", 0, "`number` of the role's keys that must sign")
	addStageFlag(cmd, &e.stage)
	addYesFlag(cmd, &e.yes)
}

func (e *delegationEdit) parse(cmd *cobra.Command, args []string) (err error) {
	e.image.typed = printable(args[0])
	if e.image.ref, err = parseRepository(cmd, args[0]); err != nil {
		return err
	}
	if e.role, err = parseDelegation(cmd, args[1]); err != nil {
		return err
	}
	if e.threshold < 0 || cmd.Flags().Changed("threshold") && e.threshold == 0 {
		return usage(cmd, "--threshold must be 1 or more")
	}
	return nil
}

// editDelegation publishes or stages the edit.
func (a *app) editDelegation(ctx context.Context, e *delegationEdit) (err error) {
	if e.desk, err = a.desk(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	repo, err := e.repository(e.image.ref)
	if err != nil {
		return err
	}
	if e.stage {
		return repo.about(e.save(repo))
	}
	done, err := repo.Publish(ctx, e.plan(ctx))
	for errors.Is(err, errLoss) {
		e.found.warn(e.app, repo)
		if err := e.confirm(ctx, "Are you sure you want to continue?", "--yes"); err != nil {
			return unlessAborted(err)
		}
		e.agreed = e.found
		done, err = repo.Publish(ctx, e.plan(ctx))
	}
	if err != nil {
		return repo.about(err)
	}
	if e.yes {
		e.found.warn(e.app, repo)
	}
	if len(done.Files) == 0 {
		_, err = fmt.Fprintf(e.out, "Delegation role %s of repository %q is so already\n", e.role, e.image.typed)
		return err
	}
	if err := e.verified(ctx, repo, done, e.done); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.out, "%s published.\n", e.text())
	return err
}

// unlessAborted is nil if the user did not want to go on: that is no failure.
func unlessAborted(err error) error {
	if errors.Is(err, errAborted) {
		return nil
	}
	return err
}

// text says what was done, in the words of the stock program.
func (e *delegationEdit) text() string {
	if e.drop {
		return fmt.Sprintf("Removal of delegation role %s (including all keys and paths), from repository %q", e.role, e.image.typed)
	}
	var with []string
	list := func(what string, items []string) {
		if len(items) > 0 {
			with = append(with, fmt.Sprintf("with %s [%s]", what, strings.Join(items, ", ")))
		}
	}
	var ids, paths []string
	for _, k := range e.addKeys {
		ids = append(ids, string(k.CanonicalID()))
	}
	ids = append(ids, e.removeKeys...)
	for _, p := range slices.Concat(e.addPaths, e.removePaths) {
		paths = append(paths, pathText(p))
	}
	action, direction := "Addition", "to"
	if len(e.removeKeys)+len(e.removePaths) > 0 || e.allPaths && len(e.addPaths) == 0 {
		action, direction = "Removal", "from"
		if e.allPaths {
			paths = append(paths, "all")
		}
	} else if len(ids)+len(paths) == 0 {
		action, direction = "Change", "of"
	}
	list("keys", ids)
	list("paths", paths)
	if e.threshold > 0 {
		with = append(with, fmt.Sprintf("with threshold %d", e.threshold))
	}
	return fmt.Sprintf("%s of delegation role %s %s, %s repository %q", action, e.role, strings.Join(with, ", "), direction, e.image.typed)
}

// change returns the change, given the role as it is; nil if there is none.
func (e *delegationEdit) change(role *tuf.Role) (tuf.Change, error) {
	if e.drop {
		return tuf.RemoveDelegation{Name: e.role}, nil
	}
	c := tuf.EditDelegation{Role: e.role, AddKeys: e.addKeys, AddPaths: e.addPaths, RemovePaths: e.removePaths, Threshold: e.threshold}
	c.ClearPaths = e.allPaths && len(e.addPaths) == 0
	for n, begin := range e.removeKeys {
		var fit []tuf.CanonicalID
		if role == nil && len(begin) == 64 {
			fit = append(fit, tuf.CanonicalID(begin)) // staged, and not known here
		}
		if role != nil {
			for _, k := range role.Keys {
				if id := k.CanonicalID(); strings.HasPrefix(string(id), begin) && !slices.Contains(fit, id) {
					fit = append(fit, id)
				}
			}
		}
		if len(fit) != 1 {
			return nil, &statedError{
				sentence: fmt.Sprintf("iechor: %d keys of %s have an ID that begins with %s", len(fit), e.role, begin),
				hints:    []string{"see its keys: iechor trust delegation list " + e.image.typed},
			}
		}
		e.removeKeys[n] = string(fit[0])
		c.RemoveKeys = append(c.RemoveKeys, fit[0])
	}
	return c, nil
}

// save stages the edit. Nothing is asked and nobody is contacted; what is not
// known here shows when it is published.
func (e *delegationEdit) save(repo *repository) error {
	past, err := repo.Local()
	if err != nil {
		return err
	}
	var role *tuf.Role
	if past != nil {
		if r, ok := past.Role(e.role); ok {
			role = &r
		}
	}
	c, err := e.change(role)
	if err != nil {
		return err
	}
	if edit, ok := c.(tuf.EditDelegation); ok && role != nil && edit.Threshold == 0 {
		edit.Threshold = role.Threshold // in a change file that adds keys, none means 1
		c = edit
	}
	if err := repo.Stage(c); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.out, "%s staged for next publish.\n", e.text())
	return err
}

// plan returns the change, and with it the signature that keeps the role
// alive. The error is errLoss if something would be lost that nobody has
// agreed to.
func (e *delegationEdit) plan(ctx context.Context) trust.Plan {
	has := func(id tuf.CanonicalID) (bool, error) { return e.keys.Has(ctx, id) }
	return func(set *tuf.Set) ([]tuf.Change, error) {
		var role *tuf.Role
		if set != nil {
			if r, ok := set.Role(e.role); ok {
				role = &r
			}
		}
		switch {
		case role == nil && len(e.addKeys)+len(e.addPaths) == 0:
			return nil, fmt.Errorf("%s: %w", e.role, tuf.ErrNoDelegation)
		case role == nil && len(e.addPaths) == 0:
			return nil, &statedError{sentence: "iechor: a new delegation needs to know which tags it may hold", hints: []string{"give --path or --all-paths"}}
		case role == nil && len(e.addKeys) == 0:
			return nil, &statedError{sentence: "iechor: a new delegation needs a key", hints: []string{"give --key with the file of a public key"}}
		}
		c, err := e.change(role)
		if err != nil {
			return nil, err
		}
		changes := []tuf.Change{c}
		e.found = loss{}
		if role != nil {
			var again bool
			if e.found, again, err = lossOf(set, *role, c, has); err != nil {
				return nil, err
			}
			if again {
				changes = append(changes, tuf.Resign{Role: e.role})
			}
		} else if edit := c.(tuf.EditDelegation); distinctKeys(e.addKeys) < max(1, edit.Threshold) {
			e.found = loss{role: e.role, why: fmt.Sprintf("has %d of the %d keys that must sign", distinctKeys(e.addKeys), edit.Threshold)}
		}
		if !e.yes && !e.found.none() && !e.found.equal(e.agreed) {
			return nil, errLoss
		}
		return changes, nil
	}
}

// done reports whether set is as it was asked for.
func (e *delegationEdit) done(set *tuf.Set) bool {
	role, ok := set.Role(e.role)
	if e.drop || !ok {
		return e.drop && !ok
	}
	for _, k := range e.addKeys {
		if !holdsKey(role.Keys, k.CanonicalID()) {
			return false
		}
	}
	for _, id := range e.removeKeys {
		if holdsKey(role.Keys, tuf.CanonicalID(id)) {
			return false
		}
	}
	for _, p := range e.addPaths {
		if !slices.Contains(role.Paths, p) {
			return false
		}
	}
	for _, p := range e.removePaths {
		if slices.Contains(role.Paths, p) {
			return false
		}
	}
	return e.threshold == 0 || role.Threshold == e.threshold
}
