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
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// archive returns s as an [storage.Archive], or skips the test where it is
// none.
func archive(t *testing.T, s storage.Store) storage.Archive {
	t.Helper()
	a, ok := s.(storage.Archive)
	if !ok {
		t.Skip("this store is no archive")
	}
	return a
}

var alice = storage.Actor{Subject: "alice", From: "192.0.2.1"}

// trail returns the whole audit trail, read in small pages and verified.
func trail(t *testing.T, a storage.Archive, q storage.AuditQuery) []storage.AuditRecord {
	t.Helper()
	var all []storage.AuditRecord
	var prev database.Link
	q.Limit = 3
	for {
		page, err := a.Audit(t.Context(), q)
		if err != nil {
			t.Fatalf("Audit(%+v) = %v", q, err)
		}
		if len(page) == 0 {
			return all
		}
		for _, r := range page {
			if q.GUN == "" {
				if err := r.Link.Follows(prev); err != nil {
					t.Errorf("audit trail: %v", err)
				}
			}
			prev, q.From = r.Link, r.Link.ID
		}
		all = append(all, page...)
	}
}

// T5, S6: what people do is in the trail, with who it was, in the order in
// which it happened; what the server renews is not.
func testAudit(t *testing.T, s storage.Store) {
	ctx, a := t.Context(), archive(t, s)
	files := []storage.NewFile{File(app, tuf.RoleTimestamp, 1, 0), File(app, tuf.RoleTargets, 1, 0), File(app, tuf.RoleRoot, 1, 0), File(app, tuf.RoleReleases, 1, 0)}
	first, err := s.Commit(ctx, app, nil, files, nil, Start, &alice)
	if err != nil {
		t.Fatalf("Commit = %v", err)
	}
	renewed := commit(t, s, app, first, Start.Add(time.Hour), File(app, tuf.RoleTimestamp, 2, 0))
	second, err := s.Commit(ctx, app, renewed, []storage.NewFile{File(app, tuf.RoleTargets, 2, 0), File(app, tuf.RoleTimestamp, 3, 0)},
		[]tuf.RoleName{tuf.RoleReleases}, Start.Add(2*time.Hour), &storage.Actor{From: "192.0.2.2", Forwarded: "a\nb" + strings.Repeat("x", 5000)})
	if err != nil {
		t.Fatalf("Commit = %v", err)
	}
	if _, err := s.Commit(ctx, app, first, []storage.NewFile{File(app, tuf.RoleTargets, 3, 0)}, nil, Start, &alice); !errors.Is(err, storage.ErrConflict) {
		t.Fatalf("Commit on a stale base = %v", err)
	}
	rotate := storage.AuditRecord{At: Start.Add(3 * time.Hour), Act: storage.Rotate, Repository: app, Actor: alice, Role: tuf.RoleSnapshot, Key: "00"}
	for range 3 { // asked for again, the key is the same
		if err := s.Record(ctx, rotate); err != nil {
			t.Fatalf("Record = %v", err)
		}
	}
	const other tuf.GUN = "registry.example/other"
	if _, err := s.Commit(ctx, other, nil, Files(other, 1, 0), nil, Start.Add(4*time.Hour), &alice); err != nil {
		t.Fatalf("Commit = %v", err)
	}
	support := storage.Actor{Subject: "support", Reason: "ticket 7: lost its key", Operator: true}
	if err := s.Delete(ctx, second, Start.Add(5*time.Hour), support); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	if _, err := a.Restore(ctx, app, Start.Add(6*time.Hour), support); err != nil {
		t.Fatalf("Restore = %v", err)
	}
	state, err := s.Current(ctx, app)
	if err != nil {
		t.Fatalf("Current = %v", err)
	}
	if err := s.Delete(ctx, state, Start.Add(7*time.Hour), alice); err != nil {
		t.Fatalf("Delete = %v", err)
	}

	named := func(files ...storage.NewFile) (all []storage.FileRecord) {
		for _, f := range files {
			all = append(all, storage.FileRecord{Role: f.Role, Version: f.Version, SHA256: hexHash(f)})
		}
		return all
	}
	last := named(File(app, tuf.RoleRoot, 1, 0), File(app, tuf.RoleTargets, 2, 0))
	want := []storage.AuditRecord{
		{At: Start, Act: storage.Publish, Repository: app, Actor: alice, Seq: first.Seq, Incarnation: first.Seq, Version: 1,
			Files: named(files[2], files[1], files[3])},
		{At: Start.Add(2 * time.Hour), Act: storage.Publish, Repository: app, Actor: storage.Actor{From: "192.0.2.2", Forwarded: "a\ufffdb" + strings.Repeat("x", 995) + "…"},
			Seq: second.Seq, Incarnation: first.Seq, Version: 3, Files: named(File(app, tuf.RoleTargets, 2, 0)), Dropped: []tuf.RoleName{tuf.RoleReleases}},
		rotate,
		{At: Start.Add(4 * time.Hour), Act: storage.Publish, Repository: other, Actor: alice, Seq: second.Seq + 1, Incarnation: second.Seq + 1, Version: 1,
			Files: named(Files(other, 1, 0)[0], Files(other, 1, 0)[2], Files(other, 1, 0)[1])},
		{At: Start.Add(5 * time.Hour), Act: storage.Reset, Repository: app, Actor: support, Seq: second.Seq + 2, Incarnation: first.Seq, Version: 3, Files: last},
		{At: Start.Add(6 * time.Hour), Act: storage.Restore, Repository: app, Actor: support, Seq: second.Seq + 3, Incarnation: first.Seq, Version: 3, Files: last},
		{At: Start.Add(7 * time.Hour), Act: storage.Deleted, Repository: app, Actor: alice, Seq: second.Seq + 4, Incarnation: first.Seq, Version: 3, Files: last},
	}
	ignore := cmpopts.IgnoreFields(storage.AuditRecord{}, "Link")
	if d := cmp.Diff(want, trail(t, a, storage.AuditQuery{}), ignore); d != "" {
		t.Errorf("audit trail (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want[3:4], trail(t, a, storage.AuditQuery{GUN: other}), ignore); d != "" {
		t.Errorf("audit trail of %s (-want +got):\n%s", other, d)
	}
	newest, err := a.Audit(ctx, storage.AuditQuery{Limit: 2, Backwards: true})
	if err != nil {
		t.Fatalf("Audit backwards = %v", err)
	}
	if d := cmp.Diff([]storage.AuditRecord{want[6], want[5]}, newest, ignore); d != "" {
		t.Errorf("end of the audit trail (-want +got):\n%s", d)
	}
}

// However many write at once, also by other connections, the trail is one
// chain, and has exactly what was committed.
func testAuditConcurrent(t *testing.T, s storage.Store) {
	a := archive(t, s)
	const writers, rounds = 4, 6
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			gun := tuf.GUN(fmt.Sprintf("r/%d", w))
			var base *storage.State
			for v := int64(1); v <= rounds; v++ {
				var err error
				if base, err = s.Commit(t.Context(), gun, base, Files(gun, v, 0), nil, Start, &alice); err != nil {
					t.Errorf("Commit = %v", err)
					return
				}
				if err := s.Record(t.Context(), storage.AuditRecord{At: Start, Act: storage.Rotate, Repository: gun, Key: tuf.CanonicalID(fmt.Sprint(v))}); err != nil {
					t.Errorf("Record = %v", err)
				}
			}
		})
	}
	wg.Wait()
	if all := trail(t, a, storage.AuditQuery{}); len(all) != 2*writers*rounds {
		t.Errorf("the trail has %d entries, want %d", len(all), 2*writers*rounds)
	}
}

