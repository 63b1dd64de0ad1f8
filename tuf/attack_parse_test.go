package tuf_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// shapes yields every version of a JSON value in which one part of it is
// replaced by a value of another kind, or is missing.
func shapes(v any, yield func(path string, replace func(any))) {
	var walk func(path string, v any, set func(any))
	walk = func(path string, v any, set func(any)) {
		yield(path, set)
		set(v)
		switch v := v.(type) {
		case map[string]any:
			for name, item := range v {
				walk(path+"."+name, item, func(x any) { v[name] = x })
			}
		case []any:
			for i, item := range v {
				walk(fmt.Sprint(path, ".", i), item, func(x any) { v[i] = x })
			}
		}
	}
	for name, item := range v.(map[string]any) {
		walk(name, item, func(x any) { v.(map[string]any)[name] = x })
	}
}

// attacks.md L1: JSON of the wrong shape, signed by the right keys. There is a
// typed error or a sound state, and no panic.
func TestAttackWrongShape(t *testing.T) {
	t.Parallel()
	repo := released(t)
	repo.Publish(t, tuf.AddTarget{Target: func() tuf.Target {
		target := tuftest.Target("custom")
		target.Custom = []byte(`{"a":[1]}`)
		return target
	}()})
	for _, role := range append([]tuf.RoleName{tuf.RoleRoot}, signedRoles...) {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			raw := repo.Files().Current[role]
			keys := repo.Signers(t, role)
			tried, refused := 0, 0
			payload := tuftest.Payload(t, raw)
			shapes(payload, func(path string, replace func(any)) {
				for _, x := range []any{nil, true, json.Number("-7"), "text", []any{}, []any{nil}, map[string]any{}, map[string]any{"": nil}} {
					replace(x)
					file := tuftest.Seal(t, payload, keys...)
					tried++
					_, err := tuf.NewFile(role, file)
					if err != nil && !errors.Is(err, tuf.ErrMalformed) {
						t.Errorf("%s = %v: %v, want ErrMalformed", path, x, err)
					}
					if err != nil {
						refused++
					}
					if role == tuf.RoleRoot {
						_, err = tuftest.Walk(nil, repo.Files().With(role, file), repo.Now())
					} else {
						_, err = tuftest.Walk(nil, repo.Swap(t, map[tuf.RoleName][]byte{role: file}), repo.Now())
					}
					var refusal *tuf.RoleError
					if err != nil && !errors.As(err, &refusal) {
						t.Errorf("%s = %v: %#v is no RoleError", path, x, err)
					}
				}
			})
			if tried < 60 || refused < tried/3 {
				t.Errorf("%d of %d shapes were refused", refused, tried)
			}
			// The envelope, too.
			var envelope map[string]any
			if err := json.Unmarshal(raw, &envelope); err != nil {
				t.Fatal(err)
			}
			for _, member := range []string{"signed", "signatures"} {
				for _, x := range []any{nil, true, 1, "text", []any{}, []any{nil}, []any{1}, []any{[]any{}}, map[string]any{}} {
					was := envelope[member]
					envelope[member] = x
					file, _ := json.Marshal(envelope)
					envelope[member] = was
					_, err := tuftest.Walk(nil, repo.Swap(t, map[tuf.RoleName][]byte{role: file}), repo.Now())
					if role == tuf.RoleReleases && errors.Is(err, nil) {
						continue // unsigned: the delegation does not count
					}
					if !errors.Is(err, tuf.ErrMalformed) && !errors.Is(err, tuf.ErrUnsigned) {
						t.Errorf("%s = %v: %v", member, x, err)
					}
				}
			}
		})
	}
}

// attacks.md L2: files longer than announced or than allowed.
func TestAttackEndlessData(t *testing.T) {
	t.Parallel()
	repo := released(t)
	pad := func(role tuf.RoleName, n int) []byte {
		return append(bytes.Clone(repo.Files().Current[role]), bytes.Repeat([]byte(" "), n)...)
	}
	l := tuf.DefaultLimits()
	attack{repo: repo, files: repo.Files().With(tuf.RoleRoot, pad(tuf.RoleRoot, int(l.Root))), want: tuf.ErrLimit, role: tuf.RoleRoot}.refused(t)
	e := attack{repo: repo, files: repo.Files().With(tuf.RoleTimestamp, pad(tuf.RoleTimestamp, int(l.Timestamp))), past: repo.Trusted(t), want: tuf.ErrLimit, role: tuf.RoleTimestamp}.refused(t)
	if as[*tuf.TooLarge](t, e).Limit != l.Timestamp {
		t.Errorf("%v", e)
	}
	// What is announced too large is not even asked for.
	for role, limits := range map[tuf.RoleName]tuf.Limits{
		tuf.RoleSnapshot: {Snapshot: 100}, tuf.RoleTargets: {Targets: 100},
	} {
		_, _, err := tuftest.WalkWith(nil, repo.Files(), tuf.Options{Now: repo.Now(), Limits: limits})
		if !errors.Is(err, tuf.ErrLimit) || as[*tuf.RoleError](t, err).Role != role {
			t.Errorf("%s: %v, want ErrLimit", role, err)
		}
	}
	// Each Want says how much is to be read.
	u := tuf.Begin(gun, nil, tuf.Options{Now: repo.Now()})
	files := repo.Files()
	for w, more := u.Next(); more; w, more = u.Next() {
		raw, _ := files.Get(w)
		want := int64(len(raw))
		switch w.Role {
		case tuf.RoleRoot:
			want = l.Root
		case tuf.RoleTimestamp:
			want = l.Timestamp
		}
		if w.MaxLength != want {
			t.Errorf("%s: at most %d bytes, want %d", w.Role, w.MaxLength, want)
		}
		if err := u.Add(w, raw); err != nil {
			t.Fatal(err)
		}
	}
}

