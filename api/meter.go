package api

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// MeterBurst is how many seconds' worth of calls a [Meter] lets come at once.
const MeterBurst = 10

// maxMeters bounds the names that are counted at once. Those that come to rest
// are forgotten.
const maxMeters = 20_000

// A Meter bounds how often each of many names may ask (token buckets). It is
// safe for concurrent use. A nil Meter has no bound.
type Meter struct {
	rate int

	mu sync.Mutex
	m  map[string]*rate.Limiter // guarded by mu
}

// NewMeter returns a Meter of so many calls a second, nil for 0.
func NewMeter(perSecond int) *Meter {
	if perSecond == 0 {
		return nil
	}
	return &Meter{rate: perSecond, m: map[string]*rate.Limiter{}}
}

// Take counts one call of name, or returns after how long one is allowed.
func (m *Meter) Take(name string, now time.Time) (wait time.Duration) {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.m[name]
	if l == nil {
		if len(m.m) >= maxMeters {
			m.sweep(now)
		}
		l = rate.NewLimiter(rate.Limit(m.rate), MeterBurst*m.rate)
		m.m[name] = l
	}
	r := l.ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// sweep forgets the names that are at rest, and all of them if none is.
func (m *Meter) sweep(now time.Time) {
	for name, l := range m.m {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(m.m, name)
		}
	}
	if len(m.m) >= maxMeters {
		clear(m.m)
	}
}
