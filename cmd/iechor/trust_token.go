package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/keys/pkcs11"
	"github.com/iechor/trust/tuf"
)

// newTrustTokenCmd is the family of commands about tokens: devices that keys
// live in.
func newTrustTokenCmd(a *app) *cobra.Command {
	return group(a, "token", "Set up smart cards and security modules, and see to the keys in them",
		`  iechor trust token list
  iechor trust token setup --label ci
  iechor trust token generate root`,
		newTokenListCmd(a), newTokenSetupCmd(a), newTokenGenerateCmd(a), newTokenImportCmd(a), newTokenRemoveCmd(a), newTokenAttestCmd(a),
		newTokenChangePINCmd(a), newTokenChangePUKCmd(a), newTokenUnblockCmd(a),
	)
}

func newTokenListCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens that are there, and the keys on them",
		Example: `  iechor trust token list
  iechor trust token list --json`,
		Long: `List shows every token in the slots of the libraries that content-trust.tokens in
config.json names, also those that are not set up yet, and the keys on the tokens
that are configured: those that a token shows to everybody, for nobody is asked
for a PIN.`,
		Args: exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.listTokens(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// A listedToken is an entry of "token list --json".
type listedToken struct {
	Label, Serial, Manufacturer, Model string
	Module                             string
	Slot                               *uint `json:",omitempty"`
	State                              string
	Keys                               []listedTokenKey
}

type listedTokenKey struct {
	ID         tuf.CanonicalID
	Role       string
	Repository tuf.GUN `json:",omitempty"`
	// Of keys on YubiKeys only:
	Slot, PIN, Touch, Origin string `json:",omitempty"`
}

func (a *app) listTokens(ctx context.Context, asJSON bool) (err error) {
	d, err := looking(a).desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	all := []listedToken{}
	exit := exitDone
	for _, l := range d.libraries {
		slots, err := l.Tokens()
		if err != nil {
			exit = max(exit, a.complain(err))
			continue
		}
		for _, s := range slots {
			t := listedToken{s.Token.Label, s.Token.Serial, s.Token.Manufacturer, s.Token.Model, l.Path(), &s.Number, tokenState(s.Token), []listedTokenKey{}}
			if !s.Token.Blank {
				if t.Keys, err = keysOn(ctx, l, s); err != nil {
					exit = max(exit, a.complain(err))
				}
			}
			all = append(all, t)
		}
	}
	yubiKeys, trouble := d.listPIV(ctx)
	all = append(all, yubiKeys...)
	for _, err := range trouble {
		exit = max(exit, a.complain(err))
	}
	if err := d.unlisted(ctx, exit == exitDone, len(all)); err != nil {
		exit = max(exit, a.complain(err))
	}
	if asJSON {
		raw, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			return err
		}
		if _, err = fmt.Fprintf(a.out, "%s\n", raw); err != nil {
			return err
		}
		return told(exit)
	}
	return errors.Join(a.printTokens(all), told(exit))
}

// unlisted warns of tokens that are configured and not there.
func (d *desk) unlisted(ctx context.Context, libraries bool, found int) error {
	if !libraries {
		return nil // which has been said
	}
	if found == 0 && len(d.config.tokens) == 0 {
		return errNoToken
	}
	for _, t := range d.tokens {
		if _, err := t.Look(ctx); err != nil && !errors.Is(err, keys.ErrSeveralTokens) && !isPIV(t) {
			d.warn("%s", printable(err.Error()))
		}
	}
	return nil
}

// keysOn lists what a token shows to everybody.
func keysOn(ctx context.Context, l *pkcs11.Library, s pkcs11.Slot) ([]listedTokenKey, error) {
	t := pkcs11.Open(pkcs11.Config{Library: l, Token: pkcs11.Choice{Slot: &s.Number}})
	infos, err := t.List(ctx)
	out := []listedTokenKey{}
	for _, i := range infos {
		out = append(out, listedTokenKey{ID: i.ID, Role: i.Role, Repository: i.GUN})
	}
	return out, errors.Join(err, t.Close())
}

// tokenState says in words what can be done with a token.
func tokenState(t keys.TokenInfo) string {
	switch {
	case t.Blank:
		return "not set up"
	case t.Locked:
		return "PIN locked"
	case t.Tries != keys.TriesUnknown:
		return t.Tries.String()
	}
	return "ready"
}

