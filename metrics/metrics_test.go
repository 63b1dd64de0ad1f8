package metrics_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/metrics"
	"github.com/iechor/trust/metrics/metricstest"
)

func TestPage(t *testing.T) {
	t.Parallel()
	a, b := metrics.Label{Name: "a", Values: []string{"x", "y"}}, metrics.Label{Name: "b", Values: []string{"1", "2", "other"}}
	c, h := metrics.NewCounter(a, b), metrics.NewHistogram(b)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				c.Add("x", "2")
				c.Add("y", "whatever a requester wrote\"\n") // L9
				h.Observe("1", time.Millisecond)
				h.Observe("2", time.Hour)
				h.Observe("2", -time.Hour)
			}
		})
	}
	all.Wait()
	if n := c.Total(); n != 1600 {
		t.Errorf("Total = %d, want 1600", n)
	}
	var p metrics.Page
	p.Counter("c_total", "Some.", c)
	p.Histogram("h_seconds", "Some.", h)
	p.Gauge("g", "One.", 1.5, "of", "it")
	p.Gauges("gs", "Each.", a, func(v string) float64 { return float64(len(v)) })
	p.Total("t_total", "All.", 7)
	got := metricstest.Parse(t, p.String())
	for series, want := range map[string]float64{
		`c_total{a="x",b="1"}`: 0, `c_total{a="x",b="2"}`: 800, `c_total{a="y",b="other"}`: 800,
		`h_seconds_bucket{b="1",le="0.001"}`: 800, `h_seconds_count{b="1"}`: 800, `h_seconds_sum{b="1"}`: 0.8,
		`h_seconds_bucket{b="2",le="0.001"}`: 800, `h_seconds_bucket{b="2",le="30"}`: 800, `h_seconds_bucket{b="2",le="+Inf"}`: 1600,
		`g{of="it"}`: 1.5, `gs{a="y"}`: 1, `t_total`: 7,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s = %v, %v, want %v", series, v, ok, want)
		}
	}
	if strings.Contains(p.String(), "requester") {
		t.Error("what a requester wrote is a label")
	}
}
