package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much may lie in memory unused until it is collected. Go's own rule is as
// much as is in use. But the garbage of requests does not become more with the
// repositories that a server holds in memory: for it a fixed amount is enough,
// more than Go allows an idle server, and less than it allows a full one. Only
// where very much is in use, by publishers of large files, each collection takes
// so long that there should be fewer of them.
const (
	garbage         = 10 << 20
	leastPercent    = 45 // of what is in use
	greatestPercent = 300
	manyBytes       = 24 << 20 // in use; above it Go's rule holds
)

// percentFor returns what to give to [debug.SetGCPercent] where so many bytes
// are in use.
func percentFor(live uint64) int {
	if live > manyBytes {
		return 100
	}
	return int(min(max(garbage*100/max(live, 1), leastPercent), greatestPercent))
}

// collect sees to it that about garbage bytes gather between collections, until
// ctx ends. The variables of Go's runtime stand above it.
func (a *app) collect(ctx context.Context) {
	if a.env("GOGC") != "" || a.env("GOMEMLIMIT") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 100 // as Go begins
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer func() { debug.SetGCPercent(100) }() // tests go on in this process
	for {
		metrics.Read(sample)
		if want := percentFor(sample[0].Value.Uint64()); want < set*9/10 || want > set*11/10 { // setting it stops everything for a moment
			debug.SetGCPercent(want)
			set = want
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
