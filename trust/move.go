package trust

import (
	"context"
	"fmt"
	"slices"

	"github.com/iechor/trust/tuf"
)

// Move makes the server of this repository the one that signs for it from now
// on, where another one did so far, such as one whose data were copied to this
// one: timestamp and snapshot get keys of this server in one root, which the
// owner signs; a snapshot key that is in the key ring stays. What the other
// server signed may have expired, the timestamp included: only versions above
// its own are published. Staged changes are left alone.
//
// Errors are those of [Repository.Publish].
func (r *Repository) Move(ctx context.Context) (Published, error) {
	r = r.AllowLapsed()
	r.orphaned = true
	b, err := r.base(ctx)
	if err != nil {
		return Published{}, err
	}
	if b.set == nil {
		return Published{}, fmt.Errorf("%w: %s", ErrNotInitialized, r.gun)
	}
	roles := []tuf.RoleName{tuf.RoleTimestamp}
	snapshot, _ := b.set.Role(tuf.RoleSnapshot) // every Set has one
	ours := false
	for _, k := range snapshot.Keys {
		has, err := r.c.Keys.Has(ctx, k.CanonicalID())
		if err != nil {
			return Published{}, err
		}
		ours = ours || has
	}
	if !ours {
		roles = append(roles, tuf.RoleSnapshot)
	}
	var changes []tuf.Change
	for _, name := range roles {
		key, err := r.c.Remote.RotateKey(ctx, r.gun, name)
		if err != nil {
			return Published{}, err
		}
		changes = append(changes, tuf.ReplaceKeys{Role: tuf.NewRole(name, 1, key)})
	}
	return r.publish(ctx, job{plan: func(*tuf.Set) ([]tuf.Change, error) { return slices.Clone(changes), nil }})
}
