package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type statusOptions struct {
	image image // zero: all repositories of the trust directory
	json  bool
}

func newTrustStatusCmd(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [flags] [REPOSITORY]",
		Short: "Show staged changes, versions, and what expires when",
		Example: `  iechor trust status registry.example.com/app
  iechor trust status
  iechor trust status --json`,
		Long: `Status asks the trust server for the state of a repository and shows what is
staged for it on this machine, which versions this machine had until now and
which the server has, and when each role and each certificate of the root
expires. What needs work soon is a warning, with the command that does it.

Without a repository it sums up all of which this machine has trust data, one
line each. "iechor trust publish" publishes what is staged, "iechor trust reset"
drops it. --json prints an array of objects with Name, Server, Cached, Staged,
Roles, RootCertificates and Advice; each role and certificate with when it Expires
and the command that renews it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Sprintf("%s takes one repository or none, and got %d arguments", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) > 0 {
				ref, err := registry.ParseRef(args[0]) // a tag does no harm here
				if err != nil {
					return err
				}
				o.image = image{printable(args[0]), ref}
			}
			return a.status(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// A repositoryStatus is what is known about one repository.
type repositoryStatus struct {
	Name             string
	Server           string
	Cached           bool `json:",omitempty"` // the server could not be reached
	Unpublished      bool `json:",omitempty"` // it has been made here and is not on the server
	Staged           []stagedState
	Roles            []roleStatus
	RootCertificates []certificateStatus
	Problem          string   `json:",omitempty"` // why the server's state is not known
	Advice           []string `json:",omitempty"` // what its owner could do some day

	repo *repository
}

// A stagedState is a change file, as people number it.
type stagedState struct {
	Number                    int
	Action, Scope, Type, Path string
	Problem                   string `json:",omitempty"` // not understood
}

// A roleStatus compares what this machine had with what the server has.
type roleStatus struct {
	Name    tuf.RoleName
	Here    int64 `json:",omitempty"` // version until now; 0: none
	Server  int64 `json:",omitempty"` // 0: not known
	Expires time.Time
	Renew   string `json:",omitempty"` // the command that renews it; none: the server does
	Problem string `json:",omitempty"`
}

type certificateStatus struct {
	ID      tuf.KeyID
	KeyID   tuf.CanonicalID
	Made    time.Time
	Expires time.Time
	Renew   string
}

// status looks at one repository, or at all. What is wrong with one does not
// keep the others from being shown.
func (a *app) status(ctx context.Context, o statusOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	refs := []registry.Ref{o.image.ref}
	if o.image.ref.Repository == "" {
		if refs, err = d.known(); err != nil {
			return err
		}
	}
	list := []*repositoryStatus{}
	exit := exitDone
	for _, ref := range refs {
		s, err := d.statusOf(ctx, ref)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			exit = max(exit, a.complain(err))
		}
		if s != nil {
			list = append(list, s)
			d.advise(s)
		}
	}
	switch {
	case o.json:
		err = printJSON(d.out, list)
	case o.image.ref.Repository == "":
		d.sumUp(list)
	case len(list) == 1:
		list[0].print(d.out, d.now())
	}
	if err = errors.Join(err, d.remindOfBackup(ctx)); err != nil {
		return err
	}
	return told(exit)
}

// known returns the repositories of the trust directory.
func (d *desk) known() ([]registry.Ref, error) {
	guns, err := trust.NewDir(filepath.Join(d.dir, "trust")).List()
	var refs []registry.Ref
	for _, gun := range guns {
		ref, err := registry.ParseRef(string(gun))
		if err != nil || ref.Repository != string(gun) {
			d.warn("%s in the trust directory is not the name of an image, and passed over", printable(string(gun)))
			continue
		}
		refs = append(refs, ref)
	}
	return refs, err
}

// statusOf finds out everything about one repository. With an error there is
// what is known without the server, unless there is nothing at all.
func (d *desk) statusOf(ctx context.Context, ref registry.Ref) (*repositoryStatus, error) {
	repo, err := d.repository(ref)
	if err != nil {
		return nil, err
	}
	s := &repositoryStatus{
		Name: ref.Repository, Server: repo.server, repo: repo,
		Staged: []stagedState{}, Roles: []roleStatus{}, RootCertificates: []certificateStatus{},
	}
	staged, err := repo.Staged()
	if err != nil {
		return nil, repo.about(err)
	}
	for n, c := range staged {
		s.Staged = append(s.Staged, stagedStateOf(n, c))
	}
	past, err := repo.Local()
	if err != nil {
		return nil, repo.about(err)
	}
	v := d.view(ctx, ref)
	switch {
	case v.set != nil:
		s.Cached = v.stale
		s.published(v.set, past)
		return s, d.forecast(ctx, s, v.set)
	case errors.Is(v.err, trust.ErrNotSigned) && past != nil:
		s.Unpublished, v.err = true, nil
	case past == nil && len(staged) == 0:
		return nil, v.err
	default:
		s.Problem = printable(v.err.Error())
	}
	if past != nil {
		s.remembered(past)
	}
	return s, v.err
}

func stagedStateOf(n int, c trust.Staged) stagedState {
	s := stagedState{Number: n, Action: c.Action, Scope: c.Role, Type: c.Type, Path: c.Path}
	switch {
	case c.Raw == nil:
		s.Problem = "cannot be read: " + c.Name
	case c.Change == nil:
		s.Problem = "not understood: " + c.Name
	}
	return s
}

// published describes what the server has, beside what was here before.
func (s *repositoryStatus) published(set *tuf.Set, past *tuf.Past) {
	for _, r := range roleStates(set) {
		state := roleStatus{Name: r.Name, Server: r.Version, Expires: r.Expires, Renew: renewalOf(s.Name, r.Name), Problem: r.Problem}
		if past != nil {
			state.Here = past.Floor(r.Name)
		}
		s.Roles = append(s.Roles, state)
	}
	for _, u := range set.Unusable() {
		for i := range s.Roles {
			if s.Roles[i].Name == u.Role {
				s.Roles[i].Server = u.Version
			}
		}
	}
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	s.certificates(role)
}

// remembered describes what is here.
func (s *repositoryStatus) remembered(past *tuf.Past) {
	for _, f := range past.Files() {
		if info, ok := past.Info(f.Role); ok {
			s.Roles = append(s.Roles, roleStatus{Name: f.Role, Here: info.Version, Expires: info.Expires, Renew: renewalOf(s.Name, f.Role)})
		}
	}
	role, _ := past.Role(tuf.RoleRoot) // every Past has one
	s.certificates(role)
}

// certificates lists those of the root keys.
func (s *repositoryStatus) certificates(root tuf.Role) {
	for _, k := range root.Keys {
		certs, err := k.Certificates()
		if err != nil || len(certs) == 0 {
			continue // such a key vouches for nothing
		}
		s.RootCertificates = append(s.RootCertificates, certificateStatus{
			ID: k.ID, KeyID: k.CanonicalID(), Made: certs[0].NotBefore, Expires: certs[0].NotAfter, Renew: renewal(s.Name),
		})
	}
}

// unclear returns the numbers of staged changes that are not understood.
func (s *repositoryStatus) unclear() (numbers []int) {
	for _, c := range s.Staged {
		if c.Problem != "" {
			numbers = append(numbers, c.Number)
		}
	}
	return numbers
}

// print writes everything about the repository, the staged changes as the
// stock notary does.
func (s *repositoryStatus) print(out io.Writer, now time.Time) {
	s.printStaged(out)
	switch {
	case s.Unpublished:
		fmt.Fprintf(out, "\n%s is not published: %s has no trust data for it\n", s.Name, s.Server)
	case len(s.Roles) > 0:
		fmt.Fprintf(out, "\nRoles of %s at %s:\n", s.Name, s.Server)
	}
	if len(s.Roles) == 0 {
		return
	}
	fmt.Fprintln(out)
	t := newStockTable(out, "ROLE", "HERE", "SERVER", "EXPIRES", "NOTE")
	for _, r := range s.Roles {
		t.line(string(r.Name), versionText(r.Here), versionText(r.Server), dayText(r.Expires), printable(r.note(now)))
	}
	defer func() {
		for _, line := range s.Advice {
			fmt.Fprintf(out, "\nAdvice: %s\n", line)
		}
	}()
	for _, c := range s.RootCertificates {
		t.line("root certificate "+string(c.ID[:12]), "", "", dayText(c.Expires), worry(tuf.RoleRoot, c.Expires, now))
	}
	t.end()
}

func (s *repositoryStatus) printStaged(out io.Writer) {
	if len(s.Staged) == 0 {
		fmt.Fprintf(out, "No unpublished changes for %s\n", s.Name)
		return
	}
	fmt.Fprintf(out, "Unpublished changes for %s:\n\n", s.Name)
	headers := []string{"#", "ACTION", "SCOPE", "TYPE", "PATH"}
	if len(s.unclear()) > 0 {
		headers = append(headers, "PROBLEM")
	}
	t := newStockTable(out, headers...)
	for _, c := range s.Staged {
		line := []string{fmt.Sprint(c.Number), printable(c.Action), printable(c.Scope), printable(c.Type), printable(c.Path)}
		if c.Problem != "" {
			line = append(line, printable(c.Problem))
		}
		t.line(line...)
	}
	t.end()
}

func (r roleStatus) note(now time.Time) string {
	note := r.Problem
	add := func(s string) {
		if note != "" && s != "" {
			note += "; "
		}
		note += s
	}
	if r.Here > 0 && r.Server > r.Here {
		add(fmt.Sprintf("this machine was %s behind", count(int(min(r.Server-r.Here, 1<<30)), "version")))
	}
	add(worry(r.Name, r.Expires, now))
	return note
}

func versionText(v int64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprint(v)
}

func dayText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return day(t)
}

// sumUp writes a line for each repository.
func (d *desk) sumUp(list []*repositoryStatus) {
	if len(list) == 0 {
		fmt.Fprintln(d.out, "No trust data on this machine")
		return
	}
	t := newStockTable(d.out, "REPOSITORY", "STAGED", "FIRST TO EXPIRE", "EXPIRES", "NOTE")
	for _, s := range list {
		what, when := s.first()
		note := ""
		behind := slices.ContainsFunc(s.Roles, func(r roleStatus) bool { return r.Here > 0 && r.Server > r.Here })
		switch {
		case s.Unpublished:
			note = "not on the server"
		case s.Problem != "":
			note = "see above"
		case s.Cached:
			note = "server cannot be reached"
		case behind:
			note = "this machine was behind"
		}
		t.line(printable(s.Name), fmt.Sprint(len(s.Staged)), what, dayText(when), note)
	}
	t.end()
}

// first returns what ends first.
func (s *repositoryStatus) first() (what string, when time.Time) {
	see := func(name string, at time.Time) {
		if !at.IsZero() && (when.IsZero() || at.Before(when)) {
			what, when = name, at
		}
	}
	for _, r := range s.Roles {
		if r.Name != tuf.RoleTimestamp && r.Name != tuf.RoleSnapshot {
			see(string(r.Name), r.Expires) // the others are the server's to renew
		}
	}
	for _, c := range s.RootCertificates {
		see("root certificate", c.Expires)
	}
	return what, when
}
