package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/iechor/trust/tuf"
)

// maxRestarts bounds how often an update begins again because another process
// changed the directory under it.
const maxRestarts = 5

// errMoved says that another process has stored something newer, or another
// root, since we looked.
var errMoved = errors.New("the local trust data changed meanwhile")

// Update brings the local copy up to date and returns what the server
// publishes now. Everything that was verified is kept, also if the update then
// fails, and nothing else is. When nothing has changed it takes one request,
// and at first at most four and one per delegation.
//
// If the server cannot be reached ([ErrUnreachable], and no other class), and
// the policy allows it, the result is the copy at hand together with a
// [*Stale]: the only case in which both results are set. It then was verified
// as of now (as of when it was last fetched, with AllowExpiredCache).
//
// Other errors: [*NotSigned]; [*Gone] if this machine has seen trust data
// there; [*Damaged], [*ClockError], [*Frozen], [ErrBusy]; those of [Remote];
// and those of package tuf for data that is refused, joined by an
// [*OtherServer] where that may be the reason.
func (r *Repository) Update(ctx context.Context) (*tuf.Set, error) {
	if err := check(r.gun); err != nil {
		return nil, err
	}
	for range maxRestarts {
		set, err := r.update(ctx)
		if !errors.Is(err, errMoved) {
			return set, err
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrBusy, r.c.Dir.Path())
}

// A local state is what this machine knows of a repository.
type local struct {
	past *tuf.Past // nil: nothing
	memory
}

// published reports whether what is at hand is more than what [Repository.Init]
// made here.
func (l local) published() bool {
	return l.past != nil && (l.past.Floor(tuf.RoleTimestamp) > 0 || l.Backup == sumOf(l.past.Root()))
}

func sumOf(f tuf.File) string {
	sum := sha256.Sum256(f.Raw)
	return hex.EncodeToString(sum[:])
}

// recall reads the local state.
func (r *Repository) recall(o tuf.Options) (local, error) {
	files, err := r.c.Dir.Load(r.gun, o.Limits)
	if err != nil || len(files) == 0 {
		// What we remember beside files that someone removed by hand does not
		// matter any more.
		return local{}, err
	}
	past, err := tuf.Recall(r.gun, files, o)
	if err != nil {
		return local{}, &Damaged{r.gun, r.c.Dir.file(pathOf(r.gun, tuf.RoleRoot)), err}
	}
	m, err := r.c.Dir.recollect(r.gun)
	if err != nil {
		return local{}, err
	}
	return local{past, m}, nil
}

// known is recall for those who are about to ask the server: it refuses a clock
// that was set back since they last did.
func (r *Repository) known(now time.Time, o tuf.Options) (local, error) {
	have, err := r.recall(o)
	if err == nil && now.Before(have.Checked.Add(-clockSlack)) {
		err = &ClockError{Now: now, Seen: have.Checked, File: r.c.Dir.file(stateName(r.gun))}
	}
	return have, err
}

func (r *Repository) update(ctx context.Context) (*tuf.Set, error) {
	now := r.c.Now()
	o := r.options(now)
	have, err := r.known(now, o)
	if err != nil {
		return nil, err
	}
	u := tuf.Begin(r.gun, have.past, o)
	set, err := r.walk(ctx, u, have)
	changed := u.Verified()
	if len(changed) > 0 { // attacks.md R9: also after an error
		if e := r.c.Dir.save(r.gun, have.past, changed, o, set); e != nil {
			return nil, errors.Join(e, err)
		}
	}
	if err == nil {
		if have.past == nil && r.c.Met != nil {
			r.c.Met(set)
		}
		return r.arrived(set, have, now, len(changed) > 0)
	}
	if have.Server != "" && have.Server != r.c.Remote.Host() {
		if errors.Is(err, ErrUnreachable) || errors.Is(err, tuf.ErrRoot) || errors.Is(err, tuf.ErrRollback) {
			err = errors.Join(err, &OtherServer{r.gun, have.Server, r.c.Remote.Host()})
		}
		return nil, err
	}
	if errors.Is(err, ErrUnreachable) && ctx.Err() == nil {
		return r.offline(have, changed, o, err)
	}
	return nil, err
}

// walk feeds u from the server, within the limit for all of its files together.
func (r *Repository) walk(ctx context.Context, u *tuf.Update, have local) (*tuf.Set, error) {
	bounded, cancel := context.WithTimeout(ctx, r.c.Deadline)
	defer cancel()
	set, err := r.feed(bounded, u, have)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = &Unreachable{r.c.Remote.Host(), fmt.Errorf("%w: %w", errLate, err)}
	}
	return set, err
}

func (r *Repository) feed(ctx context.Context, u *tuf.Update, have local) (*tuf.Set, error) {
	hidden := have.past == nil // whether a missing root means that there is nothing
	for {
		w, ok := u.Next()
		if !ok {
			return u.Set()
		}
		raw, err := r.c.Remote.Fetch(ctx, r.gun, w)
		switch {
		case err == nil:
			err = u.Add(w, raw)
		case errors.Is(err, ErrNotSigned):
			if hidden && w.Role == tuf.RoleRoot && w.Version == 0 && w.SHA256 == nil {
				return nil, r.absent(have)
			}
			hidden = hidden || w.Role == tuf.RoleTimestamp
			err = u.Missing(w)
		}
		if err != nil {
			return nil, err
		}
	}
}

