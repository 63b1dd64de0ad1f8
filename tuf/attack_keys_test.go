package tuf_test

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// signedRoles are the roles below root of a repository with a delegation.
var signedRoles = []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets, tuf.RoleReleases}

// released is a repository whose delegation holds a target.
func released(t *testing.T, options ...tuftest.Option) *tuftest.Repo {
	t.Helper()
	repo := tuftest.New(t, gun, append([]tuftest.Option{tuftest.Delegation(tuf.RoleReleases)}, options...)...)
	repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.0")})
	return repo
}

// beforeIn returns the roles that are verified before role and are new, from
// a past that trusts the root and has the targets.
func beforeIn(role tuf.RoleName) []tuf.RoleName {
	return signedRoles[:min(2, slices.Index(signedRoles, role))]
}

// shortOf asserts that files are refused because role has too few signatures;
// of a delegation, that it does not count.
func shortOf(t *testing.T, repo *tuftest.Repo, files tuftest.Files, role tuf.RoleName, have, need int) {
	t.Helper()
	past := repo.Trusted(t)
	var err error
	if role.Delegation() {
		s := accepted(t, past, files, repo.Now())
		if len(s.Unusable()) != 1 || s.Unusable()[0].Role != role {
			t.Fatalf("unusable are %v, want %s", s.Unusable(), role)
		}
		if _, ok := s.Info(role); ok {
			t.Errorf("%s counts", role)
		}
		if _, err := s.Lookup("1.0", role); !errors.Is(err, tuf.ErrNoTarget) {
			t.Errorf("Lookup in an unusable role = %v, want ErrNoTarget", err)
		}
		err = s.Unusable()[0].Err
		repo.Publish(t)
		accepted(t, past, repo.Files(), repo.Now())
	} else {
		a := attack{repo: repo, files: files, past: past, want: tuf.ErrUnsigned, role: role, keeps: beforeIn(role)}
		if root, _ := tuf.NewFile(tuf.RoleRoot, files.Current[tuf.RoleRoot]); root.Version > past.Root().Version {
			a.keeps = append([]tuf.RoleName{tuf.RoleRoot}, a.keeps...)
			a.repair = func() { repo.Serve(list(files)...); repo.RotateKey(t, role) }
		}
		err = a.refused(t)
	}
	if e := as[*tuf.Shortage](t, err); e.Have != have || e.Need != need {
		t.Errorf("signed by %d of %d, want %d of %d", e.Have, e.Need, have, need)
	}
}

// attacks.md K5: too few valid signatures, for every role.
func TestAttackUnsigned(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			repo := released(t)
			shortOf(t, repo, repo.Forge(t, role, nil, tuftest.Unsigned...), role, 0, 1)
			shortOf(t, repo, repo.Forge(t, role, nil, tuftest.Key("stranger")), role, 0, 1)
			// Content changed under a signature that was good.
			raw := bytes.Replace(repo.Forge(t, role, nil).Current[role], []byte(`"version":`), []byte(`"version":1`), 1)
			shortOf(t, repo, repo.Swap(t, map[tuf.RoleName][]byte{role: raw}), role, 0, 1)
			for name, edit := range map[string]func([]tuftest.Object) []tuftest.Object{
				"null": func([]tuftest.Object) []tuftest.Object { return nil },
				"none": func([]tuftest.Object) []tuftest.Object { return []tuftest.Object{} },
			} {
				t.Log(name)
				raw := tuftest.Signatures(t, repo.Forge(t, role, nil).Current[role], edit)
				shortOf(t, repo, repo.Swap(t, map[tuf.RoleName][]byte{role: raw}), role, 0, 1)
			}
		})
	}
}

// attacks.md K5: one of the two keys that must sign.
func TestAttackBelowThreshold(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles[:3] {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			repo := released(t, tuftest.Keys(role, 3, 2))
			keys := repo.Signers(t, role)
			shortOf(t, repo, repo.Forge(t, role, nil, keys[1], tuftest.Key("stranger")), role, 1, 2)
			accepted(t, repo.Trusted(t), repo.Forge(t, role, nil, keys[0], keys[2]), repo.Now())
		})
	}
}

