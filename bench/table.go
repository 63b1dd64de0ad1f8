package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// A unit says what a row's values are.
type unit int

const (
	perSecond unit = iota // more is better
	seconds               // less is better
	requests              // less is better
	mebibytes             // less is better
)

// A row is one kind of work, measured on both sides.
type row struct {
	key, name string
	unit      unit
	cpu       string // whose CPU time is meant; "": none is shown
	limit     bool   // of the machine: there is no stock side
	run       measurement

	stock, ours []sample // one a round
}

func (w *row) add(ours bool, got sample) {
	if ours {
		w.ours = append(w.ours, got)
	} else {
		w.stock = append(w.stock, got)
	}
}

// A report is what is printed.
type report struct {
	facts []string // about machine and programs
	rows  []*row
	notes []string
}

// print writes the whole report.
func (r *report) print(out io.Writer) error {
	var b strings.Builder
	for _, f := range r.facts {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintln(&b)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WORK\tSTOCK\tOURS\tOURS/STOCK\tLOWEST–HIGHEST\tROUNDS")
	limits := false
	for _, w := range r.rows {
		if w.limit {
			limits = true
			continue
		}
		line(t, w.name, w.unit.text, values(w.stock), values(w.ours))
		if w.cpu != "" {
			line(t, "  CPU, "+w.cpu, seconds.text, cpus(w.stock), cpus(w.ours))
		}
	}
	_ = t.Flush() // a strings.Builder takes everything
	if limits {
		fmt.Fprintln(&b)
		fmt.Fprintln(t, "LIMIT\tTHIS MACHINE\tLOWEST–HIGHEST\tROUNDS")
		for _, w := range r.rows {
			if v := values(w.ours); w.limit {
				fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", w.name, w.unit.text(median(v)), span(v, w.unit.text), len(v))
			}
		}
		_ = t.Flush() // as above
	}
	fmt.Fprintln(&b)
	for _, n := range r.notes {
		fmt.Fprintln(&b, n)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// line writes a comparison. The ratio is that of the medians; the span is that
// of the rounds, each compared with itself.
func line(w io.Writer, name string, text func(float64) string, stock, ours []float64) {
	n := max(len(stock), len(ours))
	var each []float64
	for i := range min(len(stock), len(ours)) {
		each = append(each, ours[i]/stock[i])
	}
	ratio := median(ours) / median(stock)
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", name, text(median(stock)), text(median(ours)), times(ratio), span(each, times), n)
}

func values(s []sample) (v []float64) {
	for _, one := range s {
		v = append(v, one.value)
	}
	return v
}

// cpus returns nothing if the time is not known for every round.
func cpus(s []sample) (v []float64) {
	for _, one := range s {
		if one.cpu <= 0 {
			return nil
		}
		v = append(v, one.cpu.Seconds())
	}
	return v
}

func span(v []float64, text func(float64) string) string {
	if len(v) < 2 {
		return "-"
	}
	return text(slices.Min(v)) + "–" + text(slices.Max(v))
}

func times(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "-"
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// text writes a value with its unit, "-" for one that was not measured.
func (u unit) text(x float64) string {
	switch {
	case math.IsNaN(x):
		return "-"
	case u == perSecond:
		return thousands(int64(math.Round(x))) + "/s"
	case u == mebibytes:
		return strconv.FormatFloat(x/(1<<20), 'f', 1, 64) + " MiB"
	case u == requests:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	switch d := time.Duration(x * float64(time.Second)); {
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/float64(time.Microsecond))
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	default:
		return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
	}
}

// thousands writes n with commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
