package trust

import (
	"context"

	"github.com/iechor/trust/tuf"
)

// A Refresher is a Remote between which and its server caches may stand.
type Refresher interface {
	// Fresh returns the same remote, whose Fetch is answered by the server
	// itself, from what is committed now.
	Fresh() Remote
}

// Fresh implements [Refresher]: requests say "Cache-Control: no-cache".
func (h *HTTP) Fresh() Remote { return freshHTTP{h} }

type freshHTTP struct{ *HTTP }

func (h freshHTTP) Fetch(ctx context.Context, gun tuf.GUN, w tuf.Want) ([]byte, error) {
	return h.fetch(ctx, gun, w, true)
}

// Fresh returns the repository as a publisher must see it, before and after:
// its updates ask past caches, if the Remote is a [Refresher]. Readers can live
// with an answer that is some moments old; who publishes on top of one is
// refused, again and again if the next answer is as old.
func (r *Repository) Fresh() *Repository {
	f, ok := r.c.Remote.(Refresher)
	if !ok {
		return r
	}
	c := *r
	c.c.Remote = f.Fresh()
	return &c
}
