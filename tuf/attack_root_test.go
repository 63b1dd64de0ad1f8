package tuf_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

const year = 365 * 24 * time.Hour

// setRole replaces a role in the payload of a root.
func setRole(p tuftest.Object, name tuf.RoleName, threshold int, keys ...tuf.PublicKey) {
	ids := []string{}
	for _, k := range keys {
		ids = append(ids, string(k.ID()))
		tuftest.At(p, "keys")[string(k.ID())] = tuftest.KeyObject(k)
	}
	tuftest.At(p, "roles")[string(name)] = tuftest.Object{"keyids": ids, "threshold": threshold}
}

func rootSigner(t *testing.T, label string) tuf.Signer {
	t.Helper()
	return tuftest.RootKey(t, gun, label, tuftest.Start)
}

// attacks.md R1: an initial root that is no root.
func TestAttackInvalidInitialRoot(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	root := repo.Files().Current[tuf.RoleRoot]
	edit := func(f func(tuftest.Object)) []byte {
		return tuftest.Reseal(t, root, f, repo.Signers(t, tuf.RoleRoot)...)
	}
	for name, raw := range map[string][]byte{
		"empty":          nil,
		"not JSON":       []byte("<html>"),
		"truncated":      root[:len(root)-1],
		"no version":     edit(func(p tuftest.Object) { delete(p, "version") }),
		"no expiry":      edit(func(p tuftest.Object) { delete(p, "expires") }),
		"no roles":       edit(func(p tuftest.Object) { delete(p, "roles") }),
		"no keys":        edit(func(p tuftest.Object) { delete(p, "keys") }),
		"no timestamp":   edit(func(p tuftest.Object) { delete(tuftest.At(p, "roles"), "timestamp") }),
		"no such key":    edit(func(p tuftest.Object) { tuftest.At(p, "roles", "targets")["keyids"] = []string{"00"} }),
		"version 0":      edit(func(p tuftest.Object) { p["version"] = 0 }),
		"version -1":     edit(func(p tuftest.Object) { p["version"] = -1 }),
		"version text":   edit(func(p tuftest.Object) { p["version"] = "1" }),
		"another type":   edit(func(p tuftest.Object) { p["_type"] = "Targets" }),
		"TUF 1.0 type":   edit(func(p tuftest.Object) { p["_type"] = "root" }), // attacks.md W4
		"a targets":      repo.Files().Current[tuf.RoleTargets],
		"expiry no time": edit(func(p tuftest.Object) { p["expires"] = "soon" }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attack{repo: tuftest.New(t, gun), files: repo.Files().With(tuf.RoleRoot, raw), want: tuf.ErrMalformed, role: tuf.RoleRoot}.refused(t)
			// As what the machine remembers: an error, never first use.
			_, err := tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Raw: raw}}, tuf.Options{Now: repo.Now()})
			if !errors.Is(err, tuf.ErrMalformed) {
				t.Errorf("Recall = %v, want ErrMalformed", err)
			}
		})
	}
}

// attacks.md R2: the initial root does not meet its own threshold.
func TestAttackUnsignedInitialRoot(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Keys(tuf.RoleRoot, 3, 2))
	root := repo.Files().Current[tuf.RoleRoot]
	keys := repo.Signers(t, tuf.RoleRoot)
	for name, raw := range map[string][]byte{
		"unsigned":          tuftest.Reseal(t, root, nil),
		"below threshold":   tuftest.Reseal(t, root, nil, keys[0]),
		"by a stranger too": tuftest.Reseal(t, root, nil, keys[0], rootSigner(t, "stranger")),
	} {
		err := attack{repo: repo, files: repo.Files().With(tuf.RoleRoot, raw), want: tuf.ErrRoot, role: tuf.RoleRoot}.refused(t)
		rootReason(t, err, tuf.NotSignedBySelf)
		if !errors.Is(err, tuf.ErrUnsigned) {
			t.Errorf("%s: %v does not match ErrUnsigned", name, err)
		}
		_, err = tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Raw: raw}}, tuf.Options{Now: repo.Now()})
		rootReason(t, err, tuf.NotSignedBySelf)
	}
}

var timestampOnly = []tuf.RoleName{tuf.RoleTimestamp}

// attacks.md R3: a new root that the old keys did not sign.
func TestAttackRootSignedByNewKeysOnly(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	thief := rootSigner(t, "thief")
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, thief.PublicKey()) }, thief)
	err := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRoot, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
	rootReason(t, err, tuf.NotSignedByPrevious)
}

// attacks.md R4: a new root that its own keys did not sign.
func TestAttackRootSignedByOldKeysOnly(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, rootSigner(t, "new").PublicKey()) })
	err := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRoot, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
	rootReason(t, err, tuf.NotSignedBySelf)
}

