package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// recoverSigner replaces the key of a signer. What it signed is kept: it is
// signed again, with the new key or with those of others, as far as they are
// here.
func (d *desk) recoverSigner(ctx context.Context, repo *repository, set *tuf.Set, o recoverOptions) error {
	role, err := signerRole(o.lost)
	if err != nil {
		return err
	}
	if !delegated(set, role) {
		return (&signerRemoval{desk: d, name: printable(o.lost), role: role}).noSuchSigner(string(repo.GUN()), set)
	}
	targets, _ := set.Role(tuf.RoleTargets) // every Set has one
	if here, err := d.held(ctx, targets); err != nil {
		return err
	} else if len(here) < targets.Threshold {
		return cannot(fmt.Sprintf("the repository's key of %s must sign that, and it is not here: %s", repo.GUN(), joinShort(signingIDs(targets, nil))),
			"bring it here: iechor trust key import FILE", "if it is lost as well: iechor trust recover --lost targets "+string(repo.GUN()))
	}
	fresh, err := d.signersNewKey(ctx, set, role, o)
	if err != nil {
		return err
	}
	p := &plan{what: fmt.Sprintf("replace the key of the signer %s of %s", signerName(role), repo.GUN())}
	changes, losses, err := d.replaceSigner(ctx, set, role, fresh)
	if err != nil {
		return err
	}
	p.add("goes", "%s", joinShort(lostKeys(set, role, fresh)))
	p.add("comes", "%s", fresh.CanonicalID().Short())
	for _, c := range changes {
		switch c := c.(type) {
		case tuf.EditDelegation:
			p.add("keys of", "%s", c.Role)
		case tuf.Resign:
			p.add("signed again", "%s, as it is", c.Role)
		}
	}
	if len(losses) == 0 {
		p.add("consumers", "notice nothing")
	}
	d.announce(p, false)
	for _, l := range losses {
		l.warn(d.app, repo)
	}
	if ok, err := d.sure(ctx, "Do that?", o.yes); err != nil || !ok {
		return err
	}
	done, err := repo.AllowLapsed().Publish(ctx, func(set *tuf.Set) ([]tuf.Change, error) {
		changes, now, err := d.replaceSigner(ctx, set, role, fresh)
		if err == nil && !slices.EqualFunc(now, losses, loss.equal) {
			err = errLoss // somebody else has changed something since it was shown
		}
		return changes, err
	})
	if err != nil {
		return repo.about(err)
	}
	err = d.verified(ctx, repo, done, func(set *tuf.Set) bool {
		r, _ := set.Role(role)
		return holdsKey(r.Keys, fresh.CanonicalID()) && len(lostKeys(set, role, fresh)) == 0
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Successfully replaced the key of %s in %s\n", signerName(role), repo.GUN())
	if has, err := d.keys.Has(ctx, fresh.CanonicalID()); err == nil && !has {
		fmt.Fprintf(d.err, "iechor: notice: what %s has signed counts again when the new key has signed it; where that key is: iechor trust delegation witness %s %s\n", signerName(role), repo.GUN(), role)
	}
	return nil
}

// lostKeys are the keys of a signer that go: those that no other signer has,
// and that are not the new one.
func lostKeys(set *tuf.Set, role tuf.RoleName, fresh tuf.PublicKey) []tuf.CanonicalID {
	return slices.DeleteFunc(onlyKeys(set, role), func(id tuf.CanonicalID) bool { return id == fresh.CanonicalID() })
}

// signersNewKey returns the key that takes the place of the lost one: that of a
// file, or one that is made here. One that was made by an attempt that did not
// end is taken again.
func (d *desk) signersNewKey(ctx context.Context, set *tuf.Set, role tuf.RoleName, o recoverOptions) (tuf.PublicKey, error) {
	if o.signerKey != "" {
		return readPublicKey(o.signerKey, d.now())
	}
	if !o.newKey {
		n, err := d.choose(ctx, "How does "+signerName(role)+" get a new key?", []string{"it is made here", "from a file with its public half"}, "--new-key or --key FILE")
		if err != nil {
			return tuf.PublicKey{}, err
		}
		if n == 1 {
			file, err := d.terminal.Line(ctx, "File with the public key: ")
			if err != nil {
				return tuf.PublicKey{}, err
			}
			return readPublicKey(file, d.now())
		}
	}
	all, err := d.keys.List(ctx)
	if err != nil {
		return tuf.PublicKey{}, err
	}
	was, _ := set.Role(role) // the signer is there
	for _, k := range all {
		if k.Role == signerName(role) && !holdsKey(was.Keys, k.ID) {
			s, err := k.Store.Open(ctx, k.ID)
			if err != nil {
				return tuf.PublicKey{}, err
			}
			fmt.Fprintf(d.err, "iechor: notice: taking the key %s, which is here already\n", k.ID.Short())
			return s.PublicKey(), nil
		}
	}
	s, err := keys.Generate(ctx, d.keys, keys.P256, keys.Info{Role: signerName(role)})
	if err != nil {
		return tuf.PublicKey{}, err
	}
	return s.PublicKey(), nil
}

// replaceSigner returns the changes that replace a signer's lost keys wherever
// they are, and what is lost by that because nobody here can sign it again.
func (d *desk) replaceSigner(ctx context.Context, set *tuf.Set, role tuf.RoleName, fresh tuf.PublicKey) (changes []tuf.Change, losses []loss, err error) {
	if set == nil {
		return nil, nil, trust.ErrNotInitialized
	}
	gone := lostKeys(set, role, fresh)
	has := func(id tuf.CanonicalID) (bool, error) { return d.keys.Has(ctx, id) }
	for _, g := range set.Delegations(tuf.RoleTargets) {
		mine := slices.ContainsFunc(gone, func(id tuf.CanonicalID) bool { return holdsKey(g.Keys, id) })
		if !mine && (g.Name != role || holdsKey(g.Keys, fresh.CanonicalID())) {
			continue
		}
		c := tuf.EditDelegation{Role: g.Name, AddKeys: missingIn(set, g.Name, []tuf.PublicKey{fresh}), RemoveKeys: gone}
		changes = append(changes, c)
		l, again, e := lossOf(set, g.Role, c, has)
		switch {
		case e != nil:
			err = errors.Join(err, e)
		case again:
			changes = append(changes, tuf.Resign{Role: g.Name})
		case !l.none():
			losses = append(losses, l)
		}
	}
	return changes, losses, err
}
