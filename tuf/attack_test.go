package tuf_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// The attack tests follow the sections of attacks.md: root, keys, freshness,
// consistency, delegations, parsing, publishing. Each attack is tried on a
// consumer that has nothing and on one that trusts an earlier state, as far as
// it concerns both.

const gun = tuf.GUN("registry.example/team/app")

// An attack is what a consumer is served, and how the refusal must look.
type attack struct {
	repo   *tuftest.Repo
	files  tuftest.Files
	past   *tuf.Past      // nil: a consumer that has nothing
	pin    tuf.Pin        // nil: first use
	now    time.Time      // zero: the repository's
	lim    tuf.Limits     // zero: the defaults
	want   error          // the sentinel
	role   tuf.RoleName   // that is refused, "" for any
	keeps  []tuf.RoleName // what may be remembered all the same
	repair func()         // makes the honest state newer than the attack's; nil: publish
}

func (a attack) options() tuf.Options {
	o := tuf.Options{Pin: a.pin, Now: a.now, Limits: a.lim}
	if o.Now.IsZero() {
		o.Now = a.repo.Now()
	}
	return o
}

// refused runs the attack and asserts the sentinel, that nothing may be
// remembered but what is named, that what was trusted is untouched, and that
// the next honest update works. It returns the error.
func (a attack) refused(t *testing.T) error {
	t.Helper()
	var before []tuf.File
	if a.past != nil {
		before = cloneFiles(a.past.Files())
	}
	u, s, err := tuftest.WalkWith(a.past, a.files, a.options())
	if s != nil || !errors.Is(err, a.want) {
		t.Errorf("the attack was answered by %v, want %v", err, a.want)
		return err
	}
	var refusal *tuf.RoleError
	if !errors.As(err, &refusal) || refusal.GUN != a.files.GUN || a.role != "" && refusal.Role != a.role {
		t.Errorf("the refusal is %#v, want one of %s", err, a.role)
	}
	if _, err := u.Set(); err == nil {
		t.Error("Set after the refusal gave a state")
	}
	var keeps []tuf.RoleName
	for _, f := range u.Verified() {
		keeps = append(keeps, f.Role)
	}
	if !slices.Equal(keeps, a.keeps) {
		t.Errorf("after the refusal %v may be remembered, want %v", keeps, a.keeps)
	}
	if a.past != nil && !slices.EqualFunc(before, a.past.Files(), sameFile) {
		t.Error("the attack changed what was trusted")
	}
	// What was verified may be saved; the honest update must then work from
	// there, and from what was there before (attacks.md F8).
	if a.repair != nil {
		a.repair()
	} else {
		for range 3 {
			a.repo.Publish(t)
		}
	}
	honest := tuf.Options{Now: a.repo.Now()}
	if _, _, err := tuftest.WalkWith(a.past, a.repo.Files(), honest); err != nil {
		t.Errorf("the honest update after the attack: %v", err)
	}
	if p := merge(t, a.past, u.Verified(), honest); p != nil {
		if _, _, err := tuftest.WalkWith(p, a.repo.Files(), honest); err != nil {
			t.Errorf("the honest update after the attack, with what was verified: %v", err)
		}
	}
	return err
}

// merge is a consumer's disk after an update that failed.
func merge(t *testing.T, past *tuf.Past, verified []tuf.File, o tuf.Options) *tuf.Past {
	t.Helper()
	var files []tuf.File
	if past != nil {
		files = past.Files()
	}
	for _, f := range verified {
		files = slices.DeleteFunc(files, func(g tuf.File) bool { return g.Role == f.Role })
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil
	}
	p, err := tuf.Recall(gun, files, o)
	if err != nil {
		t.Errorf("Recall of what was verified: %v", err)
	}
	return p
}

func cloneFiles(files []tuf.File) []tuf.File {
	out := slices.Clone(files)
	for i := range out {
		out[i].Raw = bytes.Clone(out[i].Raw)
	}
	return out
}

func sameFile(a, b tuf.File) bool {
	return a.Role == b.Role && a.Version == b.Version && bytes.Equal(a.Raw, b.Raw)
}

// accepted asserts that files are accepted.
func accepted(t *testing.T, past *tuf.Past, files tuftest.Files, now time.Time) *tuf.Set {
	t.Helper()
	s, err := tuftest.Walk(past, files, now)
	if err != nil {
		t.Fatalf("Walk: %v", err)
	}
	return s
}

// as returns the detail of type T inside err.
func as[T error](t *testing.T, err error) T {
	t.Helper()
	var e T
	if !errors.As(err, &e) {
		t.Fatalf("%#v holds no %T", err, e)
	}
	return e
}

func rootReason(t *testing.T, err error, want tuf.RootReason) *tuf.RootRefusal {
	t.Helper()
	e := as[*tuf.RootRefusal](t, err)
	if e.Reason != want {
		t.Errorf("root refused by reason %d (%v), want %d", e.Reason, e, want)
	}
	return e
}

// signer returns the one signer of a role.
func signer(t *testing.T, r *tuftest.Repo, role tuf.RoleName) tuf.Signer {
	t.Helper()
	return r.Signers(t, role)[0]
}
