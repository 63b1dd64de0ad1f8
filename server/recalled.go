package server

import (
	"maps"
	"sync"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// Bounds of what is kept recalled, in bytes of files; in memory it is several
// times that.
const (
	maxRecalled     = 2 << 20
	maxRecalledEach = 64 << 10
)

// recalled keeps what this server has published last, verified and decoded, for
// the next publish to build on. It does not say what is published: that the
// store does, when it is asked before, or at the latest when it is to commit
// what was built. The zero recalled works.
type recalled struct {
	mu    sync.Mutex
	bytes int               // guarded by mu
	m     map[tuf.GUN]*base // guarded by mu
}

// last returns what is kept of gun, if that is its state of this number, which
// is supposed to be current; or nil.
func (r *recalled) last(gun tuf.GUN, seq int64) *base {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.m[gun]
	if b == nil || b.state.Seq != seq {
		return nil
	}
	now := *b
	now.supposed = true
	return &now
}

// of returns what is kept of the state, or nil.
func (r *recalled) of(state *storage.State) *base {
	b := r.last(state.GUN, state.Seq)
	same := func(a, b storage.Entry) bool { return a.SHA256 == b.SHA256 && a.Version == b.Version }
	if b == nil || b.state.Incarnation != state.Incarnation || !maps.EqualFunc(b.state.Roles, state.Roles, same) {
		return nil
	}
	b.state, b.supposed = state, false
	return b
}

// keep keeps set, which has become state, unless it is large, or not all of it.
func (r *recalled) keep(state *storage.State, set *tuf.Set) {
	b := &base{gun: state.GUN, state: state, raws: map[tuf.RoleName][]byte{}}
	for role, e := range state.Roles {
		if info, ok := set.Info(role); !ok || info.SHA256 != e.SHA256 {
			return // there is more to it
		}
		f, _ := set.File(role)
		b.raws[role] = f.Raw
	}
	var all bool
	b.past, all = set.Recalled()
	if n := b.size(); all && len(set.Roles()) == len(b.raws) && n <= maxRecalledEach {
		b.linked = b.raws[tuf.RoleSnapshot]
		r.put(b, n)
	}
}

func (r *recalled) put(b *base, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[tuf.GUN]*base{}
	}
	if have := r.m[b.gun]; have != nil {
		r.bytes -= have.size()
		delete(r.m, b.gun)
	}
	for gun, victim := range r.m { // any: all can be recalled again
		if r.bytes+n <= maxRecalled {
			break
		}
		r.bytes -= victim.size()
		delete(r.m, gun)
	}
	r.m[b.gun] = b
	r.bytes += n
}

// size is how long the files of b are, in bytes.
func (b *base) size() (n int) {
	for _, raw := range b.raws {
		n += len(raw)
	}
	return n
}
