package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type signerAddOptions struct {
	name         string
	files        []string
	repositories []string
}

func newTrustSignerAddCmd(a *app) *cobra.Command {
	var o signerAddOptions
	cmd := &cobra.Command{
		Use:   "add [flags] NAME REPOSITORY...",
		Short: "Let somebody sign the tags of repositories",
		Example: `  iechor trust signer add --key alice.pub alice registry.example.com/app
  iechor trust signer add --key laptop.pub --key desktop.pub bob registry.example.com/app registry.example.com/api`,
		Long: `Add lets the signer NAME sign all tags of each repository, with any of the keys
given. It needs the repository's key; a repository without trust data gets its
keys first. A signer that is there already gets the keys in addition.

A key is the public half, as "iechor trust key generate" writes it: PEM with a
PUBLIC KEY or a CERTIFICATE. From the first signer on only signers can sign the
tags of a repository; tags that the repository's key has signed stay signed.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(cmd, cmd.CommandPath()+" takes the name of a signer and one or more repositories")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.repositories = args[0], args[1:]
			return a.signerAdd(cmd.Context(), o)
		},
	}
	cmd.Flags().StringArrayVar(&o.files, "key", nil, "`file` with a public key of the signer; may be repeated")
	return cmd
}

// signerAdd checks everything that is the same for all repositories, and goes
// from one to the next.
func (a *app) signerAdd(ctx context.Context, o signerAddOptions) (err error) {
	if len(o.files) == 0 {
		return &statedError{sentence: "path to a public key must be provided using the `--key` flag",
			hints: []string{"the signer makes it with: iechor trust key generate " + printable(o.name)}}
	}
	s := signerAddition{name: o.name}
	if s.role, err = signerRole(o.name); err != nil {
		return err
	}
	for _, file := range o.files {
		k, err := readPublicKey(file, a.now())
		if err != nil {
			return err
		}
		s.keys = append(s.keys, k)
	}
	if s.desk, err = a.desk(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return a.eachRepository(ctx, o.repositories, "Failed to add signer to", func(name string) error {
		fmt.Fprintf(s.out, "Adding signer %q to %s...\n", s.name, name)
		if err := s.add(ctx, name); err != nil {
			return &taskError{err: err}
		}
		fmt.Fprintf(s.out, "Successfully added signer: %s to %s\n\n", s.name, name)
		return nil
	})
}

// A signerAddition lets a signer sign, with keys.
type signerAddition struct {
	*desk
	name string
	role tuf.RoleName
	keys []tuf.PublicKey
}

// add publishes the signer of one repository, which is made if need be, and
// sees that it is there.
func (s *signerAddition) add(ctx context.Context, name string) error {
	ref, err := registry.ParseRef(name)
	if err != nil {
		return err
	}
	repo, err := s.repository(ref)
	if err != nil {
		return err
	}
	var before *tuf.Set
	plan := func(set *tuf.Set) ([]tuf.Change, error) {
		before = set
		return addSigner(set, s.role, s.keys), nil
	}
	done, err := repo.Publish(ctx, plan)
	if errors.Is(err, trust.ErrNotInitialized) {
		fmt.Fprintf(s.out, "Initializing signed repository for %s...\n", name)
		var init trust.InitOptions
		if init, err = (&signing{desk: s.desk, repo: repo}).initOptions(ctx); err == nil {
			_, err = repo.Init(ctx, init)
		}
		if err == nil {
			done, err = repo.Publish(ctx, plan)
		}
	}
	if err != nil {
		return repo.about(err)
	}
	after, err := repo.see(ctx)
	if err != nil {
		return err
	}
	if !holdsAll(after, s.role, s.keys) || !holdsAll(after, tuf.RoleReleases, s.keys) {
		return errUnseen
	}
	if done.First {
		fmt.Fprintf(s.out, "Successfully initialized %q\n", name)
	}
	s.tell(repo, done)
	s.remark(name, before, after)
	return nil
}

// remark says what the owner might not expect.
func (s *signerAddition) remark(name string, before, after *tuf.Set) {
	for _, role := range []tuf.RoleName{s.role, tuf.RoleReleases} {
		if before == nil {
			break
		}
		if r, ok := before.Role(role); ok && len(r.Paths) > 0 && !slices.Contains(r.Paths, "") {
			s.warn("%s of %s was limited to tags that begin with %s, and may now hold every tag", role, name, trimmedPath(r.Paths))
		}
	}
	if before != nil && len(before.Delegations(tuf.RoleTargets)) == 0 {
		if n := len(releasedTags(before)); n > 0 {
			s.warn("from now on only signers can sign tags of %s; the %d that the repository's key signed stay signed until they are revoked", name, n)
		}
	}
	for _, u := range after.Unusable() {
		if u.Role == tuf.RoleReleases {
			s.warn("what was released in %s before does not count, since none of its signers signed it: sign the tags again", name)
		}
	}
}

// addSigner returns the changes by which a role, and the one that consumers
// read, have keys and may hold every tag. set is nil before the first
// publication.
func addSigner(set *tuf.Set, role tuf.RoleName, keys []tuf.PublicKey) []tuf.Change {
	var changes []tuf.Change
	for _, r := range []tuf.RoleName{role, tuf.RoleReleases} {
		changes = append(changes, tuf.EditDelegation{Role: r, AddKeys: missingIn(set, r, keys), AddPaths: []string{""}})
	}
	return changes
}