// attacks.md K1: one signature, or two by one key, repeated to reach the
// threshold. The list is invalid as a whole.
func TestAttackRepeatedSignature(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles {
		repo := released(t)
		once := repo.Forge(t, role, nil).Current[role]
		twice := tuftest.Signatures(t, once, func(s []tuftest.Object) []tuftest.Object { return append(s, s...) })
		key := signer(t, repo, role)
		for _, raw := range [][]byte{twice, repo.Forge(t, role, nil, key, key).Current[role]} {
			attack{
				repo: repo, files: repo.Swap(t, map[tuf.RoleName][]byte{role: raw}), past: repo.Trusted(t),
				want: tuf.ErrMalformed, role: role, keeps: beforeIn(role),
			}.refused(t)
		}
	}
}

// attacks.md K2, W3: one key under several ids counts once.
func TestAttackOneKeySeveralIDs(t *testing.T) {
	t.Parallel()
	repo := released(t)
	one := tuftest.ECDSAKey("one")
	certified := func(label string) tuf.Signer {
		return certify(t, one, tuf.GUN(label), repo.Now())
	}
	first, second := certified("first"), certified("second")
	other := tuftest.Key("other")
	list := []tuf.PublicKey{one.PublicKey(), first.PublicKey(), second.PublicKey(), other.PublicKey()}
	root := func(role tuf.RoleName, threshold int) []byte {
		return repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, role, threshold, list...) }).Current[tuf.RoleRoot]
	}
	for _, role := range signedRoles[:3] {
		by := func(signers ...tuf.Signer) tuftest.Files {
			files := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleRoot: root(role, 2)})
			return resign(t, repo, files, role, signers...)
		}
		if _, err := tuftest.Walk(nil, by(one, first, second), repo.Now()); !errors.Is(err, tuf.ErrUnsigned) {
			t.Errorf("%s: %v, want ErrUnsigned", role, err)
		} else if e := as[*tuf.Shortage](t, err); e.Have != 1 || e.Need != 2 {
			t.Errorf("%s signed by %d of %d, want 1 of 2", role, e.Have, e.Need)
		}
		accepted(t, nil, by(first, other), repo.Now())
		// attacks.md K4: four ids are two keys.
		files := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleRoot: root(role, 3)})
		if _, err := tuftest.Walk(nil, files, repo.Now()); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("threshold 3 of two keys for %s: %v, want ErrMalformed", role, err)
		}
	}
	// The root role itself: two certificates of one key.
	a, b := certify(t, one, gun, repo.Now()), certify(t, one, gun, repo.Now())
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
		setRole(p, tuf.RoleRoot, 2, a.PublicKey(), b.PublicKey(), signer(t, repo, tuf.RoleRoot).PublicKey())
	}, a, b)
	_, err := tuftest.Walk(nil, files, repo.Now())
	rootReason(t, err, tuf.NotSignedBySelf)
	// A delegation.
	files = repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
		d := tuftest.At(p, "delegations")
		ids := []string{}
		for _, k := range list {
			ids = append(ids, string(k.ID()))
			tuftest.At(d, "keys")[string(k.ID())] = tuftest.KeyObject(k)
		}
		r := d["roles"].([]any)[0].(tuftest.Object)
		r["keyids"], r["threshold"] = ids, 2
	})
	files = resign(t, repo, files, tuf.RoleReleases, one, first, second)
	shortOf(t, repo, files, tuf.RoleReleases, 1, 2)
}

// attacks.md K2: one RSA key in DER and in PEM is one key.
func TestAttackOneRSAKeyTwoForms(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	der, err := tuf.NewPublicKey(&rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 2048), big.NewInt(159)), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	wrapped := tuf.PublicKey{Type: tuf.RSA, Bytes: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der.Bytes})}
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleTargets, 2, der, wrapped) })
	if _, err := tuftest.Walk(nil, files, repo.Now()); !errors.Is(err, tuf.ErrMalformed) {
		t.Errorf("threshold 2 of one key in two forms: %v, want ErrMalformed", err)
	}
}

