package tuf_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

func sign(t *testing.T, repo *tuftest.Repo, d *tuf.Draft) []tuf.File {
	t.Helper()
	made, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()})
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	return made
}

func rolesOf(files []tuf.File) []tuf.RoleName {
	var out []tuf.RoleName
	for _, f := range files {
		out = append(out, f.Role)
	}
	return out
}

func apply(t *testing.T, d *tuf.Draft, changes ...tuf.Change) {
	t.Helper()
	if err := d.Apply(changes...); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// Each change makes exactly those files that follow from it, in order.
func TestChangesMakeFiles(t *testing.T) {
	t.Parallel()
	const root, targets, snapshot, timestamp, releases = tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp, tuf.RoleReleases
	key := tuftest.Key("another").PublicKey()
	for name, test := range map[string]struct {
		change tuf.Change
		want   []tuf.RoleName
	}{
		"a tag":                     {tuf.AddTarget{Target: tuftest.Target("1.1")}, []tuf.RoleName{targets, snapshot, timestamp}},
		"a tag of a delegation":     {tuf.AddTarget{Target: tuftest.TargetIn(releases, "1.1")}, []tuf.RoleName{releases, snapshot, timestamp}},
		"the same tag":              {tuf.AddTarget{Target: tuftest.TargetIn(releases, "1.0")}, nil},
		"removed":                   {tuf.RemoveTarget{Role: releases, Name: "1.0"}, []tuf.RoleName{releases, snapshot, timestamp}},
		"what is not there removed": {tuf.RemoveTarget{Name: "1.0"}, nil},
		"a delegation":              {tuf.EditDelegation{Role: "targets/b", AddKeys: []tuf.PublicKey{key}}, []tuf.RoleName{targets, snapshot, timestamp}},
		"a nested delegation":       {tuf.EditDelegation{Role: "targets/releases/b", AddKeys: []tuf.PublicKey{key}}, []tuf.RoleName{releases, snapshot, timestamp}},
		"nothing of a delegation":   {tuf.EditDelegation{Role: releases}, nil},
		"a key it has":              {tuf.EditDelegation{Role: releases, AddKeys: []tuf.PublicKey{tuftest.Key(string(releases)).PublicKey()}}, nil},
		"a path":                    {tuf.EditDelegation{Role: releases, AddPaths: []string{"x"}}, []tuf.RoleName{targets, snapshot, timestamp}},
		"a threshold":               {tuf.EditDelegation{Role: releases, Threshold: 2}, []tuf.RoleName{targets, snapshot, timestamp}},
		"removed delegation":        {tuf.RemoveDelegation{Name: releases}, []tuf.RoleName{targets, snapshot, timestamp}},
		"purge of a strange key":    {tuf.PurgeKeys{Keys: []tuf.CanonicalID{key.CanonicalID()}}, nil},
		"new targets key":           {tuf.ReplaceKeys{Role: tuf.NewRole(targets, 1, tuftest.Key(string(releases)).PublicKey())}, []tuf.RoleName{root, targets, snapshot, timestamp}},
		"new snapshot key":          {tuf.ReplaceKeys{Role: tuf.NewRole(snapshot, 1, tuftest.Key(string(releases)).PublicKey())}, []tuf.RoleName{root, snapshot, timestamp}},
		"new timestamp key":         {tuf.ReplaceKeys{Role: tuf.NewRole(timestamp, 1, tuftest.Key(string(releases)).PublicKey())}, []tuf.RoleName{root, snapshot, timestamp}},
		"witness":                   {tuf.Resign{Role: releases}, []tuf.RoleName{releases, snapshot, timestamp}},
		"witness root":              {tuf.Resign{Role: root}, []tuf.RoleName{root, snapshot, timestamp}},
		"witness snapshot":          {tuf.Resign{Role: snapshot}, []tuf.RoleName{snapshot, timestamp}},
		"witness timestamp":         {tuf.Resign{Role: timestamp}, []tuf.RoleName{timestamp}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := released(t)
			d := repo.Draft(t)
			apply(t, d, test.change)
			made := sign(t, repo, d)
			if got := rolesOf(made); !slices.Equal(got, test.want) {
				t.Fatalf("made %v, want %v", got, test.want)
			}
			past := repo.Trusted(t)
			for _, f := range made {
				if f.Version != past.Floor(f.Role)+1 {
					t.Errorf("%s has version %d, want the next after %d", f.Role, f.Version, past.Floor(f.Role))
				}
			}
			repo.Serve(made...)
			accepted(t, past, repo.Files(), repo.Now())
		})
	}
}

