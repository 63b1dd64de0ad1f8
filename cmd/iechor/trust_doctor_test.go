package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

// The server answers between the start of the request and now, in whole
// seconds.
func TestDoctorClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 700e6, time.UTC)
	for _, test := range []struct {
		date time.Time
		want []finding
	}{
		{time.Time{}, nil},
		{now.Truncate(time.Second), []finding{{"clock", stateOK, "agrees with that of trust.example.com", nil}}},
		{now.Add(-4 * time.Minute), []finding{{"clock", stateOK, "agrees with that of trust.example.com", nil}}},
		{now.Add(-time.Hour), []finding{{"clock", stateWarning, "1 hour ahead of", nil}}},
		{now.Add(time.Hour), []finding{{"clock", stateWarning, "1 hour behind", nil}}},
		{now.Add(72 * time.Hour), []finding{{"clock", stateBroken, "3 days behind", nil}}},
	} {
		x := &examination{app: &app{now: func() time.Time { return now }}}
		x.clock(test.date, now.Add(-2*time.Second), someServer)
		for i, f := range x.Findings {
			if i < len(test.want) && f.State != stateOK {
				if len(f.Cures) != 1 {
					t.Errorf("clock(%v) has cures %q", test.date, f.Cures)
				}
				test.want[i].Finding = "this machine's is " + test.want[i].Finding + " that of " + someServer + ": good trust data can look expired, and expired data good"
				x.Findings[i].Cures = nil
			}
		}
		if diff := cmp.Diff(test.want, x.Findings); diff != "" {
			t.Errorf("clock(%v) (-want +got):\n%s", test.date, diff)
		}
	}
}

func TestDoctorExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		role tuf.RoleName
		left time.Duration
		want string // state
	}{
		{"targets", 31 * 24 * time.Hour, ""},
		{"targets", 29 * 24 * time.Hour, stateWarning},
		{"targets/releases", 29 * 24 * time.Hour, stateWarning},
		{"targets", 0, stateBroken},
		{"root", 179 * 24 * time.Hour, stateWarning},
		{"root", 181 * 24 * time.Hour, ""},
	} {
		x := &examination{app: &app{now: func() time.Time { return now }}}
		x.expiry("expiry", "", test.role, now.Add(test.left))
		got := ""
		if len(x.Findings) > 0 {
			got = x.Findings[0].State
		}
		if got != test.want || len(x.Findings) > 1 {
			t.Errorf("expiry(%s, in %v) = %v, want %q", test.role, test.left, x.Findings, test.want)
		}
	}
}

// What comes from outside does not draw on the screen, nor passes for another
// finding.
func TestDoctorPrintable(t *testing.T) {
	t.Parallel()
	x := &examination{}
	x.note("tag", stateBroken, "a\x1b[2J\nclock ok", "b\u202e")
	want := []finding{{"tag", stateBroken, "a\ufffd[2J; clock ok", []string{"b\ufffd"}}}
	if diff := cmp.Diff(want, x.Findings); diff != "" || x.Broken != 1 {
		t.Errorf("note (-want +got):\n%s", diff)
	}
}