// attacks.md K3: a threshold of 0 or less, or none.
func TestAttackThresholdZero(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, threshold := range []any{0, -1, json.Number("-9007199254740992"), "1", nil, 1 << 30} {
		for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
			files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { tuftest.At(p, "roles", string(role))["threshold"] = threshold })
			attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
		}
		files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
			tuftest.At(p, "delegations")["roles"].([]any)[0].(tuftest.Object)["threshold"] = threshold
		})
		attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleTargets, keeps: beforeIn(tuf.RoleTargets)}.refused(t)
	}
}

// attacks.md K4: a threshold that the keys cannot meet.
func TestAttackTooFewKeys(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { tuftest.At(p, "roles", string(role))["threshold"] = 2 })
		attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleRoot, keeps: timestampOnly}.refused(t)
	}
	// Of a delegation it is tolerated, and the delegation does not count.
	files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
		tuftest.At(p, "delegations")["roles"].([]any)[0].(tuftest.Object)["threshold"] = 2
	})
	shortOf(t, repo, files, tuf.RoleReleases, 1, 2)
}

// attacks.md K6: extra signatures that are bad, empty or by strangers do not
// spoil a file.
func TestExtraSignatures(t *testing.T) {
	t.Parallel()
	repo := released(t, tuftest.Keys(tuf.RoleTargets, 2, 1))
	keys := repo.Signers(t, tuf.RoleTargets)
	for _, role := range signedRoles {
		raw := tuftest.Signatures(t, repo.Forge(t, role, nil).Current[role], func(s []tuftest.Object) []tuftest.Object {
			return append(s,
				tuftest.Object{"keyid": strings.Repeat("0", 64), "method": "eddsa", "sig": "AAAA"},
				tuftest.Object{"keyid": "", "method": "", "sig": ""})
		})
		accepted(t, repo.Trusted(t), repo.Swap(t, map[tuf.RoleName][]byte{role: raw}), repo.Now())
	}
	for _, sig := range []string{"", "AAAA", base64.StdEncoding.EncodeToString(make([]byte, 64))} {
		raw := tuftest.Signatures(t, repo.Forge(t, tuf.RoleTargets, nil, keys[0]).Current[tuf.RoleTargets], func(s []tuftest.Object) []tuftest.Object {
			return append(s, tuftest.Object{"keyid": string(keys[1].PublicKey().ID()), "method": "eddsa", "sig": sig})
		})
		s := accepted(t, repo.Trusted(t), repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleTargets: raw}), repo.Now())
		if i, _ := s.Info(tuf.RoleTargets); !slices.Equal(i.Signers, []tuf.KeyID{keys[0].PublicKey().ID()}) {
			t.Errorf("signers are %v, want the good one", i.Signers)
		}
	}
}

// attacks.md K7, L8: thousands of signatures.
func TestAttackManySignatures(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, role := range signedRoles {
		raw := tuftest.Signatures(t, repo.Forge(t, role, nil).Current[role], func(s []tuftest.Object) []tuftest.Object {
			for i := range 64 {
				s = append(s, tuftest.Object{"keyid": strings.Repeat("0", 62) + string(rune('A'+i%26)) + string(rune('a'+i/26)), "method": "eddsa", "sig": "AAAA"})
			}
			return s
		})
		attack{
			repo: repo, files: repo.Swap(t, map[tuf.RoleName][]byte{role: raw}), past: repo.Trusted(t),
			want: tuf.ErrMalformed, role: role, keeps: beforeIn(role),
		}.refused(t)
	}
}

