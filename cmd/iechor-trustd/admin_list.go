package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

func newAdminListCmd(a *app) *cobra.Command {
	var asJSON, ended bool
	c := &cobra.Command{
		Use:   "list [PATTERN]",
		Short: "List repositories",
		Long: `Example: iechor-trustd admin list --config /etc/iechor-trustd/server.yaml 'registry.example/team/*'

Lists the repositories, with the versions of their roles, when something was
last published, what expires next, and the bytes that a client downloads. In
PATTERN a * stands for any characters, slashes included, and a ? for one.
--ended also lists those that were deleted or reset, and not published since.`,
		Args: atMostOne,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	c.Flags().BoolVar(&ended, "ended", false, "also those that were deleted or reset")
	return a.adminCommand(c, false, func(ctx context.Context, s *admin, args []string) error {
		return s.list(ctx, pattern(args), ended, asJSON)
	})
}

// pattern returns what tells whether a repository is meant.
func pattern(args []string) func(tuf.GUN) bool {
	if len(args) == 0 {
		return func(tuf.GUN) bool { return true }
	}
	text := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(args[0]))
	r := regexp.MustCompile("^" + text + "$")
	return func(gun tuf.GUN) bool { return r.MatchString(string(gun)) }
}

// A listed is a line of "admin list".
type listed struct {
	Repository tuf.GUN                `json:"repository"`
	State      string                 `json:"state"` // published or ended
	Versions   map[tuf.RoleName]int64 `json:"versions,omitempty"`
	Published  *time.Time             `json:"published,omitempty"` // the newest file that a client signed
	Read       *time.Time             `json:"read,omitempty"`      // when it was last known to be read, to the day
	Expires    *time.Time             `json:"expires,omitempty"`   // the first role to expire
	Expiring   tuf.RoleName           `json:"expiring,omitempty"`  // that role
	Bytes      int64                  `json:"bytes"`               // of the current files
}

// The states of a repository.
const (
	publishedState = "published"
	endedState     = "ended"
)

func (s *admin) list(ctx context.Context, meant func(tuf.GUN) bool, ended, asJSON bool) error {
	t := s.table()
	if !asJSON {
		fmt.Fprintln(t, "REPOSITORY\tROOT\tTARGETS\tTIMESTAMP\tPUBLISHED\tEXPIRES FIRST\tBYTES")
	}
	err := s.each(ctx, func(r storage.Repository) error {
		if !meant(r.GUN) || r.Deleted && !ended {
			return nil
		}
		l, err := s.listed(ctx, r)
		if err != nil || l == nil {
			return err
		}
		if asJSON {
			return s.printJSON(l)
		}
		if l.State == endedState {
			_, err = fmt.Fprintf(t, "%s\t-\t-\t-\t-\tended\t-\n", l.Repository)
			return err
		}
		_, err = fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t%s %s\t%d\n", l.Repository, l.Versions[tuf.RoleRoot], l.Versions[tuf.RoleTargets],
			l.Versions[tuf.RoleTimestamp], date(*l.Published), date(*l.Expires), l.Expiring, l.Bytes)
		return err
	})
	return errors.Join(err, t.Flush())
}

// listed looks a repository up; nil if it was ended meanwhile.
func (s *admin) listed(ctx context.Context, r storage.Repository) (*listed, error) {
	l := &listed{Repository: r.GUN, State: endedState}
	if r.Deleted {
		return l, nil
	}
	state, err := s.store.Current(ctx, r.GUN)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.State, l.Versions, l.Published, l.Expires = publishedState, map[tuf.RoleName]int64{}, new(time.Time), new(time.Time)
	if !r.Seen.IsZero() {
		l.Read = &r.Seen
	}
	for role, e := range state.Roles {
		l.Versions[role] = e.Version
		l.Bytes += e.Length
		if role != tuf.RoleTimestamp && role != tuf.RoleSnapshot && e.Created.After(*l.Published) {
			*l.Published = e.Created
		}
		if l.Expires.IsZero() || e.Expires.Before(*l.Expires) {
			*l.Expires, l.Expiring = e.Expires, role
		}
	}
	return l, nil
}

// printJSON prints v as one line.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
