package server

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A signer that is asked too often is no fault of the server's: the publisher
// is told when to come again, nothing has changed, and then it is done.
func TestSignerAskedTooOften(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, "registry.example/app")
	p.init(t, tag("one"))
	w.keys.onSign(func(api.SignRequest) error {
		return fmt.Errorf("sign: %w", &api.SlowDownError{After: 1500 * time.Millisecond})
	})
	e := p.clone().try(t, tag("two"))
	if e == nil || e.Status != http.StatusTooManyRequests || e.Code != api.TooMany {
		t.Errorf("publish = %v, want %s", e, api.TooMany)
	}
	w.keys.onSign(nil)
	p.hasTags(t, tuf.RoleTargets, "one")
	p.publish(t, tag("two"))
	p.hasTags(t, tuf.RoleTargets, "one", "two")

	w.keys.Keys = slowCreating{w.keys.Keys}
	if r := w.do(http.MethodPost, keyPath("registry.example/app", tuf.RoleTimestamp), nil); r.Code != http.StatusTooManyRequests || r.Header().Get("Retry-After") != "2" {
		t.Errorf("POST timestamp.key = %d, Retry-After %q, want 429 and 2", r.Code, r.Header().Get("Retry-After"))
	}
}

// slowCreating are keys of a signer that was asked for too many.
type slowCreating struct{ Keys }

func (slowCreating) CreateKey(context.Context, tuf.KeyType, tuf.RoleName, tuf.GUN) (tuf.PublicKey, error) {
	return tuf.PublicKey{}, fmt.Errorf("create key: %w", &api.SlowDownError{After: 1500 * time.Millisecond})
}

// notForgetting are keys of a signer that does not let this server forget.
type notForgetting struct{ Keys }

func (notForgetting) Forget(context.Context, tuf.GUN) error {
	return fmt.Errorf("forget: %w", api.ErrDenied)
}

// attacks.md G3: a server without the right to forget deletes what is its own.
// What the signer remembers stands, so that no repository of that name can
// begin anew until an operator has had it forgotten.
func TestAttackDeleteAndBeginAnew(t *testing.T) {
	t.Parallel()
	c := &clock{now: tuftest.Start}
	dir := t.TempDir()
	s := openSigner(t, filepath.Join(dir, "signer.db"), c.Now)
	w := newWorldOn(t, openStore(t, filepath.Join(dir, "server.db")), notForgetting{s}, c, nil)
	const gun = "registry.example/app"
	p := newPublisher(t, w, gun)
	p.init(t, tag("one"))
	p.publish(t, tag("two"))
	if r := w.do(http.MethodDelete, repository(gun), nil); r.Code != http.StatusOK {
		t.Errorf("DELETE = %d %s, want 200", r.Code, r.Body)
	}
	if r := w.get(current(gun, tuf.RoleTimestamp)); r.Code != http.StatusNotFound {
		t.Errorf("GET timestamp.json after DELETE = %d", r.Code)
	}
	if !strings.Contains(w.log.String(), "the signer remembers it until an operator has it forgotten") {
		t.Error("the log does not say what the operator has to do")
	}
	again := newPublisher(t, w, gun)
	if e := w.upload(t, gun, again.first(t, false, tag("anew"))...); e == nil {
		t.Error("a repository began anew without an operator")
	}
	if err := s.Forget(t.Context(), gun); err != nil {
		t.Fatal(err)
	}
	again = newPublisher(t, w, gun)
	again.init(t, tag("anew"))
}