// attacks.md K8: the method is the attacker's to name, and decides nothing.
func TestAttackSignatureMethod(t *testing.T) {
	t.Parallel()
	repo := released(t)
	named := func(method any) tuftest.Files {
		raw := tuftest.Signatures(t, repo.Forge(t, tuf.RoleTargets, nil).Current[tuf.RoleTargets], func(s []tuftest.Object) []tuftest.Object {
			s[0]["method"] = method
			return s
		})
		return repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleTargets: raw})
	}
	for _, method := range []string{"", "none", "ecdsa", "rsapss", "rsapkcs1v15", "ed25519", "eddsa "} {
		shortOf(t, repo, named(method), tuf.RoleTargets, 0, 1)
	}
	accepted(t, repo.Trusted(t), named("EdDSA"), repo.Now()) // notary-protocol 1.1
	for _, method := range []any{nil, 1, []string{"eddsa"}} {
		attack{repo: repo, files: named(method), past: repo.Trusted(t), want: tuf.ErrMalformed, role: tuf.RoleTargets, keeps: beforeIn(tuf.RoleTargets)}.refused(t)
	}
}

// attacks.md K10: members that nobody knows, or that mislead, are covered by
// the signatures and decide nothing.
func TestUnknownMembers(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
		p["spec_version"] = "1.0.31"
		p["keyid_hash_algorithms"] = []string{"md5"}
		for _, k := range tuftest.At(p, "keys") {
			k.(tuftest.Object)["keyid_hash_algorithms"] = []string{"md5"}
			k.(tuftest.Object)["scheme"] = "none"
		}
		tuftest.At(p, "roles")["mirrors"] = tuftest.Object{"keyids": []string{}, "threshold": 0}
	})
	accepted(t, past, files, repo.Now())
	forged := bytes.Replace(files.Current[tuf.RoleRoot], []byte("1.0.31"), []byte("1.0.32"), 1)
	_, err := tuftest.Walk(past, repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleRoot: forged}), repo.Now())
	if !errors.Is(err, tuf.ErrUnsigned) {
		t.Errorf("an unknown member changed: %v, want ErrUnsigned", err)
	}
	// Beside the payload they are covered by the hash alone.
	raw := append(bytes.TrimSuffix(repo.Forge(t, tuf.RoleTargets, nil).Current[tuf.RoleTargets], []byte("}")), `,"extra":{"a":[null,true]}}`...)
	accepted(t, past, repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleTargets: raw}), repo.Now())
}

// attacks.md K11: weak keys are refused at import and verify nothing.
func TestAttackWeakKeys(t *testing.T) {
	t.Parallel()
	repo := released(t)
	p256 := tuftest.ECDSAKey("good").PublicKey()
	offCurve := bytes.Clone(p256.Bytes)
	offCurve[len(offCurve)-1] ^= 1
	identity := make([]byte, 32)
	identity[0] = 1
	short := func(bits uint) tuf.PublicKey {
		n := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(159))
		k, err := tuf.NewPublicKey(&rsa.PublicKey{N: n, E: 65537})
		if !errors.Is(err, tuf.ErrKey) {
			t.Errorf("NewPublicKey of %d bits of RSA: %v, want ErrKey", bits, err)
		}
		return k
	}
	for name, k := range map[string]tuf.PublicKey{
		"RSA of 1024 bits":    short(1024),
		"RSA of 2047 bits":    short(2047),
		"RSA of 20000 bits":   short(20000),
		"point off the curve": {Type: tuf.ECDSA, Bytes: offCurve},
		"small order":         {Type: tuf.Ed25519, Bytes: identity},
		"short ed25519":       {Type: tuf.Ed25519, Bytes: identity[:31]},
		"empty":               {Type: tuf.ECDSA},
		"unknown type":        {Type: "sphincs", Bytes: identity},
		"type does not fit":   {Type: tuf.RSA, Bytes: p256.Bytes},
		"no certificate":      {Type: tuf.ECDSAx509, Bytes: p256.Bytes},
	} {
		if _, err := k.Public(); !errors.Is(err, tuf.ErrKey) {
			t.Errorf("%s: Public = %v, want ErrKey", name, err)
		}
		root := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleTargets, 1, k) })
		for _, s := range []tuf.Signer{lent{k, tuftest.ECDSAKey("good")}, lent{k, forEverything{}}} {
			files := resign(t, repo, root, tuf.RoleTargets, s)
			if _, err := tuftest.Walk(nil, files, repo.Now()); !errors.Is(err, tuf.ErrUnsigned) {
				t.Errorf("%s: %v, want ErrUnsigned", name, err)
			}
		}
		err := repo.Draft(t).Apply(tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{k}})
		if !errors.Is(err, tuf.ErrKey) {
			t.Errorf("%s added to a delegation: %v, want ErrKey", name, err)
		}
	}
}

