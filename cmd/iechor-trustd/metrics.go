package main

import (
	"runtime"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/traces"
)

// processMetrics are those that server and signer have in common.
func processMetrics(db *database.DB, t *traces.Tracer) func(*metrics.Page) {
	return func(p *metrics.Page) {
		p.Gauge("iechor_build_info", "The program that runs.", 1, "version", version(), "go", runtime.Version())
		pool := db.SQL().Stats()
		p.Gauges("iechor_database_connections", "Connections to the database.", metrics.Label{Name: "state", Values: []string{"idle", "in_use"}}, func(state string) float64 {
			if state == "idle" {
				return float64(pool.Idle)
			}
			return float64(pool.InUse)
		})
		p.Total("iechor_database_waits_total", "How often a connection was waited for.", float64(pool.WaitCount))
		p.Total("iechor_database_wait_seconds_total", "How long connections were waited for.", pool.WaitDuration.Seconds())
		retries, failures := db.Trouble()
		p.Total("iechor_database_retries_total", "Transactions that were run again: others were in the way, or the connection was lost.", float64(retries))
		p.Total("iechor_database_failures_total", "Transactions that were given up: busy, away, or of unknown outcome.", float64(failures))
		if t != nil {
			sent, lost := t.Counts()
			p.Total("iechor_traces_spans_sent_total", "Spans that the collector has taken.", float64(sent))
			p.Total("iechor_traces_spans_lost_total", "Spans that were not sent: the collector was away or too slow.", float64(lost))
		}
	}
}
