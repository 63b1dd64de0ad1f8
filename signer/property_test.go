package signer

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// A witness sees every signature that leaves.
type witness struct {
	mu   sync.Mutex
	seen map[statement][32]byte
}

type statement struct {
	role    tuf.RoleName
	version int64
}

func (w *witness) see(t *testing.T, seed uint64, r api.SignRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, err := tuf.Payload(r.Role, r.Payload)
	if err != nil {
		t.Errorf("seed %d: signed something that does not parse: %v", seed, err)
		return
	}
	key, sum := statement{r.Role, m.Version}, sha256.Sum256(r.Payload)
	if old, ok := w.seen[key]; ok && old != sum {
		t.Errorf("seed %d: two different payloads of %s version %d were signed", seed, r.Role, m.Version)
	}
	w.seen[key] = sum
}

// Whatever is asked, in whatever order, of two instances: there are never two
// signed payloads of one version, and a state that is honest can go on.
func TestNeverTwoPayloadsOfOneVersion(t *testing.T) {
	t.Parallel()
	for range 8 {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t)
		instances := []*Service{w.Service, w.service(t, openTable(t, w.path, testKEK(t, 1)), nil)}
		all := &witness{seen: map[statement][32]byte{}}
		s := newServer(t, w, w, app)
		states := []published{{}}
		var asked []api.SignRequest
		for step := range 120 {
			s.keys = instances[rnd.IntN(2)]
			s.published = states[max(0, len(states)-1-rnd.IntN(3))]
			var r api.SignRequest
			switch rnd.IntN(5) {
			case 0:
				r = s.snapshotRequest(t, s.snapshotVersion+rnd.Int64N(4), string(rune('a'+rnd.IntN(3))))
			case 1:
				r = s.timestampRequest(t, s.timestampVersion+rnd.Int64N(4), states[rnd.IntN(len(states))].snapshot)
			case 2:
				if len(asked) > 0 {
					r = asked[rnd.IntN(len(asked))]
				}
			case 3:
				s.timestampKey = s.create(t, tuf.RoleTimestamp)
				continue
			default:
				s.published = states[len(states)-1]
				before := *s
				next, err := s.prepare(t, string(rune('a'+step%26)))
				if err != nil {
					t.Fatalf("seed %d, step %d: an honest publish on %d: %v", seed, step, before.timestampVersion, err)
				}
				all.see(t, seed, requestOf(t, tuf.RoleSnapshot, next.snapshot))
				all.see(t, seed, requestOf(t, tuf.RoleTimestamp, next.timestamp))
				if rnd.IntN(3) > 0 { // else the commit is lost
					states = append(states, next)
				}
				continue
			}
			asked = append(asked, r)
			if _, err := s.Sign(t.Context(), r); err == nil {
				all.see(t, seed, r)
			}
			w.pass(time.Minute)
		}
	}
}

func requestOf(t *testing.T, role tuf.RoleName, raw []byte) api.SignRequest {
	t.Helper()
	m, err := tuf.Outline(role, raw, tuf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return api.SignRequest{Role: role, Payload: m.Canonical}
}

// Many servers at once over two instances on one file: every version is signed
// once.
func TestConcurrentSigners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := w.service(t, openTable(t, w.path, testKEK(t, 1)), nil)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	all := &witness{seen: map[statement][32]byte{}}
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			mine := *s
			mine.keys = []keys{w.Service, second}[i%2]
			for n := range 10 {
				next, err := mine.prepare(t, string(rune('a'+i))+string(rune('a'+n)))
				var floor *api.FloorError
				if errors.As(err, &floor) {
					continue // overtaken between its snapshot and its timestamp, or too often
				}
				if err != nil {
					t.Errorf("Sign = %v", err)
					return
				}
				all.see(t, 0, requestOf(t, tuf.RoleSnapshot, next.snapshot))
				all.see(t, 0, requestOf(t, tuf.RoleTimestamp, next.timestamp))
			}
		})
	}
	group.Wait()
	s.publish(t, "alone again")
}

// The first question for an unknown repository, of two instances at once, is
// answered with one key.
func TestConcurrentCreateKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := w.service(t, openTable(t, w.path, testKEK(t, 1)), nil)
	var group sync.WaitGroup
	got := make([]tuf.PublicKey, 12)
	for i := range got {
		group.Go(func() {
			var err error
			if got[i], err = []keys{w.Service, second}[i%2].CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, app); err != nil {
				t.Errorf("CreateKey = %v", err)
			}
		})
	}
	group.Wait()
	for _, key := range got {
		if !key.Equal(got[0]) {
			t.Fatal("two pending keys for one role")
		}
	}
	if rsa, err := w.CreateKey(t.Context(), tuf.RSA, tuf.RoleTimestamp, app); err == nil {
		t.Errorf("CreateKey(rsa) = %v, want a refusal", rsa)
	}
	other, err := w.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app)
	if err != nil || other.Equal(got[0]) {
		t.Errorf("CreateKey(another type) = %v, %v, want another key", other, err)
	}
}
