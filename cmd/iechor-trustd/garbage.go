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
// where very much is in use, by publishers of large files, or there are many
// publishers, there should be fewer collections, as each takes long.
const (
	garbage         = 10 << 20
	leastPercent    = 45 // of what is in use
	greatestPercent = 300
	manyBytes       = 24 << 20 // in use; above it Go's rule holds
	manyChanges     = 2        // of repositories between two looks, each of which makes 200 KiB of garbage; from there on, and for a while,
	manyPercent     = 200      // of what is in use is the least
)

const (
	lookEach = 100 * time.Millisecond
	while    = 2 * time.Second
)

// percentFor returns what to give to [debug.SetGCPercent] where so many bytes
// are in use, and many repositories are changed or not.
func percentFor(live uint64, many bool) int {
	least := uint64(leastPercent)
	switch {
	case live > manyBytes:
		return 100
	case many:
		least = manyPercent
	}
	return int(min(max(garbage*100/max(live, 1), least), greatestPercent))
}

// collect sees to it that about garbage bytes gather between collections, until
// ctx ends. The variables of Go's runtime stand above it. changed counts changes
// of repositories.
func (a *app) collect(ctx context.Context, changed func() int64) {
	if a.env("GOGC") != "" || a.env("GOMEMLIMIT") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 100 // as Go begins
	before := changed()
	var calm time.Time
	tick := time.NewTicker(lookEach)
	defer tick.Stop()
	defer func() { debug.SetGCPercent(100) }() // tests go on in this process
	for {
		metrics.Read(sample)
		now := changed()
		if now-before >= manyChanges {
			calm = time.Now().Add(while)
		}
		before = now
		want := percentFor(sample[0].Value.Uint64(), time.Now().Before(calm))
		if want < set*9/10 || want > set*11/10 { // setting it stops everything for a moment
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
