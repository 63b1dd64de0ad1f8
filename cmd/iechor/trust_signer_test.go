package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func TestSignerRole(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"alice": true, "build-2": true, "0_a": true, "root": true,
		"": false, "Alice": false, "-a": false, "_a": false, "a/b": false, "a.b": false, "a@b": false, "á": false, "a\n": false,
		"releases": false, strings.Repeat("a", 300): false,
	} {
		role, err := signerRole(name)
		if (err == nil) != ok {
			t.Errorf("signerRole(%q) = %v, want ok %v", name, err, ok)
		}
		if ok && role != tuf.RoleName("targets/"+name) {
			t.Errorf("signerRole(%q) = %s", name, role)
		}
	}
}

// A certificate stands for the key in it, and headers do not matter.
func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := tuf.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(until time.Time) []byte {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "eve"}, NotBefore: now.Add(-time.Hour), NotAfter: until}
		raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	encode := func(kind string, raw []byte, headers map[string]string) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw, Headers: headers})
	}
	for name, raw := range map[string][]byte{
		"plain":       encode("PUBLIC KEY", spki, nil),
		"of generate": encode("PUBLIC KEY", spki, map[string]string{"role": "alice"}),
		"certificate": encode("CERTIFICATE", certificate(now.Add(time.Hour)), nil),
		"after text":  append([]byte("my key\n"), encode("PUBLIC KEY", spki, nil)...),
	} {
		if got, err := parsePublicKey(raw, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", name, got.Type, err)
		}
	}
	weak, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	small, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"no PEM": []byte("junk"), "empty": nil,
		"private key":         encode("EC PRIVATE KEY", spki, nil),
		"broken":              encode("PUBLIC KEY", spki[1:], nil),
		"broken certificate":  encode("CERTIFICATE", spki, nil),
		"expired certificate": encode("CERTIFICATE", certificate(now.Add(-time.Minute)), nil),
		"RSA of 1024 bits":    encode("PUBLIC KEY", weak, nil),
		"a weak point":        encode("PUBLIC KEY", small, nil),
	} {
		if _, err := parsePublicKey(raw, now); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := parsePublicKey(bytes.Repeat(encode("PUBLIC KEY", spki, nil), 2), now); err != nil {
		t.Errorf("two keys: %v, want the first", err)
	}
}

// Only signatures of keys that are still in the role keep a release alive, and
// a key that another signer has stays.
func TestRemovalOfSigner(t *testing.T) {
	t.Parallel()
	alice, bob := tuftest.Key("alice"), tuftest.Key("bob")
	add := func(role tuf.RoleName, keys ...tuf.Signer) tuf.Change {
		e := tuf.EditDelegation{Role: role, AddPaths: []string{""}}
		for _, k := range keys {
			e.AddKeys = append(e.AddKeys, k.PublicKey())
		}
		return e
	}
	set := func(t *testing.T, release bool, changes ...tuf.Change) *tuf.Set {
		t.Helper()
		repo := tuftest.New(t, "registry.example.com/app")
		ring := repo.Ring()
		ring.Add(alice)
		ring.Add(bob)
		if release {
			changes = append(changes, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1")})
		}
		d := repo.Draft(t)
		if err := d.Apply(changes...); err != nil {
			t.Fatal(err)
		}
		files, err := d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now()})
		if err != nil {
			t.Fatal(err)
		}
		repo.Serve(files...)
		return repo.Set(t)
	}
	id := func(s tuf.Signer) tuf.CanonicalID { return s.PublicKey().CanonicalID() }
	both := set(t, true, add("targets/alice", alice), add("targets/bob", bob), add(tuf.RoleReleases, alice, bob))
	shared := set(t, true, add("targets/alice", alice), add("targets/both", alice, bob), add(tuf.RoleReleases, alice, bob))
	alone := set(t, true, add("targets/alice", alice), add(tuf.RoleReleases, alice))
	empty := set(t, false, add("targets/alice", alice), add(tuf.RoleReleases, alice))
	for name, c := range map[string]struct {
		set    *tuf.Set
		signer tuf.RoleName
		only   []tuf.CanonicalID
		asks   bool
	}{
		"one of two":               {both, "targets/alice", []tuf.CanonicalID{id(alice)}, false},
		"the last":                 {alone, "targets/alice", []tuf.CanonicalID{id(alice)}, true},
		"the last, nothing signed": {empty, "targets/alice", []tuf.CanonicalID{id(alice)}, false},
		"all keys shared":          {shared, "targets/alice", nil, false},
		"one key shared":           {shared, "targets/both", []tuf.CanonicalID{id(bob)}, false},
	} {
		only := onlyKeys(c.set, c.signer)
		if d := cmp.Diff(c.only, only); d != "" {
			t.Errorf("%s: keys of nobody else:\n%s", name, d)
		}
		if got := needsAnswer(c.set, only); got != c.asks {
			t.Errorf("%s: asks %v, want %v", name, got, c.asks)
		}
	}
	if !needsAnswer(both, []tuf.CanonicalID{id(alice), id(bob)}) {
		t.Error("no question before both are removed")
	}
	if !slices.Equal(missingIn(alone, "targets/alice", []tuf.PublicKey{alice.PublicKey(), bob.PublicKey()})[0].Bytes, bob.PublicKey().Bytes) {
		t.Error("missingIn does not find the new key")
	}
}

// A tag that is signed as it was is not signed once it is something else: the
// user has seen another digest.
func TestAttackTagMovedWhileSigning(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, "registry.example.com/app")
	repo.Publish(t, tuf.AddTarget{Target: tuftest.Target("1")})
	shown, ok := released(repo.Set(t), "1")
	if !ok {
		t.Fatal("the tag is not released")
	}
	s := &signing{items: []*item{{ref: registry.Ref{Repository: "registry.example.com/app", Tag: "1"}, is: shown, again: true}}}
	asked := 0
	plan := s.steady(func(*tuf.Set) ([]tuf.Change, error) { asked++; return nil, nil })
	if _, err := plan(repo.Set(t)); err != nil || asked != 1 {
		t.Errorf("unchanged: %v", err)
	}
	other := tuftest.Target("2")
	other.Name = "1"
	repo.Publish(t, tuf.AddTarget{Target: other})
	if _, err := plan(repo.Set(t)); !errors.Is(err, errMoved) || asked != 1 {
		t.Errorf("another digest: %v, want errMoved", err)
	}
	repo.Publish(t, tuf.RemoveTarget{Name: "1"})
	if _, err := plan(repo.Set(t)); !errors.Is(err, errMoved) || asked != 1 {
		t.Errorf("revoked: %v, want errMoved", err)
	}
}
