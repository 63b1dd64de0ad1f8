package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

var errPanicked = errors.New("the call that was waited for did not return")

// A head is the current state of one repository, with what the busiest
// answers need. It is never changed, but for seen.
//
// A server has tens of thousands of them, so it holds what every verification
// asks for, the timestamp, and of all other files only the hashes: their bytes
// are in the cache as long as somebody asks for them.
type head struct {
	gun         tuf.GUN
	seq         int64
	incarnation int64
	mirror      string
	timestamp   *file
	snapshot    [32]byte // the one that the timestamp names
	listed      []listed // what that snapshot lists, by role
	// until is when the timestamp or the snapshot expires, whichever is first.
	until time.Time
	// seen tells that somebody asked since that was last told to the store.
	seen atomic.Bool
}

// A listed file is what a snapshot says of a role.
type listed struct {
	role tuf.RoleName
	sum  [32]byte
}

// sum returns the hash of role's current file, which is the one that the
// timestamp leads to, not simply the newest.
func (h *head) sum(role tuf.RoleName) (sum [32]byte, ok bool) {
	if role == tuf.RoleSnapshot {
		return h.snapshot, true
	}
	i, ok := slices.BinarySearchFunc(h.listed, role, func(l listed, r tuf.RoleName) int { return cmp.Compare(l.role, r) })
	if ok {
		sum = h.listed[i].sum
	}
	return sum, ok
}

// key is the address of a file of h's repository.
func (h *head) key(role tuf.RoleName, sum [32]byte) blobKey {
	return blobKey{h.gun, h.incarnation, role, sum}
}

// look notes that somebody asked for h.
func (h *head) look() {
	if !h.seen.Load() { // most of the time it is set, and a store would bounce between cores
		h.seen.Store(true)
	}
}

// heads keep the current state of repositories in memory. What other
// instances commit is learned from the store by one query for all
// repositories ([heads.poll]); while that does not work, every read looks
// whether its repository has moved on, unless the store is away.
type heads struct {
	s    *Server
	load flight

	polled atomic.Int64 // when poll last succeeded, in Unix nanoseconds; 0: never
	away   atomic.Bool  // the last poll found the store unavailable, or had no answer in time

	mu   sync.RWMutex
	seen int64                 // guarded by mu: the last Seq that poll was told
	m    map[tuf.GUN]*head     // guarded by mu
	min  map[tuf.GUN]*minimums // guarded by mu: of loads under way
}

// minimums say what a load under way must not fall below: something happened
// to the repository meanwhile.
type minimums struct {
	seq   int64
	users int
}

// staleAfter is how long a missed poll is overlooked.
const staleAfter = 2 * time.Second

func newHeads(s *Server) *heads {
	return &heads{s: s, m: map[tuf.GUN]*head{}, min: map[tuf.GUN]*minimums{}}
}

// following reports whether memory is known to be up to date.
func (h *heads) following() bool { return h.followingAt(h.s.c.Now()) }

func (h *heads) followingAt(now time.Time) bool {
	return h.within(now, staleAfter)
}

// within reports whether poll succeeded less than d ago. A clock that was set
// back since says nothing.
func (h *heads) within(now time.Time, d time.Duration) bool {
	last := h.polled.Load()
	age := now.UnixNano() - last
	return last != 0 && age >= -int64(staleAfter) && age < int64(d)
}

// excused reports whether memory is as good as can be had: the store is away,
// and what is there is not older than what caches may keep.
func (h *heads) excused(now time.Time) bool {
	return h.away.Load() && h.within(now, h.s.c.MaxAge.Current)
}

// get returns the current state of gun, or an error matching
// [storage.ErrNotFound]. With sure, or when polling does not work, the store
// is asked whether memory is up to date.
func (h *heads) get(ctx context.Context, gun tuf.GUN, sure bool) (*head, error) {
	return h.getAt(ctx, gun, sure, h.s.c.Now())
}

// getAt is get for a request that came at now.
func (h *heads) getAt(ctx context.Context, gun tuf.GUN, sure bool, now time.Time) (*head, error) {
	h.mu.RLock()
	have := h.m[gun]
	h.mu.RUnlock()
	if have != nil && !sure && (h.followingAt(now) || h.excused(now)) {
		return have, nil
	}
	if have != nil {
		state, err := h.s.c.Store.Current(ctx, gun)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			h.drop(gun, have.seq+1)
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("read state of %s: %w", gun, err)
		case state.Seq == have.seq:
			return have, nil
		}
		h.drop(gun, state.Seq)
	}
	return h.load.do(ctx, gun, readLimit, func(ctx context.Context) (*head, error) { return h.fetch(ctx, gun) })
}

// known returns the head of gun that is in memory, if that is known to be up to
// date; else nil.
func (h *heads) known(gun tuf.GUN) *head {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !h.following() {
		return nil
	}
	return h.m[gun]
}

// fetch loads the state of gun and keeps it. A load that a commit has
// overtaken begins again.
func (h *heads) fetch(ctx context.Context, gun tuf.GUN) (*head, error) {
	h.mu.Lock()
	m := h.min[gun]
	if m == nil {
		m = &minimums{}
		h.min[gun] = m
	}
	m.users++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(h.min, gun)
		}
	}()
	for range 8 {
		state, err := h.s.c.Store.Current(ctx, gun)
		if err != nil {
			if !errors.Is(err, storage.ErrNotFound) {
				err = fmt.Errorf("read state of %s: %w", gun, err)
			}
			return nil, err
		}
		loaded, err := h.s.newHead(ctx, state, nil)
		if err != nil {
			if h.overtaken(m, state.Seq) {
				continue
			}
			return nil, err
		}
		if h.keep(loaded, m) {
			return loaded, nil
		}
	}
	return nil, fmt.Errorf("read state of %s: it changes faster than it can be read", gun)
}