// attacks.md R5, M4: root versions that skip, repeat, or go back.
func TestAttackRootVersion(t *testing.T) {
	t.Parallel()
	t.Run("skip", func(t *testing.T) {
		t.Parallel()
		repo := tuftest.New(t, gun)
		files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { p["version"] = 3 })
		a := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrIncomplete, role: tuf.RoleRoot, keeps: timestampOnly}
		a.refused(t)
		// The same, with the third where the second should be.
		a.files = files.WithRoot(2, files.Current[tuf.RoleRoot])
		a.want = tuf.ErrRoot
		e := rootReason(t, a.refused(t), tuf.VersionSkip)
		if e.Old != 1 || e.Offered != 3 {
			t.Errorf("skipped from %d to %d, want from 1 to 3", e.Old, e.Offered)
		}
	})
	t.Run("repeat", func(t *testing.T) {
		t.Parallel()
		repo := tuftest.New(t, gun)
		files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { p["version"] = 1; p["note"] = "another" })
		err := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRollback, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
		if e := as[*tuf.Rollback](t, err); *e != (tuf.Rollback{Offered: 1, Seen: 1}) {
			t.Errorf("%+v", e)
		}
	})
	t.Run("back", func(t *testing.T) {
		t.Parallel()
		repo := tuftest.New(t, gun)
		old := repo.Files().Current[tuf.RoleRoot]
		repo.RotateKey(t, tuf.RoleTargets)
		repo.RotateKey(t, tuf.RoleTargets)
		files := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleRoot: old})
		err := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRollback, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
		if e := as[*tuf.Rollback](t, err); *e != (tuf.Rollback{Offered: 1, Seen: 3}) {
			t.Errorf("%+v", e)
		}
	})
	t.Run("back over a rotation", func(t *testing.T) {
		t.Parallel()
		repo := tuftest.New(t, gun)
		old := repo.Files().Current[tuf.RoleRoot]
		repo.RotateRoot(t)
		files := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleRoot: old})
		attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRollback, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
	})
}

// attacks.md R6: the last of several new roots is bad. Trust stops at the last
// good one.
func TestAttackBadRootAtTheEndOfChain(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	past := repo.Trusted(t)
	repo.RotateRoot(t)
	repo.RotateRoot(t)
	thief := rootSigner(t, "thief")
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, thief.PublicKey()) }, thief)
	a := attack{repo: repo, files: files, past: past, want: tuf.ErrRoot, role: tuf.RoleRoot, keeps: []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp}}
	rootReason(t, a.refused(t), tuf.NotSignedByPrevious)

	u, _, _ := tuftest.WalkWith(past, files, a.options())
	if got := u.Verified()[0]; got.Version != 3 || string(got.Raw) == string(files.Current[tuf.RoleRoot]) {
		t.Errorf("root version %d may be remembered, want 3", got.Version)
	}
	// Bad in the middle: nothing is kept.
	bad := tuftest.Signatures(t, files.Roots[2], func([]tuftest.Object) []tuftest.Object { return nil })
	a.files, a.keeps = files.WithRoot(2, bad), timestampOnly
	a.refused(t)
}

// attacks.md R7: old keys meet the old threshold and new keys the new one.
func TestAttackRootThresholdChange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		old, new     int // thresholds, of 3 keys each
		byOld, byNew int // signatures
		want         error
		reason       tuf.RootReason
	}{
		{"lowered, signed as the new root says", 2, 1, 1, 1, tuf.ErrRoot, tuf.NotSignedByPrevious},
		{"lowered, signed as both say", 2, 1, 2, 1, nil, 0},
		{"raised, signed as the old root says", 1, 3, 1, 1, tuf.ErrRoot, tuf.NotSignedBySelf},
		{"raised, signed as both say", 1, 3, 1, 3, nil, 0},
		{"all old keys do not make up for a new one", 2, 2, 3, 1, tuf.ErrRoot, tuf.NotSignedBySelf},
		{"all new keys do not make up for an old one", 2, 2, 1, 3, tuf.ErrRoot, tuf.NotSignedByPrevious},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			repo := tuftest.New(t, gun, tuftest.Keys(tuf.RoleRoot, 3, test.old))
			var fresh []tuf.Signer
			var keys []tuf.PublicKey
			for i := range 3 {
				fresh = append(fresh, rootSigner(t, fmt.Sprint("fresh", i)))
				keys = append(keys, fresh[i].PublicKey())
			}
			by := append(repo.Signers(t, tuf.RoleRoot)[:test.byOld], fresh[:test.byNew]...)
			files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, test.new, keys...) }, by...)
			if test.want == nil {
				accepted(t, repo.Trusted(t), files, repo.Now())
				return
			}
			a := attack{repo: repo, files: files, past: repo.Trusted(t), want: test.want, role: tuf.RoleRoot, keeps: timestampOnly}
			rootReason(t, a.refused(t), test.reason)
		})
	}
}

