package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type removeOptions struct {
	id    string
	yes   bool
	force bool
	token bool // only on a token
}

func newKeyRemoveCmd(a *app) *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Destroy a private key",
		Example: `  iechor trust key remove 543bb8f
  iechor trust key remove 543bb8f --force --yes`,
		Long: `Remove deletes the file of a key for good. It refuses to do so if that is the last
key here that can sign something of a repository, as far as the trust data on
this machine says: then only --force does it.

What the key has signed stays valid. To have it no longer count, replace the key
(iechor trust key rotate) or remove the signer (iechor trust signer remove).`,
		Args: exactArgs(1, "the ID of a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.id = args[0]
			return a.removeKey(cmd.Context(), o)
		},
	}
	addYesFlag(cmd, &o.yes)
	cmd.Flags().BoolVar(&o.force, "force", false, "remove the key also if it is the last one that can sign for a repository")
	return cmd
}

func (a *app) removeKey(ctx context.Context, o removeOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	find := d.findKeyOrFile
	if o.token {
		find = func(ctx context.Context, id string) (keys.Located, error) { return d.findKeyIn(ctx, id, isToken) }
	}
	k, err := find(ctx, o.id)
	if err != nil {
		return err
	}
	store, ok := k.Store.(keys.Remover)
	if !ok {
		return cannot(fmt.Sprintf("key %s cannot be removed from %s", k.ID, k.Store.Name()), "use the tools of that device")
	}
	lost, err := d.lostWithout(ctx, k.Info)
	if err != nil {
		return err
	}
	if len(lost) > 0 && !o.force {
		return cannot(fmt.Sprintf("%s is the last key here that can sign %s", described(k.Info), strings.Join(lost, ", ")),
			"keep a copy first: iechor trust key export --key "+k.ID.Short()+" -o FILE", "if it may go, give --force")
	}
	for _, l := range lost {
		d.warn("nobody will be able to sign %s with the keys that are here", l)
	}
	from := printable(k.Store.Name())
	ok, err = d.sure(ctx, fmt.Sprintf("Are you sure you want to remove %s from %s?", described(k.Info), from), o.yes)
	if err != nil || !ok {
		return err
	}
	if err := store.Remove(ctx, k.ID); err != nil {
		return err
	}
	if _, _, err := d.keys.Find(ctx, k.ID); err == nil {
		d.warn("another copy of key %s is still here: see iechor trust key list", k.ID.Short())
	}
	if err := d.passphrases.memory.forget(ctx, k.ID); err != nil {
		d.warn("%s", printable(err.Error()))
	}
	fmt.Fprintf(d.out, "\nDeleted %s from %s.\n", described(k.Info), from)
	return nil
}

// findKeyOrFile is findKey, and finds files that hold no usable key by their
// whole name.
func (d *desk) findKeyOrFile(ctx context.Context, id string) (keys.Located, error) {
	k, err := d.findKey(ctx, id)
	whole := tuf.CanonicalID(id)
	if err == nil || !whole.Valid() {
		return k, err
	}
	for _, p := range d.dirKeys.Problems() {
		if filepath.Base(p.Path) == id+".key" {
			return keys.Located{Info: keys.Info{ID: whole, Role: "unknown: the file is damaged"}, Store: d.dirKeys}, nil
		}
	}
	return k, err
}

// lostWithout lists what could no longer be signed here without a key,
// according to the trust data on this machine, in words.
func (d *desk) lostWithout(ctx context.Context, k keys.Info) ([]string, error) {
	all, err := d.keys.List(ctx)
	if err != nil {
		return nil, err
	}
	here := map[tuf.CanonicalID]bool{}
	for _, other := range all {
		here[other.ID] = true
	}
	dir := trust.NewDir(filepath.Join(d.dir, "trust"))
	guns, err := dir.List()
	if err != nil {
		return nil, err
	}
	if k.GUN != "" && !slices.Contains(guns, k.GUN) {
		guns = append(guns, k.GUN)
	}
	var lost []string
	for _, gun := range guns {
		what, err := d.lostIn(dir, gun, k, here, all)
		if err != nil {
			d.warn("whether key %s is needed for %s cannot be seen: %s", k.ID.Short(), gun, printable(err.Error()))
			continue
		}
		lost = append(lost, what...)
	}
	return lost, nil
}

// lostIn is lostWithout for one repository.
func (d *desk) lostIn(dir *trust.Dir, gun tuf.GUN, k keys.Info, here map[tuf.CanonicalID]bool, all []keys.Located) ([]string, error) {
	files, err := dir.Load(gun, tuf.DefaultLimits())
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		// Nothing but the key file says that the key is of this repository.
		for _, other := range all {
			if other.ID != k.ID && other.GUN == gun && other.Role == k.Role {
				return nil, nil
			}
		}
		return []string{fmt.Sprintf("%s of %s", k.Role, gun)}, nil
	}
	past, err := tuf.Recall(gun, files, tuf.Options{Now: d.now()})
	if err != nil {
		return nil, err
	}
	roles := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleReleases, tuf.RoleName("targets/" + k.Role)}
	for _, f := range files {
		if !slices.Contains(roles, f.Role) {
			roles = append(roles, f.Role)
		}
	}
	var lost []string
	for _, name := range roles {
		role, ok := past.Role(name)
		if ok && name.Valid() && onlyWith(role, k.ID, here) {
			lost = append(lost, fmt.Sprintf("%s of %s", printable(string(name)), gun))
		}
	}
	return lost, nil
}

// onlyWith reports whether the keys that are here are enough for a role, and
// are no longer without one of them.
func onlyWith(role tuf.Role, id tuf.CanonicalID, here map[tuf.CanonicalID]bool) bool {
	have := map[tuf.CanonicalID]bool{}
	for _, k := range role.Keys {
		if id := k.CanonicalID(); here[id] {
			have[id] = true
		}
	}
	return have[id] && len(have) >= role.Threshold && len(have)-1 < role.Threshold
}
