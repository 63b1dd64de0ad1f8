package api

import (
	"fmt"
	"testing"
	"time"
)

// Many names do not fill memory, and those at rest are forgotten first.
func TestMeterIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := NewMeter(1)
	for range MeterBurst {
		if wait := m.Take("busy", now); wait != 0 {
			t.Fatalf("Take = %v", wait)
		}
	}
	for i := range 2 * maxMeters {
		m.Take(fmt.Sprint(i), now.Add(-time.Hour))
		if len(m.m) > maxMeters {
			t.Fatalf("%d names are kept", len(m.m))
		}
	}
	m.Take("one more", now)
	for i := range maxMeters {
		m.Take(fmt.Sprint("again", i), now)
	}
	if len(m.m) > maxMeters {
		t.Errorf("%d names are kept", len(m.m))
	}
}
