package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// A Problem is something that must hold and does not, in one repository. Err
// matches [tuf.ErrExpired] where only time has passed, and otherwise the
// reason why a client would refuse the file, if it would.
type Problem struct {
	GUN  tuf.GUN
	Role tuf.RoleName // empty: the repository as a whole
	Err  error
}

func (p Problem) String() string {
	if p.Role == "" {
		return fmt.Sprintf("%s: %v", p.GUN, p.Err)
	}
	return fmt.Sprintf("%s of %s: %v", p.Role, p.GUN, p.Err)
}

// Check verifies everything that must hold in a store: that each current file
// is there under its hash and its version and is what its entry says; that
// timestamp, snapshot, targets and delegations belong together and verify, as
// a client that knows nothing sees them; that every root can be reached from
// the oldest one that is kept; that the newest change is the current
// timestamp; and, if keys is not nil, that the signer holds a timestamp key of
// each root. It reports each problem and changes nothing. A repository that is
// published to meanwhile is looked at again.
//
// The error says that the store or the signer could not be asked.
func Check(ctx context.Context, store storage.Store, keys Keys, now time.Time, report func(Problem)) error {
	var after tuf.GUN // the name before the one that is looked at
	for {
		guns, err := store.GUNs(ctx, after, 100)
		if err != nil {
			return fmt.Errorf("list repositories: %w", err)
		}
		if len(guns) == 0 {
			return nil
		}
		for _, gun := range guns {
			err := CheckRepository(ctx, store, keys, gun, now, report)
			if errors.Is(err, storage.ErrNotFound) {
				// Deleted meanwhile, unless it is still listed.
				var still []tuf.GUN
				if still, err = store.GUNs(ctx, after, 1); err == nil && slices.Contains(still, gun) {
					report(Problem{GUN: gun, Err: fmt.Errorf("listed, and its state is %w", storage.ErrNotFound)})
				}
			}
			if err != nil {
				return err
			}
			after = gun
		}
	}
}

// CheckRepository is [Check] for one repository. storage.ErrNotFound: it has no
// state.
func CheckRepository(ctx context.Context, store storage.Store, keys Keys, gun tuf.GUN, now time.Time, report func(Problem)) error {
	for range conflicts {
		before, err := store.Current(ctx, gun)
		if err != nil {
			return fmt.Errorf("read state of %s: %w", gun, err)
		}
		c := checker{ctx: ctx, store: store, keys: keys, state: before, now: now}
		if err := c.run(); err != nil {
			return err
		}
		after, err := store.Current(ctx, gun)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("read state of %s: %w", gun, err)
		}
		if err == nil && after.Seq == before.Seq {
			for _, p := range c.problems {
				report(p)
			}
			return nil
		}
	}
	return fmt.Errorf("check %s: it changes faster than it can be checked", gun)
}

type checker struct {
	ctx      context.Context
	store    storage.Store
	keys     Keys
	state    *storage.State
	now      time.Time
	raws     map[tuf.RoleName][]byte
	problems []Problem
}

func (c *checker) problem(role tuf.RoleName, err error) {
	c.problems = append(c.problems, Problem{c.state.GUN, role, err})
}

func (c *checker) problemf(role tuf.RoleName, format string, a ...any) {
	c.problem(role, fmt.Errorf(format, a...))
}

func (c *checker) run() error {
	c.raws = map[tuf.RoleName][]byte{}
	for _, role := range slices.Sorted(maps.Keys(c.state.Roles)) {
		if err := c.entry(c.state.Roles[role]); err != nil {
			return err
		}
	}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		if c.raws[role] == nil {
			c.problem(role, tuf.ErrIncomplete)
			return nil // nothing to walk over
		}
	}
	c.links()
	c.walk()
	if err := c.chain(); err != nil {
		return err
	}
	if err := c.newestChange(); err != nil {
		return err
	}
	return c.held()
}

// missing sorts what a read of the store says: is the file bad, or could one
// not look?
func (c *checker) missing(role tuf.RoleName, what string, err error) error {
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrCorrupt) {
		c.problemf(role, "%s: %w", what, err)
		return nil
	}
	return fmt.Errorf("read %s of %s: %w", role, c.state.GUN, err)
}

// entry checks one current file against what the state says of it.
func (c *checker) entry(e storage.Entry) error {
	raw, _, err := c.store.Blob(c.ctx, c.state.GUN, e.Role, e.SHA256)
	if err != nil {
		return c.missing(e.Role, "by hash", err)
	}
	c.raws[e.Role] = raw
	if sha256.Sum256(raw) != e.SHA256 || int64(len(raw)) != e.Length {
		c.problemf(e.Role, "the stored bytes are not those of the entry")
	}
	byVersion, _, err := c.store.Version(c.ctx, c.state.GUN, e.Role, e.Version)
	if err != nil {
		if err := c.missing(e.Role, "by version", err); err != nil {
			return err
		}
	} else if string(byVersion) != string(raw) {
		c.problemf(e.Role, "version %d is another file than the current one", e.Version)
	}
	meta, err := tuf.Outline(e.Role, raw, tuf.Options{Now: c.now})
	switch {
	case err != nil:
		c.problem(e.Role, err)
	case meta.Version != e.Version:
		c.problemf(e.Role, "stored as version %d, and says it is %d", e.Version, meta.Version)
	case !meta.Expires.Truncate(time.Microsecond).Equal(e.Expires):
		c.problemf(e.Role, "stored as expiring at %v, and says %v", e.Expires, meta.Expires)
	}
	if c.state.Floors[e.Role] != e.Version {
		c.problemf(e.Role, "version %d is current, and %d is the highest", e.Version, c.state.Floors[e.Role])
	}
	return nil
}

