package server

import (
	"net/netip"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/tuf"
)

// Rates bound how often may be asked, a second; ten seconds' worth may come at
// once. Each process counts by itself. Zero fields: no bound. A client is who
// a login or certificate says it is, and otherwise an address (of IPv6 the
// network of 64 bits).
type Rates struct {
	Requests          int // of one client, all of them
	Changes           int // of one client: uploads, deletions, and questions for keys
	RepositoryChanges int // of one repository, by all clients together
}

// Names of what is limited, in metrics and logs.
const (
	limitRequests   = "requests"
	limitChanges    = "changes"
	limitRepository = "repository-changes"
	limitUploads    = "uploads"
)

// limiters are those of one server.
type limiters struct {
	requests, changes, repository *api.Meter
	uploads                       chan struct{} // one for each upload that is under way
	limited                       *metrics.Counter
}

func newLimiters(r Rates, uploads int, limited *metrics.Counter) limiters {
	return limiters{
		api.NewMeter(r.Requests), api.NewMeter(r.Changes), api.NewMeter(r.RepositoryChanges), make(chan struct{}, uploads), limited,
	}
}

// changes reports whether op makes work for the store and the signer.
func (op operation) changes() bool {
	switch op {
	case opUpload, opKey, opRotate, opDelete:
		return true
	}
	return false
}

// take counts a request, or returns why it has to wait.
func (l *limiters) take(op operation, who string, from func() netip.Prefix, gun tuf.GUN, now time.Time) error {
	if l.requests == nil && l.changes == nil && l.repository == nil {
		return nil
	}
	if who == "" {
		who = "from " + from().String() // no name has a space
	}
	wait, limit := l.requests.Take(who, now), limitRequests
	if wait == 0 && op.changes() {
		if wait, limit = l.changes.Take(who, now), limitChanges; wait == 0 {
			wait, limit = l.repository.Take(string(gun), now), limitRepository
		}
	}
	if wait > 0 {
		return l.refuse(limit, wait)
	}
	return nil
}

// upload takes a place among the uploads that are under way; done gives it
// back.
func (l *limiters) upload() (done func(), err error) {
	select {
	case l.uploads <- struct{}{}:
		return func() { <-l.uploads }, nil
	default:
		return nil, l.refuse(limitUploads, time.Second)
	}
}

func (l *limiters) refuse(limit string, wait time.Duration) error {
	l.limited.Add(limit)
	e := api.NewError(api.TooMany, "limit of "+limit)
	e.RetryAfter = int((wait + time.Second - 1) / time.Second)
	return e
}
