package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

func testEmpty(t *testing.T, s storage.Store) {
	ctx := t.Context()
	for _, gun := range []tuf.GUN{app, "", "not valid\x00", tuf.GUN(strings.Repeat("x", 1000))} {
		if _, err := s.Current(ctx, gun); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Current(%q) = %v, want ErrNotFound", gun, err)
		}
	}
	f := File(app, tuf.RoleTargets, 1, 1)
	gone(t, s, app, f)
	if err := s.Delete(ctx, &storage.State{GUN: app, Seq: 1}, Start, storage.Actor{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Delete of nothing = %v, want ErrNotFound", err)
	}
	if err := s.Delete(ctx, nil, Start, storage.Actor{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Delete(nil) = %v, want ErrNotFound", err)
	}
	if _, err := s.Commit(ctx, app, &storage.State{GUN: app, Seq: 1}, []storage.NewFile{f}, nil, Start, nil); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit on a state that never was = %v, want ErrConflict", err)
	}
	if err := s.Ping(ctx); err != nil {
		t.Errorf("Ping = %v", err)
	}
	if err := s.Prune(ctx, Start); err != nil {
		t.Errorf("Prune = %v", err)
	}
}

func testFirstCommit(t *testing.T, s storage.Store) {
	files := Files(app, 1, 0)
	files[1] = File(app, tuf.RoleTargets, 2, 0) // stock clients begin at 2
	got := commit(t, s, app, nil, Start, files...)

	want := &storage.State{GUN: app, Seq: got.Seq, Incarnation: got.Seq, Roles: map[tuf.RoleName]storage.Entry{}, Floors: map[tuf.RoleName]int64{}}
	for _, f := range files {
		want.Roles[f.Role] = storage.Entry{Role: f.Role, Version: f.Version, Length: int64(len(f.Raw)), SHA256: hash(f), Created: Start, Expires: f.Expires}
		want.Floors[f.Role] = f.Version
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("state after the first commit (-want +got):\n%s", d)
	}
	if got.Seq < 1 {
		t.Errorf("Seq = %d, want at least 1", got.Seq)
	}
	unchanged(t, s, app, want)
}

func testPartialCommit(t *testing.T, s storage.Store) {
	first := commit(t, s, app, nil, Start, Files(app, 1, 0)...)
	later := Start.Add(time.Minute)
	second := commit(t, s, app, first, later, File(app, tuf.RoleTimestamp, 5, 0)) // gaps are fine here
	if second.Seq <= first.Seq || second.Incarnation != first.Incarnation {
		t.Errorf("second state is %d since %d, the first %d since %d", second.Seq, second.Incarnation, first.Seq, first.Incarnation)
	}
	want := map[tuf.RoleName]int64{tuf.RoleRoot: 1, tuf.RoleTargets: 1, tuf.RoleSnapshot: 1, tuf.RoleTimestamp: 5}
	if d := cmp.Diff(want, second.Floors); d != "" {
		t.Errorf("floors (-want +got):\n%s", d)
	}
	if d := cmp.Diff(first.Roles[tuf.RoleTargets], second.Roles[tuf.RoleTargets]); d != "" {
		t.Errorf("targets was not in the commit and changed (-before +after):\n%s", d)
	}
	if got := second.Roles[tuf.RoleTimestamp].Created; !got.Equal(later) {
		t.Errorf("timestamp was created at %v, want %v", got, later)
	}
}

func testRefused(t *testing.T, s storage.Store) {
	base := commit(t, s, app, nil, Start, Files(app, 1, 0)...)
	other := commit(t, s, "registry.example/other", nil, Start, Files("registry.example/other", 1, 0)...)
	ok := File(app, tuf.RoleTargets, 2, 0)
	with := func(change func(*storage.NewFile)) []storage.NewFile {
		f := ok
		change(&f)
		return []storage.NewFile{f}
	}
	for name, c := range map[string]struct {
		gun   tuf.GUN
		base  *storage.State
		files []storage.NewFile
		drop  []tuf.RoleName
	}{
		"no files":           {app, base, nil, nil},
		"role twice":         {app, base, []storage.NewFile{ok, File(app, tuf.RoleTargets, 3, 0)}, nil},
		"version 0":          {app, base, with(func(f *storage.NewFile) { f.Version = 0 }), nil},
		"negative version":   {app, base, with(func(f *storage.NewFile) { f.Version = -1 }), nil},
		"no bytes":           {app, base, with(func(f *storage.NewFile) { f.Raw = nil }), nil},
		"role name":          {app, base, with(func(f *storage.NewFile) { f.Role = "targets/../root" }), nil},
		"empty role name":    {app, base, with(func(f *storage.NewFile) { f.Role = "" }), nil},
		"repository name":    {"a b", nil, []storage.NewFile{ok}, nil},
		"no repository name": {"", nil, []storage.NewFile{ok}, nil},
		"base of another":    {app, other, []storage.NewFile{ok}, nil},
		"drop of targets":    {app, base, []storage.NewFile{ok}, []tuf.RoleName{tuf.RoleTargets}},
	} {
		if _, err := s.Commit(t.Context(), c.gun, c.base, c.files, c.drop, Start, nil); err == nil || errors.Is(err, storage.ErrConflict) {
			t.Errorf("%s: Commit = %v, want an error other than ErrConflict", name, err)
		}
		unchanged(t, s, app, base)
	}
}

