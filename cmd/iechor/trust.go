package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newTrustCmd is the family of commands about keys and signed data. They do
// not look at the content trust switch: they always work with trust data.
func newTrustCmd(a *app) *cobra.Command {
	return group(a, "trust", "Manage keys, signers and signed tags",
		`  iechor trust inspect --pretty registry.example.com/app
  iechor trust sign registry.example.com/app:1.2`,
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