// attacks.md K13: what a key signed that has been rotated out.
func TestAttackRotatedKey(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			repo := released(t)
			old := signer(t, repo, role)
			if role.Delegation() {
				repo.Publish(t, tuf.EditDelegation{
					Role: role, RemoveKeys: []tuf.CanonicalID{old.PublicKey().CanonicalID()}, AddKeys: []tuf.PublicKey{tuftest.Key("new").PublicKey()},
				}, tuf.Resign{Role: role})
			} else {
				repo.RotateKey(t, role)
			}
			shortOf(t, repo, repo.Forge(t, role, nil, old), role, 0, 1)
		})
	}
}

// attacks.md K16: texts that readers understand differently.
func TestAttackAmbiguousJSON(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, role := range append([]tuf.RoleName{tuf.RoleRoot}, signedRoles...) {
		good := repo.Forge(t, role, nil).Current[role]
		for name, edit := range map[string][2]string{
			"duplicate member":           {`"_type":`, `"_type":"x","_type":`},
			"duplicate in disguise":      {`"_type":`, `"\u005ftype":"x","_type":`},
			"duplicate payload":          {`{"signed":`, `{"signed":{},"signed":`},
			"duplicate signatures":       {`{"signed":`, `{"signatures":[],"signed":`},
			"float":                      {`"version":`, `"v":1.0,"version":`},
			"exponent":                   {`"version":`, `"v":1e3,"version":`},
			"beyond 2^53":                {`"version":`, `"v":9007199254740993,"version":`},
			"leading zero":               {`"version":`, `"version":0`},
			"minus zero":                 {`"version":`, `"v":-0,"version":`},
			"invalid UTF-8":              {`"version":`, "\"\xff\":1,\"version\":"},
			"half a surrogate":           {`"version":`, `"\ud800":1,"version":`},
			"raw control character":      {`"version":`, "\"a\tb\":1,\"version\":"},
			"control character as digit": {`"version":`, "\"\\u00\x104a\":1,\"version\":"},
			"trailing data":              {`"signed":`, `"signed":`},
			"comment":                    {`"version":`, `/**/"version":`},
			"trailing comma":             {`"signed":{`, `"signed":{,`},
			"byte order mark":            {`{"signed":`, "\ufeff{\"signed\":"},
		} {
			raw := bytes.Replace(good, []byte(edit[0]), []byte(edit[1]), 1)
			if name == "trailing data" {
				raw = append(raw, "{}"...)
			}
			if bytes.Equal(raw, good) {
				t.Fatalf("%s: nothing was edited in %s", name, role)
			}
			keeps := timestampOnly
			if role != tuf.RoleRoot {
				keeps = beforeIn(role)
			}
			t.Log(role, name)
			attack{
				repo: repo, files: repo.Swap(t, map[tuf.RoleName][]byte{role: raw}), past: repo.Trusted(t),
				want: tuf.ErrMalformed, role: role, keeps: keeps,
			}.refused(t)
		}
		// White space and another order of members are no ambiguity.
		var v struct {
			Signed     json.RawMessage `json:"signed"`
			Signatures json.RawMessage `json:"signatures"`
		}
		if err := json.Unmarshal(repo.Forge(t, role, nil).Current[role], &v); err != nil {
			t.Fatal(err)
		}
		loose, _ := json.MarshalIndent(map[string]any{"signatures": v.Signatures, "signed": v.Signed}, " ", "\t")
		accepted(t, repo.Trusted(t), repo.Swap(t, map[tuf.RoleName][]byte{role: loose}), repo.Now())
	}
}
