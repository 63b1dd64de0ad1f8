package main

import (
	"context"
	"testing"
)

// A small server may let more garbage gather than Go would have it, one that
// holds many repositories less, and one that works on large files as much.
func TestPercentFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 300}, {1 << 20, 300}, {10 << 20, 100}, {20 << 20, 50}, {23 << 20, 45}, {24 << 20, 45}, {25 << 20, 100}, {1 << 40, 100}} {
		if got := percentFor(c.live); got != c.want {
			t.Errorf("percentFor(%d) = %d, want %d", c.live, got, c.want)
		}
	}
}

// Who has set Go's own variables is not overruled.
func TestCollectLeavesOperatorsChoice(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		a := &app{env: func(n string) string {
			if n == name {
				return "50"
			}
			return ""
		}}
		a.collect(context.Background()) // or it would not return
	}
}