// attacks.md R8: a chain without end. Each update goes a bounded way.
func TestAttackEndlessRootChain(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	past := repo.Trusted(t)
	for range 7 {
		repo.RotateRoot(t)
	}
	o := tuf.Options{Now: repo.Now(), Limits: tuf.Limits{Rotations: 3}}
	for _, want := range []int64{4, 7} {
		u, _, err := tuftest.WalkWith(past, repo.Files(), o)
		if !errors.Is(err, tuf.ErrLimit) {
			t.Fatalf("from root %d: %v, want ErrLimit", past.Root().Version, err)
		}
		past = merge(t, past, u.Verified(), o)
		if got := past.Root().Version; got != want {
			t.Fatalf("stopped at root %d, want %d", got, want)
		}
	}
	if _, s, err := tuftest.WalkWith(past, repo.Files(), o); err != nil {
		t.Errorf("the third update: %v", err)
	} else if i, _ := s.Info(tuf.RoleRoot); i.Version != 8 {
		t.Errorf("root %d, want 8", i.Version)
	}
}

// attacks.md R9, R11: the final root has expired. It is kept, and nothing else
// is updated.
func TestAttackExpiredRoot(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	past := repo.Trusted(t)
	repo.SetLifetime(tuf.RoleRoot, time.Hour)
	repo.RotateRoot(t)
	repo.Tag(t, "1.0")
	seen := repo.Trusted(t)
	repo.Advance(2 * time.Hour)
	repair := func() {
		repo.SetLifetime(tuf.RoleRoot, year)
		repo.RotateRoot(t)
	}
	a := attack{
		repo: repo, files: repo.Files(), past: past, want: tuf.ErrExpired, role: tuf.RoleRoot,
		keeps: []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp}, repair: repair,
	}
	if e := as[*tuf.Expired](t, a.refused(t)); !e.At.Equal(tuftest.Start.Add(time.Hour)) {
		t.Errorf("expired at %v", e.At)
	}
	// Already trusted, or never seen: refused before any other role.
	a.repair = func() {}
	a.past, a.keeps = seen, nil
	a.refused(t)
	a.past = nil
	a.refused(t)
}

// attacks.md R10: the local root has expired, and so has the one after it; a
// valid chain leads on.
func TestExpiredLocalRootFollowsChain(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Lifetime(tuf.RoleRoot, time.Hour))
	past := repo.Trusted(t)
	repo.RotateRoot(t)
	repo.Advance(2 * time.Hour)
	repo.SetLifetime(tuf.RoleRoot, year)
	repo.RotateRoot(t)
	s := accepted(t, past, repo.Files(), repo.Now())
	if i, _ := s.Info(tuf.RoleRoot); i.Version != 3 {
		t.Errorf("root %d, want 3", i.Version)
	}
}

// Amendment 25b: certificates of earlier roots are not judged by the present.
func TestExpiredCertificateOfPreviousRoot(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Lifetime(tuf.RoleRoot, 100*year), tuftest.Lifetime(tuf.RoleTargets, 100*year), tuftest.Lifetime(tuf.RoleSnapshot, 100*year))
	past := repo.Trusted(t)
	repo.Advance(11 * year)
	now := repo.Now()
	old := repo.Files()
	_, _, err := tuftest.WalkWith(past, old, tuf.Options{Now: now})
	if e := rootReason(t, err, tuf.NoLeaf); e.Expired != string(gun) {
		t.Errorf("the refusal names %q as expired, want %q", e.Expired, gun)
	}
	repo.RotateRoot(t)
	accepted(t, past, repo.Files(), now)
}

// attacks.md R15: well signed by the right keys, of the wrong type.
func TestAttackWrongType(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Delegation("targets/releases"))
	repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn("targets/releases", "1.0")})
	roles := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets, "targets/releases"}
	for _, role := range roles {
		for _, other := range roles {
			if role == other || role.HoldsTargets() && other.HoldsTargets() {
				continue
			}
			raw := tuftest.Reseal(t, repo.Files().Current[other], nil, repo.Signers(t, role)...)
			files := repo.Swap(t, map[tuf.RoleName][]byte{role: raw})
			if role == tuf.RoleRoot {
				files = repo.Files().With(role, raw)
			}
			_, err := tuftest.Walk(nil, files, repo.Now())
			if !errors.Is(err, tuf.ErrMalformed) || as[*tuf.RoleError](t, err).Role != role {
				t.Errorf("%s served as %s: %v, want ErrMalformed", other, role, err)
			}
		}
	}
}

