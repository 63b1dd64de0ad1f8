package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
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

// attacks.md G3: a server deletes what is its own, and no more. What the signer
// remembers stands, so that no repository of that name can begin anew until an
// operator has had it forgotten, and publishers are told so.
func TestAttackDeleteAndBeginAnew(t *testing.T) {
	t.Parallel()
	c := &clock{now: tuftest.Start}
	dir := t.TempDir()
	s := openSigner(t, filepath.Join(dir, "signer.db"), c.Now)
	w := newWorldOn(t, openStore(t, filepath.Join(dir, "server.db")), s, c, func(c *Config) { c.Forget = nil })
	const gun = "registry.example/app"
	p := newPublisher(t, w, gun)
	p.init(t, tag("one"))
	p.publish(t, tag("two"))
	prepared := newPublisher(t, w, gun).first(t, false, tag("anew")) // with the keys of now
	if r := w.do(http.MethodDelete, repository(gun), nil); r.Code != http.StatusOK {
		t.Errorf("DELETE = %d %s, want 200", r.Code, r.Body)
	}
	if r := w.get(current(gun, tuf.RoleTimestamp)); r.Code != http.StatusNotFound {
		t.Errorf("GET timestamp.json after DELETE = %d", r.Code)
	}
	if !strings.Contains(w.log.String(), "the signer remembers it until an operator has it forgotten") {
		t.Error("the log does not say what the operator has to do")
	}

	const told = `{"errors":[{"code":"OPERATOR_NEEDED","message":"The operator of the service has to act before this can be done.","detail":{"Name":"ErrValidation","Error":{"Msg":` +
		`"registry.example/app was published here before, and is gone: it cannot begin anew until the operator of this service has had the signer forget it"}}}]}` + "\n"
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
			if r := w.do(method, keyPath(gun, role), nil); r.Code != http.StatusBadRequest || r.Body.String() != told {
				t.Errorf("%s %s.key = %d %s, want 400 %s", method, role, r.Code, r.Body, told)
			}
		}
	}
	e := w.upload(t, gun, prepared...)
	if e == nil || e.Status != http.StatusBadRequest || e.Code != api.NeedsOperator || !strings.Contains(told, e.Unwrap().(*api.Invalid).Msg) {
		t.Errorf("a repository began anew without an operator: %v", e)
	}
	if _, err := w.sql.Current(t.Context(), gun); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Current = %v, want ErrNotFound", err)
	}

	if err := s.Forget(t.Context(), gun); err != nil {
		t.Fatal(err)
	}
	newPublisher(t, w, gun).init(t, tag("anew"))
}

// Without the signer nobody knows whether something may begin.
func TestSignerAwayAtTheBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.keys.Keys = awayBeginning{w.keys.Keys}
	if r := w.do(http.MethodGet, keyPath("registry.example/new", tuf.RoleTimestamp), nil); r.Code != http.StatusServiceUnavailable {
		t.Errorf("GET timestamp.key = %d %s, want 503", r.Code, r.Body)
	}
}

type awayBeginning struct{ Keys }

func (awayBeginning) MayBegin(context.Context, tuf.GUN) error {
	return fmt.Errorf("ask: %w", api.ErrUnavailable)
}

// A wrong clock, the server's or the signer's, is named in the log, publishers
// are told what it is about, and readers get what is there: by their clocks it
// may be alive. When the clock is right again everything goes on.
func TestClocksDisagree(t *testing.T) {
	t.Parallel()
	const years = 20 * 365 * day
	for name, wrong := range map[string]struct{ server, signer time.Duration }{
		"server forward": {server: 60 * day}, "signer forward": {signer: years}, "signer back": {signer: -years},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := &clock{now: tuftest.Start}, &clock{now: tuftest.Start}
			dir := t.TempDir()
			w := newWorldOn(t, openStore(t, filepath.Join(dir, "server.db")), openSigner(t, filepath.Join(dir, "signer.db"), s.Now), c, nil)
			p := newPublisher(t, w, app)
			p.init(t, tag("one"))
			files := p.clone().files(t, tag("two")) // by a publisher whose clock is right
			c.pass(wrong.server)
			s.pass(wrong.signer)
			e := w.upload(t, app, files...)
			if e == nil || e.Status != http.StatusServiceUnavailable || !strings.HasPrefix(e.Message, "A clock of this service is wrong") || e.RequestID() == "" {
				t.Errorf("publish = %+v, want a sentence about clocks", e)
			}
			if says := "by the signer's clock it is " + s.Now().UTC().Format(time.RFC3339); !strings.Contains(w.log.String(), says) {
				t.Errorf("the log lacks %q:\n%s", says, w.log)
			}
			if r := w.get(current(app, tuf.RoleTimestamp)); r.Code != http.StatusOK {
				t.Errorf("GET timestamp.json = %d %s", r.Code, r.Body)
			}
			c.pass(-wrong.server)
			s.pass(-wrong.signer)
			p.publish(t, tag("three"))
			p.hasTags(t, tuf.RoleTargets, "one", "three")
		})
	}
}

// What was put off by a clock that was set back since is not put off any more.
func TestPutOffByAWrongClock(t *testing.T) {
	t.Parallel()
	var b backoff
	b.wait(app, 1, tuftest.Start.AddDate(20, 0, 0))
	if b.waiting(app, 1, tuftest.Start) {
		t.Error("it waits for 20 years")
	}
	b.wait(app, 1, tuftest.Start)
	if !b.waiting(app, 1, tuftest.Start.Add(time.Minute)) || b.waiting(app, 1, tuftest.Start.Add(2*backoffFor)) {
		t.Error("it does not wait for a while")
	}
}

