package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// attacks.md G2: roots and targets are not signed, whatever key is named, nor
// is anything for a repository or role that the key was not made for.
func TestAttackSignOtherThings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	other := newServer(t, w, w, "registry.example/other")
	soon := w.clock().Add(time.Hour).Format(time.RFC3339)
	root := canonical(t, object{"_type": "Root", "version": 1, "expires": soon, "consistent_snapshot": false, "keys": object{}, "roles": object{}})
	targets := canonical(t, object{"_type": "Targets", "version": 1, "expires": soon, "targets": object{}, "delegations": object{"keys": object{}, "roles": []any{}}})

	for role, payload := range map[tuf.RoleName][]byte{tuf.RoleRoot: root, tuf.RoleTargets: targets, tuf.RoleReleases: targets} {
		for _, named := range []tuf.RoleName{role, tuf.RoleSnapshot, tuf.RoleTimestamp} {
			r := s.snapshotRequest(t, 1, "x")
			r.Role, r.Payload = named, payload
			_, err := w.Sign(t.Context(), r)
			wantRefusal(t, "Sign("+string(role)+" as "+string(named)+")", err)
		}
		_, err := w.CreateKey(t.Context(), tuf.ECDSA, role, app)
		wantRefusal(t, "CreateKey("+string(role)+")", err)
	}
	for what, change := range map[string]func(*api.SignRequest){
		"the key of another repository": func(r *api.SignRequest) { r.Key = other.snapshotKey.CanonicalID() },
		"another repository's name":     func(r *api.SignRequest) { r.GUN = other.gun },
		"the key of the other role":     func(r *api.SignRequest) { r.Key = s.timestampKey.CanonicalID() },
		"a key that does not exist":     func(r *api.SignRequest) { r.Key = tuf.CanonicalID(strings.Repeat("0", 64)) },
	} {
		r := s.snapshotRequest(t, 1, "x")
		change(&r)
		if _, err := w.Sign(t.Context(), r); !errors.Is(err, tuf.ErrNoKey) {
			t.Errorf("Sign(%s) = %v, want ErrNoKey", what, err)
		}
	}
	s.publish(t, "honest")
	other.publish(t, "honest")
}

// attacks.md G2, G3: what the server's identity can do to keys never ends a
// key that a published root names.
func TestAttackForgetDoesNotDestroy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	if err := w.Forget(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	s.publish(t, "two, with the keys of before")
	// Nor does it clear their floors.
	w.pass(time.Second)
	_, err := w.Sign(t.Context(), s.timestampRequest(t, 2, s.snapshot))
	wantFloor(t, "Sign again after Forget", err, api.FloorError{Role: tuf.RoleTimestamp, Floor: 2})
}

// attacks.md F17: a server that was broken into asks for a new timestamp over
// an old snapshot, in every way it can.
func TestAttackOldSnapshotUnderNewTimestamp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	var states []published
	for _, content := range []string{"one", "two", "three", "four"} {
		s.publish(t, content)
		states = append(states, s.published)
	}
	now, evil := s.published, *s
	for i, old := range states[:3] {
		evil.published = now
		_, err := w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
		wantFloor(t, "an old snapshot on the current base", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 3})

		evil.timestamp, evil.snapshot = now.timestamp, old.snapshot
		_, err = w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
		wantRefusal(t, "an old snapshot as the base", err)

		evil.published = old
		_, err = w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
		if i < 2 {
			wantRestored(t, "an old base", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 3, Base: int64(i) + 1})
		} else { // the one before: it is not known yet that four was published
			wantFloor(t, "the previous base", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 3})
		}
		evil.published = published{}
		_, err = w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
		wantRestored(t, "no base", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 3})

		// A base that only looks newer.
		evil.timestamp = envelope(t, timestampPayload(t, 8, old.snapshot, w.clock().Add(time.Hour)), tuf.Signature{KeyID: s.timestampKey.ID(), Method: "ecdsa", Value: make([]byte, 64)})
		evil.snapshot = old.snapshot
		_, err = w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
		wantRefusal(t, "a forged base", err)
	}
	s.publish(t, "five")
	if s.timestampVersion != 5 {
		t.Errorf("timestamp version after the attack = %d, want 5: refusals burn nothing", s.timestampVersion)
	}
}

