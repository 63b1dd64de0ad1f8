package tuf_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// attacks.md M1, M2, F11: bytes that are not those the signed hash names.
func TestAttackSubstitutedFile(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles[1:] {
		repo := released(t)
		past := repo.Trusted(t)
		good := repo.Forge(t, role, func(p tuftest.Object) { p["note"] = "another" }).Current[role]
		repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets}, tuf.Resign{Role: tuf.RoleReleases})
		for name, raw := range map[string][]byte{
			"another version": good,
			"longer":          append(bytes.Clone(repo.Files().Current[role]), ' '),
			"empty":           {},
			"shorter":         repo.Files().Current[role][1:],
		} {
			keeps := signedRoles[:indexOf(role)]
			t.Log(name)
			err := attack{repo: repo, files: repo.Files().With(role, raw), past: past, want: tuf.ErrMismatch, role: role, keeps: keeps,
				repair: func() {}}.refused(t)
			if e := as[*tuf.Mismatch](t, err); e.Algorithm == "" {
				t.Errorf("%+v", e)
			}
		}
	}
}

func indexOf(role tuf.RoleName) int {
	for i, r := range signedRoles {
		if r == role {
			return i
		}
	}
	return -1
}

// attacks.md M2, M8: a snapshot whose length or one of whose hashes is wrong.
func TestAttackOneWrongHash(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleReleases} {
		for want, edit := range map[string]func(tuftest.Object){
			"length": func(m tuftest.Object) { m["length"] = 1 },
			"sha512": func(m tuftest.Object) {
				tuftest.At(m, "hashes")["sha512"] = tuftest.At(tuftest.Describe([]byte("other")), "hashes")["sha512"]
			},
		} {
			files := repo.Forge(t, tuf.RoleSnapshot, func(p tuftest.Object) { edit(tuftest.At(p, "meta", string(role))) })
			// The machine does not hold the file.
			err := attack{repo: repo, files: files, past: rootOf(t, repo), want: tuf.ErrMismatch, role: role,
				keeps: signedRoles[:indexOf(role)]}.refused(t)
			if e := as[*tuf.Mismatch](t, err); e.Algorithm != want {
				t.Errorf("mismatch of %s, want %s", e.Algorithm, want)
			}
		}
	}
}

// rootOf is a past that has the root alone.
func rootOf(t *testing.T, repo *tuftest.Repo) *tuf.Past {
	t.Helper()
	p, err := tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Raw: repo.Files().Current[tuf.RoleRoot]}}, tuf.Options{Now: repo.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// attacks.md M7: nothing that can be checked is no success.
func TestAttackUnknownHash(t *testing.T) {
	t.Parallel()
	repo := released(t)
	unknown := tuftest.Object{"blake9": "AAAA"}
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleReleases} {
		for _, hashes := range []any{unknown, tuftest.Object{}, nil, tuftest.Object{"sha256": ""}, tuftest.Object{"sha256": "AAAA"}} {
			files := repo.Forge(t, tuf.RoleSnapshot, func(p tuftest.Object) { tuftest.At(p, "meta", string(role))["hashes"] = hashes })
			attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleSnapshot, keeps: timestampOnly}.refused(t)
		}
	}
	files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
		tuftest.At(p, "targets")["9.9"] = tuftest.Object{"length": 1, "hashes": unknown}
		tuftest.At(p, "targets")["9.8"] = tuftest.Object{"length": 1, "hashes": tuftest.Object{
			"blake9": "AAAA", "sha512": tuftest.At(tuftest.Describe(nil), "hashes")["sha512"]}}
	})
	s := accepted(t, nil, files, repo.Now())
	if _, err := s.Lookup("9.9"); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("Lookup = %v, want ErrMalformed", err)
	}
	if _, err := s.LookupTree("9.9"); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("LookupTree = %v, want ErrMalformed", err)
	}
	if got, err := s.Lookup("9.8"); err != nil || got.Hashes["sha512"] == nil || got.SHA256() != nil {
		t.Errorf("Lookup of a target with sha512 = %v, %v", got, err)
	}
	for got := range s.Targets(tuf.RoleTargets) {
		if got.Name == "9.9" {
			t.Error("Targets yields a target that nobody can check")
		}
	}
}

// attacks.md M5: a file that is not there is not a file that is refused.
func TestAttackMissingFile(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles {
		repo := released(t)
		past := repo.Trusted(t)
		repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets}, tuf.Resign{Role: tuf.RoleReleases})
		attack{
			repo: repo, files: repo.Files().Without(role), past: past, want: tuf.ErrIncomplete, role: role,
			keeps: signedRoles[:indexOf(role)], repair: func() {},
		}.refused(t)
	}
	repo := released(t)
	attack{repo: repo, files: repo.Files().Without(tuf.RoleRoot), want: tuf.ErrIncomplete, role: tuf.RoleRoot}.refused(t)
	past := repo.Trusted(t)
	repo.RotateRoot(t)
	repo.RotateRoot(t)
	files := repo.Files()
	delete(files.Roots, 2)
	attack{repo: repo, files: files, past: past, want: tuf.ErrIncomplete, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
}

