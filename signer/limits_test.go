package signer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
)

// attacks.md S7: a caller who asks without end is told to wait, for one
// repository and for all together, and others are not concerned.
func TestAttackAskWithoutEnd(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	s, err := New(Config{Table: w.table, Now: w.clock, Rates: Rates{Signatures: 4, RepositorySignatures: 2, Keys: 4, RepositoryKeys: 2},
		Identities: map[string]Rights{"server": {Sign: true, Create: true}, "other": {Create: true, Sign: true}}})
	if err != nil {
		t.Fatal(err)
	}
	base := w.serveService(t, a, s)
	server, other := dial(t, base, a, a.client(t, "server")), dial(t, base, a, a.client(t, "other"))
	// once asks without the client's patience.
	once := func(c *Client, path string, gun tuf.GUN) error {
		q := any(keyQuestion{tuf.ECDSA, tuf.RoleTimestamp, gun})
		if path == pathSign {
			q = api.SignRequest{GUN: gun, Role: tuf.RoleTimestamp}
		}
		return c.once(t.Context(), http.MethodPost, path, q, new(json.RawMessage))
	}
	slow := new(api.SlowDownError)
	for _, path := range []string{pathCreate, pathSign} {
		for i := range 40 {
			gun := tuf.GUN(fmt.Sprintf("registry.example/app%d", i%2))
			if err := once(server, path, gun); errors.As(err, &slow) {
				t.Fatalf("%s: call %d of %s: %v", path, i, gun, err)
			}
		}
		err := once(server, path, "registry.example/app0")
		if !errors.As(err, &slow) || slow.After < time.Second/2 || slow.After > time.Second {
			t.Errorf("%s: one call more = %v, want a SlowDownError of half a second", path, err)
		}
		if err := once(server, path, "registry.example/app9"); !errors.As(err, &slow) {
			t.Errorf("%s: of another repository = %v, want a SlowDownError: the identity has its own limit", path, err)
		}
		if err := once(other, path, "registry.example/app8"); errors.As(err, &slow) {
			t.Errorf("%s: by another identity = %v", path, err)
		}
		if err := once(other, path, "registry.example/app0"); !errors.As(err, &slow) {
			t.Errorf("%s: by another identity for the same repository = %v, want a SlowDownError", path, err)
		}
	}
	raw, err := json.Marshal(keyQuestion{tuf.ECDSA, tuf.RoleTimestamp, "registry.example/app0"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.http.Post(base+pathCreate, "application/json", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("POST = %s, Retry-After %q, %v", resp.Status, resp.Header.Get("Retry-After"), err)
	}
	w.pass(2 * time.Second)
	for _, path := range []string{pathCreate, pathSign} {
		if err := once(server, path, "registry.example/app0"); errors.As(err, &slow) {
			t.Errorf("%s: two seconds later = %v", path, err)
		}
	}
}

// A server that is told to wait a moment waits, and its user notices nothing;
// one that is told so again and again says so.
func TestClientWaits(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	var asked atomic.Int64
	var step atomic.Int64
	clock := func() time.Time { return w.clock().Add(time.Duration(asked.Add(step.Load()))) }
	s, err := New(Config{Table: w.table, Now: clock, Rates: Rates{RepositoryKeys: 100}, Identities: map[string]Rights{"server": {Create: true}}})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, w.serveService(t, a, s), a, a.client(t, "server"))
	for range 100 * api.MeterBurst {
		s.meters.repositoryKeys.Take(string(app), clock())
	}
	if _, err := c.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app); !errors.As(err, new(*api.SlowDownError)) {
		t.Errorf("CreateKey while the clock stands = %v, want a SlowDownError", err)
	}
	step.Store(int64(4 * time.Millisecond)) // the third try comes late enough
	if _, err := c.CreateKey(t.Context(), tuf.ECDSA, tuf.RoleTimestamp, app); err != nil {
		t.Errorf("CreateKey = %v, want the client to wait", err)
	}
}
