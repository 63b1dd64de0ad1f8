package server

import (
	"container/list"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/iechor/trust/tuf"
)

// A blobKey names an immutable file. The incarnation makes the files of a
// deleted repository unreachable; the role stops a file from being served
// under another role's name.
type blobKey struct {
	gun         tuf.GUN
	incarnation int64
	role        tuf.RoleName
	sum         [32]byte
}

// own is k without what it shares with anything else, such as the request that
// it came with.
func (k blobKey) own() blobKey {
	k.gun, k.role = tuf.GUN(strings.Clone(string(k.gun))), ownRole(k.role)
	return k
}

// ownRole is role without the text that it was cut out of.
func ownRole(role tuf.RoleName) tuf.RoleName {
	for _, known := range [...]tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		if role == known {
			return known
		}
	}
	return tuf.RoleName(strings.Clone(string(role)))
}

// A cache keeps the files that were used last, up to a number of bytes: of
// small ones, which the store has at hand, and of large ones, which it has to
// put together.
type cache struct {
	mu    sync.Mutex
	items map[blobKey]*list.Element // guarded by mu; of *cached
	small shelf                     // guarded by mu
	large shelf                     // guarded by mu
}

// largeAbove is the size above which a file is a large one, in bytes.
const largeAbove = 64 << 10

// A shelf is the part of a cache that has a limit.
type shelf struct {
	limit int64
	bytes int64
	order *list.List // front: used last
}

type cached struct {
	key blobKey
	f   *file
}

func newCache(small, large int64) *cache {
	return &cache{items: map[blobKey]*list.Element{}, small: shelf{limit: small, order: list.New()}, large: shelf{limit: large, order: list.New()}}
}

func (c *cache) shelf(f *file) *shelf {
	if len(f.raw) > largeAbove {
		return &c.large
	}
	return &c.small
}

func (c *cache) get(k blobKey) (*file, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[k]
	if !ok {
		return nil, false
	}
	f := e.Value.(*cached).f
	c.shelf(f).order.MoveToFront(e)
	return f, true
}

func (c *cache) put(k blobKey, f *file) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shelf(f)
	if _, ok := c.items[k]; ok || f.size() > s.limit {
		return
	}
	k = k.own()
	c.items[k] = s.order.PushFront(&cached{k, f})
	s.bytes += f.size()
	for s.bytes > s.limit {
		last := s.order.Back()
		old := last.Value.(*cached)
		s.order.Remove(last)
		delete(c.items, old.key)
		s.bytes -= old.f.size()
	}
}

// holds returns how much is in memory.
func (c *cache) holds() (bytes int64, files int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.small.bytes + c.large.bytes, len(c.items)
}

// A flight runs one call per repository at a time; callers that come
// meanwhile share its result. The zero flight works.
type flight struct {
	mu    sync.Mutex
	calls map[tuf.GUN]*call // guarded by mu
}

type call struct {
	done chan struct{}
	h    *head
	err  error
}

// do runs fn, or waits for the call that already does. fn gets a context of
// its own, because the first caller must not take the others down when it
// leaves.
func (f *flight) do(ctx context.Context, gun tuf.GUN, timeout time.Duration, fn func(context.Context) (*head, error)) (*head, error) {
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[tuf.GUN]*call{}
	}
	c, running := f.calls[gun]
	if !running {
		c = &call{done: make(chan struct{})}
		f.calls[gun] = c
	}
	f.mu.Unlock()
	if !running {
		inner, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		defer func() {
			f.mu.Lock()
			delete(f.calls, gun)
			f.mu.Unlock()
			close(c.done)
		}()
		c.err = errPanicked // replaced unless fn panics
		c.h, c.err = fn(inner)
		return c.h, c.err
	}
	select {
	case <-c.done:
		return c.h, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// locks lets callers take turns, by repository. The zero locks work.
type locks struct {
	mu   sync.Mutex
	held map[tuf.GUN]*turn // guarded by mu
}

type turn struct {
	token chan struct{}
	users int // guarded by locks.mu
}

// lock waits for its turn; the caller must call unlock once unless err is not
// nil.
func (l *locks) lock(ctx context.Context, gun tuf.GUN) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[tuf.GUN]*turn{}
	}
	t := l.held[gun]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		l.held[gun] = t
	}
	t.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(l.held, gun)
		}
	}
	select {
	case t.token <- struct{}{}:
		return func() { <-t.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
