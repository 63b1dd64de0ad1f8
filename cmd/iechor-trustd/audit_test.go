package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
)

// Whoever has the signer's database, and none of its keys, reads and verifies
// what it signed; a file of it is verified anywhere; and what an operator has
// done to it is found.
func TestAuditCommand(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one := s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	client := s.dial(t, s.ca, s.caller)
	if _, err := client.CreateKey(t.Context(), tuf.Ed25519, tuf.RoleTimestamp, "registry.example/other"); err != nil {
		t.Fatal(err)
	}
	if err := client.LowerFloor(t.Context(), "registry.example/app", 0); err == nil {
		t.Fatal("a server lowered a floor")
	}
	one.stop()
	one = s.startSigner(t)
	one.logs(`"msg":"audit log","anchor":"6:`)
	server.stop()
	one.stop()
	if err := os.Remove(s.file("signer/kek")); err != nil { // it is not needed
		t.Fatal(err)
	}
	run := func(want string, args ...string) string {
		t.Helper()
		status, out, errs := runProcess(t, nil, append([]string{"audit"}, args...)...)
		if want == "" && (status != 0 || errs != "") {
			t.Errorf("audit %v = %d %q %q", args, status, out, errs)
		}
		if want != "" {
			sentence(t, strings.Join(args, " "), status, out, errs, want)
		}
		return out
	}
	config := []string{"--config", s.file("signer.yaml")}
	with := func(more ...string) []string { return append(config[:2:2], more...) }
	plain := regexp.MustCompile(`[0-9a-f]{64}|key [0-9a-f]{7}|20[0-9-]+T[0-9:]+Z|request [0-9a-f]{16}`)
	got := plain.ReplaceAllStringFunc(run("", config...), func(s string) string {
		if strings.HasPrefix(s, "request ") {
			return "REQUEST"
		}
		return map[bool]string{true: "HASH", false: "TIME"}[len(s) == 64 || strings.HasPrefix(s, "key")]
	})
	want := `1 TIME created registry.example/app snapshot by trust-server.example HASH REQUEST
2 TIME created registry.example/app timestamp by trust-server.example HASH REQUEST
3 TIME signed registry.example/app snapshot 1 by trust-server.example HASH payload sha256:HASH expires TIME REQUEST
4 TIME signed registry.example/app timestamp 1 by trust-server.example HASH payload sha256:HASH expires TIME REQUEST
5 TIME created registry.example/other timestamp by trust-server.example HASH REQUEST
6 TIME denied by trust-server.example REQUEST (has not the right to lower-floor)
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
	if n := strings.Count(run("", with("--gun", "registry.example/app", "--since", "1h")...), "\n"); n != 4 {
		t.Errorf("%d entries of one repository, want 4", n)
	}
	if out := run("", with("--since", "2000-01-01", "--json")...); strings.Count(out, `{"anchor":"`) != 6 {
		t.Errorf("as JSON: %s", out)
	}
	if out := run("", with("--gun", "registry.example/none")...); out != "" {
		t.Errorf("of a repository that is not there: %s", out)
	}
	verified := run("", with("--verify")...)
	_, anchor, _ := strings.Cut(strings.TrimSpace(verified), "\nanchor ")
	if !strings.HasPrefix(verified, "entries 1 to 6 hold, from ") || !strings.HasPrefix(anchor, "6:") {
		t.Errorf("audit --verify = %q", verified)
	}
	file := s.file("2026.audit")
	run("", with("--export", file)...)
	run("file exists", with("--export", file)...)
	if out := run("", "verify", "--anchor", anchor, file); !strings.HasSuffix(out, ", and agree with what was noted\nanchor "+anchor+"\n") {
		t.Errorf("audit verify = %q", out)
	}
	if out := run("", "verify", "--json", file); !strings.HasPrefix(out, `{"after":"0:0`) {
		t.Errorf("audit verify --json = %q", out)
	}
	if out := run("", with("--export", "-", "--after", anchor)...); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"after":"`+anchor+`"`) {
		t.Errorf("export of nothing = %q", out)
	}

	// The operator takes the refusal out.
	status, _, errs := runProcess(t, nil, "audit", "--config", s.file("signer.yaml"), "--export", "-", "--after", "6:00")
	if status != exitUsage || !strings.Contains(errs, "is not an anchor of an audit log") {
		t.Errorf("audit --after 6:00 = %d %q", status, errs)
	}
	alter(t, s.file("signer/signer.db"), "DELETE FROM signer_audit WHERE id = 6")
	run("", with("--verify")...)
	run("the audit log does not hold: it ends with entry 5, and when the anchor was taken it went up to entry 6: its end was cut off", with("--anchor", anchor)...)
	alter(t, s.file("signer/signer.db"), "UPDATE signer_audit SET entry = replace(entry, 'app', 'abc') WHERE id = 3")
	run("the audit log does not hold: the hash chain is broken: entry 3 is not what was written", with("--verify")...)

	for _, args := range [][]string{
		{"--gun", "x y"}, {"--verify", "--gun", "registry.example/app"}, {"--export", "-", "--since", "1h"}, {"--export", "-", "--verify"},
		{"--after", anchor}, {"--export", "-", "--json"}, {"--since", "yesterday"}, {"--anchor", "7"}, {"verify"}, {"extra"},
	} {
		args = append([]string{"audit"}, args...)
		if args[1] != "verify" {
			args = append(args, config...)
		}
		if status, out, errs := runApp(t, nil, args...); status != exitUsage || out != "" || !strings.Contains(errs, "\nhint: ") {
			t.Errorf("%v = %d %q %q, want wrong usage", args, status, out, errs)
		}
	}
}

// The commands of doc/operating.md about the signer, in their order.
func TestSignerDocument(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	server := s.startServer(t)
	p := newPublisher(t, s, "registry.example/app")
	if err := p.init(t.Context(), server, "1"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../doc/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## The signer\n")
	section, _, _ = strings.Cut(section, "\n## ")
	real := strings.NewReplacer("/etc/iechor-trustd/server.yaml", s.file("server.yaml"), "/etc/iechor-trustd/signer.yaml", s.file("signer.yaml"),
		"operator.crt", s.operator.Certificate, "operator.key", s.operator.Key, "2026-11.audit", s.file("2026-11.audit"))
	n := 0
	for line := range strings.Lines(section) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ iechor-trustd ")
		if !ok {
			continue
		}
		n++
		if status, out, errs := runProcess(t, nil, strings.Fields(real.Replace(command))...); status != 0 || out == "" && !strings.Contains(command, "--export") {
			t.Errorf("iechor-trustd %s = %d %q %q", command, status, out, errs)
		}
	}
	if n != 7 {
		t.Errorf("doc/operating.md has %d commands about the signer, want 7", n)
	}
}