// A refused change leaves the draft as it was, whatever came before it in the
// same Apply.
// Changes of many targets at once come to the same as one by one.
func TestManyTargetsAtOnce(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Delegation("targets/releases", ""))
	repo.Tag(t, "b", "d", "f")
	changes := []tuf.Change{
		tuf.AddTarget{Target: tuftest.Target("e")}, tuf.RemoveTarget{Name: "d"}, tuf.AddTarget{Target: tuftest.Target("a")},
		tuf.RemoveTarget{Name: "e"}, tuf.RemoveTarget{Name: "none"}, tuf.AddTarget{Target: tuftest.Target("g")},
		tuf.AddTarget{Target: tuftest.TargetIn("targets/releases", "x")}, tuf.AddTarget{Target: tuftest.Target("c")},
	}
	tags := func(apply func(*tuf.Draft) error) (names []string) {
		t.Helper()
		repo := tuftest.New(t, gun, tuftest.Delegation("targets/releases", ""))
		repo.Tag(t, "b", "d", "f")
		d := repo.Draft(t)
		if err := apply(d); err != nil {
			t.Fatal(err)
		}
		files, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{Now: repo.Now()})
		if err != nil {
			t.Fatal(err)
		}
		repo.Serve(files...)
		s := repo.Set(t)
		for _, role := range []tuf.RoleName{tuf.RoleTargets, tuf.RoleReleases} {
			for target := range s.Targets(role) {
				names = append(names, string(role)+" "+target.Name)
			}
		}
		return names
	}
	got := tags(func(d *tuf.Draft) error { return d.Apply(changes...) })
	want := tags(func(d *tuf.Draft) error {
		for _, c := range changes {
			if err := d.Apply(c); err != nil {
				return err
			}
		}
		return nil
	})
	if !slices.Equal(got, want) || !slices.Equal(want, []string{"targets a", "targets b", "targets c", "targets f", "targets g", "targets/releases x"}) {
		t.Errorf("at once: %v, one by one: %v", got, want)
	}
	// All or none, also within a run.
	d := repo.Draft(t)
	bad := tuf.AddTarget{Target: tuftest.Target("")}
	if err := d.Apply(tuf.AddTarget{Target: tuftest.Target("new")}, bad); err == nil || len(d.Changed()) != 0 {
		t.Errorf("Apply with a bad change = %v, changed %v", err, d.Changed())
	}
}