// One bad file takes the good ones with it.
func testAllOrNothing(t *testing.T, s storage.Store) {
	base := commit(t, s, app, nil, Start, Files(app, 3, 0)...)
	good, bad := File(app, tuf.RoleTargets, 4, 0), File(app, tuf.RoleTimestamp, 3, 1)
	_, err := s.Commit(t.Context(), app, base, []storage.NewFile{good, bad}, nil, Start, nil)
	if !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit = %v, want ErrConflict", err)
	}
	gone(t, s, app, good)
	unchanged(t, s, app, base)
	if changes, err := s.Changes(t.Context(), storage.ChangeQuery{}); err != nil || len(changes) != 1 {
		t.Errorf("changefeed has %d records, %v; want that of the first commit", len(changes), err)
	}
}

// F13 and the second line of M10: no version is stored twice, and none comes
// back, whatever the layers above let through.
func testAttackRollback(t *testing.T, s storage.Store) {
	base := commit(t, s, app, nil, Start, Files(app, 7, 0)...)
	for name, f := range map[string]storage.NewFile{
		"same version, same bytes":  File(app, tuf.RoleTargets, 7, 0),
		"same version, other bytes": File(app, tuf.RoleTargets, 7, 1),
		"lower version":             File(app, tuf.RoleTargets, 6, 0),
	} {
		_, err := s.Commit(t.Context(), app, base, []storage.NewFile{f}, nil, Start, nil)
		var v *storage.VersionError
		if !errors.As(err, &v) || !errors.Is(err, storage.ErrConflict) {
			t.Errorf("%s: Commit = %v, want a VersionError that is ErrConflict", name, err)
		} else if d := cmp.Diff(&storage.VersionError{Role: tuf.RoleTargets, Offered: f.Version, Have: 7}, v); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		unchanged(t, s, app, base)
	}
	commit(t, s, app, base, Start, File(app, tuf.RoleTargets, 8, 0))
}

// A base that has been replaced does not commit, nor delete.
func testAttackStaleBase(t *testing.T, s storage.Store) {
	old := commit(t, s, app, nil, Start, Files(app, 1, 0)...)
	state := commit(t, s, app, old, Start, File(app, tuf.RoleTimestamp, 2, 0))
	for name, base := range map[string]*storage.State{"older state": old, "nothing": nil} {
		_, err := s.Commit(t.Context(), app, base, []storage.NewFile{File(app, tuf.RoleTargets, 2, 0)}, nil, Start, nil)
		var v *storage.VersionError
		if !errors.Is(err, storage.ErrConflict) || errors.As(err, &v) {
			t.Errorf("Commit on %s = %v, want ErrConflict and no VersionError", name, err)
		}
	}
	if err := s.Delete(t.Context(), old, Start, storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Delete of an older state = %v, want ErrConflict", err)
	}
	unchanged(t, s, app, state)
	commit(t, s, app, state, Start, File(app, tuf.RoleTargets, 2, 0))
}

// M10: publishers race. Of those that built on one state exactly one wins, and
// nothing of the others is to be seen.
func testAttackInterleave(t *testing.T, s storage.Store) { Race(t, s, s) }

