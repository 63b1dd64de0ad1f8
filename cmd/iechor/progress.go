package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/iechor/trust/registry"
)

// progress shows work under way: on a terminal a bar for each layer, which a
// line replaces when the layer is done; elsewhere those lines alone. All of it
// goes to standard error, nothing of it with --quiet.
type progress struct {
	out  io.Writer
	bars *mpb.Progress // nil: no terminal
	open map[string]*mpb.Bar
	said map[string]bool
}

// progress starts the display. Close it before anything else is printed.
func (a *app) progress(quiet bool) *progress {
	p := &progress{out: a.err, open: map[string]*mpb.Bar{}, said: map[string]bool{}}
	if quiet {
		p.out = io.Discard
		return p
	}
	if a.bars {
		p.bars = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(60))
	}
	return p
}

// over are the words after which nothing more comes about a layer.
var over = []string{"Pushed", "Layer already exists", "Pull complete", "Already exists"}

// report takes one report. Calls come one after the other.
func (p *progress) report(r registry.Progress) {
	if r.What == "" {
		return // about the whole, which the command itself tells
	}
	what, status := printable(r.What), printable(r.Status)
	if !slices.Contains(over, r.Status) {
		p.draw(what, status, r)
		return
	}
	if p.said[what+status] {
		return
	}
	p.said[what+status] = true
	line := fmt.Sprintf("%s: %s\n", what, status)
	if p.bars == nil {
		fmt.Fprint(p.out, line)
		return
	}
	if b := p.open[what]; b != nil {
		b.Abort(true)
		delete(p.open, what)
	}
	_, _ = io.WriteString(p.bars, line) // the display may have ended already
}

func (p *progress) draw(what, status string, r registry.Progress) {
	if p.bars == nil || r.Total <= 0 {
		return
	}
	b := p.open[what]
	if b == nil {
		b = p.bars.AddBar(r.Total,
			mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(what+": "+status+" ")),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")),
		)
		p.open[what] = b
	}
	b.SetCurrent(r.Done)
}

// Close ends the display, also in the middle of the work.
func (p *progress) Close() {
	if p.bars == nil {
		return
	}
	for _, b := range p.open {
		b.Abort(true)
	}
	p.bars.Wait()
}
