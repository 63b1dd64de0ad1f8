package main

import (
	"context"
	"testing"
)

// A small server may let more garbage gather than Go would have it, one that
// holds many repositories less, one that works on large files as much, and one
// that works for many publishers more.
func TestPercentFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		live uint64
		many bool
		want int
	}{
		{0, false, 300}, {1 << 20, false, 300}, {10 << 20, false, 100}, {20 << 20, false, 50}, {24 << 20, false, 45}, {25 << 20, false, 100}, {1 << 40, false, 100},
		{1 << 20, true, 300}, {5 << 20, true, 200}, {20 << 20, true, 200}, {25 << 20, true, 100},
	} {
		if got := percentFor(c.live, c.many); got != c.want {
			t.Errorf("percentFor(%d, %t) = %d, want %d", c.live, c.many, got, c.want)
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
		a.collect(context.Background(), nil) // or it would not return
	}
}
