package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type renewOptions struct {
	ref    registry.Ref // zero: all repositories of the trust directory
	within time.Duration
	dry    bool
}

func newTrustRenewCmd(a *app) *cobra.Command {
	var o renewOptions
	var within string
	cmd := &cobra.Command{
		Use:   "renew [flags] [REPOSITORY]",
		Short: "Sign again what expires soon, without changing it",
		Example: `  iechor trust renew registry.example.com/app
  iechor trust renew --dry-run
  iechor trust renew --within 180d registry.example.com/app`,
		Long: `Renew signs again, as it stands, what expires within 90 days or has expired: the
root, the certificates of its keys, targets, delegations, and the snapshot if you
keep its key. The content stays as it is, and consumers notice nothing. What
nobody can sign with the keys that are here is named. The timestamp, and
otherwise the snapshot, are renewed by the trust server.

Without a repository it goes through all of which this machine has trust data
and a key that can sign something; it is made to be run once a month.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Sprintf("%s takes one repository or none, and got %d arguments", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) > 0 {
				if o.ref, err = parseRepository(cmd, args[0]); err != nil {
					return err
				}
			}
			if o.within, err = parseAge(within); err != nil {
				return usage(cmd, fmt.Sprintf("%q is no time such as 90d", printable(within)), "give --within a number of days: --within 90d")
			}
			return a.renew(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&within, "within", "90d", "`time` before the end from which something is renewed")
	addDryFlag(cmd, &o.dry)
	return cmd
}

// renew goes from one repository to the next. What is wrong with one does not
// keep the others from being renewed.
func (a *app) renew(ctx context.Context, o renewOptions) (err error) {
	if o.dry {
		a = looking(a)
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	refs, mine := []registry.Ref{o.ref}, false
	if o.ref.Repository == "" {
		if refs, err = d.known(); err != nil {
			return err
		}
		mine = true
	}
	var names []string
	byName := map[string]registry.Ref{}
	for _, ref := range refs {
		names, byName[ref.Repository] = append(names, ref.Repository), ref
	}
	if len(names) == 0 {
		_, err := fmt.Fprintln(d.out, "No trust data on this machine")
		return err
	}
	return a.eachRepository(ctx, names, "iechor: could not renew", func(name string) error {
		return d.renewOne(ctx, byName[name], o, mine)
	})
}

// A renewable is something that expires soon.
type renewable struct {
	what    string
	role    tuf.RoleName    // file to be signed again
	key     tuf.CanonicalID // or root key that needs another certificate
	was     tuf.KeyID       // with that certificate
	version int64           // of the file
	expires time.Time
}

// renewOne renews one repository; with mine, only if a key is here that could.
func (d *desk) renewOne(ctx context.Context, ref registry.Ref, o renewOptions, mine bool) error {
	repo, err := d.repository(ref)
	if err != nil {
		return err
	}
	set, err := d.current(ctx, repo)
	if mine && errors.Is(err, trust.ErrNotSigned) {
		return nil // made here, and never published
	}
	if err != nil {
		return repo.about(err)
	}
	due, err := d.due(ctx, set, d.now().Add(o.within))
	if err != nil {
		return err
	}
	var able, unable []renewable
	for _, r := range due {
		ok, err := d.canRenew(ctx, set, r)
		if err != nil {
			return err
		}
		if ok {
			able = append(able, r)
		} else {
			unable = append(unable, r)
		}
	}
	if mine && len(able) == 0 {
		return nil // the work of others
	}
	if len(due) == 0 {
		_, err := fmt.Fprintf(d.out, "Nothing of %s expires before %s\n", repo.GUN(), day(d.now().Add(o.within)))
		return err
	}
	if len(able) > 0 {
		if err := d.renewAble(ctx, repo, set, able, o.dry); err != nil {
			return err
		}
	}
	for _, r := range unable {
		d.warn("%s of %s expires on %s, and the keys that could renew it are not here: run \"%s\" where they are", r.what, repo.GUN(), day(r.expires), renewal(string(repo.GUN())))
	}
	if len(unable) > 0 && !mine && !o.dry {
		return cannot(fmt.Sprintf("%s of %s could not be renewed", count(len(unable), "thing"), repo.GUN()), "the keys that could are not here: see iechor trust inspect --pretty "+string(repo.GUN()))
	}
	return nil
}

// due lists what expires before a time and is the work of people.
func (d *desk) due(ctx context.Context, set *tuf.Set, before time.Time) (due []renewable, err error) {
	for _, name := range set.Roles() {
		info, _ := set.Info(name) // it was just listed
		server, err := d.serverRenews(ctx, set, name)
		if err != nil {
			return nil, err
		}
		if !server && info.Expires.Before(before) {
			due = append(due, renewable{what: string(name), role: name, version: info.Version, expires: info.Expires})
		}
	}
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	for _, k := range root.Keys {
		if certs, err := k.Certificates(); err == nil && certs[0].NotAfter.Before(before) {
			due = append(due, renewable{what: "the root certificate " + string(k.ID[:12]), key: k.CanonicalID(), was: k.ID, expires: certs[0].NotAfter})
		}
	}
	return due, nil
}

// canRenew reports whether the keys that r takes are here.
func (d *desk) canRenew(ctx context.Context, set *tuf.Set, r renewable) (bool, error) {
	name := r.role
	if r.key != "" {
		if has, err := d.keys.Has(ctx, r.key); !has || err != nil {
			return false, err // a certificate is signed with its own key
		}
		name = tuf.RoleRoot
	}
	role, _ := set.Role(name) // it has a file
	here, err := d.held(ctx, role)
	return len(here) >= role.Threshold, err
}

// renewAble publishes all of it at once, and sees that it counts.
func (d *desk) renewAble(ctx context.Context, repo *repository, set *tuf.Set, able []renewable, dry bool) error {
	var e trust.RootEdit
	p := &plan{what: fmt.Sprintf("renew %s", repo.GUN())}
	for _, r := range able {
		p.add("signed again", "%s, which expires on %s", r.what, day(r.expires))
		if r.key != "" {
			e.Renew = append(e.Renew, r.key)
		} else {
			e.Resign = append(e.Resign, r.role)
		}
	}
	p.add("consumers", "notice nothing")
	d.announce(p, dry)
	if dry {
		return nil
	}
	if _, err := repo.EditRoot(ctx, e); err != nil {
		return repo.about(err)
	}
	after, err := repo.see(ctx)
	if err != nil {
		return err
	}
	var done []string
	for _, r := range able {
		if r.key != "" {
			root, _ := after.Role(tuf.RoleRoot) // every Set has one
			i := slices.IndexFunc(root.Keys, func(k tuf.Key) bool { return k.CanonicalID() == r.key })
			if i < 0 || root.Keys[i].ID == r.was {
				return repo.about(errUnseen)
			}
			certs, err := root.Keys[i].Certificates()
			if err != nil {
				return repo.about(err)
			}
			done = append(done, fmt.Sprintf("root certificate (now %s) until %s", root.Keys[i].ID[:12], day(certs[0].NotAfter)))
			continue
		}
		info, ok := after.Info(r.role)
		if !ok || info.Version <= r.version {
			return repo.about(errUnseen)
		}
		done = append(done, fmt.Sprintf("%s until %s", r.role, day(info.Expires)))
	}
	_, err = fmt.Fprintf(d.out, "Successfully renewed %s: %s\n", repo.GUN(), strings.Join(done, ", "))
	return err
}
