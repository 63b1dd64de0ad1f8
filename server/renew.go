package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

const (
	pollEvery  = 100 * time.Millisecond
	renewEvery = time.Minute
	pruneEvery = time.Hour
	trailEvery = 5 * time.Minute
	tellEvery  = 10 * time.Minute
	tellAgain  = 24 * time.Hour
	renewPage  = 1000
	renewLimit = 30 * time.Second // for one repository
)

// Run does what a server has to do beside answering: it follows what other
// instances commit, renews what is about to expire, and prunes the store. It
// returns when ctx ends, after everything it started has ended. Without it
// the server works too, and asks the store at every read.
func (s *Server) Run(ctx context.Context) {
	var work sync.WaitGroup
	every := func(d time.Duration, name string, fn func(context.Context) error) {
		work.Go(func() {
			failing := false
			for ctx.Err() == nil {
				err := fn(ctx)
				if err != nil && ctx.Err() == nil && !failing {
					s.c.Log.ErrorContext(ctx, name, "err", err)
				}
				if err == nil && failing {
					s.c.Log.InfoContext(ctx, name+" works again")
				}
				failing = err != nil
				// Instances must not move in step.
				wait := time.NewTimer(d*3/4 + rand.N(d/2))
				select {
				case <-ctx.Done():
				case <-wait.C:
				}
				wait.Stop()
			}
		})
	}
	every(pollEvery, "follow commits", s.Follow)
	every(renewEvery, "renew", s.Renew)
	every(tellEvery, "tell what is read", s.tellSeen)
	every(trailEvery, "log the audit trail", s.logTrail)
	every(pruneEvery, "prune", func(ctx context.Context) error { return s.c.Store.Prune(ctx, s.c.Now()) })
	work.Wait()
	s.heads.polled.Store(0)
}

// Follow learns what other instances have committed, one pass. Until 2 seconds
// later readers are answered from memory.
func (s *Server) Follow(ctx context.Context) error { return s.heads.poll(ctx) }

// Renew signs timestamps and snapshots anew of whose life a third is spent,
// one pass over the store. Repositories that cannot be renewed are logged and
// left alone for a while. The error says that the store could not be asked, or
// that ctx ended.
func (s *Server) Renew(ctx context.Context) error {
	for {
		now := s.c.Now()
		guns, err := s.c.Store.Expiring(ctx, now.Add(s.c.Lifetimes.Timestamp*2/3), s.seenSince(now), renewPage)
		if err != nil {
			return fmt.Errorf("look for what expires: %w", err)
		}
		// Several instances do this at a time; each begins elsewhere.
		rand.Shuffle(len(guns), func(i, j int) { guns[i], guns[j] = guns[j], guns[i] })
		renewed := 0
		for _, gun := range guns {
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.unrenewed.waiting(gun, 0, now) {
				continue
			}
			ctx, _ := traces.Receive(ctx, nil) // the signer's log shall name it as well
			ctx, span := s.c.Traces.Begin(ctx, traces.Internal, "Renew", "")
			span.Text("iechor.gun", string(gun))
			_, err := s.renewing.do(ctx, gun, renewLimit, func(ctx context.Context) (*head, error) {
				return s.renew(ctx, gun, s.spent)
			})
			span.End(err)
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				s.counters.renewed.Add("failed")
				s.unrenewed.wait(gun, 0, now)
				s.c.Log.WarnContext(ctx, "not renewed", "gun", gun, "err", err)
				continue
			}
			s.counters.renewed.Add("done")
			renewed++
		}
		if renewed == 0 || len(guns) < renewPage {
			return nil
		}
	}
}

// seenSince is when a repository must have been read last to be renewed ahead
// of time (amendments: 19). The store is told of reads once a day at most.
func (s *Server) seenSince(now time.Time) time.Time {
	if s.c.Idle < 0 {
		return time.Time{}
	}
	return now.Add(-s.c.Idle - tellAgain)
}

// tellSeen tells the store which repositories somebody has asked for.
func (s *Server) tellSeen(ctx context.Context) error {
	now := s.c.Now()
	guns := s.told.due(s.heads.looked(), now)
	const page = 500
	for len(guns) > 0 {
		some := guns[:min(page, len(guns))]
		if err := s.c.Store.Seen(ctx, some, now); err != nil {
			return err
		}
		s.told.add(some)
		guns = guns[len(some):]
	}
	return nil
}

// A telling remembers of which repositories the store has been told today. It
// is used by one goroutine.
type telling struct {
	day  time.Time
	told map[tuf.GUN]bool
}

// due returns those of which it has not been told.
func (t *telling) due(guns []tuf.GUN, now time.Time) []tuf.GUN {
	if t.told == nil || now.Sub(t.day) >= tellAgain || now.Before(t.day) {
		t.day, t.told = now, make(map[tuf.GUN]bool)
	}
	return slices.DeleteFunc(guns, func(g tuf.GUN) bool { return t.told[g] })
}

func (t *telling) add(guns []tuf.GUN) {
	for _, g := range guns {
		t.told[g] = true
	}
}

// spent reports whether a file has lived so long that it is signed anew.
func (s *Server) spent(e storage.Entry, now time.Time) bool {
	life := s.c.Lifetimes.Timestamp
	if e.Role == tuf.RoleSnapshot {
		life = s.c.Lifetimes.Snapshot
	}
	return e.Expires.Sub(now) < life*2/3
}

