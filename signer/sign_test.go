package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

func TestPublishAndRenew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	for _, content := range []string{"one", "two", "three"} {
		s.publish(t, content)
	}
	if s.timestampVersion != 3 || s.snapshotVersion != 3 {
		t.Errorf("versions = %d, %d, want 3, 3", s.timestampVersion, s.snapshotVersion)
	}
	for _, f := range []struct {
		raw  []byte
		role tuf.Role
	}{{s.timestamp, tuf.NewRole(tuf.RoleTimestamp, 1, s.timestampKey)}, {s.snapshot, tuf.NewRole(tuf.RoleSnapshot, 1, s.snapshotKey)}} {
		if _, err := tuf.VerifyFile(f.raw, f.role, tuf.Options{}); err != nil {
			t.Errorf("VerifyFile(%s) = %v", f.role.Name, err)
		}
	}
	// A renewal long after the timestamp expired, over the same snapshot.
	w.pass(30 * 24 * time.Hour)
	v, raw, err := s.sign(t, s.timestampVersion, func(v int64) api.SignRequest { return s.timestampRequest(t, v, s.snapshot) })
	if err != nil || v != 4 {
		t.Fatalf("renewal = version %d, %v, want 4", v, err)
	}
	s.timestampVersion, s.timestamp = v, raw
	s.publish(t, "four")
}

func TestIdenticalPayloadSameSignature(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	r := s.snapshotRequest(t, 1, "one")
	first, err := w.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.Sign(t.Context(), r)
	if err != nil || !bytes.Equal(first.Value, second.Value) || first.KeyID != second.KeyID || first.Method != second.Method {
		t.Errorf("second answer = %+v, %v, want the first one %+v", second, err, first)
	}
	_, err = w.Sign(t.Context(), s.snapshotRequest(t, 1, "other"))
	wantFloor(t, "another payload of version 1", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 1})
}

func TestGapsAreAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	if _, err := w.Sign(t.Context(), s.snapshotRequest(t, 40, "x")); err != nil {
		t.Errorf("Sign(version 40 after 1) = %v", err)
	}
	_, err := w.Sign(t.Context(), s.snapshotRequest(t, 41+maxJump, "x"))
	wantRefusal(t, "a jump over a million versions", err)
	_, err = w.Sign(t.Context(), s.timestampRequest(t, 3+maxJump, s.snapshot))
	wantRefusal(t, "a jump over a million timestamps", err)
	_, err = w.Sign(t.Context(), s.timestampRequest(t, 2, clientSnapshot(t, s, 42+maxJump, "x")))
	wantRefusal(t, "a snapshot a million versions ahead", err)
}

// The commit was lost to another server: its state is there, and versions that
// were signed for nothing are passed over.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newServer(t, w, w, app)
	a.publish(t, "one")
	b := *a
	if _, err := a.prepare(t, "two by a"); err != nil { // never committed
		t.Fatal(err)
	}
	b.publish(t, "two by b")
	if b.timestampVersion != 3 || b.snapshotVersion != 3 {
		t.Errorf("versions = %d, %d, want 3, 3", b.timestampVersion, b.snapshotVersion)
	}
	a.published = b.published
	a.publish(t, "three by a")
}

// Two servers sign at the same time on the same base: the one whose snapshot
// fell behind learns it.
func TestSnapshotBehindOneNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newServer(t, w, w, app)
	a.publish(t, "one")
	b := *a
	_, behind, err := a.sign(t, a.snapshotVersion, func(v int64) api.SignRequest { return a.snapshotRequest(t, v, "a") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.prepare(t, "b"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Sign(t.Context(), a.timestampRequest(t, 9, behind))
	wantFloor(t, "Sign(timestamp of the snapshot behind)", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 2})
	a.publish(t, "a again")
}

// A crash between the ledger and the answer: the same request, or a new one
// above, goes on.
func TestFaultBetweenLedgerAndAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	crash := errors.New("crash")
	w.testOnlySigned = func() error { return crash }
	r := s.snapshotRequest(t, 2, "two")
	if _, err := w.Sign(t.Context(), r); !errors.Is(err, crash) {
		t.Fatalf("Sign = %v, want the crash", err)
	}
	// Started again, over what is on the disk.
	w.Service = w.service(t, openTable(t, w.path, testKEK(t, 1)), nil)
	sig, err := w.Sign(t.Context(), r)
	if err != nil {
		t.Fatalf("the same request after the crash: %v", err)
	}
	if err := s.snapshotKey.Verify(r.Payload, sig); err != nil {
		t.Error(err)
	}
	_, err = w.Sign(t.Context(), s.snapshotRequest(t, 2, "another two"))
	wantFloor(t, "another payload of the version that was lost", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 2})
	s.keys = w
	s.publish(t, "three")
	if s.snapshotVersion != 3 {
		t.Errorf("snapshot version = %d, want 3", s.snapshotVersion)
	}
}

