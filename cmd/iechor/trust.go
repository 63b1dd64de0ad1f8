package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/terminal"
)

// newTrustCmd is the family of commands about keys and signed data. They do
// not look at the content trust switch: they always work with trust data.
func newTrustCmd(a *app) *cobra.Command {
	return group(a, "trust", "Manage keys, signers and signed tags",
		`  iechor trust inspect --pretty registry.example.com/app
  iechor trust sign registry.example.com/app:1.2`,
		newTrustInspectCmd(a), newTrustDelegationCmd(a),
		newTrustStatusCmd(a), newTrustPublishCmd(a), newTrustResetCmd(a), newTrustDeleteCmd(a),
		newTrustSignCmd(a), newTrustCosignCmd(a), newTrustRevokeCmd(a),
		newTrustSignerCmd(a), newTrustKeyCmd(a), newTrustTokenCmd(a), newTrustDoctorCmd(a), newTrustRenewCmd(a), newTrustRecoverCmd(a), newTrustAcceptRootCmd(a),
		newTrustBackupCmd(a),
	)
}

// group is a command that only holds others. Alone it prints help on stderr:
// nobody asked for it, it is no result.
func group(a *app, name, short, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usage(cmd, fmt.Sprintf("unknown command %q", args[0]), nearestHint(args[0], commandNames(cmd))...)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.err)
			return cmd.Help()
		},
	}
	cmd.AddCommand(commands...)
	return cmd
}

// complain says what went wrong with one of several things, at once, and
// returns the exit status that it means. At the end, told ends the command.
func (a *app) complain(err error) int {
	sentence, hints, exit := explain(err)
	fmt.Fprintln(a.err, sentence)
	for _, h := range hints {
		fmt.Fprintln(a.err, "hint: "+h)
	}
	return exit
}

// told ends a command with an exit status after everything has been said; nil
// for exitDone.
func told(exit int) error {
	if exit == exitDone {
		return nil
	}
	return &toldError{exit}
}

// A toldError is about things that complain has already spoken of.
type toldError struct{ exit int }

func (e *toldError) Error() string { return fmt.Sprintf("failed with status %d", e.exit) }

// confirm asks before something is lost. The error is errAborted if the answer
// is no, and names the flag that answers in advance if nobody can be asked.
func (d *desk) confirm(ctx context.Context, question, flag string) error {
	yes, err := d.terminal.Confirm(ctx, question+" [y/N] ")
	switch {
	case errors.Is(err, terminal.ErrNoTerminal), err == nil && !yes && !d.terminal.Interactive():
		return &statedError{sentence: "iechor: not done: there is no terminal to ask on whether to go on", hints: []string{"to go on without a question, give " + flag}}
	case err != nil:
		return err
	case !yes:
		fmt.Fprint(d.out, "\nAborting action.\n")
		return errAborted
	}
	return nil
}

// errAborted says that the user does not want it. That is no failure.
var errAborted = errors.New("aborted")

// A taskError puts the words that the specification has for a task before the
// reason why it failed: in spec/cli.md 7 reasons stand as they are.
type taskError struct {
	before string
	err    error
}

func (e *taskError) Error() string { return e.before + e.err.Error() }
func (e *taskError) Unwrap() error { return e.err }

// A statedError has its sentence already: one that spec/cli.md 7 fixes.
type statedError struct {
	sentence string
	hints    []string
	exit     int // 0: exitCannot
}

func (e *statedError) Error() string { return e.sentence }