// Race lets publishers on several stores, which share one database, race for
// every version of a repository: of each round exactly one wins.
func Race(t *testing.T, stores ...storage.Store) {
	t.Helper()
	const rounds, publishers = 8, 6
	var base *storage.State
	for round := int64(1); round <= rounds; round++ {
		won := make([]*storage.State, publishers)
		var wg sync.WaitGroup
		for p := range publishers {
			wg.Go(func() {
				state, err := stores[p%len(stores)].Commit(t.Context(), app, base, Files(app, round, p), nil, Start, nil)
				if err == nil {
					won[p] = state
				} else if !errors.Is(err, storage.ErrConflict) {
					t.Errorf("round %d, publisher %d: Commit = %v, want ErrConflict", round, p, err)
				}
			})
		}
		wg.Wait()
		winner := -1
		for p, state := range won {
			switch {
			case state == nil:
			case winner >= 0:
				t.Fatalf("round %d: publishers %d and %d both won", round, winner, p)
			default:
				winner = p
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		base = won[winner]
		for _, s := range stores {
			unchanged(t, s, app, base)
			for _, f := range Files(app, round, winner) {
				readable(t, s, app, f, Start)
			}
		}
		for p := range publishers {
			if f := File(app, tuf.RoleTargets, round, p); p != winner {
				if _, _, err := stores[0].Blob(t.Context(), app, f.Role, hash(f)); !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("round %d: a file of publisher %d, who lost, is there: %v", round, p, err)
				}
			}
		}
	}
}

// Publishers of different repositories do not make each other fail.
func testManyRepositories(t *testing.T, s storage.Store) {
	const publishers, versions = 8, 5
	var wg sync.WaitGroup
	for p := range publishers {
		gun := tuf.GUN(fmt.Sprintf("registry.example/app%d", p))
		wg.Go(func() {
			var base *storage.State
			for v := int64(1); v <= versions; v++ {
				var err error
				if base, err = s.Commit(t.Context(), gun, base, Files(gun, v, 0), nil, Start, nil); err != nil {
					t.Errorf("Commit(%s) = %v", gun, err)
					return
				}
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	heads, err := s.Heads(t.Context(), 0, 0)
	if err != nil || len(heads) != publishers {
		t.Fatalf("Heads = %d, %v; want %d", len(heads), err, publishers)
	}
	for _, h := range heads {
		if seen[h.Seq] {
			t.Errorf("seq %d is there twice", h.Seq)
		}
		seen[h.Seq] = true
	}
}

// Many publish to a few repositories and to many at once, some on states that
// are old, some from their base, some that nobody may publish. Everything that
// was acknowledged is there, numbers are dense, and changefeed and audit trail
// have it all in their order.
func testManyPublishers(t *testing.T, s storage.Store) {
	ctx := t.Context()
	const publishers, rounds = 12, 4
	type won struct {
		gun   tuf.GUN
		state *storage.State
		files []storage.NewFile
	}
	var mu sync.Mutex
	bySeq := map[int64]won{}
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			gun := tuf.GUN(fmt.Sprintf("registry.example/app%d", p))
			if p%2 == 0 {
				gun = tuf.GUN(fmt.Sprintf("registry.example/shared%d", p%4))
			}
			for done := 0; done < rounds; {
				base, err := s.Current(ctx, gun)
				if err != nil && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("Current = %v", err)
					return
				}
				version := int64(1)
				if base != nil {
					version = base.Floors[tuf.RoleTimestamp] + 1
					var v *storage.VersionError
					if _, err := s.Commit(ctx, gun, base, Files(gun, version-1, p), nil, Start, &alice); !errors.Is(err, storage.ErrConflict) {
						t.Errorf("Commit of versions that are there = %v", err)
					} else if errors.As(err, &v) && (v.Offered != version-1 || v.Have < v.Offered) {
						t.Errorf("Commit of version %d = %v", version-1, v)
					}
				}
				files := Files(gun, version, p)
				state, err := s.Commit(ctx, gun, base, files, nil, Start, &alice)
				switch {
				case errors.Is(err, storage.ErrConflict) && p%2 == 0: // another one was faster
				case err != nil:
					t.Errorf("Commit = %v", err)
					return
				default:
					done++
					mu.Lock()
					bySeq[state.Seq] = won{gun, state, files}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	const all = publishers * rounds
	changes, err := s.Changes(ctx, storage.ChangeQuery{Limit: 1000})
	if err != nil || len(changes) != all || len(bySeq) != all {
		t.Fatalf("%d changes, %v, and %d numbers of commits; want %d", len(changes), err, len(bySeq), all)
	}
	records := trail(t, archive(t, s), storage.AuditQuery{})
	if len(records) != all {
		t.Fatalf("the audit trail has %d entries, want %d", len(records), all)
	}
	last := map[tuf.GUN]*storage.State{}
	for i := range int64(all) {
		w, change, record := bySeq[i+1], changes[i], records[i]
		if w.state == nil {
			t.Fatalf("number %d was given to nobody", i+1)
		}
		version := w.state.Roles[tuf.RoleTimestamp].Version
		if change.ID != i+1 || change.GUN != w.gun || change.Version != version {
			t.Errorf("change %d is %+v, want version %d of %s", i+1, change, version, w.gun)
		}
		if record.Seq != i+1 || record.Repository != w.gun || record.Version != version || record.Incarnation != w.state.Incarnation {
			t.Errorf("entry %d of the trail is %+v, want version %d of %s", i+1, record, version, w.gun)
		}
		for _, f := range w.files {
			readable(t, s, w.gun, f, Start)
		}
		last[w.gun] = w.state
	}
	for gun, state := range last {
		unchanged(t, s, gun, state)
	}
}

func testCancelled(t *testing.T, s storage.Store) {
	base := commit(t, s, app, nil, Start, Files(app, 1, 0)...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Commit(ctx, app, base, Files(app, 2, 0), nil, Start, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit = %v, want context.Canceled", err)
	}
	if _, err := s.Current(ctx, app); !errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Current = %v, want context.Canceled: could not look is not the same as not there", err)
	}
	unchanged(t, s, app, base)
}
