package storagetest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

const day = 24 * time.Hour

func prune(t *testing.T, s storage.Store, now time.Time) {
	t.Helper()
	if err := s.Prune(t.Context(), now); err != nil {
		t.Fatalf("Prune = %v", err)
	}
}

func testHeads(t *testing.T, s storage.Store) {
	ctx := t.Context()
	a := commit(t, s, "r/a", nil, Start, Files("r/a", 1, 0)...)
	b := commit(t, s, "r/b", nil, Start, Files("r/b", 1, 0)...)
	a2 := commit(t, s, "r/a", a, Start, File("r/a", tuf.RoleTimestamp, 2, 0))
	for name, c := range map[string]struct {
		after int64
		limit int
		want  []storage.Head
	}{
		"all":       {0, 0, []storage.Head{{GUN: "r/b", Seq: b.Seq}, {GUN: "r/a", Seq: a2.Seq}}},
		"one":       {0, 1, []storage.Head{{GUN: "r/b", Seq: b.Seq}}},
		"after b":   {b.Seq, 0, []storage.Head{{GUN: "r/a", Seq: a2.Seq}}},
		"after all": {a2.Seq, 0, nil},
	} {
		got, err := s.Heads(ctx, c.after, c.limit)
		if err != nil || len(got) != len(c.want) || len(got) > 0 && !cmp.Equal(c.want, got) {
			t.Errorf("%s: Heads(%d, %d) = %v, %v; want %v", name, c.after, c.limit, got, err, c.want)
		}
	}
}

func testForecast(t *testing.T, s storage.Store) {
	ctx := t.Context()
	publish := func(gun tuf.GUN, base *storage.State, life time.Duration, files ...storage.NewFile) *storage.State {
		for i := range files {
			files[i].Expires = Start.Add(life)
		}
		return commit(t, s, gun, base, Start, files...)
	}
	a := publish("r/a", nil, day, Files("r/a", 1, 0)...)
	publish("r/a", a, 60*day, File("r/a", tuf.RoleRoot, 2, 0), File("r/a", "targets/x", 1, 0), File("r/a", "targets/x/y", 1, 0))
	publish("r/b", nil, 365*day, Files("r/b", 1, 0)...)
	gone := publish("r/gone", nil, day, Files("r/gone", 1, 0)...)
	if err := s.Delete(ctx, gone, Start, storage.Actor{Operator: true}); err != nil {
		t.Fatal(err)
	}
	kinds := func(now, since time.Time) map[string]storage.Forecast {
		all, err := s.Forecast(ctx, now, since)
		if err != nil {
			t.Fatalf("Forecast = %v", err)
		}
		out := map[string]storage.Forecast{}
		for _, f := range all {
			out[f.Kind] = f
		}
		return out
	}
	for kind, want := range map[string]storage.Forecast{
		"root":       {Files: 2, Days90: 1, First: Start.Add(60 * day)},
		"targets":    {Files: 2, Days30: 1, Days90: 1, First: Start.Add(day)},
		"timestamp":  {Files: 2, Days30: 1, Days90: 1, First: Start.Add(day)},
		"delegation": {Files: 2, Days90: 2, First: Start.Add(60 * day)},
	} {
		want.Kind = kind
		if got := kinds(Start, Start)[kind]; got != want {
			t.Errorf("Forecast of %s = %+v, want %+v", kind, got, want)
		}
	}
	late := Start.Add(400 * day)
	if got := kinds(late, time.Time{})["targets"]; got.Expired != 2 || !got.First.IsZero() {
		t.Errorf("Forecast when all has expired = %+v", got)
	}
	// What nobody reads is renewed at the next read, and waits for nobody.
	if err := s.Seen(ctx, []tuf.GUN{"r/b"}, Start.Add(350*day)); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]int64{"targets": 2, "root": 2, "timestamp": 1, "snapshot": 1} {
		if got := kinds(late, Start.Add(340*day))[kind]; got.Expired != want || got.Days30 != want || got.Days90 != want || got.Files != 2 {
			t.Errorf("Forecast of %s, seen since = %+v, want %d expired of 2", kind, got, want)
		}
	}
}

