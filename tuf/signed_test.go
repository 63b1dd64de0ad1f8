package tuf_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A signer signs payloads of snapshot and timestamp, in canonical form, and
// nothing else (attacks.md G2).
func TestPayload(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, role := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
		raw := repo.Files().Current[role]
		want, err := tuf.Outline(role, raw, tuf.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := tuf.Payload(role, want.Canonical)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("Payload of %s: %v (-want +got)\n%s", role, err, diff)
		}
		for name, bad := range map[string][]byte{
			"a file":         raw,
			"white space":    append([]byte(" "), want.Canonical...),
			"trailing space": append(bytes.Clone(want.Canonical), '\n'),
			"another order":  bytes.Replace(want.Canonical, []byte(`{"_type":`), []byte(`{"z":1,"_type":`), 1),
			"an escape":      bytes.Replace(want.Canonical, []byte(`"_type"`), []byte(`"\u005ftype"`), 1),
			"no object":      []byte("[]"),
			"one more":       append(bytes.Clone(want.Canonical[:len(want.Canonical)-1]), `,"z":1}`...),
			"custom data":    bytes.Replace(want.Canonical, []byte(`{"hashes":`), []byte(`{"custom":{},"hashes":`), 1),
			"other checksum": bytes.Replace(want.Canonical, []byte(`"hashes":{`), []byte(`"hashes":{"md5":"1B2M2Y8AsgTpgAmY7PhCfg==",`), 1),
			"empty":          nil,
		} {
			if _, err := tuf.Payload(role, bad); !errors.Is(err, tuf.ErrMalformed) {
				t.Errorf("Payload of %s, %s: %v, want ErrMalformed", role, name, err)
			}
		}
		if _, err := tuf.Payload(role, bytes.Repeat([]byte(" "), 3<<20)); !errors.Is(err, tuf.ErrLimit) {
			t.Errorf("a large payload: %v, want ErrLimit", err)
		}
		for _, other := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleReleases, ""} {
			if _, err := tuf.Payload(other, want.Canonical); !errors.Is(err, tuf.ErrRole) {
				t.Errorf("Payload of %q: %v, want ErrRole", other, err)
			}
		}
	}
	m, err := tuf.Outline(tuf.RoleTimestamp, repo.Files().Current[tuf.RoleTimestamp], tuf.Options{})
	if err != nil {
		t.Fatal(err)
	}
	snapshot := repo.Files().Current[tuf.RoleSnapshot]
	if err := m.Files[tuf.RoleSnapshot].Matches(snapshot); err != nil {
		t.Errorf("Matches: %v", err)
	}
	if err := m.Files[tuf.RoleSnapshot].Matches(snapshot[1:]); !errors.Is(err, tuf.ErrMismatch) {
		t.Errorf("Matches of other bytes: %v", err)
	}
	if err := (tuf.FileMeta{}).Matches(nil); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("Matches without a hash: %v", err)
	}
}

// A caller that does not do as Next says harms only itself.
func TestUpdateMisuse(t *testing.T) {
	t.Parallel()
	repo := released(t)
	u := tuf.Begin(gun, nil, tuf.Options{Now: repo.Now()})
	if err := u.Add(tuf.Want{Role: tuf.RoleTimestamp}, nil); err == nil {
		t.Error("Add of a file that was not asked for")
	}
	if _, err := u.Set(); !errors.Is(err, tuf.ErrIncomplete) {
		t.Errorf("Set before the end: %v, want ErrIncomplete", err)
	}
	w, _ := u.Next()
	final := u.Missing(w)
	if !errors.Is(final, tuf.ErrIncomplete) {
		t.Fatal(final)
	}
	// An error is final.
	if _, more := u.Next(); more {
		t.Error("Next after an error")
	}
	if err := u.Add(w, repo.Files().Current[tuf.RoleRoot]); !errors.Is(err, final) {
		t.Errorf("Add after an error: %v", err)
	}
	if err := u.Missing(w); !errors.Is(err, final) {
		t.Errorf("Missing after an error: %v", err)
	}
}

func TestSetExpires(t *testing.T) {
	t.Parallel()
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		repo := released(t, tuftest.Lifetime(role, time.Hour))
		s := repo.Set(t)
		if got, at := s.Expires(); got != role || !at.Equal(repo.Now().Add(time.Hour)) {
			t.Errorf("first to expire is %s at %v, want %s", got, at, role)
		}
		if s.GUN() != gun || repo.Trusted(t).GUN() != gun {
			t.Error("the name is lost")
		}
	}
}

