package server

import (
	"context"
	"sync"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// held remembers for a while which keys the signer has said that it holds, so
// that it is not asked before each signature. What it holds for a repository it
// holds until that is deleted, and what comes then is another incarnation;
// unless an operator has what was not deleted forgotten. The zero held works.
type held struct {
	mu sync.Mutex
	m  map[heldKey]time.Time // guarded by mu: when it was said
}

// heldFor is how long it is believed.
const heldFor = 10 * time.Minute

type heldKey struct {
	gun         tuf.GUN
	incarnation int64
	role        tuf.RoleName
	id          tuf.CanonicalID
}

// maxHeld bounds what is remembered; one more, and all are asked for again.
const maxHeld = 10_000

func (h *held) has(k heldKey, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.m[k]
	age := now.Sub(at)
	return ok && age >= 0 && age < heldFor
}

func (h *held) add(k heldKey, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil || len(h.m) >= maxHeld {
		h.m = make(map[heldKey]time.Time)
	}
	h.m[k] = now
}

func (h *held) drop(k heldKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.m, k)
}

// holds reports whether the signer holds a key for the repository of which
// state, nil for none, is published.
func (s *Server) holds(ctx context.Context, state *storage.State, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	if state == nil {
		return s.c.Keys.Holds(ctx, gun, role, id)
	}
	k := heldKey{gun, state.Incarnation, role, id}
	if s.held.has(k, s.c.Now()) {
		return true, nil
	}
	held, err := s.c.Keys.Holds(ctx, gun, role, id)
	if held && err == nil {
		s.held.add(k, s.c.Now())
	}
	return held, err
}

// lacks notes that the signer does not hold a key after all.
func (s *Server) lacks(state *storage.State, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) {
	if state != nil {
		s.held.drop(heldKey{gun, state.Incarnation, role, id})
	}
}