// A call that ends before it began writes nothing.
func TestCancelledSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Sign(ctx, s.snapshotRequest(t, 1, "one")); !errors.Is(err, context.Canceled) {
		t.Errorf("Sign(cancelled) = %v", err)
	}
	if f, err := w.Floors(t.Context(), app); err != nil || len(f) != 0 {
		t.Errorf("Floors = %+v, %v, want none", f, err)
	}
}

func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	backup := s.published
	s.publish(t, "two")
	s.publish(t, "three") // which confirms version 2
	newest := s.published
	s.published = backup
	want := api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 2, Base: 1}

	_, err := s.prepare(t, "after the restore")
	wantRestored(t, "Sign on a restored backup", err, want)
	if log := w.log.String(); !strings.Contains(log, `"level":"WARN","msg":"published state has gone back","gun":"registry.example/app","role":"timestamp","confirmed":2,"base":1`) {
		t.Errorf("no alarm in the log: %s", log)
	}
	s.published = published{}
	_, err = s.prepare(t, "all lost")
	wantRestored(t, "Sign on nothing", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 2})

	// The newest state is still good.
	s.published = newest
	if _, err := s.prepare(t, "four, not committed"); err != nil {
		t.Errorf("Sign on the newest state: %v", err)
	}

	// An operator accepts the backup, and no version is signed twice.
	s.published = backup
	if err := w.LowerFloor(t.Context(), app, 1); err != nil {
		t.Fatal(err)
	}
	s.publish(t, "after the restore")
	if s.timestampVersion != 5 || s.snapshotVersion != 5 {
		t.Errorf("versions after the restore = %d, %d, want 5, 5: above all that were signed", s.timestampVersion, s.snapshotVersion)
	}
	wantRefusal(t, "LowerFloor above every floor", w.LowerFloor(t.Context(), app, 99))
	wantRefusal(t, "LowerFloor(-1)", w.LowerFloor(t.Context(), app, -1))
}

// With snapshots that clients sign a restored backup must not lock the
// repository: the client's versions restart below the one that was named.
func TestRestoredBackupClientSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	for v := int64(2); v < 9; v++ {
		if err := s.publishClient(t, v, "x"); err != nil {
			t.Fatal(err)
		}
	}
	s.published = published{}
	wantRestored(t, "publish on nothing", s.publishClient(t, 2, "y"), api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 6})
	if err := w.LowerFloor(t.Context(), app, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.publishClient(t, 2, "y"); err != nil {
		t.Errorf("publish after LowerFloor: %v", err)
	}
}

// The signer's own table comes from a backup: a good base mends it.
func TestLedgerBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	db := w.table.db.SQL()
	for _, content := range []string{"two", "three", "four"} {
		s.publish(t, content)
	}
	for _, q := range []string{"UPDATE signer_ledger SET timestamp_signed = 1, timestamp_confirmed = 0, snapshot_signed = 1, snapshot_confirmed = 0, snapshot_named = 1",
		"DELETE FROM signer_statements WHERE version > 1"} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.Sign(t.Context(), s.snapshotRequest(t, 3, "x"))
	wantFloor(t, "Sign below the base", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 4})
	s.publish(t, "five")
	if s.timestampVersion != 5 {
		t.Errorf("timestamp version = %d, want 5", s.timestampVersion)
	}
}

