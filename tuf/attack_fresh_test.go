package tuf_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func rolledBack(t *testing.T, err error, offered, seen int64) {
	t.Helper()
	if e := as[*tuf.Rollback](t, err); *e != (tuf.Rollback{Offered: offered, Seen: seen}) {
		t.Errorf("rolled back from %d to %d, want from %d to %d", e.Seen, e.Offered, seen, offered)
	}
}

// attacks.md F1, F15: a mirror that serves an older state.
func TestAttackTimestampRollback(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Files()
	repo.Tag(t, "1.1")
	repo.Tag(t, "1.2")
	err := attack{repo: repo, files: old, past: repo.Trusted(t), want: tuf.ErrRollback, role: tuf.RoleTimestamp}.refused(t)
	rolledBack(t, err, 2, 4)
}

// attacks.md F2: of two timestamps of one version, the first one counts.
func TestAttackTimestampChangesUnderItsVersion(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	was, _ := past.Info(tuf.RoleTimestamp)
	evil := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) { p["targets"] = tuftest.Object{} })
	raw := tuftest.Reseal(t, evil.Current[tuf.RoleTimestamp], func(p tuftest.Object) { p["version"] = was.Version }, repo.Signers(t, tuf.RoleTimestamp)...)
	s := accepted(t, past, repo.Swap(t, map[tuf.RoleName][]byte{
		tuf.RoleTargets: evil.Current[tuf.RoleTargets], tuf.RoleSnapshot: evil.Current[tuf.RoleSnapshot], tuf.RoleTimestamp: raw,
	}), repo.Now())
	for _, f := range s.Files() {
		if !bytes.Equal(f.Raw, repo.Files().Current[f.Role]) {
			t.Errorf("%s is not the file that was trusted", f.Role)
		}
	}
	repo.Publish(t)
	accepted(t, past, repo.Files(), repo.Now())
}

// attacks.md F4, F3: a new timestamp names an older snapshot.
func TestAttackSnapshotRollback(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Files()
	repo.Tag(t, "1.1")
	now := repo.Files()
	files := repo.Swap(t, map[tuf.RoleName][]byte{
		tuf.RoleSnapshot: old.Current[tuf.RoleSnapshot], tuf.RoleTargets: old.Current[tuf.RoleTargets],
	})
	err := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRollback, role: tuf.RoleSnapshot, keeps: timestampOnly}.refused(t)
	rolledBack(t, err, 2, 3)

	// Without a local snapshot the version of targets still tells
	// (attacks.md F3, W1).
	past, err := tuf.Recall(gun, []tuf.File{
		{Role: tuf.RoleRoot, Raw: now.Current[tuf.RoleRoot]},
		{Role: tuf.RoleTimestamp, Raw: now.Current[tuf.RoleTimestamp]},
		{Role: tuf.RoleTargets, Raw: now.Current[tuf.RoleTargets]},
	}, tuf.Options{Now: repo.Now()})
	if err != nil {
		t.Fatal(err)
	}
	err = attack{
		repo: repo, files: files, past: past, want: tuf.ErrRollback, role: tuf.RoleTargets,
		keeps: []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot},
	}.refused(t)
	rolledBack(t, err, 1, 2)
}

// attacks.md F5, F11, W1: a new snapshot lists an older targets or delegation.
func TestAttackTargetsRollback(t *testing.T) {
	t.Parallel()
	for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleReleases} {
		repo := released(t)
		old := repo.Files().Current[role]
		repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn(role, "1.1")})
		files := repo.Swap(t, map[tuf.RoleName][]byte{role: old})
		err := attack{repo: repo, files: files, past: repo.Trusted(t), want: tuf.ErrRollback, role: role, keeps: beforeIn(role)}.refused(t)
		rolledBack(t, err, 1, 2)
	}
}

func unlist(role tuf.RoleName) func(tuftest.Object) {
	return func(p tuftest.Object) { delete(tuftest.At(p, "meta"), string(role)) }
}

