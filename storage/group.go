package storage

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// Bounds of what is committed in one transaction. One commit always fits.
const (
	maxTogether      = 64
	maxTogetherBytes = 4 << 20 // compressed
)

// A pending commit waits for its transaction, or is in it.
type pending struct {
	ctx   context.Context // of the caller
	gun   tuf.GUN
	base  *State
	files []packed
	drop  []tuf.RoleName
	now   time.Time
	by    *Actor

	state *State // what becomes of it, as far as is known
	err   error
}

func (p *pending) bytes() (n int) {
	for _, f := range p.files {
		n += len(f.data)
	}
	return n
}

// newCommits returns the commits of this process. All commits take turns on the
// row of counters; those who come while one transaction is under way share the
// next one, instead of a transaction each. Another commit of a repository can
// only be judged by what becomes of the one before, and waits for it.
func (s *SQL) newCommits() *database.Group[*pending, *State] {
	return &database.Group[*pending, *State]{Most: maxTogether, Room: maxTogetherBytes, Size: (*pending).bytes,
		Key: func(p *pending) string { return string(p.gun) },
		Run: func(_ context.Context, batch []*pending) []database.Answer[*State] { return s.commitBatch(batch) }}
}

// together returns a context for a batch, which ends when no caller of it
// waits any more.
func together(batch []*pending) (context.Context, context.CancelFunc) {
	if len(batch) == 1 {
		return batch[0].ctx, func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(batch[0].ctx))
	var left atomic.Int64
	left.Store(int64(len(batch)))
	var stops []func() bool
	for _, p := range batch {
		stops = append(stops, context.AfterFunc(p.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// commitBatch commits a batch, and sees to it that none fails for what another
// one has.
func (s *SQL) commitBatch(batch []*pending) []database.Answer[*State] {
	ctx, cancel := together(batch)
	defer cancel()
	err := s.commitTogether(ctx, batch)
	alone := err != nil && len(batch) > 1 && !errors.Is(err, database.ErrUncertain) && !errors.Is(err, database.ErrUnavailable)
	answers := make([]database.Answer[*State], len(batch))
	for i, p := range batch {
		if alone {
			err = s.commitTogether(p.ctx, []*pending{p})
		}
		p.fail(err)
		answers[i] = database.Answer[*State]{Value: p.state, Err: p.err}
	}
	return answers
}

// fail notes what became of the transaction that p was in. That p was refused
// is certain even if the outcome of the others is not.
func (p *pending) fail(err error) {
	if err != nil && (p.err == nil || !errors.Is(err, database.ErrUncertain)) {
		p.state, p.err = nil, err
	}
}
