package tuf_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// vectors yields the golden files with their roles.
func vectors(t testing.TB, yield func(tuf.RoleName, []byte)) {
	t.Helper()
	const dir = "testdata/notary-0.7/repos"
	names, err := filepath.Glob(dir + "/*/current/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no vectors in %s (%v)", dir, err)
	}
	more, _ := filepath.Glob(dir + "/*/current/targets/*.json")
	for _, name := range append(names, more...) {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, role, _ := strings.Cut(filepath.ToSlash(strings.TrimSuffix(name, ".json")), "/current/")
		yield(tuf.RoleName(role), raw)
	}
}

// fuzzRoles are the roles that a fuzzer's byte stands for.
var fuzzRoles = []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets, tuf.RoleReleases}

func fuzzRole(n byte) tuf.RoleName { return fuzzRoles[int(n)%len(fuzzRoles)] }

// An error says what is wrong in one line that no terminal obeys.
func oneLine(t *testing.T, what any, err error) {
	t.Helper()
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%q is answered with %q", what, err)
	}
}

// What is decoded can be written again, and then says the same.
func FuzzDecode(f *testing.F) {
	vectors(f, func(role tuf.RoleName, raw []byte) {
		for i, r := range fuzzRoles {
			if r == role || r == tuf.RoleReleases && role.Delegation() {
				f.Add(byte(i), raw)
			}
		}
	})
	f.Add(byte(3), []byte(`{"signed":{"_type":"\u001b[31m\u007f"},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, n byte, raw []byte) {
		role := fuzzRole(n)
		m, err := tuf.Outline(role, raw, tuf.Options{})
		if err != nil {
			oneLine(t, raw, err)
			return
		}
		if m.Version < 1 || !json.Valid(raw) {
			t.Fatalf("accepted as version %d", m.Version)
		}
		again, err := tuf.Envelope(m.Canonical)
		if err != nil {
			if bytes.ContainsFunc(m.Canonical, func(r rune) bool { return r < 0x20 }) {
				return // control characters stand as they are in the canonical form
			}
			t.Fatalf("the canonical form cannot be read: %v", err)
		}
		o, err := tuf.Outline(role, again, tuf.Options{})
		if _, large := err.(*tuf.TooLarge); large {
			return // escapes made it longer
		}
		if err != nil || !bytes.Equal(o.Canonical, m.Canonical) || o.Version != m.Version || !o.Expires.Equal(m.Expires) || len(o.Files) != len(m.Files) {
			t.Fatalf("written again: %v\n%s\nbecame\n%s", err, m.Canonical, o.Canonical)
		}
	})
}

// The canonical form is that of another implementation, and is its own
// canonical form.
func FuzzCanonical(f *testing.F) {
	vectors(f, func(_ tuf.RoleName, raw []byte) { f.Add(raw) })
	for _, s := range []string{`{"b":1,"a":[null,true,-7,"\u00e9\ud83d\ude00<&>\"\\"]}`, `"\u2028"`, `{"":{}}`, ` [ ] `, `9007199254740992`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := tuf.Canonical(raw)
		if err != nil {
			oneLine(t, raw, err)
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("accepted %q", raw)
		}
		want, err := cjson.EncodeCanonical(json.RawMessage(raw))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Canonical(%q) = %q, cjson %q (%v)", raw, got, want, err)
		}
		again, err := tuf.Canonical(got)
		if err != nil && !bytes.ContainsFunc(got, func(r rune) bool { return r < 0x20 }) || err == nil && !bytes.Equal(again, got) {
			t.Fatalf("Canonical(%q) = %q, %v", got, again, err)
		}
	})
}

// A key keeps its ids when it is written and read again, and no key panics.
func FuzzPublicKey(f *testing.F) {
	vectors(f, func(_ tuf.RoleName, raw []byte) {
		var file struct {
			Signed struct {
				Keys        map[string]json.RawMessage
				Delegations struct{ Keys map[string]json.RawMessage }
			}
		}
		if err := json.Unmarshal(raw, &file); err != nil {
			f.Fatal(err)
		}
		for _, keys := range []map[string]json.RawMessage{file.Signed.Keys, file.Signed.Delegations.Keys} {
			for _, k := range keys {
				f.Add([]byte(k), []byte("a signature"))
			}
		}
	})
	f.Add([]byte(`{"keytype":"\u001bx","keyval":{"private":null,"public":"AAAA"}}`), []byte("a signature")) // found: it was read, and could not be written
	f.Fuzz(func(t *testing.T, raw, sig []byte) {
		var k, again tuf.PublicKey
		if err := k.UnmarshalJSON(raw); err != nil {
			oneLine(t, raw, err)
			return
		}
		out, err := k.MarshalJSON()
		if err != nil {
			t.Fatalf("MarshalJSON: %v", err)
		}
		if err := again.UnmarshalJSON(out); err != nil || !again.Equal(k) || again.ID() != k.ID() || again.CanonicalID() != k.CanonicalID() {
			t.Fatalf("%s became %s (%v)", raw, out, err)
		}
		if !k.CanonicalID().Valid() || k.Bare().CanonicalID() != k.CanonicalID() {
			t.Fatalf("canonical id %q, of the bare key %q", k.CanonicalID(), k.Bare().CanonicalID())
		}
		for _, method := range []string{"ecdsa", "rsapss", "rsapkcs1v15", "eddsa", "pycrypto-pkcs#1 pss"} {
			if k.Verify([]byte("message"), tuf.Signature{Method: method, Value: sig}) == nil {
				t.Fatalf("key %s accepts %x", raw, sig)
			}
		}
	})
}

// Whatever a consumer accepts was signed: a file in the place of another is
// refused, or says what the honest one says.
func FuzzWalk(f *testing.F) {
	repo := tuftest.New(f, gun, tuftest.Delegation(tuf.RoleReleases))
	repo.Publish(f, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.0")}, tuf.AddTarget{Target: tuftest.Target("1.0")})
	honest := repo.Files()
	past := repo.Trusted(f)
	now := repo.Now()
	snapshotKey, timestampKey := repo.Signers(f, tuf.RoleSnapshot), repo.Signers(f, tuf.RoleTimestamp)
	says := make(map[tuf.RoleName][]byte)
	for i, role := range fuzzRoles {
		f.Add(byte(i), honest.Current[role])
		m, err := tuf.Outline(role, honest.Current[role], tuf.Options{})
		if err != nil {
			f.Fatal(err)
		}
		says[role] = m.Canonical
	}
	f.Fuzz(func(t *testing.T, n byte, raw []byte) {
		role := fuzzRole(n)
		check := func(past *tuf.Past, files tuftest.Files, trusted ...tuf.RoleName) {
			u, s, err := tuftest.WalkWith(past, files, tuf.Options{Now: now})
			got := u.Verified()
			if err == nil {
				got = nil
				for _, name := range s.Roles() {
					file, _ := s.File(name)
					got = append(got, file)
				}
			}
			for _, file := range got {
				m, err := tuf.Outline(file.Role, file.Raw, tuf.Options{})
				known := err == nil && bytes.Equal(m.Canonical, says[file.Role])
				for _, r := range trusted {
					known = known || r == file.Role
				}
				if !known && !unusable(s, file) {
					t.Fatalf("accepted as %s: %s", file.Role, file.Raw)
				}
			}
		}
		// The server puts it in the place of a file, and has no keys.
		check(nil, honest.With(role, raw))
		check(past, honest.With(role, raw))
		if role == tuf.RoleTimestamp || role == tuf.RoleRoot || len(raw) > 1<<20 {
			return
		}
		// The server has the keys of timestamp and snapshot.
		files := honest.With(role, raw)
		if role != tuf.RoleSnapshot {
			files = files.With(tuf.RoleSnapshot, tuftest.Reseal(t, honest.Current[tuf.RoleSnapshot], func(p tuftest.Object) {
				p["version"] = 100
				tuftest.At(p, "meta")[string(role)] = tuftest.Describe(raw)
			}, snapshotKey...))
		}
		files = files.With(tuf.RoleTimestamp, tuftest.Reseal(t, honest.Current[tuf.RoleTimestamp], func(p tuftest.Object) {
			p["version"] = 100
			tuftest.At(p, "meta")["snapshot"] = tuftest.Describe(files.Instead[tuf.RoleSnapshot])
		}, timestampKey...))
		if role == tuf.RoleSnapshot {
			check(past, files, tuf.RoleTimestamp)
		} else {
			check(nil, files, tuf.RoleTimestamp, tuf.RoleSnapshot)
			check(past, files, tuf.RoleTimestamp, tuf.RoleSnapshot)
		}
	})
}

// unusable reports whether file is a delegation's that does not count, which
// is kept to be signed again.
func unusable(s *tuf.Set, file tuf.File) bool {
	if s == nil {
		return file.Role.Delegation()
	}
	for _, x := range s.Unusable() {
		if bytes.Equal(x.Raw, file.Raw) {
			return true
		}
	}
	return false
}
