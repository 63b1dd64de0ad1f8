package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

type recoverOptions struct {
	ref     registry.Ref
	lost    string // root, targets, snapshot, timestamp, or the name of a signer
	rootKey string // which root key is lost, or which one speaks for it anew

	signerKey string // file with the signer's new public key
	newKey    bool   // or one is made here
	export    string // file for the list of tags
	from      string // file with it
	notice    string // file for the notice
	reason    string // in the notice
	missing   bool   // sign what is not in the registry, too
	yes       bool
}

func newTrustRecoverCmd(a *app) *cobra.Command {
	var o recoverOptions
	cmd := &cobra.Command{
		Use:   "recover [flags] [REPOSITORY]",
		Short: "Find the way out after a key was lost",
		Example: `  iechor trust recover registry.example.com/app
  iechor trust recover --lost targets registry.example.com/app
  iechor trust recover --lost alice --new-key registry.example.com/app
  iechor trust recover --lost root --export tags.json registry.example.com/app
  iechor trust recover --from tags.json --notice notice.json registry.example.com/app`,
		Long: `Recover shows which keys of a repository are here, asks which one is lost, and
does what can be done. --lost answers in advance:
  targets    the repository's key: with the root key, a new one signs the tags as
             they are; consumers notice nothing
  snapshot   kept here and lost: the server signs snapshots again
  timestamp  lost by the server, perhaps with its snapshot key: it makes new ones
  NAME       the key of a signer: replaced by --key FILE or --new-key; what the
             signer has signed is signed again, as far as keys for it are here
  root       with another root key here that is enough (a spare): a new one takes
             its place in all repositories. Without, the root is lost for good:
             --export writes the verified tags to a file, the administrator of the
             trust server resets the repository, and --from makes it anew with
             another root, signs the tags that are in the registry again, and with
             --notice writes what tells consumers of the new root.
Interrupted, the same command goes on.`,
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
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.recover(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.lost, "lost", "", "`key` that is lost: root, targets, snapshot, timestamp, or the name of a signer")
	f.StringVar(&o.rootKey, "root-key", "", "`ID` of the root key that is lost, or with --from of the one that is to speak for the repository")
	f.StringVar(&o.signerKey, "key", "", "`file` with the new public key of the signer")
	f.BoolVar(&o.newKey, "new-key", false, "make the signer a new key here")
	f.StringVar(&o.export, "export", "", "`file` for the list of tags, if the root is lost for good")
	f.StringVar(&o.from, "from", "", "`file` with the list of tags: make the repository anew")
	f.StringVar(&o.notice, "notice", "", "`file` for the notice to consumers, with --from")
	f.StringVar(&o.reason, "reason", "the root key was lost", "`text` for the notice")
	f.BoolVar(&o.missing, "keep-missing", false, "with --from, also sign tags whose content is not in the registry")
	addYesFlag(cmd, &o.yes)
	return cmd
}

func (o *recoverOptions) check(cmd *cobra.Command) error {
	switch {
	case o.from != "" && (o.lost != "" || o.export != ""):
		return usage(cmd, "--from begins where --lost root --export has ended", "leave out --lost and --export")
	case o.from == "" && (o.notice != "" || o.missing):
		return usage(cmd, "--notice and --keep-missing go together with --from")
	case o.export != "" && o.lost != "" && o.lost != string(tuf.RoleRoot):
		return usage(cmd, "the tags are exported when the root is lost for good", "leave out --export: the tags stay")
	case o.signerKey != "" && o.newKey:
		return usage(cmd, "--key and --new-key exclude each other")
	}
	return nil
}

// recover asks what is lost, and goes the way that is left.
func (a *app) recover(ctx context.Context, o recoverOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if o.ref.Repository == "" {
		if o.ref, err = d.chooseRepository(ctx); err != nil {
			return err
		}
	}
	repo, err := d.repository(o.ref)
	if err != nil {
		return err
	}
	switch {
	case o.from != "":
		return d.makeAnew(ctx, repo, o)
	case o.lost == string(tuf.RoleTimestamp): // a server that lost it may have lost more, and let it expire
		if ok, err := d.sure(ctx, fmt.Sprintf("Have %s make new keys for what it signs?", repo.server), o.yes); err != nil || !ok {
			return err
		}
		return a.moveToServer(ctx, rotateOptions{ref: o.ref, role: toServer})
	}
	set, err := d.current(ctx, repo)
	if o.lost == string(tuf.RoleRoot) && o.export != "" && (errors.Is(err, trust.ErrGone) || errors.Is(err, trust.ErrNotSigned)) {
		cached, e := repo.Cached()
		if e == nil && cached != nil {
			d.warn("%s has nothing of %s any more: taking what this machine verified last", repo.server, repo.GUN())
			set, err = cached, nil
		}
	}
	if err != nil {
		return repo.about(err)
	}
	if err := d.showKeys(ctx, set); err != nil {
		return err
	}
	if o.lost == "" {
		if o.lost, err = d.askLost(ctx, set); err != nil {
			return err
		}
	}
	switch role := tuf.RoleName(o.lost); role {
	case tuf.RoleTargets, tuf.RoleSnapshot:
		return d.recoverByRotation(ctx, repo, set, role, o)
	case tuf.RoleRoot:
		return d.recoverRoot(ctx, repo, set, o)
	}
	return d.recoverSigner(ctx, repo, set, o)
}

// chooseRepository asks which repository is meant.
func (d *desk) chooseRepository(ctx context.Context) (registry.Ref, error) {
	refs, err := d.known()
	if err != nil {
		return registry.Ref{}, err
	}
	if len(refs) == 0 {
		return registry.Ref{}, cannot("this machine knows no repository", "name one: iechor trust recover REPOSITORY")
	}
	var names []string
	for _, ref := range refs {
		names = append(names, ref.Repository)
	}
	n, err := d.choose(ctx, "Which repository has lost a key?", names, "the repository")
	if err != nil {
		return registry.Ref{}, err
	}
	return refs[n], nil
}

// choose has the user pick one of several things by its number or name.
func (d *desk) choose(ctx context.Context, question string, choices []string, flag string) (int, error) {
	if !d.terminal.Interactive() {
		return 0, cannot("there is no terminal to ask on: "+question, "answer in advance: give "+flag)
	}
	text := question
	for n, c := range choices {
		text += fmt.Sprintf("\n  %d  %s", n+1, printable(c))
	}
	if err := d.terminal.Notice(text); err != nil {
		return 0, err
	}
	for range 3 {
		answer, err := d.terminal.Line(ctx, "Number or name: ")
		if err != nil {
			return 0, err
		}
		answer = strings.TrimSpace(answer)
		if n, err := strconv.Atoi(answer); err == nil && n >= 1 && n <= len(choices) {
			return n - 1, nil
		}
		if n := slices.Index(choices, answer); n >= 0 {
			return n, nil
		}
		if err := d.terminal.Notice("That is none of them. Please retry."); err != nil {
			return 0, err
		}
	}
	return 0, cannot("nothing was chosen, and nothing was changed", "try again, or give "+flag)
}

// showKeys shows which keys of a repository are here.
func (d *desk) showKeys(ctx context.Context, set *tuf.Set) error {
	fmt.Fprintf(d.out, "Keys of %s:\n\n", set.GUN())
	t := newStockTable(d.out, "ROLE", "KEY", "WHERE")
	names := []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp}
	for _, g := range delegations(set) {
		names = append(names, g.Name)
	}
	for _, name := range names {
		role, _ := set.Role(name) // it was just listed
		for _, id := range signingIDs(role, nil) {
			has, err := d.keys.Has(ctx, id)
			if err != nil {
				return err
			}
			where := "not here"
			switch {
			case has:
				where = "here"
			case name == tuf.RoleSnapshot || name == tuf.RoleTimestamp:
				where = "not here; the server keeps such keys"
			}
			t.line(string(name), id.Short(), where)
		}
	}
	t.end()
	fmt.Fprintln(d.out)
	return nil
}

