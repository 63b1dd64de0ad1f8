package storage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/databasetest"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/storage/storagetest"
	"github.com/iechor/trust/tuf"
)

// A gate is before every transaction of a store that writes. While it is shut
// each of them waits there.
type gate struct {
	shut    atomic.Bool
	arrived chan context.Context // one is at the gate, with that
	open    chan struct{}        // one may go
	passed  atomic.Int64
}

// gated opens a store behind a gate.
func gated(t *testing.T, db *database.DB) (*storage.SQL, *gate) {
	t.Helper()
	g := &gate{arrived: make(chan context.Context), open: make(chan struct{})}
	db.Around = func(ctx context.Context, what string) (context.Context, func(error)) {
		if what == "update" {
			g.passed.Add(1)
			if g.shut.Load() {
				g.arrived <- ctx
				<-g.open
			}
		}
		return ctx, func(error) {}
	}
	s, err := storage.Open(t.Context(), db)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	return s, g
}

// An outcome is what Commit returned.
type outcome struct {
	state *storage.State
	err   error
}

// commits is a store to which a test commits without waiting for the outcome.
type commits struct {
	*testing.T
	s *storage.SQL
}

func (c commits) begin(ctx context.Context, gun tuf.GUN, base *storage.State, version int64) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		state, err := c.s.Commit(ctx, gun, base, storagetest.Files(gun, version, 0), nil, storagetest.Start, &storage.Actor{Subject: string(gun)})
		out <- outcome{state, err}
	}()
	return out
}

// queued begins a commit, and returns when it waits behind another one.
func (c commits) queued(ctx context.Context, gun tuf.GUN, base *storage.State, version int64) <-chan outcome {
	n := c.s.Waiting()
	out := c.begin(ctx, gun, base, version)
	c.waiting(n + 1)
	return out
}

func (c commits) waiting(n int) {
	for c.s.Waiting() != n {
		runtime.Gosched()
	}
}

func (c commits) done(out <-chan outcome, want error) *storage.State {
	c.Helper()
	o := <-out
	if !errors.Is(o.err, want) {
		c.Errorf("Commit = %v, want %v", o.err, want)
	}
	return o.state
}

func repo(n int) tuf.GUN { return tuf.GUN(fmt.Sprintf("registry.example/app%d", n)) }

// Those who come while one transaction is under way share the next one, each
// with its own outcome, in the order in which they came; the second one of a
// repository waits for the one after.
func TestCommitTogether(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		ctx := t.Context()
		s, g := gated(t, databasetest.Open(t, fresh(t)))
		c := commits{t, s}
		old := c.done(c.begin(ctx, repo(0), nil, 3), nil)

		g.shut.Store(true)
		first := c.begin(ctx, repo(1), nil, 1)
		<-g.arrived
		var all []<-chan outcome
		for n := 2; n < 10; n++ {
			all = append(all, c.queued(ctx, repo(n), nil, 1))
		}
		renewed := c.queued(ctx, repo(0), old, 4)
		conflict := c.queued(ctx, repo(1), nil, 1) // the first one has it
		twice := c.queued(ctx, repo(2), nil, 2)    // for the batch after
		before := g.passed.Load()
		g.open <- struct{}{}
		seq := c.done(first, nil).Seq
		<-g.arrived
		c.waiting(1)
		low := c.queued(ctx, repo(11), nil, 1)
		g.open <- struct{}{}
		for _, out := range all {
			seq++
			if state := c.done(out, nil); state != nil && state.Seq != seq {
				t.Errorf("seq is %d, want %d", state.Seq, seq)
			}
		}
		if state := c.done(renewed, nil); state != nil && (state.Seq != seq+1 || state.Incarnation != old.Seq) {
			t.Errorf("the renewed one has seq %d since %d, want %d since %d", state.Seq, state.Incarnation, seq+1, old.Seq)
		}
		c.done(conflict, storage.ErrConflict)
		<-g.arrived
		g.open <- struct{}{}
		c.done(twice, storage.ErrConflict)
		if state := c.done(low, nil); state != nil && state.Seq != seq+2 {
			t.Errorf("seq after two that were refused is %d, want %d", state.Seq, seq+2)
		}
		if n := g.passed.Load() - before; n != 2 {
			t.Errorf("11 commits behind one took %d transactions, and 2 more one; want 2 altogether", n)
		}
		g.shut.Store(false)
		storagetest.Check(t, s)
		trail, err := s.Audit(ctx, storage.AuditQuery{})
		if err != nil || int64(len(trail)) != seq+2 {
			t.Fatalf("the trail has %d entries, %v; want %d", len(trail), err, seq+2)
		}
		var prev database.Link
		for i, r := range trail {
			if err := r.Link.Follows(prev); err != nil || r.Seq != int64(i+1) || r.Subject != string(r.Repository) {
				t.Errorf("entry %d: seq %d, of %s by %s; %v", i+1, r.Seq, r.Repository, r.Subject, err)
			}
			prev = r.Link
		}
	})
}

