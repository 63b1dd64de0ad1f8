package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A signing signs some tags of one repository with their digests.
type signing struct {
	*desk
	repo  *repository
	items []*item
	left  map[tuf.RoleName]bool // roles that are left out, as was said

	signer tuf.RoleName // sign as this one alone; empty: as everybody whose key is here
	begin  *beginning   // the first signer of a repository that was never published
}

// signing sees, before anything is uploaded, that the items can be signed: the
// trust server is there and lets us publish, the keys are here and open. A
// repository that has no trust data yet gets its keys.
func (d *desk) signing(ctx context.Context, o pushOptions, items []*item) (*signing, error) {
	repo, err := d.repository(o.ref)
	if err != nil {
		return nil, err
	}
	s := &signing{desk: d, repo: repo, items: items}
	err = repo.CanPublish(ctx, s.plan(ctx))
	if errors.Is(err, trust.ErrNotInitialized) {
		var init trust.InitOptions
		if init, err = s.initOptions(ctx); err == nil {
			_, err = repo.Init(ctx, init)
		}
	}
	return s, s.failed(err)
}

// publish signs what was uploaded, publishes that and nothing else, and tells.
func (s *signing) publish(ctx context.Context) error {
	fmt.Fprintln(s.out, "Signing and pushing trust metadata")
	done, err := s.repo.Publish(ctx, s.plan(ctx))
	if err != nil {
		return s.failed(err)
	}
	if len(done.Files) > 0 {
		if err := s.look(ctx); err != nil {
			return s.failed(err)
		}
	}
	if done.First {
		fmt.Fprintf(s.out, "Finished initializing %q\n", s.repo.GUN())
	}
	s.report(done)
	return nil
}

// report tells what was signed.
func (s *signing) report(done trust.Published) {
	for _, i := range s.items {
		if i.sign {
			fmt.Fprintf(s.out, "Successfully signed %s\n", i.ref)
		} else {
			fmt.Fprintf(s.out, "%s was already signed with digest %s\n", i.ref, i.is.Digest)
		}
	}
	s.tell(s.repo, done)
}

// tell says what the publisher of a repository should look at.
func (d *desk) tell(repo *repository, done trust.Published) {
	for _, w := range done.Warnings {
		d.warn("%s", printable(w))
	}
	changelist := filepath.Join(repo.folder, "changelist")
	switch {
	case done.Staged == 1:
		d.warn("1 other change of %s is staged in %s; it was not published", repo.GUN(), changelist)
	case done.Staged > 1:
		d.warn("%d other changes of %s are staged in %s; they were not published", done.Staged, repo.GUN(), changelist)
	}
}

// pledge stands for a digest that is not known before the upload, so that
// prepare can sign something. Nothing that names it is ever sent.
var pledge = registry.Descriptor{Digest: sha256.Sum256([]byte("iechor: not uploaded yet")), Size: 1}

// plan returns the changes that sign the items, given the state of the
// repository. What is signed with the same digest already stays untouched, so
// that nobody is asked for a passphrase.
func (s *signing) plan(ctx context.Context) trust.Plan {
	has := func(id tuf.CanonicalID) (bool, error) { return s.keys.Has(ctx, id) }
	return func(set *tuf.Set) ([]tuf.Change, error) {
		changes := s.begin.changes(set)
		for _, i := range s.items {
			is := i.expected(set)
			i.sign = false
			roles, err := s.roles(set, i.ref.Tag, has)
			if err != nil {
				return nil, err
			}
			roles = slices.DeleteFunc(roles, func(role tuf.RoleName) bool {
				return set != nil && signedIn(set, i.ref.Tag, is, role)
			})
			if roles, err = s.openRoles(ctx, set, roles); err != nil {
				return nil, err
			}
			i.roles = roles
			for _, role := range roles {
				i.sign = true
				changes = append(changes, tuf.AddTarget{Target: target(i.ref.Tag, role, is)})
			}
		}
		return changes, nil
	}
}