func (d *desk) askLost(ctx context.Context, set *tuf.Set) (string, error) {
	choices := []string{string(tuf.RoleRoot), string(tuf.RoleTargets), string(tuf.RoleSnapshot)}
	for _, g := range signersOf(set) {
		choices = append(choices, signerName(g.Name))
	}
	n, err := d.choose(ctx, "Which key is lost?", choices, "--lost")
	if err != nil {
		return "", err
	}
	return choices[n], nil
}

// recoverByRotation replaces a key that the root key can replace.
func (d *desk) recoverByRotation(ctx context.Context, repo *repository, set *tuf.Set, role tuf.RoleName, o recoverOptions) error {
	if err := d.needsRoot(ctx, repo, set); err != nil {
		return err
	}
	r := trust.Rotation{Role: role, Server: role != tuf.RoleTargets, Algorithm: keys.P256}
	p, err := d.rotationPlan(ctx, set, &r)
	if err != nil {
		return err
	}
	d.announce(p, false)
	if ok, err := d.sure(ctx, "Do that?", o.yes); err != nil || !ok {
		return err
	}
	return d.rotateOne(ctx, repo, rotateOptions{ref: o.ref, role: role, yes: true}, r)
}

// needsRoot sees that enough root keys are here.
func (d *desk) needsRoot(ctx context.Context, repo *repository, set *tuf.Set) error {
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	here, err := d.held(ctx, root)
	if err != nil || len(here) >= root.Threshold {
		return err
	}
	return cannot(fmt.Sprintf("%d of the root keys of %s must sign that, and %d %s here: %s", root.Threshold, repo.GUN(), len(here), isAre(len(here)), joinShort(signingIDs(root, nil))),
		"bring the root key here: iechor trust key import FILE",
		"if it is lost as well: iechor trust recover --lost root "+string(repo.GUN()))
}