// kept lists the files of an incarnation as "role version", those that were
// current at its end with a star; each can be read.
func kept(t *testing.T, a storage.Archive, i storage.Incarnation) []string {
	t.Helper()
	var all []string
	var after storage.Kept
	for {
		page, err := a.Kept(t.Context(), i, after, 2)
		if err != nil {
			t.Fatalf("Kept = %v", err)
		}
		if len(page) == 0 {
			return all
		}
		for _, k := range page {
			text := fmt.Sprintf("%s %d", k.Role, k.Version)
			if k.Final {
				text += " *"
			}
			all = append(all, text)
			raw, err := a.Raw(t.Context(), i, k)
			if err != nil || int64(len(raw)) != k.Length {
				t.Errorf("Raw(%s) = %d bytes, %v; want %d", text, len(raw), err, k.Length)
			}
			after = k
		}
	}
}

// S6: a deletion can be looked at and taken back until it is pruned, and not
// once something new was published.
func testRestore(t *testing.T, s storage.Store) {
	ctx, a := t.Context(), archive(t, s)
	if _, err := a.Restore(ctx, app, Start, storage.Actor{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Restore of what never was = %v, want ErrNotFound", err)
	}
	if _, err := a.Incarnations(ctx, app); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Incarnations of what never was = %v, want ErrNotFound", err)
	}
	base := publishDaily(t, s, 3)
	if _, err := a.Restore(ctx, app, Start, storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Restore of what is published = %v, want ErrConflict", err)
	}
	live, err := a.Incarnations(ctx, app)
	if err != nil || len(live) != 1 {
		t.Fatalf("Incarnations = %v, %v", live, err)
	}
	for range 2 { // before and after it is written down
		files, err := a.Kept(ctx, live[0], storage.Kept{}, 0)
		if err != nil || len(files) == 0 {
			t.Fatalf("Kept = %v, %v", files, err)
		}
		for _, k := range files {
			var want time.Time
			if k.Role != tuf.RoleRoot && k.Version < 3 {
				want = Start.Add(time.Duration(k.Version+1) * day)
			}
			if !k.Retired.Equal(want) {
				t.Errorf("%s %d is old since %s, want %s", k.Role, k.Version, k.Retired, want)
			}
		}
		prune(t, s, Start.Add(3*day+time.Minute))
	}
	ended := Start.Add(10 * day)
	if err := s.Delete(ctx, base, ended, storage.Actor{Operator: true}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	prune(t, s, ended.Add(29*day)) // the timestamp is kept, too
	final := []string{"root 1", "root 2", "root 3 *", "snapshot 3 *", "targets 3 *", "targets/releases 3 *", "timestamp 3 *"}
	incarnations := func() []storage.Incarnation {
		t.Helper()
		all, err := a.Incarnations(ctx, app)
		if err != nil {
			t.Fatalf("Incarnations = %v", err)
		}
		return all
	}
	all := incarnations()
	if d := cmp.Diff([]storage.Incarnation{{GUN: app, Number: 1, First: 1, Last: base.Seq + 1, Began: Start.Add(day), Ended: ended, By: storage.Reset}}, all,
		cmpopts.IgnoreUnexported(storage.Incarnation{})); d != "" {
		t.Fatalf("incarnations (-want +got):\n%s", d)
	}
	if d := cmp.Diff(final, kept(t, a, all[0])); d != "" {
		t.Errorf("kept of the deleted one (-want +got):\n%s", d)
	}

	restored, err := a.Restore(ctx, app, ended.Add(29*day), storage.Actor{})
	if err != nil {
		t.Fatalf("Restore = %v", err)
	}
	if d := cmp.Diff(base, restored, cmpopts.IgnoreFields(storage.State{}, "Seq")); d != "" || restored.Seq <= base.Seq+1 {
		t.Errorf("restored as %d (-want +got):\n%s", restored.Seq, d)
	}
	unchanged(t, s, app, restored)
	heads, err := s.Heads(ctx, base.Seq, 0)
	if err != nil || len(heads) != 1 || heads[0] != (storage.Head{GUN: app, Seq: restored.Seq}) {
		t.Errorf("Heads = %+v, %v", heads, err)
	}
	changes, err := s.Changes(ctx, storage.ChangeQuery{GUN: app, Backwards: true, Limit: 1})
	if err != nil || len(changes) != 1 || changes[0].Version != 3 || changes[0].Deleted {
		t.Errorf("changefeed ends with %+v, %v", changes, err)
	}
	if _, err := s.Commit(ctx, app, base, Files(app, 4, 0), nil, Start, nil); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Commit on the state before the deletion = %v, want ErrConflict", err)
	}
	prune(t, s, ended.Add(60*day)) // as what is current, it stays
	next := commit(t, s, app, restored, ended.Add(60*day), Files(app, 4, 0)...)
	if all = incarnations(); len(all) != 1 || !all[0].Lives() || !all[0].Began.Equal(Start.Add(day)) {
		t.Errorf("incarnations after the restoration: %+v", all)
	}

	if err := s.Delete(ctx, next, ended.Add(61*day), storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	again := commit(t, s, app, nil, ended.Add(62*day), Files(app, 1, 9)...)
	if _, err := a.Restore(ctx, app, ended.Add(62*day), storage.Actor{}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("Restore over what was published since = %v, want ErrConflict", err)
	}
	unchanged(t, s, app, again)
	if all = incarnations(); len(all) != 2 || all[0].By != storage.Deleted || all[0].Lives() || all[1].Number != 2 || !all[1].Lives() {
		t.Errorf("incarnations: %+v", all)
	}
	if d := cmp.Diff([]string{"root 1 *", "snapshot 1 *", "targets 1 *", "timestamp 1 *"}, kept(t, a, all[1])); d != "" {
		t.Errorf("kept of the new one (-want +got):\n%s", d)
	}
	if err := s.Delete(ctx, again, ended.Add(63*day), storage.Actor{}); err != nil {
		t.Fatalf("Delete = %v", err)
	}
	prune(t, s, ended.Add(94*day))
	if _, err := a.Restore(ctx, app, ended.Add(94*day), storage.Actor{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Restore of what was pruned = %v, want ErrNotFound", err)
	}
	if all = incarnations(); len(all) != 2 || len(kept(t, a, all[0])) != 0 || len(kept(t, a, all[1])) != 0 {
		t.Errorf("incarnations of what was pruned: %+v", all)
	}
}

func testRepositories(t *testing.T, s storage.Store) {
	ctx, a := t.Context(), archive(t, s)
	for _, gun := range []tuf.GUN{"b", "a/b", "B"} {
		state := commit(t, s, gun, nil, Start, Files(gun, 1, 0)...)
		if gun == "a/b" {
			if err := s.Delete(ctx, state, Start, storage.Actor{}); err != nil {
				t.Fatalf("Delete = %v", err)
			}
		}
	}
	want := []storage.Repository{{GUN: "B", Seq: 4, Seen: Start}, {GUN: "a/b", Seq: 3, Deleted: true, Seen: Start}, {GUN: "b", Seq: 1, Seen: Start}}
	var got []storage.Repository
	for after := tuf.GUN(""); ; {
		page, err := a.Repositories(ctx, after, 2)
		if err != nil || len(page) > 2 {
			t.Fatalf("Repositories(%q) = %v, %v", after, page, err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1].GUN
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Repositories, page by page (-want +got):\n%s", d)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.Repositories(cancelled, "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Repositories, cancelled = %v", err)
	}
}
