package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

func newTrustDelegationCmd(a *app) *cobra.Command {
	return group(a, "delegation", "Manage who may sign which tags: roles, keys, paths, thresholds",
		`  iechor trust delegation list registry.example.com/app
  iechor trust delegation add registry.example.com/app targets/nightly --key ci.pub --path nightly-
  iechor trust delegation add registry.example.com/app targets/releases --threshold 2
  iechor trust delegation remove registry.example.com/app targets/nightly`,
		newTrustDelegationListCmd(a), newTrustDelegationAddCmd(a), newTrustDelegationRemoveCmd(a), newTrustDelegationWitnessCmd(a),
	)
}

// parseRepository reads the name of a repository: a tag or a digest in it
// means that something else is wanted.
func parseRepository(cmd *cobra.Command, arg string) (registry.Ref, error) {
	ref, err := registry.ParseRef(arg)
	if err == nil && (ref.Tag != "" || !ref.Digest.IsZero()) {
		err = usage(cmd, fmt.Sprintf("%s takes the name of a repository, and %s names an image in it", cmd.CommandPath(), printable(arg)), "leave out tag and digest: "+ref.FamiliarName())
	}
	return ref, err
}

// parseDelegation reads the name of a delegation, which may lack "targets/".
func parseDelegation(cmd *cobra.Command, arg string) (tuf.RoleName, error) {
	role := tuf.RoleName(arg)
	if !strings.HasPrefix(arg, string(tuf.RoleTargets)+"/") {
		role = tuf.RoleTargets + "/" + role
	}
	if !role.Delegation() {
		return "", usage(cmd, "invalid delegation name "+printable(arg), "delegations are named like targets/alice: lower case letters, digits, - and _")
	}
	return role, nil
}

type delegationListOptions struct {
	image image
	json  bool
}

