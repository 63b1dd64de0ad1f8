package main

import (
	"bufio"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// Names come from others: none of them draws on a terminal, and JSON stays what
// it is.
func TestQuote(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1.2", "a\x1b[31m", "a\u009b31m", "a\u202eb", "a\x7f", `"\`, "<&>", "é漢"} {
		raw := quote(s)
		var back string
		if err := json.Unmarshal(raw, &back); err != nil || back != s {
			t.Errorf("quote(%q) = %s, which is %q, %v", s, raw, back, err)
		}
		if printable(string(raw)) != string(raw) {
			t.Errorf("quote(%q) = %q draws on the terminal", s, raw)
		}
	}
}

// The array is JSON whatever is in it, and has the same members as the stock
// one: all of them and no others.
func TestInspectJSON(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, "registry.example/app", tuftest.Delegation(tuf.RoleReleases), tuftest.Delegation("targets/alice"), tuftest.Delegation("targets/bob"),
		tuftest.Changes(
			tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "10")}, tuf.AddTarget{Target: tuftest.TargetIn("targets/bob", "10")},
			tuf.AddTarget{Target: tuftest.TargetIn("targets/alice", "10")}, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "2")},
			tuf.AddTarget{Target: tuftest.TargetIn("targets/alice", "only alice")},
		))
	a := &desk{app: &app{err: &strings.Builder{}}}
	s := a.inspection(image{typed: "app\u202e"}, view{repo: &repository{server: "trust.example"}, set: repo.Set(t)})
	var b strings.Builder
	out := bufio.NewWriter(&b)
	p := (&inspectOptions{}).printer(out)
	for range 2 {
		if err := p.print(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	_ = out.Flush() // into memory
	var got []struct {
		Name       string
		SignedTags []signedTag
		Signers    []holder
		AdministrativeKeys,
		Nothing []holder
	}
	d := json.NewDecoder(strings.NewReader(b.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatalf("%v in\n%s", err, &b)
	}
	if len(got) != 2 || got[1].Name != "app\u202e" || len(got[0].SignedTags) != 2 {
		t.Fatalf("inspect = %+v", got)
	}
	tags := got[0].SignedTags
	if tags[0].SignedTag != "2" || tags[1].SignedTag != "10" {
		t.Errorf("tags are not in natural order: %+v", tags)
	}
	if strings.Join(tags[0].Signers, " ") != repoAdmin || strings.Join(tags[1].Signers, " ") != "alice bob" {
		t.Errorf("signers of tags: %+v", tags)
	}
	if s := got[0].Signers; len(s) != 2 || s[0].Name != "bob" || s[1].Name != "alice" {
		t.Errorf("signers are not in descending order: %+v", s)
	}
	var again any
	if err := json.Unmarshal([]byte(b.String()), &again); err != nil {
		t.Fatal(err)
	}
	if nice, _ := json.MarshalIndent(got[0].SignedTags, "        ", "    "); !strings.Contains(b.String(), string(nice)) {
		t.Errorf("not indented by four spaces a level:\n%s", &b)
	}
}

func TestWorry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		role tuf.RoleName
		left time.Duration
		want string
	}{
		{tuf.RoleTargets, 91 * 24 * time.Hour, ""},
		{tuf.RoleTargets, 89 * 24 * time.Hour, "expires in 89 days"},
		{"targets/alice", time.Hour, "expires in 1 hour"},
		{tuf.RoleRoot, 0, "EXPIRED"},
		{tuf.RoleTimestamp, 3 * 24 * time.Hour, ""},
		{tuf.RoleSnapshot, 11 * time.Hour, "expires in 11 hours"},
		{tuf.RoleTimestamp, -time.Hour, "EXPIRED"},
	} {
		if got := worry(test.role, now.Add(test.left), now); got != test.want {
			t.Errorf("worry(%s, %v left) = %q, want %q", test.role, test.left, got, test.want)
		}
	}
	if got := worry(tuf.RoleTargets, time.Time{}, now); got != "" {
		t.Errorf("worry about nothing = %q", got)
	}
}
