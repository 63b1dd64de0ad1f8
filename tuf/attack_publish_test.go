package tuf_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// upload is what a publisher sends: files in the order in which the server
// adopts them. It returns the first refusal.
func upload(d *tuf.Draft, files ...tuf.File) error {
	for _, f := range files {
		if err := d.Adopt(f); err != nil {
			return err
		}
	}
	return nil
}

func raw(role tuf.RoleName, b []byte) tuf.File { return tuf.File{Role: role, Raw: b} }

// receive is the server's door on top of what is published.
func receive(t *testing.T, repo *tuftest.Repo) *tuf.Draft {
	t.Helper()
	return tuf.Receive(gun, repo.Trusted(t), nil, tuf.Options{Now: repo.Now()})
}

// An honest upload: the client's files are adopted as they came, and the
// server adds snapshot and timestamp.
func TestReceive(t *testing.T) {
	t.Parallel()
	repo := released(t)
	next := repo.Forge(t, tuf.RoleTargets, nil).Current[tuf.RoleTargets]
	d := receive(t, repo)
	if err := upload(d, raw(tuf.RoleTargets, next)); err != nil {
		t.Fatal(err)
	}
	server := tuftest.NewRing(append(repo.Signers(t, tuf.RoleSnapshot), repo.Signers(t, tuf.RoleTimestamp)...)...)
	made, err := d.Sign(t.Context(), server, tuf.SignOptions{Now: repo.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 2 || made[0].Role != tuf.RoleSnapshot || made[1].Role != tuf.RoleTimestamp {
		t.Fatalf("the server signs %v", made)
	}
	past := repo.Trusted(t)
	repo.Serve(append(made, tuf.File{Role: tuf.RoleTargets, Version: 2, Raw: next})...)
	s := accepted(t, past, repo.Files(), repo.Now())
	if f, _ := s.File(tuf.RoleTargets); !bytes.Equal(f.Raw, next) {
		t.Error("the upload was not kept as it came")
	}
}

// A snapshot that the client signed is taken as it is; the server adds the
// timestamp.
func TestReceiveClientSnapshot(t *testing.T) {
	t.Parallel()
	repo := released(t)
	files := repo.Forge(t, tuf.RoleTargets, nil)
	d := receive(t, repo)
	err := upload(d, raw(tuf.RoleTargets, files.Current[tuf.RoleTargets]), raw(tuf.RoleSnapshot, files.Current[tuf.RoleSnapshot]))
	if err != nil {
		t.Fatal(err)
	}
	made, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()})
	if err != nil || len(made) != 1 || made[0].Role != tuf.RoleTimestamp {
		t.Fatalf("the server signs %v (%v), want the timestamp alone", made, err)
	}
	past := repo.Trusted(t)
	repo.Serve(append(made, list(files)...)...)
	repo.Serve(made...)
	accepted(t, past, repo.Files(), repo.Now())
}

// The stock client's first upload (amendment 3): root 1 or 2, targets 2,
// snapshot 2.
func TestReceiveFirstUpload(t *testing.T) {
	t.Parallel()
	repo := released(t)
	files := repo.Files().Current
	keys := func(role tuf.RoleName) []tuf.Signer { return repo.Signers(t, role) }
	at := func(role tuf.RoleName, version int) tuf.File {
		return raw(role, tuftest.Reseal(t, files[role], func(p tuftest.Object) { p["version"] = version }, keys(role)...))
	}
	for _, version := range []int{1, 2} {
		d := tuf.Receive(gun, nil, nil, tuf.Options{Now: repo.Now()})
		if err := upload(d, at(tuf.RoleRoot, version), at(tuf.RoleTargets, 2), at(tuf.RoleReleases, 1)); err != nil {
			t.Errorf("root %d, targets 2: %v", version, err)
		}
		if made, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()}); err != nil || len(made) != 2 || made[0].Version != 1 {
			t.Errorf("the server made %v (%v)", made, err)
		}
	}
	d := tuf.Receive(gun, nil, nil, tuf.Options{Now: repo.Now()})
	err := upload(d, at(tuf.RoleRoot, 3))
	rootReason(t, err, tuf.VersionSkip)
	// After a repository of that name was deleted, its versions are still known.
	d = tuf.Receive(gun, nil, map[tuf.RoleName]int64{tuf.RoleRoot: 1, tuf.RoleTargets: 7}, tuf.Options{Now: repo.Now()})
	if err := upload(d, at(tuf.RoleRoot, 2)); err != nil {
		t.Error(err)
	}
	rolledBack(t, upload(d, at(tuf.RoleTargets, 7)), 7, 7)
	if err := upload(d, at(tuf.RoleTargets, 8)); err != nil {
		t.Error(err)
	}
}