// askedKeys count how often it was asked whether a key is held.
type askedKeys struct {
	Keys
	n *int
}

func (k askedKeys) Holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (bool, error) {
	*k.n++
	return k.Keys.Holds(ctx, gun, role, id)
}

// awayKeys are keys of a signer that does not answer, and count how often it
// was asked.
type awayKeys struct {
	Keys
	n *int
}

func (k awayKeys) Holds(context.Context, tuf.GUN, tuf.RoleName, tuf.CanonicalID) (bool, error) {
	*k.n++
	return false, fmt.Errorf("ask: %w", api.ErrUnavailable)
}

// A signer that does not answer is asked once: who waits for the publish waits
// for no second answer.
func TestSignerAwayIsAskedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.keys.both = true
	p := newPublisher(t, w, "registry.example/app")
	p.init(t, tag("one"))
	asked := 0
	real := w.keys.Keys
	w.keys.Keys = awayKeys{real, &asked}
	if e := p.clone().try(t, tag("two")); e == nil || e.Status != http.StatusServiceUnavailable || asked != 1 {
		t.Errorf("publish = %v after the signer was asked %d times, want 503 after one", e, asked)
	}
	w.keys.Keys = real
	p.publish(t, tag("two"))
}

// The signer is asked once whether it holds the keys of a repository: again if
// it turns out that it does not, and again in the repository's next life.
func TestHoldsIsAskedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, "registry.example/app")
	p.init(t, tag("one"))
	asked := 0
	w.keys.Keys = askedKeys{w.keys.Keys, &asked}
	for i, want := range []int{2, 2, 2} {
		p.publish(t, tag(fmt.Sprint(i)))
		if asked != want {
			t.Errorf("after publish %d the signer was asked %d times, want %d", i, asked, want)
		}
	}
	w.clock.pass(heldFor)
	p.publish(t, tag("later"))
	if asked != 4 {
		t.Errorf("after a while the signer was asked %d times, want 4", asked)
	}
	w.keys.onSign(func(api.SignRequest) error { return tuf.ErrNoKey })
	if e := p.clone().try(t, tag("lost")); e == nil {
		t.Error("a publish without keys was acknowledged")
	}
	w.keys.onSign(nil)
	asked = 0
	p.publish(t, tag("three"))
	if asked == 0 {
		t.Error("the signer said that it does not hold a key, and was not asked again")
	}
	if r := w.do(http.MethodDelete, repository(p.gun), nil); r.Code != http.StatusOK {
		t.Fatalf("DELETE = %d %s", r.Code, r.Body)
	}
	asked = 0
	newPublisher(t, w, p.gun).init(t, tag("anew"))
	if asked < 2 {
		t.Errorf("in its next life the signer was asked %d times, want at least 2", asked)
	}
}

// countedKeys count what they are asked to sign, at once or apart.
type countedKeys struct {
	Keys
	both, apart int
	err         error // of SignBoth, after what it says was done
}

func (k *countedKeys) Sign(ctx context.Context, r api.SignRequest) (tuf.Signature, error) {
	k.apart++
	return k.Keys.Sign(ctx, r)
}

func (k *countedKeys) SignBoth(ctx context.Context, r api.SignRequest, next api.Successor) (snapshot, timestamp tuf.Signature, err error) {
	k.both++
	if errors.Is(k.err, errors.ErrUnsupported) {
		return snapshot, timestamp, k.err
	}
	snapshot, timestamp, err = k.Keys.SignBoth(ctx, r, next)
	return snapshot, timestamp, errors.Join(err, k.err)
}

// A publish asks the signer once, for snapshot and timestamp together; where
// that is not possible, or the answer was lost, what is published is the same.
func TestPublishAsksOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	keys := &countedKeys{Keys: w.keys.Keys}
	w.keys.Keys, w.keys.both = keys, true
	p := newPublisher(t, w, "registry.example/app")
	asked := func(what string, both, apart int) {
		t.Helper()
		if keys.both != both || keys.apart != apart {
			t.Errorf("%s: the signer was asked %d times for both and %d times for one, want %d and %d", what, keys.both, keys.apart, both, apart)
		}
		keys.both, keys.apart = 0, 0
	}
	p.init(t, tag("one"))
	asked("the first publish", 1, 0)
	p.publish(t, tag("two"))
	asked("a publish", 1, 0)
	lose := func(name string) {
		t.Helper()
		keys.err = errSigner
		if e := p.clone().try(t, tag(name)); e == nil {
			t.Error("a publish whose signatures were lost was acknowledged")
		}
		asked("a publish whose signatures were lost", 1, 0)
		keys.err = nil
	}
	lose("three")
	p.publish(t, tag("three"))
	asked("the same one again, to which the answers are the same", 1, 0)
	lose("lost")
	w.clock.pass(time.Second)
	p.publish(t, tag("found"))
	asked("another one, whose versions were signed: above each of the two", 1, 4)
	w.clock.pass(3 * 24 * time.Hour)
	if err := w.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	asked("a renewal of the timestamp", 0, 1)
	keys.err = errors.ErrUnsupported
	p.publish(t, tag("four"))
	asked("a signer that cannot", 1, 2)
	p.publish(t, tag("five"))
	asked("a signer that could not a moment ago", 0, 2)
	keys.err = nil
	w.clock.pass(2 * apart)
	p.publish(t, tag("six"))
	asked("a signer that was replaced", 1, 0)
	p.hasTags(t, tuf.RoleTargets, "five", "found", "four", "one", "six", "three", "two")
}
