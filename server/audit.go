package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"

	"github.com/iechor/trust/storage"
)

// actor is who makes the request r, for the audit trail; subject is who the
// Authorizer says it is, or empty.
func actor(r *http.Request, subject string) storage.Actor {
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	return storage.Actor{Subject: subject, From: from, Forwarded: r.Header.Get("X-Forwarded-For")}
}

// logTrail logs the end of the audit trail when there is something new in it.
// Where logs go to a machine of their own, nobody can rewrite the trail in the
// store without that being found (attacks.md T5).
func (s *Server) logTrail(ctx context.Context) error {
	archive, ok := s.c.Store.(storage.Archive)
	if !ok {
		return nil
	}
	last, err := archive.Audit(ctx, storage.AuditQuery{Limit: 1, Backwards: true})
	if err != nil {
		return fmt.Errorf("read the end of the audit trail: %w", err)
	}
	if len(last) == 0 || s.loggedTrail.Swap(last[0].Link.ID) == last[0].Link.ID {
		return nil
	}
	s.c.Log.InfoContext(ctx, "audit trail", "entry", last[0].Link.ID, "hash", hex.EncodeToString(last[0].Link.Hash[:]))
	return nil
}
