package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// What comes while a transaction runs is signed in the next one, all together:
// what one request is refused for, or fails for, is its own.
func TestSignTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var servers []*server
		for i := range 6 {
			s := newServer(t, w, w, tuf.GUN(fmt.Sprintf("registry.example/app%d", i)))
			s.publish(t, "one")
			servers = append(servers, s)
		}
		transactions, hold := 0, make(chan struct{})
		w.table.db.Around = func(ctx context.Context, what string) (context.Context, func(error)) {
			if what == "update" {
				transactions++
				<-hold
			}
			return ctx, func(error) {}
		}
		type answer struct {
			sig tuf.Signature
			err error
		}
		sign := func(r api.SignRequest) chan answer {
			done := make(chan answer, 1)
			go func() {
				sig, err := w.Sign(t.Context(), r)
				done <- answer{sig, err}
			}()
			synctest.Wait()
			return done
		}
		first := sign(servers[0].snapshotRequest(t, 2, "two"))
		var good []chan answer
		for _, s := range servers[1:4] {
			good = append(good, sign(s.snapshotRequest(t, 2, "two")))
		}
		used := sign(servers[4].snapshotRequest(t, 1, "another"))
		stranger := servers[5].snapshotRequest(t, 2, "two")
		stranger.Key = servers[4].snapshotKey.CanonicalID()
		foreign := sign(stranger)
		close(hold)
		for i, done := range append(good, first) {
			if a := <-done; a.err != nil || a.sig.Value == nil {
				t.Errorf("request %d: %v", i, a.err)
			}
		}
		a := <-used
		wantFloor(t, "a version that was used", a.err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 1})
		if a := <-foreign; !errors.Is(a.err, tuf.ErrNoKey) {
			t.Errorf("the key of another repository: %v, want ErrNoKey", a.err)
		}
		if transactions != 2 {
			t.Errorf("%d transactions, want 2: the first request, and all others together", transactions)
		}

		// A request that the database refuses does not fail the others: here
		// the ledger has forgotten what was signed.
		if _, err := w.table.db.SQL().Exec(`UPDATE signer_statements SET payload = ? WHERE gun = ? AND role = 'snapshot' AND version = 2`, make([]byte, 32), servers[1].gun); err != nil {
			t.Fatal(err)
		}
		if _, err := w.table.db.SQL().Exec(`UPDATE signer_ledger SET snapshot_signed = 1 WHERE gun = ?`, servers[1].gun); err != nil {
			t.Fatal(err)
		}
		hold = make(chan struct{})
		first = sign(servers[0].snapshotRequest(t, 3, "three"))
		spoilt := sign(servers[1].snapshotRequest(t, 2, "forged"))
		beside := sign(servers[2].snapshotRequest(t, 3, "three"))
		close(hold)
		if a := <-first; a.err != nil {
			t.Error(a.err)
		}
		if a := <-spoilt; a.err == nil || a.sig.Value != nil {
			t.Error("a second payload of one version was signed")
		}
		if a := <-beside; a.err != nil {
			t.Errorf("beside one that the database refuses: %v", a.err)
		}
		w.table.db.Around = nil
		signed := 0
		for _, r := range w.trail(t, AuditQuery{}) {
			if r.Event == AuditSigned {
				signed++
			}
		}
		if want := 6*2 + 4 + 2; signed != want {
			t.Errorf("%d signatures stand in the log, want %d", signed, want)
		}
	})
}