// attacks.md L5: deep nesting, long numbers.
func TestAttackDeepNesting(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"arrays":      strings.Repeat("[", 1_000_000),
		"objects":     strings.Repeat(`{"a":`, 1_000_000),
		"payload":     `{"signed":{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `},"signatures":[]}`,
		"long number": `{"signed":{"version":` + strings.Repeat("9", 400_000) + `},"signatures":[]}`,
		"long zeroes": `{"signed":{"version":` + strings.Repeat("0", 400_000) + `},"signatures":[]}`,
	} {
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets} {
			if _, err := tuf.NewFile(role, []byte(raw)); !errors.Is(err, tuf.ErrMalformed) && !errors.Is(err, tuf.ErrLimit) {
				t.Errorf("%s as %s: %v, want ErrMalformed", name, role, err)
			}
		}
		if _, err := tuf.Canonical([]byte(raw)); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("Canonical of %s: %v, want ErrMalformed", name, err)
		}
	}
	// Where nothing else is wrong.
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, err := tuf.Canonical(nested(64)); err != nil {
		t.Errorf("Canonical of 64 levels: %v", err)
	}
	if _, err := tuf.Canonical(nested(65)); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("Canonical of 65 levels: %v, want ErrMalformed", err)
	}
}

// attacks.md L2: a file within its size may hold millions of values, each of
// which takes many times the memory of its text. A file that is as full of
// targets as it can be is read.
func TestAttackManyValues(t *testing.T) {
	// Not parallel: it counts what is allocated.
	envelope := func(targets, more string) []byte {
		return []byte(`{"signatures":[],"signed":{"_type":"Targets","expires":"2036-01-01T00:00:00Z","targets":{` + targets + `},"version":1` + more + `}}`)
	}
	if _, err := tuf.NewFile(tuf.RoleTargets, envelope("", `,"x":[0`+strings.Repeat(",0", 16_000)+`]`)); err != nil {
		t.Errorf("a file with some values: %v", err)
	}
	const room = 16<<20 - 500
	var full strings.Builder
	hash := `":{"hashes":{"sha256":"` + strings.Repeat("A", 43) + `="},"length":0}`
	for i := 0; full.Len() < room; i++ {
		if i > 0 {
			full.WriteByte(',')
		}
		full.WriteString(`"` + strconv.FormatInt(int64(i), 36) + hash)
	}
	if _, err := tuf.NewFile(tuf.RoleTargets, envelope(full.String(), "")); err != nil {
		t.Errorf("a file full of targets: %v", err)
	}
	for name, more := range map[string]string{
		"few":     `,"x":[0` + strings.Repeat(",0", 1<<18) + `]`,
		"numbers": `,"x":[0` + strings.Repeat(",0", room/2) + `]`,
		"arrays":  `,"x":[[]` + strings.Repeat(",[]", room/3) + `]`,
		"strings": `,"x":[""` + strings.Repeat(`,""`, room/3) + `]`,
	} {
		raw := envelope("", more)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := tuf.NewFile(tuf.RoleTargets, raw)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<29+1<<28 {
			t.Errorf("%s: %d MiB were allocated for a file of %d", name, n>>20, len(raw)>>20)
		}
	}
}

// attacks.md W4: the spelling of TUF 1.0 is not that of this profile.
func TestAttackOtherProfile(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for role, kind := range map[tuf.RoleName]string{
		tuf.RoleTimestamp: "timestamp", tuf.RoleSnapshot: "snapshot", tuf.RoleTargets: "targets", tuf.RoleReleases: "Targets/releases",
	} {
		files := repo.Forge(t, role, func(p tuftest.Object) { p["_type"] = kind })
		_, err := tuftest.Walk(repo.Trusted(t), files, repo.Now())
		if !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("_type %q of %s: %v, want ErrMalformed", kind, role, err)
		}
	}
}

// attacks.md W3: keys are found by the id of the certificate, and counted by
// that of the key.
func TestCertificateKeyIDs(t *testing.T) {
	t.Parallel()
	bare := tuftest.ECDSAKey("one")
	a, b := certify(t, bare, "a", tuftest.Start), certify(t, bare, "b", tuftest.Start)
	if a.PublicKey().ID() == b.PublicKey().ID() || a.PublicKey().ID() == bare.PublicKey().ID() {
		t.Error("two certificates have one id")
	}
	for _, s := range []tuf.Signer{a, b} {
		if s.PublicKey().CanonicalID() != bare.PublicKey().CanonicalID() {
			t.Error("a certificate's canonical id is not the key's")
		}
		sig, err := s.Sign(t.Context(), []byte("message"))
		if err != nil || sig.KeyID != s.PublicKey().ID() {
			t.Errorf("signature by %s, want %s (%v)", sig.KeyID, s.PublicKey().ID(), err)
		}
		if err := bare.PublicKey().Verify([]byte("message"), sig); err != nil {
			t.Errorf("the bare key does not verify what its certificate signed: %v", err)
		}
	}
	if _, err := tuf.As(a.PublicKey(), tuftest.ECDSAKey("two")); !errors.Is(err, tuf.ErrKey) {
		t.Errorf("As for another key: %v, want ErrKey", err)
	}
}

// A private key among public ones is refused, not carried along.
func TestAttackPrivateKeyInMetadata(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
		for _, k := range tuftest.At(p, "keys") {
			tuftest.At(k.(tuftest.Object), "keyval")["private"] = "c2VjcmV0"
		}
	})
	attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
	var k tuf.PublicKey
	if err := json.Unmarshal([]byte(`{"keytype":"ed25519","keyval":{"private":"AAAA","public":"AAAA"}}`), &k); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("UnmarshalJSON = %v, want ErrMalformed", err)
	}
}