func TestChangesRefused(t *testing.T) {
	t.Parallel()
	repo := released(t, tuftest.Delegation("targets/v", "v"))
	key := tuftest.Key("another").PublicKey()
	target := func(edit func(*tuf.Target)) tuf.Change {
		target := tuftest.Target("good")
		edit(&target)
		return tuf.AddTarget{Target: target}
	}
	for name, test := range map[string]struct {
		change tuf.Change
		want   error
	}{
		"no name":                 {target(func(t *tuf.Target) { t.Name = "" }), tuf.ErrMalformed},
		"control character":       {target(func(t *tuf.Target) { t.Name = "a\tb" }), tuf.ErrMalformed},
		"invalid UTF-8":           {target(func(t *tuf.Target) { t.Name = "a\xff" }), tuf.ErrMalformed},
		"negative length":         {target(func(t *tuf.Target) { t.Length = -1 }), tuf.ErrMalformed},
		"no hash":                 {target(func(t *tuf.Target) { t.Hashes = nil }), tuf.ErrMalformed},
		"short hash":              {target(func(t *tuf.Target) { t.Hashes = map[string][]byte{"sha256": {1}} }), tuf.ErrMalformed},
		"one good, one short":     {target(func(t *tuf.Target) { t.Hashes["sha512"] = []byte{1} }), tuf.ErrMalformed},
		"custom is no JSON":       {target(func(t *tuf.Target) { t.Custom = json.RawMessage("x") }), tuf.ErrMalformed},
		"custom is not canonical": {target(func(t *tuf.Target) { t.Custom = json.RawMessage(`{"b":1, "a":2}`) }), tuf.ErrMalformed},
		"length beyond readers":   {target(func(t *tuf.Target) { t.Length = 1<<53 + 1 }), tuf.ErrMalformed},
		"no delegation":           {tuf.AddTarget{Target: tuftest.TargetIn("targets/x", "a")}, tuf.ErrNoDelegation},
		"no role for targets":     {tuf.AddTarget{Target: tuftest.TargetIn("snapshot", "a")}, tuf.ErrRole},
		"root for targets":        {tuf.AddTarget{Target: tuftest.TargetIn("root", "a")}, tuf.ErrRole},
		"out of its paths":        {tuf.AddTarget{Target: tuftest.TargetIn("targets/v", "a")}, tuf.ErrRole},
		"removed from nowhere":    {tuf.RemoveTarget{Role: "targets/x", Name: "a"}, tuf.ErrNoDelegation},
		"removed from root":       {tuf.RemoveTarget{Role: "root", Name: "a"}, tuf.ErrRole},
		"it exists":               {tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{key}, MustCreate: true}, tuf.ErrRole},
		"no name of a role":       {tuf.EditDelegation{Role: "releases", AddKeys: []tuf.PublicKey{key}}, tuf.ErrRole},
		"no parent":               {tuf.EditDelegation{Role: "targets/x/y", AddKeys: []tuf.PublicKey{key}}, tuf.ErrNoDelegation},
		"path out of parent's":    {tuf.EditDelegation{Role: "targets/v/x", AddKeys: []tuf.PublicKey{key}, AddPaths: []string{"w"}}, tuf.ErrRole},
		"all paths of a parent":   {tuf.EditDelegation{Role: "targets/v/x", AddKeys: []tuf.PublicKey{key}, AddPaths: []string{""}}, tuf.ErrRole},
		"negative threshold":      {tuf.EditDelegation{Role: tuf.RoleReleases, Threshold: -1}, tuf.ErrRole},
		"nothing to remove":       {tuf.RemoveDelegation{Name: "targets/x"}, tuf.ErrNoDelegation},
		"remove targets":          {tuf.RemoveDelegation{Name: "targets"}, tuf.ErrNoDelegation},
		"witness nobody":          {tuf.Resign{Role: "targets/x"}, tuf.ErrNoDelegation},
		"K4 more than its keys":   {tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 2, key)}, tuf.ErrRole},
		"K3 threshold 0":          {tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 0, key)}, tuf.ErrRole},
		"K2 one key twice":        {tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 2, key, key)}, tuf.ErrRole},
		"K11 weak key":            {tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, tuf.PublicKey{Type: tuf.Ed25519})}, tuf.ErrKey},
		"R14 bare root key":       {tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleRoot, 1, key)}, tuf.ErrRole},
		"keys of a delegation":    {tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleReleases, 1, key)}, tuf.ErrRole},
	} {
		d := repo.Draft(t)
		if err := d.Apply(tuf.AddTarget{Target: tuftest.Target("before")}, test.change); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if got := d.Changed(); len(got) != 0 || len(d.Warnings()) != 0 {
			t.Errorf("%s: changed %v, warnings %v", name, got, d.Warnings())
		}
		if made := sign(t, repo, d); len(made) != 0 {
			t.Errorf("%s: %v were signed", name, rolesOf(made))
		}
	}
}

