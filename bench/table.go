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
	kilobytes             // less is better
)

// A row is one kind of work, measured on both sides.
type row struct {
	key, name string
	unit      unit
	target    float64 // what ours is to be of stock, at least or at most; 0: nothing
	most      float64 // what ours is to be at most; 0: anything
	cpu       string  // whose CPU time is meant; "": none is shown
	limit     bool    // of the machine: there is no stock side
	database  bool    // over databases, and not in memory and over SQLite
	alone     bool    // there is no stock side
	second    bool    // two servers take part
	once      bool    // and not in every round
	survives  bool    // services that end by themselves, and start again
	run       measurement

	stock []sample // one a round
	ours  []side   // one for each of what keeps our data
}

// A side is what was measured of ours on one database.
type side struct {
	on      string
	samples []sample
}

func (w *row) add(p *peer, got sample) {
	if p.stock {
		w.stock = append(w.stock, got)
		return
	}
	i := slices.IndexFunc(w.ours, func(s side) bool { return s.on == p.on })
	if i < 0 {
		i = len(w.ours)
		w.ours = append(w.ours, side{on: p.on})
	}
	w.ours[i].samples = append(w.ours[i].samples, got)
}

// sides returns what is to be shown of ours, at least one.
func (w *row) sides() []side {
	if len(w.ours) == 0 {
		return []side{{}}
	}
	return w.ours
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
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, part := range []struct {
		head string
		has  func(*row) bool
	}{
		{"STOCK IN MEMORY, OURS ON SQLITE", func(w *row) bool { return !w.limit && !w.database }},
		{"STOCK ON MARIADB, OURS ON", func(w *row) bool { return w.database }},
	} {
		head := "\n" + part.head + "\tSTOCK\tOURS\tOURS/STOCK\tTARGET\tLOWEST–HIGHEST\tROUNDS\n"
		for _, w := range r.rows {
			if part.has(w) {
				fmt.Fprint(t, head)
				head = ""
				w.print(t)
			}
		}
		_ = t.Flush() // a strings.Builder takes everything
	}
	head := "\nLIMIT\tTHIS MACHINE\tLOWEST–HIGHEST\tROUNDS\n"
	for _, w := range r.rows {
		if w.limit {
			v := values(w.sides()[0].samples)
			fmt.Fprintf(t, "%s%s\t%s\t%s\t%d\n", head, w.name, w.unit.text(median(v)), span(v, w.unit.text), len(v))
			head = ""
		}
	}
	_ = t.Flush() // as above
	fmt.Fprintln(&b)
	for _, n := range r.notes {
		fmt.Fprintln(&b, n)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// print writes the lines of a row.
func (w *row) print(t io.Writer) {
	for _, ours := range w.sides() {
		name := w.name
		if w.database && ours.on != "" {
			name += ", " + ours.on
		}
		v := values(ours.samples)
		line(t, name, w.unit.text, w.judge(median(values(w.stock)), median(v)), values(w.stock), v)
		if w.cpu != "" {
			line(t, "  CPU, "+w.cpu, seconds.text, "", cpus(w.stock), cpus(ours.samples))
		}
	}
}

// judge says what the target is, and whether it is met.
func (w *row) judge(stock, ours float64) string {
	var text string
	var met bool
	switch {
	case w.most > 0:
		text, met = "≤ "+w.unit.text(w.most), ours <= w.most
	case w.target == 0:
		return ""
	case w.unit == perSecond:
		text, met = "≥ "+strconv.FormatFloat(w.target, 'f', -1, 64), ours/stock >= w.target
	default:
		text, met = "≤ "+strconv.FormatFloat(w.target, 'f', -1, 64), ours/stock <= w.target
	}
	switch {
	case math.IsNaN(ours), w.most == 0 && math.IsNaN(stock):
	case met:
		text += " met"
	default:
		text += " missed"
	}
	return text
}

// line writes a comparison. The ratio is that of the medians; the span is that
// of the rounds, each compared with itself.
func line(w io.Writer, name string, text func(float64) string, target string, stock, ours []float64) {
	n := max(len(stock), len(ours))
	var each []float64
	for i := range min(len(stock), len(ours)) {
		each = append(each, ours[i]/stock[i])
	}
	ratio := median(ours) / median(stock)
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", name, text(median(stock)), text(median(ours)), times(ratio), target, span(each, times), n)
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
	case u == kilobytes:
		return strconv.FormatFloat(x/1000, 'f', 1, 64) + " kB"
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
