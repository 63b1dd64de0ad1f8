package trust

import (
	"context"
	"fmt"
	"net/http"

	"github.com/iechor/trust/api"
)

// Changes returns a part of the server's changefeed of all repositories, for
// which a login needs the right to list everything. Errors are those of
// [Remote].
func (h *HTTP) Changes(ctx context.Context, q api.ChangeQuery) ([]api.ChangeRecord, error) {
	raw, err := h.do(ctx, call{
		method: http.MethodGet, route: api.Route{Kind: api.AllChanges}, actions: actionsAll, query: q.Values(), limit: api.MaxChangesBody, fresh: true,
	})
	if err != nil {
		return nil, err
	}
	changes, err := api.DecodeChanges(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotTrustServer, h.Host(), err)
	}
	return changes, nil
}
