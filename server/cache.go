package server

import (
	"container/list"
	"context"
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

// A cache keeps the files that were used last, up to a number of bytes.
type cache struct {
	limit int64

	mu    sync.Mutex
	bytes int64                     // guarded by mu
	order *list.List                // guarded by mu; front: used last; of *cached
	items map[blobKey]*list.Element // guarded by mu
}

type cached struct {
	key blobKey
	f   *file
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, order: list.New(), items: map[blobKey]*list.Element{}}
}

func (c *cache) get(k blobKey) (*file, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).f, true
}

func (c *cache) put(k blobKey, f *file) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[k]; ok || f.size() > c.limit {
		return
	}
	c.items[k] = c.order.PushFront(&cached{k, f})
	c.bytes += f.size()
	for c.bytes > c.limit {
		last := c.order.Back()
		old := last.Value.(*cached)
		c.order.Remove(last)
		delete(c.items, old.key)
		c.bytes -= old.f.size()
	}
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