func (a *app) printTokens(all []listedToken) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(a.out, "No tokens found.")
		return err
	}
	b := bufio.NewWriter(a.out)
	w := tabwriter.NewWriter(b, 0, 0, 4, ' ', 0)
	fmt.Fprintln(w, "LABEL\tSERIAL\tMODEL\tSLOT\tSTATE")
	for _, t := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", dash(t.Label), dash(t.Serial), dash(t.Model), slotNumber(t.Slot), t.State)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range all {
		for _, k := range t.Keys {
			name := t.Label
			if name == "" {
				name = t.Serial
			}
			fmt.Fprintf(b, "%s: %s %s %s%s\n", dash(name), k.ID, dash(k.Role), k.Repository, k.details())
		}
	}
	return b.Flush()
}

func slotNumber(n *uint) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// details says what a YubiKey tells of a key.
func (k listedTokenKey) details() string {
	if k.Slot == "" {
		return ""
	}
	return fmt.Sprintf(" (slot %s, PIN %s, touch %s, %s)", k.Slot, orUnknown(k.PIN), orUnknown(k.Touch), k.Origin)
}

// dash stands for what is empty in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

type tokenGenerateOptions struct {
	info      keys.Info
	algorithm keys.Algorithm
	token     tokenChoice
	place     piv.Place
}

func newTokenGenerateCmd(a *app) *cobra.Command {
	var o tokenGenerateOptions
	var algorithm, repository string
	var place placeFlags
	cmd := &cobra.Command{
		Use:   "generate ROLE",
		Short: "Make a key for a token",
		Example: `  iechor trust token generate root
  iechor trust token generate alice --token ci
  iechor trust token generate targets --repository registry.example.com/app --on-token-only`,
		Long: `Generate makes a key of ROLE, which is root, targets, snapshot, or the name of a
signer. The key is made in software, put on the token and, encrypted with a
passphrase that you choose, into the directory of backups: the loss of the token
is then not the loss of the key. Bring the copy to a safe place.

With --on-token-only the token makes the key itself, and there is no copy.

The public half, which an owner needs to make the holder a signer, is written by
"iechor trust key export --public".`,
		Args: exactArgs(1, "the role of the key"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.info, err = tokenRole(cmd, args[0], repository); err != nil {
				return err
			}
			if o.algorithm, err = parseAlgorithm(cmd, algorithm); err != nil {
				return err
			}
			if o.place, err = place.parse(); err != nil {
				return err
			}
			return a.generateOnToken(cmd.Context(), o)
		},
	}
	addTokenFlag(cmd, &o.token.name)
	addPlaceFlags(cmd, &place)
	cmd.Flags().BoolVar(&o.token.onOnly, "on-token-only", false, "have the token make the key, so that there is no copy of it")
	cmd.Flags().StringVar(&algorithm, "algorithm", string(keys.P256), "`kind` of key: "+algorithmNames())
	addRepositoryFlag(cmd, &repository, "the `repository` of a targets or snapshot key")
	return cmd
}

// tokenRole reads for what a key on a token is.
func tokenRole(cmd *cobra.Command, role, repository string) (keys.Info, error) {
	info := keys.Info{Role: role, GUN: tuf.GUN(repository)}
	switch tuf.RoleName(role) {
	case tuf.RoleRoot:
	case tuf.RoleTargets, tuf.RoleSnapshot:
		if !info.GUN.Valid() {
			return info, usage(cmd, "a "+role+" key belongs to a repository", "name it with --repository")
		}
		return info, nil
	default:
		if err := checkKeyName(role); err != nil {
			return info, err
		}
	}
	if repository != "" {
		return info, usage(cmd, "a "+printable(role)+" key belongs to no repository", "leave out --repository")
	}
	return info, nil
}

func (a *app) generateOnToken(ctx context.Context, o tokenGenerateOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	d.token, d.onTokenOnly = o.token.name, o.token.onOnly
	d.place = o.place
	t, err := d.oneToken(ctx)
	if err != nil {
		return err
	}
	pending, err := d.maker(t).New(ctx, o.algorithm, o.info)
	if err != nil {
		return err
	}
	if err := pending.Save(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Generated %s on %s\n", described(pending.Info()), printable(t.Name()))
	return nil
}

func newTokenRemoveCmd(a *app) *cobra.Command {
	var o removeOptions
	o.token = true
	cmd := &cobra.Command{
		Use:     "remove ID",
		Short:   "Destroy a key on a token",
		Example: `  iechor trust token remove 543bb8f`,
		Long: `Remove destroys a key on a token, and leaves files alone. It refuses to do so if
that is the last key here that can sign something of a repository: then only
--force does it. A copy in the directory of backups stays.`,
		Args: exactArgs(1, "the ID of a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.id = args[0]
			return a.removeKey(cmd.Context(), o)
		},
	}
	addYesFlag(cmd, &o.yes)
	cmd.Flags().BoolVar(&o.force, "force", false, "remove the key also if it is the last one that can sign for a repository")
	return cmd
}
