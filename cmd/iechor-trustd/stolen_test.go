package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/tuf"
)

// A thief has a server's certificate and everything in its database, and asks
// the signer with it.
type thief struct {
	t    *testing.T
	site *site
	at   *process // reads what the database has
	gun  tuf.GUN
	*signer.Client
	keys map[tuf.RoleName]tuf.CanonicalID
}

// state is a published timestamp and the snapshot that it names.
type state struct{ timestamp, snapshot []byte }

func newThief(t *testing.T, s *site, at *process, gun tuf.GUN) *thief {
	t.Helper()
	v := &thief{t: t, site: s, at: at, gun: gun, Client: s.dial(t, s.ca, s.caller), keys: map[tuf.RoleName]tuf.CanonicalID{}}
	p := newPublisher(t, s, gun)
	for _, role := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot} {
		key, err := p.key(t.Context(), at, role)
		if err != nil {
			t.Fatal(err)
		}
		v.keys[role] = key.CanonicalID()
	}
	return v
}

// state takes what is published now.
func (v *thief) state() (s state) {
	v.t.Helper()
	for role, to := range map[tuf.RoleName]*[]byte{tuf.RoleTimestamp: &s.timestamp, tuf.RoleSnapshot: &s.snapshot} {
		path := api.Route{Kind: api.FileCurrent, GUN: v.gun, Role: role}.Path()
		status, body, err := v.site.get(v.t.Context(), "https://"+v.at.addr+path)
		if err != nil || status != http.StatusOK {
			v.t.Fatalf("GET %s = %d, %v", path, status, err)
		}
		*to = []byte(body)
	}
	return s
}

