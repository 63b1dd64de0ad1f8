package signer

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

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
