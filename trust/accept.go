package trust

import (
	"context"
	"fmt"

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

// Afresh returns what the server publishes, verified as if this machine had
// never seen the repository: only the pin decides about the root. It saves
// nothing. It is for a person who has to decide whether a root that
// [Repository.Update] refuses is the right one; [Repository.Accept] is how
// they say yes.
func (r *Repository) Afresh(ctx context.Context) (*tuf.Set, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	return r.walk(ctx, tuf.Begin(r.gun, nil, r.options(r.c.Now())), nil)
}

// Accept makes set, which [Repository.Afresh] returned, what this machine
// trusts, in place of everything that it remembered of the repository. Staged
// changes and keys stay.
func (r *Repository) Accept(set *tuf.Set) error {
	if set.GUN() != r.gun {
		return fmt.Errorf("%w: %s is not %s", ErrName, set.GUN(), r.gun)
	}
	if err := r.c.Dir.Forget(r.gun); err != nil {
		return err
	}
	now := r.c.Now()
	if err := r.c.Dir.save(r.gun, nil, set.Files(), r.options(now), nil); err != nil {
		return err
	}
	_, err := r.arrived(set, local{}, now, true)
	return err
}