// Members that this package does not know survive an edit, nulls stay null,
// and the text of numbers stays.
func TestEditKeepsTheRest(t *testing.T) {
	t.Parallel()
	repo := released(t)
	files := repo.Forge(t, tuf.RoleTargets, func(p tuftest.Object) {
		p["unknown"] = tuftest.Object{"deep": []any{nil, true, 7, "<&>\u2028é"}}
		d := tuftest.At(p, "delegations")
		d["more"] = "x"
		role := d["roles"].([]any)[0].(tuftest.Object)
		role["terminating"], role["name_of_the_owner"] = true, "ä"
		d["roles"] = append(d["roles"].([]any), tuftest.Object{"name": "targets/lost", "keyids": nil, "threshold": 1})
		for _, k := range tuftest.At(d, "keys") {
			k.(tuftest.Object)["scheme"] = "ed25519"
		}
		tuftest.At(p, "targets")["kept"] = func() tuftest.Object {
			o := tuftest.Describe([]byte("kept"))
			o["custom"], o["mode"] = tuftest.Object{"z": []any{}, "a": nil}, "0644"
			return o
		}()
	})
	past := accepted(t, nil, files, repo.Now()).Past()
	was := tuftest.Payload(t, files.Current[tuf.RoleTargets])

	d := past.Draft()
	apply(t, d, tuf.AddTarget{Target: tuftest.Target("new")})
	now := tuftest.Payload(t, sign(t, repo, d)[0].Raw)
	if _, ok := tuftest.At(now, "targets")["new"]; !ok {
		t.Fatal("the target was not added")
	}
	delete(tuftest.At(now, "targets"), "new")
	for _, p := range []tuftest.Object{was, now} {
		delete(p, "version")
		delete(p, "expires")
	}
	if diff := cmp.Diff(was, now); diff != "" {
		t.Errorf("adding a target changed the rest (-was +now):\n%s", diff)
	}

	// An edit of a delegation keeps what it does not say.
	d = past.Draft()
	apply(t, d, tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{tuftest.Key("more").PublicKey()}},
		tuf.EditDelegation{Role: "targets/lost", AddPaths: []string{"p"}})
	roles := tuftest.At(tuftest.Payload(t, sign(t, repo, d)[0].Raw), "delegations")["roles"].([]any)
	first, lost := roles[0].(tuftest.Object), roles[1].(tuftest.Object)
	if first["terminating"] != true || first["name_of_the_owner"] != "ä" || len(first["keyids"].([]any)) != 2 {
		t.Errorf("the delegation became %v", first)
	}
	if keyids, ok := lost["keyids"]; !ok || keyids != nil {
		t.Errorf("null keyids became %v", keyids)
	}
}

// Two people's edits that were made apart both take effect (amendment 7).
func TestRebase(t *testing.T) {
	t.Parallel()
	repo := released(t)
	mine := []tuf.Change{
		tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{tuftest.Key("mine").PublicKey()}, AddPaths: []string{"m"}},
		tuf.AddTarget{Target: tuftest.Target("mine")},
	}
	first := repo.Draft(t)
	apply(t, first, mine...)
	repo.Publish(t,
		tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{tuftest.Key("theirs").PublicKey()}, RemovePaths: []string{""}, AddPaths: []string{"t", "m"}},
		tuf.AddTarget{Target: tuftest.Target("theirs")})
	repo.Publish(t, mine...)
	s := repo.Set(t)
	role, _ := s.Role(tuf.RoleReleases)
	if len(role.Keys) != 3 || !slices.Equal(role.Paths, []string{"t", "m"}) {
		t.Errorf("%d keys, paths %q; want 3 keys, paths t and m", len(role.Keys), role.Paths)
	}
	for _, name := range []string{"mine", "theirs"} {
		if _, err := s.Lookup(name); err != nil {
			t.Errorf("Lookup(%s): %v", name, err)
		}
	}
}