// attacks.md F6: a snapshot hides a role that it listed before.
func TestAttackSnapshotHidesRole(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	err := attack{
		repo: repo, files: repo.Forge(t, tuf.RoleSnapshot, unlist(tuf.RoleReleases)), past: past,
		want: tuf.ErrRollback, role: tuf.RoleReleases, keeps: []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot},
	}.refused(t)
	rolledBack(t, err, 0, 1)
	attack{
		repo: repo, files: repo.Forge(t, tuf.RoleSnapshot, unlist(tuf.RoleTargets)), past: past,
		want: tuf.ErrMalformed, role: tuf.RoleSnapshot, keeps: timestampOnly,
	}.refused(t)

	// A new snapshot key has listed nothing before.
	repo.RotateKey(t, tuf.RoleSnapshot)
	s := accepted(t, past, repo.Forge(t, tuf.RoleSnapshot, unlist(tuf.RoleReleases)), repo.Now())
	if _, ok := s.Info(tuf.RoleReleases); ok {
		t.Error("a role that is not listed counts")
	}
	// Nor is a role hidden that nothing delegates to any more.
	repo.Publish(t, tuf.RemoveDelegation{Name: tuf.RoleReleases})
	accepted(t, repo.Trusted(t), repo.Files(), repo.Now())
}

// attacks.md F9: freeze. Each role expires.
func TestAttackFreeze(t *testing.T) {
	t.Parallel()
	for _, role := range signedRoles[:3] {
		repo := released(t, tuftest.Lifetime(role, 2*time.Hour))
		repo.Advance(time.Hour)
		past := repo.Trusted(t)
		repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets})
		repo.Advance(2*time.Hour + 1)
		a := attack{
			repo: repo, files: repo.Files(), past: past, want: tuf.ErrExpired, role: role, keeps: beforeIn(role),
			repair: func() { repo.Serve(resigned(t, repo)...) },
		}
		if role != tuf.RoleTimestamp {
			// The timestamp is renewed; the role has expired all the same.
			a.files = repo.Swap(t, map[tuf.RoleName][]byte{})
		}
		e := as[*tuf.Expired](t, a.refused(t))
		if want := tuftest.Start.Add(3 * time.Hour); !e.At.Equal(want) {
			t.Errorf("%s expired at %v, want %v", role, e.At, want)
		}
	}
}

// resigned makes new targets, snapshot and timestamp on top of what is served,
// whether expired or not.
func resigned(t *testing.T, repo *tuftest.Repo) []tuf.File {
	t.Helper()
	d := repo.Draft(t)
	if err := d.Apply(tuf.Resign{Role: tuf.RoleTargets}, tuf.Resign{Role: tuf.RoleSnapshot}); err != nil {
		t.Fatal(err)
	}
	files, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now(), Floor: map[tuf.RoleName]int64{tuf.RoleTimestamp: 50, tuf.RoleSnapshot: 50}})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The exact moment of expiry is still within the life: expires < now.
func TestExpiryHasNoLeeway(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	end := repo.Now().Add(24 * time.Hour)
	accepted(t, nil, repo.Files(), end)
	if _, err := tuftest.Walk(nil, repo.Files(), end.Add(1)); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("a nanosecond later: %v, want ErrExpired", err)
	}
}

// attacks.md F10: the local timestamp has expired. A newer one is taken; the
// old one still tells what has been seen.
func TestExpiredLocalTimestamp(t *testing.T) {
	t.Parallel()
	repo := released(t)
	repo.Tag(t, "1.1")
	past := repo.Trusted(t)
	repo.Advance(48 * time.Hour)
	older := tuftest.Reseal(t, repo.Files().Current[tuf.RoleTimestamp], func(p tuftest.Object) {
		p["version"] = 1
		p["expires"] = repo.Now().Add(time.Hour).Format(time.RFC3339)
	}, repo.Signers(t, tuf.RoleTimestamp)...)
	repo.Publish(t)
	err := attack{repo: repo, files: repo.Files().With(tuf.RoleTimestamp, older), past: past, want: tuf.ErrRollback, role: tuf.RoleTimestamp}.refused(t)
	rolledBack(t, err, 1, 3)
	accepted(t, past, repo.Files(), repo.Now())
}