// openRoles returns those of roles for which keys here open: of several signers
// whose keys are here, those that open are enough. That is no choice where the
// role that consumers read is among the others.
func (s *signing) openRoles(ctx context.Context, set *tuf.Set, roles []tuf.RoleName) ([]tuf.RoleName, error) {
	if set == nil || len(roles) < 2 {
		return roles, nil
	}
	var open []tuf.RoleName
	shut := map[tuf.RoleName]error{}
	for _, name := range roles {
		role, _ := set.Role(name) // SigningRoles has it from there
		opened := 0
		var trouble error
		for _, k := range role.Keys {
			_, err := s.keys.Signer(ctx, set.GUN(), name, k.PublicKey)
			switch {
			case err == nil:
				opened++
			case errors.Is(err, tuf.ErrNoKey):
			case errors.Is(err, context.Canceled):
				return nil, err
			default:
				trouble = err
			}
		}
		switch {
		case trouble == nil, opened >= role.Threshold:
			open = append(open, name)
		case name == tuf.RoleReleases:
			return nil, trouble
		default:
			shut[name] = trouble
		}
	}
	if len(open) == 0 {
		return nil, shut[roles[0]]
	}
	for _, name := range roles {
		err, ok := shut[name]
		if !ok || s.left[name] {
			continue
		}
		if asked := (*passphraseError)(nil); errors.As(err, &asked) {
			err = asked
		}
		s.warn("not signing as %s: %s", printable(string(name)), printable(err.Error()))
		if s.left == nil {
			s.left = map[tuf.RoleName]bool{}
		}
		s.left[name] = true
	}
	return open, nil
}

// expected returns what will be signed, as far as that is known by now.
func (i *item) expected(set *tuf.Set) registry.Descriptor {
	if !i.is.Digest.IsZero() {
		return i.is
	}
	if set != nil {
		if t, err := trust.Lookup(set, i.ref.Tag); err == nil {
			for _, d := range i.known {
				if string(d[:]) == string(t.SHA256()) {
					return registry.Descriptor{Digest: d, Size: t.Length}
				}
			}
		}
	}
	return pledge
}

func signedIn(set *tuf.Set, tag string, is registry.Descriptor, role tuf.RoleName) bool {
	t, err := set.Lookup(tag, role)
	return err == nil && same(t, is)
}

func same(t tuf.Target, is registry.Descriptor) bool {
	return t.Length == is.Size && string(t.SHA256()) == string(is.Digest[:])
}

// custom is what a signed target says beyond digest and length. Only an index
// says what it is (design-amendments.md 24): stock clients ignore it.
type custom struct {
	MediaType string `json:"mediaType"`
}

func target(tag string, role tuf.RoleName, is registry.Descriptor) tuf.Target {
	t := tuf.Target{Name: tag, Role: role, FileMeta: tuf.FileMeta{
		Length: is.Size, Hashes: map[string][]byte{"sha256": is.Digest[:]},
	}}
	if is.Index() {
		t.Custom, _ = json.Marshal(custom{is.MediaType}) // a struct of a string
	}
	return t
}

// failed wraps an error of signing with what it was about, and with what is in
// the registry unsigned.
func (s *signing) failed(err error) error {
	if err == nil {
		return nil
	}
	e := &signError{ref: s.items[0].ref, err: s.repo.about(err)}
	for _, i := range s.items {
		if i.done {
			e.unsigned = append(e.unsigned, fmt.Sprintf("%s --from registry@%s", i.ref, i.is.Digest))
		}
	}
	return e
}

// A signError says which tag could not be signed.
type signError struct {
	ref      registry.Ref
	unsigned []string // arguments of push for what was uploaded and not signed
	err      error
}

func (e *signError) Error() string { return fmt.Sprintf("failed to sign %s: %v", e.ref, e.err) }
func (e *signError) Unwrap() error { return e.err }
