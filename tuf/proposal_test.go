package tuf_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// quorum is a repository whose role needs two signatures of three keys.
func quorum(t *testing.T, role tuf.RoleName) (*tuftest.Repo, []tuf.Signer) {
	t.Helper()
	option := tuftest.Keys(role, 3, 2)
	if role.Delegation() {
		edit := tuf.EditDelegation{Role: role, AddPaths: []string{""}, Threshold: 2}
		for _, name := range [...]string{"alice", "bob", "carol"} {
			edit.AddKeys = append(edit.AddKeys, tuftest.Key(name).PublicKey())
		}
		option = tuftest.Changes(edit)
	}
	repo := tuftest.New(t, gun, option)
	return repo, repo.Signers(t, role)
}

// propose makes a proposal with the keys of ring.
func propose(t *testing.T, repo *tuftest.Repo, ring tuf.Ring, changes ...tuf.Change) []tuf.Proposed {
	t.Helper()
	d := repo.Draft(t)
	apply(t, d, changes...)
	files, err := d.Propose(t.Context(), ring, tuf.SignOptions{Now: repo.Now()})
	if err != nil {
		t.Fatalf("Propose: %v", err)
	}
	return files
}

func cosign(t *testing.T, repo *tuftest.Repo, ring tuf.Ring, files []tuf.Proposed) []tuf.Review {
	t.Helper()
	out, err := repo.Draft(t).Cosign(t.Context(), ring, files)
	if err != nil {
		t.Fatalf("Cosign: %v", err)
	}
	return out
}

// complete publishes reviewed files as their owner would.
func complete(t *testing.T, repo *tuftest.Repo, reviews []tuf.Review) error {
	t.Helper()
	d := repo.Draft(t)
	var all []tuf.File
	for _, r := range reviews {
		if err := d.Adopt(r.File); err != nil {
			return err
		}
		all = append(all, r.File)
	}
	repo.Serve(append(all, sign(t, repo, d)...)...)
	return nil
}

func missing(reviews []tuf.Review) (n int) {
	for _, r := range reviews {
		for _, m := range r.Lacks {
			n += m.Need - m.Have
		}
	}
	return n
}

// TestProposal is amendments 14: several people sign one fixed payload, one
// after the other, and nobody has the keys of two.
func TestProposal(t *testing.T) {
	t.Parallel()
	const releases = tuf.RoleReleases
	another := tuftest.Key("another").PublicKey()
	for _, test := range []struct {
		role   tuf.RoleName
		change tuf.Change
	}{
		{releases, tuf.AddTarget{Target: tuftest.TargetIn(releases, "1.1")}},
		{tuf.RoleTargets, tuf.EditDelegation{Role: "targets/b", AddKeys: []tuf.PublicKey{another}}},
		{tuf.RoleRoot, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, another)}},
	} {
		t.Run(string(test.role), func(t *testing.T) {
			t.Parallel()
			repo, keys := quorum(t, test.role)
			alice, bob := tuftest.NewRing(keys[0]), tuftest.NewRing(keys[1])
			if test.role == tuf.RoleRoot {
				alice.Add(tuftest.Key("another")) // the new targets key signs targets
			}
			files := propose(t, repo, alice, test.change)
			looked := cosign(t, repo, nil, files)
			if missing(looked) == 0 || looked[0].Role != test.role || len(looked[0].Signers) != 1 {
				t.Fatalf("after the first of two: %+v", looked)
			}
			if err := complete(t, repo, looked); !errors.Is(err, tuf.ErrUnsigned) {
				t.Fatalf("published with one signature of two: %v", err)
			}
			if again := cosign(t, repo, alice, files); missing(again) != missing(looked) {
				t.Errorf("the same key twice counts: %+v", again)
			}
			done := cosign(t, repo, bob, files)
			if missing(done) != 0 || len(done[0].Signers) != 2 {
				t.Fatalf("after the second: %+v", done)
			}
			payload := func(f tuf.File) string {
				m, err := tuf.Outline(f.Role, f.Raw, tuf.Options{})
				if err != nil {
					t.Fatal(err)
				}
				return string(m.Canonical)
			}
			if payload(done[0].File) != payload(files[0].File) {
				t.Error("the payload changed on its way")
			}
			before := repo.Trusted(t)
			if err := complete(t, repo, done); err != nil {
				t.Fatal(err)
			}
			if _, err := tuftest.Walk(before, repo.Files(), repo.Now()); err != nil {
				t.Errorf("a consumer refuses it: %v", err)
			}
		})
	}
}

