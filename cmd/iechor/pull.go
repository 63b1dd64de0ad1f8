package main

import (
	"context"
	"encoding/json"
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

type pullOptions struct {
	ref      registry.Ref
	to       registry.Image
	platform registry.Platform
	all      bool
	quiet    bool
	trust    bool
}

func newPullCmd(a *app) *cobra.Command {
	var o pullOptions
	var to, platform string
	var disabled bool
	cmd := &cobra.Command{
		Use:   "pull [flags] NAME[:TAG|@DIGEST]",
		Short: "Get the image that the owner of a tag has signed",
		Example: `  iechor pull registry.example.com/app:1.2
  iechor pull registry.example.com/app:1.2 --to oci:./layout
  iechor pull registry.example.com/app:1.2 --to docker-archive:app.tar --platform linux/arm64`,
		Long: `Pull asks the trust server which digest the tag has now, verifies the answer,
and gets exactly that content from the registry. While content trust is on,
there is no way around a missing or bad signature but
--disable-content-trust. A reference with a digest says itself what is wanted,
and nobody is asked.

--to says where the image goes:
  engine                    the local engine (default)
  oci:DIR[:TAG]             an OCI layout; an index comes with all its platforms
  docker-archive:FILE[:REF] a file that engines "load"`,
		Args: exactArgs(1, "one image name"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.ref, err = registry.ParseRef(args[0]); err != nil {
				return err
			}
			if o.to, err = registry.ParseImage(to); err != nil {
				return err
			}
			if platform != "" {
				if o.platform, err = registry.ParsePlatform(platform); err != nil {
					return err
				}
			}
			if o.trust, err = a.trustOn(cmd, disabled); err != nil {
				return err
			}
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.pull(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.all, "all-tags", "a", false, "pull all tags of the repository: with content trust, all signed ones")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but the reference at the end")
	cmd.Flags().StringVar(&to, "to", "engine", "`place` for the image, see above")
	cmd.Flags().StringVar(&platform, "platform", "", "`OS/ARCHITECTURE` of the image wanted from an index")
	addTrustFlag(cmd, &disabled, "skip image verification")
	return cmd
}

func (o *pullOptions) check(cmd *cobra.Command) error {
	switch {
	case o.all && (o.ref.Tag != "" || !o.ref.Digest.IsZero()):
		return usage(cmd, "a tag or digest cannot be given together with --all-tags", "leave it out: "+o.ref.FamiliarName())
	case o.all && o.to.Kind == registry.Archive:
		return usage(cmd, "a docker archive takes one image, and --all-tags pulls several", "pull into an OCI layout: --to oci:DIR")
	case o.all && o.to.Select != "":
		return usage(cmd, "--all-tags pulls several images, and --to names one", "leave out "+o.to.Select)
	case o.platform != (registry.Platform{}) && o.to.Kind == registry.Layout:
		return usage(cmd, "an OCI layout takes an index with all its platforms", "leave out --platform, or pull to engine or docker-archive:FILE")
	}
	return nil
}

// pull finds out what is wanted, and gets exactly that.
func (a *app) pull(ctx context.Context, o pullOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if o.quiet {
		d.app = quietly(a)
	}
	var wanted []wanted
	switch {
	case !o.ref.Digest.IsZero():
		o.trust = false // a digest is all the answer there could be (spec/cli.md 1.4)
		wanted, err = d.named(ctx, o)
	case !o.trust:
		wanted, err = d.untrusted(ctx, o)
	default:
		wanted, err = d.trusted(ctx, o)
	}
	if err != nil {
		return err
	}
	if o.ref.Tag == "" && o.ref.Digest.IsZero() && !o.all {
		fmt.Fprintln(d.out, "Using default tag: latest")
	}
	for n, w := range wanted {
		if o.trust {
			fmt.Fprintf(d.out, "Pull (%d of %d): %s@%s\n", n+1, len(wanted), w.ref.Familiar(), w.is.Digest)
		}
		if err := d.fetch(ctx, o, w); err != nil {
			return err
		}
	}
	last := o.ref.Repository
	if !o.all {
		last = o.ref.WithDefaultTag().String()
	}
	_, err = fmt.Fprintln(a.out, last)
	return err
}

// A wanted thing is a name together with the content that it has to have.
type wanted struct {
	ref registry.Ref // name and tag, or name and digest
	is  registry.Descriptor
}

// named takes the digest that the user wrote.
func (d *desk) named(_ context.Context, o pullOptions) ([]wanted, error) {
	return []wanted{{ref: o.ref, is: registry.Descriptor{Digest: o.ref.Digest}}}, nil
}

// untrusted takes the registry's word: content trust is off.
func (d *desk) untrusted(ctx context.Context, o pullOptions) ([]wanted, error) {
	tags := []string{o.ref.WithDefaultTag().Tag}
	if o.all {
		var err error
		if tags, err = d.images.List(ctx, o.ref); err != nil {
			return nil, &imageError{ref: o.ref, err: err}
		}
	}
	var out []wanted
	for _, tag := range sortedTags(tags) {
		ref, err := o.ref.WithTag(tag)
		if err != nil {
			return nil, err
		}
		is, err := d.images.Resolve(ctx, ref)
		if err != nil {
			return nil, &imageError{ref: ref, err: err}
		}
		out = append(out, wanted{ref, is})
	}
	if len(out) == 0 {
		return nil, &imageError{ref: o.ref, err: registry.ErrNotFound}
	}
	return out, nil
}

// trusted takes the word of those who own the tags, and nobody else's.
func (d *desk) trusted(ctx context.Context, o pullOptions) ([]wanted, error) {
	repo, err := d.repository(o.ref)
	if err != nil {
		return nil, err
	}
	set, err := repo.Update(ctx)
	if set == nil {
		return nil, repo.about(err)
	}
	var stale *trust.Stale
	switch {
	case errors.As(err, &stale):
		d.warnStale(repo, stale)
	case err != nil:
		return nil, repo.about(err)
	}
	d.warnUnusable(repo, set)
	d.warnExpiry(repo, set)
	if o.all {
		return d.signed(repo, set, o.ref)
	}
	ref := o.ref.WithDefaultTag()
	t, err := trust.Lookup(set, ref.Tag)
	if err != nil {
		return nil, &tagError{ref: ref, server: repo.server, signed: releasedTags(set), err: repo.about(err)}
	}
	is, err := descriptor(t)
	if err != nil {
		return nil, repo.about(err)
	}
	return []wanted{{ref, is}}, nil
}

// signed lists everything that consumers see.
func (d *desk) signed(repo *repository, set *tuf.Set, name registry.Ref) ([]wanted, error) {
	var out []wanted
	for _, tag := range releasedTags(set) {
		var is registry.Descriptor
		t, err := trust.Lookup(set, tag)
		if err == nil {
			is, err = descriptor(t)
		}
		if err != nil {
			fmt.Fprintf(d.err, "Skipping target for %q\n", printable(tag))
			continue
		}
		ref, err := name.WithTag(tag)
		if err != nil {
			fmt.Fprintf(d.err, "Skipping target for %q\n", printable(tag)) // signed, and no name of an image
			continue
		}
		out = append(out, wanted{ref, is})
	}
	if len(out) == 0 {
		return nil, repo.about(errNoTrustedTags)
	}
	return out, nil
}

// errNoTrustedTags says that a repository with trust data has no signed tag.
var errNoTrustedTags = errors.New("no trusted tags")

// releasedTags returns the tags that consumers see, in natural order.
func releasedTags(set *tuf.Set) []string {
	var tags []string
	for _, role := range []tuf.RoleName{tuf.RoleReleases, tuf.RoleTargets} {
		for t := range set.Targets(role) {
			tags = append(tags, t.Name)
		}
	}
	slices.Sort(tags)
	return sortedTags(slices.Compact(tags))
}

// descriptor turns a signed target into what to get. Only a sha256 counts
// (spec/cli.md 1.4).
func descriptor(t tuf.Target) (registry.Descriptor, error) {
	is := registry.Descriptor{Size: t.Length}
	if len(t.SHA256()) != len(is.Digest) {
		return is, &trust.NoTrustData{Tag: t.Name}
	}
	copy(is.Digest[:], t.SHA256())
	var c custom
	if len(t.Custom) > 0 && json.Unmarshal(t.Custom, &c) == nil && (registry.Descriptor{MediaType: c.MediaType}).Index() {
		is.MediaType = c.MediaType
	}
	return is, nil
}

// fetch gets one image by its digest and gives it its name.
func (d *desk) fetch(ctx context.Context, o pullOptions, w wanted) error {
	exact := w.ref.WithDigest(w.is.Digest)
	path := w.ref.Path()
	switch {
	case o.trust || w.ref.Tag == "":
		fmt.Fprintf(d.out, "%s: Pulling from %s\n", exact.Familiar(), path)
	default:
		fmt.Fprintf(d.out, "%s: Pulling from %s\n", w.ref.Tag, path)
	}
	had := o.to.Kind == registry.Engine && d.engineHas(ctx, exact)
	p := d.progress(o.quiet)
	err := d.images.Pull(ctx, w.ref, w.is, o.to, registry.PullOptions{Platform: o.platform, Progress: p.report})
	p.Close()
	if err != nil {
		return &imageError{w.ref, o.to.String(), false, err}
	}
	status := "Downloaded newer image for"
	if had {
		status = "Image is up to date for"
	}
	name := exact
	if !o.trust && w.ref.Tag != "" {
		name = w.ref
	}
	fmt.Fprintf(d.out, "Digest: %s\nStatus: %s %s\n", w.is.Digest, status, name.Familiar())
	if o.trust && !o.quiet {
		fmt.Fprintf(d.err, "Tagging %s as %s\n", exact.Familiar(), w.ref.Familiar())
	}
	return nil
}

func (d *desk) engineHas(ctx context.Context, ref registry.Ref) bool {
	_, err := d.images.Inspect(ctx, ref)
	return err == nil
}

// warnStale says that the answer is not the server's (spec/cli.md 3.4).
func (d *desk) warnStale(repo *repository, s *trust.Stale) {
	state := "trust data"
	if s.Expired {
		state = "EXPIRED trust data"
	}
	d.warn("%s cannot be reached (%s); using the %s of %s that was fetched %s ago - this might not be the latest version available remotely",
		repo.server, printable(s.Cause.Error()), state, repo.GUN(), age(s.Age))
}

// warnUnusable says that what has been released does not count.
func (d *desk) warnUnusable(repo *repository, set *tuf.Set) {
	for _, u := range set.Unusable() {
		if u.Role == tuf.RoleReleases {
			d.warn("what was released in %s does not count: %s; tell the owners of %s", repo.GUN(), printable(u.Err.Error()), repo.GUN())
		}
	}
}

// age says a duration in the largest unit that tells it well.
func age(d time.Duration) string {
	say := func(n int64, unit string) string {
		if n != 1 {
			unit += "s"
		}
		return fmt.Sprintf("%d %s", n, unit)
	}
	switch {
	case d < time.Minute:
		return say(int64(d/time.Second), "second")
	case d < time.Hour:
		return say(int64(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return say(int64(d/time.Hour), "hour")
	}
	return say(int64(d/(24*time.Hour)), "day")
}

// A tagError says that a tag is not signed, where others are.
type tagError struct {
	ref    registry.Ref
	server string
	signed []string // the tags that are
	err    error
}

func (e *tagError) Error() string { return fmt.Sprintf("%s: %v", e.ref.Familiar(), e.err) }
func (e *tagError) Unwrap() error { return e.err }

// sortedTags sorts as people count: 1.2 before 1.10.
func sortedTags(tags []string) []string {
	tags = slices.Clone(tags)
	slices.SortFunc(tags, compareTags)
	return tags
}

func compareTags(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		n, m := digits(x), digits(y)
		if n == 0 || m == 0 {
			if x[0] != y[0] {
				return int(x[0]) - int(y[0])
			}
			x, y = x[1:], y[1:]
			continue
		}
		i, j := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
		if len(i) != len(j) {
			return len(i) - len(j)
		}
		if c := strings.Compare(i, j); c != 0 {
			return c
		}
		x, y = x[n:], y[m:]
	}
	if d := len(x) - len(y); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// digits counts the digits that s begins with.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}
