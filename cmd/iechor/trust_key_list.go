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
	"github.com/iechor/trust/tuf"
)

func newKeyListCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the private keys that are here",
		Example: `  iechor trust key list
  iechor trust key list --json`,
		Long: `List shows the keys on this machine: root keys, repository keys (role targets,
and role snapshot where it is yours), and the keys of signers, each with the
place where it lives. Nothing is opened, and nobody is asked for a passphrase.`,
		Args: exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.listKeys(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// A listedKey is an entry of "key list --json".
type listedKey struct {
	ID         tuf.CanonicalID
	Role       string
	Repository tuf.GUN `json:",omitempty"`
	Location   string
}

func (a *app) listKeys(ctx context.Context, asJSON bool) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	// What a token in trouble keeps from being seen does not hide the rest.
	all, trouble := d.keys.List(ctx)
	if errors.Is(trouble, context.Canceled) {
		return trouble
	}
	for _, p := range d.dirKeys.Problems() {
		a.warn("%s", printable(p.String()))
	}
	if asJSON {
		list := make([]listedKey, 0, len(all))
		for _, k := range all {
			list = append(list, listedKey{k.ID, k.Role, k.GUN, k.Store.Name()})
		}
		raw, err := json.MarshalIndent(list, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s\n", raw)
		return errors.Join(err, trouble)
	}
	return errors.Join(a.printKeys(all), trouble)
}

// printKeys prints the table that users of notary know (spec/cli.md 9.2).
func (a *app) printKeys(all []keys.Located) error {
	if len(all) == 0 {
		_, err := fmt.Fprint(a.out, "\nNo signing keys found.\n\n")
		return err
	}
	b := bufio.NewWriter(a.out)
	fmt.Fprintln(b)
	w := tabwriter.NewWriter(b, 0, 0, 4, ' ', 0)
	fmt.Fprintln(w, "ROLE\tGUN\tKEY ID\tLOCATION")
	fmt.Fprintln(w, "----\t---\t------\t--------")
	for _, k := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", printable(k.Role), shortGUN(k.GUN), k.ID, printable(k.Store.Name()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(b)
	return b.Flush()
}

// shortGUN cuts long names on the left: their ends tell them apart.
func shortGUN(gun tuf.GUN) string {
	const most = 25
	s := string(gun)
	if len(s) > most {
		s = "..." + s[len(s)-(most-3):]
	}
	return s
}
