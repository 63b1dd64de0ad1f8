package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type acceptRootOptions struct {
	image  image
	notice string   // a file
	ids    []string // answers in advance
}

// typedDigits is how much of a root's id is to be typed: more than somebody can
// find a certificate for by trying.
const typedDigits = 16

func newTrustAcceptRootCmd(a *app) *cobra.Command {
	var o acceptRootOptions
	cmd := &cobra.Command{
		Use:   "accept-root [flags] REPOSITORY",
		Short: "Trust the new root of a repository that was made anew",
		Example: `  iechor trust accept-root registry.example.com/app
  iechor trust accept-root --notice notice.json registry.example.com/app
  iechor trust accept-root --root-id 6b3f…c1 registry.example.com/app`,
		Long: `When the owners of a repository have lost its root key they make it anew, with
another root, which machines that know the old one refuse. Accept-root shows the
old root and the new one, and who of those that this machine knows vouches for
the new one in a notice that the owners have published. Get the id of the new
root from the owners, by another way than the trust server: you are asked to type
how it begins. For scripts, --root-id gives the whole id in advance; for a root
with several keys, each of them.

The decision is remembered, and the old root stays denied on this machine: nobody
can bring it back, also not to somebody who has deleted the trust data since.`,
		Args: exactArgs(1, "one repository"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.image.typed = printable(args[0])
			if o.image.ref, err = parseRepository(cmd, args[0]); err != nil {
				return err
			}
			for _, id := range o.ids {
				if !tuf.CanonicalID(id).Valid() {
					return usage(cmd, fmt.Sprintf("%q is not the id of a root", printable(id)), "give all of its 64 hex digits, in lower case")
				}
			}
			return a.acceptRoot(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.notice, "notice", "", "`file` in which the owners name the new root")
	cmd.Flags().StringArrayVar(&o.ids, "root-id", nil, "`ID` of the new root, of its certificate or of its key file; may be given several times")
	return cmd
}

// acceptRoot shows both roots, asks, and makes the new one the trusted one.
func (a *app) acceptRoot(ctx context.Context, o acceptRootOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.image.ref)
	if err != nil {
		return err
	}
	past, set, err := d.bothRoots(ctx, repo, o.image.ref)
	if err != nil {
		return err
	}
	if set == nil {
		_, err := fmt.Fprintf(d.out, "The root of %s is the one that this machine knows: there is nothing to accept\n", repo.GUN())
		return err
	}
	notice, vouchers, err := readNotice(o.notice, past, set)
	if err != nil {
		return repo.about(err)
	}
	d.showRoots(repo, past, set)
	d.showVouchers(notice, vouchers)
	if err := d.agreeOnRoot(ctx, repo, set, o); err != nil {
		return err
	}
	if err := repo.Accept(set, notice); err != nil {
		return repo.about(err)
	}
	if _, err := repo.Update(ctx); err != nil {
		return repo.about(err)
	}
	made, file, err := repo.Decisions()
	if err != nil {
		return repo.about(err)
	}
	if len(made) > 0 {
		fmt.Fprintf(d.err, "iechor: notice: the old root stays denied on this machine; that is remembered in %s\n", file)
	}
	_, err = fmt.Fprintf(d.out, "Successfully accepted the new root of %s\n", repo.GUN())
	return err
}

// bothRoots returns what this machine trusts, nil if that is damaged, and what
// the server shows to who has never been there; no set if an update refuses
// nothing.
func (d *desk) bothRoots(ctx context.Context, repo *repository, ref registry.Ref) (*tuf.Past, *tuf.Set, error) {
	past, err := repo.Local()
	if damaged := (*trust.Damaged)(nil); err != nil && !errors.As(err, &damaged) {
		return nil, nil, repo.about(err)
	}
	if past == nil && err == nil {
		return nil, nil, cannot(fmt.Sprintf("this machine knows no root of %s, so there is none to take the place of", repo.GUN()),
			"the first one is trusted, or refused, as first-use in config.json says: iechor trust inspect "+string(repo.GUN()))
	}
	_, refused := repo.Fresh().Look(ctx)
	switch {
	case refused == nil:
		return past, nil, nil
	case errors.Is(refused, tuf.ErrRollback):
		return nil, nil, repo.about(refused) // an older state, and not another root
	case !refusedData(refused) && !errors.Is(refused, trust.ErrDamaged):
		return nil, nil, repo.about(refused)
	}
	// What the configuration says of first use is not asked: this is a decision.
	other := *d
	other.app = looking(d.app)
	afresh, err := other.repository(ref)
	if err != nil {
		return nil, nil, err
	}
	set, err := afresh.Fresh().Afresh(ctx)
	if err != nil {
		return nil, nil, repo.about(err)
	}
	if past != nil {
		was, _ := past.Role(tuf.RoleRoot) // both have one
		is, _ := set.Role(tuf.RoleRoot)
		if slices.EqualFunc(was.Keys, is.Keys, func(a, b tuf.Key) bool { return a.ID == b.ID }) {
			return nil, nil, repo.about(refused) // it is not the root that is wrong
		}
	}
	return past, set, nil
}

// maxNoticeFile bounds the file of a notice, in bytes.
const maxNoticeFile = 1 << 20

// readNotice reads the notice in a file, if one is named, and sees who of those
// that this machine knows has signed it.
func readNotice(file string, past *tuf.Past, set *tuf.Set) (*trust.Notice, []trust.Voucher, error) {
	if file == "" {
		return nil, nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, &keyFileError{err}
	}
	defer f.Close()
	raw, err := readLimited(f, maxNoticeFile)
	if err != nil {
		return nil, nil, cannot(file+": "+err.Error(), "see that it is the file that the owners have published")
	}
	n, err := trust.ReadNotice(raw)
	if err != nil {
		return nil, nil, cannot(printable(file+": "+err.Error()), "see that it is the file that the owners have published, and that it is whole")
	}
	if past == nil {
		return nil, nil, cannot("nothing that this machine trusted is whole, so that nobody can vouch for the new root", "leave out --notice, and compare the id of the new root with what the owners say")
	}
	vouchers, err := n.Vouchers(past, set)
	return n, vouchers, err
}

// showRoots shows the old root beside the new one.
func (d *desk) showRoots(repo *repository, past *tuf.Past, set *tuf.Set) {
	show := func(role tuf.Role) {
		for _, k := range role.Keys {
			fmt.Fprintf(d.out, "    root id      %s\n    key          %s\n", k.ID, k.CanonicalID())
			if certs, err := k.Certificates(); err == nil {
				fmt.Fprintf(d.out, "    certificate  of %s, from %s to %s\n", printable(certs[0].Subject.CommonName), day(certs[0].NotBefore), day(certs[0].NotAfter))
			}
		}
	}
	fmt.Fprintf(d.out, "The root of %s that this machine trusts:\n", repo.GUN())
	if past == nil {
		fmt.Fprintln(d.out, "    damaged, so that it cannot be shown")
	} else {
		role, _ := past.Role(tuf.RoleRoot) // every Past has one
		show(role)
		if published, err := repo.Published(); err == nil && !published {
			fmt.Fprintln(d.out, "    trusted      by nobody else: it was made here and never published")
		} else if met := repo.Met(); !met.IsZero() {
			fmt.Fprintf(d.out, "    trusted      since %s, now version %d\n", day(met), past.Root().Version)
		}
	}
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	root, _ := set.Info(tuf.RoleRoot)
	fmt.Fprintf(d.out, "The root that %s shows now, version %d, which the old one did not sign:\n", repo.server, root.Version)
	show(role)
}

func (d *desk) showVouchers(n *trust.Notice, vouchers []trust.Voucher) {
	if n == nil {
		fmt.Fprintln(d.out, "Nobody vouches for the new root: there is no notice of it here")
		return
	}
	fmt.Fprintf(d.out, "A notice of %s speaks for the new root: %s\nIt is signed with keys that this machine knows:\n", day(n.Made), printable(n.Reason))
	for _, v := range vouchers {
		fmt.Fprintf(d.out, "    %s key %s\n", v.Role, v.Key)
	}
}

// agreeOnRoot compares the new root with what the user knows of it.
func (d *desk) agreeOnRoot(ctx context.Context, repo *repository, set *tuf.Set, o acceptRootOptions) error {
	role, _ := set.Role(tuf.RoleRoot) // every Set has one
	if len(o.ids) > 0 {
		given := slices.Clone(o.ids)
		for _, k := range role.Keys {
			n := len(given)
			given = slices.DeleteFunc(given, func(id string) bool { return id == string(k.ID) || id == string(k.CanonicalID()) })
			if len(given) == n {
				return otherRoot(repo, fmt.Sprintf("%s has the root %s, which --root-id does not name", repo.server, k.ID))
			}
		}
		if len(given) > 0 {
			return otherRoot(repo, fmt.Sprintf("%s is not in the root that %s shows", given[0], repo.server))
		}
		return nil
	}
	if !d.terminal.Interactive() {
		return cannot("not accepted: there is no terminal to ask on", "get the id of the new root from the owners, and give it with --root-id")
	}
	for _, k := range role.Keys {
		answer, err := d.terminal.Line(ctx, fmt.Sprintf("Type the first %d digits of the new root id, as the owners told you: ", typedDigits))
		if err != nil {
			return err
		}
		answer = strings.ToLower(strings.TrimSpace(answer))
		if len(answer) < typedDigits || !strings.HasPrefix(string(k.ID), answer) && !strings.HasPrefix(string(k.CanonicalID()), answer) {
			return otherRoot(repo, "not accepted: that is not how the new root id begins")
		}
	}
	return nil
}

func otherRoot(repo *repository, sentence string) error {
	return &statedError{sentence: "iechor: " + sentence, exit: exitUntrusted,
		hints: []string{"nothing was changed; ask the owners of " + string(repo.GUN()) + " which root is theirs, by another way than " + repo.server}}
}