func (h *heads) overtaken(m *minimums, seq int64) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return seq < m.seq
}

// keep makes a loaded head the one that is served, unless it is known to be
// out of date.
func (h *heads) keep(n *head, m *minimums) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.seq < m.seq {
		return false
	}
	h.put(n)
	return true
}

// put keeps n unless something newer is there. h.mu must be held.
func (h *heads) put(n *head) {
	gun := n.gun
	if have := h.m[gun]; have != nil {
		if have.seq >= n.seq {
			return
		}
		if have.seen.Load() {
			n.look()
		}
	} else if len(h.m) >= h.s.c.Limits.Heads {
		for victim := range h.m { // any: all can be loaded again
			delete(h.m, victim)
			break
		}
	}
	h.m[gun] = n
}

// committed tells memory at once what this instance has committed.
func (h *heads) committed(n *head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.min[n.gun]; m != nil {
		m.seq = max(m.seq, n.seq)
	}
	h.put(n)
}

// drop forgets what memory has of gun if it is older than seq.
func (h *heads) drop(gun tuf.GUN, seq int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(gun, seq)
}

func (h *heads) forget(gun tuf.GUN, seq int64) {
	if have := h.m[gun]; have != nil && have.seq < seq {
		delete(h.m, gun)
	}
	if m := h.min[gun]; m != nil {
		m.seq = max(m.seq, seq)
	}
}

// looked returns the repositories that somebody has asked for since the last
// call.
func (h *heads) looked() []tuf.GUN {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var guns []tuf.GUN
	for gun, n := range h.m {
		if n.seen.Swap(false) {
			guns = append(guns, gun)
		}
	}
	return guns
}

// poll learns what happened to any repository since the last poll.
func (h *heads) poll(ctx context.Context) error {
	const page = 1000
	h.mu.RLock()
	after := h.seen
	h.mu.RUnlock()
	for {
		// What is committed after this moment is not promised to be known.
		at := h.s.c.Now().UnixNano()
		news, err := h.ask(ctx, after, page)
		h.away.Store(errors.Is(err, storage.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded))
		if err != nil {
			return fmt.Errorf("read what was committed: %w", err)
		}
		h.mu.Lock()
		for _, n := range news {
			h.forget(n.GUN, n.Seq)
			after = max(after, n.Seq)
		}
		h.seen = max(h.seen, after)
		h.mu.Unlock()
		if len(news) < page {
			h.polled.Store(at)
			return nil
		}
	}
}

// ask asks the store for news, and does not wait for one that is away.
func (h *heads) ask(ctx context.Context, after int64, page int) ([]storage.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, staleAfter/2)
	defer cancel()
	return h.s.c.Store.Heads(ctx, after, page)
}

// newHead prepares the answers for a state. What it keeps is its own: a name
// that came with a request would keep the whole request in memory.
func (s *Server) newHead(ctx context.Context, state *storage.State, decoded *tuf.Decoded) (*head, error) {
	o := s.options(s.c.Now())
	o.Decoded = decoded
	entry, ok := state.Roles[tuf.RoleTimestamp]
	if !ok {
		// A repository without a timestamp has nothing to serve
		// (notary-protocol 3.2).
		return nil, storage.ErrNotFound
	}
	n := &head{gun: tuf.GUN(strings.Clone(string(state.GUN))), seq: state.Seq, incarnation: state.Incarnation, mirror: state.Mirror}
	var err error
	// The cache is for other files: this one is asked for through its head.
	key := n.key(tuf.RoleTimestamp, entry.SHA256)
	if n.timestamp, ok = s.blobs.get(key); !ok {
		if n.timestamp, err = s.stored(ctx, key); err != nil {
			return nil, err
		}
	}
	meta, err := tuf.Outline(tuf.RoleTimestamp, n.timestamp.raw, o)
	if err != nil {
		return nil, fmt.Errorf("read timestamp of %s: %w", n.gun, err)
	}
	n.until = meta.Expires
	if n.snapshot, ok = sum256(meta.Files[tuf.RoleSnapshot]); !ok {
		return nil, fmt.Errorf("timestamp of %s names no snapshot", n.gun)
	}
	snapshot, err := s.file(ctx, n.key(tuf.RoleSnapshot, n.snapshot))
	if err != nil {
		return nil, err
	}
	if meta, err = tuf.Outline(tuf.RoleSnapshot, snapshot.raw, o); err != nil {
		return nil, fmt.Errorf("read snapshot of %s: %w", n.gun, err)
	}
	if meta.Expires.Before(n.until) {
		n.until = meta.Expires
	}
	n.listed = make([]listed, 0, len(meta.Files))
	for _, role := range slices.Sorted(maps.Keys(meta.Files)) {
		if sum, ok := sum256(meta.Files[role]); ok {
			n.listed = append(n.listed, listed{ownRole(role), sum})
		}
	}
	return n, nil
}

func sum256(m tuf.FileMeta) (sum [32]byte, ok bool) {
	return sum, copy(sum[:], m.SHA256()) == len(sum)
}