// What a proposal changes is said in full.
func TestProposalDifference(t *testing.T) {
	t.Parallel()
	repo, keys := quorum(t, tuf.RoleTargets)
	ring := tuftest.NewRing(keys...)
	repo.Publish(t, tuf.AddTarget{Target: tuftest.Target("1.0")}, tuf.AddTarget{Target: tuftest.Target("2.0")},
		tuf.EditDelegation{Role: "targets/gone", AddKeys: []tuf.PublicKey{keys[0].PublicKey()}})
	other := tuftest.Target("another content")
	other.Name = "2.0"
	r := cosign(t, repo, nil, propose(t, repo, ring,
		tuf.AddTarget{Target: tuftest.Target("3.0")}, tuf.AddTarget{Target: other}, tuf.RemoveTarget{Name: "1.0"},
		tuf.RemoveDelegation{Name: "targets/gone"},
		tuf.EditDelegation{Role: "targets/new", AddKeys: []tuf.PublicKey{keys[0].PublicKey()}},
	))[0]
	var put, was []string
	for _, p := range r.Put {
		put = append(put, p.Name)
	}
	for _, p := range r.Was {
		was = append(was, p.Name)
	}
	if !slices.Equal(put, []string{"2.0", "3.0"}) || !slices.Equal(r.Gone, []string{"1.0"}) || !slices.Equal(was, []string{"2.0", "1.0"}) ||
		len(r.Roles) != 1 || r.Roles[0].Name != "targets/new" || !slices.Equal(r.Dropped, []tuf.RoleName{"targets/gone"}) || r.Unknown {
		t.Errorf("difference = %+v", r.Difference)
	}
	if string(r.Put[0].SHA256()) != string(other.SHA256()) || r.Expires.IsZero() {
		t.Errorf("of 2.0: %+v, until %v", r.Put[0], r.Expires)
	}
}

// TestAttackProposal: what somebody puts into the file that goes from hand to
// hand does not get a signature.
func TestAttackProposal(t *testing.T) {
	t.Parallel()
	repo, keys := quorum(t, tuf.RoleReleases)
	repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.0")})
	alice, bob := tuftest.NewRing(keys[0]), tuftest.NewRing(keys[1])
	files := propose(t, repo, alice, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.1")})
	edited := func(edit func(tuftest.Object)) []tuf.Proposed {
		out := slices.Clone(files)
		out[0].Raw = tuftest.Reseal(t, out[0].Raw, edit, keys[0])
		return out
	}
	counting := &countingRing{ring: bob}
	for name, test := range map[string]struct {
		files []tuf.Proposed
		want  error
	}{
		"a version far ahead": {edited(func(p tuftest.Object) { p["version"] = 1 << 52 }), tuf.ErrMalformed},
		"an old version":      {edited(func(p tuftest.Object) { p["version"] = 1 }), tuf.ErrMalformed},
		"expired":             {edited(func(p tuftest.Object) { p["expires"] = "2001-01-01T00:00:00Z" }), tuf.ErrExpired},
		"another kind":        {edited(func(p tuftest.Object) { p["_type"] = "Root" }), tuf.ErrMalformed},
		"the file twice":      {append(slices.Clone(files), files[0]), tuf.ErrMalformed},
		"another base":        {[]tuf.Proposed{{File: files[0].File, Base: make([]byte, 32)}}, tuf.ErrStale},
		"no base":             {[]tuf.Proposed{{File: files[0].File}}, tuf.ErrStale},
		"a snapshot":          {[]tuf.Proposed{{File: tuf.File{Role: tuf.RoleSnapshot, Raw: files[0].Raw}}}, tuf.ErrRole},
		"a role of nobody":    {[]tuf.Proposed{{File: tuf.File{Role: "targets/x", Raw: edited(func(p tuftest.Object) { p["version"] = 1 })[0].Raw}}}, tuf.ErrNoDelegation},
	} {
		if _, err := repo.Draft(t).Cosign(t.Context(), counting, test.files); !errors.Is(err, test.want) {
			t.Errorf("%s = %v, want %v", name, err, test.want)
		}
	}
	if counting.asked != 1 { // "the file twice" is seen at the second
		t.Errorf("%d signatures were asked for", counting.asked)
	}

	unknown := cosign(t, repo, nil, edited(func(p tuftest.Object) { p["surprise"] = true }))
	if !unknown[0].Unknown {
		t.Error("a member that nobody knows is not told of")
	}
	forged := slices.Clone(files)
	forged[0].Raw = tuftest.Signatures(t, files[0].Raw, func(s []tuftest.Object) []tuftest.Object {
		return append(s, tuftest.Object{"keyid": string(keys[2].PublicKey().ID()), "method": "ecdsa", "sig": s[0]["sig"]})
	})
	if got := cosign(t, repo, nil, forged); missing(got) != 1 || len(got[0].Signers) != 1 {
		t.Errorf("a forged signature counts: %+v", got)
	}

	repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.2")})
	if _, err := repo.Draft(t).Cosign(t.Context(), bob, files); !errors.Is(err, tuf.ErrStale) {
		t.Errorf("after another publication = %v, want %v", err, tuf.ErrStale)
	}
}

// A countingRing counts the keys that are asked for.
type countingRing struct {
	ring  tuf.Ring
	asked int
}

func (c *countingRing) Signer(ctx context.Context, gun tuf.GUN, role tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	s, err := c.ring.Signer(ctx, gun, role, key)
	if err == nil {
		c.asked++
	}
	return s, err
}
