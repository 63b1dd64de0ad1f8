package signer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

// A vault is a key-encryption key that is kept elsewhere: it counts what it is
// asked, can be out of reach, and has versions.
type vault struct {
	id string

	mu       sync.Mutex
	down     error // guarded by mu
	versions int   // guarded by mu
	oldest   int   // guarded by mu: versions below it do not unwrap any more
	unwraps  int   // guarded by mu
}

func (v *vault) ID() string { return v.id }

func (v *vault) key(version int) *Local {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", v.id, version))
	l, err := NewLocal(sum[:])
	if err != nil {
		panic(err) // a key of 32 bytes
	}
	return l
}

func (v *vault) Wrap(ctx context.Context, plain []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.down != nil {
		return nil, v.down
	}
	w, err := v.key(v.versions).Wrap(ctx, plain)
	return append([]byte{byte(v.versions)}, w...), err
}

func (v *vault) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unwraps++
	if v.down != nil {
		return nil, v.down
	}
	if int(wrapped[0]) < v.oldest {
		return nil, errors.New("this version is withdrawn")
	}
	return v.key(int(wrapped[0])).Unwrap(ctx, wrapped[1:])
}

func (v *vault) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

func (v *vault) asked() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unwraps
}

// vaultWorld is a signer whose data keys are wrapped in a vault.
func vaultWorld(t testing.TB) (*world, *vault) {
	t.Helper()
	v := &vault{id: "vault:one"}
	w := &world{path: filepath.Join(t.TempDir(), "signer.db"), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), log: &records{}}
	w.table = openTable(t, w.path, w.kek(t, v))
	w.Service = w.service(t, w.table, nil)
	return w, v
}