// payload returns the signed part of a file, edited, in canonical form.
func payload(t *testing.T, file []byte, edit func(map[string]any)) []byte {
	t.Helper()
	var envelope struct {
		Signed map[string]any `json:"signed"`
	}
	d := json.NewDecoder(bytes.NewReader(file))
	d.UseNumber()
	if err := d.Decode(&envelope); err != nil {
		t.Fatal(err)
	}
	edit(envelope.Signed)
	raw, err := json.Marshal(envelope.Signed)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = tuf.Canonical(raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

func numbered(n int64, more ...func(map[string]any)) func(map[string]any) {
	return func(m map[string]any) {
		m["version"] = n
		for _, f := range more {
			f(m)
		}
	}
}

func expires(at time.Time) func(map[string]any) {
	return func(m map[string]any) { m["expires"] = at.UTC().Format(time.RFC3339) }
}

// dated asks for a timestamp of a version, on base, over the snapshot that the
// timestamp of content names.
func (v *thief) dated(n int64, base, content state, more ...func(map[string]any)) api.SignRequest {
	v.t.Helper()
	return api.SignRequest{GUN: v.gun, Role: tuf.RoleTimestamp, Key: v.keys[tuf.RoleTimestamp], Payload: payload(v.t, content.timestamp, numbered(n, more...)),
		Timestamp: base.timestamp, BaseSnapshot: base.snapshot, Snapshot: content.snapshot}
}

// listed asks for a snapshot of a version, on base.
func (v *thief) listed(n int64, base state, more ...func(map[string]any)) api.SignRequest {
	v.t.Helper()
	return api.SignRequest{GUN: v.gun, Role: tuf.RoleSnapshot, Key: v.keys[tuf.RoleSnapshot], Payload: payload(v.t, base.snapshot, numbered(n, more...)),
		Timestamp: base.timestamp, BaseSnapshot: base.snapshot}
}

// TestAttackStolenServer: F17, G1 to G3. Who has all that a server has, its
// certificate and its database, cannot have the signer, a process of its own
// behind mutual TLS, sign anything that takes consumers back, outlives its
// time, or is not this server's to sign. All of it stands in the audit log, and
// the honest server goes on.
func TestAttackStolenServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	const gun, other = tuf.GUN("registry.example/app"), tuf.GUN("registry.example/other")
	p, q := newPublisher(t, s, gun), newPublisher(t, s, other)
	if err := errors.Join(p.init(t.Context(), server, "1"), q.init(t.Context(), server, "1")); err != nil {
		t.Fatal(err)
	}
	v, w := newThief(t, s, server, gun), newThief(t, s, server, other)
	old := v.state()
	for _, tag := range []string{"2", "3"} {
		if err := p.publish(t.Context(), server, tag); err != nil {
			t.Fatal(err)
		}
	}
	for _, tag := range []string{"2", "3", "4"} { // higher versions than here
		if err := q.publish(t.Context(), server, tag); err != nil {
			t.Fatal(err)
		}
	}
	now, theirs := v.state(), w.state()
	far := time.Now().Add(401 * 24 * time.Hour)
	targets := payload(t, now.snapshot, func(m map[string]any) {
		m["_type"], m["targets"], m["delegations"] = "Targets", map[string]any{}, map[string]any{"keys": map[string]any{}, "roles": []any{}}
		delete(m, "meta")
	})
	root := payload(t, now.snapshot, func(m map[string]any) {
		m["_type"], m["keys"], m["roles"], m["consistent_snapshot"] = "Root", map[string]any{}, map[string]any{}, false
		delete(m, "meta")
	})
	as := func(r api.SignRequest, change func(*api.SignRequest)) api.SignRequest { change(&r); return r }
	const refused, noKey, floor, restored = "refused", "no key", "floor", "restored"
	for name, tt := range map[string]struct {
		r    api.SignRequest
		want string
	}{
		"an older snapshot under a newer timestamp":           {v.dated(9, now, old), floor},
		"an older snapshot as if it were the base's":          {v.dated(9, state{now.timestamp, old.snapshot}, old), refused},
		"an older snapshot on the older state":                {v.dated(9, old, old), restored},
		"an older snapshot as if nothing was published":       {v.dated(9, state{}, old), restored},
		"the same version, another content":                   {v.dated(3, now, now, expires(time.Now().Add(time.Hour))), floor},
		"a lower version of the timestamp":                    {v.dated(2, now, now), floor},
		"a lower version of the snapshot":                     {v.listed(2, now), floor},
		"version zero":                                        {v.listed(0, now), refused},
		"all versions at once":                                {v.dated(1<<50, now, now), refused},
		"a timestamp that lives for a month":                  {v.dated(9, now, now, expires(time.Now().Add(30*24*time.Hour))), refused},
		"a snapshot that lives for ever":                      {v.listed(9, now, expires(far)), refused},
		"one that is expired already":                         {v.listed(9, now, expires(time.Now().Add(-time.Hour))), refused},
		"another repository's snapshot under this one's time": {v.dated(9, now, theirs), refused},
		"another repository's state as the base":              {v.dated(9, theirs, now), refused},
		"another repository's name with this one's key":       {as(v.dated(9, now, now), func(r *api.SignRequest) { r.GUN = other }), noKey},
		"this repository's name with another one's key":       {as(v.dated(9, now, now), func(r *api.SignRequest) { r.Key = w.keys[tuf.RoleTimestamp] }), noKey},
		"a timestamp with the snapshot's key":                 {as(v.dated(9, now, now), func(r *api.SignRequest) { r.Key = v.keys[tuf.RoleSnapshot] }), noKey},
		"targets with the snapshot's key":                     {as(v.listed(9, now), func(r *api.SignRequest) { r.Payload = targets }), refused},
		"targets as targets":                                  {as(v.listed(9, now), func(r *api.SignRequest) { r.Payload, r.Role = targets, tuf.RoleTargets }), refused},
		"a root with the timestamp's key":                     {as(v.dated(9, now, now), func(r *api.SignRequest) { r.Payload = root }), refused},
		"a root as root":                                      {as(v.listed(9, now), func(r *api.SignRequest) { r.Payload, r.Role = root, tuf.RoleRoot }), refused},
		"any bytes":                                           {as(v.listed(9, now), func(r *api.SignRequest) { r.Payload = []byte("transfer everything") }), refused},
		"a snapshot with a member that nobody looked at":      {v.listed(9, now, func(m map[string]any) { m["custom"] = "x" }), refused},
		"a timestamp that names more than a snapshot":         {v.dated(9, now, now, func(m map[string]any) { m["meta"].(map[string]any)["root"] = m["meta"].(map[string]any)["snapshot"] }), refused},
		"a timestamp whose signature it forged as the base":   {v.dated(9, state{forged(now.timestamp), now.snapshot}, now), refused},
	} {
		sig, err := v.Sign(t.Context(), tt.r)
		if sig.Value != nil {
			t.Errorf("%s was signed", name)
		}
		got := ""
		switch {
		case errors.As(err, new(*api.FloorError)):
			got = floor
		case errors.As(err, new(*api.RestoredError)):
			got = restored
		case errors.Is(err, tuf.ErrNoKey):
			got = noKey
		case errors.Is(err, signer.ErrRefused):
			got = refused
		}
		if got != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	// Nor can it end what the signer remembers, lower what it demands, or undo
	// that: those are an operator's rights.
	for what, err := range map[string]error{
		"forget": v.Forget(t.Context(), gun), "lower the floor": v.LowerFloor(t.Context(), gun, 0), "recall": v.Recall(t.Context(), gun),
	} {
		if !errors.Is(err, signer.ErrDenied) {
			t.Errorf("%s = %v, want ErrDenied", what, err)
		}
	}
	for _, tag := range []string{"4", "5"} {
		if err := p.publish(t.Context(), server, tag); err != nil {
			t.Errorf("publish by the honest server: %v", err)
		}
	}
	if err := q.publish(t.Context(), server, "5"); err != nil {
		t.Errorf("publish by the honest server: %v", err)
	}
	p.has(server, "1", "2", "3", "4", "5")

	audit := []string{"audit", "--config", s.file("signer.yaml")}
	status, out, errs := runProcess(t, nil, append(audit, "--json")...)
	if status != 0 || errs != "" {
		t.Errorf("audit = %d %s", status, errs)
	}
	count := map[string]int{}
	for line := range strings.Lines(out) {
		var e signer.AuditRecord
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Event != signer.AuditCreated && e.Identity != serverIdentity {
			t.Errorf("who asked: %s", line)
		}
		count[e.Event]++
	}
	// Two signatures for each publish, and none for the thief.
	if count[signer.AuditSigned] != 2*(5+5) || count[signer.AuditRestored] != 2 || count[signer.AuditRefused] < 15 {
		t.Errorf("audit log: %v", count)
	}
	if status, out, errs := runProcess(t, nil, append(audit, "--verify")...); status != 0 || !strings.Contains(out, "\nanchor ") || errs != "" {
		t.Errorf("audit --verify = %d %q %q", status, out, errs)
	}
	server.stop()
	s.sound(t)

	// The operator may what the thief may not.
	operator := s.dial(t, s.ca, s.operator)
	if err := errors.Join(operator.Forget(t.Context(), gun), operator.Recall(t.Context(), gun), operator.LowerFloor(t.Context(), gun, 1)); err != nil {
		t.Errorf("the operator: %v", err)
	}
}

// forged changes a signature.
func forged(file []byte) []byte {
	at := bytes.Index(file, []byte(`"sig":"`)) + len(`"sig":"`)
	out := bytes.Clone(file)
	if out[at] == 'A' {
		out[at] = 'B'
	} else {
		out[at] = 'A'
	}
	return out
}
