package database_test

import (
	"testing"
	"time"

	"github.com/iechor/trust/database"
)

// What is remembered is what the last transaction has left behind. After another
// one of this process it is read again, once; after one of another process for a
// while.
func TestRemembered(t *testing.T) {
	t.Parallel()
	now := time.Now()
	newOne := func() *database.Remembered[int, string, int] {
		m := &database.Remembered[int, string, int]{Same: func(a, b int) bool { return a == b }, Most: 2}
		at, _, _, _ := m.Of(nil, now)
		m.Keep(at, 0, 1, map[string]int{"a": 10})
		return m
	}
	of := func(m *database.Remembered[int, string, int], name string, now time.Time) (at, end, row int) {
		t.Helper()
		at, end, rows, ok := m.Of([]string{name}, now)
		if !ok {
			end = -1
		}
		return at, end, rows[name]
	}
	for name, c := range map[string]struct {
		then     func(m *database.Remembered[int, string, int], at int)
		end, row int // of a; -1, 0: it is not remembered
		soon     int // the end, when everything was kept again
	}{
		"nothing":                   {func(*database.Remembered[int, string, int], int) {}, 1, 10, 2},
		"one more, of another name": {func(m *database.Remembered[int, string, int], at int) { m.Keep(at, 1, 2, map[string]int{"b": 20}) }, 2, 10, 3},
		"one on top of another end": {func(m *database.Remembered[int, string, int], at int) { m.Keep(at, 5, 6, map[string]int{"b": 20}) }, -1, 0, 7},
		"one that is not kept":      {func(m *database.Remembered[int, string, int], _ int) { m.Forget() }, -1, 0, 2},
		"one that is kept too late": {func(m *database.Remembered[int, string, int], at int) {
			m.Forget()
			m.Keep(at, 1, 2, map[string]int{"a": 20})
		}, -1, 0, 2},
		"one of another process":           {func(m *database.Remembered[int, string, int], at int) { m.Wrong(at, now) }, -1, 0, -1},
		"one of this process, found wrong": {func(m *database.Remembered[int, string, int], at int) { m.Forget(); m.Wrong(at, now) }, -1, 0, 2},
	} {
		m := newOne()
		at, _, _ := of(m, "a", now)
		c.then(m, at)
		at, end, row := of(m, "a", now)
		if end != c.end || row != c.row {
			t.Errorf("%s: %d, row %d; want %d, %d", name, end, row, c.end, c.row)
		}
		have := max(c.soon-1, 1)
		m.Keep(at, have, have+1, map[string]int{"a": 30})
		if _, end, _ := of(m, "a", now); end != c.soon {
			t.Errorf("%s, and then another: %d, want %d", name, end, c.soon)
		}
		if _, end, row := of(m, "a", now.Add(time.Minute)); end != have+1 || row != 30 {
			t.Errorf("%s, and then another, after a minute: %d, row %d; want %d, 30", name, end, row, have+1)
		}
	}

	m := newOne()
	at, _, _ := of(m, "a", now)
	m.Keep(at, 1, 2, map[string]int{"b": 20, "c": 30})
	left := 0
	for _, name := range []string{"a", "b", "c"} {
		if _, end, _ := of(m, name, now); end == 2 {
			left++
		}
	}
	if left != 2 {
		t.Errorf("%d rows are remembered, want 2", left)
	}
}
