package trust

import (
	"context"
	"fmt"
	"slices"

	"github.com/iechor/trust/tuf"
)

// AllowOrphaned is [Repository.AllowLapsed] for the owner whose server is no
// more: what that server has signed, the timestamp included, may have expired,
// too ([tuf.Options.Orphaned]).
func (r *Repository) AllowOrphaned() *Repository {
	c := *r.AllowLapsed()
	c.orphaned = true
	return &c
}

// Moved says what [Repository.Move] did.
type Moved struct {
	Published
	Keys map[tuf.RoleName]tuf.CanonicalID // of the roles that moved
}

// Move makes the server of this repository the one that signs for it from now
// on, where another one did so far, such as one whose data were copied to this
// one: timestamp and snapshot get keys of this server in one root, which the
// owner signs; a snapshot key that is in the key ring stays. Staged changes are
// left alone.
//
// Errors are those of [Repository.Publish].
func (r *Repository) Move(ctx context.Context) (Moved, error) {
	r = r.AllowOrphaned()
	b, err := r.base(ctx)
	if err != nil {
		return Moved{}, err
	}
	if b.set == nil {
		return Moved{}, fmt.Errorf("%w: %s", ErrNotInitialized, r.gun)
	}
	roles := []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot}
	snapshot, _ := b.set.Role(tuf.RoleSnapshot) // every Set has one
	for _, k := range snapshot.Keys {
		has, err := r.c.Keys.Has(ctx, k.CanonicalID())
		if err != nil {
			return Moved{}, err
		}
		if has {
			roles = roles[:1]
		}
	}
	out := Moved{Keys: map[tuf.RoleName]tuf.CanonicalID{}}
	var changes []tuf.Change
	for _, name := range roles {
		key, err := r.c.Remote.RotateKey(ctx, r.gun, name)
		if err != nil {
			return Moved{}, err
		}
		out.Keys[name] = key.CanonicalID()
		changes = append(changes, tuf.ReplaceKeys{Role: tuf.NewRole(name, 1, key)})
	}
	out.Published, err = r.publish(ctx, job{plan: func(*tuf.Set) ([]tuf.Change, error) { return slices.Clone(changes), nil }})
	return out, err
}
