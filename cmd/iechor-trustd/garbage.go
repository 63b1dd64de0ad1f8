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
	manyChanges     = 20       // of repositories within a second, each of which makes 200 KiB of garbage; from there on
	manyPercent     = 200      // of what is in use is the least
	looks           = 10       // in a second, where there are publishers
)

// percentFor returns what to give to [debug.SetGCPercent] where so many bytes
// are in use, and so many repositories are changed within a second.
func percentFor(live uint64, changes int64) int {
	least := uint64(leastPercent)
	switch {
	case live > manyBytes:
		return 100
	case changes >= manyChanges:
		least = manyPercent
	}
	return int(min(max(garbage*100/max(live, 1), least), greatestPercent))
}

// collect sees to it that about garbage bytes gather between collections, until
// ctx ends. The variables of Go's runtime stand above it. changed counts changes
// of repositories; nil: there are none.
func (a *app) collect(ctx context.Context, changed func() int64) {
	if a.env("GOGC") != "" || a.env("GOMEMLIMIT") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 100 // as Go begins
	each := time.Second
	if changed == nil {
		changed = func() int64 { return 0 }
	} else {
		each /= looks
	}
	var before [looks]int64 // what changed said at the last looks
	for i := range before {
		before[i] = changed()
	}
	next := 0
	tick := time.NewTicker(each)
	defer tick.Stop()
	defer func() { debug.SetGCPercent(100) }() // tests go on in this process
	for {
		metrics.Read(sample)
		now := changed()
		want := percentFor(sample[0].Value.Uint64(), now-before[next])
		before[next], next = now, (next+1)%looks
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