// attacks.md F17: the same with a key that is being rotated in, whose own
// history is empty, and for which a base could be left out.
func TestAttackOldSnapshotUnderNewKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	old := s.published
	s.publish(t, "two")
	s.publish(t, "three")
	evil := *s
	evil.timestampKey = s.create(t, tuf.RoleTimestamp)
	_, err := w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
	wantFloor(t, "an old snapshot under a new key", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 2})
	evil.published = published{}
	_, err = w.Sign(t.Context(), evil.timestampRequest(t, 9, old.snapshot))
	wantRestored(t, "no base under a new key", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 2})
	s.publish(t, "four")
}

// attacks.md F17: a new timestamp over the snapshot of another repository,
// whatever is done to its signatures.
func TestAttackSnapshotOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := newServer(t, w, w, app), newServer(t, w, w, "registry.example/other")
	s.publish(t, "one")
	for range 3 {
		other.publish(t, "theirs")
	}
	meta, err := tuf.Outline(tuf.RoleSnapshot, other.snapshot, tuf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, snapshot := range [][]byte{other.snapshot, envelope(t, meta.Canonical, tuf.Signature{KeyID: s.snapshotKey.ID(), Method: "ecdsa", Value: make([]byte, 64)})} {
		_, err = w.Sign(t.Context(), s.timestampRequest(t, 2, snapshot))
		wantRefusal(t, "a snapshot of another repository", err)
	}
	s.publish(t, "two")
}

// attacks.md S7: rotation without end makes one key, and forgetting in between
// makes a bounded number.
func TestAttackRotateWithoutEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := newServer(t, w, w, app)
	for range 50 {
		if key := first.create(t, tuf.RoleTimestamp); !key.Equal(first.timestampKey) {
			t.Fatal("a second pending key")
		}
	}
	made := 1
	for ; made <= w.limits.KeysPerDay; made++ {
		if err := w.Forget(t.Context(), app); err != nil {
			t.Fatal(err)
		}
		_, err := w.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
		if err != nil {
			wantRefusal(t, "CreateKey after too many", err)
			break
		}
	}
	if made != 100 {
		t.Errorf("%d keys were made in a day, want 100", made)
	}
	if _, err := w.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, "registry.example/other"); err != nil {
		t.Errorf("CreateKey for another repository: %v", err)
	}
	w.pass(25 * time.Hour)
	newServer(t, w, w, app).publish(t, "the next day")
}

// attacks.md G9: who steals the database has no key.
func TestAttackStolenDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	private, err := generate(tuf.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.table.Import(t.Context(), private, tuf.RoleTimestamp, app, false, w.clock()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.table.db.SQL().Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	seed := private.(interface{ Seed() []byte }).Seed()
	raw, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string][]byte{
		"seed": seed, "seed in hex": []byte(hex.EncodeToString(seed)), "seed in base64": []byte(base64.StdEncoding.EncodeToString(seed)[:40]),
		"half of the seed": seed[:16], "PKCS#8": {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70},
	} {
		if bytes.Contains(raw, secret) {
			t.Errorf("the database file holds the %s in clear", what)
		}
	}
	// With a key-encryption key of one's own it does not open either.
	_, err = OpenTable(t.Context(), openDB(t, w.path), testKEK(t, 2))
	if !errors.Is(err, ErrKEK) {
		t.Errorf("OpenTable with another KEK = %v, want ErrKEK", err)
	}
}

// attacks.md G9: who can write to the database cannot give a key to another
// repository, and cannot put one's own in.
func TestAttackSwapRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	other := newServer(t, w, w, "registry.example/other")
	swap := func(q string, args ...any) {
		t.Helper()
		if _, err := w.table.db.SQL().Exec(q, args...); err != nil {
			t.Fatal(err)
		}
	}
	swap("UPDATE signer_keys SET gun = ? WHERE id = ?", app, other.snapshotKey.CanonicalID())
	r := s.snapshotRequest(t, 1, "x")
	r.Key = other.snapshotKey.CanonicalID()
	if _, err := w.Sign(t.Context(), r); err == nil {
		t.Error("a key that was moved to another repository signed")
	}
	swap("UPDATE signer_keys SET wrapped = (SELECT wrapped FROM signer_keys WHERE id = ?) WHERE id = ?", s.timestampKey.CanonicalID(), s.snapshotKey.CanonicalID())
	if _, err := w.Sign(t.Context(), s.snapshotRequest(t, 1, "x")); err == nil {
		t.Error("a key with the private half of another one signed")
	}
}
