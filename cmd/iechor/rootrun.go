package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A rootRun changes the keys of the root in repositories, one after the other.
// It can be interrupted at any moment, and what it failed with can be cured:
// run again, it goes on with the same key where it has not been.
type rootRun struct {
	*desk
	what      string           // for the journal: "rotate", "spare"
	of        tuf.CanonicalID  // the root key whose repositories are meant
	given     tuf.CanonicalID  // the key to add; empty: one is made
	algorithm keys.Algorithm   // of the one that is made
	adds      bool             // a key comes
	removes   bool             // the key of goes
	refs      []registry.Ref   // empty: all of the root key that this machine knows
	again     string           // the command that goes on
	ask       func(int) string // the question before the work; nil: none
	yes, dry  bool

	intent trust.Intent
}

// run shows what will be done, asks, and does it.
func (r *rootRun) run(ctx context.Context) error {
	dir := r.trustDir()
	intent, err := dir.Intent(r.what, r.of)
	if err != nil {
		return err
	}
	if intent.New != "" {
		has, err := r.keys.Has(ctx, intent.New)
		if err != nil {
			return err
		}
		if has && r.given != "" && r.given != intent.New {
			return cannot(fmt.Sprintf("this was begun with the root key %s, which some repositories may have by now", intent.New.Short()), "finish that first: "+r.again)
		}
		if !has {
			intent.New = ""
		}
	}
	if r.given != "" {
		intent.New = r.given
	}
	r.intent = intent
	due, done, failed, err := r.survey(ctx)
	if err != nil {
		return err
	}
	if err := r.announce(ctx, due, done); err != nil || r.dry {
		return err
	}
	if len(due) == 0 && len(failed) == 0 {
		fmt.Fprintln(r.out, "There is nothing to do: no repository that this machine knows needs it")
		return r.end(dir)
	}
	if r.ask != nil && len(due) > 0 {
		if ok, err := r.sure(ctx, r.ask(len(due)), r.yes); err != nil || !ok {
			return err
		}
	}
	if r.adds && r.intent.New == "" && len(due) > 0 {
		if err := r.makeKey(ctx, dir); err != nil {
			return err
		}
	}
	for n, repo := range due {
		err := r.edit(ctx, repo)
		switch {
		case err == nil:
			fmt.Fprintf(r.out, "[%d/%d] %s: %s\n", n+1, len(due), repo.GUN(), r.did())
			continue
		case ctx.Err() != nil, errors.Is(err, context.Canceled), errors.Is(err, terminal.ErrInterrupted):
			return err
		}
		r.complain(err)
		fmt.Fprintf(r.out, "[%d/%d] %s: failed\n", n+1, len(due), repo.GUN())
		failed = append(failed, string(repo.GUN()))
	}
	if len(failed) > 0 {
		return cannot(fmt.Sprintf("%s could not be changed: %s", count(len(failed), "repository"), strings.Join(failed, ", ")),
			"when what is said above is cured, go on where it ended: "+r.again)
	}
	return r.end(dir)
}

func (r *rootRun) end(dir *trust.Dir) error {
	if r.adds && r.intent.New != "" {
		return dir.End(r.intent)
	}
	return nil
}

func (r *rootRun) did() string {
	switch {
	case r.adds && r.removes:
		return "the root key is now " + r.intent.New.Short()
	case r.adds:
		return "the root key " + r.intent.New.Short() + " was added"
	}
	return "the root key " + r.of.Short() + " was removed"
}