// Mix and match: valid files of different moments.
func TestAttackMixAndMatch(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	old := repo.Files()
	repo.Publish(t, tuf.AddTarget{Target: tuftest.Target("1.1")}, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.1")})
	for _, role := range signedRoles[1:] {
		files := repo.Files().With(role, old.Current[role])
		attack{
			repo: repo, files: files, past: past, want: tuf.ErrMismatch, role: role,
			keeps: signedRoles[:indexOf(role)], repair: func() {},
		}.refused(t)
	}
}

// attacks.md M9, M3: files are kept byte by byte as they came.
func TestBytesAreKept(t *testing.T) {
	t.Parallel()
	repo := released(t)
	loose := func(raw []byte) []byte {
		var v any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		out, _ := json.MarshalIndent(v, "\r\n ", "  ")
		return append(out, "\n\n"...)
	}
	files := repo.Files()
	swap := make(map[tuf.RoleName][]byte)
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleReleases} {
		swap[role] = loose(files.Current[role])
	}
	swapped := repo.Swap(t, swap)
	swap[tuf.RoleSnapshot] = loose(swapped.Current[tuf.RoleSnapshot])
	swapped = repo.Swap(t, swap)
	swapped.Current[tuf.RoleTimestamp] = loose(swapped.Current[tuf.RoleTimestamp])
	s := accepted(t, nil, swapped, repo.Now())
	if len(s.Files()) != 5 {
		t.Fatalf("%d files", len(s.Files()))
	}
	for _, f := range s.Files() {
		if !bytes.Equal(f.Raw, swapped.Current[f.Role]) {
			t.Errorf("%s is not kept as it came", f.Role)
		}
	}
}

// Amendment 25a: the root changes while a consumer is between the root and
// the snapshot. The update goes back once, also at first use.
func TestRootChangesDuringUpdate(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{false, true} {
		repo := released(t)
		var past *tuf.Past
		if !first {
			past = repo.Trusted(t)
		}
		old := repo.Files()
		for range 3 {
			repo.RotateRoot(t)
		}
		now := repo.Files()
		u := tuf.Begin(gun, past, tuf.Options{Now: repo.Now()})
		for w, more := u.Next(); more; w, more = u.Next() {
			files := now
			if w.Role == tuf.RoleRoot && w.Version == 0 && w.SHA256 == nil {
				files = old // some cache still has it
			}
			raw, ok := files.Get(w)
			if !ok {
				t.Fatalf("asked for %+v, which no server has", w)
			}
			if err := u.Add(w, raw); err != nil {
				t.Fatalf("first %v: %v", first, err)
			}
		}
		s, err := u.Set()
		if err != nil {
			t.Fatal(err)
		}
		if i, _ := s.Info(tuf.RoleRoot); i.Version != 4 {
			t.Errorf("root %d, want 4", i.Version)
		}
	}
}

// A root signed by all earlier ones too (--legacy) is followed like any other.
func TestLegacySignedRoot(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	first := repo.Role(t, tuf.RoleRoot).Keys[0].PublicKey
	repo.RotateRoot(t)
	d := repo.Draft(t)
	third := tuftest.RootKey(t, gun, "third", repo.Now())
	if err := d.Apply(tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleRoot, 1, third.PublicKey())}); err != nil {
		t.Fatal(err)
	}
	ring := repo.Ring()
	ring.Add(third)
	lost := tuftest.RootKey(t, gun, "lost", repo.Now()).PublicKey() // not at hand
	made, err := d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now(), Legacy: []tuf.PublicKey{first, lost, third.PublicKey()}})
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Signatures []struct{ KeyID tuf.KeyID } }
	if err := json.Unmarshal(made[0].Raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Signatures) != 3 {
		t.Errorf("%d signatures, want those of the new root, the one before and the first", len(file.Signatures))
	}
	repo.Serve(made...)
	accepted(t, past, repo.Files(), repo.Now())
	accepted(t, nil, repo.Files(), repo.Now())
	// A stock client of the first root takes the newest directly; so the
	// signature of the first key must hold.
	role := tuf.NewRole(tuf.RoleRoot, 1, first)
	if _, err := tuf.VerifyFile(made[0].Raw, role, tuf.Options{}); err != nil {
		t.Errorf("by the first root's key: %v", err)
	}
}
