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
		live    uint64
		changes int64
		want    int
	}{
		{0, 0, 300}, {1 << 20, 0, 300}, {10 << 20, 0, 100}, {20 << 20, 0, 50}, {23 << 20, 19, 45}, {24 << 20, 0, 45}, {25 << 20, 0, 100}, {1 << 40, 0, 100},
		{1 << 20, 1000, 300}, {5 << 20, 20, 200}, {20 << 20, 20, 200}, {25 << 20, 20, 100},
	} {
		if got := percentFor(c.live, c.changes); got != c.want {
			t.Errorf("percentFor(%d, %d) = %d, want %d", c.live, c.changes, got, c.want)
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
