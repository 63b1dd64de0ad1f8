package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/iechor/trust/tuf"
)

// Look is [Repository.Update] that changes nothing on this machine: it saves
// neither metadata nor that it looked, and does not call Met. The copy at hand
// is the floor, as ever, and never stands in for the server. It is for
// finding out what an update would come to. Together with a [*Frozen] the
// result is set, too.
func (r *Repository) Look(ctx context.Context) (*tuf.Set, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	now := r.c.Now()
	o := r.options(now)
	have, err := r.known(now, o)
	if err != nil {
		return nil, err
	}
	set, err := r.walk(ctx, tuf.Begin(r.gun, have.past, o), have)
	if err == nil {
		return set, r.frozen(set, have, now)
	}
	if have.Server != "" && have.Server != r.c.Remote.Host() && (errors.Is(err, tuf.ErrRoot) || errors.Is(err, tuf.ErrRollback)) {
		err = errors.Join(err, &OtherServer{r.gun, have.Server, r.c.Remote.Host()})
	}
	return nil, err
}

// frozen is the error that Update would end with because set has been served
// for too long.
func (r *Repository) frozen(set *tuf.Set, have local, now time.Time) error {
	f, _ := set.File(tuf.RoleTimestamp) // every Set has one
	sum := sha256.Sum256(f.Raw)
	same := hex.EncodeToString(sum[:]) == have.Timestamp && r.c.Remote.Host() == have.Server
	if r.c.MaxAge > 0 && same && now.Sub(have.Since) > r.c.MaxAge {
		return &Frozen{r.c.Remote.Host(), r.gun, have.Since, r.c.MaxAge}
	}
	return nil
}
