package tuf_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// attacks.md R13: a denied key stays denied, whether offered anew or trusted
// before.
func TestAttackDeniedRootKey(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	bad := repo.Role(t, tuf.RoleRoot).Keys[0].CanonicalID()
	for _, past := range []*tuf.Past{nil, repo.Trusted(t)} {
		err := attack{repo: repo, files: repo.Files(), past: past, pin: tuf.Pins{Denied: []tuf.CanonicalID{bad}}, want: tuf.ErrPin, role: tuf.RoleRoot}.refused(t)
		rootReason(t, err, tuf.Denied)
	}
	// It does not count beside another one either.
	other := rootSigner(t, "other")
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
		setRole(p, tuf.RoleRoot, 1, repo.Role(t, tuf.RoleRoot).Keys[0].PublicKey, other.PublicKey())
	})
	err := attack{repo: repo, files: files, pin: tuf.Pins{Denied: []tuf.CanonicalID{bad}}, want: tuf.ErrRoot, role: tuf.RoleRoot}.refused(t)
	rootReason(t, err, tuf.NotSignedBySelf)
}

// attacks.md R13: nor can a denied key hand over to a successor of its choice.
func TestAttackDeniedRootKeyHandsOver(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	bad := repo.Role(t, tuf.RoleRoot).Keys[0].CanonicalID()
	past := repo.Trusted(t)
	repo.RotateRoot(t)
	err := attack{repo: repo, files: repo.Files(), past: past, pin: tuf.Pins{Denied: []tuf.CanonicalID{bad}}, want: tuf.ErrRoot, role: tuf.RoleRoot}.refused(t)
	rootReason(t, err, tuf.NotSignedByPrevious)
}

// attacks.md R14: the name in the certificate.
func TestAttackRootCertificateName(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	for cn, good := range map[string]bool{
		string(gun):                  true,
		"registry.example/team/*":    true,
		"registry.example/*":         true,
		"registry.example/team/**":   true,
		"registry.example/team/app*": false, // matches .../application
		"registry.example/team/a*":   false,
		"registry.example*":          false,
		"*":                          false,
		"/*":                         false,
		"":                           false,
		"registry.example/team":      false,
		"registry.example/team/":     false,
		"registry.example/other/*":   false,
		"registry.example/team/APP":  false,
		"registry.example/team/app/": false,
		"registry.example/team/app2": false,
		"*/team/app":                 false,
	} {
		s := tuftest.RootKey(t, tuf.GUN(cn), "named", repo.Now())
		files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, s.PublicKey()) }, s)
		_, err := tuftest.Walk(nil, files, repo.Now())
		if good && err != nil {
			t.Errorf("a certificate for %q: %v", cn, err)
		} else if !good {
			if !errors.Is(err, tuf.ErrRoot) {
				t.Fatalf("a certificate for %q: %v, want ErrRoot", cn, err)
			}
			rootReason(t, err, tuf.NoLeaf)
		}
		// Nor may a trusted root hand over to such a one.
		files = repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, s.PublicKey()) }, s, signer(t, repo, tuf.RoleRoot))
		if _, err := tuftest.Walk(repo.Trusted(t), files, repo.Now()); (err == nil) != good {
			t.Errorf("rotation to a certificate for %q: %v", cn, err)
		}
	}
}

// attacks.md R14: certificates out of their time, keys without certificate.
func TestAttackRootCertificateTime(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	for name, s := range map[string]tuf.Signer{
		"expired":      tuftest.RootKey(t, gun, "old", repo.Now().Add(-11*year)),
		"not yet":      tuftest.RootKey(t, gun, "young", repo.Now().Add(48*time.Hour)), // attacks.md F14
		"bare":         tuftest.ECDSAKey("bare"),
		"bare ed25519": tuftest.Key("bare"),
	} {
		files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, s.PublicKey()) }, s)
		err := attack{repo: repo, files: files, want: tuf.ErrRoot, role: tuf.RoleRoot}.refused(t)
		e := rootReason(t, err, tuf.NoLeaf)
		if timely := strings.HasPrefix(name, "bare"); timely != (e.Expired == "") || !timely && e.Expired != string(gun) || (name == "not yet") == e.From.IsZero() {
			t.Errorf("%s: %+v", name, e)
		}
		if said := strings.Contains(err.Error(), "not yet"); said != (name == "not yet") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// attacks.md R14, K14: a pinned authority wins over first use, and every
