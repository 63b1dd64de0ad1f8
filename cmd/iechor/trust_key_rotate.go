package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type rotateOptions struct {
	ref           registry.Ref
	role          tuf.RoleName
	server, local bool
	keys          []string
	algorithm     keys.Algorithm
	all           bool   // repositories of a root key
	of            string // which root key
	yes, dry      bool
}

func newKeyRotateCmd(a *app) *cobra.Command {
	var o rotateOptions
	var algorithm string
	cmd := &cobra.Command{
		Use:   "rotate [flags] REPOSITORY ROLE",
		Short: "Replace the key of a role in a repository",
		Example: `  iechor trust key rotate --dry-run registry.example.com/app targets
  iechor trust key rotate registry.example.com/app targets
  iechor trust key rotate registry.example.com/app snapshot --server
  iechor trust key rotate registry.example.com/app root
  iechor trust key rotate registry.example.com/app server
  iechor trust key rotate --all root`,
		Long: `Rotate replaces all keys of ROLE by a new one and publishes that at once, signed
with the root key. What will be done is shown first; with --dry-run that is all.
ROLE is
  root       the key that speaks for the repository: the old and the new one sign
  targets    the repository's key: it names the signers, and signs where there are none
  snapshot   kept by the server (--server), or by you (--local): then everybody
             who publishes needs it
  timestamp  always kept by the server
  server     timestamp and snapshot at once, when the repository has moved to
             another server: the keys of the one before it may be gone, and what
             it signed may have expired
Without --server and --local the key stays with whoever keeps it now. Changes
that are staged are not published with it. The old private key of targets and
snapshot is destroyed when the new one is in force; an old root key stays.

With --all, "root" is the only argument: a new root key takes the place of one
that is here in all of its repositories that this machine knows, one after the
other. Those that fail are named; the same command goes on with them later.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.all {
				return exactArgs(1, "a role, with --all")(cmd, args)
			}
			return exactArgs(2, "a repository and a role")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.algorithm, err = parseAlgorithm(cmd, algorithm); err != nil {
				return err
			}
			if o.all {
				if o.role = tuf.RoleName(args[0]); o.role != tuf.RoleRoot || o.server || o.local || len(o.keys) > 1 {
					return usage(cmd, "--all is for root keys, of which at most one takes the place of another", "name a repository for everything else")
				}
				return a.rotateAll(cmd.Context(), o)
			}
			if o.of != "" {
				return usage(cmd, "--of goes together with --all", "leave it out, or add --all")
			}
			if o.ref, err = registry.ParseRef(args[0]); err != nil {
				return err
			}
			if args[1] == toServer {
				if o.local || len(o.keys) > 0 {
					return usage(cmd, "the server makes its keys itself", "leave out --key and --local")
				}
				return a.moveToServer(cmd.Context(), o)
			}
			o.role = tuf.RoleName(args[1])
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.rotate(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.server, "server", "r", false, "the server keeps the new key")
	cmd.Flags().BoolVar(&o.local, "local", false, "you keep the new key")
	cmd.Flags().StringArrayVar(&o.keys, "key", nil, "`ID` of a key that is here, to be used in place of a new one; may be given several times")
	cmd.Flags().StringVar(&algorithm, "algorithm", string(keys.P256), "`kind` of the new key: "+algorithmNames())
	cmd.Flags().BoolVar(&o.all, "all", false, "in all repositories of a root key that this machine knows")
	cmd.Flags().StringVar(&o.of, "of", "", "`ID` of the root key that --all replaces, if several are here")
	addDryFlag(cmd, &o.dry)
	addYesFlag(cmd, &o.yes)
	return cmd
}

func addDryFlag(cmd *cobra.Command, dry *bool) {
	cmd.Flags().BoolVar(dry, "dry-run", false, "only show what would be done")
}

// check refuses what cannot be, before any work.
func (o *rotateOptions) check(cmd *cobra.Command) error {
	switch {
	case o.ref.Tag != "" || !o.ref.Digest.IsZero():
		return usage(cmd, "keys belong to a repository, not to one of its tags", "leave out what follows the name: "+o.ref.FamiliarName())
	case o.server && o.local:
		return usage(cmd, "--server and --local exclude each other")
	case o.server && len(o.keys) > 0:
		return usage(cmd, "the server makes its keys itself", "leave out --key or --server")
	case o.role == tuf.RoleTimestamp && !o.local && len(o.keys) == 0:
		return nil
	case o.role == tuf.RoleRoot && !o.server, o.role == tuf.RoleTargets && !o.server, o.role == tuf.RoleSnapshot:
		return nil
	}
	return &trust.NotRotatable{Role: o.role, Server: o.server}
}

const rootRotation = `Warning: you are about to rotate your root key.

You must use your old key to sign this root rotation.`

func (a *app) rotate(ctx context.Context, o rotateOptions) (err error) {
	if o.dry {
		a = looking(a)
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.ref)
	if err != nil {
		return err
	}
	rotation := trust.Rotation{Role: o.role, Algorithm: o.algorithm, Server: o.server || o.role == tuf.RoleTimestamp}
	for _, id := range o.keys {
		k, err := d.findKey(ctx, id)
		if err != nil {
			return err
		}
		rotation.Keys = append(rotation.Keys, k.ID)
	}
	set, err := d.current(ctx, repo)
	if err != nil {
		return repo.about(err)
	}
	if o.role == tuf.RoleSnapshot && !o.server && !o.local && len(o.keys) == 0 {
		if rotation.Server, err = d.serverKeeps(ctx, set, o.role); err != nil {
			return repo.about(err)
		}
	}
	p, err := d.rotationPlan(ctx, set, &rotation)
	if err != nil {
		return repo.about(err)
	}
	d.announce(p, o.dry)
	if o.dry {
		return nil
	}
	return d.rotateOne(ctx, repo, o, rotation)
}

// rotateOne asks where that is due, rotates, and sees that it counts.
func (d *desk) rotateOne(ctx context.Context, repo *repository, o rotateOptions, rotation trust.Rotation) error {
	if o.role == tuf.RoleRoot {
		if d.pins(repo.GUN()) {
			d.warn("%s pins the root of %s: if that names the old key, put the new one there as soon as it is published", d.config.path, repo.GUN())
		}
		if !o.yes {
			if err := d.terminal.Notice(rootRotation); err != nil {
				return err
			}
		}
		if ok, err := d.sure(ctx, "Are you sure you want to proceed?", o.yes); err != nil || !ok {
			return err
		}
	}
	done, err := repo.Rotate(ctx, rotation)
	if err != nil {
		return repo.about(err)
	}
	if err := d.inForce(ctx, o.ref, repo, o.role, done.Keys); err != nil {
		return err
	}
	// So that this machine knows it, too. Its own pin may stand in the way, of
	// which inForce has spoken.
	_, _ = repo.Fresh().Update(ctx)
	fmt.Fprintf(d.out, "Successfully rotated %s key for repository %s\n", o.role, repo.GUN())
	d.rotated(ctx, repo, rotation, done)
	return nil
}

// rotationPlan says what a rotation does, and has the new key made where the old
// one lives.
func (d *desk) rotationPlan(ctx context.Context, set *tuf.Set, r *trust.Rotation) (*plan, error) {
	p := &plan{what: fmt.Sprintf("rotate the %s key of %s", r.Role, set.GUN())}
	was, _ := set.Role(r.Role) // every Set has the top-level roles
	p.add("goes", "%s", joinShort(signingIDs(was, nil)))
	switch {
	case len(r.Keys) > 0:
		p.add("comes", "%s, which is here", joinShort(r.Keys))
	case r.Server:
		p.add("comes", "a new key, which the server makes and keeps")
	default:
		maker, place, err := d.makerBeside(ctx, signingIDs(was, nil))
		if err != nil {
			return nil, err
		}
		r.Generator, r.RootGenerator = maker, maker
		p.add("comes", "a new %s key, kept in %s", r.Algorithm, place)
	}
	switch r.Role {
	case tuf.RoleTargets:
		n := 0
		for range set.Targets(tuf.RoleTargets) {
			n++
		}
		p.add("files", "%s, with its %s as they are", nextFiles(set, tuf.RoleRoot, tuf.RoleTargets), count(n, "tag"))
	default:
		p.add("files", "%s", nextFiles(set, tuf.RoleRoot))
	}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	if err := d.signedBy(ctx, p, "signed by", root); err != nil {
		return nil, err
	}
	if r.Role == tuf.RoleRoot {
		p.add("consumers", "follow by themselves; only who has pinned the old key must pin the new one")
		return p, nil
	}
	p.add("consumers", "notice nothing")
	return p, nil
}

// pins reports whether the configuration pins the root of a repository.
func (d *desk) pins(gun tuf.GUN) bool {
	pins, err := d.config.pin()
	if err != nil {
		return false // nothing works then, and says so
	}
	_, pinned := pins.For(gun)
	return pinned
}

// serverKeeps reports whether a role's key is with the server: none of its
// keys is here.
func (d *desk) serverKeeps(ctx context.Context, set *tuf.Set, name tuf.RoleName) (bool, error) {
	role, _ := set.Role(name) // every Set has the top-level roles
	for _, k := range role.Keys {
		if has, err := d.keys.Has(ctx, k.CanonicalID()); has || err != nil {
			return false, err
		}
	}
	return true, nil
}

// inForce looks at the repository as somebody who has never seen it, and sees
// that the role has exactly those keys.
func (d *desk) inForce(ctx context.Context, ref registry.Ref, repo *repository, name tuf.RoleName, want []tuf.CanonicalID) error {
	failed := fmt.Sprintf("the new %s key of %s was published, but whether it is in force could not be seen", name, repo.GUN())
	set, err := repo.Afresh(ctx)
	if name == tuf.RoleRoot && errors.Is(err, tuf.ErrPin) {
		// The pin of this machine names the old key, and is no consumer's.
		if set, err = d.afreshWithoutPins(ctx, ref); err == nil {
			role, _ := set.Role(name) // every Set has it
			for _, k := range role.Keys {
				d.warn("%s refuses the new root of %s until it is pinned there: in cert-ids as %s, or in root-keys as %s", d.config.path, repo.GUN(), k.ID, k.CanonicalID())
			}
		}
	}
	if err != nil {
		return doing(failed, repo.about(err))
	}
	role, _ := set.Role(name) // every Set has the top-level roles
	var have []tuf.CanonicalID
	for _, k := range role.Keys {
		have = append(have, k.CanonicalID())
	}
	slices.Sort(have)
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(have, want) {
		return cannot(fmt.Sprintf("%s has other %s keys than those that were published: %s", repo.GUN(), name, joinShort(have)),
			"somebody else has changed them meanwhile, or "+repo.server+" shows an old state: try again, and ask the other owners")
	}
	return nil
}

// afreshWithoutPins looks at a repository as somebody who pins nothing. What
// is seen is compared with what was published here, and trusted for nothing.
func (d *desk) afreshWithoutPins(ctx context.Context, ref registry.Ref) (*tuf.Set, error) {
	other := *d
	other.config.pinning = trust.Pinning{}
	repo, err := other.repository(ref)
	if err != nil {
		return nil, err
	}
	return repo.Afresh(ctx)
}

// rotated says what has changed for whom.
func (d *desk) rotated(ctx context.Context, repo *repository, r trust.Rotation, done trust.Rotated) {
	say := func(format string, args ...any) { fmt.Fprintf(d.err, "iechor: notice: "+format+"\n", args...) }
	switch {
	case r.Role == tuf.RoleRoot:
		say("consumers follow to the new root key %s by themselves; those who have pinned the old one must pin the new one, and back it up now: iechor trust key export --key %s -o FILE", joinShort(done.Keys), done.Keys[0].Short())
		say("the old root key stays: consumers who come from an older version of the root need what it has signed")
	case r.Role == tuf.RoleTargets:
		say("consumers notice nothing; other owners need the new key %s before they can change signers: iechor trust key export", joinShort(done.Keys))
	case r.Role == tuf.RoleSnapshot && !r.Server:
		say("consumers notice nothing; from now on everybody who publishes needs the snapshot key %s", joinShort(done.Keys))
	case r.Role == tuf.RoleSnapshot:
		say("consumers notice nothing; the server signs the snapshot from now on, and publishers need no key for it")
	default:
		say("consumers notice nothing")
	}
	for _, id := range done.Removed {
		say("the old private key %s was destroyed", id.Short())
		if err := d.passphrases.memory.forget(ctx, id); err != nil {
			d.warn("%s", printable(err.Error()))
		}
	}
	for _, id := range done.Kept {
		say("the old private key %s is still here; nothing needs it any more", id.Short())
	}
	for _, w := range done.Warnings {
		d.warn("%s", printable(w))
	}
	if done.Staged > 0 {
		d.warn("%d staged changes of %s were not published", done.Staged, repo.GUN())
	}
}

func joinShort(ids []tuf.CanonicalID) string {
	short := make([]string, len(ids))
	for i, id := range ids {
		short[i] = id.Short()
	}
	return strings.Join(short, ", ")
}
