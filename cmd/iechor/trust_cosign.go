package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type cosignOptions struct {
	file       string
	yes, keeps bool
}

func newTrustCosignCmd(a *app) *cobra.Command {
	var o cosignOptions
	cmd := &cobra.Command{
		Use:   "cosign [flags] FILE",
		Short: "Add your signature to a proposal, and publish it when it has all",
		Example: `  iechor trust sign --propose app-1.2.json registry.example.com/app:1.2
  iechor trust cosign app-1.2.json
  iechor trust cosign --no-publish app-1.2.json`,
		Long: `Cosign is for roles whose threshold says that several people must sign. One of
them proposes, with "iechor trust sign --propose FILE" or "iechor trust publish
--propose FILE"; the file goes from one to the next, by any way; each sees what
it changes in what is published now, and is asked before it is signed with the
keys that are here. Whoever adds the last signature publishes.

What is signed is fixed by the proposal, its version and expiry included. When
something else is published in its place meanwhile, it is void, and has to be
made again.`,
		Args: exactArgs(1, "the file of a proposal"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return a.cosign(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.keeps, "no-publish", false, "do not publish it, even if it has all signatures")
	addYesFlag(cmd, &o.yes)
	return cmd
}

// maxProposalFile is more than package trust reads.
const maxProposalFile = 128 << 20

func readProposal(path string) (p trust.Proposal, err error) {
	f, err := os.Open(path)
	if err != nil {
		return p, doing("could not read "+printable(path), err)
	}
	defer f.Close()
	raw, err := readLimited(f, maxProposalFile)
	if err == nil {
		p, err = trust.ReadProposal(raw)
	}
	if errors.Is(err, tuf.ErrMalformed) || errors.Is(err, errTooLong) {
		return p, cannot(fmt.Sprintf("%s is not a proposal: %v", printable(path), err), "get it again from whoever made it, with: iechor trust sign --propose FILE")
	}
	return p, err
}

// cosign shows, asks, signs, keeps, and publishes what is complete.
func (a *app) cosign(ctx context.Context, o cosignOptions) (err error) {
	p, err := readProposal(o.file)
	if err != nil {
		return err
	}
	ref, err := registry.ParseRef(string(p.GUN))
	if err != nil {
		return err
	}
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(ref)
	if err != nil {
		return err
	}
	reviews, err := repo.Review(ctx, p)
	if err != nil {
		return repo.about(err)
	}
	proposalPlan(p.GUN, reviews).write(d.out, "")
	helps, err := d.canHelp(ctx, reviews)
	if err != nil {
		return err
	}
	lacks := lacking(reviews)
	question := "Do you want to sign this?"
	switch {
	case helps:
	case len(lacks) > 0:
		return cannot("none of the keys that have yet to sign it is here: "+joinShort(lacks), "give the file to whoever has one")
	case o.keeps:
		_, err = fmt.Fprintln(d.out, "It has all signatures")
		return err
	default:
		question = "It has all signatures. Do you want to publish it?"
	}
	if ok, err := d.sure(ctx, question, o.yes); err != nil || !ok {
		return err
	}
	if helps {
		if reviews, err = repo.Cosign(ctx, &p); err != nil {
			return repo.about(err)
		}
		if err := writeProposal(o.file, p, true); err != nil {
			return err
		}
	}
	if len(lacking(reviews)) > 0 || o.keeps {
		return d.passOn(o.file, reviews)
	}
	done, err := repo.PublishProposal(ctx, p)
	if err != nil {
		return repo.about(err)
	}
	arrived := func(set *tuf.Set) bool {
		return !slices.ContainsFunc(p.Files, func(f tuf.Proposed) bool {
			is, ok := set.File(f.Role)
			return !ok || !bytes.Equal(is.Raw, f.Raw)
		})
	}
	if err := d.verified(ctx, repo, done, arrived); err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, "Successfully published changes for repository %s\n", repo.GUN())
	return err
}

// passOn says what is still to be done with a proposal.
func (d *desk) passOn(file string, reviews []tuf.Review) error {
	lacks := lacking(reviews)
	if len(lacks) == 0 {
		_, err := fmt.Fprintf(d.out, "%s has all signatures; to publish it: iechor trust cosign %s\n", printable(file), printable(file))
		return err
	}
	_, err := fmt.Fprintf(d.out, "%s has to be signed by more of these keys: %s; where they are: iechor trust cosign %s\n", printable(file), joinShort(lacks), printable(file))
	return err
}

// writeProposal keeps a proposal, whole or as it was.
func writeProposal(path string, p trust.Proposal, replace bool) error {
	raw, err := p.Bytes()
	if err != nil {
		return err
	}
	if replace {
		err = writePrivately(path, raw)
	} else {
		err = writeNew(path, raw)
	}
	if errors.Is(err, fs.ErrExist) {
		return cannot(printable(path)+" is there already", "name another file")
	}
	if err != nil {
		return doing("could not write "+printable(path), err)
	}
	return nil
}

// lacking returns the keys that may still sign.
func lacking(reviews []tuf.Review) (ids []tuf.CanonicalID) {
	for _, r := range reviews {
		for _, m := range r.Lacks {
			for _, id := range m.Keys {
				if !slices.Contains(r.Signers, id) && !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}

// canHelp reports whether one of the keys that may still sign is here.
func (d *desk) canHelp(ctx context.Context, reviews []tuf.Review) (bool, error) {
	for _, id := range lacking(reviews) {
		if has, err := d.keys.Has(ctx, id); has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// proposalPlan says in full what a proposal changes.
func proposalPlan(gun tuf.GUN, reviews []tuf.Review) *plan {
	p := &plan{what: fmt.Sprintf("proposal for %s, in place of what is published now:", gun)}
	for _, r := range reviews {
		p.add("file", "%s version %d, valid until %s", r.Role, r.Version, day(r.Expires))
		was := map[string]string{}
		for _, t := range r.Was {
			was[t.Name] = content(t)
		}
		for _, t := range r.Put {
			if before, ok := was[t.Name]; ok {
				p.add("change", "%s from %s to %s", t.Name, before, content(t))
			} else {
				p.add("add", "%s %s", t.Name, content(t))
			}
		}
		for _, name := range r.Gone {
			p.add("remove", "%s %s", name, was[name])
		}
		for _, role := range r.Roles {
			paths := ""
			if role.Name.Delegation() {
				paths = ", for tags that begin with " + trimmedPath(role.Paths)
			}
			p.add("role", "%s: %d of the keys %s must sign%s", role.Name, role.Threshold, joinShort(signingIDs(role, nil)), paths)
		}
		for _, name := range r.Dropped {
			p.add("drop", "%s, and all that it signs", name)
		}
		if r.Unknown {
			p.add("also", "something that this version of iechor does not know")
		}
		if len(r.Signers) > 0 {
			p.add("signed by", "%s", joinShort(r.Signers))
		}
		for _, m := range r.Lacks {
			p.add("missing", "%d more of %s", m.Need-m.Have, joinShort(m.Keys))
		}
	}
	return p
}

// content names what a target is.
func content(t tuf.Target) string {
	text := fmt.Sprintf("sha256:%x", t.SHA256())
	if len(t.Custom) > 0 {
		text += " with " + string(t.Custom)
	}
	return text
}

func neverPublished(gun tuf.GUN) error {
	return cannot(fmt.Sprintf("%s was never published: there is nothing that others could judge a proposal by", gun), "publish it once without --propose")
}

// propose makes the changes of plan into a file for others to sign.
func (d *desk) propose(ctx context.Context, repo *repository, plan trust.Plan, file string) error {
	p, err := repo.Propose(ctx, plan)
	if errors.Is(err, trust.ErrNotSigned) {
		return neverPublished(repo.GUN())
	}
	if err != nil {
		return repo.about(err)
	}
	if len(p.Files) == 0 {
		_, err := fmt.Fprintf(d.out, "There is nothing to propose: %s has it already\n", repo.GUN())
		return err
	}
	reviews, err := repo.Review(ctx, p)
	if err != nil {
		return repo.about(err)
	}
	if err := writeProposal(file, p, false); err != nil {
		return err
	}
	proposalPlan(p.GUN, reviews).write(d.out, "")
	return d.passOn(file, reviews)
}

func addProposeFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "propose", "", "publish nothing: write `file`, for others to sign with \"iechor trust cosign\"")
}

// newPath refuses a file that is there before anybody is asked for anything; an
// empty path is none.
func newPath(path string) error {
	if _, err := os.Lstat(path); path == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return doing("could not look for "+printable(path), err)
	}
	return cannot(printable(path)+" is there already", "name another file")
}

// oneRepository reports whether all tags are of one.
func oneRepository(refs []registry.Ref) bool {
	return !slices.ContainsFunc(refs, func(r registry.Ref) bool { return r.Repository != refs[0].Repository })
}