// What is missing is said: which keys, how many, for which role.
func TestMissingKeys(t *testing.T) {
	t.Parallel()
	repo := released(t, tuftest.Keys(tuf.RoleTargets, 3, 2))
	keys := repo.Signers(t, tuf.RoleTargets)
	try := func(ring tuf.Ring) ([]tuf.File, error) {
		d := repo.Draft(t)
		apply(t, d, tuf.AddTarget{Target: tuftest.Target("1.1")})
		return d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now()})
	}
	_, err := try(repo.Ring().Without(keys[0], keys[2]))
	want := &tuf.MissingKeys{Role: tuf.RoleTargets, Have: 1, Need: 2}
	for _, k := range keys {
		want.Keys = append(want.Keys, k.PublicKey().CanonicalID())
	}
	if diff := cmp.Diff(want, as[*tuf.MissingKeys](t, err)); diff != "" || !errors.Is(err, tuf.ErrNoKey) {
		t.Errorf("with one of three keys: %v (-want +got)\n%s", err, diff)
	}
	// Two are enough, and both sign; so do three.
	for n, ring := range map[int]tuf.Ring{2: repo.Ring().Without(keys[1]), 3: repo.Ring()} {
		made, err := try(ring)
		if err != nil {
			t.Fatal(err)
		}
		if got := signatures(t, made[0].Raw); len(got) != n {
			t.Errorf("%d signatures, want %d", len(got), n)
		}
	}
	// Without the server's keys, snapshot and timestamp are the server's.
	made, err := try(repo.Ring().Without(append(repo.Signers(t, tuf.RoleSnapshot), repo.Signers(t, tuf.RoleTimestamp)...)...))
	if err != nil || !slices.Equal(rolesOf(made), []tuf.RoleName{tuf.RoleTargets}) {
		t.Errorf("made %v (%v), want targets alone", rolesOf(made), err)
	}
	made, err = try(repo.Ring().Without(repo.Signers(t, tuf.RoleTimestamp)...))
	if err != nil || !slices.Equal(rolesOf(made), []tuf.RoleName{tuf.RoleTargets, tuf.RoleSnapshot}) {
		t.Errorf("made %v (%v), want targets and snapshot", rolesOf(made), err)
	}
}

func signatures(t *testing.T, raw []byte) []tuf.KeyID {
	t.Helper()
	var file struct{ Signatures []struct{ KeyID tuf.KeyID } }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	var out []tuf.KeyID
	for _, s := range file.Signatures {
		out = append(out, s.KeyID)
	}
	return out
}

// brokenRing holds a key that cannot be used.
type brokenRing struct {
	tuftest.Ring
	id  tuf.CanonicalID
	err error
}

func (r brokenRing) Signer(ctx context.Context, gun tuf.GUN, role tuf.RoleName, key tuf.PublicKey) (tuf.Signer, error) {
	if key.CanonicalID() == r.id {
		return nil, r.err
	}
	return r.Ring.Signer(ctx, gun, role, key)
}

// A key that is there and cannot be used is no missing key; if others are
// enough it is a warning, and Ctrl-C is never passed over.
func TestUnusableKey(t *testing.T) {
	t.Parallel()
	broken := errors.New("the token is locked")
	for _, n := range []int{1, 2} {
		repo := tuftest.New(t, gun, tuftest.Keys(tuf.RoleTargets, n, 1))
		id := repo.Role(t, tuf.RoleTargets).Keys[0].CanonicalID()
		try := func(err error) (*tuf.Draft, []tuf.File, error) {
			d := repo.Draft(t)
			apply(t, d, tuf.AddTarget{Target: tuftest.Target("1")})
			made, err := d.Sign(t.Context(), brokenRing{repo.Ring(), id, err}, tuf.SignOptions{Now: repo.Now()})
			return d, made, err
		}
		d, made, err := try(broken)
		if n == 1 && !errors.Is(err, broken) {
			t.Errorf("the only key: %v, want %v", err, broken)
		}
		if n == 2 && (err != nil || len(made) != 3 || len(d.Warnings()) != 1) {
			t.Errorf("one of two keys: %v, warnings %q", err, d.Warnings())
		}
		if _, _, err := try(context.Canceled); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}
}

// A signer whose signature does not verify is found out before anything is
// published.
func TestLyingSigner(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun)
	k := repo.Role(t, tuf.RoleTargets).Keys[0].PublicKey
	ring := repo.Ring()
	ring[k.CanonicalID()] = lent{k, tuftest.Key("liar")}
	d := repo.Draft(t)
	apply(t, d, tuf.AddTarget{Target: tuftest.Target("1")})
	if made, err := d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now()}); err == nil {
		t.Errorf("made %v with a signature that does not verify", rolesOf(made))
	}
}

