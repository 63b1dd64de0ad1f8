package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

func testHistory(t *testing.T, s storage.Store) {
	var base *storage.State
	for v := int64(1); v <= 5; v++ {
		base = commit(t, s, app, base, Start.Add(time.Duration(v)*time.Second), Files(app, v, 0)...)
	}
	for v := int64(1); v <= 5; v++ {
		for _, f := range Files(app, v, 0) {
			readable(t, s, app, f, Start.Add(time.Duration(v)*time.Second))
		}
	}
	for _, v := range []int64{0, -1, 6, 1 << 62} {
		if _, _, err := s.Version(t.Context(), app, tuf.RoleTargets, v); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Version(%d) = %v, want ErrNotFound", v, err)
		}
	}
}

// The stock server can serve a file under the name of another role when the
// hash is right. A reader who asks for targets must never get a snapshot.
func testAttackOtherRole(t *testing.T, s storage.Store) {
	const other tuf.GUN = "registry.example/other"
	state := commit(t, s, app, nil, Start, Files(app, 1, 0)...)
	commit(t, s, other, nil, Start, Files(other, 1, 0)...)
	for role := range state.Roles {
		for asked := range state.Roles {
			if _, _, err := s.Blob(t.Context(), app, asked, state.Roles[role].SHA256); role != asked && !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("hash of %s under %s: %v, want ErrNotFound", role, asked, err)
			}
		}
		if _, _, err := s.Blob(t.Context(), other, role, state.Roles[role].SHA256); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("hash of %s under another repository: %v, want ErrNotFound", role, err)
		}
	}
}

