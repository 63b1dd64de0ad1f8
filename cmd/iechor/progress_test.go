package main

import (
	"bytes"
	"testing"

	"github.com/iechor/trust/registry"
)

// Without a terminal there are no bars, and a line for every layer at its end.
func TestProgressPiped(t *testing.T) {
	t.Parallel()
	for quiet, want := range map[bool]string{false: "aaa: Pushed\nb?b: Layer already exists\n", true: ""} {
		var out bytes.Buffer
		a := &app{err: &out}
		p := a.progress(quiet)
		for _, r := range []registry.Progress{
			{Status: "The push refers to repository"},
			{What: "aaa", Status: "Pushing", Done: 1, Total: 10},
			{What: "aaa", Status: "Pushing", Done: 10, Total: 10},
			{What: "aaa", Status: "Pushed", Done: 10, Total: 10},
			{What: "aaa", Status: "Pushed", Done: 10, Total: 10},
			{What: "b\x1bb", Status: "Layer already exists"},
		} {
			p.report(r)
		}
		p.Close()
		if got := string(bytes.ReplaceAll(out.Bytes(), []byte("\ufffd"), []byte("?"))); got != want {
			t.Errorf("progress(quiet %v) printed %q, want %q", quiet, got, want)
		}
	}
}
