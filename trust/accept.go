package trust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iechor/trust/tuf"
)

// Local returns what this machine remembers of the repository, nil if nothing.
// It makes no request. The error is a [*Damaged], or that of the disk.
func (r *Repository) Local() (*tuf.Past, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	have, err := r.recall(r.options(r.c.Now()))
	return have.past, err
}

// Published reports whether what this machine remembers of the repository was
// published, as far as it knows: it is more than [Repository.Init] made here.
func (r *Repository) Published() (bool, error) {
	if err := check(r.gun); err != nil {
		return false, err
	}
	have, err := r.recall(r.options(r.c.Now()))
	return have.published(), err
}

// Met returns when this machine first trusted a root of the repository, zero
// if that is not known.
func (r *Repository) Met() time.Time {
	m, err := r.c.Dir.recollect(r.gun)
	if err != nil {
		return time.Time{}
	}
	return m.Met
}

// Afresh returns what the server publishes, verified as if this machine had
// never seen the repository: only the pin decides about the root. It saves
// nothing. It is for a person who has to decide whether a root that
// [Repository.Update] refuses is the right one; [Repository.Accept] is how
// they say yes.
func (r *Repository) Afresh(ctx context.Context) (*tuf.Set, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	return r.walk(ctx, tuf.Begin(r.gun, nil, r.options(r.c.Now())), local{})
}

// Accept makes set, which [Repository.Afresh] returned, what this machine
// trusts, in place of everything that it remembered of the repository. notice
// is what spoke for it, or nil. The old root stays denied: its keys, as far as
// they are not the new root's, vouch for the repository no more, and the
// decision is remembered ([Repository.Decisions]). Staged changes and keys
// stay.
//
// A machine that dies in between trusts neither the old root nor, before it
// was asked again, the new one.
func (r *Repository) Accept(set *tuf.Set, notice *Notice) error {
	if set.GUN() != r.gun {
		return fmt.Errorf("%w: %s is not %s", ErrName, set.GUN(), r.gun)
	}
	now := r.c.Now()
	made := Decision{At: now.UTC()}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	var keep []tuf.CanonicalID
	for _, k := range root.Keys {
		made.New, keep = append(made.New, k.ID), append(keep, k.CanonicalID())
	}
	if notice != nil {
		made.Notice = notice.Sum()
	}
	if err := r.giveUp(keep, made); err != nil {
		return err
	}
	if err := r.c.Dir.save(r.gun, nil, set.Files(), r.options(now), nil); err != nil {
		return err
	}
	_, err := r.arrived(set, local{}, now, true)
	return err
}

// GiveUp forgets what this machine remembers of the repository, and denies the
// keys of its root from now on, except those in keep. It is for an owner who
// is about to make the repository anew.
func (r *Repository) GiveUp(keep []tuf.CanonicalID) error {
	if err := check(r.gun); err != nil {
		return err
	}
	return r.giveUp(keep, Decision{At: r.c.Now().UTC()})
}

func (r *Repository) giveUp(keep []tuf.CanonicalID, made Decision) error {
	have, err := r.recall(r.options(r.c.Now()))
	if damaged := (*Damaged)(nil); err != nil && !errors.As(err, &damaged) {
		return err
	}
	if have.published() { // what was only made here was never anybody's
		var denied []tuf.CanonicalID
		old, _ := have.past.Role(tuf.RoleRoot) // every Past has one
		for _, k := range old.Keys {
			if id := k.CanonicalID(); !slices.Contains(keep, id) {
				denied, made.Old = append(denied, id), append(made.Old, k.ID)
			}
		}
		if err := r.c.Dir.decide(r.gun, denied, made); err != nil {
			return err
		}
	}
	return r.c.Dir.Forget(r.gun)
}

// Begin makes root, which comes from a backup, what this machine begins with,
// and reports whether it did: where anything of the repository is at hand,
// or its keys were given up, nothing is changed. The error is that of the disk,
// or of [tuf.Recall] for a root that is not sound.
func (r *Repository) Begin(root tuf.File) (bool, error) {
	if err := check(r.gun); err != nil {
		return false, err
	}
	o := r.options(r.c.Now())
	past, err := tuf.Recall(r.gun, []tuf.File{root}, o)
	if err != nil {
		return false, err
	}
	role, _ := past.Role(tuf.RoleRoot) // every Past has one
	if d, ok := o.Pin.(tuf.Denier); ok && !slices.ContainsFunc(role.Keys, func(k tuf.Key) bool { return !d.Denies(k.PublicKey) }) {
		return false, nil
	}
	err = r.c.Dir.save(r.gun, nil, past.Files(), o, nil)
	if errors.Is(err, errMoved) {
		return false, nil
	}
	if err == nil {
		err = r.c.Dir.memorise(memory{GUN: r.gun, Met: r.c.Now(), Backup: sumOf(past.Root())})
	}
	return err == nil, err
}
