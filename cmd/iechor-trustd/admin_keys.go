package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

// holds asks the signer for a key; nil if it cannot be asked, or does not tell
// this identity.
func (s *admin) holds(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) (*bool, error) {
	if s.keys == nil {
		return nil, nil
	}
	held, err := s.keys.Holds(ctx, gun, role, id)
	if errors.Is(err, signer.ErrDenied) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &held, nil
}

// root recalls the current root of a repository; nil if there is none that
// can be read.
func (s *admin) root(ctx context.Context, state *storage.State) (*tuf.Past, error) {
	e, ok := state.Roles[tuf.RoleRoot]
	if !ok {
		return nil, nil
	}
	raw, _, err := s.store.Blob(ctx, state.GUN, tuf.RoleRoot, e.SHA256)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrCorrupt) {
		return nil, nil // "iechor-trustd check" says more
	}
	if err != nil {
		return nil, err
	}
	past, err := tuf.Recall(state.GUN, []tuf.File{{Role: tuf.RoleRoot, Version: e.Version, Raw: raw}}, tuf.Options{Now: s.now()})
	if err != nil {
		return nil, nil // likewise
	}
	return past, nil
}

// eachRoot calls fn with every published repository that is meant, and its
// root.
func (s *admin) eachRoot(ctx context.Context, meant func(tuf.GUN) bool, fn func(storage.Repository, *storage.State, *tuf.Past) error) error {
	return s.each(ctx, func(r storage.Repository) error {
		if r.Deleted || !meant(r.GUN) {
			return nil
		}
		state, err := s.store.Current(ctx, r.GUN)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // ended meanwhile
		}
		if err != nil {
			return err
		}
		past, err := s.root(ctx, state)
		if err != nil {
			return err
		}
		if past == nil {
			fmt.Fprintf(s.err, "iechor-trustd: %s has no root that can be read: \"iechor-trustd check\" says more\n", r.GUN)
			return nil
		}
		return fn(r, state, past)
	})
}

func newAdminKeysCmd(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "keys [PATTERN]",
		Short: "List the snapshot and timestamp keys, and whether the signer holds them",
		Long: `Example: iechor-trustd admin keys --config /etc/iechor-trustd/server.yaml

Lists for each repository the keys that its root names for snapshot and
timestamp, and asks the signer whether it holds them. A snapshot key that it
does not hold is the owner's. A timestamp that no held key signs cannot be
renewed: the owner has to give the role to the server's key anew, with
"iechor trust key rotate REPOSITORY timestamp". The keys of a copy that "import
service" has made are at the service that it is a copy of.

Exit status: 0, and 4 if there is a repository whose timestamp keys the signer
does not hold. PATTERN is that of "admin list".`,
		Args: atMostOne,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return a.adminCommand(c, true, func(ctx context.Context, s *admin, args []string) error {
		return s.listKeys(ctx, pattern(args), asJSON)
	})
}

// A listedKey is a line of "admin keys".
type listedKey struct {
	Repository tuf.GUN      `json:"repository"`
	Role       tuf.RoleName `json:"role"`
	CopyOf     string       `json:"copy_of,omitempty"` // the service whose repository this is a copy of: its keys are there
	shownKey
}

// line is l as people see it. Owners choose what type a key says it has.
func (l listedKey) line() string {
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", l.Repository, l.Role, printable(string(l.Type)), printable(string(l.ID)), cmp.Or(copyWord(l.CopyOf), heldWord(l.Held)))
}

func (s *admin) listKeys(ctx context.Context, meant func(tuf.GUN) bool, asJSON bool) error {
	s.warnSilent("what it holds is not known")
	t := s.table()
	if !asJSON {
		fmt.Fprintln(t, "REPOSITORY\tROLE\tTYPE\tKEY\tSIGNER")
	}
	orphans := 0
	err := s.eachRoot(ctx, meant, func(r storage.Repository, state *storage.State, past *tuf.Past) error {
		for _, name := range []tuf.RoleName{tuf.RoleSnapshot, tuf.RoleTimestamp} {
			role, _ := past.Role(name)
			lost := len(role.Keys) > 0 && state.Mirror == ""
			for _, k := range role.Keys {
				l := listedKey{r.GUN, name, state.Mirror, shownKey{ID: k.ID, Canonical: k.CanonicalID(), Type: k.Type}}
				var err error
				if l.Held, err = s.holds(ctx, r.GUN, name, l.Canonical); err != nil {
					return err
				}
				lost = lost && l.Held != nil && !*l.Held
				if asJSON {
					err = s.printJSON(l)
				} else {
					_, err = fmt.Fprintln(t, l.line())
				}
				if err != nil {
					return err
				}
			}
			if lost && name == tuf.RoleTimestamp {
				orphans++
			}
		}
		return nil
	})
	if err := errors.Join(err, t.Flush()); err != nil {
		return err
	}
	if orphans > 0 {
		return foundError{fmt.Errorf(`the signer holds no timestamp key of %s: clients refuse what it cannot renew, and the owner has to run "iechor trust key rotate REPOSITORY timestamp"`,
			repositories(orphans))}
	}
	return nil
}

func repositories(n int) string {
	if n == 1 {
		return "1 repository"
	}
	return fmt.Sprintf("%d repositories", n)
}

// copyWord says where the keys of a copy are; "" if it is none.
func copyWord(of string) string {
	if of == "" {
		return ""
	}
	return "at " + printable(of)
}

func heldWord(held *bool) string {
	switch {
	case held == nil:
		return "not known"
	case *held:
		return "held"
	}
	return "not held"
}

func newAdminExpiringCmd(a *app) *cobra.Command {
	within := duration(30 * day)
	var asJSON, all bool
	c := &cobra.Command{
		Use:   "expiring [PATTERN]",
		Short: "List what expires soon, with who has to do what",
		Long: `Example: iechor-trustd admin expiring --within 30d --config /etc/iechor-trustd/server.yaml

Lists every role, and every certificate of a root key, that expires within that
time or has expired, the most urgent of each repository first, and says who has
to do what. What the server signs is listed only when it should have been
renewed by now, or with --all.

Exit status, for cron: 0 if nothing has to be done, 4 if something has, 1 if it
could not look. PATTERN is that of "admin list".`,
		Args: atMostOne,
	}
	c.Flags().Var(&withinFlag{&within}, "within", "how far ahead to look")
	c.Flags().BoolVar(&all, "all", false, "also what the server will renew by itself")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return a.adminCommand(c, true, func(ctx context.Context, s *admin, args []string) error {
		return s.expiring(ctx, pattern(args), time.Duration(within), all, asJSON)
	})
}

// withinFlag is a duration as a flag.
type withinFlag struct{ *duration }

func (f *withinFlag) Set(text string) error { return f.UnmarshalText([]byte(text)) }
func (f *withinFlag) Type() string          { return "duration" }