// attacks.md K9: a key under an id that is not its own.
func TestAttackWrongKeyID(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	thief := tuftest.Key("thief")
	honest := repo.Role(t, tuf.RoleTargets).Keys[0]
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
		// The honest id now names the thief's key.
		tuftest.At(p, "keys")[string(honest.ID)] = tuftest.KeyObject(thief.PublicKey())
	})
	var payload, _ = json.Marshal(tuftest.Payload(t, repo.Files().Current[tuf.RoleTargets]))
	raw := tuftest.SealText(t, payload, relabel{thief, honest.ID})
	files = repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleRoot: files.Current[tuf.RoleRoot], tuf.RoleTargets: raw})
	attack{
		repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleTargets,
		keeps:  []tuf.RoleName{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot},
		repair: func() { repo.Serve(list(files)...); repo.RotateKey(t, tuf.RoleTargets) },
	}.refused(t)
}

// attacks.md K9: the same key in another spelling of base64, whose text has
// another id for readers that hash what stands in the file.
func TestAttackKeyInTwoSpellings(t *testing.T) {
	t.Parallel()
	key := tuftest.Key("spelled").PublicKey()
	// Of 32 bytes, the last character has two bits to spare.
	respell := func(text string) string { return text[:len(text)-2] + string(text[len(text)-2]+1) + "=" }
	honest := base64.StdEncoding.EncodeToString(key.Bytes)
	for _, text := range []string{respell(honest), honest[:20] + "\n" + honest[20:]} {
		if b, err := base64.StdEncoding.DecodeString(text); err != nil || !bytes.Equal(b, key.Bytes) {
			t.Fatalf("%q is not the key (%v)", text, err)
		}
		object := tuftest.KeyObject(key)
		tuftest.At(object, "keyval")["public"] = text
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var k tuf.PublicKey
		if err := k.UnmarshalJSON(raw); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("UnmarshalJSON(%s) = %v, want ErrMalformed", raw, err)
		}
	}
	repo := tuftest.New(t, gun)
	attack{
		repo: repo, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleRoot,
		keeps: []tuf.RoleName{tuf.RoleTimestamp},
		files: repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
			val := tuftest.At(p, "keys", string(repo.Role(t, tuf.RoleTargets).Keys[0].ID), "keyval")
			val["public"] = respell(val["public"].(string))
		}),
	}.refused(t)
}

// attacks.md R4, R5: a root in the middle of a chain that its own keys did not
// sign.
func TestAttackMiddleRootSignedByOldKeysOnly(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	past := repo.Trusted(t)
	old := repo.Signers(t, tuf.RoleRoot)
	repo.RotateRoot(t)
	repo.RotateRoot(t)
	files := repo.Files()
	a := attack{
		repo: repo, files: files.WithRoot(2, tuftest.Reseal(t, files.Roots[2], nil, old...)), past: past,
		want: tuf.ErrRoot, role: tuf.RoleRoot, keeps: timestampOnly,
	}
	rootReason(t, a.refused(t), tuf.NotSignedBySelf)
}

// A first root whose bytes somebody changed, and not its meaning, keeps nobody
// from the honest one afterwards: with other white space, or without a
// signature that is not needed.
func TestAttackRewrittenFirstRoot(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Keys(tuf.RoleRoot, 2, 1))
	root := repo.Files().Current[tuf.RoleRoot]
	for name, raw := range map[string][]byte{
		"white space": append([]byte(" \n"), root...),
		"fewer signatures": tuftest.Signatures(t, root, func(s []tuftest.Object) []tuftest.Object {
			if len(s) != 2 {
				t.Fatalf("%d signatures, want 2", len(s))
			}
			return s[1:]
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := tuf.Options{Now: repo.Now()}
			u, _, err := tuftest.WalkWith(nil, repo.Files().With(tuf.RoleRoot, raw), o)
			if !errors.Is(err, tuf.ErrMismatch) {
				t.Fatalf("Walk(changed root) = %v, want ErrMismatch", err)
			}
			past, err := tuf.Recall(gun, u.Verified(), o)
			if err != nil {
				t.Fatal(err)
			}
			set := accepted(t, past, repo.Files(), repo.Now())
			if f, _ := set.File(tuf.RoleRoot); string(f.Raw) != string(root) {
				t.Error("the root is not the one that the snapshot names")
			}
			if again, err := tuf.Recall(gun, set.Files(), o); err != nil || again.Root().Version != 1 {
				t.Errorf("Recall of what is kept = %v", err)
			}
		})
	}
}
