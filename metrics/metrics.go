// Package metrics counts what a server or signer does, for Prometheus.
//
// Make a [Counter] or a [Histogram] with all values that its labels can have:
// what else comes is counted under the last one, so that a requester cannot
// make series (attacks.md L9). A [Page] writes them in the text format.
package metrics

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Label is a name and the values that it can have. The last one also stands
// for all others.
type Label struct {
	Name   string
	Values []string
}

func (l Label) index(value string) int {
	if i := slices.Index(l.Values, value); i >= 0 {
		return i
	}
	return len(l.Values) - 1
}

// A Counter counts events by their labels. It is safe for concurrent use.
type Counter struct {
	labels []Label
	n      []atomic.Int64 // the last label turns fastest
}

// NewCounter makes a Counter, with a series for each combination of values.
func NewCounter(labels ...Label) *Counter {
	size := 1
	for _, l := range labels {
		size *= len(l.Values)
	}
	return &Counter{labels, make([]atomic.Int64, size)}
}

// Add counts an event; values are those of the labels, in their order.
func (c *Counter) Add(values ...string) {
	at := 0
	for i, l := range c.labels {
		at = at*len(l.Values) + l.index(values[i])
	}
	c.n[at].Add(1)
}

// Total returns how many events were counted, whatever their labels.
func (c *Counter) Total() (n int64) {
	for i := range c.n {
		n += c.n[i].Load()
	}
	return n
}

// bounds of the buckets, in seconds.
var bounds = [...]float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30}

// A Histogram says how long things take, by one label. It is safe for
// concurrent use.
type Histogram struct {
	label Label
	each  []distribution
}

type distribution struct {
	buckets [len(bounds) + 1]atomic.Int64
	spent   atomic.Int64 // nanoseconds
}

// NewHistogram makes a Histogram, with a series for each value.
func NewHistogram(l Label) *Histogram { return &Histogram{l, make([]distribution, len(l.Values))} }

// Observe counts what took d; a clock that was set back counts as no time.
func (h *Histogram) Observe(value string, d time.Duration) {
	d = max(d, 0)
	at, _ := slices.BinarySearch(bounds[:], d.Seconds())
	one := &h.each[h.label.index(value)]
	one.buckets[at].Add(1)
	one.spent.Add(int64(d))
}

// ContentType is that of a Page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// A Page is what Prometheus reads. The zero Page is empty.
type Page struct{ b strings.Builder }

// String returns the text.
func (p *Page) String() string { return p.b.String() }

// Append adds text that has the format already.
func (p *Page) Append(text string) { p.b.WriteString(text) }

func (p *Page) head(name, kind, help string) {
	fmt.Fprintf(&p.b, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", name, help, kind)
}

// series writes one value; pairs are names and values of labels.
func (p *Page) series(name string, value float64, pairs ...string) {
	p.b.WriteString(name)
	for i := 0; i < len(pairs); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(&p.b, "%s%s=%q", sep, pairs[i], pairs[i+1])
	}
	if len(pairs) > 0 {
		p.b.WriteString("}")
	}
	p.b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

// Gauge writes a value that goes up and down.
func (p *Page) Gauge(name, help string, value float64, pairs ...string) {
	p.head(name, "gauge", help)
	p.series(name, value, pairs...)
}

// Total writes a value that only goes up.
func (p *Page) Total(name, help string, value float64) {
	p.head(name, "counter", help)
	p.series(name, value)
}

// Gauges writes a value for each value of a label, in the label's order.
func (p *Page) Gauges(name, help string, l Label, value func(string) float64) {
	p.head(name, "gauge", help)
	for _, v := range l.Values {
		p.series(name, value(v), l.Name, v)
	}
}

// Counter writes all series of c.
func (p *Page) Counter(name, help string, c *Counter) {
	p.head(name, "counter", help)
	for at := range c.n {
		pairs := make([]string, 2*len(c.labels))
		rest := at
		for i, l := range slices.Backward(c.labels) {
			pairs[2*i], pairs[2*i+1] = l.Name, l.Values[rest%len(l.Values)]
			rest /= len(l.Values)
		}
		p.series(name, float64(c.n[at].Load()), pairs...)
	}
}

// Histogram writes all series of h.
func (p *Page) Histogram(name, help string, h *Histogram) {
	p.head(name, "histogram", help)
	for i, v := range h.label.Values {
		one, sum := &h.each[i], int64(0)
		for b := range one.buckets {
			sum += one.buckets[b].Load()
			le := "+Inf"
			if b < len(bounds) {
				le = strconv.FormatFloat(bounds[b], 'g', -1, 64)
			}
			p.series(name+"_bucket", float64(sum), h.label.Name, v, "le", le)
		}
		p.series(name+"_sum", time.Duration(one.spent.Load()).Seconds(), h.label.Name, v)
		p.series(name+"_count", float64(sum), h.label.Name, v)
	}
}