// absent says that the server has nothing: an unpublished repository if all
// this machine has is what [Repository.Init] made, otherwise a deleted one.
func (r *Repository) absent(have local) error {
	if !have.published() {
		return &NotSigned{r.c.Remote.Host(), r.gun}
	}
	return &Gone{r.c.Remote.Host(), r.gun}
}

// arrived remembers a successful update.
func (r *Repository) arrived(set *tuf.Set, have local, now time.Time, changed bool) (*tuf.Set, error) {
	f, _ := set.File(tuf.RoleTimestamp) // every Set has one
	sum := sha256.Sum256(f.Raw)
	m := memory{
		GUN: r.gun, Server: r.c.Remote.Host(), Checked: now,
		Timestamp: hex.EncodeToString(sum[:]), Since: now, Met: have.Met,
	}
	if have.past == nil {
		m.Met = now
	}
	if m.Timestamp == have.Timestamp && m.Server == have.Server {
		m.Since = have.Since
	}
	if have.Checked.After(now) {
		m.Checked = have.Checked // the earliest time is a floor, too
	}
	if m.Server != have.Server || m.Timestamp != have.Timestamp || now.Sub(have.Checked) >= stateEvery {
		// A directory that cannot be written to, and need not be, is fine:
		// the memory only restricts.
		if err := r.c.Dir.memorise(m); err != nil && changed {
			return nil, fmt.Errorf("save the state of %s: %w", r.gun, err)
		}
	}
	if age := now.Sub(m.Since); r.c.MaxAge > 0 && age > r.c.MaxAge {
		return nil, &Frozen{r.c.Remote.Host(), r.gun, m.Since, r.c.MaxAge}
	}
	return set, nil
}

// offline returns the copy at hand, because of cause. What was verified before
// the server went away counts: if there is a newer timestamp, the old content
// does not serve.
func (r *Repository) offline(have local, newer []tuf.File, o tuf.Options, cause error) (*tuf.Set, error) {
	if have.past == nil || r.c.Offline != OfflineAllow {
		return nil, cause
	}
	past, err := tuf.Recall(r.gun, append(have.past.Files(), newer...), o)
	if err != nil {
		return nil, cause
	}
	checked := have.Checked
	if checked.IsZero() {
		checked = r.c.Dir.fetched(r.gun)
	}
	stale := &Stale{Age: max(0, o.Now.Sub(checked)), Cause: cause}
	since := have.Since
	if since.IsZero() {
		since = checked
	}
	if r.c.MaxAge > 0 && o.Now.Sub(since) > r.c.MaxAge {
		return nil, errors.Join(cause, &Frozen{r.c.Remote.Host(), r.gun, since, r.c.MaxAge})
	}
	set, err := replay(past, o)
	if errors.Is(err, tuf.ErrExpired) && r.c.AllowExpiredCache {
		stale.Expired = true
		o.Now = checked // it is judged by the time at which it was fresh
		set, err = replay(past, o)
	}
	switch {
	case err == nil:
		return set, stale
	case errors.Is(err, tuf.ErrExpired):
		return nil, fmt.Errorf("%w, and the trust server cannot be reached: %w", err, cause)
	}
	return nil, cause
}

// replay verifies what is at hand as if a server had sent it.
func replay(past *tuf.Past, o tuf.Options) (*tuf.Set, error) {
	files := make(map[tuf.RoleName]tuf.File)
	for _, f := range past.Files() {
		files[f.Role] = f
	}
	u := tuf.Begin(past.GUN(), past, o)
	for {
		w, ok := u.Next()
		if !ok {
			return u.Set()
		}
		f, ok := files[w.Role]
		var err error
		if ok && w.Role == tuf.RoleTimestamp {
			err = u.Add(w, f.Raw)
		} else {
			err = u.Missing(w) // what fits a hash has been taken from the past already
		}
		if err != nil {
			return nil, err
		}
	}
}

// Resolve updates, and returns the target that consumers get for tag: from
// [tuf.RoleReleases], or else from [tuf.RoleTargets] (cli.md 1.3).
//
// The error is a [*NoTrustData] if neither role has it, and otherwise
// Update's. As there, a result together with a [*Stale] comes from the copy at
// hand; without a result the Stale is joined to the other error.
func (r *Repository) Resolve(ctx context.Context, tag string) (tuf.Target, error) {
	set, err := r.Update(ctx)
	if set == nil {
		return tuf.Target{}, err
	}
	t, e := Lookup(set, tag)
	if e != nil {
		return tuf.Target{}, errors.Join(e, err)
	}
	return t, err
}

// Lookup finds a tag as [Repository.Resolve] does. The error is a
// [*NoTrustData], or that of [tuf.Set.Lookup].
func Lookup(set *tuf.Set, tag string) (tuf.Target, error) {
	t, err := set.Lookup(tag, tuf.RoleReleases, tuf.RoleTargets)
	if !errors.Is(err, tuf.ErrNoTarget) {
		return t, err
	}
	e := &NoTrustData{GUN: set.GUN(), Tag: tag}
	for _, role := range set.Roles() {
		if _, err := set.Lookup(tag, role); role.HoldsTargets() && err == nil {
			e.InOther = true
		}
	}
	return tuf.Target{}, e
}
