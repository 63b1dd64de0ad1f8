package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/iechor/trust/tuf"
)

// toServer is the word that stands for timestamp and snapshot together, when a
// repository moves to another server.
const toServer = "server"

// moveToServer gives timestamp and, unless its key is here, snapshot to the
// server of this repository in one root: the one that signed so far is no more,
// or not asked any more.
func (a *app) moveToServer(ctx context.Context, o rotateOptions) (err error) {
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
	set, err := repo.Fresh().AllowOrphaned().Look(ctx)
	if err != nil {
		return repo.about(err)
	}
	roles := []tuf.RoleName{tuf.RoleTimestamp}
	if server, err := d.serverKeeps(ctx, set, tuf.RoleSnapshot); err != nil {
		return err
	} else if server {
		roles = append(roles, tuf.RoleSnapshot)
	}
	p := &plan{what: fmt.Sprintf("have %s sign for %s", repo.server, repo.GUN())}
	for _, name := range roles {
		was, _ := set.Role(name) // every Set has the top-level roles
		p.add("goes", "%s key %s", name, joinShort(signingIDs(was, nil)))
		p.add("comes", "a new %s key, which the server makes and keeps", name)
	}
	p.add("files", "%s", nextFiles(set, tuf.RoleRoot))
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	if err := d.signedBy(ctx, p, "signed by", root); err != nil {
		return err
	}
	p.add("consumers", "notice nothing, once they ask this server")
	d.announce(p, o.dry)
	if o.dry {
		return nil
	}
	done, err := repo.Move(ctx)
	if err != nil {
		return repo.about(err)
	}
	for _, name := range slices.Sorted(maps.Keys(done.Keys)) {
		if err := d.inForce(ctx, o.ref, repo, name, []tuf.CanonicalID{done.Keys[name]}); err != nil {
			return err
		}
		fmt.Fprintf(d.out, "Successfully rotated %s key for repository %s\n", name, repo.GUN())
	}
	return nil
}