// Two repositories may hold the same bytes; the end of one is not the end of
// the other.
func testSharedContent(t *testing.T, s storage.Store) {
	const other tuf.GUN = "registry.example/other"
	same := []storage.NewFile{Listing(100, 1, 1), Listing(100, 2, 1), Listing(100, 3, 1)}
	var a, b *storage.State
	for i := range same {
		a = commit(t, s, app, a, Start, same[i])
		again := same[len(same)-1-i] // the same bytes in the other order
		again.Version = int64(i + 1)
		b = commit(t, s, other, b, Start, again)
	}
	if err := s.Prune(t.Context(), Start.Add(2*time.Hour)); err != nil {
		t.Fatalf("Prune = %v", err)
	}
	for i, f := range same {
		readable(t, s, app, f, Start)
		f.Version = int64(len(same) - i)
		readable(t, s, other, f, Start)
	}
	if err := s.Delete(t.Context(), a, Start, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	if err := s.Prune(t.Context(), Start.Add(40*24*time.Hour)); err != nil {
		t.Fatalf("Prune = %v", err)
	}
	last := same[0]
	last.Version = int64(len(same))
	readable(t, s, other, last, Start)
	unchanged(t, s, other, b)
}

// S3: a delegation that was removed and is added again begins anew, at
// whatever version its new owner chooses.
func testDrop(t *testing.T, s storage.Store) {
	ctx := t.Context()
	old := File(app, tuf.RoleReleases, 9, 0)
	base := commit(t, s, app, nil, Start, append(Files(app, 1, 0), old)...)
	base, err := s.Commit(ctx, app, base, []storage.NewFile{File(app, tuf.RoleTargets, 2, 0)}, []tuf.RoleName{tuf.RoleReleases, "targets/never"}, Start, nil)
	if err != nil {
		t.Fatalf("Commit = %v", err)
	}
	unchanged(t, s, app, base)
	if _, ok := base.Roles[tuf.RoleReleases]; ok {
		t.Error("the dropped role is current")
	}
	if floor, ok := base.Floors[tuf.RoleReleases]; ok {
		t.Errorf("the dropped role has floor %d", floor)
	}
	readable(t, s, app, old, Start) // snapshots in caches still name it

	first := File(app, tuf.RoleReleases, 1, 1)
	base = commit(t, s, app, base, Start, first)
	readable(t, s, app, first, Start)
	base, err = s.Commit(ctx, app, base, []storage.NewFile{File(app, tuf.RoleReleases, 1, 2)}, []tuf.RoleName{tuf.RoleReleases}, Start, nil)
	if err != nil {
		t.Fatalf("Commit that drops a role and brings it back = %v", err)
	}
	unchanged(t, s, app, base)
	if got := base.Floors[tuf.RoleReleases]; got != 1 {
		t.Errorf("floor of the role that came back = %d, want 1", got)
	}
	readable(t, s, app, File(app, tuf.RoleReleases, 1, 2), Start)
	_, err = s.Commit(ctx, app, base, []storage.NewFile{File(app, tuf.RoleReleases, 1, 3)}, nil, Start, nil)
	var v *storage.VersionError
	if !errors.As(err, &v) {
		t.Errorf("Commit of a version the role has = %v, want a VersionError", err)
	}
}

// S6: a deletion is recorded, and ends all reads.
func testDelete(t *testing.T, s storage.Store) {
	ctx := t.Context()
	base := commit(t, s, app, nil, Start, append(Files(app, 1, 0), File(app, tuf.RoleReleases, 1, 0))...)
	const longer = app + "/more" // begins with the name of the other
	stays := commit(t, s, longer, nil, Start, Files(longer, 1, 0)...)
	if err := s.Delete(ctx, base, Start.Add(time.Second), storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	unchanged(t, s, app, nil)
	unchanged(t, s, longer, stays)
	for _, f := range Files(app, 1, 0) {
		gone(t, s, app, f)
	}
	if err := s.Delete(ctx, base, Start, storage.Actor{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("second Delete = %v, want ErrNotFound", err)
	}
	changes, err := s.Changes(ctx, storage.ChangeQuery{GUN: app})
	if err != nil || len(changes) != 2 {
		t.Fatalf("Changes = %v, %v; want 2", changes, err)
	}
	if d := cmp.Diff(storage.Change{ID: changes[1].ID, GUN: app, Deleted: true, At: Start.Add(time.Second)}, changes[1]); d != "" {
		t.Errorf("record of the deletion (-want +got):\n%s", d)
	}
	heads, err := s.Heads(ctx, stays.Seq, 0)
	if err != nil || len(heads) != 1 || heads[0].GUN != app || !heads[0].Deleted {
		t.Errorf("Heads = %v, %v; want the deletion", heads, err)
	}
}

// S6, amendment 17: after deletion and re-creation neither a state nor a file
// from before fits.
func testAttackDeleteAndRecreate(t *testing.T, s storage.Store) {
	ctx := t.Context()
	old := commit(t, s, app, nil, Start, Files(app, 1, 0)...)
	if err := s.Delete(ctx, old, Start, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	if _, err := s.Commit(ctx, app, old, Files(app, 2, 0), nil, Start, nil); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit on a deleted state = %v, want ErrConflict", err)
	}
	state := commit(t, s, app, nil, Start, Files(app, 1, 1)...)
	if state.Seq <= old.Seq || state.Incarnation <= old.Incarnation {
		t.Errorf("new state is %d since %d, the deleted one was %d since %d", state.Seq, state.Incarnation, old.Seq, old.Incarnation)
	}
	for _, f := range Files(app, 1, 0) {
		if _, _, err := s.Blob(ctx, app, f.Role, hash(f)); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s from before the deletion: %v, want ErrNotFound", f.Role, err)
		}
	}
	for _, f := range Files(app, 1, 1) {
		readable(t, s, app, f, Start)
	}
	if _, err := s.Commit(ctx, app, old, Files(app, 2, 0), nil, Start, nil); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit on a state from before the deletion = %v, want ErrConflict", err)
	}
	if err := s.Delete(ctx, old, Start, storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Delete of a state from before the deletion = %v, want ErrConflict", err)
	}
	unchanged(t, s, app, state)
	for round := range 3 {
		if err := s.Delete(ctx, state, Start, storage.Actor{}); err != nil {
			t.Fatalf("round %d: Delete = %v", round, err)
		}
		state = commit(t, s, app, nil, Start, Files(app, 1, 1)...) // the same bytes again
	}
}

// S11: names are data. Those that are valid are kept to the byte, those that
// are not are refused, and none is a statement.
func testAttackInjection(t *testing.T, s storage.Store) {
	ctx := t.Context()
	guns := []tuf.GUN{"a';DROP--TABLE--files;--", "a'OR'1'='1", "a)$1", "a/:gun/@x/$$", "a/{name}", "a/_", "a/`x`", "A';DROP--TABLE--files;--"}
	states := map[tuf.GUN]*storage.State{}
	for _, gun := range guns {
		if !gun.Valid() {
			t.Fatalf("%q is not valid and tests nothing here", gun)
		}
		states[gun] = commit(t, s, gun, nil, Start, Files(gun, 1, 0)...)
	}
	for _, gun := range guns {
		unchanged(t, s, gun, states[gun])
		if changes, err := s.Changes(ctx, storage.ChangeQuery{GUN: gun}); err != nil || len(changes) != 1 {
			t.Errorf("Changes(%q) = %v, %v; want one", gun, changes, err)
		}
	}
	for _, gun := range []tuf.GUN{"%", "a/%", "a' OR '1'='1", "a\x00", "' UNION SELECT 1 --"} {
		if _, err := s.Current(ctx, gun); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Current(%q) = %v, want ErrNotFound", gun, err)
		}
		if changes, err := s.Changes(ctx, storage.ChangeQuery{GUN: gun}); err != nil || len(changes) != 0 {
			t.Errorf("Changes(%q) = %v, %v; want none", gun, changes, err)
		}
		if _, err := s.Commit(ctx, gun, nil, Files(app, 1, 0), nil, Start, nil); err == nil {
			t.Errorf("Commit(%q) was done", gun)
		}
	}
	for _, role := range []tuf.RoleName{"targets' OR '1'='1", "targets/%", "' OR 1=1 --", "targets\x00"} {
		if _, _, err := s.Version(ctx, guns[0], role, 1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Version of %q = %v, want ErrNotFound", role, err)
		}
	}
}

