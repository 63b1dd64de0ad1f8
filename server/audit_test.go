package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// pretender is whoever it says to be; carol may do everything, alice may not
// delete or rotate.
type pretender struct{ name string }

func (p *pretender) Authorize(_ *http.Request, a Access) (Grant, error) {
	if p.name == "carol" || p.name == "alice" && a.Actions[0] != "*" {
		return Grant{Who: p.name}, nil
	}
	return Grant{}, unauthorized(a, `Basic realm="test"`)
}

// told returns the audit trail of w, a line a record.
func told(t *testing.T, w *world) []string {
	t.Helper()
	all, err := w.sql.(storage.Archive).Audit(t.Context(), storage.AuditQuery{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range all {
		line := fmt.Sprintf("%s %s by %s from %s", r.Act, r.Repository, r.Subject, r.From)
		if r.Role != "" {
			line += fmt.Sprintf(" %s", r.Role)
		}
		lines = append(lines, line)
	}
	return lines
}

// attacks.md S6: who may push may not delete, and it leaves nothing; who may,
// is in the trail by the name that was authenticated.
func TestAttackDeleteByPusher(t *testing.T) {
	t.Parallel()
	who := &pretender{"alice"}
	w := newWorld(t, func(c *Config) { c.Auth = who })
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	p.publish(t, tag("2"))
	before := w.state(t, app)
	if r := w.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusUnauthorized {
		t.Fatalf("DELETE by a pusher = %d %s", r.Code, r.Body)
	}
	if want := `msg="deletion refused" gun=registry.example/app remote=192.0.2.1`; !strings.Contains(w.log.String(), want) {
		t.Errorf("the log lacks %q:\n%s", want, w.log)
	}
	rotate := api.Route{Kind: api.Key, GUN: app, Role: tuf.RoleSnapshot}.Path()
	if r := w.do(http.MethodPost, rotate, nil); r.Code != http.StatusUnauthorized {
		t.Fatalf("rotation by a pusher = %d %s", r.Code, r.Body)
	}
	if after := w.state(t, app); after.Seq != before.Seq {
		t.Error("the refused deletion changed something")
	}
	p.publish(t, tag("3"))
	w.clock.pass(2 * 24 * time.Hour)
	if err := w.Renew(t.Context()); err != nil { // by nobody, so that it is not told
		t.Fatal(err)
	}
	who.name = "carol"
	for range 3 { // S7: a repeated request gets the same key, and one record
		if r := w.do(http.MethodPost, rotate, nil, "X-Forwarded-For", "203.0.113.9"); r.Code != http.StatusOK {
			t.Fatalf("rotation = %d %s", r.Code, r.Body)
		}
	}
	for range 2 { // to delete what is not there is no act
		if r := w.do(http.MethodDelete, repository(app), nil); r.Code != http.StatusOK {
			t.Fatalf("DELETE = %d %s", r.Code, r.Body)
		}
	}
	publish := "publish registry.example/app by alice from 192.0.2.1"
	want := []string{publish, publish, publish, "rotate registry.example/app by carol from 192.0.2.1 snapshot", "delete registry.example/app by carol from 192.0.2.1"}
	if d := cmp.Diff(want, told(t, w)); d != "" {
		t.Errorf("audit trail (-want +got):\n%s", d)
	}
}

// A publish and what the trail says of it happen both or not at all.
func TestAuditWithTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPublisher(t, w, app)
	p.init(t, tag("1"))
	files := p.files(t, tag("2"))
	if err := w.upload(t, app, files...); err != nil {
		t.Fatal(err)
	}
	if err := w.upload(t, app, files...); err == nil {
		t.Error("the same version again was taken")
	}
	if got := told(t, w); len(got) != 2 {
		t.Errorf("the trail has %q, want the two publishes", got)
	}
}

// attacks.md T5: the end of the trail stands in the log as well, where its
// keeper cannot change it.
func TestTrailInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	newPublisher(t, w, app).init(t, tag("1"))
	var log lines
	s, err := New(Config{Store: w.sql, Keys: w.keys, Auth: NoAuth{}, Now: w.clock.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what stands there already is not repeated
		if err := s.logTrail(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, err := w.sql.(storage.Archive).Audit(t.Context(), storage.AuditQuery{})
	if err != nil || len(all) != 1 {
		t.Fatalf("Audit = %v, %v", all, err)
	}
	if want := fmt.Sprintf("entry=1 hash=%x\n", all[0].Link.Hash); strings.Count(log.String(), want) != 1 {
		t.Errorf("log:\n%s\nwant %q once", log.String(), want)
	}
}