func testExpiring(t *testing.T, s storage.Store) {
	ctx := t.Context()
	publish := func(gun tuf.GUN, timestamp, snapshot time.Duration) *storage.State {
		files := Files(gun, 1, 0)
		for i := range files {
			switch files[i].Role {
			case tuf.RoleTimestamp:
				files[i].Expires = Start.Add(timestamp)
			case tuf.RoleSnapshot:
				files[i].Expires = Start.Add(snapshot)
			default:
				files[i].Expires = Start // not the server's to renew
			}
		}
		return commit(t, s, gun, nil, Start, files...)
	}
	soon := publish("r/soon", day, 9*day)
	publish("r/snapshot", 9*day, 2*day)
	publish("r/later", 9*day, 9*day)
	publish("r/dead", -900*day, -900*day)
	deleted := publish("r/deleted", day, day)
	if err := s.Delete(ctx, deleted, Start, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	want := func(before time.Time, limit int, want ...tuf.GUN) {
		t.Helper()
		got, err := s.Expiring(ctx, before, time.Time{}, limit)
		if err != nil || len(got) != len(want) || len(got) > 0 && !cmp.Equal(want, got) {
			t.Errorf("Expiring(%v, %d) = %v, %v; want %v", before, limit, got, err, want)
		}
	}
	want(Start.Add(3*day), 0, "r/snapshot", "r/soon", "r/dead")
	want(Start.Add(3*day), 2, "r/snapshot", "r/soon") // the dead one keeps nobody out
	want(Start.Add(day), 0, "r/dead")                 // before is before

	// What nobody has looked at since is left to its next reader.
	since := func(since time.Time, want ...tuf.GUN) {
		t.Helper()
		got, err := s.Expiring(ctx, Start.Add(3*day), since, 0)
		if err != nil || len(got) != len(want) || len(got) > 0 && !cmp.Equal(want, got) {
			t.Errorf("Expiring, seen since %v = %v, %v; want %v", since, got, err, want)
		}
	}
	since(Start, "r/snapshot", "r/soon", "r/dead") // the first commit counts
	since(Start.Add(day))
	for _, at := range []time.Duration{2 * day, day} { // it never goes back
		if err := s.Seen(ctx, []tuf.GUN{"r/soon", "r/deleted", "r/unknown"}, Start.Add(at)); err != nil {
			t.Fatalf("Seen = %v", err)
		}
	}
	since(Start.Add(2*day), "r/soon")

	renewed := File("r/soon", tuf.RoleTimestamp, 2, 0)
	renewed.Expires = Start.Add(20 * day)
	commit(t, s, "r/soon", soon, Start, renewed)
	want(Start.Add(3*day), 0, "r/snapshot", "r/dead")

	never := File("r/never", tuf.RoleTimestamp, 1, 0)
	never.Expires = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	state := commit(t, s, "r/never", nil, Start, never)
	if got := state.Roles[tuf.RoleTimestamp].Expires; !got.Equal(never.Expires) {
		t.Errorf("expiry in the year 9999 came back as %v", got)
	}
}

func testGUNs(t *testing.T, s storage.Store) {
	ctx := t.Context()
	var last *storage.State
	for _, gun := range []tuf.GUN{"b", "a/b", "a", "a-b", "B", "a_b", "gone"} {
		last = commit(t, s, gun, nil, Start, Files(gun, 1, 0)...)
	}
	if err := s.Delete(ctx, last, Start, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	var got []tuf.GUN
	for after := tuf.GUN(""); ; {
		page, err := s.GUNs(ctx, after, 2)
		if err != nil || len(page) > 2 {
			t.Fatalf("GUNs(%q, 2) = %v, %v", after, page, err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1]
	}
	if d := cmp.Diff([]tuf.GUN{"B", "a", "a-b", "a/b", "a_b", "b"}, got); d != "" {
		t.Errorf("GUNs, page by page (-want +got):\n%s", d)
	}
}

// publishDaily makes a version a day, and returns the last state. Version v is
// committed v days after Start.
func publishDaily(t *testing.T, s storage.Store, days int64) *storage.State {
	t.Helper()
	var base *storage.State
	for v := int64(1); v <= days; v++ {
		files := append(Files(app, v, 0), File(app, tuf.RoleReleases, v, 0))
		base = commit(t, s, app, base, Start.Add(time.Duration(v)*day), files...)
	}
	return base
}

// What is current, the roots, and what caches may still point at stays.
func testPruneKeeps(t *testing.T, s storage.Store) {
	const days = 40
	base := publishDaily(t, s, days)
	now := Start.Add(days*day + time.Hour)
	for range 2 {
		prune(t, s, now)
		unchanged(t, s, app, base)
	}
	for v := int64(1); v <= days; v++ {
		created := Start.Add(time.Duration(v) * day)
		readable(t, s, app, File(app, tuf.RoleRoot, v, 0), created)
		if superseded := created.Add(day); v == days || now.Sub(superseded) <= storage.DefaultSuperseded {
			for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleReleases} {
				readable(t, s, app, File(app, role, v, 0), created)
			}
		}
	}
	readable(t, s, app, File(app, tuf.RoleTimestamp, days-1, 0), now.Add(-day-time.Hour)) // superseded an hour ago
	prune(t, s, now.Add(50*365*day))                                                      // nobody published for long
	unchanged(t, s, app, base)
	readable(t, s, app, File(app, tuf.RoleRoot, 1, 0), Start.Add(day))
	commit(t, s, app, base, now, Files(app, days+1, 0)...)
}

func testPruneForgets(t *testing.T, s storage.Store) {
	const days = 40
	base := publishDaily(t, s, days)
	prune(t, s, Start.Add(days*day+time.Hour))
	for v := int64(1); v < days-1; v++ {
		gone(t, s, app, File(app, tuf.RoleTimestamp, v, 0))
	}
	for v := int64(1); v <= 9; v++ {
		for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleReleases} {
			gone(t, s, app, File(app, role, v, 0))
		}
	}
	// The floor does not depend on what is kept.
	_, err := s.Commit(t.Context(), app, base, []storage.NewFile{File(app, tuf.RoleTimestamp, 3, 1)}, nil, Start, nil)
	var v *storage.VersionError
	if !errors.As(err, &v) || v.Have != days {
		t.Errorf("Commit of a version that was forgotten = %v, want a VersionError with %d", err, days)
	}
	changes, err := s.Changes(t.Context(), storage.ChangeQuery{})
	if err != nil || len(changes) != days {
		t.Errorf("changefeed has %d records, %v; want all %d", len(changes), err, days)
	}
}

func testPruneDeleted(t *testing.T, s storage.Store) {
	base := publishDaily(t, s, 3)
	deleted := Start.Add(100 * day)
	if err := s.Delete(t.Context(), base, deleted, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	state := commit(t, s, app, nil, deleted, Files(app, 1, 5)...)
	for _, after := range []time.Duration{0, 10 * day, 31 * day, 400 * day} {
		prune(t, s, deleted.Add(after))
		unchanged(t, s, app, state)
		for _, f := range Files(app, 1, 5) {
			readable(t, s, app, f, deleted)
		}
		if _, _, err := s.Version(t.Context(), app, tuf.RoleRoot, 2); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("root from before the deletion: %v, want ErrNotFound", err)
		}
	}
}

// However superseded files are stored, they come back as they were, also when
// those they were stored against are pruned around them.
func testPrunePacks(t *testing.T, s storage.Store) {
	const versions = 80
	files := make([]storage.NewFile, versions+1)
	var base *storage.State
	at := func(v int64) time.Time { return Start.Add(time.Duration(v) * 12 * time.Hour) }
	for v := int64(1); v <= versions; v++ {
		files[v] = Listing(60, v, 7)
		base = commit(t, s, app, base, at(v), files[v])
		if v%7 == 0 {
			prune(t, s, at(v))
		}
	}
	now := at(versions).Add(2 * time.Hour)
	prune(t, s, now)
	for v := int64(1); v <= versions; v++ {
		if v == versions || now.Sub(at(v+1)) <= storage.DefaultSuperseded {
			readable(t, s, app, files[v], at(v))
		} else {
			gone(t, s, app, files[v])
		}
	}
	prune(t, s, now.Add(15*day))
	for v := int64(versions - 28); v <= versions; v++ {
		readable(t, s, app, files[v], at(v))
	}
}

func testPruneWhileCommitting(t *testing.T, s storage.Store) {
	const versions = 30
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for finished := false; !finished; {
				select {
				case <-done:
					finished = true
				default:
				}
				if err := s.Prune(t.Context(), Start.Add(2*time.Hour)); err != nil {
					t.Errorf("Prune = %v", err)
					return
				}
			}
		})
	}
	var base *storage.State
	for v := int64(1); v <= versions; v++ {
		f := Listing(60, v, 9)
		state, err := s.Commit(t.Context(), app, base, []storage.NewFile{f}, nil, Start, nil)
		if err != nil {
			t.Errorf("Commit = %v", err)
			break
		}
		base = state
		readable(t, s, app, f, Start)
	}
	close(done)
	wg.Wait()
	for v := int64(1); v <= versions; v++ {
		readable(t, s, app, Listing(60, v, 9), Start)
	}
}