func testLongNames(t *testing.T, s storage.Store) {
	long := "r/" + strings.Repeat("x", 252)
	role := tuf.RoleName("targets/" + strings.Repeat("r", 246))
	for _, end := range []string{"a", "b"} { // the last byte counts
		gun, role := tuf.GUN(long+end), role+tuf.RoleName(end)
		f := File(gun, role, 1, 0)
		state := commit(t, s, gun, nil, Start, append(Files(gun, 1, 0), f)...)
		readable(t, s, gun, f, Start)
		unchanged(t, s, gun, state)
	}
}

func testCaseMatters(t *testing.T, s storage.Store) {
	lower := commit(t, s, "registry.example/app", nil, Start, Files("registry.example/app", 1, 0)...)
	upper := commit(t, s, "registry.example/App", nil, Start, Files("registry.example/App", 1, 0)...)
	unchanged(t, s, "registry.example/app", lower)
	unchanged(t, s, "registry.example/App", upper)
	unchanged(t, s, "registry.example/APP", nil)
	if _, err := s.Current(t.Context(), "registry.example/app "); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Current of the name with a space = %v, want ErrNotFound", err)
	}
}

func testChangefeed(t *testing.T, s storage.Store) {
	ctx := t.Context()
	const other tuf.GUN = "registry.example/other"
	var all []storage.Change
	bases := map[tuf.GUN]*storage.State{}
	for v := int64(1); v <= 3; v++ {
		for _, gun := range []tuf.GUN{app, other} {
			bases[gun] = commit(t, s, gun, bases[gun], Start.Add(time.Duration(v)*time.Second), Files(gun, v, 0)...)
			all = append(all, storage.Change{GUN: gun, Version: v, SHA256: hexHash(File(gun, tuf.RoleTimestamp, v, 0)), At: Start.Add(time.Duration(v) * time.Second)})
		}
	}
	commit(t, s, app, bases[app], Start, File(app, tuf.RoleTargets, 9, 0)) // no timestamp: no record
	if err := s.Delete(ctx, bases[other], Start, storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	all = append(all, storage.Change{GUN: other, Deleted: true, At: Start})

	got, err := s.Changes(ctx, storage.ChangeQuery{})
	if err != nil || len(got) != len(all) {
		t.Fatalf("Changes = %d, %v; want %d", len(got), err, len(all))
	}
	for i := range got {
		all[i].ID = got[i].ID
	}
	if d := cmp.Diff(all, got); d != "" {
		t.Fatalf("changefeed (-want +got):\n%s", d)
	}
	last := all[len(all)-1].ID
	for name, c := range map[string]struct {
		query storage.ChangeQuery
		want  []storage.Change
	}{
		"first two":                   {storage.ChangeQuery{Limit: 2}, all[:2]},
		"after the second":            {storage.ChangeQuery{From: all[1].ID, Limit: 2}, all[2:4]},
		"after the last":              {storage.ChangeQuery{From: last}, nil},
		"far beyond":                  {storage.ChangeQuery{From: 1 << 62}, nil},
		"newest two":                  {storage.ChangeQuery{Limit: 2, Backwards: true}, all[5:]},
		"newest two, negative from":   {storage.ChangeQuery{From: -7, Limit: 2, Backwards: true}, all[5:]},
		"two before the fourth":       {storage.ChangeQuery{From: all[3].ID, Limit: 2, Backwards: true}, all[1:3]},
		"before the first":            {storage.ChangeQuery{From: all[0].ID, Backwards: true}, nil},
		"all backwards":               {storage.ChangeQuery{Backwards: true}, all},
		"before what is not yet":      {storage.ChangeQuery{From: last + 100, Limit: 1, Backwards: true}, all[6:]},
		"negative from, forwards":     {storage.ChangeQuery{From: -5, Limit: 1}, all[:1]},
		"more than there is":          {storage.ChangeQuery{Limit: 1 << 30}, all},
		"one repository":              {storage.ChangeQuery{GUN: app}, []storage.Change{all[0], all[2], all[4]}},
		"one repository, newest":      {storage.ChangeQuery{GUN: other, Limit: 1, Backwards: true}, all[6:]},
		"one repository, second page": {storage.ChangeQuery{GUN: app, From: all[0].ID, Limit: 1}, all[2:3]},
		"no such repository":          {storage.ChangeQuery{GUN: "registry.example"}, nil},
	} {
		got, err := s.Changes(ctx, c.query)
		if err != nil {
			t.Errorf("%s: Changes = %v", name, err)
		}
		if d := cmp.Diff(c.want, got, cmp.Transformer("nil", func(c []storage.Change) []storage.Change { return slices.Clip(append([]storage.Change{}, c...)) })); d != "" && len(c.want)+len(got) > 0 {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// Amendment 20: a reader that asks for what came after the last id it has seen
// misses nothing, while several commit.
func testChangefeedOrder(t *testing.T, s storage.Store) {
	const publishers, versions = 4, 6
	done := make(chan struct{})
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
	go func() { wg.Wait(); close(done) }()
	seen, seq, heads := int64(0), int64(0), map[tuf.GUN]int64{}
	total := 0
	for finished := false; ; {
		changes, err := s.Changes(t.Context(), storage.ChangeQuery{From: seen, Limit: 3})
		if err != nil {
			t.Fatalf("Changes = %v", err)
		}
		for _, c := range changes {
			seen = c.ID
			total++
		}
		page, err := s.Heads(t.Context(), seq, 2)
		if err != nil {
			t.Fatalf("Heads = %v", err)
		}
		for _, h := range page {
			seq, heads[h.GUN] = h.Seq, h.Seq
		}
		if finished && len(changes) == 0 && len(page) == 0 {
			break
		}
		select {
		case <-done:
			finished = true
		default:
		}
	}
	if total != publishers*versions {
		t.Errorf("a reader that followed saw %d changes, want %d", total, publishers*versions)
	}
	for gun, seq := range heads {
		state, err := s.Current(t.Context(), gun)
		if err != nil || state.Seq != seq {
			t.Errorf("a reader that followed has %s at %d; it is at %v, %v", gun, seq, state, err)
		}
	}
	if len(heads) != publishers {
		t.Errorf("a reader that followed saw %d repositories, want %d", len(heads), publishers)
	}
}
