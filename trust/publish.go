package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// maxAttempts bounds how often a publication starts over on a newer state.
const maxAttempts = 5

// A Plan decides what to change, given the latest state. It is called again on
// each newer state, so it must depend on nothing else that other publishers can
// change. set is nil if the repository has never been published; nothing is
// in it then. No changes means that there is nothing to do.
type Plan func(set *tuf.Set) ([]tuf.Change, error)

// Published says what a publication did.
type Published struct {
	Files    []tuf.RoleName // what was signed and uploaded; empty: nothing had to change
	First    bool           // the repository had never been published
	Attempts int            // more than 1: others published meanwhile
	Warnings []string       // what the publisher should look at
	Staged   int            // staged changes that were left alone
}

// Publish applies the changes of plan to the latest state, signs and uploads
// the files that changed. If someone else publishes meanwhile it starts over,
// at most five times, then the error matches [ErrConflict]. Staged changes are
// left alone.
//
// If an upload's answer is lost, Publish finds out whether it arrived; if that
// cannot be found out, the error matches [ErrUncertain].
//
// A repository that was initialised here and is not on the server yet is
// published for the first time. One that is neither here nor there gives
// [ErrNotInitialized], joined to the [*NotSigned]. Other errors are those of
// [Repository.Update], plan, the changes ([tuf.Draft.Apply]) and the keys
// ([tuf.ErrNoKey] as [*tuf.MissingKeys], and those of package keys). Nothing
// works offline: cached data is no base to publish on.
func (r *Repository) Publish(ctx context.Context, plan Plan) (Published, error) {
	return r.publish(ctx, job{plan: plan})
}

// CanPublish does all of Publish except the upload, and asks the server
// whether it would let us: for use before something expensive, such as the
// push of an image. Passphrases are asked here, and not again by Publish
// with the same key ring. Errors are those of Publish; [*tuf.MissingKeys] also
// where neither the key ring nor the server has the snapshot's key.
func (r *Repository) CanPublish(ctx context.Context, plan Plan) error {
	now := r.c.Now()
	b, err := r.base(ctx)
	if err != nil {
		return err
	}
	files, _, err := r.sign(ctx, b, job{plan: plan}, r.signOptions(now))
	if err != nil {
		return err
	}
	// The server's keys are given only to those who may push. Before the first
	// publication the stock server makes a new key at each question, so that
	// this one says nothing about the key that Init got.
	if len(files) == 0 || b.set == nil || slices.Contains(rolesOf(files), tuf.RoleSnapshot) {
		_, err = r.c.Remote.Key(ctx, r.gun, tuf.RoleTimestamp)
		return err
	}
	// The snapshot is left to the server, which has to have its key.
	theirs, err := r.c.Remote.Key(ctx, r.gun, tuf.RoleSnapshot)
	if err != nil || b.set == nil {
		return err // before the first publication the stock server gives another key each time, and has them all
	}
	role, _ := b.past.Role(tuf.RoleSnapshot)
	missing := &tuf.MissingKeys{Role: tuf.RoleSnapshot, Need: role.Threshold}
	for _, k := range role.Keys {
		if k.CanonicalID() == theirs.CanonicalID() {
			return nil
		}
		missing.Keys = append(missing.Keys, k.CanonicalID())
	}
	return missing
}

// PublishStaged publishes all staged changes, in their order, and removes
// exactly those. If one is not understood nothing is published, and the error
// is a [*NotUnderstood].
func (r *Repository) PublishStaged(ctx context.Context) (Published, error) {
	staged, err := r.Staged()
	if err != nil {
		return Published{}, err
	}
	var changes []tuf.Change
	var names, unknown []string
	for _, s := range staged {
		if s.Change == nil {
			unknown = append(unknown, s.Name)
			continue
		}
		changes, names = append(changes, s.Change), append(names, s.Name)
	}
	if len(unknown) > 0 {
		return Published{}, &NotUnderstood{r.gun, unknown}
	}
	out, err := r.run(ctx, job{plan: func(*tuf.Set) ([]tuf.Change, error) { return changes, nil }})
	if err != nil || len(names) == 0 {
		return out, err
	}
	return out, r.Reset(names...)
}

// SigningRoles returns the roles that a tag is signed into, and removed from
// (cli.md 1.3): targets if nothing is delegated or set is nil, and otherwise
// every direct delegation that may hold the tag and has a key here, as has
// reports. If there is none the error is [ErrNoDelegationKey].
func SigningRoles(set *tuf.Set, tag string, has func(tuf.CanonicalID) (bool, error)) ([]tuf.RoleName, error) {
	if set == nil {
		return []tuf.RoleName{tuf.RoleTargets}, nil
	}
	delegations := set.Delegations(tuf.RoleTargets)
	if len(delegations) == 0 {
		return []tuf.RoleName{tuf.RoleTargets}, nil
	}
	var roles []tuf.RoleName
	for _, d := range delegations {
		if !slices.ContainsFunc(d.Paths, func(p string) bool { return strings.HasPrefix(tag, p) }) {
			continue
		}
		for _, k := range d.Keys {
			ok, err := has(k.CanonicalID())
			if err != nil {
				return nil, err
			}
			if ok {
				roles = append(roles, d.Name)
				break
			}
		}
	}
	if len(roles) == 0 {
		return nil, ErrNoDelegationKey
	}
	return roles, nil
}