// recoverRoot replaces a root key by the others, if they are enough.
func (d *desk) recoverRoot(ctx context.Context, repo *repository, set *tuf.Set, o recoverOptions) error {
	root, _ := set.Role(tuf.RoleRoot) // every Set has one
	var gone []tuf.CanonicalID
	here := 0
	for _, id := range signingIDs(root, nil) {
		has, err := d.keys.Has(ctx, id)
		if err != nil {
			return err
		}
		if has {
			here++
		} else {
			gone = append(gone, id)
		}
	}
	if here < root.Threshold {
		return d.lostForGood(ctx, repo, set, root, here, o)
	}
	r := &rootRun{desk: d, what: "rotate", adds: true, removes: true, algorithm: keys.P256, yes: o.yes}
	var err error
	switch {
	case o.rootKey != "":
		r.of, err = d.rootNamed(ctx, o.rootKey)
	case len(gone) == 1:
		r.of = gone[0]
	case len(gone) == 0:
		err = cannot(fmt.Sprintf("every root key of %s is here: none is lost", repo.GUN()), "to replace one that was stolen: iechor trust key rotate --all root")
	default:
		var names []string
		for _, id := range gone {
			names = append(names, string(id))
		}
		var n int
		if n, err = d.choose(ctx, "Which root key is lost? The others are not here either.", names, "--root-key"); err == nil {
			r.of = gone[n]
		}
	}
	if err != nil {
		return err
	}
	r.again = fmt.Sprintf("iechor trust recover --lost root --root-key %s %s", r.of.Short(), repo.GUN())
	r.ask = func(n int) string { return fmt.Sprintf("Replace the lost root key in %s?", count(n, "repository")) }
	return r.run(ctx)
}

// lostForGood says what it means, and saves what can be saved.
func (d *desk) lostForGood(ctx context.Context, repo *repository, set *tuf.Set, root tuf.Role, here int, o recoverOptions) error {
	fmt.Fprintf(d.out, `%[1]d of the root keys of %[2]s must sign a change of its keys, and %[3]d %[4]s here.
If no backup has the others, the root is lost for good. That means:
  - nobody can replace a key of the repository any more, and when something in it
    expires (%[5]s) it ends
  - it has to be made anew with another root; until each of its consumers has
    accepted that one by hand, they refuse it
The way there:
  1. save what is verified now: iechor trust recover --lost root --export FILE %[2]s
  2. have the administrator of %[6]s reset it there:
     iechor-trustd admin reset %[2]s --reason "root key lost"
  3. make it anew: iechor trust recover --from FILE --notice NOTICE %[2]s
  4. give consumers the id of the new root and the notice, by a way that they
     trust; each of them runs: iechor trust accept-root --notice NOTICE %[2]s
`, root.Threshold, repo.GUN(), here, isAre(here), firstEnd(set), repo.server)
	if o.export == "" {
		if !d.terminal.Interactive() {
			return cannot("nothing was saved yet", "give --export FILE")
		}
		answer, err := d.terminal.Line(ctx, "File for the list of tags (empty: not now): ")
		if o.export = strings.TrimSpace(answer); err != nil || o.export == "" {
			return err
		}
	}
	if ok, err := d.overwrites(ctx, o.export, o.yes); err != nil || !ok {
		return err
	}
	list, left := trust.ListTags(set, d.now())
	for _, tag := range left {
		d.warn("tag %s has no sha256, and is left out", printable(tag))
	}
	raw, err := list.Bytes()
	if err != nil {
		return err
	}
	if err := writePrivately(o.export, raw); err != nil {
		return &keyFileError{err}
	}
	tags, _ := list.Released()
	_, err = fmt.Fprintf(d.out, "\nSaved %s to %s (sha256:%x)\n", count(len(tags), "tag"), printable(o.export), sha256.Sum256(raw))
	return err
}

// firstEnd is the first day on which consumers refuse what only people renew.
func firstEnd(set *tuf.Set) string {
	first := ""
	for _, name := range set.Roles() {
		if info, _ := set.Info(name); name != tuf.RoleTimestamp && name != tuf.RoleSnapshot {
			if at := day(info.Expires); first == "" || at < first {
				first = at
			}
		}
	}
	return first
}