// A rotated root is signed by the old keys' threshold and by the new keys'.
func TestRootRotationSignatures(t *testing.T) {
	t.Parallel()
	repo := tuftest.New(t, gun, tuftest.Keys(tuf.RoleRoot, 3, 2))
	old := repo.Signers(t, tuf.RoleRoot)
	a, b := tuftest.RootKey(t, gun, "a", repo.Now()), tuftest.RootKey(t, gun, "b", repo.Now())
	try := func(ring tuftest.Ring) ([]tuf.File, error) {
		ring.Add(a)
		ring.Add(b)
		d := repo.Draft(t)
		apply(t, d, tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleRoot, 2, a.PublicKey(), b.PublicKey())})
		return d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now()})
	}
	_, err := try(repo.Ring().Without(old[0], old[1]))
	if e := as[*tuf.MissingKeys](t, err); e.Have != 1 || e.Need != 2 || len(e.Keys) != 3 || e.Role != tuf.RoleRoot {
		t.Errorf("%+v", e)
	}
	made, err := try(repo.Ring().Without(old[1]))
	if err != nil {
		t.Fatal(err)
	}
	want := []tuf.KeyID{a.PublicKey().ID(), b.PublicKey().ID(), old[0].PublicKey().ID(), old[2].PublicKey().ID()}
	got := signatures(t, made[0].Raw)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("signed by %v, want %v", got, want)
	}
	// The certificates of the old root stay (notary-protocol 2.2).
	keys := tuftest.At(tuftest.Payload(t, made[0].Raw), "keys")
	for _, s := range old {
		if _, ok := keys[string(s.PublicKey().ID())]; !ok {
			t.Error("the certificate of an earlier root is gone")
		}
	}
}

