package signer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/database"
	"github.com/iechor/trust/traces"
	"github.com/iechor/trust/tuf"
)

// trail returns the audit log, verified.
func (w *world) trail(t testing.TB, q AuditQuery) (all []AuditRecord) {
	t.Helper()
	if _, err := VerifyAudit(t.Context(), w.table.db); err != nil {
		t.Error(err)
	}
	for r, err := range ReadAudit(t.Context(), w.table.db, q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func events(all []AuditRecord) (out []string) {
	for _, r := range all {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %d", r.Event, r.GUN, r.Role, r.Version)))
	}
	return out
}

// Everything that was signed or made stands in the log, with what it was and
// who asked, once.
func TestAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	r := s.timestampRequest(t, 2, s.snapshot)
	for range 2 { // the same answer again is no second signature
		if _, err := w.Service.sign(t.Context(), "server.example", r, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.lowerFloor(t.Context(), "operator.example", app, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.forget(t.Context(), "operator.example", app); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	newServer(t, w, w, "registry.example/other")
	all := w.trail(t, AuditQuery{})
	want := []string{
		"created registry.example/app timestamp 0", "created registry.example/app snapshot 0",
		"signed registry.example/app snapshot 1", "signed registry.example/app timestamp 1", "signed registry.example/app timestamp 2",
		"lowered registry.example/app timestamp 1", "forgot registry.example/app  0",
		"created registry.example/other timestamp 0", "created registry.example/other snapshot 0",
	}
	if d := cmp.Diff(want, events(all)); d != "" {
		t.Errorf("audit log (-want +got):\n%s", d)
	}
	payload, err := tuf.Payload(tuf.RoleTimestamp, r.Payload)
	if err != nil {
		t.Fatal(err)
	}
	wantEntry := AuditEntry{
		Time: w.clock().Add(-time.Hour), Event: AuditSigned, Identity: "server.example", GUN: app, Role: tuf.RoleTimestamp, Version: 2,
		Key: s.timestampKey.CanonicalID(), Payload: payloadHash(r.Payload), Expires: &payload.Expires,
	}
	if d := cmp.Diff(wantEntry, all[4].AuditEntry); d != "" {
		t.Errorf("entry of a signature (-want +got):\n%s", d)
	}
	if all[5].Identity != "operator.example" || all[6].Identity != "operator.example" {
		t.Errorf("who lowered and forgot: %q, %q", all[5].Identity, all[6].Identity)
	}
	if got := events(w.trail(t, AuditQuery{GUN: "registry.example/other"})); !cmp.Equal(got, want[7:]) {
		t.Errorf("of one repository: %v", got)
	}
	if got := events(w.trail(t, AuditQuery{Since: w.clock().Add(-time.Minute)})); !cmp.Equal(got, want[7:]) {
		t.Errorf("since an hour later: %v", got)
	}
	if got := events(w.trail(t, AuditQuery{From: 8})); !cmp.Equal(got, want[8:]) {
		t.Errorf("after entry 8: %v", got)
	}
	if raw, err := json.Marshal(all[4]); err != nil || !strings.HasPrefix(string(raw), `{"anchor":"5:`) || !strings.Contains(string(raw), `"event":"signed"`) {
		t.Errorf("JSON of a record = %s, %v", raw, err)
	}
}

// What somebody wrote into the log as a time is not repeated as it stands.
func TestAuditTimeThatIsNone(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"\x7f", strings.Repeat("2026-", 10_000)} {
		_, err := readEntry(database.Link{ID: 7, Entry: []byte(`{"time":"` + at + `"}`)})
		if !errors.Is(err, ErrAudit) || strings.ContainsFunc(err.Error(), unicode.IsControl) || !utf8.ValidString(err.Error()) || len(err.Error()) > 500 {
			t.Errorf("readEntry with the time %.30q = %.500q, want ErrAudit in one short line", at, err)
		}
	}
}

// Since is found by few reads among many entries, and clocks that disagree by
// minutes hide nothing.
func TestAuditSince(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	begin := w.clock()
	for i := range 300 {
		at := begin.Add(time.Duration(i) * time.Minute)
		if i%3 == 0 {
			at = at.Add(-5 * time.Minute) // another signer's clock
		}
		if err := w.table.note(t.Context(), AuditEntry{Time: at, Event: AuditDenied, Version: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, since := range []int{-10, 0, 1, 7, 150, 298, 299, 400} {
		limit := begin.Add(time.Duration(since) * time.Minute)
		got := w.trail(t, AuditQuery{Since: limit})
		want := 0
		for _, r := range w.trail(t, AuditQuery{}) {
			if !r.Time.Before(limit) {
				want++
			}
		}
		if len(got) != want {
			t.Errorf("since minute %d: %d entries, want %d", since, len(got), want)
		}
	}
}

// attacks.md T5: whatever the operator of the signer does to the audit log is
// found: in the log itself, or with an anchor or export that was taken before.
func TestAttackAuditEdited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	s.publish(t, "two")
	noted, err := w.table.AuditEnd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.publish(t, "three")
	db := w.table.db
	report, err := VerifyAudit(t.Context(), db, noted, AuditAnchor{})
	if err != nil || report.Last.ID != 8 || report.First.ID != 0 || !report.To.Equal(w.clock()) {
		t.Fatalf("an honest log: %+v, %v", report, err)
	}
	var exported bytes.Buffer
	if err := ExportAudit(t.Context(), db, nil, &exported); err != nil {
		t.Fatal(err)
	}
	type row struct {
		id          int64
		gun         string
		hash, entry []byte
	}
	var rows []row
	found, err := db.SQL().Query("SELECT id, gun, hash, entry FROM signer_audit ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		var r row
		if err := found.Scan(&r.id, &r.gun, &r.hash, &r.entry); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	if err := errors.Join(found.Err(), found.Close()); err != nil {
		t.Fatal(err)
	}
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.SQL().Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
	// rewrite makes the whole log anew, as who has the database can.
	rewrite := func(entries ...[]byte) {
		exec("DELETE FROM signer_audit")
		for _, raw := range entries {
			var e AuditEntry
			if err := json.Unmarshal(raw, &e); err != nil {
				t.Fatal(err)
			}
			if err := w.table.note(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	var entries [][]byte
	for _, r := range rows {
		entries = append(entries, r.entry)
	}
	for name, tt := range map[string]struct {
		edit   func()
		anchor bool // found only with an anchor
	}{
		"an entry changed":      {edit: func() { exec("UPDATE signer_audit SET entry = replace(entry, 'snapshot', 'timestamp') WHERE id = 5") }},
		"an entry taken out":    {edit: func() { exec("DELETE FROM signer_audit WHERE id = 5") }},
		"the beginning cut off": {edit: func() { exec("DELETE FROM signer_audit WHERE id < 4") }},
		"the beginning cut off, as if by retention": {edit: func() {
			exec("DELETE FROM signer_audit WHERE id < 4")
			exec("UPDATE signer_audit_end SET cut = 3, cut_hash = ?", fmt.Sprintf("%x", rows[2].hash))
		}},
		"the end cut off":                             {anchor: true, edit: func() { exec("DELETE FROM signer_audit WHERE id > 4") }},
		"all of it taken away":                        {anchor: true, edit: func() { exec("DELETE FROM signer_audit") }},
		"written anew without an entry":               {anchor: true, edit: func() { rewrite(append(entries[:3:3], entries[4:]...)...) }},
		"written anew with as many, in another order": {anchor: true, edit: func() { rewrite(append([][]byte{entries[1], entries[0]}, entries[2:]...)...) }},
		"not JSON": {edit: func() { exec("UPDATE signer_audit SET entry = 'x' WHERE id = 8") }},
	} {
		tt.edit()
		if _, err := VerifyAudit(t.Context(), db); errors.Is(err, ErrAudit) == tt.anchor {
			t.Errorf("%s: VerifyAudit = %v", name, err)
		}
		if _, err := VerifyAudit(t.Context(), db, noted); !errors.Is(err, ErrAudit) {
			t.Errorf("%s: VerifyAudit with an anchor = %v, want ErrAudit", name, err)
		}
		exec("DELETE FROM signer_audit")
		exec("UPDATE signer_audit_end SET cut = 0, cut_hash = ''")
		for _, r := range rows {
			exec("INSERT INTO signer_audit (id, gun, hash, entry) VALUES (?, ?, ?, ?)", r.id, r.gun, r.hash, r.entry)
		}
	}
	s.publish(t, "four")
	if report, err := VerifyAudit(t.Context(), db, noted, report.Last); err != nil || report.Last.ID != 10 {
		t.Errorf("an honest log: %+v, %v", report, err)
	}

	// The same for the file.
	verify := func(text string, anchors ...AuditAnchor) error {
		_, err := VerifyExports([]io.Reader{strings.NewReader(text)}, anchors...)
		return err
	}
	if err := verify(exported.String(), noted); err != nil {
		t.Errorf("an honest export: %v", err)
	}
	lines := strings.SplitAfter(exported.String(), "\n")
	for name, text := range map[string]string{
		"changed":               strings.Replace(exported.String(), `"role":"snapshot"`, `"role":"timestamp"`, 1),
		"line taken out":        strings.Join(append(lines[:3:3], lines[4:]...), ""),
		"line repeated":         strings.Join(append(lines[:4:4], lines[3:]...), ""),
		"the end cut off":       strings.Join(lines[:4], ""),
		"more behind an entry":  strings.Replace(exported.String(), "}}\n", "}} {}\n", 1),
		"the beginning cut off": `{"audit":"iechor signer audit 1","after":"2:` + strings.Repeat("0", 64) + `"}` + "\n" + strings.Join(lines[3:], ""),
	} {
		if err := verify(text, noted); !errors.Is(err, ErrAudit) {
			t.Errorf("export, %s: %v, want ErrAudit", name, err)
		}
	}
	for _, text := range []string{"", "\n", "{}\n", `{"audit":"another","after":"0:"}`, strings.Repeat("x", maxLine+1)} {
		if err := verify(text); err == nil {
			t.Errorf("export %.20q should be refused", text)
		}
	}
}

// Retention removes the oldest entries and says so in the log: what is left
// verifies, and so do exports that were taken before and go on after it.
func TestAuditRetention(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	var first, second bytes.Buffer
	db := w.table.db
	export := func(after *AuditAnchor, to *bytes.Buffer) {
		t.Helper()
		to.Reset()
		if err := ExportAudit(t.Context(), db, after, to); err != nil {
			t.Fatal(err)
		}
	}
	export(nil, &first)
	early, err := w.table.AuditEnd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.pass(24 * time.Hour)
	s.publish(t, "two")
	late, err := w.table.AuditEnd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	removed, err := w.table.CutAudit(t.Context(), w.clock().Add(-time.Hour), w.clock())
	if err != nil || removed != 4 {
		t.Errorf("CutAudit = %d, %v, want the 4 of the day before", removed, err)
	}
	if removed, err := w.table.CutAudit(t.Context(), w.clock().Add(-time.Hour), w.clock()); err != nil || removed != 0 {
		t.Errorf("CutAudit again = %d, %v, want 0", removed, err)
	}
	s.publish(t, "three")
	report, err := VerifyAudit(t.Context(), db, early, late)
	if err != nil || report.First != early || report.Cuts != 1 {
		t.Errorf("VerifyAudit after retention = %+v, %v", report, err)
	}
	if _, err := VerifyAudit(t.Context(), db, AuditAnchor{ID: 2}); err == nil || errors.Is(err, ErrAudit) || !strings.Contains(err.Error(), "an export of that time") {
		t.Errorf("VerifyAudit with an anchor of what is gone = %v", err)
	}
	export(&early, &second)
	verify := func(anchors []AuditAnchor, texts ...string) (AuditReport, error) {
		var in []io.Reader
		for _, text := range texts {
			in = append(in, strings.NewReader(text))
		}
		return VerifyExports(in, anchors...)
	}
	report, err = verify([]AuditAnchor{{ID: 0}, early, late}, first.String(), second.String())
	if err != nil || report.Last.ID != 9 || report.First.ID != 0 {
		t.Errorf("both exports = %+v, %v", report, err)
	}
	if _, err := verify(nil, second.String()); err != nil {
		t.Errorf("the later export, which tells of the cut: %v", err)
	}
	if _, err := verify(nil, second.String(), first.String()); !errors.Is(err, ErrAudit) {
		t.Errorf("exports in the wrong order = %v, want ErrAudit", err)
	}
	var third bytes.Buffer
	export(&late, &third)
	if _, err := verify(nil, first.String(), third.String()); !errors.Is(err, ErrAudit) {
		t.Errorf("exports with a hole = %v, want ErrAudit", err)
	}
	if _, err := verify(nil, third.String()); !errors.Is(err, ErrAudit) {
		t.Errorf("an export from the middle, alone = %v, want ErrAudit", err)
	}
	if _, err := verify([]AuditAnchor{late}, third.String()); err != nil {
		t.Errorf("an export from the middle, with the anchor before it: %v", err)
	}
	if err := ExportAudit(t.Context(), db, &AuditAnchor{ID: 1}, io.Discard); err == nil {
		t.Error("ExportAudit from what is gone should be refused")
	}
}

// Several signers write to one log, and no signature leaves before its entry is
// in it.
func TestAuditTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := openTable(t, w.path, testKEK(t, 1))
	services := []*Service{w.Service, w.service(t, second, nil)}
	var all sync.WaitGroup
	const each = 4
	for i := range 4 {
		all.Go(func() {
			s := newServer(t, w, services[i%2], tuf.GUN(fmt.Sprintf("registry.example/app%d", i)))
			for n := range each {
				s.publish(t, fmt.Sprint(n))
			}
		})
	}
	all.Wait()
	if got := len(w.trail(t, AuditQuery{})); got != 4*(2+2*each) {
		t.Errorf("%d entries, want %d", got, 4*(2+2*each))
	}

	// The log cannot be written: no signature, until it can.
	s := newServer(t, w, w, app)
	exec := func(query string) {
		t.Helper()
		if _, err := w.table.db.SQL().Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE signer_audit RENAME TO hidden")
	r := s.snapshotRequest(t, 1, "one")
	for range 2 {
		if sig, err := w.Sign(t.Context(), r); err == nil || sig.Value != nil {
			t.Errorf("Sign without an audit log = %v, %v, want an error", sig, err)
		}
	}
	exec("ALTER TABLE hidden RENAME TO signer_audit")
	if _, err := w.Sign(t.Context(), r); err != nil {
		t.Error(err)
	}
	last := w.trail(t, AuditQuery{GUN: app})
	if len(last) != 3 || last[2].Event != AuditSigned || last[2].Payload != payloadHash(r.Payload) {
		t.Errorf("the log of %s: %v", app, events(last))
	}
}

// What an earlier version left waiting for its place in the log, when it was
// ended, is given it.
func TestAuditLeftWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	wait := func(e string) {
		t.Helper()
		if _, err := w.table.db.SQL().Exec("INSERT INTO signer_audit_waiting (id, at, gun, entry) VALUES (?, ?, ?, ?)",
			e, e, app, []byte(`{"time":"2026-11-22T12:00:00Z","event":"signed","gun":"registry.example/app","role":"snapshot","version":`+e+`}`)); err != nil {
			t.Fatal(err)
		}
	}
	wait("2")
	wait("1")
	want := []string{
		"created registry.example/app timestamp 0", "created registry.example/app snapshot 0",
		"signed registry.example/app snapshot 1", "signed registry.example/app snapshot 2",
	}
	check := func() {
		t.Helper()
		if d := cmp.Diff(want, events(w.trail(t, AuditQuery{}))); d != "" {
			t.Errorf("audit log (-want +got):\n%s", d)
		}
	}
	for range 2 {
		openTable(t, w.path, testKEK(t, 1))
		check()
	}
	// Or before an answer leaves that it may have made.
	r := s.snapshotRequest(t, 9, "nine")
	if _, err := w.Sign(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wait("8")
	if _, err := w.Sign(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want = append(want, "signed registry.example/app snapshot 9", "signed registry.example/app snapshot 8")
	check()
}

// Refusals that an honest server does not meet stand in the log, and cannot
// fill it.
func TestAttackRefusalsFillTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newServer(t, w, w, app)
	s.publish(t, "one")
	s.publish(t, "two")
	count := func() (n int, last AuditRecord) {
		for _, r := range w.trail(t, AuditQuery{}) {
			if r.Event == AuditRefused || r.Event == AuditRestored {
				n, last = n+1, r
			}
		}
		return n, last
	}
	stale := *s
	stale.published = published{}
	r := stale.timestampRequest(t, 9, s.snapshot)
	if _, err := w.Service.sign(t.Context(), "thief.example", r, nil); err == nil {
		t.Fatal("no base was accepted")
	}
	n, last := count()
	if n != 1 || last.Event != AuditRestored || last.Identity != "thief.example" || last.GUN != app || last.Payload != payloadHash(r.Payload) {
		t.Errorf("%d refusals, the last one %+v", n, last)
	}
	r.Role = "root"
	r.GUN = tuf.GUN(strings.Repeat("x", 5000))
	for range 100 {
		if _, err := w.Service.sign(t.Context(), "thief.example", r, nil); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	if n, last = count(); n != alarmBurst || last.Event != AuditRefused || len(last.Detail) > 2*maxDetail {
		t.Errorf("%d refusals in the log, want %d; the last one %+v", n, alarmBurst, last)
	}
	w.pass(2 * time.Minute)
	if _, err := w.Service.sign(t.Context(), "thief.example", r, nil); err == nil {
		t.Fatal("signed")
	}
	if n, last = count(); n != alarmBurst+1 || !strings.Contains(last.Detail, "(81 more refusals before this one were not recorded)") {
		t.Errorf("%d refusals in the log, the last one %+v", n, last)
	}
	// Honest refusals do not stand there: a version that was signed already.
	if _, err := w.Sign(t.Context(), s.snapshotRequest(t, 1, "other")); !errors.As(err, new(*api.FloorError)) {
		t.Errorf("Sign(version 1 again) = %v", err)
	}
	if after, _ := count(); after != n {
		t.Errorf("%d refusals, want %d", after, n)
	}
}

func TestParseAuditAnchor(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "1", "1:", ":" + strings.Repeat("0", 64), "-1:" + strings.Repeat("0", 64), "1:" + strings.Repeat("0", 63), "1:" + strings.Repeat("0", 66)} {
		if m, err := ParseAuditAnchor(text); err == nil {
			t.Errorf("ParseAuditAnchor(%q) = %v, want an error", text, m)
		}
	}
	text := "17:" + strings.Repeat("ab", 32)
	if m, err := ParseAuditAnchor(" " + text + "\n"); err != nil || m.String() != text {
		t.Errorf("ParseAuditAnchor(%q) = %v, %v", text, m, err)
	}
}

// A call stands in the log and in the audit log under the id of the request
// that the server makes it for, and under a new one if it names none.
func TestRequestID(t *testing.T) {
	t.Parallel()
	w, a := newWorld(t), newAuthority(t)
	s := w.service(t, w.table, map[string]Rights{"server": {Create: true}})
	base := w.serveService(t, a, s)
	c := dial(t, base, a, a.client(t, "server"))
	ctx, _ := traces.Receive(t.Context(), http.Header{traces.IDHeader: {"ticket-4711"}})
	if _, err := c.CreateKey(ctx, tuf.ECDSA, tuf.RoleTimestamp, app); err != nil {
		t.Fatal(err)
	}
	if all := w.trail(t, AuditQuery{GUN: app}); len(all) != 1 || all[0].Event != AuditCreated || all[0].Request != "ticket-4711" {
		t.Errorf("audit log = %+v, want one entry with the id of the request", all)
	}
	for _, msg := range []string{"key created", "request"} {
		if !regexp.MustCompile(`"msg":"` + msg + `",.*"request":"ticket-4711"}` + "\n").MatchString(w.log.String()) {
			t.Errorf("the line %q lacks the id:\n%s", msg, w.log)
		}
	}
	dial(t, base, a, a.client(t, "stranger")).Ping(t.Context()) // attacks.md G1: refused
	all := w.trail(t, AuditQuery{})
	if last := all[len(all)-1]; last.Event != AuditDenied || len(last.Request) != 16 {
		t.Errorf("the refusal of a stranger stands there as %+v, want an id of its own", last)
	}
}