// A new timestamp key of the same repository carries on where the old one
// stopped: floors belong to the repository.
func TestTimestampKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	s.publish(t, "two")
	s.publish(t, "three")
	old := *s
	s.timestampKey = s.create(t, tuf.RoleTimestamp)
	if s.timestampKey.Equal(old.timestampKey) {
		t.Fatal("the key in use was handed out for a rotation")
	}
	_, err := w.Sign(t.Context(), s.timestampRequest(t, 3, s.snapshot))
	wantFloor(t, "a version of the old key under the new one", err, api.FloorError{Role: tuf.RoleTimestamp, Floor: 3})
	s.publish(t, "four") // on a base that the old key signed
	s.publish(t, "five")

	// Neither key goes back to where the old one was.
	for _, key := range []tuf.PublicKey{old.timestampKey, s.timestampKey} {
		old.timestampKey = key
		_, err := old.prepare(t, "x")
		wantRestored(t, "Sign on the state before the rotation", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 4, Base: 3})
	}
}

// Between rotation and the publish that uses it both keys live.
func TestOldKeySignsUntilRotationIsPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	next := s.create(t, tuf.RoleTimestamp)
	if again := s.create(t, tuf.RoleTimestamp); !again.Equal(next) {
		t.Error("a second rotation before the publish made a second key")
	}
	s.publish(t, "two, under the old key")
	s.timestampKey = next
	s.publish(t, "three, under the new one")
}

func TestClientSignedSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	if err := s.publishClient(t, 2, "one"); err != nil { // the stock client begins at 2
		t.Fatal(err)
	}
	if err := s.publishClient(t, 3, "two"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "another snapshot of the published version", s.publishClient(t, 3, "not two"))
	// A publish that was lost, and another client's with the same version.
	lost := *s
	if err := lost.publishClient(t, 4, "lost"); err != nil {
		t.Fatal(err)
	}
	if err := s.publishClient(t, 4, "four"); err != nil {
		t.Errorf("snapshot 4 of another client after a lost publish: %v", err)
	}
	wantFloor(t, "an older snapshot", s.publishClient(t, 3, "two"), api.FloorError{Role: tuf.RoleSnapshot, Floor: 3})
	// The snapshot role moves to the server.
	s.publish(t, "five")
	if s.snapshotVersion != 5 {
		t.Errorf("snapshot version = %d, want 5", s.snapshotVersion)
	}
}

// A repository that comes from another signer: the base is signed by a key
// that was never here.
func TestForeignBase(t *testing.T) {
	t.Parallel()
	elsewhere := newWorld(t)
	s := newServer(t, elsewhere, elsewhere, app)
	for range 5 {
		s.publish(t, "x")
	}
	w := newWorld(t)
	n := newServer(t, w, w, app)
	n.published = s.published
	_, err := w.Sign(t.Context(), n.snapshotRequest(t, 5, "y"))
	wantFloor(t, "Sign at the foreign base's version", err, api.FloorError{Role: tuf.RoleSnapshot, Floor: 5})
	n.publish(t, "y")
	if n.timestampVersion != 6 || n.snapshotVersion != 6 {
		t.Errorf("versions = %d, %d, want 6, 6", n.timestampVersion, n.snapshotVersion)
	}
	n.publish(t, "z") // its own base from now on
	n.published = s.published
	_, err = n.prepare(t, "x")
	wantRefusal(t, "the foreign base once something is confirmed", err)
}

func TestImportedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	private, err := generate(tuf.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.table.Import(t.Context(), private, tuf.RoleTimestamp, app, true, w.clock())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.table.Import(t.Context(), private, tuf.RoleTimestamp, app, true, w.clock()); err != nil {
		t.Errorf("the same import again: %v", err)
	}
	_, err = w.table.Import(t.Context(), private, tuf.RoleTimestamp, "registry.example/other", true, w.clock())
	wantRefusal(t, "Import for another repository", err)
	s := newServer(t, w, w, app)
	if s.timestampKey.Equal(key) {
		t.Error("CreateKey handed out a key that was in use elsewhere")
	}
	s.timestampKey = key
	s.publish(t, "one")
	s.publish(t, "two")
}

func TestDeleteAndCreateAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	s.publish(t, "two")
	s.publish(t, "three")
	old := *s
	waiting := s.create(t, tuf.RoleTimestamp)
	for range 2 {
		if err := w.Forget(t.Context(), app); err != nil {
			t.Fatal(err)
		}
	}
	for what, key := range map[string]tuf.PublicKey{"used": old.timestampKey, "pending": waiting} {
		if held, err := w.Holds(t.Context(), app, tuf.RoleTimestamp, key.CanonicalID()); held || err != nil {
			t.Errorf("Holds(%s key of the deleted repository) = %v, %v, want false", what, held, err)
		}
	}
	r := old.timestampRequest(t, 4, old.snapshot)
	r.Key = waiting.CanonicalID()
	if _, err := w.Sign(t.Context(), r); !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("Sign(dropped key) = %v, want ErrNoKey", err)
	}

	s = newServer(t, w, w, app)
	if s.timestampKey.Equal(old.timestampKey) || s.timestampKey.Equal(waiting) || s.snapshotKey.Equal(old.snapshotKey) {
		t.Error("a key of the deleted repository was handed out again")
	}
	s.publish(t, "reborn")
	if s.timestampVersion != 1 || s.snapshotVersion != 1 {
		t.Errorf("versions = %d, %d, want 1, 1", s.timestampVersion, s.snapshotVersion)
	}
	s.publish(t, "reborn two")
	// The old key still has the old floors.
	_, err := w.Sign(t.Context(), func() api.SignRequest {
		r := s.timestampRequest(t, 3, s.snapshot)
		r.Key = old.timestampKey.CanonicalID()
		return r
	}())
	if err == nil {
		t.Error("the old key signed a version again that it had signed")
	}
}

// Forget reached the signer when the repository had been created again: its
// keys go on signing, and a rotation leads into the new incarnation without a
// way back.
func TestForgetTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	s.publish(t, "two")
	s.publish(t, "three")
	if err := w.Forget(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	s.publish(t, "four")
	before := *s
	s.timestampKey = s.create(t, tuf.RoleTimestamp)
	s.snapshotKey = s.create(t, tuf.RoleSnapshot)
	s.publish(t, "five")
	s.publish(t, "six")
	if s.timestampVersion != 6 || s.snapshotVersion != 6 {
		t.Errorf("versions = %d, %d, want 6, 6", s.timestampVersion, s.snapshotVersion)
	}
	now := s.published
	s.published = before.published
	_, err := s.prepare(t, "x")
	wantRestored(t, "Sign on the state before the rotation", err, api.RestoredError{Role: tuf.RoleTimestamp, Confirmed: 5, Base: 4})
	s.published = now
	s.publish(t, "seven")
}

// Forget without keys, and of a repository whose first publish failed.
func TestForgetEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Forget(t.Context(), app); err != nil {
		t.Errorf("Forget(unknown repository) = %v", err)
	}
	s := newServer(t, w, w, app)
	if _, err := s.prepare(t, "never committed"); err != nil {
		t.Fatal(err)
	}
	if err := w.Forget(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	s = newServer(t, w, w, app)
	s.publish(t, "one")
	if s.timestampVersion != 1 {
		t.Errorf("timestamp version = %d, want 1", s.timestampVersion)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	w.pass(30 * 24 * time.Hour)
	s.publish(t, "two")
	if err := w.table.Prune(t.Context(), w.clock()); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := w.table.db.SQL().QueryRow("SELECT COUNT(*) FROM signer_statements").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d statements, %v, want the 2 that have not expired", n, err)
	}
	s.publish(t, "three")
}

func TestRequestsThatFitNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	s.publish(t, "two")
	before, err := w.Floors(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	older := clientSnapshot(t, s, 3, "x")
	soon := w.clock().Add(time.Hour)
	edit := func(payload []byte, f func(object)) []byte {
		var o object
		if err := json.Unmarshal(payload, &o); err != nil {
			t.Fatal(err)
		}
		f(o)
		return canonical(t, o)
	}
	for what, change := range map[string]func(*api.SignRequest){
		"no payload":              func(r *api.SignRequest) { r.Payload = nil },
		"not JSON":                func(r *api.SignRequest) { r.Payload = []byte("signature, please") },
		"white space":             func(r *api.SignRequest) { r.Payload = append(r.Payload, ' ') },
		"not canonical":           func(r *api.SignRequest) { r.Payload = bytes.Replace(r.Payload, []byte(","), []byte(", "), 1) },
		"a signed file":           func(r *api.SignRequest) { r.Payload = s.timestamp },
		"a snapshot as timestamp": func(r *api.SignRequest) { r.Payload = snapshotPayload(t, 9, "x", soon) },
		"expired":                 func(r *api.SignRequest) { r.Payload = timestampPayload(t, 9, s.snapshot, w.clock()) },
		"expires too far ahead": func(r *api.SignRequest) {
			r.Payload = timestampPayload(t, 9, s.snapshot, w.clock().Add(14*24*time.Hour+time.Second))
		},
		"version 0":                func(r *api.SignRequest) { r.Payload = timestampPayload(t, 0, s.snapshot, soon) },
		"unknown member":           func(r *api.SignRequest) { r.Payload = edit(r.Payload, func(o object) { o["delegations"] = object{} }) },
		"a member by another case": func(r *api.SignRequest) { r.Payload = edit(r.Payload, func(o object) { o["Version"] = 1 }) },
		"custom data": func(r *api.SignRequest) {
			r.Payload = edit(r.Payload, func(o object) { o["meta"].(object)["snapshot"].(object)["custom"] = "x" })
		},
		"another role in a timestamp": func(r *api.SignRequest) {
			r.Payload = edit(r.Payload, func(o object) { o["meta"].(object)["root"] = describe(nil) })
		},
		"an unknown checksum": func(r *api.SignRequest) {
			r.Payload = edit(r.Payload, func(o object) { o["meta"].(object)["snapshot"].(object)["hashes"].(object)["md5"] = "AAAA" })
		},
		"no snapshot":      func(r *api.SignRequest) { r.Snapshot = nil },
		"another snapshot": func(r *api.SignRequest) { r.Snapshot = older },
		"a snapshot of another hash": func(r *api.SignRequest) {
			r.Payload = timestampPayload(t, 9, append(bytes.Clone(s.snapshot), ' '), soon)
		},
		"timestamp without snapshot": func(r *api.SignRequest) { r.BaseSnapshot = nil },
		"snapshot without timestamp": func(r *api.SignRequest) { r.Timestamp = nil },
		"base that does not fit":     func(r *api.SignRequest) { r.BaseSnapshot = older },
		"base that is not a file":    func(r *api.SignRequest) { r.Timestamp = []byte("{}") },
		"no repository":              func(r *api.SignRequest) { r.GUN = "" },
		"repository with a bad name": func(r *api.SignRequest) { r.GUN = "a//b" },
		"no key":                     func(r *api.SignRequest) { r.Key = "" },
		"far too large":              func(r *api.SignRequest) { r.Payload = make([]byte, maxRequest+1) },
		"a base with a bad signature": func(r *api.SignRequest) {
			r.Timestamp = bytes.Replace(r.Timestamp, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
		},
	} {
		r := s.timestampRequest(t, 9, s.snapshot)
		change(&r)
		_, err := w.Sign(t.Context(), r)
		wantRefusal(t, "Sign("+what+")", err)
		if about := strings.HasPrefix(what, "expire"); errors.Is(err, api.ErrClock) != about || about && !strings.Contains(err.Error(), "the clock of the server or the signer's is wrong") {
			t.Errorf("Sign(%s) = %v; is that about clocks: %v", what, err, about)
		}
	}
	r := s.snapshotRequest(t, 9, "x")
	r.Snapshot = s.snapshot
	_, err = w.Sign(t.Context(), r)
	wantRefusal(t, "Sign(a snapshot beside a snapshot)", err)
	r = s.snapshotRequest(t, 9, "x")
	r.Payload = edit(r.Payload, func(o object) { o["meta"].(object)["timestamp"] = describe(nil) })
	_, err = w.Sign(t.Context(), r)
	wantRefusal(t, "Sign(a snapshot that lists a timestamp)", err)

	after, err := w.Floors(t.Context(), app)
	if err != nil || after[0] != before[0] {
		t.Errorf("floors = %+v, %v, want %+v as before the refusals", after, err, before)
	}
	s.publish(t, "three") // the next honest request works
}