// A commit that the database refuses does not fail those beside it.
func TestCommitBesideARefusedOne(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		ctx := t.Context()
		db := databasetest.Open(t, fresh(t))
		s, g := gated(t, db)
		c := commits{t, s}
		bad := c.done(c.begin(ctx, repo(0), nil, 1), nil)
		// No program of ours writes this.
		if err := db.Update(ctx, func(x *database.Tx) error {
			_, err := x.Exec(ctx, "INSERT INTO files (repository, incarnation, role, version, digest, created, expires, retired, packed) "+
				"SELECT repository, incarnation, role, 2, digest, created, expires, 1, 0 FROM files WHERE role = 'snapshot'")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		g.shut.Store(true)
		first := c.begin(ctx, repo(1), nil, 1)
		<-g.arrived
		before, poisoned, after := c.queued(ctx, repo(2), nil, 1), c.queued(ctx, repo(0), bad, 2), c.queued(ctx, repo(3), nil, 1)
		g.open <- struct{}{}
		c.done(first, nil)
		<-g.arrived
		g.shut.Store(false)
		g.open <- struct{}{}
		c.done(poisoned, storage.ErrConflict)
		for n, out := range map[int]<-chan outcome{2: before, 3: after} {
			state := c.done(out, nil)
			if now, err := s.Current(ctx, repo(n)); err != nil || cmp.Diff(state, now) != "" {
				t.Errorf("Current = %v, %v; want what Commit returned, %v", now, err, state)
			}
		}
		if now, err := s.Current(ctx, repo(0)); err != nil || now.Seq != bad.Seq {
			t.Errorf("the refused one is at %v, %v", now, err)
		}
	})
}

// Who gives up before its commit is taken into a transaction is told so, and
// nothing is written; who gives up later hears what became of it, unless all of
// that transaction have given up.
func TestCommitGivenUp(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, fresh databasetest.Fresh) {
		s, g := gated(t, databasetest.Open(t, fresh(t)))
		c := commits{t, s}
		g.shut.Store(true)
		first := c.begin(t.Context(), repo(0), nil, 1)
		<-g.arrived
		ctx, cancel := context.WithCancel(t.Context())
		out := c.queued(ctx, repo(1), nil, 1)
		cancel()
		c.done(out, context.Canceled)
		c.waiting(0)

		ctx, cancel = context.WithCancel(t.Context())
		impatient, patient := c.queued(ctx, repo(2), nil, 1), c.queued(t.Context(), repo(3), nil, 1)
		g.open <- struct{}{}
		c.done(first, nil)
		<-g.arrived
		cancel()
		last, end := context.WithCancel(t.Context())
		one, other := c.queued(last, repo(4), nil, 1), c.queued(last, repo(5), nil, 1)
		g.open <- struct{}{}
		c.done(impatient, nil)
		c.done(patient, nil)
		batch := <-g.arrived
		end()
		<-batch.Done()
		g.shut.Store(false)
		g.open <- struct{}{}
		c.done(one, context.Canceled)
		c.done(other, context.Canceled)
		for n, want := range []error{nil, storage.ErrNotFound, nil, nil, storage.ErrNotFound, storage.ErrNotFound} {
			if _, err := s.Current(t.Context(), repo(n)); !errors.Is(err, want) {
				t.Errorf("Current(%s) = %v, want %v", repo(n), err, want)
			}
		}
		storagetest.Check(t, s)
	})
}

// Amendment 6, for commits that share a transaction: each looks for its own.
func TestLostAnswerTogether(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d, driver := newLosing(t)
	s, g := gated(t, openDB(t, temp(t), driver))
	c := commits{t, s}
	for round, want := range []error{nil, storage.ErrUncertain} {
		g.shut.Store(true)
		first := c.begin(ctx, repo(10*round), nil, 1)
		<-g.arrived
		a, b, refused := c.queued(ctx, repo(10*round+1), nil, 1), c.queued(ctx, repo(10*round+2), nil, 1), c.queued(ctx, repo(10*round), nil, 2)
		g.open <- struct{}{}
		c.done(first, nil)
		<-g.arrived
		d.first.Store(want != nil)
		d.lose.Store(true)
		g.shut.Store(false)
		g.open <- struct{}{}
		c.done(a, want)
		c.done(b, want)
		c.done(refused, storage.ErrConflict)
		d.lose.Store(false)
	}
	storagetest.Check(t, s)
}
