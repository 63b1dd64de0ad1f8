package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/tuf"
)

type pushOptions struct {
	ref   registry.Ref
	from  source
	all   bool
	quiet bool
	trust bool
	token tokenChoice
}

// A source is where the pushed image comes from: a place on this machine, or
// the registry itself, where there is nothing to upload and all to sign.
type source struct {
	image    registry.Image
	registry bool
	digest   registry.Digest // of the image in the registry; zero: what the tag names now
}

func parseSource(s string) (source, error) {
	if s == "registry" {
		return source{registry: true}, nil
	}
	if at, ok := strings.CutPrefix(s, "registry@"); ok {
		d, err := registry.ParseDigest(at)
		return source{registry: true, digest: d}, err
	}
	image, err := registry.ParseImage(s)
	return source{image: image}, err
}

func newPushCmd(a *app) *cobra.Command {
	var o pushOptions
	var from string
	var disabled bool
	cmd := &cobra.Command{
		Use:   "push [flags] NAME[:TAG]",
		Short: "Upload an image and sign its tag",
		Example: `  iechor push registry.example.com/app:1.2
  iechor push registry.example.com/app:1.2 --from oci:./layout
  iechor push registry.example.com/app:1.2 --from registry@sha256:<64 digits>`,
		Long: `Push uploads an image and, while content trust is on, signs the tag: exactly the
digest that was uploaded, and nothing else that may be staged for the
repository. That you can sign (keys, passphrases, the right to publish) is
checked before anything is uploaded. The first push of all makes your root key,
and the first one of a repository makes the repository's key.

--from says where the image is:
  engine                    the local engine, under the name that is pushed (default)
  oci:DIR[:TAG|@DIGEST]     an OCI layout; an index goes with all its platforms
  docker-archive:FILE[:REF] what "save" of an engine writes
  registry                  nothing is uploaded: sign what the registry has under
                            this tag now, image or index
  registry@DIGEST           nothing is uploaded: sign exactly this content`,
		Args: exactArgs(1, "one image name"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.ref, err = registry.ParseRef(args[0]); err != nil {
				return err
			}
			if o.from, err = parseSource(from); err != nil {
				return err
			}
			if o.trust, err = a.trustOn(cmd, disabled); err != nil {
				return err
			}
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.push(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.all, "all-tags", "a", false, "push, and sign, all tags of the repository that the source has")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but the reference at the end")
	cmd.Flags().StringVar(&from, "from", "engine", "`place` of the image, see above")
	addTrustFlag(cmd, &disabled, "skip image signing")
	addTokenFlags(cmd, &o.token)
	return cmd
}

// errPushDigest is about push NAME@DIGEST (spec/cli.md 5.3).
var errPushDigest = errors.New("cannot push a digest reference")

// check refuses what makes no sense, before any work.
func (o *pushOptions) check(cmd *cobra.Command) error {
	switch {
	case !o.ref.Digest.IsZero():
		return errPushDigest
	case o.all && o.ref.Tag != "":
		return usage(cmd, "a tag cannot be given together with --all-tags", "leave out :"+o.ref.Tag+" or --all-tags")
	case o.all && o.from.registry:
		return usage(cmd, "--all-tags cannot sign what is in the registry already", "name each tag: which ones you vouch for is yours to say")
	case o.all && o.from.image.Select != "":
		return usage(cmd, "--all-tags takes all images of the source, and --from names one", "leave out "+o.from.image.Select+" or --all-tags")
	case o.from.registry && !o.trust:
		return usage(cmd, "--from registry only signs, and content trust is off", "set "+switchVariable+"=1")
	}
	return nil
}

// push takes the path that the documents describe: find out what is to be
// pushed, see that it can be signed, upload it, sign it.
func (a *app) push(ctx context.Context, o pushOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.token, d.onTokenOnly = o.token.name, o.token.onOnly
	if o.quiet {
		d.app = quietly(a)
	}
	items, err := d.items(ctx, o)
	if err != nil {
		return err
	}
	if o.from.registry {
		d.show(items[0]) // before anybody gives a passphrase for it
	}
	var s *signing
	if o.trust {
		if s, err = d.signing(ctx, o, items); err != nil {
			return err
		}
	}
	if err := d.upload(ctx, o, items); err != nil {
		return err
	}
	if o.trust {
		if err := s.publish(ctx); err != nil {
			return err
		}
	}
	if o.quiet {
		_, err = fmt.Fprintln(a.out, finalReference(o, items))
	}
	return err
}

// finalReference is what --quiet leaves.
func finalReference(o pushOptions, items []*item) string {
	if o.all {
		return o.ref.Repository
	}
	return items[0].ref.String()
}

// An item is one tag under way.
type item struct {
	ref  registry.Ref
	from registry.Image
	is   registry.Descriptor // zero until it is known
	done bool                // is is what the registry has
	sign bool                // the last plan had something to sign for it

	roles []tuf.RoleName // that the last plan had it signed in
	again bool           // is is what was signed under the tag already

	// known are digests that the engine has seen the image under. What it
	// will push has one of them, unless it was built here.
	known []registry.Digest
}

// items finds out what is to be pushed, without changing anything. A missing
// image is an error here, before anybody is asked for anything.
func (d *desk) items(ctx context.Context, o pushOptions) ([]*item, error) {
	switch {
	case o.from.registry:
		ref := o.ref.WithDefaultTag()
		at := ref
		if !o.from.digest.IsZero() {
			at = ref.WithDigest(o.from.digest)
		}
		is, err := d.images.Resolve(ctx, at)
		if err != nil {
			return nil, &imageError{ref: at, err: err}
		}
		return []*item{{ref: ref, is: is, done: true}}, nil
	case !o.all:
		if o.ref.Tag == "" {
			fmt.Fprintln(d.out, "Using default tag: latest")
		}
		return d.describeAll(ctx, []*item{{ref: o.ref.WithDefaultTag(), from: o.from.image}})
	}
	tags, err := d.images.Tags(ctx, o.from.image, o.ref)
	if err == nil && len(tags) == 0 {
		err = registry.ErrNoImage
	}
	if err != nil {
		return nil, pushError(&item{ref: o.ref, from: o.from.image}, err)
	}
	var items []*item
	for _, tag := range sortedTags(tags) {
		ref, err := o.ref.WithTag(tag)
		if err != nil {
			return nil, err
		}
		from := o.from.image
		switch from.Kind {
		case registry.Layout:
			from.Select = tag
		case registry.Archive:
			from.Select = ref.String()
		}
		items = append(items, &item{ref: ref, from: from})
	}
	return d.describeAll(ctx, items)
}

func (d *desk) describeAll(ctx context.Context, items []*item) ([]*item, error) {
	for _, i := range items {
		if err := d.describe(ctx, i); err != nil {
			return nil, pushError(i, err)
		}
	}
	return items, nil
}

// upload brings the items into the registry, and fills in what they are.
func (d *desk) upload(ctx context.Context, o pushOptions, items []*item) error {
	if o.from.registry {
		return nil
	}
	fmt.Fprintf(d.out, "The push refers to repository [%s]\n", o.ref.Repository)
	for _, i := range items {
		p := d.progress(o.quiet)
		is, err := d.images.Push(ctx, i.from, i.ref, registry.PushOptions{Progress: p.report})
		p.Close()
		if err != nil {
			return pushError(i, err)
		}
		i.is, i.done = is, true
		d.show(i)
	}
	return nil
}

func (d *desk) show(i *item) {
	fmt.Fprintf(d.out, "%s: digest: %s size: %d\n", i.ref.Tag, i.is.Digest, i.is.Size)
}

// An imageError says which image an error is about, and where it was.
type imageError struct {
	ref   registry.Ref
	place string // on this machine; or empty
	push  bool   // from place, not to it
	err   error
}

func pushError(i *item, err error) error {
	return &imageError{i.ref, i.from.String(), true, err}
}

func (e *imageError) Error() string { return fmt.Sprintf("%s: %v", e.ref.Familiar(), e.err) }
func (e *imageError) Unwrap() error { return e.err }
