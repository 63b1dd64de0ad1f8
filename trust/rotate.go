package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// Rotation says which keys of a role are replaced, by what.
type Rotation struct {
	// Role is root, targets, snapshot, or timestamp. For delegations see
	// [tuf.EditDelegation].
	Role tuf.RoleName
	// Server hands the role's key to the server: possible for snapshot, and
	// always so for timestamp.
	Server bool

	// Keys are the ids of the new keys, which must be in the key ring; none
	// means one new key. Not with Server.
	Keys []tuf.CanonicalID
	// Threshold is the number of the role's keys that must sign. 0 keeps the
	// one the role has, and means 1 with Server. To have fewer keys than that
	// is refused.
	Threshold int
	// RootCerts are certificates for some of Keys, if Role is root. The
	// others get a self-signed one.
	RootCerts []tuf.PublicKey
	// Legacy, if Role is root, is the number of past root versions whose keys
	// also sign as far as they are here, so that consumers who hold one of
	// those roots accept the new one directly. Negative: all.
	Legacy int

	// Generator, RootGenerator and Algorithm are those of [InitOptions].
	Generator, RootGenerator keys.Generator
	Algorithm                keys.Algorithm
}

// Rotated says what [Repository.Rotate] did.
type Rotated struct {
	Published
	Keys []tuf.CanonicalID // of the role from now on
	// Removed are the private keys that were destroyed because nothing needs
	// them any more, and Kept those whose store could not.
	Removed, Kept []tuf.CanonicalID
}

// Rotate replaces all keys of a role at once and publishes that; staged
// changes are left alone (notary-protocol 7.8). New keys are stored before
// they are published. The old private keys of targets and snapshot are
// destroyed after the publication has succeeded; old root keys stay.
//
// The error matches [ErrNotRotatable] for what cannot be, and is otherwise
// that of [Repository.Publish].
func (r *Repository) Rotate(ctx context.Context, o Rotation) (Rotated, error) {
	if err := o.check(); err != nil {
		return Rotated{}, err
	}
	r = r.AllowLapsed()                    // all of it is signed again, or that is what the owner is about
	if _, err := r.base(ctx); err != nil { // before anything is made
		return Rotated{}, err
	}
	f := r.forge(o.Generator, o.RootGenerator, o.Algorithm)
	fresh, err := r.newKeys(ctx, f, o)
	if err != nil {
		return Rotated{}, err
	}
	legacy, err := r.legacyKeys(ctx, o)
	if err != nil {
		return Rotated{}, err
	}
	if err := f.save(ctx); err != nil {
		return Rotated{}, err
	}
	var old []tuf.Key
	plan := func(set *tuf.Set) ([]tuf.Change, error) {
		if set == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotInitialized, r.gun)
		}
		was, _ := set.Role(o.Role) // every Set has the top-level roles
		old = was.Keys
		threshold := cmp.Or(o.Threshold, was.Threshold)
		if o.Server {
			threshold = 1
		}
		return []tuf.Change{tuf.ReplaceKeys{Role: tuf.NewRole(o.Role, threshold, fresh...)}}, nil
	}
	var out Rotated
	out.Published, err = r.publish(ctx, job{plan: plan, ring: f, legacy: legacy})
	if err != nil {
		return out, err
	}
	for _, k := range fresh {
		out.Keys = append(out.Keys, k.CanonicalID())
	}
	if o.Role == tuf.RoleTargets || o.Role == tuf.RoleSnapshot {
		err = r.destroy(ctx, o.Role, old, &out)
	}
	return out, err
}

func (o Rotation) check() error {
	refuse := &NotRotatable{Role: o.Role, Server: o.Server}
	switch o.Role {
	case tuf.RoleTimestamp:
		if !o.Server {
			return refuse
		}
	case tuf.RoleRoot, tuf.RoleTargets:
		if o.Server {
			return refuse
		}
	case tuf.RoleSnapshot:
	default:
		return refuse
	}
	return nil
}