// attacks.md F11: a delegation that has expired does not count, and the rest
// of the repository does.
func TestAttackExpiredDelegation(t *testing.T) {
	t.Parallel()
	repo := released(t, tuftest.Delegation("targets/releases/nightly"))
	repo.Publish(t, tuf.AddTarget{Target: tuftest.TargetIn("targets/releases/nightly", "2.0")})
	past := repo.Trusted(t)
	files := repo.Forge(t, tuf.RoleReleases, func(p tuftest.Object) { p["expires"] = repo.Now().Add(-1).Format(time.RFC3339Nano) })
	s := accepted(t, past, files, repo.Now())
	if len(s.Unusable()) != 1 || s.Unusable()[0].Role != tuf.RoleReleases || !errors.Is(s.Unusable()[0].Err, tuf.ErrExpired) {
		t.Fatalf("unusable are %v", s.Unusable())
	}
	for _, name := range []string{"1.0", "2.0"} {
		if _, err := s.LookupTree(name); !errors.Is(err, tuf.ErrNoTarget) {
			t.Errorf("LookupTree(%s) = %v, want ErrNoTarget", name, err)
		}
	}
	// It is kept, so that it can be signed again ("witness").
	d := s.Draft()
	if err := d.Apply(tuf.Resign{Role: tuf.RoleReleases}); err != nil {
		t.Fatal(err)
	}
	made, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()})
	if err != nil {
		t.Fatal(err)
	}
	repo.Serve(made...)
	s = accepted(t, s.Past(), repo.Files(), repo.Now())
	if _, err := s.Lookup("1.0", tuf.RoleReleases); err != nil || len(s.Unusable()) != 0 {
		t.Errorf("after witness: %v, unusable %v", err, s.Unusable())
	}
}

// attacks.md F12: a stolen key signs the highest version there is. A rotation
// of the keys that vouch for it recovers; nothing less does.
func TestAttackFastForward(t *testing.T) {
	t.Parallel()
	const highest = 1 << 53
	for _, c := range []struct{ role, rotate tuf.RoleName }{
		{tuf.RoleTimestamp, tuf.RoleTimestamp},
		{tuf.RoleSnapshot, tuf.RoleSnapshot},
		{tuf.RoleTargets, tuf.RoleSnapshot},
		{tuf.RoleTargets, tuf.RoleTargets},
		{tuf.RoleReleases, tuf.RoleSnapshot},
	} {
		role, rotate := c.role, c.rotate
		repo := released(t)
		forward := repo.Forge(t, role, func(p tuftest.Object) { p["version"] = int64(highest) })
		s := accepted(t, repo.Trusted(t), forward, repo.Now())
		past, err := tuf.Recall(gun, s.Files(), tuf.Options{Now: repo.Now()})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets})
		}
		_, err = tuftest.Walk(past, repo.Files(), repo.Now())
		if !errors.Is(err, tuf.ErrRollback) {
			t.Errorf("%s without rotation: %v, want ErrRollback", role, err)
		}
		repo.RotateKey(t, rotate)
		if _, err := tuftest.Walk(past, repo.Files(), repo.Now()); err != nil {
			t.Errorf("%s after a rotation of the %s key: %v", role, rotate, err)
		}
		// Nor do we ever sign beyond what readers understand.
		d := s.Draft()
		if err := d.Apply(tuf.Resign{Role: role}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()}); !errors.Is(err, tuf.ErrMalformed) {
			t.Errorf("signing %s above 2^53: %v, want ErrMalformed", role, err)
		}
	}
}

// attacks.md F14: the clock is set back. Expiry cannot tell; versions do.
func TestAttackClockSetBack(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Files()
	repo.Advance(100 * time.Hour)
	repo.Publish(t)
	past := repo.Trusted(t)
	attack{repo: repo, files: old, past: past, now: tuftest.Start, want: tuf.ErrRollback, role: tuf.RoleTimestamp}.refused(t)
	// Before the root certificate was made, nothing is right.
	_, _, err := tuftest.WalkWith(past, repo.Files(), tuf.Options{Now: tuftest.Start.Add(-25 * time.Hour)})
	rootReason(t, err, tuf.NoLeaf)
}