// survey finds the repositories that are to be changed. Those that cannot be
// looked at have failed already.
func (r *rootRun) survey(ctx context.Context) (due []*repository, done, failed []string, err error) {
	refs := r.refs
	if len(refs) == 0 {
		if refs, err = r.owned(ctx); err != nil {
			return nil, nil, nil, err
		}
	}
	for _, ref := range refs {
		repo, err := r.repository(ref)
		if err != nil {
			return nil, nil, nil, err
		}
		if past, err := repo.Local(); len(r.refs) == 0 && err == nil && past != nil {
			role, _ := past.Role(tuf.RoleRoot) // every Past has one
			if !holdsKey(role.Keys, r.of) && (r.intent.New == "" || !holdsKey(role.Keys, r.intent.New)) {
				continue // of another owner
			}
		}
		set, err := r.current(ctx, repo)
		switch {
		case errors.Is(err, trust.ErrNotSigned):
			if len(r.refs) > 0 {
				return nil, nil, nil, repo.about(err)
			}
			continue // never published
		case ctx.Err() != nil:
			return nil, nil, nil, err
		case err != nil:
			r.complain(repo.about(err))
			failed = append(failed, string(repo.GUN()))
			continue
		}
		role, _ := set.Role(tuf.RoleRoot) // every Set has one
		has, added := holdsKey(role.Keys, r.of), !r.adds || r.intent.New != "" && holdsKey(role.Keys, r.intent.New)
		switch {
		case has && !(added && !r.removes):
			due = append(due, repo)
		case added && r.adds:
			done = append(done, string(repo.GUN()))
		case len(r.refs) > 0:
			return nil, nil, nil, cannot(fmt.Sprintf("%s is no root key of %s", r.of.Short(), repo.GUN()), "see which it has: iechor trust status "+string(repo.GUN()))
		}
	}
	return due, done, failed, nil
}

