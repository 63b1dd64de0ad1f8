package database

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// A Group runs the work of callers who come at once together: while one batch
// is run, those who come wait, and are the next batch. A caller who comes alone
// waits for nothing. It is what spares round trips and syncs where every
// transaction would write the same row anyway.
//
// Run is called by one of the callers, never twice at once, with a context that
// does not end when a caller leaves. The fields must be set before the first Do
// and not be changed; a Group is safe for concurrent use.
type Group[Q, A any] struct {
	// Run does the work of a batch, and returns an answer for each, in order.
	Run func(ctx context.Context, batch []Q) []Answer[A]
	// Most bounds a batch.
	Most int
	// Size bounds a batch together with Room: so much all of it takes, unless
	// it is a single one. Nil: nothing takes room.
	Size func(Q) int
	Room int
	// Key names what two of a batch must not have in common; the second one
	// waits for the next batch.
	Key func(Q) string

	mu      sync.Mutex
	running bool            // guarded by mu: somebody leads, or was told to
	waiting []*member[Q, A] // guarded by mu; if running, and nobody runs a batch, the first one leads
}

// An Answer is what became of the work of one caller.
type Answer[A any] struct {
	Value A
	Err   error
}

type member[Q, A any] struct {
	q      Q
	lead   chan struct{} // closed when it is to run the next batch
	done   chan struct{} // closed when answer is set
	answer Answer[A]
}

var errNoAnswer = errors.New("the transaction that this was part of did not end properly")

// Do has q run in one of the next batches, and returns what became of it. When
// ctx ends before q was taken into a batch, the error is ctx's, and q never is.
func (g *Group[Q, A]) Do(ctx context.Context, q Q) (A, error) {
	var none A
	if err := ctx.Err(); err != nil {
		return none, err
	}
	m := &member[Q, A]{q: q, lead: make(chan struct{}), done: make(chan struct{}), answer: Answer[A]{Err: errNoAnswer}}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	if !g.running {
		g.appoint()
	}
	g.mu.Unlock()
	select {
	case <-m.done:
	case <-m.lead:
		g.run(ctx, m)
	case <-ctx.Done():
		if g.leave(m) {
			return none, ctx.Err()
		}
		<-m.done
	}
	return m.answer.Value, m.answer.Err
}

// Waiting returns how many wait for a batch.
func (g *Group[Q, A]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// appoint has the first of those who wait lead. g.mu must be held.
func (g *Group[Q, A]) appoint() {
	if g.running = len(g.waiting) > 0; g.running {
		close(g.waiting[0].lead)
	}
}

// leave reports whether m was still waiting, and is not any more.
func (g *Group[Q, A]) leave(m *member[Q, A]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, m)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	select {
	case <-m.lead:
		g.appoint()
	default:
	}
	return true
}

// run runs the batch that m, the first of those who wait, leads.
func (g *Group[Q, A]) run(ctx context.Context, m *member[Q, A]) {
	batch := g.take()
	defer func() { // also when Run panics
		for _, m := range batch {
			close(m.done)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.appoint()
	}()
	work := make([]Q, len(batch))
	for i, m := range batch {
		work[i] = m.q
	}
	for i, a := range g.Run(context.WithoutCancel(ctx), work) {
		batch[i].answer = a
	}
}

// take removes the next batch from those who wait: in their order, and the
// first one in any case.
func (g *Group[Q, A]) take() (batch []*member[Q, A]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	keys, room, full := map[string]bool{}, g.Room, false
	var rest []*member[Q, A]
	for _, m := range g.waiting {
		key := g.Key(m.q)
		size := 0
		if g.Size != nil {
			size = g.Size(m.q)
		}
		// Nobody is overtaken but by those who need not wait for the same.
		full = full || len(batch) > 0 && (len(batch) >= g.Most || size > room)
		if full || keys[key] {
			rest = append(rest, m)
			continue
		}
		batch, keys[key], room = append(batch, m), true, room-size
	}
	g.waiting = rest
	return batch
}