// Snapshot and timestamp that are signed at once are judged as two requests
// are: both are signed, or neither, and a lost answer is given again.
func TestSignBoth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := newServer(t, w, w, app), newServer(t, w, w, "registry.example/other")
	s.publish(t, "zero")
	s.publish(t, "one")
	other.publish(t, "one")
	next := func(version int64) api.Successor {
		return api.Successor{Key: s.timestampKey.CanonicalID(), Version: version, Expires: w.clock().Add(3 * 24 * time.Hour)}
	}
	floorNow := func() Floor {
		t.Helper()
		all, err := w.Floors(t.Context(), app)
		if err != nil || len(all) != 1 {
			t.Fatalf("Floors = %v, %v", all, err)
		}
		return all[0]
	}
	before, entries := floorNow(), len(w.trail(t, AuditQuery{GUN: app}))

	foreign := next(3)
	foreign.Key = other.timestampKey.CanonicalID()
	late := next(3)
	late.Expires = w.clock().Add(30 * 24 * time.Hour)
	ended := next(3)
	ended.Expires = w.clock()
	old := s.snapshotRequest(t, 3, "two")
	old.Timestamp = nil
	old.BaseSnapshot = nil
	for name, c := range map[string]struct {
		r    api.SignRequest
		next api.Successor
		ok   func(error) bool
	}{
		"a timestamp version that was used":    {s.snapshotRequest(t, 3, "two"), next(2), func(err error) bool { return errors.As(err, new(*api.FloorError)) }},
		"a snapshot version that was used":     {s.snapshotRequest(t, 2, "two"), next(3), func(err error) bool { return errors.As(err, new(*api.FloorError)) }},
		"the key of another repository":        {s.snapshotRequest(t, 3, "two"), foreign, func(err error) bool { return errors.Is(err, tuf.ErrNoKey) }},
		"a timestamp that lives too long":      {s.snapshotRequest(t, 3, "two"), late, func(err error) bool { return errors.Is(err, ErrRefused) }},
		"a timestamp that has expired":         {s.snapshotRequest(t, 3, "two"), ended, func(err error) bool { return errors.Is(err, ErrRefused) }},
		"a version far above":                  {s.snapshotRequest(t, 3, "two"), next(maxJump + 3), func(err error) bool { return errors.Is(err, ErrRefused) }},
		"a timestamp after a timestamp":        {s.timestampRequest(t, 3, s.snapshot), next(4), func(err error) bool { return errors.Is(err, ErrRefused) }},
		"nothing to build on, after a publish": {old, next(3), func(err error) bool { return err != nil }},
	} {
		if snapshot, timestamp, err := w.SignBoth(t.Context(), c.r, c.next); !c.ok(err) || snapshot.Value != nil || timestamp.Value != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	after := floorNow()
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("what was refused changed the ledger:\n%s", d)
	}
	var refused []tuf.RoleName
	for _, r := range w.trail(t, AuditQuery{GUN: app})[entries:] {
		if r.Event == AuditSigned {
			t.Errorf("what was refused stands in the log as signed: %+v", r)
		}
		if r.Event == AuditRefused {
			refused = append(refused, r.Role)
		}
	}
	// The timestamp of too long a life, the expired one, and the one far above;
	// and the request that is none for a snapshot.
	if n := len(refused); n != 4 || slices.Contains(refused, tuf.RoleSnapshot) {
		t.Errorf("the log names as refused %v, want four timestamps", refused)
	}

	r := s.snapshotRequest(t, 3, "two")
	snapshot, timestamp, err := w.SignBoth(t.Context(), r, next(3))
	if err != nil {
		t.Fatal(err)
	}
	made := envelope(t, r.Payload, snapshot)
	payload := timestampPayload(t, 3, made, next(3).Expires)
	if err := s.timestampKey.Verify(payload, timestamp); err != nil {
		t.Errorf("the timestamp over the snapshot: %v", err)
	}
	if _, err := tuf.VerifyFile(made, tuf.NewRole(tuf.RoleSnapshot, 1, s.snapshotKey), tuf.Options{}); err != nil {
		t.Error(err)
	}
	want := before
	want.TimestampSigned, want.SnapshotSigned, want.SnapshotNamed, want.TimestampConfirmed, want.SnapshotConfirmed = 3, 3, 3, 2, 2
	if d := cmp.Diff(want, floorNow()); d != "" {
		t.Errorf("the ledger (-want +got):\n%s", d)
	}
	for range 2 {
		s2, t2, err := w.SignBoth(t.Context(), r, next(3))
		if err != nil || !bytes.Equal(s2.Value, snapshot.Value) || !bytes.Equal(t2.Value, timestamp.Value) {
			t.Errorf("asked again: %v, or another answer", err)
		}
	}
	signed := slices.DeleteFunc(events(w.trail(t, AuditQuery{GUN: app})), func(e string) bool { return !strings.HasPrefix(e, "signed ") })
	if n := len(signed); n != 6 || signed[n-2] != "signed registry.example/app snapshot 3" || signed[n-1] != "signed registry.example/app timestamp 3" {
		t.Errorf("the log has %q", signed)
	}
	if _, _, err := w.SignBoth(t.Context(), s.snapshotRequest(t, 3, "three"), next(4)); !errors.As(err, new(*api.FloorError)) {
		t.Errorf("another snapshot of a version that was signed: %v", err)
	}
	// The same content in two repositories: the snapshot is signed for each of
	// them, whether what is remembered is built on or not.
	third := newServer(t, w, w, "registry.example/third")
	third.publish(t, "zero")
	for _, o := range []*server{third, other} {
		if err := o.publishBoth(t, "one"); err != nil {
			t.Errorf("a snapshot like that of another repository: %v", err)
		}
	}
}