func expired(e storage.Entry, now time.Time) bool { return now.After(e.Expires) }

// errUnrenewable says that trying again soon is of no use: a publisher has to
// act first.
var errUnrenewable = errors.New("only its publisher can renew it")

// renewExpired renews what a reader asks for and has expired. What only its
// publisher can renew is served as it is: the client sees what is wrong, and
// the publisher can read what it has to replace (attacks.md S3). So is what
// has expired only by a clock that is wrong.
func (s *Server) renewExpired(ctx context.Context, h *head) (*head, error) {
	gun, seq, now := h.gun, h.seq, s.c.Now()
	if s.unrenewed.waiting(gun, seq, now) {
		return h, nil
	}
	n, err := s.renewing.do(ctx, gun, renewLimit, func(ctx context.Context) (*head, error) {
		return s.renew(ctx, gun, expired)
	})
	switch {
	case errors.Is(err, errUnrenewable), errors.Is(err, api.ErrClock): // by the reader's clock it may be alive
		s.unrenewed.wait(gun, seq, now)
		s.c.Log.WarnContext(ctx, "served though expired", "gun", gun, "err", err)
		return h, nil
	case err != nil:
		return nil, notFound(err)
	case now.After(n.until):
		s.unrenewed.wait(n.gun, n.seq, now) // its snapshot is a client's
	}
	return n, nil
}

// renew signs the timestamp of gun anew, and its snapshot if the server signs
// it, if due says so; it returns the state since then. That another one was
// faster is success.
func (s *Server) renew(ctx context.Context, gun tuf.GUN, due func(storage.Entry, time.Time) bool) (*head, error) {
	b, err := s.base(ctx, gun)
	if errors.Is(err, storage.ErrConflict) {
		return s.heads.get(ctx, gun, true)
	}
	if err != nil {
		return nil, err
	}
	if b.state == nil {
		return nil, storage.ErrNotFound
	}
	now, floors := s.c.Now(), map[tuf.RoleName]int64{}
	// A snapshot that never became current may have been given a date: the
	// signer lets nobody go back behind it, and wants a new one.
	again := func() (changes []tuf.Change) {
		for _, role := range [...]tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
			if e := b.state.Roles[role]; due(e, now) || floors[role] >= e.Version {
				changes = append(changes, tuf.Resign{Role: role})
			}
		}
		return changes
	}
	if len(again()) == 0 {
		return s.heads.get(ctx, gun, true)
	}
	_, made, err := s.sign(ctx, b, nil, now, floors, func() (*tuf.Draft, error) {
		d := tuf.Receive(gun, b.past, b.floors(), s.options(now))
		return d, d.Apply(again()...)
	})
	if s.overtaken(ctx, b, err) {
		return s.heads.get(ctx, gun, true)
	}
	if dated := new(api.FloorError); errors.As(err, &dated) && dated.Role == tuf.RoleSnapshot {
		// Only the publisher, who signs the snapshots, can make a new one.
		return nil, fmt.Errorf("renew %s: %w: %w", gun, errUnrenewable, err)
	}
	if err != nil {
		return nil, err
	}
	if len(made) == 0 {
		return nil, fmt.Errorf("renew %s: the signer holds no key for it: %w", gun, errUnrenewable)
	}
	c, _, err := s.assemble(b, made, new(tuf.Decoded), now)
	if err != nil && !bearable(err) {
		return nil, fmt.Errorf("renew %s: %w: %w", gun, errUnrenewable, err)
	}
	if _, err := s.commit(ctx, c); err != nil && !errors.Is(err, storage.ErrConflict) {
		return nil, fmt.Errorf("renew %s: %w", gun, err)
	}
	s.c.Log.DebugContext(ctx, "renewed", "gun", gun, "files", len(made))
	return s.heads.get(ctx, gun, true)
}

// bearable reports whether a state that clients refuse is worth a new
// timestamp all the same: when something that a publisher signed has expired.
// Then clients learn that, and the publisher can repair it.
func bearable(err error) bool {
	if root := new(tuf.RootRefusal); errors.As(err, &root) {
		return root.Reason == tuf.NoLeaf && root.Expired != "" // the certificate of a root key
	}
	var refused *tuf.RoleError
	return errors.As(err, &refused) && errors.Is(err, tuf.ErrExpired) && refused.Role != tuf.RoleTimestamp
}

// A backoff remembers which repositories are not worth another try yet. The
// zero backoff works.
type backoff struct {
	mu sync.Mutex
	m  map[attempt]time.Time // guarded by mu: when to try again
}

// An attempt is the state of a repository that was tried; Seq 0 is any.
type attempt struct {
	gun tuf.GUN
	seq int64
}

const (
	backoffFor   = 5 * time.Minute
	backoffLimit = 10_000
)

func (b *backoff) waiting(gun tuf.GUN, seq int64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := b.m[attempt{gun, seq}].Sub(now)
	return left > 0 && left <= backoffFor // else the clock was set back since
}

func (b *backoff) wait(gun tuf.GUN, seq int64, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.m == nil || len(b.m) >= backoffLimit {
		b.m = map[attempt]time.Time{} // forgetting costs a try each
	}
	b.m[attempt{gun, seq}] = now.Add(backoffFor)
}
