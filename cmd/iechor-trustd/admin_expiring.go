package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// An expiry is a line of "admin expiring".
type expiry struct {
	Repository  tuf.GUN      `json:"repository"`
	Role        tuf.RoleName `json:"role"`
	Certificate tuf.KeyID    `json:"certificate,omitempty"` // the root key whose certificate it is about, instead of the role
	Version     int64        `json:"version,omitempty"`
	Expires     time.Time    `json:"expires"`
	Expired     bool         `json:"expired"`
	Who         string       `json:"who"` // owner or server
	What        string       `json:"what"`
	nothing     bool         // nothing has to be done
}

func (s *admin) expiring(ctx context.Context, meant func(tuf.GUN) bool, within time.Duration, all, asJSON bool) error {
	s.warnSilent("snapshots are taken for the server's")
	t := s.table()
	if !asJSON {
		fmt.Fprintln(t, "REPOSITORY\tWHAT\tEXPIRES\tWHO\tTO DO")
	}
	now, found := s.now(), 0
	err := s.eachRoot(ctx, meant, func(r storage.Repository, state *storage.State, past *tuf.Past) error {
		lines, err := s.expiries(ctx, r, state, past, now)
		if err != nil {
			return err
		}
		for _, e := range lines {
			if e.Expires.After(now.Add(within)) || e.nothing && !all {
				continue
			}
			e.Expired = !e.Expires.After(now)
			if !e.nothing {
				found++
			}
			if asJSON {
				err = s.printJSON(e)
			} else {
				_, err = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", e.Repository, e.subject(), date(e.Expires), e.Who, e.What)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, t.Flush()); err != nil {
		return err
	}
	if found > 0 {
		return foundError{fmt.Errorf("%s to be done, for what expires within %s", plural(found, "thing"), duration(within))}
	}
	return nil
}

func (e expiry) subject() string {
	if e.Certificate != "" {
		return fmt.Sprintf("certificate of root key %.7s", printable(string(e.Certificate)))
	}
	return fmt.Sprintf("%s %d", e.Role, e.Version)
}

// expiries lists all that can expire in a repository, the first to expire
// first.
func (s *admin) expiries(ctx context.Context, r storage.Repository, state *storage.State, past *tuf.Past, now time.Time) ([]expiry, error) {
	var all []expiry
	for role, e := range state.Roles {
		x := expiry{Repository: state.GUN, Role: role, Version: e.Version, Expires: e.Expires, Who: "owner"}
		x.What = fmt.Sprintf("sign it anew: iechor trust renew %s", state.GUN)
		if role == tuf.RoleSnapshot || role == tuf.RoleTimestamp {
			held, err := s.heldRole(ctx, past, role)
			if err != nil {
				return nil, err
			}
			s.serverRole(&x, r, e, held, now)
		}
		all = append(all, x)
	}
	root, _ := past.Role(tuf.RoleRoot)
	for _, k := range root.Keys {
		certificates, err := k.Certificates()
		if err != nil || len(certificates) == 0 {
			continue // a key without one does not expire
		}
		all = append(all, expiry{Repository: state.GUN, Role: tuf.RoleRoot, Certificate: k.ID, Expires: certificates[0].NotAfter, Who: "owner",
			What: fmt.Sprintf("make a new certificate: iechor trust renew %s", state.GUN)})
	}
	if state.Mirror != "" {
		for i := range all {
			all[i].ofCopy(state.Mirror, now)
		}
	}
	slices.SortFunc(all, func(a, b expiry) int {
		return cmp.Or(a.Expires.Compare(b.Expires), rank(a.Role)-rank(b.Role), strings.Compare(a.subject(), b.subject()))
	})
	return all, nil
}

// ofCopy says what has to be done about a copy of what that service publishes:
// nobody signs it here.
func (x *expiry) ofCopy(service string, now time.Time) {
	again := fmt.Sprintf("\"iechor-trustd import service %s\" copies what is newer there", printable(service))
	x.Who, x.What, x.nothing = "server", "nothing: "+again, true
	if !x.Expires.After(now) {
		x.What, x.nothing = again+"; if there is nothing, its owner has to sign there, or move here: iechor-trustd import release "+string(x.Repository), false
	}
}

// heldRole reports whether the signer holds a key of the role; true if it was
// not asked.
func (s *admin) heldRole(ctx context.Context, past *tuf.Past, name tuf.RoleName) (bool, error) {
	role, _ := past.Role(name)
	for _, k := range role.Keys {
		held, err := s.holds(ctx, past.GUN(), name, k.CanonicalID())
		if err != nil || held == nil || *held {
			return true, err
		}
	}
	return false, nil
}

// serverRole says what has to be done about a snapshot or timestamp.
func (s *admin) serverRole(x *expiry, r storage.Repository, e storage.Entry, held bool, now time.Time) {
	life := time.Duration(s.config.Lifetime.Timestamp)
	if e.Role == tuf.RoleSnapshot {
		life = time.Duration(s.config.Lifetime.Snapshot)
	}
	idle := time.Duration(s.config.Idle)
	switch {
	case !held && e.Role == tuf.RoleSnapshot:
		x.What = fmt.Sprintf("sign it anew: iechor trust renew %[1]s; or give it to the server: iechor trust key rotate %[1]s snapshot --server", x.Repository)
	case !held:
		x.What = fmt.Sprintf("the signer holds no key of it: iechor trust key rotate %s timestamp", x.Repository)
	case idle > 0 && now.Sub(r.Seen) > idle:
		x.Who, x.What, x.nothing = "server", "nothing: nobody reads it, and it is renewed at the next read", true
	case e.Expires.Sub(now) > life/2:
		// It is renewed when a third of its life is spent.
		x.Who, x.What, x.nothing = "server", "nothing: it is renewed in time", true
	default:
		x.Who, x.What = "server", "it should have been renewed by now: look at the server's log, and whether the signer answers"
	}
}
