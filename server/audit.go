package server

import (
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