// newKeys finds or makes the keys that the role is to have.
func (r *Repository) newKeys(ctx context.Context, f *forge, o Rotation) ([]tuf.PublicKey, error) {
	if o.Server {
		k, err := r.c.Remote.RotateKey(ctx, r.gun, o.Role)
		return []tuf.PublicKey{k}, err
	}
	var signers []tuf.Signer
	for _, id := range o.Keys {
		s, err := openKey(ctx, r.c.Keys, id)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	if len(o.Keys) == 0 {
		s, err := f.make(ctx, o.Role)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	var fresh []tuf.PublicKey
	for _, s := range signers {
		k := s.PublicKey()
		if o.Role == tuf.RoleRoot {
			var given tuf.PublicKey
			for _, c := range o.RootCerts {
				if c.CanonicalID() == k.CanonicalID() {
					given = c
				}
			}
			var err error
			if k, err = r.certify(ctx, s, given, r.c.Now()); err != nil {
				return nil, err
			}
		}
		fresh = append(fresh, k)
	}
	return fresh, nil
}

// legacyKeys returns the root keys of the last o.Legacy versions. They come
// unverified from the server, and all they can do is to sign as well, if we
// hold them.
func (r *Repository) legacyKeys(ctx context.Context, o Rotation) ([]tuf.PublicKey, error) {
	if o.Role != tuf.RoleRoot || o.Legacy == 0 {
		return nil, nil
	}
	opts := r.options(r.c.Now())
	have, err := r.recall(opts)
	if err != nil || have.past == nil {
		return nil, err
	}
	last := have.past.Root().Version
	first := int64(1)
	if o.Legacy > 0 {
		first = max(1, last-int64(o.Legacy)+1)
	}
	var out []tuf.PublicKey
	for v := last; v >= first; v-- {
		raw, err := r.c.Remote.Fetch(ctx, r.gun, tuf.Want{Role: tuf.RoleRoot, Version: v, MaxLength: fileLimit(r.c.Limits, tuf.RoleRoot)})
		if errors.Is(err, ErrNotSigned) {
			break // the server does not have older ones
		}
		if err != nil {
			return nil, err
		}
		past, err := tuf.Recall(r.gun, []tuf.File{{Role: tuf.RoleRoot, Version: v, Raw: raw}}, opts)
		if err != nil {
			return nil, err
		}
		role, _ := past.Role(tuf.RoleRoot) // every root has it
		for _, k := range role.Keys {
			out = append(out, k.PublicKey)
		}
	}
	return out, nil
}

// destroy removes the private keys in old that the role no longer has.
func (r *Repository) destroy(ctx context.Context, role tuf.RoleName, old []tuf.Key, out *Rotated) error {
	for _, k := range old {
		id := k.CanonicalID()
		still := false
		for _, now := range out.Keys {
			still = still || now == id
		}
		if still {
			continue
		}
		for _, store := range r.c.Keys {
			infos, err := store.List(ctx)
			if err != nil {
				return err
			}
			for _, i := range infos {
				// A key that someone also uses as another role is not ours
				// to destroy.
				if i.ID != id || i.Role != string(role) || i.GUN != r.gun {
					continue
				}
				remover, ok := store.(keys.Remover)
				if !ok {
					out.Kept = append(out.Kept, id)
					continue
				}
				if err := remover.Remove(ctx, id); err != nil {
					return fmt.Errorf("the keys were rotated, but the old one could not be removed: %w", err)
				}
				out.Removed = append(out.Removed, id)
			}
		}
	}
	return nil
}

// Delete removes the repository's metadata and staged changes from this
// machine, and before that, if remote is true, everything the server has.
// Private keys stay. If the server refuses, nothing is removed here.
func (r *Repository) Delete(ctx context.Context, remote bool) error {
	if err := check(r.gun); err != nil {
		return err
	}
	if remote {
		if err := r.c.Remote.Delete(ctx, r.gun); err != nil {
			return err
		}
	}
	return r.c.Dir.Drop(r.gun)
}