// attacks.md S1, S2, S13, S14, K4, K5, F13, R3, R4, D11: uploads that must not
// become the published state.
func TestAttackUpload(t *testing.T) {
	t.Parallel()
	repo := released(t)
	repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets})
	current := repo.Files().Current
	thief := rootSigner(t, "thief")
	rootKeys := repo.Signers(t, tuf.RoleRoot)
	targets := repo.Forge(t, tuf.RoleTargets, nil).Current[tuf.RoleTargets]
	forge := func(role tuf.RoleName, edit func(tuftest.Object), by ...tuf.Signer) []byte {
		return repo.Forge(t, role, edit, by...).Current[role]
	}
	version := func(v int) func(tuftest.Object) { return func(p tuftest.Object) { p["version"] = v } }
	for name, test := range map[string]struct {
		role tuf.RoleName
		raw  []byte
		want error
	}{
		"S1 members beside the payload": {tuf.RoleTargets, append(bytes.Clone(targets[:len(targets)-1]), `,"x":1}`...), tuf.ErrMalformed},
		"S13 data after the end":        {tuf.RoleTargets, append(bytes.Clone(targets), "{}"...), tuf.ErrMalformed},
		"S14 a timestamp":               {tuf.RoleTimestamp, forge(tuf.RoleTimestamp, nil), tuf.ErrRole},
		"D11 a role of no name":         {"targets/../root", targets, tuf.ErrRole},
		"S2 unsigned":                   {tuf.RoleTargets, forge(tuf.RoleTargets, nil, tuftest.Unsigned...), tuf.ErrUnsigned},
		"S2 by a stranger":              {tuf.RoleTargets, forge(tuf.RoleTargets, nil, tuftest.Key("stranger")), tuf.ErrUnsigned},
		"S2 expired":                    {tuf.RoleTargets, forge(tuf.RoleTargets, func(p tuftest.Object) { p["expires"] = repo.Now().Add(-time.Second).Format(time.RFC3339) }), tuf.ErrExpired},
		"S2 a delegation nobody made":   {"targets/other", current[tuf.RoleReleases], tuf.ErrNoDelegation},
		"S2 expired delegation":         {tuf.RoleReleases, forge(tuf.RoleReleases, func(p tuftest.Object) { p["expires"] = "2020-01-01T00:00:00Z" }), tuf.ErrExpired},
		"S2 unsigned delegation":        {tuf.RoleReleases, forge(tuf.RoleReleases, nil, repo.Signers(t, tuf.RoleTargets)...), tuf.ErrUnsigned},
		"F13 the version again":         {tuf.RoleTargets, forge(tuf.RoleTargets, version(2)), tuf.ErrRollback},
		"F13 an older version":          {tuf.RoleTargets, forge(tuf.RoleTargets, version(1)), tuf.ErrRollback},
		"F13 root jumps":                {tuf.RoleRoot, forge(tuf.RoleRoot, version(3)), tuf.ErrRoot},
		"F13 root again":                {tuf.RoleRoot, forge(tuf.RoleRoot, version(1)), tuf.ErrRollback},
		"R3 root by new keys":           {tuf.RoleRoot, forge(tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, thief.PublicKey()) }, thief), tuf.ErrUnsigned},
		"R4 root by old keys":           {tuf.RoleRoot, forge(tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, thief.PublicKey()) }, rootKeys...), tuf.ErrUnsigned},
		"R14 root without a certificate": {tuf.RoleRoot, forge(tuf.RoleRoot, func(p tuftest.Object) {
			setRole(p, tuf.RoleRoot, 1, tuftest.ECDSAKey("bare").PublicKey())
		}, tuftest.ECDSAKey("bare"), rootKeys[0]), tuf.ErrRoot},
		"K4 root that nobody can meet":    {tuf.RoleRoot, forge(tuf.RoleRoot, func(p tuftest.Object) { tuftest.At(p, "roles", "snapshot")["threshold"] = 2 }), tuf.ErrMalformed},
		"R9 expired root":                 {tuf.RoleRoot, forge(tuf.RoleRoot, func(p tuftest.Object) { p["expires"] = "2020-01-01T00:00:00Z" }), tuf.ErrExpired},
		"K1 a repeated signature":         {tuf.RoleTargets, forge(tuf.RoleTargets, nil, repo.Signers(t, tuf.RoleTargets)[0], repo.Signers(t, tuf.RoleTargets)[0]), tuf.ErrMalformed},
		"L4 too large":                    {tuf.RoleTargets, bytes.Repeat([]byte(" "), 16<<20+1), tuf.ErrLimit},
		"S2 snapshot of another targets":  {tuf.RoleSnapshot, forge(tuf.RoleTargets, nil), tuf.ErrMalformed},
		"M2 snapshot that lists new ones": {tuf.RoleSnapshot, repo.Forge(t, tuf.RoleTargets, nil).Current[tuf.RoleSnapshot], tuf.ErrMismatch},
		"F6 snapshot without targets":     {tuf.RoleSnapshot, forge(tuf.RoleSnapshot, unlist(tuf.RoleTargets)), tuf.ErrMalformed},
	} {
		d := receive(t, repo)
		err := upload(d, raw(test.role, test.raw))
		var refusal *tuf.RoleError
		if !errors.Is(err, test.want) || !errors.As(err, &refusal) || refusal.Role != test.role {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if got := d.Changed(); len(got) != 0 {
			t.Errorf("%s: the draft changed %v", name, got)
		}
		// The next honest upload into the same draft works, and nothing that
		// was refused is in it.
		if err := upload(d, raw(tuf.RoleTargets, targets)); err != nil {
			t.Errorf("%s: the honest upload after it: %v", name, err)
		}
		made, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()})
		if err != nil {
			t.Fatal(err)
		}
		files := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleTargets: targets, made[0].Role: made[0].Raw, made[1].Role: made[1].Raw})
		accepted(t, repo.Trusted(t), files, repo.Now())
	}
	for role, raw := range current {
		if !bytes.Equal(raw, repo.Files().Current[role]) {
			t.Errorf("%s as published has changed", role)
		}
	}
}

