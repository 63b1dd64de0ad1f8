package signer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// Rates bound how often callers over the network may ask, a second; ten
// seconds' worth may come at once. They are counted by each process by itself.
// Zero fields mean the defaults, which no honest server meets: they stop one
// that was broken into, or runs in circles, from wearing out keys and database.
type Rates struct {
	Signatures           int // of one identity; 2000
	RepositorySignatures int // for one repository; 200
	Keys                 int // asked for by one identity; 100
	RepositoryKeys       int // asked for, for one repository; 10
}

// meters are those of one service.
type meters struct {
	signatures, repositorySignatures, keys, repositoryKeys *api.Meter
	alarms                                                 *alarms
}

func newMeters(r Rates) meters {
	return meters{
		api.NewMeter(cmp.Or(r.Signatures, 2000)), api.NewMeter(cmp.Or(r.RepositorySignatures, 200)),
		api.NewMeter(cmp.Or(r.Keys, 100)), api.NewMeter(cmp.Or(r.RepositoryKeys, 10)), &alarms{m: map[string]*alarmed{}},
	}
}

// allow counts a call of who for gun. The error is an *[api.SlowDownError].
func allow(identity, repository *api.Meter, who string, gun tuf.GUN, now time.Time) error {
	wait := max(identity.Take(who, now), repository.Take(string(gun), now))
	if wait > 0 {
		return &api.SlowDownError{After: wait}
	}
	return nil
}

// maxAlarmed bounds the callers whose refusals are counted.
const maxAlarmed = 20_000

// alarms keeps refusals from filling the audit log: each caller has so many at
// once, and then one now and then, which tells how many were left out.
type alarms struct {
	mu sync.Mutex
	m  map[string]*alarmed // guarded by mu
}

type alarmed struct {
	limit   *rate.Limiter
	leftOut int
}

const (
	alarmBurst = 20
	alarmEvery = time.Minute
)

// take reports whether a refusal of who is to be recorded, and how many of the
// last ones were not.
func (a *alarms) take(who string, now time.Time) (leftOut int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.m[who]
	if one == nil {
		if len(a.m) >= maxAlarmed {
			clear(a.m)
		}
		one = &alarmed{limit: rate.NewLimiter(rate.Every(alarmEvery), alarmBurst)}
		a.m[who] = one
	}
	if !one.limit.AllowN(now, 1) {
		one.leftOut++
		return 0, false
	}
	leftOut, one.leftOut = one.leftOut, 0
	return leftOut, true
}

// alarm records in the audit log that a request to sign was refused, if the
// reason is one that an honest server does not meet.
func (s *Service) alarm(ctx context.Context, who string, r api.SignRequest, err error) {
	e := AuditEntry{Identity: who, Payload: payloadHash(r.Payload), Detail: err.Error()}
	var restored *api.RestoredError
	switch {
	case errors.As(err, &restored):
		e.Event = AuditRestored
	case errors.Is(err, ErrRefused):
		e.Event = AuditRefused
	default:
		return
	}
	if checkName(r.GUN, r.Role) == nil {
		e.GUN, e.Role = r.GUN, r.Role
	}
	s.sound(ctx, e)
}

// sound records an alarm. That it cannot is no reason to answer otherwise.
func (s *Service) sound(ctx context.Context, e AuditEntry) {
	e.Time = s.now()
	leftOut, ok := s.meters.alarms.take(e.Identity, e.Time)
	if !ok {
		return
	}
	if leftOut > 0 {
		e.Detail = fmt.Sprintf("(%d more refusals before this one were not recorded) %s", leftOut, e.Detail)
	}
	if err := s.table.note(context.WithoutCancel(ctx), e); err != nil {
		s.log.ErrorContext(ctx, "refusal not recorded", "identity", e.Identity, "event", e.Event, "err", err)
	}
}