// owned returns the repositories of which this machine has trust data or a
// key.
func (r *rootRun) owned(ctx context.Context) ([]registry.Ref, error) {
	refs, err := r.desk.known()
	if err != nil {
		return nil, err
	}
	all, err := r.keys.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		ref, err := registry.ParseRef(string(k.GUN))
		if k.GUN == "" || err != nil || slices.ContainsFunc(refs, func(o registry.Ref) bool { return o.Repository == ref.Repository }) {
			continue
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func (r *rootRun) announce(ctx context.Context, due []*repository, done []string) error {
	what := "add a second root key, of which one may be lost"
	switch {
	case r.adds && r.removes:
		what = "rotate a root key in all of its repositories"
	case r.removes:
		what = "remove a root key"
	}
	p := &plan{what: what}
	if r.removes {
		p.add("goes", "%s", r.of.Short())
	} else {
		p.add("stays", "%s", r.of.Short())
	}
	switch {
	case !r.adds:
	case r.intent.New != "":
		p.add("comes", "%s, which is here", r.intent.New.Short())
	default:
		_, place, err := r.makerBeside(ctx, []tuf.CanonicalID{r.of})
		if err != nil {
			return err
		}
		p.add("comes", "a new %s key, kept in %s", r.algorithm, place)
	}
	for _, repo := range due {
		set, err := r.current(ctx, repo)
		if err != nil {
			return repo.about(err)
		}
		p.add("in", "%s: %s", repo.GUN(), nextFiles(set, tuf.RoleRoot))
	}
	if len(done) > 0 {
		p.add("done", "%s", strings.Join(done, ", "))
	}
	p.add("consumers", "follow by themselves; who has pinned the old key must look at the pins")
	r.desk.announce(p, r.dry)
	return nil
}

// makeKey makes the new key. Which one is remembered before it is stored.
func (r *rootRun) makeKey(ctx context.Context, dir *trust.Dir) error {
	maker, _, err := r.makerBeside(ctx, []tuf.CanonicalID{r.of})
	if err != nil {
		return err
	}
	pending, err := maker.New(ctx, r.algorithm, keys.Info{Role: string(tuf.RoleRoot)})
	if err != nil {
		return err
	}
	r.intent.New = pending.Info().ID
	if err := dir.Begin(r.intent); err != nil {
		return err
	}
	if err := pending.Save(ctx); err != nil {
		return err
	}
	fmt.Fprintf(r.err, "iechor: notice: made the root key %s; back it up now: iechor trust key export --key %s -o FILE\n", r.intent.New.Short(), r.intent.New.Short())
	return nil
}

// edit changes one repository, and sees that it counts.
func (r *rootRun) edit(ctx context.Context, repo *repository) error {
	var e trust.RootEdit
	if r.adds {
		e.Add = []tuf.CanonicalID{r.intent.New}
	}
	if r.removes {
		e.Remove = []tuf.CanonicalID{r.of}
	}
	done, err := repo.EditRoot(ctx, e)
	if err != nil {
		return repo.about(err)
	}
	set, err := repo.Afresh(ctx)
	if errors.Is(err, tuf.ErrPin) {
		r.warn("%s refuses the new root of %s until the new key is pinned there: %s", r.config.path, repo.GUN(), r.intent.New)
		return nil
	}
	if err != nil {
		return repo.about(errors.Join(errUnseen, err))
	}
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	if r.adds && !holdsKey(role.Keys, r.intent.New) || r.removes && holdsKey(role.Keys, r.of) {
		return repo.about(errUnseen)
	}
	if _, err := repo.Fresh().Update(ctx); err != nil { // so that this machine knows it, too
		return repo.about(err)
	}
	r.tell(repo, done)
	return nil
}

// theRoot finds the root key that the user means: the one named, or the only
// one here that speaks for a repository.
func (d *desk) theRoot(ctx context.Context, named, flag string) (tuf.CanonicalID, error) {
	if named != "" {
		return d.rootNamed(ctx, named) // also one that is lost
	}
	all, err := d.keys.List(ctx)
	if err != nil {
		return "", err
	}
	var roots []tuf.CanonicalID
	for _, k := range all {
		if k.Role == string(tuf.RoleRoot) && !slices.Contains(roots, k.ID) {
			roots = append(roots, k.ID)
		}
	}
	if used := (&signing{desk: d}).rootsInUse(all, roots); len(used) > 0 {
		roots = used
	}
	switch len(roots) {
	case 0:
		return "", cannot("there is no root key here", "bring it here: iechor trust key import FILE")
	case 1:
		return roots[0], nil
	}
	return "", cannot(fmt.Sprintf("there are %d root keys here: %s", len(roots), joinShort(roots)), "name the one that is meant with "+flag)
}

// rotateAll replaces a root key everywhere.
func (a *app) rotateAll(ctx context.Context, o rotateOptions) (err error) {
	if o.dry {
		a = looking(a)
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r := &rootRun{desk: d, what: "rotate", adds: true, removes: true, algorithm: o.algorithm, yes: o.yes, dry: o.dry}
	if r.of, err = d.rotationUnderWay(ctx, o.of); err != nil {
		return err
	}
	if len(o.keys) == 1 {
		k, err := d.findKey(ctx, o.keys[0])
		if err != nil {
			return err
		}
		r.given = k.ID
	}
	r.again = "iechor trust key rotate --all --of " + r.of.Short() + " root"
	r.ask = func(n int) string { return fmt.Sprintf("Rotate the root key of %s?", count(n, "repository")) }
	if err := r.run(ctx); err != nil || o.dry || r.intent.New == "" {
		return err
	}
	fmt.Fprintf(d.out, "Successfully rotated the root key %s: %s takes its place\n", r.of.Short(), r.intent.New.Short())
	fmt.Fprintf(d.err, "iechor: notice: the old root key stays: consumers who come from an older version of the root need what it has signed\n")
	return nil
}

// rotationUnderWay is theRoot, but prefers one whose rotation was interrupted:
// by then the new key speaks for repositories, too.
func (d *desk) rotationUnderWay(ctx context.Context, named string) (tuf.CanonicalID, error) {
	if named == "" {
		all, err := d.keys.List(ctx)
		if err != nil {
			return "", err
		}
		for _, k := range all {
			if k.Role != string(tuf.RoleRoot) {
				continue
			}
			if i, err := d.trustDir().Intent("rotate", k.ID); err == nil && i.New != "" {
				d.warn("going on with the rotation of the root key %s, which was interrupted", k.ID.Short())
				return k.ID, nil
			}
		}
	}
	return d.theRoot(ctx, named, "--of")
}
