package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type inspectOptions struct {
	images []image
	pretty bool
	full   bool // --json
	format *template.Template
}

// An image is a reference and how it was written, which is how it is shown.
type image struct {
	typed string
	ref   registry.Ref
}

func newTrustInspectCmd(a *app) *cobra.Command {
	var o inspectOptions
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [flags] NAME[:TAG|@DIGEST]...",
		Short: "Show what is signed, by whom, and with which keys",
		Example: `  iechor trust inspect --pretty registry.example.com/app
  iechor trust inspect registry.example.com/app:1.2
  iechor trust inspect registry.example.com/app@sha256:<64 digits>
  iechor trust inspect --format '{{range .SignedTags}}{{.SignedTag}} {{.Digest}}{{"\n"}}{{end}}' registry.example.com/app`,
		Long: `Inspect verifies the trust data of each repository, as a pull does, and shows
which tags are signed. With a tag only this tag is listed; with a digest the
tags that have it, and the exit status is 1 if none has. An unsigned tag of a
repository with trust data is an empty list, and no failure.

The result is a JSON array of one object for each image, member for member what
the stock program prints:
  Name                what was asked for
  SignedTags          SignedTag, Digest (64 hex digits) and Signers of each tag
  Signers             Name and Keys of each signer
  AdministrativeKeys  the keys named Root and Repository. The ID of a root key is
                      that of its certificate, another one for every repository

--json adds members to that and changes none:
  KeyID               beside the ID of a root key: the name of its key file
  Server              the trust server that was asked
  Cached              whether it could not be reached, so that this is a copy
  Roles               Name, Version, Expires, Threshold, Keys and Paths of each
                      role, and why it does not count, if so, as Problem
  PrivateKeys         ID and Location of those of these keys that are on this
                      machine: a directory, or a token that is there

--format takes a Go template, which is applied to each image with the members of
--json; the function "json" writes a value as JSON, "join" joins a list.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, cmd.CommandPath()+" takes one or more image names")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.images, err = parseImages(args); err != nil {
				return err
			}
			chosen := 0
			for _, name := range []string{"pretty", "json", "format"} {
				if cmd.Flags().Changed(name) {
					chosen++
				}
			}
			if chosen > 1 {
				return usage(cmd, "--pretty, --json and --format exclude each other", "choose one of them")
			}
			if cmd.Flags().Changed("format") {
				if o.format, err = parseFormat(format); err != nil {
					return usage(cmd, "--format: "+err.Error())
				}
			}
			return a.inspect(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.pretty, "pretty", false, "print tables for people")
	cmd.Flags().BoolVar(&o.full, "json", false, "print JSON with more members, see above")
	cmd.Flags().StringVar(&format, "format", "", "print each image by a Go `template`")
	return cmd
}

func parseImages(args []string) ([]image, error) {
	images := make([]image, 0, len(args))
	for _, arg := range args {
		ref, err := registry.ParseRef(arg)
		if err != nil {
			return nil, err
		}
		images = append(images, image{arg, ref})
	}
	return images, nil
}

// inspect shows one image after the other. What of them cannot be had is said
// on the way, and does not keep the others from being shown, except for people.
func (a *app) inspect(ctx context.Context, o inspectOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	out := bufio.NewWriter(a.out)
	p := o.printer(out)
	seen := map[string]view{} // one update a call, however often a repository is named
	exit := exitDone
	for n, i := range o.images {
		v, ok := seen[i.ref.Repository]
		if !ok {
			v = d.view(ctx, i.ref)
		}
		delete(seen, i.ref.Repository) // not to hold what nobody asks for any more
		if slices.ContainsFunc(o.images[n+1:], func(o image) bool { return o.ref.Repository == i.ref.Repository }) {
			seen[i.ref.Repository] = v
		}
		if v.set == nil {
			err := &inspectError{i.typed, v.err}
			if o.pretty || ctx.Err() != nil {
				return errors.Join(err, out.Flush())
			}
			exit = max(exit, a.complain(err))
			continue
		}
		s := d.inspection(i, v)
		if o.pretty || o.full || o.format != nil {
			if s.private, err = d.privateKeys(ctx, v.set); err != nil {
				return err
			}
		}
		if err := p.print(s); err != nil {
			return err
		}
		if !i.ref.Digest.IsZero() && len(s.rows) == 0 {
			exit = max(exit, a.complain(&inspectError{i.typed, errDigestNotSigned}))
		}
	}
	if err := errors.Join(p.end(), out.Flush()); err != nil {
		return err
	}
	return told(exit)
}

// A view is what the trust server publishes of a repository.
type view struct {
	repo  *repository
	set   *tuf.Set // nil: err says why
	stale bool     // set is the copy at hand
	err   error
}

// view updates a repository and warns about what does not count in it.
func (d *desk) view(ctx context.Context, ref registry.Ref) view {
	repo, err := d.repository(ref)
	if err != nil {
		return view{err: err}
	}
	set, err := repo.Update(ctx)
	var stale *trust.Stale
	switch {
	case set == nil:
		return view{repo: repo, err: repo.about(err)}
	case errors.As(err, &stale):
		d.warnStale(repo, stale)
	case err != nil:
		return view{repo: repo, err: repo.about(err)}
	}
	for _, u := range set.Unusable() {
		d.warn("%s of %s does not count: %s", u.Role, repo.GUN(), printable(u.Err.Err.Error()))
	}
	return view{repo: repo, set: set, stale: stale != nil}
}

// An inspection is what is shown of one image.
type inspection struct {
	set    *tuf.Set
	name   string
	rows   []row
	others []tuf.RoleName // whose signatures are shown, by name

	server  string
	stale   bool
	private []privateKey
}

// A privateKey is one that this machine has, and where.
type privateKey struct {
	ID       tuf.CanonicalID
	Location string
}

// privateKeys says where the private keys of a repository are, as far as they
// are here. What a token in trouble keeps from being seen does not hide the rest.
func (d *desk) privateKeys(ctx context.Context, set *tuf.Set) ([]privateKey, error) {
	all, trouble := d.keys.List(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if trouble != nil {
		d.warn("not all private keys can be seen: %s", printable(trouble.Error()))
	}
	speaks := map[tuf.CanonicalID]bool{}
	for _, state := range roleStates(set) {
		for _, id := range state.Keys {
			speaks[id] = true
		}
	}
	var here []privateKey
	for _, k := range all {
		if speaks[k.ID] {
			here = append(here, privateKey{k.ID, k.Store.Name()})
		}
	}
	return here, nil
}

// A row is a released tag. There are two of one name if targets and
// targets/releases differ: consumers get the first.
type row struct {
	tag    string
	digest [32]byte
}

// inspection selects what i asks for. Only a sha256 counts (spec/cli.md 1.4).
func (d *desk) inspection(i image, v view) *inspection {
	s := &inspection{set: v.set, name: i.typed, server: v.repo.server, stale: v.stale}
	for _, role := range v.set.Roles() {
		if role.Delegation() && role != tuf.RoleReleases {
			s.others = append(s.others, role)
		}
	}
	sortRoles(s.others)
	add := func(t tuf.Target) {
		is, err := descriptor(t)
		if err != nil {
			fmt.Fprintf(d.err, "Skipping target for %q\n", printable(t.Name))
			return
		}
		if i.ref.Digest.IsZero() || is.Digest == i.ref.Digest {
			s.rows = append(s.rows, row{t.Name, is.Digest})
		}
	}
	for _, role := range []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets} {
		if i.ref.Tag != "" {
			if t, err := v.set.Lookup(i.ref.Tag, role); err == nil {
				add(t)
			}
			continue
		}
		for t := range v.set.Targets(role) {
			add(t)
		}
	}
	s.rows = sortedRows(s.rows)
	for n := 1; n < len(s.rows); n++ {
		if s.rows[n].tag == s.rows[n-1].tag {
			d.warn("%s:%s is signed with two digests; consumers get the one in %s", v.repo.GUN(), printable(s.rows[n].tag), tuf.RoleReleases)
		}
	}
	return s
}

// signers returns who else signed exactly this content under this tag.
func (s *inspection) signers(r row) (names []string) {
	for _, role := range s.others {
		if t, err := s.set.Lookup(r.tag, role); err == nil && string(t.SHA256()) == string(r.digest[:]) {
			names = append(names, signerName(role))
		}
	}
	return names
}

// signerName is the name of a signer as people know it.
func signerName(role tuf.RoleName) string {
	return strings.TrimPrefix(string(role), string(tuf.RoleTargets)+"/")
}

// repoAdmin is shown as signer of what nobody but the repository's key signed.
const repoAdmin = "Repo Admin"

// errDigestNotSigned says that no tag of a repository has a digest.
var errDigestNotSigned = errors.New("no signed tag has this digest")

// An inspectError says what could not be inspected.
type inspectError struct {
	name string // as it was typed
	err  error
}

func (e *inspectError) Error() string { return fmt.Sprintf("inspect %s: %v", e.name, e.err) }
func (e *inspectError) Unwrap() error { return e.err }