// Versions that nobody kept are passed (SignOptions.Floor), lifetimes are as
// asked for.
func TestSignOptions(t *testing.T) {
	t.Parallel()
	repo := released(t)
	d := repo.Draft(t)
	apply(t, d, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "1.1")})
	made, err := d.Sign(t.Context(), repo.Ring(), tuf.SignOptions{
		Now:       repo.Now(),
		Floor:     map[tuf.RoleName]int64{tuf.RoleSnapshot: 40, tuf.RoleTimestamp: 1},
		Lifetimes: map[tuf.RoleName]time.Duration{tuf.RoleTargets: time.Hour, tuf.RoleSnapshot: 2 * time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		version int64
		life    time.Duration
	}{{2, time.Hour}, {41, 2 * time.Hour}, {3, 14 * 24 * time.Hour}} {
		m, err := tuf.Outline(made[i].Role, made[i].Raw, tuf.Options{})
		if err != nil || m.Version != want.version || m.Expires.Sub(repo.Now()) != want.life || made[i].Version != want.version {
			t.Errorf("%s: version %d, expires %v (%v); want %+v", made[i].Role, m.Version, m.Expires, err, want)
		}
	}
}

// PurgeKeys takes a key out of every delegation. A file that cannot be signed
// stays as it is, with a warning; but never at the cost of another edit.
func TestPurgeKeys(t *testing.T) {
	t.Parallel()
	lost := tuftest.Key("lost").PublicKey()
	ids := []tuf.CanonicalID{lost.CanonicalID()}
	add := func(role tuf.RoleName) tuf.Change {
		return tuf.EditDelegation{Role: role, AddKeys: []tuf.PublicKey{lost}}
	}
	fresh := func() *tuftest.Repo {
		return tuftest.New(t, gun, tuftest.Delegation("targets/a"), tuftest.Delegation("targets/a/b"), tuftest.Delegation("targets/c"),
			tuftest.Changes(add("targets/a"), add("targets/a/b"), add("targets/c")))
	}
	holds := func(repo *tuftest.Repo, role tuf.RoleName) bool {
		return slices.ContainsFunc(repo.Role(t, role).Keys, func(k tuf.Key) bool { return k.Equal(lost) })
	}
	repo := fresh()
	repo.Publish(t, tuf.PurgeKeys{Keys: ids})
	for _, role := range []tuf.RoleName{"targets/a", "targets/a/b", "targets/c"} {
		if holds(repo, role) {
			t.Errorf("%s holds the purged key", role)
		}
	}
	repo = fresh()
	repo.Publish(t, tuf.PurgeKeys{Under: "targets/a", Keys: ids})
	if holds(repo, "targets/a/b") || !holds(repo, "targets/a") || !holds(repo, "targets/c") {
		t.Error("a purge below targets/a reached further, or not far enough")
	}
	// The file of targets/a delegates to b, and its key is not at hand.
	for _, edits := range []struct {
		changes []tuf.Change
		fails   bool
	}{
		{[]tuf.Change{tuf.PurgeKeys{Keys: ids}}, false},
		{[]tuf.Change{tuf.PurgeKeys{Keys: ids}, tuf.PurgeKeys{Keys: ids}}, false},
		{[]tuf.Change{tuf.PurgeKeys{Keys: ids}, tuf.AddTarget{Target: tuftest.TargetIn("targets/a", "x")}}, true},
		{[]tuf.Change{tuf.AddTarget{Target: tuftest.TargetIn("targets/a", "x")}, tuf.PurgeKeys{Keys: ids}}, true},
		{[]tuf.Change{tuf.PurgeKeys{Keys: ids}, tuf.Resign{Role: "targets/a"}}, true},
	} {
		repo = fresh()
		d := repo.Draft(t)
		apply(t, d, edits.changes...)
		made, err := d.Sign(t.Context(), repo.Ring().Without(repo.Signers(t, "targets/a")...), tuf.SignOptions{Now: repo.Now()})
		if edits.fails {
			if e := as[*tuf.MissingKeys](t, err); e.Role != "targets/a" {
				t.Errorf("%v", e)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(d.Warnings(), func(w string) bool { return strings.Contains(w, "targets/a") }) {
			t.Errorf("warnings %q do not name targets/a", d.Warnings())
		}
		repo.Serve(made...)
		accepted(t, repo.Trusted(t), repo.Files(), repo.Now())
		if !holds(repo, "targets/a/b") || holds(repo, "targets/a") || holds(repo, "targets/c") {
			t.Error("what cannot be signed must stay, and the rest be purged")
		}
	}
}

// attacks.md D10: removing too many keys is a warning, before anything is
// published.
func TestBelowThresholdWarns(t *testing.T) {
	t.Parallel()
	repo := released(t)
	d := repo.Draft(t)
	key := repo.Role(t, tuf.RoleReleases).Keys[0]
	apply(t, d, tuf.EditDelegation{Role: tuf.RoleReleases, RemoveKeys: []tuf.CanonicalID{key.CanonicalID()}})
	if w := d.Warnings(); len(w) != 1 || !strings.Contains(w[0], string(tuf.RoleReleases)) {
		t.Errorf("warnings %q", w)
	}
	made := sign(t, repo, d)
	repo.Serve(made...)
	s := accepted(t, repo.Trusted(t), repo.Files(), repo.Now())
	if len(s.Unusable()) != 1 {
		t.Errorf("unusable %v", s.Unusable())
	}
	// A key no role lists any more is no longer in the file.
	if bytes.Contains(made[0].Raw, []byte(key.ID)) {
		t.Error("the removed key is still in the file")
	}
}

// A delegation that was removed and comes back begins above its old versions
// (amendment 17), and is empty.
func TestDelegationComesBack(t *testing.T) {
	t.Parallel()
	repo := released(t)
	past := repo.Trusted(t)
	key := repo.Role(t, tuf.RoleReleases).Keys[0].PublicKey
	d := past.Draft()
	apply(t, d, tuf.RemoveDelegation{Name: tuf.RoleReleases},
		tuf.EditDelegation{Role: tuf.RoleReleases, AddKeys: []tuf.PublicKey{key}, AddPaths: []string{""}},
		tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "2.0")})
	repo.Serve(sign(t, repo, d)...)
	s := accepted(t, past, repo.Files(), repo.Now())
	if i, _ := s.Info(tuf.RoleReleases); i.Version != 2 {
		t.Errorf("version %d, want 2", i.Version)
	}
	if _, err := s.Lookup("1.0", tuf.RoleReleases); !errors.Is(err, tuf.ErrNoTarget) {
		t.Errorf("an old target is back: %v", err)
	}
}
