package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// errLoss stops a change that takes tags from consumers, or makes a role
// useless, as long as nobody has agreed to that.
var errLoss = errors.New("the change makes tags disappear")

// A loss is what ceases to count when a delegation changes (attacks.md D10).
type loss struct {
	role    tuf.RoleName
	why     string   // the role will not count any more; empty if it will
	dropped bool     // the role is removed on purpose
	gone    []string // tags that consumers cannot pull any more
	other   []string // tags that become what targets says
	voided  []string // tags that the role, which consumers do not read, no longer vouches for
}

func (l loss) none() bool {
	return l.why == "" && !l.dropped && len(l.gone)+len(l.other)+len(l.voided) == 0
}

func (l loss) equal(o loss) bool {
	return l.role == o.role && l.why == o.why && l.dropped == o.dropped &&
		slices.Equal(l.gone, o.gone) && slices.Equal(l.other, o.other) && slices.Equal(l.voided, o.voided)
}

// warn says what will be lost, and how it could be kept.
func (l loss) warn(a *app, repo *repository) {
	if l.why != "" {
		a.warn("%s of %s %s after this change: it will not count until that is mended", l.role, repo.GUN(), l.why)
	}
	if n := len(l.gone); n > 0 {
		a.warn("consumers can no longer pull %s of %s: %s", count(n, "tag"), repo.GUN(), few(l.gone))
	}
	if n := len(l.other); n > 0 {
		a.warn("for consumers, %s of %s will be what targets says, with another digest: %s", count(n, "tag"), repo.GUN(), few(l.other))
	}
	if n := len(l.voided); n > 0 {
		a.warn("%s no longer vouches for %s of %s: %s", l.role, count(n, "tag"), repo.GUN(), few(l.voided))
	}
	if l.dropped {
		a.warn("%s of %s will be removed, with all that is in it and below it", l.role, repo.GUN())
	}
}

func count(n int, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "ory"):
		what = strings.TrimSuffix(what, "y") + "ies"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// few lists some of many names.
func few(names []string) string {
	const most = 20
	var shown []string
	for _, n := range names[:min(most, len(names))] {
		shown = append(shown, printable(n))
	}
	text := strings.Join(shown, ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text
}

func distinctKeys(keys []tuf.PublicKey) int {
	ids := map[tuf.CanonicalID]bool{}
	for _, k := range keys {
		ids[k.CanonicalID()] = true
	}
	return len(ids)
}

// after returns the role as an edit leaves it.
func after(role tuf.Role, c tuf.EditDelegation) tuf.Role {
	role.Keys = slices.DeleteFunc(slices.Clone(role.Keys), func(k tuf.Key) bool { return slices.Contains(c.RemoveKeys, k.CanonicalID()) })
	for _, k := range c.AddKeys {
		if !holdsKey(role.Keys, k.CanonicalID()) {
			role.Keys = append(role.Keys, tuf.Key{ID: k.ID(), PublicKey: k})
		}
	}
	if c.Threshold > 0 {
		role.Threshold = c.Threshold
	}
	paths := slices.Clone(role.Paths)
	if c.ClearPaths {
		paths = nil
	}
	role.Paths = append(slices.DeleteFunc(paths, func(p string) bool { return slices.Contains(c.RemovePaths, p) }), c.AddPaths...)
	return role
}

// lossOf finds out what c takes from consumers and signers; again says that
// the role has to be signed again, which the keys at hand can do. set has the
// role as it is.
func lossOf(set *tuf.Set, role tuf.Role, c tuf.Change, has func(tuf.CanonicalID) (bool, error)) (l loss, again bool, err error) {
	l.role = role.Name
	edit, ok := c.(tuf.EditDelegation)
	if !ok {
		l.dropped = true
		l.count(set, func(string) bool { return false })
		return l, false, nil
	}
	was := signingIDs(role, nil)
	role = after(role, edit)
	info, usable := set.Info(role.Name)
	now := signingIDs(role, nil)
	switch {
	case len(now) < role.Threshold:
		if len(was) >= role.Threshold || edit.Threshold > 0 || len(edit.RemoveKeys) > 0 {
			l.why = fmt.Sprintf("has %d of the %d keys that must sign", len(now), role.Threshold)
		}
	case usable && len(signingIDs(role, info.Signers)) < role.Threshold:
		here := 0
		for _, id := range now {
			ok, err := has(id)
			if err != nil {
				return l, false, err
			}
			if ok {
				here++
			}
		}
		if again = here >= role.Threshold; !again {
			l.why = fmt.Sprintf("has %d of the %d signatures that it needs", len(signingIDs(role, info.Signers)), role.Threshold)
		}
	}
	l.count(set, func(tag string) bool {
		return l.why == "" && slices.ContainsFunc(role.Paths, func(p string) bool { return strings.HasPrefix(tag, p) })
	})
	return l, again, nil
}

// signingIDs returns the keys of a role; of these only those that are among
// signers, if any are given.
func signingIDs(role tuf.Role, signers []tuf.KeyID) (ids []tuf.CanonicalID) {
	for _, k := range role.Keys {
		id := k.CanonicalID()
		if (signers == nil || slices.Contains(signers, k.ID)) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// count sorts the tags of the role, and of all below it, that stay no longer.
func (l *loss) count(set *tuf.Set, stays func(tag string) bool) {
	for _, name := range set.Roles() {
		if name != l.role && !strings.HasPrefix(string(name), string(l.role)+"/") {
			continue
		}
		for t := range set.Targets(name) {
			if stays(t.Name) {
				continue
			}
			if name != tuf.RoleReleases {
				l.voided = append(l.voided, t.Name)
				continue
			}
			switch below, err := set.Lookup(t.Name, tuf.RoleTargets); {
			case errors.Is(err, tuf.ErrNoTarget):
				l.gone = append(l.gone, t.Name)
			case err != nil || string(below.SHA256()) != string(t.SHA256()):
				l.other = append(l.other, t.Name)
			}
		}
	}
	for _, tags := range []*[]string{&l.gone, &l.other, &l.voided} {
		*tags = sortedTags(*tags)
		*tags = slices.Compact(*tags)
	}
}
