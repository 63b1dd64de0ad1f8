package tuf_test

import (
	"errors"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A server, which has the keys of snapshot and timestamp, serves a delegation's
// file that nobody signed. It does not count; and who adds a target to it must
// not vouch for the rest of it either.
func TestAttackUnsignedFileAddedTo(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	files := repo.Forge(t, tuf.RoleReleases, func(p tuftest.Object) {
		targets := tuftest.At(p, "targets")
		targets["evil"] = targets["1.0"]
	}, tuftest.Unsigned...)
	s, err := tuftest.Walk(past, files, repo.Now())
	if err != nil || len(s.Unusable()) != 1 {
		t.Fatalf("an unsigned delegation: %v, want one that does not count", err)
	}
	d := s.Draft()
	apply(t, d, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "2.0")})
	repo.Serve(sign(t, repo, d)...)
	s = accepted(t, past, repo.Files(), repo.Now())
	if _, err := s.Lookup("2.0", tuf.RoleReleases); err != nil {
		t.Errorf("what was added: %v", err)
	}
	for _, name := range []string{"evil", "1.0"} {
		if _, err := s.Lookup(name, tuf.RoleReleases); !errors.Is(err, tuf.ErrNoTarget) {
			t.Errorf("Lookup(%s) = %v, want ErrNoTarget", name, err)
		}
	}
}

// After the keys of a delegation were replaced, a target that its file lists
// already is signed when it is added, although the file stays as it is.
func TestSameTargetInUnsignedFile(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Role(t, tuf.RoleReleases).Keys[0]
	key := tuftest.Key("another")
	d := repo.Draft(t)
	apply(t, d, tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{key.PublicKey()}, RemoveKeys: []tuf.CanonicalID{old.CanonicalID()}})
	repo.Serve(sign(t, repo, d)...)
	ring := repo.Ring()
	ring.Add(key)
	d = repo.Draft(t)
	apply(t, d, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.0")})
	made, err := d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now()})
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	repo.Serve(made...)
	s := accepted(t, repo.Trusted(t), repo.Files(), repo.Now())
	if _, err := s.Lookup("1.0", tuf.RoleReleases); err != nil || len(s.Unusable()) != 0 {
		t.Errorf("Lookup = %v, unusable %v", err, s.Unusable())
	}
}

// The same with a file that has expired.
func TestSameTargetInExpiredFile(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	files := repo.Forge(t, tuf.RoleReleases, func(p tuftest.Object) { p["expires"] = repo.Now().Add(-1).Format(time.RFC3339Nano) })
	d := accepted(t, past, files, repo.Now()).Draft()
	apply(t, d, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.0")})
	repo.Serve(sign(t, repo, d)...)
	s := accepted(t, past, repo.Files(), repo.Now())
	if _, err := s.Lookup("1.0", tuf.RoleReleases); err != nil || len(s.Unusable()) != 0 {
		t.Errorf("Lookup = %v, unusable %v", err, s.Unusable())
	}
}
