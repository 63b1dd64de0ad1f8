package signer

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/tuf"
)

const app tuf.GUN = "registry.example/app"

// A world is a signer over a database file, and a clock.
type world struct {
	*Service
	table *Table
	path  string
	log   *records

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func testKEK(t testing.TB, seed byte, old ...byte) *KEK {
	t.Helper()
	key := func(seed byte) KeyEncryption {
		sum := sha256.Sum256([]byte{seed})
		l, err := NewLocal(sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	c := KEKConfig{Current: key(seed)}
	for _, o := range old {
		c.Others = append(c.Others, key(o))
	}
	k, err := NewKEK(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openDB(t testing.TB, path string) *database.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	d := database.New(db, database.SQLite)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func openTable(t testing.TB, path string, kek *KEK) *Table {
	t.Helper()
	table, err := OpenTable(t.Context(), openDB(t, path), kek)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "signer.db"), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), log: &records{}}
	w.table = openTable(t, w.path, testKEK(t, 1))
	w.Service = w.service(t, w.table, nil)
	return w
}

// service makes a service over table, with the clock and log of w.
func (w *world) service(t testing.TB, table *Table, who map[string]Rights) *Service {
	t.Helper()
	s, err := New(Config{Table: table, Identities: who, Now: w.clock, Log: slog.New(slog.NewJSONHandler(w.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// records is a log that tests read.
type records struct {
	mu   sync.Mutex
	text []byte
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, p...)
	return len(p), nil
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

// The methods that a server uses, of a Service or of a Client.
type keys interface {
	CreateKey(context.Context, tuf.KeyType, tuf.RoleName, tuf.GUN) (tuf.PublicKey, error)
	Holds(context.Context, tuf.GUN, tuf.RoleName, tuf.CanonicalID) (bool, error)
	Sign(context.Context, api.SignRequest) (tuf.Signature, error)
	Forget(context.Context, tuf.GUN) error
	Ping(context.Context) error
}

var (
	_ keys = (*Service)(nil)
	_ keys = (*Client)(nil)
)

func describe(raw []byte) map[string]any {
	s256, s512 := sha256.Sum256(raw), sha512.Sum512(raw)
	return map[string]any{"length": len(raw), "hashes": map[string]any{"sha256": s256[:], "sha512": s512[:]}}
}

func canonical(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = tuf.Canonical(raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

type object = map[string]any

// snapshotPayload is a snapshot that lists files whose content is the text.
func snapshotPayload(t testing.TB, version int64, content string, expires time.Time) []byte {
	return canonical(t, object{"_type": "Snapshot", "version": version, "expires": expires.Format(time.RFC3339Nano),
		"meta": object{"root": describe([]byte("root")), "targets": describe([]byte(content))}})
}

func timestampPayload(t testing.TB, version int64, snapshot []byte, expires time.Time) []byte {
	return canonical(t, object{"_type": "Timestamp", "version": version, "expires": expires.Format(time.RFC3339Nano),
		"meta": object{"snapshot": describe(snapshot)}})
}

func envelope(t testing.TB, payload []byte, sigs ...tuf.Signature) []byte {
	t.Helper()
	raw, err := tuf.Envelope(payload, sigs...)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A published is a state of a repository as a server stores it.
type published struct {
	timestampVersion, snapshotVersion int64
	timestamp, snapshot               []byte
}

// A server is an honest one, as far as the signer is concerned.
type server struct {
	keys
	w                         *world
	gun                       tuf.GUN
	timestampKey, snapshotKey tuf.PublicKey
	published
}

func newServer(t testing.TB, w *world, k keys, gun tuf.GUN) *server {
	t.Helper()
	s := &server{keys: k, w: w, gun: gun}
	s.timestampKey = s.create(t, tuf.RoleTimestamp)
	s.snapshotKey = s.create(t, tuf.RoleSnapshot)
	return s
}

func (s *server) create(t testing.TB, role tuf.RoleName) tuf.PublicKey {
	t.Helper()
	key, err := s.CreateKey(t.Context(), tuf.ECDSA, role, s.gun)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// snapshotRequest asks for a snapshot on top of what is published.
func (s *server) snapshotRequest(t testing.TB, version int64, content string) api.SignRequest {
	return api.SignRequest{GUN: s.gun, Role: tuf.RoleSnapshot, Key: s.snapshotKey.CanonicalID(),
		Payload:   snapshotPayload(t, version, content, s.w.clock().Add(14*24*time.Hour)),
		Timestamp: s.timestamp, BaseSnapshot: s.snapshot}
}

func (s *server) timestampRequest(t testing.TB, version int64, snapshot []byte) api.SignRequest {
	return api.SignRequest{GUN: s.gun, Role: tuf.RoleTimestamp, Key: s.timestampKey.CanonicalID(),
		Payload:   timestampPayload(t, version, snapshot, s.w.clock().Add(3*24*time.Hour)),
		Timestamp: s.timestamp, BaseSnapshot: s.snapshot, Snapshot: snapshot}
}

// sign asks for a version above the current one and above the signer's floor.
func (s *server) sign(t testing.TB, current int64, request func(version int64) api.SignRequest) (int64, []byte, error) {
	for version, try := current+1, 0; ; try++ {
		r := request(version)
		sig, err := s.Sign(t.Context(), r)
		var floor *api.FloorError
		if errors.As(err, &floor) && floor.Role == r.Role && try < 5 {
			version = floor.Floor + 1
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		return version, envelope(t, r.Payload, sig), nil
	}
}

// prepare makes the next state without publishing it.
func (s *server) prepare(t testing.TB, content string) (next published, err error) {
	t.Helper()
	next.snapshotVersion, next.snapshot, err = s.sign(t, s.snapshotVersion, func(v int64) api.SignRequest {
		return s.snapshotRequest(t, v, content)
	})
	if err != nil {
		return next, err
	}
	next.timestampVersion, next.timestamp, err = s.sign(t, s.timestampVersion, func(v int64) api.SignRequest {
		return s.timestampRequest(t, v, next.snapshot)
	})
	return next, err
}

func (s *server) publish(t testing.TB, content string) {
	t.Helper()
	next, err := s.prepare(t, content)
	if err != nil {
		t.Fatalf("publish %q on timestamp %d: %v", content, s.timestampVersion, err)
	}
	s.published = next
}

// clientSnapshot is a snapshot that a client's own key signed.
func clientSnapshot(t testing.TB, s *server, version int64, content string) []byte {
	t.Helper()
	key, err := generate(tuf.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	own, err := tuf.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	payload := snapshotPayload(t, version, content, s.w.clock().Add(1095*24*time.Hour))
	sig, err := own.Sign(t.Context(), payload)
	if err != nil {
		t.Fatal(err)
	}
	return envelope(t, payload, sig)
}

// publishClient publishes a snapshot that a client signed.
func (s *server) publishClient(t testing.TB, version int64, content string) error {
	t.Helper()
	raw := clientSnapshot(t, s, version, content)
	v, ts, err := s.sign(t, s.timestampVersion, func(v int64) api.SignRequest { return s.timestampRequest(t, v, raw) })
	if err == nil {
		s.published = published{v, version, ts, raw}
	}
	return err
}

func wantRefusal(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrRefused) {
		t.Errorf("%s = %v, want ErrRefused", what, err)
	}
}

func wantFloor(t testing.TB, what string, err error, want api.FloorError) {
	t.Helper()
	var floor *api.FloorError
	if !errors.As(err, &floor) || *floor != want {
		t.Errorf("%s = %v, want %+v", what, err, want)
	}
}

func wantRestored(t testing.TB, what string, err error, want api.RestoredError) {
	t.Helper()
	var restored *api.RestoredError
	if !errors.As(err, &restored) || *restored != want {
		t.Errorf("%s = %v, want %+v", what, err, want)
	}
}