// Roles are searched in the order given; the tree of each breadth first.
func TestLookupOrder(t *testing.T) {
	t.Parallel()
	const nightly = tuf.RoleReleases + "/nightly"
	repo := tuftest.New(t, gun, tuftest.Delegation("targets/a"), tuftest.Delegation(tuf.RoleReleases), tuftest.Delegation(nightly))
	var changes []tuf.Change
	for role, names := range map[tuf.RoleName]string{tuf.RoleTargets: "t", "targets/a": "a all", tuf.RoleReleases: "r all", nightly: "n all deep"} {
		for name := range strings.FieldsSeq(names) {
			changes = append(changes, tuf.AddTarget{Target: tuftest.TargetIn(role, name)})
		}
	}
	repo.Publish(t, changes...)
	s := repo.Set(t)
	for _, test := range []struct {
		name string
		in   []tuf.RoleName
		flat tuf.RoleName
		tree tuf.RoleName
	}{
		{"t", nil, "targets", "targets"},
		{"all", nil, "", "targets/a"},
		{"deep", nil, "", nightly},
		{"all", []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets}, tuf.RoleReleases, tuf.RoleReleases},
		{"deep", []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets}, "", nightly},
		{"a", []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets}, "", "targets/a"},
		{"all", []tuf.RoleName{nightly, "targets/a"}, nightly, nightly},
		{"t", []tuf.RoleName{tuf.RoleReleases}, "", ""},
	} {
		for kind, lookup := range map[string]func(string, ...tuf.RoleName) (tuf.Target, error){"Lookup": s.Lookup, "LookupTree": s.LookupTree} {
			want := test.flat
			if kind == "LookupTree" {
				want = test.tree
			}
			got, err := lookup(test.name, test.in...)
			if got.Role != want || (want == "") != errors.Is(err, tuf.ErrNoTarget) {
				t.Errorf("%s(%q, %v) = %q, %v; want %q", kind, test.name, test.in, got.Role, err, want)
			}
		}
	}
}

// Strings are decoded as RFC 8259 says, and written canonically.
func TestCanonicalStrings(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`"\u0041\u00e9\u20AC\ud83d\uDE00"`: `"Aé€😀"`,
		`"\/\"\\"`:                         `"/\"\\"`,
		`"\b\f\n\r\t"`:                     "\"\b\f\n\r\t\"",
		`"\u003c<>&"`:                      `"<<>&"`,
		`{"b":0,"a":[ ],"":{}}`:            `{"":{},"a":[],"b":0}`,
		`-9007199254740992`:                `-9007199254740992`,
	} {
		if got, err := tuf.Canonical([]byte(in)); string(got) != want {
			t.Errorf("Canonical(%s) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		``, ` `, `"`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\ud83d"`, `"\ud83dx"`, `"\ud83d\n"`, `"\ud83d\u0041"`, `"\ude00"`, "\"\n\"", "\"\\n\n\"",
		`[`, `[1`, `[1,`, `[1,]`, `[1 2]`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" 1}`, `{"a":1 "b":2}`,
		`-`, `+1`, `.5`, `1.`, `01`, `-0`, `1e1`, `NaN`, `nul`, `True`, `1 1`, `9007199254740993`, `--1`,
	} {
		if got, err := tuf.Canonical([]byte(in)); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("Canonical(%q) = %q, %v; want ErrMalformed", in, got, err)
		}
	}
}

// Every refusal is one sentence that says something.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for err, want := range map[error]string{
		&tuf.RoleError{GUN: gun, Role: "targets", Err: &tuf.Shortage{Have: 1, Need: 2}}: "targets of registry.example/team/app: signed by 1 of the 2 keys that must sign it",
		&tuf.Expired{At: at}:                                                       "expired at Fri Jan  2 02:04:05 UTC 2026",
		&tuf.Rollback{Offered: 1, Seen: 2}:                                         "version 1 is lower than version 2, which has already been seen",
		&tuf.Rollback{Offered: 2, Seen: 2}:                                         "not the version 2 that has already been seen",
		&tuf.Rollback{Seen: 2}:                                                     "no longer listed, and version 2 has already been seen",
		&tuf.Mismatch{Algorithm: "length"}:                                         "length does not match the signed length",
		&tuf.Mismatch{Algorithm: "sha256", Want: []byte{1}}:                        "sha256 checksum does not match: expected 01",
		&tuf.TooLarge{Limit: 7}:                                                    "larger than the limit of 7 bytes",
		&tuf.MissingKeys{Role: "root", Need: 1, Keys: []tuf.CanonicalID{"a", "b"}}: "0 of 1 keys to sign root at hand, of: a, b",
		&tuf.RootRefusal{Reason: tuf.VersionSkip, Old: 1, Offered: 3}:              "version 3 does not follow version 1",
		&tuf.RootRefusal{Reason: tuf.NoLeaf, Expired: "a"}:                         "the root certificate for a has expired",
	} {
		if got := err.Error(); got != want {
			t.Errorf("%T says %q, want %q", err, got, want)
		}
	}
	seen := make(map[string]bool)
	for reason := tuf.NoLeaf; reason <= tuf.Denied; reason++ {
		text := (&tuf.RootRefusal{Reason: reason}).Error()
		if text == "" || text == "refused" || seen[text] {
			t.Errorf("reason %d says %q", reason, text)
		}
		seen[text] = true
	}
}