func newTrustDelegationListCmd(a *app) *cobra.Command {
	var o delegationListOptions
	cmd := &cobra.Command{
		Use:     "list [flags] REPOSITORY",
		Aliases: []string{"ls"},
		Short:   "Show the delegations of a repository",
		Example: `  iechor trust delegation list registry.example.com/app
  iechor trust delegation list --json registry.example.com/app`,
		Long: `List shows every delegation: the beginnings of the tags that it may hold, the IDs
of its keys and how many of them must sign. --json prints an array of objects
with Name, Version, Expires, Threshold, Keys, Paths, and Problem if it does not
count.`,
		Args: exactArgs(1, "one repository"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.image.typed = printable(args[0])
			if o.image.ref, err = parseRepository(cmd, args[0]); err != nil {
				return err
			}
			return a.delegationList(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// delegationList updates, and shows all delegations by name.
func (a *app) delegationList(ctx context.Context, o delegationListOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	v := d.view(ctx, o.image.ref)
	if v.set == nil {
		return v.err
	}
	list := []roleState{}
	for _, r := range roleStates(v.set) {
		if r.Name.Delegation() {
			list = append(list, r)
		}
	}
	if o.json {
		return printJSON(d.out, list)
	}
	if len(list) == 0 {
		_, err = fmt.Fprint(d.out, "\n\nNo delegations present in this repository.\n\n\n")
		return err
	}
	fmt.Fprintln(d.out)
	t := newStockTable(d.out, "ROLE", "PATHS", "KEY IDS", "THRESHOLD")
	for _, r := range list {
		r.Paths = slices.Sorted(slices.Values(r.Paths)) // as the stock program shows them
		for n := range max(1, len(r.Paths), len(r.Keys)) {
			line := make([]string, 4)
			if n == 0 {
				line[0], line[3] = string(r.Name), fmt.Sprint(r.Threshold)
			}
			if n < len(r.Paths) {
				line[1] = pathText(r.Paths[n])
			}
			if n < len(r.Keys) {
				line[2] = string(r.Keys[n])
			}
			t.line(line...)
		}
	}
	t.end()
	_, err = fmt.Fprintln(d.out)
	return err
}

// pathText writes a path as the stock program does.
func pathText(path string) string {
	if path == "" {
		return `"" <all paths>`
	}
	return printable(path)
}

func printJSON(out io.Writer, v any) error {
	raw, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", escape(raw))
	return err
}

type witnessOptions struct {
	image image
	roles []tuf.RoleName
	stage bool
	yes   bool
}

func newTrustDelegationWitnessCmd(a *app) *cobra.Command {
	var o witnessOptions
	cmd := &cobra.Command{
		Use:   "witness [flags] REPOSITORY ROLE...",
		Short: "Sign roles again as they are",
		Example: `  iechor trust delegation witness registry.example.com/app targets/releases
  iechor trust delegation witness registry.example.com/app targets`,
		Long: `Witness signs what roles hold now once more, with the keys that are here: because
a key has been taken from them and too few signatures are left, or before they
expire. ROLE is a delegation, or targets. By signing you vouch for what they hold:
where the signatures that are left do not, it is shown and you are asked.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(cmd, cmd.CommandPath()+" takes a repository and one or more roles")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.image.typed = printable(args[0])
			if o.image.ref, err = parseRepository(cmd, args[0]); err != nil {
				return err
			}
			for _, arg := range args[1:] {
				role := tuf.RoleTargets
				if arg != string(role) {
					if role, err = parseDelegation(cmd, arg); err != nil {
						return err
					}
				}
				if !slices.Contains(o.roles, role) {
					o.roles = append(o.roles, role)
				}
			}
			return a.witness(cmd.Context(), o)
		},
	}
	addStageFlag(cmd, &o.stage)
	addYesFlag(cmd, &o.yes)
	return cmd
}

func addStageFlag(cmd *cobra.Command, stage *bool) {
	cmd.Flags().BoolVar(stage, "stage", false, `publish nothing: stage it for the next "iechor trust publish" or "notary publish"`)
}

// witness signs roles again, and sees that they count.
func (a *app) witness(ctx context.Context, o witnessOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	repo, err := d.repository(o.image.ref)
	if err != nil {
		return err
	}
	if o.stage {
		var changes []tuf.Change
		for _, role := range o.roles {
			changes = append(changes, tuf.Resign{Role: role})
		}
		if err := repo.Stage(changes...); err != nil {
			return repo.about(err)
		}
		fmt.Fprintln(d.out, "The following roles were successfully marked for witnessing on the next publish:")
		for _, role := range o.roles {
			fmt.Fprintf(d.out, "\t- %s\n", role)
		}
		return nil
	}
	shown, err := d.vouch(ctx, repo, o)
	if err != nil {
		return unlessAborted(err)
	}
	done, err := repo.Publish(ctx, resign(o.roles, shown))
	if err != nil {
		return repo.about(err)
	}
	set, err := repo.see(ctx)
	if err != nil {
		return err
	}
	for _, role := range o.roles {
		if _, ok := set.Info(role); !ok || !slices.Contains(done.Files, role) {
			return repo.about(fmt.Errorf("%s: %w", role, errUnseen))
		}
	}
	d.tell(repo, done)
	fmt.Fprintln(d.out, "The following roles were successfully signed again:")
	for _, role := range o.roles {
		info, _ := set.Info(role) // seen above
		fmt.Fprintf(d.out, "\t- %s (version %d, expires %s)\n", role, info.Version, day(info.Expires))
	}
	return nil
}

// errSwapped says that what would be vouched for is not what was shown.
var errSwapped = errors.New("what it holds has changed since it was shown, and was not signed")

// resign plans to sign roles again. Of files that nobody vouches for, only
// those are taken that were shown.
func resign(roles []tuf.RoleName, shown map[tuf.RoleName][]byte) trust.Plan {
	return func(set *tuf.Set) ([]tuf.Change, error) {
		var changes []tuf.Change
		for _, role := range roles {
			if raw, unsigned := unsignedFile(set, role); unsigned && !bytes.Equal(raw, shown[role]) {
				return nil, fmt.Errorf("%s: %w", role, errSwapped)
			}
			changes = append(changes, tuf.Resign{Role: role})
		}
		return changes, nil
	}
}

// vouch shows what the roles hold whose files too few of their keys have
// signed, and asks whether to vouch for it: the server may have put anything
// there. It returns what was shown.
func (d *desk) vouch(ctx context.Context, repo *repository, o witnessOptions) (map[tuf.RoleName][]byte, error) {
	set, err := repo.Fresh().Update(ctx)
	if err != nil {
		return nil, repo.about(err)
	}
	shown := map[tuf.RoleName][]byte{}
	for _, role := range o.roles {
		raw, unsigned := unsignedFile(set, role)
		if !unsigned {
			continue
		}
		shown[role] = raw
		var file struct {
			Signed struct {
				Targets map[string]struct {
					Hashes map[string][]byte `json:"hashes"`
				} `json:"targets"`
			} `json:"signed"`
		}
		if err := json.Unmarshal(raw, &file); err != nil {
			return nil, repo.about(err) // package tuf has read it before
		}
		d.warn("nobody vouches for what the trust server has as %s; it holds:", role)
		for _, name := range slices.Sorted(maps.Keys(file.Signed.Targets)) {
			fmt.Fprintf(d.err, "  %s sha256:%x\n", printable(name), file.Signed.Targets[name].Hashes["sha256"])
		}
	}
	if len(shown) == 0 || o.yes {
		return shown, nil
	}
	return shown, d.confirm(ctx, "Do you want to vouch for all of it?", "--yes")
}

// unsignedFile returns a role's file if too few of the role's keys have signed
// it.
func unsignedFile(set *tuf.Set, role tuf.RoleName) ([]byte, bool) {
	if set == nil {
		return nil, false
	}
	for _, u := range set.Unusable() {
		if u.Role == role && errors.Is(u.Err, tuf.ErrUnsigned) {
			return u.Raw, true
		}
	}
	return nil, false
}

// verified updates after a publication as a consumer would, and sees that the
// repository is as ok says.
func (d *desk) verified(ctx context.Context, repo *repository, done trust.Published, ok func(*tuf.Set) bool) error {
	set, err := repo.see(ctx)
	if err != nil {
		return err
	}
	if !ok(set) {
		return repo.about(errUnseen)
	}
	d.tell(repo, done)
	return nil
}

// A stockTable is columns four apart, dashes below the headers, as the stock
// notary prints them (notary-protocol 10).
type stockTable struct{ w *tabwriter.Writer }

func newStockTable(out io.Writer, headers ...string) stockTable {
	t := stockTable{tabwriter.NewWriter(out, 0, 0, 4, ' ', 0)}
	dashes := make([]string, len(headers))
	for i, h := range headers {
		dashes[i] = strings.Repeat("-", len(h))
	}
	t.line(headers...)
	t.line(dashes...)
	return t
}

// line adds a row. Cells hold nothing that draws on a screen.
func (t stockTable) line(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

// end writes the table. Its errors are those of out, which keeps them.
func (t stockTable) end() { _ = t.w.Flush() }