// certificate of the chain must be valid.
func TestAttackPinnedAuthority(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	now := repo.Now()
	ca := newAuthority(t, "root authority", nil, now, 10*year)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	pin := tuf.Pins{Rules: []tuf.PinRule{{Pattern: "registry.example/*", Pin: tuf.CAPin{Authorities: pool}}}}

	good := newAuthority(t, "intermediate", ca, now, year)
	short := newAuthority(t, "short-lived intermediate", ca, now, time.Hour)
	stranger := newAuthority(t, "stranger", nil, now, year)
	serve := func(s tuf.Signer) tuftest.Files {
		return repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) { setRole(p, tuf.RoleRoot, 1, s.PublicKey()) }, s)
	}
	if _, _, err := tuftest.WalkWith(nil, serve(good.leaf(t, gun, now, true)), tuf.Options{Now: now, Pin: pin}); err != nil {
		t.Errorf("a certificate by the pinned authority: %v", err)
	}
	for name, a := range map[string]attack{
		"self-signed":          {files: repo.Files()},
		"by a stranger":        {files: serve(stranger.leaf(t, gun, now, true))},
		"intermediate missing": {files: serve(good.leaf(t, gun, now, false))},
		"intermediate expired": {files: serve(short.leaf(t, gun, now, true)), now: now.Add(2 * time.Hour)},
		"no authorities":       {files: serve(good.leaf(t, gun, now, true)), pin: tuf.CAPin{}},
	} {
		if a.pin == nil {
			a.pin = pin
		}
		a.repo, a.want, a.role = repo, tuf.ErrPin, tuf.RoleRoot
		t.Log(name)
		rootReason(t, a.refused(t), tuf.NoPinMatch)
	}
}

// attacks.md R12: pins that leave no room for first use.
func TestAttackPins(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	root := repo.Role(t, tuf.RoleRoot).Keys[0]
	other := rootSigner(t, "other").PublicKey()
	byKey := func(id tuf.CanonicalID) tuf.Pin { return tuf.KeyPin{Keys: []tuf.CanonicalID{id}} }
	byCert := func(id tuf.KeyID) tuf.Pin { return tuf.KeyPin{Certificates: []tuf.KeyID{id}} }
	rules := func(rules ...tuf.PinRule) tuf.Pin { return tuf.Pins{Rules: rules, Otherwise: tuf.NoFirstUse{}} }
	for _, test := range []struct {
		name   string
		pin    tuf.Pin
		past   *tuf.Past
		refuse bool
		reason tuf.RootReason
	}{
		{"no first use", tuf.NoFirstUse{}, nil, true, tuf.FirstUseRefused},
		{"no first use, trusted before", tuf.NoFirstUse{}, repo.Trusted(t), false, 0},
		{"another key", byKey(other.CanonicalID()), nil, true, tuf.NoPinMatch},
		{"another key, trusted before", byKey(other.CanonicalID()), repo.Trusted(t), true, tuf.NoPinMatch},
		{"another certificate", byCert(other.ID()), nil, true, tuf.NoPinMatch},
		{"the key's id where the certificate's belongs", byCert(tuf.KeyID(root.CanonicalID())), nil, true, tuf.NoPinMatch},
		{"the key", byKey(root.CanonicalID()), nil, false, 0},
		{"the certificate", byCert(root.ID), nil, false, 0},
		{"no rule matches", rules(tuf.PinRule{Pattern: "other/*", Pin: tuf.FirstUse{}}), nil, true, tuf.FirstUseRefused},
		{"the exact rule wins", rules(
			tuf.PinRule{Pattern: "registry.example/*", Pin: byKey(root.CanonicalID())},
			tuf.PinRule{Pattern: string(gun), Pin: byKey(other.CanonicalID())},
		), nil, true, tuf.NoPinMatch},
		{"the longest rule wins", rules(
			tuf.PinRule{Pattern: "registry.example/*", Pin: byKey(other.CanonicalID())},
			tuf.PinRule{Pattern: "registry.example/team/*", Pin: byKey(root.CanonicalID())},
		), nil, false, 0},
		{"the first of two equal rules wins", rules(
			tuf.PinRule{Pattern: "registry.example/*", Pin: byKey(other.CanonicalID())},
			tuf.PinRule{Pattern: "registry.example/*", Pin: byKey(root.CanonicalID())},
		), nil, true, tuf.NoPinMatch},
	} {
		_, _, err := tuftest.WalkWith(test.past, repo.Files(), tuf.Options{Now: repo.Now(), Pin: test.pin})
		switch {
		case !test.refuse && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.refuse && !errors.Is(err, tuf.ErrPin):
			t.Errorf("%s: %v, want ErrPin", test.name, err)
		case test.refuse:
			rootReason(t, err, test.reason)
		}
	}
}

// Amendment 1: the attacker lists the pinned key beside his own, and signs
// with his own.
func TestAttackPinnedKeyListedNotSigning(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	pinned := repo.Role(t, tuf.RoleRoot).Keys[0]
	thief := rootSigner(t, "thief")
	files := repo.Forge(t, tuf.RoleRoot, func(p tuftest.Object) {
		setRole(p, tuf.RoleRoot, 1, pinned.PublicKey, thief.PublicKey())
	}, thief)
	for _, pin := range []tuf.Pin{
		tuf.KeyPin{Certificates: []tuf.KeyID{pinned.ID}},
		tuf.KeyPin{Keys: []tuf.CanonicalID{pinned.CanonicalID()}},
	} {
		err := attack{repo: repo, files: files, pin: pin, want: tuf.ErrRoot, role: tuf.RoleRoot}.refused(t)
		rootReason(t, err, tuf.NotSignedBySelf)
	}
}
