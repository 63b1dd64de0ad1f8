package main

import (
	"context"
	"fmt"
	"time"

	"github.com/iechor/trust/tuf"
)

// soon is how long before its end something is worth a warning. The server
// renews timestamps and its snapshots by itself, much later.
const soon = 90 * 24 * time.Hour

// lastMinute is the same for what the server renews.
const lastMinute = 12 * time.Hour

// worry says what an end at that time means, and the empty text if nothing.
func worry(role tuf.RoleName, at, now time.Time) string {
	left := at.Sub(now)
	within := soon
	if role == tuf.RoleTimestamp || role == tuf.RoleSnapshot {
		within = lastMinute
	}
	switch {
	case at.IsZero():
		return ""
	case left <= 0:
		return "EXPIRED"
	case left < within:
		return "expires in " + age(left)
	}
	return ""
}

// advise warns about what needs work, with the command that does it.
func (d *desk) advise(s *repositoryStatus) {
	now := d.now()
	for _, r := range s.Roles {
		problem := worry(r.Name, r.Expires, now)
		if r.Renew != "" && problem == "" {
			problem = worry(tuf.RoleTargets, r.Expires, now) // a snapshot that owners sign
		}
		switch {
		case problem == "":
		case r.Renew == "":
			d.warn("%s of %s: %s; its renewal is the work of %s: ask the operator", r.Name, s.Name, problem, s.Server)
		default:
			d.warn("%s of %s: %s; to sign it again: %s", r.Name, s.Name, problem, r.Renew)
		}
	}
	for _, c := range s.RootCertificates {
		if problem := worry(tuf.RoleRoot, c.Expires, now); problem != "" {
			d.warn("the certificate %s of the root of %s: %s; to have a new one: %s", c.ID[:12], s.Name, problem, c.Renew)
		}
	}
	if n := s.unclear(); len(n) > 0 {
		d.warn("%s of %s cannot be understood, so that nothing staged is published; to drop it: iechor trust reset --number %d %s", count(len(n), "staged change"), s.Name, n[0], s.Name)
	}
}

// renewal is the command that renews what expires in a repository.
func renewal(name string) string { return "iechor trust renew " + name }

// renewalOf is what renews the file of a role; empty for what the server renews.
func renewalOf(name string, role tuf.RoleName) string {
	if role == tuf.RoleTimestamp || role == tuf.RoleSnapshot {
		return ""
	}
	return renewal(name)
}

// keyAge is how long a root key speaks for a repository before its rotation is
// advised.
const keyAge = 5 * 365 * 24 * time.Hour

// forecast says who renews the snapshot, and what an owner could do some day.
func (d *desk) forecast(ctx context.Context, s *repositoryStatus, set *tuf.Set) error {
	server, err := d.serverKeeps(ctx, set, tuf.RoleSnapshot)
	if err != nil {
		return err
	}
	for i, r := range s.Roles {
		if r.Name == tuf.RoleSnapshot && !server {
			s.Roles[i].Renew = renewal(s.Name)
		}
	}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	here, err := d.held(ctx, root)
	if err != nil || len(here) == 0 {
		return err // somebody else's
	}
	if len(signingIDs(root, nil)) == root.Threshold {
		s.Advice = append(s.Advice, fmt.Sprintf("if its root key is lost, %s must be made anew; to have a second one: iechor trust key spare add %[1]s", s.Name))
	}
	for _, c := range s.RootCertificates {
		if age := d.now().Sub(c.Made); age > keyAge {
			s.Advice = append(s.Advice, fmt.Sprintf("the root key %s speaks for it since %s; to rotate it everywhere: iechor trust key rotate --all --of %[1]s root", c.KeyID.Short(), day(c.Made)))
		}
	}
	return nil
}

// serverRenews reports whether the trust server renews the file of a role: the
// timestamp, and the snapshot unless an owner has its key here.
func (d *desk) serverRenews(ctx context.Context, set *tuf.Set, name tuf.RoleName) (bool, error) {
	switch name {
	case tuf.RoleTimestamp:
		return true, nil
	case tuf.RoleSnapshot:
		return d.serverKeeps(ctx, set, name)
	}
	return false, nil
}

// warnExpiry says, in a push or a pull, what of a repository needs work soon.
func (d *desk) warnExpiry(repo *repository, set *tuf.Set) {
	now := d.now()
	say := func(what, problem string) {
		if problem != "" {
			d.warn("%s of %s %s; its owners renew that: %s", what, repo.GUN(), problem, renewal(string(repo.GUN())))
		}
	}
	for _, f := range set.Files() {
		info, ok := set.Info(f.Role)
		if ok && f.Role != tuf.RoleSnapshot && f.Role != tuf.RoleTimestamp {
			say(string(f.Role), worry(f.Role, info.Expires, now))
		}
	}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	for _, k := range root.Keys {
		if certs, err := k.Certificates(); err == nil {
			say("the root certificate "+string(k.ID[:12]), worry(tuf.RoleRoot, certs[0].NotAfter, now))
		}
	}
}