// A job is one thing to publish.
type job struct {
	plan   Plan
	ring   tuf.Ring        // nil: the Config's
	legacy []tuf.PublicKey // further root keys to sign with

	proposal []tuf.Proposed // what others signed, in the place of a plan
}

// A base is the state that a publication builds on.
type base struct {
	set  *tuf.Set  // nil for the first publication
	past *tuf.Past // of set, or what Init made
}

// base updates, and finds out what to build on.
func (r *Repository) base(ctx context.Context) (base, error) {
	set, err := r.Fresh().Update(ctx)
	switch {
	case err == nil:
		return base{set, set.Past()}, nil
	case !errors.Is(err, ErrNotSigned):
		return base{}, err
	}
	have, e := r.recall(r.options(r.c.Now()))
	if e != nil {
		return base{}, e
	}
	if have.past == nil {
		return base{}, fmt.Errorf("%w: %w", ErrNotInitialized, err)
	}
	return base{past: have.past}, nil
}

// sign makes the files of j on top of b: none if nothing changes.
func (r *Repository) sign(ctx context.Context, b base, j job, o tuf.SignOptions) ([]tuf.File, []string, error) {
	if j.proposal != nil {
		return r.adopt(ctx, b, j.proposal, o)
	}
	changes, err := j.plan(b.set)
	if err != nil {
		return nil, nil, err
	}
	draft := b.past.Draft()
	if r.lapsed && b.set != nil {
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
			if info, ok := b.set.Info(role); ok && info.Expires.Before(o.Now) {
				changes = append(slices.Clone(changes), tuf.Resign{Role: role})
			}
		}
	}
	if b.set == nil {
		// The stock client signs targets again on the first publish, too.
		changes = append(slices.Clone(changes), tuf.Resign{Role: tuf.RoleTargets})
	}
	if err := draft.Apply(changes...); err != nil {
		return nil, nil, err
	}
	ring := j.ring
	if ring == nil {
		ring = r.c.Keys
	}
	o.Legacy = j.legacy
	files, err := draft.Sign(ctx, ring, o)
	if err == nil && b.set == nil && files[0].Role != tuf.RoleRoot {
		files = slices.Insert(files, 0, b.past.Root()) // as Init signed it
	}
	return files, draft.Warnings(), err
}

// publish runs j, and counts what it leaves alone.
func (r *Repository) publish(ctx context.Context, j job) (Published, error) {
	out, err := r.run(ctx, j)
	if staged, e := r.Staged(); e == nil { // only for the report
		out.Staged = len(staged)
	}
	return out, err
}

// run runs j until it is done, bounded.
func (r *Repository) run(ctx context.Context, j job) (Published, error) {
	var out Published
	var lost error // the error of an upload that may have arrived
	var sent []tuf.File
	// Whatever ends it then: others may have built on what arrived.
	failed := func(err error) (Published, error) {
		if lost != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w; after that: %v", ErrUncertain, lost, err)
		}
		return out, err
	}
	for {
		b, err := r.base(ctx)
		if err != nil {
			return failed(err)
		}
		if lost != nil && arrivedIn(b.set, sent) {
			out.Files = rolesOf(sent)
			return out, nil
		}
		out.First = b.set == nil
		files, warnings, err := r.sign(ctx, b, j, r.signOptions(r.c.Now()))
		out.Warnings = warnings
		if err != nil {
			return failed(err)
		}
		if len(files) == 0 {
			if lost != nil {
				out.Files = rolesOf(sent) // it did arrive, and others built on it
			}
			return out, nil
		}
		out.Attempts++
		err = r.c.Remote.Upload(ctx, r.gun, files)
		switch {
		case err == nil:
			out.Files = rolesOf(files)
			return out, nil
		case errors.Is(err, ErrConflict):
		case errors.Is(err, ErrUnreachable) && ctx.Err() == nil:
			lost, sent = err, files
		default:
			return failed(err)
		}
		if out.Attempts == maxAttempts {
			if errors.Is(err, ErrUnreachable) {
				arrived, err := r.settle(ctx, sent, lost)
				if arrived {
					out.Files = rolesOf(sent)
				}
				return out, err
			}
			return failed(fmt.Errorf("after %d attempts: %w", out.Attempts, err))
		}
		if err := r.c.Sleep(ctx, backoff(out.Attempts)); err != nil {
			return out, err
		}
	}
}

// settle looks, after the last attempt, whether it arrived after all.
func (r *Repository) settle(ctx context.Context, sent []tuf.File, lost error) (arrived bool, err error) {
	set, err := r.Fresh().Update(ctx)
	switch {
	case err == nil && arrivedIn(set, sent):
		return true, nil
	case err == nil, errors.Is(err, ErrNotSigned):
		return false, lost
	}
	return false, fmt.Errorf("%w: %w", ErrUncertain, lost)
}

// arrivedIn reports whether the files are what the server now publishes.
func arrivedIn(set *tuf.Set, files []tuf.File) bool {
	if set == nil {
		return false
	}
	have := make(map[tuf.RoleName][]byte)
	for _, f := range set.Files() {
		have[f.Role] = f.Raw
	}
	return !slices.ContainsFunc(files, func(f tuf.File) bool { return !bytes.Equal(f.Raw, have[f.Role]) })
}

func rolesOf(files []tuf.File) []tuf.RoleName {
	roles := make(map[tuf.RoleName]bool)
	for _, f := range files {
		roles[f.Role] = true
	}
	return slices.SortedFunc(maps.Keys(roles), func(a, b tuf.RoleName) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
}