// links checks that current files are those which timestamp and snapshot name.
func (c *checker) links() {
	named := func(by tuf.RoleName) (map[tuf.RoleName]tuf.FileMeta, bool) {
		meta, err := tuf.Outline(by, c.raws[by], tuf.Options{Now: c.now})
		return meta.Files, err == nil
	}
	if files, ok := named(tuf.RoleTimestamp); ok {
		if err := files[tuf.RoleSnapshot].Matches(c.raws[tuf.RoleSnapshot]); err != nil {
			c.problemf(tuf.RoleSnapshot, "not the one that the timestamp names: %w", err)
		}
	}
	files, ok := named(tuf.RoleSnapshot)
	if !ok {
		return
	}
	for role, raw := range c.raws {
		m, listed := files[role]
		if !listed || role == tuf.RoleSnapshot || role == tuf.RoleTimestamp {
			continue
		}
		if err := m.Matches(raw); err != nil {
			c.problemf(role, "not the one that the snapshot names: %w", err)
		}
	}
}

// walk reads the current files as a client does that knows nothing.
func (c *checker) walk() { Inspect(c.state.GUN, c.raws, c.now, c.problem) }

// Inspect reads the files of a repository as a client does that knows nothing
// of it, and returns what it would trust, or nil. Why a client would refuse
// them is reported; where that is only because something has expired, the rest
// is looked at as of the time before.
func Inspect(gun tuf.GUN, files map[tuf.RoleName][]byte, now time.Time, report func(tuf.RoleName, error)) *tuf.Set {
	for range len(files) + 1 {
		set, err := walk(gun, nil, files, tuf.Options{Now: now})
		if err == nil {
			return set
		}
		var refused *tuf.RoleError
		var expired *tuf.Expired
		if !errors.As(err, &refused) {
			report("", err)
			return nil
		}
		report(refused.Role, refused.Err)
		if !errors.As(err, &expired) {
			return nil
		}
		now = expired.At.Add(-time.Second)
	}
	return nil
}

// chain checks that a client which holds the oldest root that is kept gets to
// the current state through the roots between.
func (c *checker) chain() error {
	roots := map[int64][]byte{}
	oldest := c.state.Roles[tuf.RoleRoot].Version
	roots[oldest] = c.raws[tuf.RoleRoot]
	for v := oldest - 1; v >= 1; v-- {
		raw, _, err := c.store.Version(c.ctx, c.state.GUN, tuf.RoleRoot, v)
		if errors.Is(err, storage.ErrNotFound) {
			break
		}
		if err != nil {
			return c.missing(tuf.RoleRoot, fmt.Sprintf("version %d", v), err)
		}
		roots[v], oldest = raw, v
	}
	for v := oldest; v < c.state.Roles[tuf.RoleRoot].Version; v++ {
		o := tuf.Options{Now: c.now}
		past, err := tuf.Recall(c.state.GUN, []tuf.File{{Role: tuf.RoleRoot, Version: v, Raw: roots[v]}}, o)
		if err == nil {
			err = tuf.Receive(c.state.GUN, past, nil, o).Adopt(tuf.File{Role: tuf.RoleRoot, Version: v + 1, Raw: roots[v+1]})
		}
		// Only the last root is judged by the present.
		if root := new(tuf.RootRefusal); errors.As(err, &root) && root.Reason == tuf.NoLeaf && root.Expired != "" || errors.Is(err, tuf.ErrExpired) {
			err = nil
		}
		if err != nil {
			c.problemf(tuf.RoleRoot, "version %d does not lead to version %d: %w", v, v+1, err)
		}
	}
	return nil
}

func (c *checker) newestChange() error {
	changes, err := c.store.Changes(c.ctx, storage.ChangeQuery{GUN: c.state.GUN, Limit: 1, Backwards: true})
	if err != nil {
		return fmt.Errorf("read changes of %s: %w", c.state.GUN, err)
	}
	e := c.state.Roles[tuf.RoleTimestamp]
	if len(changes) != 1 || changes[0].Deleted || changes[0].Version != e.Version || changes[0].SHA256 != hex.EncodeToString(e.SHA256[:]) {
		c.problemf(tuf.RoleTimestamp, "version %d is current, and the changefeed ends with %+v", e.Version, changes)
	}
	return nil
}

// held checks that the server can go on signing timestamps.
func (c *checker) held() error {
	if c.keys == nil || c.state.Mirror != "" { // a copy is never signed here
		return nil
	}
	past, err := tuf.Recall(c.state.GUN, []tuf.File{{Role: tuf.RoleRoot, Raw: c.raws[tuf.RoleRoot]}}, tuf.Options{Now: c.now})
	if err != nil {
		return nil // reported by the walk
	}
	role, _ := past.Role(tuf.RoleTimestamp)
	for _, k := range role.Keys {
		held, err := c.keys.Holds(c.ctx, c.state.GUN, role.Name, k.CanonicalID())
		if err != nil {
			return fmt.Errorf("ask the signer for key %s: %w", k.CanonicalID(), err)
		}
		if held {
			return nil
		}
	}
	c.problem(tuf.RoleTimestamp, tuf.ErrNoKey)
	return nil
}
