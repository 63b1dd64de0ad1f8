package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
)

func newTrustDoctorCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [flags] [NAME[:TAG]]",
		Short: "Find what keeps this machine from pulling or signing",
		Example: `  iechor trust doctor
  iechor trust doctor registry.example.com/app:1.2
  iechor trust doctor --json registry.example.com/app | jq '.Checks[] | select(.State != "ok")'`,
		Long: `Doctor looks at everything that a pull or a signature needs, and says of each
thing whether it is ok, and if not, the cure. Without NAME it looks at this
machine: configuration, variables, folders, key files, the trust servers that
are configured, the engine, and the trust data at hand. With NAME it looks at
what that image needs: which trust server, and why that one; its certificate,
clock and login; the trust data, its pins and expiries; the tag; the keys that
may sign, and which of them are here; the registry.

A warning is about something that will be in the way, or is only for some. The
exit status is 1 if something is broken.

Nothing on this machine is changed, and no passphrase is asked for. With NAME
the trust server may be asked which timestamp key it uses, as a push asks, to
see whether this login may publish.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Sprintf("%s takes one image name at most, and got %d arguments", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var ref registry.Ref
			if len(args) > 0 {
				var err error
				if ref, err = registry.ParseRef(args[0]); err != nil {
					return err
				}
			}
			return a.doctor(cmd.Context(), ref, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// doctor examines the machine, and ref if it is not zero.
func (a *app) doctor(ctx context.Context, ref registry.Ref, asJSON bool) (err error) {
	a = looking(a)
	dir, err := a.dir()
	if err != nil {
		return err
	}
	x := &examination{app: a, dir: dir}
	if ref.Repository != "" {
		x.Image = ref.Familiar()
	}
	d, err := a.desk()
	if d != nil {
		defer func() { err = errors.Join(err, d.Close()) }()
	}
	x.configuration(d, err)
	x.variables()
	x.folders()
	if d != nil {
		x.keyFiles(ctx, d.dirKeys)
		x.tokens(ctx, d)
	}
	x.oldLayouts()
	switch {
	case d == nil:
	case ref.Repository == "":
		x.servers(ctx, d)
		x.trustData(ctx, d)
	default:
		x.image(ctx, d, ref)
	}
	if d != nil {
		x.engine(ctx, d)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	out := bufio.NewWriter(a.out)
	if asJSON {
		err = x.printJSON(out)
	} else {
		err = x.print(out)
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if x.Broken > 0 {
		return told(exitCannot)
	}
	return nil
}

// The states of what was looked at.
const (
	stateOK      = "ok"
	stateWarning = "warning"
	stateBroken  = "broken"
)

// A finding is what was found out about one thing. Its texts are printable.
type finding struct {
	Check   string
	State   string
	Finding string
	Cures   []string `json:",omitempty"`
}

// An examination gathers findings.
type examination struct {
	*app
	dir string // of the configuration

	Image    string
	Findings []finding
	Broken   int
	Warnings int
}

// note adds a finding.
func (x *examination) note(check, state, text string, cures ...string) {
	f := finding{check, state, oneLine(text), nil}
	for _, c := range cures {
		if c != "" {
			f.Cures = append(f.Cures, oneLine(c))
		}
	}
	switch state {
	case stateBroken:
		x.Broken++
	case stateWarning:
		x.Warnings++
	}
	x.Findings = append(x.Findings, f)
}

// failed adds what a command would say about err.
func (x *examination) failed(check, state string, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		x.note(check, state, fmt.Sprintf("no answer within %d seconds", int(patience.Seconds())), "see whether the network and the server work")
		return
	}
	sentence, hints, _ := explain(err)
	for _, start := range []string{"iechor: ", "Error: error contacting notary server: ", "Error: "} {
		sentence = strings.TrimPrefix(sentence, start)
	}
	x.note(check, state, sentence, hints...)
}

// patience is how long one question to a server may take.
const patience = 20 * time.Second

// patiently gives one question to a server its time.
func patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, patience)
}

// print writes a table for people.
func (x *examination) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "CHECK\tSTATE\tFINDING\n")
	last := ""
	for _, f := range x.Findings {
		check := f.Check
		if check == last {
			check = ""
		}
		last = f.Check
		fmt.Fprintf(w, "%s\t%s\t%s\n", check, f.State, f.Finding)
		for _, c := range f.Cures {
			fmt.Fprintf(w, "\t\tcure: %s\n", c)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	summary := "Nothing is broken"
	switch {
	case x.Broken == 1:
		summary = "1 thing is broken"
	case x.Broken > 1:
		summary = fmt.Sprintf("%d things are broken", x.Broken)
	}
	switch {
	case x.Warnings == 1:
		summary += ", and there is 1 warning"
	case x.Warnings > 1:
		summary += fmt.Sprintf(", and there are %d warnings", x.Warnings)
	}
	_, err := fmt.Fprintf(out, "\n%s.\n", summary)
	return err
}

func (x *examination) printJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "    ")
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Image    string `json:",omitempty"`
		Broken   int
		Warnings int
		Checks   []finding
	}{x.Image, x.Broken, x.Warnings, x.Findings})
}

// plural counts things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// shortIDs lists keys as people see them.
func shortIDs(infos []keys.Info) string {
	ids := make([]string, len(infos))
	for i, k := range infos {
		ids[i] = k.ID.Short()
	}
	return strings.Join(ids, ", ")
}