// attacks.md F8, R6: what was refused is nowhere remembered, and after a
// partial save the next update succeeds.
func TestAttackPartialSave(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	repo.Tag(t, "1.1")
	good := repo.Files()
	bad := tuftest.Signatures(t, good.Current[tuf.RoleTargets], func([]tuftest.Object) []tuftest.Object { return nil })
	files := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleTargets: bad})
	u, _, err := tuftest.WalkWith(past, files, tuf.Options{Now: repo.Now()})
	if !errors.Is(err, tuf.ErrUnsigned) {
		t.Fatal(err)
	}
	for _, f := range u.Verified() {
		if bytes.Equal(f.Raw, bad) {
			t.Error("the refused file may be remembered")
		}
	}
}

// Notary writes its files one by one: a new timestamp beside old targets is an
// ordinary cache (amendment 5).
func TestPartialPast(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Files()
	repo.Tag(t, "1.1")
	now := repo.Files()
	file := func(f tuftest.Files, role tuf.RoleName) tuf.File { return tuf.File{Role: role, Raw: f.Current[role]} }
	for name, files := range map[string][]tuf.File{
		"root alone":                      {file(old, tuf.RoleRoot)},
		"root and targets, as after init": {file(old, tuf.RoleRoot), file(old, tuf.RoleTargets)},
		"new timestamp, old targets":      {file(old, tuf.RoleRoot), file(now, tuf.RoleTimestamp), file(old, tuf.RoleSnapshot), file(old, tuf.RoleTargets)},
		"damaged targets":                 {file(old, tuf.RoleRoot), file(now, tuf.RoleTimestamp), {Role: tuf.RoleTargets, Raw: []byte("{")}},
		"a delegation without its parent": {file(old, tuf.RoleRoot), file(old, tuf.RoleReleases)},
		"a file of no known role":         {file(old, tuf.RoleRoot), {Role: "targets/../x", Raw: []byte("{}")}},
	} {
		p, err := tuf.Recall(gun, files, tuf.Options{Now: repo.Now()})
		if err != nil {
			t.Errorf("Recall of %s: %v", name, err)
			continue
		}
		accepted(t, p, now, repo.Now())
		if len(p.Files()) != len(files) {
			t.Errorf("%s: %d files remembered, want %d", name, len(p.Files()), len(files))
		}
	}
	p, err := tuf.Recall(gun, []tuf.File{file(now, tuf.RoleRoot), file(now, tuf.RoleTimestamp), file(old, tuf.RoleTargets)}, tuf.Options{Now: repo.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if p.Floor(tuf.RoleTimestamp) != 3 || p.Floor(tuf.RoleTargets) != 1 || p.Floor(tuf.RoleSnapshot) != 0 {
		t.Errorf("floors %d, %d, %d", p.Floor(tuf.RoleTimestamp), p.Floor(tuf.RoleTargets), p.Floor(tuf.RoleSnapshot))
	}
	if _, err := tuf.Recall(gun, []tuf.File{file(now, tuf.RoleTargets)}, tuf.Options{Now: repo.Now()}); !errors.Is(err, tuf.ErrIncomplete) {
		t.Errorf("Recall without a root: %v, want ErrIncomplete", err)
	}
	// attacks.md N6: the cache of another repository.
	_, err = tuf.Recall(gun+"2", []tuf.File{file(now, tuf.RoleRoot)}, tuf.Options{Now: repo.Now()})
	rootReason(t, err, tuf.NoLeaf)
}

// attacks.md F8: a file on disk that nobody signed says nothing about what has
// been seen, and so cannot block what comes.
func TestAttackUnsignedFileOnDisk(t *testing.T) {
	t.Parallel()
	repo := released(t)
	for _, role := range signedRoles {
		forged := repo.Forge(t, role, func(p tuftest.Object) { p["version"] = 1 << 50 }, tuftest.Unsigned...).Current[role]
		var disk []tuf.File
		for name, raw := range repo.Files().Current {
			if name == role {
				raw = forged
			}
			disk = append(disk, tuf.File{Role: name, Raw: raw})
		}
		p, err := tuf.Recall(gun, disk, tuf.Options{Now: repo.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Floor(role); got != 0 {
			t.Errorf("%s: floor %d of a file that nobody signed", role, got)
		}
		accepted(t, p, repo.Files(), repo.Now())
	}
}

// attacks.md F5, F11: a delegation's file that nobody signed does not count,
// and must not take the place of the one that was seen: that one's version is
// the floor. The server has the keys of snapshot and timestamp here.
func TestAttackUnsignedFileHidesFloor(t *testing.T) {
	t.Parallel()
	repo := released(t)
	old := repo.Files().Current[tuf.RoleReleases]
	repo.Publish(t, tuf.Resign{Role: tuf.RoleReleases})
	past := repo.Trusted(t)
	o := tuf.Options{Now: repo.Now()}
	u, s, err := tuftest.WalkWith(past, repo.Forge(t, tuf.RoleReleases, nil, tuftest.Unsigned...), o)
	if err != nil || len(s.Unusable()) != 1 {
		t.Fatalf("an unsigned delegation: %v, want one that does not count", err)
	}
	for range 2 {
		repo.Publish(t, tuf.Resign{Role: tuf.RoleTargets})
	}
	back := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleReleases: old})
	for name, p := range map[string]*tuf.Past{"at once": s.Past(), "from the disk": merge(t, past, u.Verified(), o)} {
		if _, err := tuftest.Walk(p, back, repo.Now()); !errors.Is(err, tuf.ErrRollback) {
			t.Errorf("an older file after the unsigned one, %s: %v, want ErrRollback", name, err)
		}
		if _, err := tuftest.Walk(p, repo.Files(), repo.Now()); err != nil {
			t.Errorf("the honest state after the attack, %s: %v", name, err)
		}
	}
}

// attacks.md F5, F12: a machine that dies when it has kept a new root, and
// nothing of the state below it, remembers which versions of delegations it had
// seen, although the keys of targets, which delegate, are others now. Found by
// the model (seed 356756271).
func TestAttackRollbackAfterInterruptedRotation(t *testing.T) {
	t.Parallel()
	for rotate, want := range map[tuf.RoleName]error{
		tuf.RoleTargets:  tuf.ErrRollback,
		tuf.RoleSnapshot: nil, // which recovers from a fast-forward, interrupted or not
	} {
		repo := released(t)
		old := repo.Files().Current[tuf.RoleReleases]
		repo.Publish(t, tuf.Resign{Role: tuf.RoleReleases})
		before := repo.Trusted(t).Files()
		repo.RotateKey(t, tuf.RoleTargets)
		if rotate != tuf.RoleTargets {
			repo.RotateKey(t, rotate)
		}
		disk := []tuf.File{{Role: tuf.RoleRoot, Raw: repo.Files().Current[tuf.RoleRoot]}}
		for _, f := range before {
			if f.Role != tuf.RoleRoot {
				disk = append(disk, f)
			}
		}
		past, err := tuf.Recall(gun, disk, tuf.Options{Now: repo.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if got := past.Floor(tuf.RoleTargets); got != 0 {
			t.Errorf("%s: floor %d of targets that the root's keys did not sign", rotate, got)
		}
		back := repo.Swap(t, map[tuf.RoleName][]byte{tuf.RoleReleases: old})
		if _, err := tuftest.Walk(past, back, repo.Now()); !errors.Is(err, want) {
			t.Errorf("an older delegation after a rotation of the %s key that was interrupted: %v, want %v", rotate, err, want)
		}
		if _, err := tuftest.Walk(past, repo.Files(), repo.Now()); err != nil {
			t.Errorf("the honest state after a rotation of the %s key that was interrupted: %v", rotate, err)
		}
	}
}