// A snapshot that lists the wrong file says which (design: upload errors).
func TestListedRole(t *testing.T) {
	t.Parallel()
	repo := released(t)
	err := upload(receive(t, repo), raw(tuf.RoleSnapshot, repo.Forge(t, tuf.RoleTargets, nil).Current[tuf.RoleSnapshot]))
	if role, ok := tuf.ListedRole(err); !ok || role != tuf.RoleTargets {
		t.Errorf("ListedRole(%v) = %q, %v", err, role, ok)
	}
	if role, ok := tuf.ListedRole(tuf.ErrRole); ok {
		t.Errorf("ListedRole of another error = %q", role)
	}
}

// attacks.md R3, K13: keys that the root of this very upload removes.
func TestAttackUploadSignedByRemovedKey(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Signers(t, tuf.RoleTargets)
	root := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleTargets, 1, tuftest.Key("new").PublicKey()) })
	d := receive(t, repo)
	if err := upload(d, raw(tuf.RoleRoot, root.Current[tuf.RoleRoot])); err != nil {
		t.Fatal(err)
	}
	next := repo.Files().Current[tuf.RoleTargets]
	edit := func(p tuftest.Object) { p["version"] = 9 }
	if err := upload(d, raw(tuf.RoleTargets, tuftest.Reseal(t, next, edit, old...))); !errors.Is(err, tuf.ErrUnsigned) {
		t.Errorf("by the old key: %v, want ErrUnsigned", err)
	}
	if err := upload(d, raw(tuf.RoleTargets, tuftest.Reseal(t, next, edit, tuftest.Key("new")))); err != nil {
		t.Errorf("by the new key: %v", err)
	}
}
