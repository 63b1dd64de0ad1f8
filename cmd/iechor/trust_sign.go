package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type signOptions struct {
	refs    []registry.Ref
	digest  registry.Digest
	local   bool
	signer  string
	token   tokenChoice
	propose string // file; empty: publish
}

func newTrustSignCmd(a *app) *cobra.Command {
	var o signOptions
	var digest string
	cmd := &cobra.Command{
		Use:   "sign [flags] IMAGE:TAG...",
		Short: "Sign tags",
		Example: `  iechor trust sign registry.example.com/app:1.2
  iechor trust sign registry.example.com/app:1.2 registry.example.com/app:latest --digest sha256:<64 digits>
  iechor trust sign --local registry.example.com/app:1.2`,
		Long: `Sign adds your signature to tags, with every signer's key that is here, or with
the repository's key where there are no signers. For each tag it signs

  with --digest     exactly that content, image or index, which the registry has
  with --local      the image that the local engine has, which is pushed first
  otherwise         what is signed under the tag already; if nothing is, the
                    image that the local engine has, which is pushed first; and
                    if there is none, what the registry has, image or index

and says which digest that is. A local image that is not what is signed already
stops it: --local or --digest says which of them is meant. All tags of a
repository are published at once.

A repository without trust data gets its keys and its first signer: you, by the
name with which you are logged in to its registry, or by that of --signer. In a
repository with signers --signer signs as that one alone.

With --propose nothing is published: where more people must sign than have their
keys here, the file goes to them. Images are pushed as otherwise.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, cmd.CommandPath()+" takes one or more tags")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.refs, err = parseTags(args); err != nil {
				return err
			}
			if cmd.Flags().Changed("digest") {
				if o.digest, err = registry.ParseDigest(digest); err != nil {
					return err
				}
				if o.local {
					return usage(cmd, "--local and --digest exclude each other", "leave out --local to sign what the registry has")
				}
			}
			if cmd.Flags().Changed("signer") {
				if _, err := signerRole(o.signer); err != nil {
					return err
				}
			}
			if o.propose != "" && !oneRepository(o.refs) {
				return usage(cmd, "a proposal is for one repository", "give the tags of one with --propose")
			}
			return a.trustSign(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "`digest` of what is signed: sha256 and 64 hexadecimal digits")
	cmd.Flags().BoolVar(&o.local, "local", false, "push the local image, and sign it, whatever is signed now")
	cmd.Flags().StringVar(&o.signer, "signer", "", "`name` of the signer to sign as")
	addTokenFlags(cmd, &o.token)
	addProposeFlag(cmd, &o.propose)
	return cmd
}

// parseTags reads arguments that must each name a tag.
func parseTags(args []string) ([]registry.Ref, error) {
	var refs []registry.Ref
	for _, arg := range args {
		ref, err := registry.ParseRef(arg)
		switch {
		case err != nil:
			return nil, err
		case !ref.Digest.IsZero():
			return nil, errDigestReference
		case ref.Tag == "":
			return nil, &statedError{sentence: "No tag specified for " + printable(arg), hints: []string{"name the tag: " + ref.Familiar() + ":TAG"}}
		case !slices.Contains(refs, ref):
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

var errDigestReference = &statedError{sentence: "cannot use a digest reference for IMAGE:TAG",
	hints: []string{"signatures belong to tags: name one; what it is to be, trust sign takes with --digest"}}

// trustSign signs one repository after the other, in the order of their first
// tags. What goes wrong with one does not stop the others.
func (a *app) trustSign(ctx context.Context, o signOptions) (err error) {
	if err := newPath(o.propose); err != nil {
		return err
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.token, d.onTokenOnly = o.token.name, o.token.onOnly
	exit := exitDone
	for n := 0; n < len(o.refs); n++ {
		var others []registry.Ref
		these := o
		these.refs = nil
		for _, ref := range o.refs[n:] {
			if ref.Repository == o.refs[n].Repository {
				these.refs = append(these.refs, ref)
			} else {
				others = append(others, ref)
			}
		}
		o.refs = append(slices.Clone(o.refs[:n+1]), others...)
		err := d.signRepository(ctx, these)
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, context.Canceled), len(o.refs) == 1:
			return err
		default:
			exit = max(exit, a.complain(err))
		}
	}
	return told(exit)
}

// signRepository signs tags of one repository: it finds out what they are,
// sees that they can be signed, pushes what is local, publishes, and looks.
func (d *desk) signRepository(ctx context.Context, o signOptions) error {
	repo, err := d.repository(o.refs[0])
	if err != nil {
		return err
	}
	s := &signing{desk: d, repo: repo}
	for _, ref := range o.refs {
		s.items = append(s.items, &item{ref: ref})
	}
	set, err := repo.Update(ctx)
	if err != nil && !errors.Is(err, trust.ErrNotSigned) {
		return s.failed(err)
	}
	if set == nil && o.propose != "" {
		return neverPublished(repo.GUN())
	}
	if err := s.as(ctx, o, set); err != nil {
		return s.failed(err)
	}
	local, err := s.choose(ctx, o, set)
	if err != nil {
		return err
	}
	if o.propose != "" {
		return s.proposeTags(ctx, o, local)
	}
	if set == nil {
		err = s.start(ctx)
	}
	if err == nil {
		err = repo.CanPublish(ctx, s.steady(s.plan(ctx)))
	}
	if err != nil {
		return s.failed(s.undo(ctx, err))
	}
	if len(local) > 0 {
		if err := d.upload(ctx, pushOptions{ref: o.refs[0]}, local); err != nil {
			return s.undo(ctx, err)
		}
		fmt.Fprintln(d.out, "Signing and pushing trust metadata")
	}
	done, err := repo.Publish(ctx, s.steady(s.plan(ctx)))
	if err != nil {
		if perhaps := errors.Is(err, trust.ErrUncertain) || errors.Is(err, trust.ErrUnreachable) || ctx.Err() != nil; !perhaps {
			err = s.undo(ctx, err)
		}
		return s.failed(err)
	}
	if err := s.look(ctx); err != nil {
		return s.failed(err)
	}
	if done.First && s.begin != nil {
		fmt.Fprintf(d.out, "Created signer: %s\nFinished initializing signed repository for %s\n", signerName(s.begin.role), o.refs[0])
	}
	s.report(done)
	return nil
}

// proposeTags is for signatures that others have to add theirs to.
func (s *signing) proposeTags(ctx context.Context, o signOptions, local []*item) error {
	if len(local) > 0 {
		if err := s.upload(ctx, pushOptions{ref: o.refs[0]}, local); err != nil {
			return err
		}
	}
	return s.propose(ctx, s.repo, s.steady(s.plan(ctx)), o.propose)
}

// as finds out who signs, before anybody is asked for anything.
func (s *signing) as(ctx context.Context, o signOptions, set *tuf.Set) error {
	name := o.signer
	host := o.refs[0].Host()
	if set == nil && name == "" {
		c, err := s.credentials.Lookup(ctx, host)
		if err != nil {
			return err
		}
		if name = c.Username; name == "" {
			return &statedError{sentence: "could not add signer to repo: you are not logged in to " + host,
				hints: []string{"log in first, and your name there becomes the name of the signer: iechor login " + host, "or name the signer: --signer NAME"}}
		}
	}
	if name == "" {
		return nil
	}
	role, err := signerRole(name)
	if err != nil {
		if stated := new(statedError); errors.As(err, &stated) && o.signer == "" {
			stated.hints = []string{"that is your name at " + host + "; name the signer otherwise: --signer NAME"}
		}
		return err
	}
	if set == nil {
		s.begin = &beginning{role: role}
		return nil
	}
	if !delegated(set, role) {
		return &statedError{sentence: fmt.Sprintf("No signer %s for repository %s", name, s.repo.GUN()),
			hints: []string{fmt.Sprintf("an owner can add it: iechor trust signer add --key %s.pub %s %s", name, name, s.repo.GUN())}}
	}
	s.signer = role
	return nil
}

// roles returns where a tag is to be signed.
func (s *signing) roles(set *tuf.Set, tag string, has func(tuf.CanonicalID) (bool, error)) ([]tuf.RoleName, error) {
	if set == nil && s.begin != nil {
		return []tuf.RoleName{s.begin.role, tuf.RoleReleases}, nil
	}
	roles, err := trust.SigningRoles(set, tag, has)
	if err != nil || s.signer == "" {
		return roles, err
	}
	roles = slices.DeleteFunc(roles, func(r tuf.RoleName) bool { return r != s.signer && r != tuf.RoleReleases })
	if slices.Contains(roles, s.signer) {
		return roles, nil
	}
	role, _ := set.Role(s.signer) // as found out that it is there
	missing := &tuf.MissingKeys{Role: s.signer, Need: role.Threshold}
	for _, k := range role.Keys {
		missing.Keys = append(missing.Keys, k.CanonicalID())
	}
	return nil, missing
}

// choose finds out what each tag is to be, says so, and returns the items that
// must be pushed first.
func (s *signing) choose(ctx context.Context, o signOptions, set *tuf.Set) (local []*item, err error) {
	for _, i := range s.items {
		found, err := s.local(ctx, o, i)
		if err != nil {
			return nil, err
		}
		signed, known := released(set, i.ref.Tag)
		switch {
		case !o.digest.IsZero():
			err = s.inRegistry(ctx, i, i.ref.WithDigest(o.digest))
		case known && !o.local:
			err = s.again(i, signed, set, found)
		case found != nil:
			i.known = found.Digests
			local = append(local, i)
			fmt.Fprintf(s.err, "Signing and pushing trust data for local image %s, may overwrite remote trust data\n", i.ref)
		default:
			err = s.inRegistry(ctx, i, i.ref)
		}
		if err != nil {
			return nil, err
		}
	}
	return local, nil
}

// local looks for the local image, unless it does not matter. nil means that
// there is none, or no engine.
func (s *signing) local(ctx context.Context, o signOptions, i *item) (*registry.Local, error) {
	if !o.digest.IsZero() {
		return nil, nil
	}
	found, err := s.images.Inspect(ctx, i.ref)
	switch {
	case err == nil:
		return &found, nil
	case !o.local && (errors.Is(err, registry.ErrNoImage) || errors.Is(err, registry.ErrNoEngine)):
		return nil, nil
	case errors.Is(err, registry.ErrNoImage):
		return nil, &statedError{sentence: "An image does not exist locally with the tag: " + i.ref.String(),
			hints: []string{"build or tag it under this name first; to sign what the registry has, leave out --local"}}
	}
	return nil, pushError(i, err)
}

// released returns what consumers get for a tag.
func released(set *tuf.Set, tag string) (registry.Descriptor, bool) {
	if set == nil {
		return registry.Descriptor{}, false
	}
	t, err := trust.Lookup(set, tag)
	if err != nil {
		return registry.Descriptor{}, false
	}
	is, err := descriptor(t)
	return is, err == nil
}

// inRegistry takes what the registry has, and shows it before anybody gives a
// passphrase for it.
func (s *signing) inRegistry(ctx context.Context, i *item, at registry.Ref) error {
	is, err := s.images.Resolve(ctx, at)
	if errors.Is(err, registry.ErrNotFound) {
		return &statedError{sentence: "Error: No such image: " + at.String(),
			hints: []string{"neither a local engine nor the registry has it: push it first, or see that name and login are right"}}
	}
	if err != nil {
		return &imageError{ref: at, err: err}
	}
	i.is = is
	s.show(i)
	fmt.Fprintf(s.out, "Signing and pushing trust metadata for %s\n", i.ref)
	return nil
}

// again takes what is signed under the tag already, and shows it. A local image
// that is something else means that the user may have that in mind
// (spec/cli.md 7.4).
func (s *signing) again(i *item, is registry.Descriptor, set *tuf.Set, local *registry.Local) error {
	if local != nil && !slices.Contains(local.Digests, is.Digest) && local.ID != is.Digest.String() {
		return &statedError{sentence: fmt.Sprintf("failed to sign %s: the local image is not the one that is signed under this tag, %s", i.ref, is.Digest), hints: []string{
			"to push and sign the local image: iechor trust sign --local " + i.ref.Familiar(),
			"to sign what is signed already: iechor trust sign --digest " + is.Digest.String() + " " + i.ref.Familiar(),
		}}
	}
	i.is, i.again = is, true
	var names []string
	for _, g := range signersOf(set) {
		if signedIn(set, i.ref.Tag, is, g.Name) {
			names = append(names, signerName(g.Name))
		}
	}
	fmt.Fprintf(s.out, "Signing and pushing trust metadata for %s\nExisting signatures for tag %s digest %s from:\n%s\n",
		i.ref, i.ref.Tag, is.Digest.Hex(), strings.Join(names, ", "))
	return nil
}

// steady stops a plan when a tag that is to be signed as it was is signed with
// something else by now: the user has been shown another digest.
func (s *signing) steady(plan trust.Plan) trust.Plan {
	return func(set *tuf.Set) ([]tuf.Change, error) {
		for _, i := range s.items {
			if is, ok := released(set, i.ref.Tag); i.again && (!ok || is.Digest != i.is.Digest) {
				return nil, fmt.Errorf("%s: %w", i.ref, errMoved)
			}
		}
		return plan(set)
	}
}

// errMoved says that a tag was changed while its signature was under way.
var errMoved = errors.New("somebody else has just changed what is signed under the tag")

// look sees that the trust server now shows what was signed, and warns of what
// consumers do not get.
func (s *signing) look(ctx context.Context) error {
	set, err := s.repo.see(ctx)
	if err != nil {
		return err
	}
	s.warnExpiry(s.repo, set)
	for _, i := range s.items {
		for _, role := range i.roles {
			if !signedIn(set, i.ref.Tag, i.is, role) {
				return errUnseen
			}
		}
		if is, ok := released(set, i.ref.Tag); !ok || is.Digest != i.is.Digest {
			s.warn("%s is signed, and consumers do not get it: none of the keys here can sign %s; an owner of %s can add them to it", i.ref, tuf.RoleReleases, s.repo.GUN())
		}
	}
	return nil
}

// A beginning is how a repository gets its keys and its first signer. Nil is
// none.
type beginning struct {
	role tuf.RoleName
	key  tuf.PublicKey
	made []tuf.CanonicalID // keys that were made for it and are stored
	init bool              // the repository's metadata on this machine was made for it
}

// changes returns what makes the signer, if the repository has nothing yet.
func (b *beginning) changes(set *tuf.Set) []tuf.Change {
	if b == nil || set != nil {
		return nil
	}
	return addSigner(nil, b.role, []tuf.PublicKey{b.key})
}

// start makes the keys of a repository without trust data, unless an earlier
// attempt did, and the key of its signer, unless one of that name is here.
func (s *signing) start(ctx context.Context) error {
	past, err := s.repo.Local()
	if err != nil {
		return err
	}
	own := &firstSigner{ring: s.keys, name: signerName(s.begin.role)}
	if past != nil {
		err = own.get(ctx, keys.P256)
	} else {
		var o trust.InitOptions
		if o, err = s.initOptions(ctx); err != nil {
			return err
		}
		if o.RootGenerator == nil {
			o.RootGenerator = s.keys
		}
		o.Generator = own
		var init trust.Initialized
		init, err = s.repo.Init(ctx, o)
		if err == nil {
			s.begin.init, s.begin.made = true, append(s.begin.made, init.Targets)
			if init.NewRoot {
				s.begin.made = append(s.begin.made, init.Root)
			}
		}
	}
	if err != nil {
		return err
	}
	s.begin.key = own.signer.PublicKey()
	if own.pending == nil {
		return nil
	}
	if err := own.pending.Save(ctx); err != nil {
		return err
	}
	s.begin.made = append(s.begin.made, s.begin.key.CanonicalID())
	return nil
}

// A firstSigner gets the key of a new signer right after the repository's own was
// made: so that all questions are asked before anything is stored.
type firstSigner struct {
	ring    keys.Ring
	name    string
	signer  tuf.Signer
	pending *keys.Pending // nil: the key was here
}

// New implements [keys.Generator].
func (g *firstSigner) New(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	p, err := g.ring.New(ctx, a, info)
	if err != nil || info.Role != string(tuf.RoleTargets) {
		return p, err
	}
	return p, g.get(ctx, a)
}

// get opens the key with the signer's name, or makes it.
func (g *firstSigner) get(ctx context.Context, a keys.Algorithm) error {
	all, err := g.ring.List(ctx)
	if err != nil {
		return err
	}
	for _, k := range all {
		if k.Role == g.name && k.GUN == "" {
			g.signer, err = k.Store.Open(ctx, k.ID)
			return err
		}
	}
	if g.pending, err = g.ring.New(ctx, a, keys.Info{Role: g.name}); err != nil {
		return err
	}
	g.signer = g.pending.Signer()
	return nil
}

// undo takes back what start made, after an error that means that it was not
// published: no keys are left that speak for nothing. It returns the error.
func (s *signing) undo(ctx context.Context, err error) error {
	if s.begin == nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if s.begin.init {
		err = errors.Join(err, trust.NewDir(filepath.Join(s.dir, "trust")).Forget(s.repo.GUN()))
	}
	for _, id := range s.begin.made {
		_, store, e := s.keys.Find(ctx, id)
		if e == nil {
			if r, ok := store.(keys.Remover); ok {
				e = r.Remove(ctx, id)
			}
			if _, token := store.(keys.Token); token {
				e = errors.Join(e, s.forgetBackup(ctx, id))
			}
		}
		err = errors.Join(err, e)
	}
	return err
}
