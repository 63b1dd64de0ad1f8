package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A revival makes a repository anew from the list of its tags.
type revival struct {
	*desk
	repo *repository
	o    recoverOptions
	list trust.TagList
	skip map[string]bool // digests that are not in the registry, in hex
}

// makeAnew is what remains when the root is lost for good, after the
// administrator of the trust server has reset the repository.
func (d *desk) makeAnew(ctx context.Context, repo *repository, o recoverOptions) error {
	r := &revival{desk: d, repo: repo, o: o, skip: map[string]bool{}}
	if err := r.read(); err != nil {
		return err
	}
	made, err := r.made(ctx)
	if err != nil {
		return err
	}
	if err := r.compare(ctx); err != nil {
		return err
	}
	if !made {
		if ok, err := d.sure(ctx, fmt.Sprintf("Make %s anew, with another root?", repo.GUN()), o.yes); err != nil || !ok {
			return err
		}
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	done, err := repo.Publish(ctx, r.plan(ctx))
	if err != nil {
		return repo.about(err)
	}
	set, err := repo.see(ctx)
	if err != nil {
		return err
	}
	tags := r.kept()
	for _, t := range tags {
		if is, err := trust.Lookup(set, t.Name); err != nil || fmt.Sprintf("%x", is.SHA256()) != t.SHA256 {
			return repo.about(errUnseen)
		}
	}
	d.tell(repo, done)
	fmt.Fprintf(d.out, "Successfully made %s anew: %s signed again\n", repo.GUN(), count(len(tags), "tag"))
	for _, id := range rootIDs(set) {
		fmt.Fprintf(d.out, "New root id: %s\n", id)
	}
	fmt.Fprintf(d.err, "iechor: notice: back up the new keys now: iechor trust key export -o FILE; and have a second root key: iechor trust key spare add %s\n", repo.GUN())
	return r.notify(ctx, set)
}

// read reads the list, and says what is in it.
func (r *revival) read() error {
	f, err := os.Open(r.o.from)
	if err != nil {
		return &keyFileError{err}
	}
	defer f.Close()
	raw, err := readLimited(f, maxTagListFile)
	if err == nil {
		r.list, err = trust.ReadTagList(raw)
	}
	switch {
	case err != nil:
		return cannot(printable(r.o.from+": "+err.Error()), "see that it is the file that --export has written, and that it is whole")
	case r.list.GUN != r.repo.GUN():
		return cannot(fmt.Sprintf("%s is about %s", printable(r.o.from), r.list.GUN), "name that repository, or the file of this one")
	}
	tags, _ := r.list.Released()
	fmt.Fprintf(r.out, "%s, saved on %s (sha256:%x), has %s of %s:\n", printable(r.o.from), day(r.list.Made), sha256.Sum256(raw), count(len(tags), "tag"), r.list.GUN)
	for _, t := range tags {
		fmt.Fprintf(r.out, "    %s sha256:%s\n", printable(t.Name), t.SHA256)
	}
	// Nobody has signed the file: who else would get rights by it is seen, too.
	for _, l := range r.list.Roles[1:] {
		role := tuf.NewRole(l.Name, l.Threshold, l.Keys...)
		fmt.Fprintf(r.out, "    %s may be signed by key %s\n", l.Name, joinShort(signingIDs(role, nil)))
	}
	return nil
}

const maxTagListFile = 64 << 20

// made reports whether the server has the repository anew already, by us. That
// it still has the old one is an error, and that somebody else has made it, too.
func (r *revival) made(ctx context.Context) (bool, error) {
	other := *r.desk
	other.app = looking(r.app)
	afresh, err := other.repository(r.o.ref)
	if err != nil {
		return false, err
	}
	set, err := afresh.Fresh().Afresh(ctx)
	switch {
	case errors.Is(err, trust.ErrNotSigned):
		return false, nil
	case errors.Is(err, tuf.ErrPin):
		err = nil // denied here: the old one
	case err != nil:
		return false, r.repo.about(err)
	default:
		root, _ := set.Role(tuf.RoleRoot) // every Set has one
		if !slices.ContainsFunc(root.Keys, func(k tuf.Key) bool { return slices.Contains(r.list.Root, k.ID) }) {
			here, err := r.held(ctx, root)
			if err != nil {
				return false, err
			}
			if len(here) >= root.Threshold {
				return true, r.adoptOwn(ctx, set)
			}
			return false, cannot(fmt.Sprintf("somebody else has made %s anew already: its root key is not here", r.repo.GUN()),
				"ask the other owners; to go on with their root: iechor trust accept-root "+string(r.repo.GUN()))
		}
	}
	return false, cannot(fmt.Sprintf("%s still has the old trust data of %s", r.repo.server, r.repo.GUN()),
		fmt.Sprintf("have its administrator reset it: iechor-trustd admin reset %s --reason \"root key lost\"", r.repo.GUN()))
}

// adoptOwn sees that this machine knows the root that it made itself.
func (r *revival) adoptOwn(ctx context.Context, set *tuf.Set) error {
	if _, err := r.repo.Fresh().Update(ctx); err == nil || !refusedData(err) {
		return r.repo.about(err)
	}
	return r.repo.about(r.repo.Accept(set, nil))
}

// begin chooses the root key, forgets the old root, which stays denied, and makes the new keys,
// unless an attempt that was interrupted has done so.
func (r *revival) begin(ctx context.Context) error {
	past, err := r.repo.Local()
	if damaged := (*trust.Damaged)(nil); err != nil && !errors.As(err, &damaged) {
		return r.repo.about(err)
	}
	old := err != nil
	if past != nil {
		root, _ := past.Role(tuf.RoleRoot) // every Past has one
		old = slices.ContainsFunc(root.Keys, func(k tuf.Key) bool { return slices.Contains(r.list.Root, k.ID) })
	}
	if past != nil && !old {
		return nil // made, and not published yet
	}
	var root tuf.CanonicalID
	if r.o.rootKey != "" {
		k, err := r.findKey(ctx, r.o.rootKey)
		if err != nil {
			return err
		}
		root = k.ID
	} else if root, err = (&signing{desk: r.desk, repo: r.repo}).chooseRoot(ctx); err != nil {
		return err
	}
	if old {
		if err := r.repo.GiveUp([]tuf.CanonicalID{root}); err != nil { // one that was found again is not denied
			return r.repo.about(err)
		}
	}
	_, err = r.repo.Init(ctx, trust.InitOptions{RootKey: root})
	return r.repo.about(err)
}

// compare asks the registry for every digest. What is not there is named, and
// not signed, unless the user wants that.
func (r *revival) compare(ctx context.Context) error {
	tags, _ := r.list.Released()
	seen := map[string]bool{}
	var missing []string
	for _, t := range tags {
		if !seen[t.SHA256] {
			seen[t.SHA256] = true
			digest, err := registry.ParseDigest("sha256:" + t.SHA256)
			if err != nil {
				return err
			}
			ref := r.o.ref.WithDigest(digest)
			is, err := r.images.Resolve(ctx, ref)
			switch {
			case errors.Is(err, registry.ErrNotFound), err == nil && is.Size != t.Length:
				r.skip[t.SHA256] = true
			case err != nil:
				return &imageError{ref: ref, err: err}
			}
		}
		if r.skip[t.SHA256] {
			missing = append(missing, t.Name)
		}
	}
	if len(missing) == 0 {
		fmt.Fprintln(r.out, "All of it is in the registry")
		return nil
	}
	what := "and not signed again"
	if r.o.missing {
		what, r.skip = "and signed all the same", map[string]bool{}
	}
	r.warn("%s of %s not in the registry with this digest and size, %s: %s", count(len(missing), "tag"), r.repo.GUN(), what, few(missing))
	return nil
}

// kept are the tags that are signed again, for consumers.
func (r *revival) kept() []trust.ListedTag {
	tags, _ := r.list.Released()
	return slices.DeleteFunc(tags, func(t trust.ListedTag) bool { return r.skip[t.SHA256] })
}

// plan has the signers back, with their keys and paths, and the tags: each
// where it was, if the keys of that role are here, and otherwise what consumers
// get, in targets.
func (r *revival) plan(ctx context.Context) trust.Plan {
	return func(set *tuf.Set) ([]tuf.Change, error) {
		var changes []tuf.Change
		signed := map[tuf.RoleName]bool{}
		add := func(t trust.ListedTag, role tuf.RoleName) {
			target := t.Target(role)
			if set != nil {
				if is, err := set.Lookup(t.Name, role); err == nil && string(is.SHA256()) == string(target.SHA256()) && is.Length == target.Length {
					return
				}
			}
			changes = append(changes, tuf.AddTarget{Target: target})
		}
		for _, l := range r.list.Roles[1:] {
			if strings.Count(string(l.Name), "/") > 1 {
				r.warn("%s has to be added again, by the signer above it", l.Name)
				continue
			}
			if !delegated(set, l.Name) {
				changes = append(changes, tuf.EditDelegation{Role: l.Name, AddKeys: l.Keys, AddPaths: l.Paths, Threshold: l.Threshold})
			}
			here, err := r.held(ctx, tuf.NewRole(l.Name, l.Threshold, l.Keys...))
			if err != nil {
				return nil, err
			}
			if signed[l.Name] = len(here) >= l.Threshold; !signed[l.Name] {
				continue
			}
			for _, t := range l.Tags {
				if !r.skip[t.SHA256] {
					add(t, l.Name)
				}
			}
		}
		_, from := r.list.Released()
		for _, t := range r.kept() {
			if role := from[t.Name]; role == tuf.RoleTargets || !signed[role] {
				add(t, tuf.RoleTargets)
			}
		}
		return changes, nil
	}
}

// notify writes the notice, signed with the old keys that are here.
func (r *revival) notify(ctx context.Context, set *tuf.Set) error {
	if r.o.notice == "" {
		fmt.Fprintf(r.err, "iechor: notice: consumers refuse the new root until they accept it; to write them a notice of it, signed with the old keys that are left: iechor trust recover --from %s --notice FILE %s\n", printable(r.o.from), r.repo.GUN())
		return nil
	}
	var with []tuf.PublicKey
	for _, l := range r.list.Roles {
		with = append(with, l.Keys...)
	}
	about := trust.Notice{GUN: r.repo.GUN(), Made: r.now(), Reason: r.o.reason, Old: r.list.Root}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	for _, k := range root.Keys {
		about.New = append(about.New, k.ID)
	}
	n, err := trust.SignNotice(ctx, about, with, r.keys)
	if errors.Is(err, tuf.ErrNoKey) {
		return cannot("no notice was written: none of the old keys that consumers know is here", "give consumers the id of the new root by a way that they trust")
	}
	if err != nil {
		return r.repo.about(err)
	}
	if ok, err := r.overwrites(ctx, r.o.notice, r.o.yes); err != nil || !ok {
		return err
	}
	if err := writePrivately(r.o.notice, n.Bytes()); err != nil {
		return &keyFileError{err}
	}
	_, err = fmt.Fprintf(r.out, "Wrote the notice for consumers to %s; they run: iechor trust accept-root --notice FILE %s\n", printable(r.o.notice), r.repo.GUN())
	return err
}