func (w *world) kek(t testing.TB, current KeyEncryption, others ...KeyEncryption) *KEK {
	t.Helper()
	k, err := NewKEK(KEKConfig{Current: current, Others: others, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A signature needs no call of the vault, and a vault that is away is noticed
// when the life of the data key in memory is over: then nothing is signed, and
// the vault is not asked by every request. When it is back all goes on.
func TestDataKeyLife(t *testing.T) {
	t.Parallel()
	w, v := vaultWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	before := v.asked()
	for range 5 {
		s.publish(t, "more")
	}
	if n := v.asked() - before; n != 0 {
		t.Errorf("10 signatures asked the vault %d times", n)
	}
	away := errors.New("connection refused")
	v.set(func() { v.down = away })
	w.pass(31 * time.Minute)
	if err := w.table.Refresh(t.Context()); !errors.Is(err, away) || !errors.Is(err, ErrSealed) {
		t.Errorf("Refresh = %v, want ErrSealed", err)
	}
	s.publish(t, "within the life of the data key")
	w.pass(30 * time.Minute)
	before = v.asked()
	for range 5 {
		if _, err := s.prepare(t, "later"); !errors.Is(err, ErrSealed) || !errors.Is(err, away) {
			t.Errorf("Sign without the vault = %v, want ErrSealed", err)
		}
	}
	if n := v.asked() - before; n != 1 {
		t.Errorf("5 requests asked the vault %d times while it is away, want 1", n)
	}
	v.set(func() { v.down = nil })
	w.pass(3 * time.Second)
	s.publish(t, "it is back")
	before = v.asked()
	w.pass(31 * time.Minute)
	if err := w.table.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	w.pass(31 * time.Minute)
	s.publish(t, "refreshed in time")
	if n := v.asked() - before; n != 1 {
		t.Errorf("the vault was asked %d times, want 1: by Refresh", n)
	}
}

// Requests that come while the data key is not in memory ask the vault once.
func TestDataKeyTogether(t *testing.T) {
	t.Parallel()
	w, v := vaultWorld(t)
	servers := make([]*server, 8)
	for i := range servers {
		servers[i] = newServer(t, w, w, tuf.GUN(fmt.Sprintf("registry.example/app%d", i)))
	}
	w.pass(2 * time.Hour)
	before := v.asked()
	var all sync.WaitGroup
	for _, s := range servers {
		all.Go(func() {
			if _, err := s.prepare(t, "one"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := v.asked() - before; n != 1 {
		t.Errorf("8 requests asked the vault %d times, want 1", n)
	}
}

// attacks.md G9: a data key that was put in the place of another one is not
// used, whatever unwraps.
func TestAttackDataKeySwapped(t *testing.T) {
	t.Parallel()
	w, v := vaultWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	mine := make([]byte, 32)
	mine[0] = 1
	wrapped, err := v.Wrap(t.Context(), mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.table.db.SQL().Exec("UPDATE signer_keks SET wrapped = ?", wrapped); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Hour)
	if _, err := s.prepare(t, "two"); !errors.Is(err, ErrKEK) {
		t.Errorf("Sign under a data key of another = %v, want ErrKEK", err)
	}
	if _, err := w.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, "registry.example/new"); !errors.Is(err, ErrKEK) {
		t.Errorf("CreateKey under a data key of another = %v, want ErrKEK", err)
	}
}

// From a file to a vault, to another one, and within it: to a new version and
// a new data key. Services go on, and each former key is of no use afterwards.
func TestRewrapToVault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := testKEK(t, 1).current
	one, two := &vault{id: "vault:one"}, &vault{id: "vault:two"}
	s := newServer(t, w, w, app)
	s.publish(t, "under the file")
	move := func(name string, o RewrapOptions, current KeyEncryption, others ...KeyEncryption) *Table {
		t.Helper()
		running := openTable(t, w.path, w.kek(t, others[0], append(others[1:], current)...))
		if err := running.Present(t.Context(), "running", "host.example", w.clock()); err != nil {
			t.Fatal(err)
		}
		s.keys = w.service(t, running, nil)
		next := openTable(t, w.path, w.kek(t, current, others...))
		var wrong *InstancesError
		if moved, err := next.Rewrap(t.Context(), o, w.clock); !errors.As(err, &wrong) || wrong.Unready || moved != 2 {
			t.Errorf("%s: Rewrap beside a service that wraps under the former key = %d, %v", name, moved, err)
		}
		s.publish(t, "by a service of before, "+name)
		newServer(t, w, s.keys, tuf.GUN("registry.example/"+strings.ReplaceAll(name, " ", "-")))
		if err := running.Absent(t.Context(), "running"); err != nil {
			t.Fatal(err)
		}
		if moved, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil || moved != 2 {
			t.Errorf("%s: Rewrap once more = %d, %v, want the 2 that were made meanwhile", name, moved, err)
		}
		if _, err := w.table.db.SQL().Exec("DELETE FROM signer_keys WHERE gun <> ?", app); err != nil {
			t.Fatal(err)
		}
		// A service of before that was not heard of cannot lose a key: it makes
		// none under a key that was retired, or one that the next rewrap finds.
		if _, err := s.keys.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, "registry.example/late"); err == nil {
			if _, local := others[0].(*Local); local {
				t.Errorf("%s: a key was made under a key-encryption key that is not needed any more", name)
			}
			if moved, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil || moved != 1 {
				t.Errorf("%s: Rewrap of a late key = %d, %v, want 1", name, moved, err)
			}
			if _, err := w.table.db.SQL().Exec("DELETE FROM signer_keys WHERE gun <> ?", app); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, ErrKEK) {
			t.Errorf("%s: CreateKey of a late service = %v, want ErrKEK", name, err)
		}
		alone := openTable(t, w.path, w.kek(t, current))
		s.keys = w.service(t, alone, nil)
		s.publish(t, "after "+name)
		if _, err := OpenTable(t.Context(), openDB(t, w.path), w.kek(t, others[0])); !errors.Is(err, ErrKEK) {
			t.Errorf("%s: OpenTable with the former key alone = %v, want ErrKEK", name, err)
		}
		return alone
	}
	move("to a vault", RewrapOptions{}, one, file)
	table := move("to another vault", RewrapOptions{}, two, one)

	// The vault's key is rotated, and its old version withdrawn.
	two.set(func() { two.versions++ })
	if moved, err := table.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil || moved != 0 {
		t.Errorf("Rewrap to a new version = %d, %v, want 0: only the data key is wrapped anew", moved, err)
	}
	two.set(func() { two.oldest = two.versions })
	w.pass(2 * time.Hour)
	s.publish(t, "under the new version")

	ids := func() (out []string) {
		t.Helper()
		err := table.db.View(t.Context(), func(x *database.Tx) (err error) {
			out, err = texts(t.Context(), x, "SELECT id FROM signer_keks")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := ids()
	if moved, err := table.Rewrap(t.Context(), RewrapOptions{Fresh: true}, w.clock); err != nil || moved != 2 {
		t.Errorf("Rewrap to a fresh data key = %d, %v, want 2", moved, err)
	}
	after := ids()
	if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
		t.Errorf("data keys before and after: %v, %v", before, after)
	}
	s.publish(t, "under the fresh data key")
	move("back to a file", RewrapOptions{}, file, two)
}

// Every service that runs must be able to read what is moved.
func TestRewrapUnready(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	if err := w.table.Present(t.Context(), "a", "old.example", w.clock()); err != nil {
		t.Fatal(err)
	}
	next := openTable(t, w.path, testKEK(t, 2, 1))
	var wrong *InstancesError
	moved, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock)
	if !errors.As(err, &wrong) || !wrong.Unready || moved != 0 || !strings.Contains(err.Error(), "the signer on old.example (last seen 2026-11-22T12:00:00Z) does not know") {
		t.Errorf("Rewrap beside a service without the new key = %d, %v", moved, err)
	}
	s.publish(t, "two")
	w.pass(4 * time.Minute) // it was killed
	if moved, err := next.Rewrap(t.Context(), RewrapOptions{}, w.clock); err != nil || moved != 2 {
		t.Errorf("Rewrap after it is gone = %d, %v", moved, err)
	}
}

// What a rewrap did stands in the audit log.
func TestRewrapIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	newServer(t, w, w, app)
	next := openTable(t, w.path, w.kek(t, &vault{id: "vault:one"}, testKEK(t, 1).current))
	if _, err := next.Rewrap(t.Context(), RewrapOptions{Identity: "operator"}, w.clock); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range w.trail(t, AuditQuery{From: 2}) {
		detail := r.Detail
		if r.Event == AuditDataKey {
			_, detail, _ = strings.Cut(detail, " ") // the rest of it is random
		}
		got = append(got, fmt.Sprint(r.Event, " by ", r.Identity, ": ", detail))
	}
	want := []string{"data-key by : under vault:one", "rewrapped by operator: 2 keys, under vault:one", "retired by operator: " + testKEK(t, 1).IDs()[0]}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("audit log (-want +got):\n%s", d)
	}
}
