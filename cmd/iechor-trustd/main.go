// Command iechor-trustd is the trust server that stands beside a registry, and
// the isolated signer behind it. It is also the sandbox, which is all of it at
// once for one machine, and the check of a server's store.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// An app is what the commands share.
type app struct {
	out, err io.Writer
	env      func(string) string
	now      func() time.Time
}

// Exit statuses (style: 0 done, 1 could not, 2 wrong usage).
const (
	exitFailed = 1
	exitUsage  = 2
	exitFound  = 4 // "admin expiring" and "admin keys" found what has to be done
)

// A usageError says that the command was called wrongly.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// A foundError says that a command has done its work, and found what somebody
// has to do something about.
type foundError struct{ error }

func (e foundError) Unwrap() error { return e.error }

func usage(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	a := &app{out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now}
	os.Exit(a.run(ctx, os.Args[1:]))
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(a.err, "iechor-trustd: %s\n", printableLines(err.Error()))
	var wrong usageError
	if found := new(foundError); errors.As(err, found) {
		return exitFound
	}
	if errors.As(err, &wrong) {
		fmt.Fprintln(a.err, `hint: "iechor-trustd --help" and "iechor-trustd COMMAND --help" show how it is called`)
		return exitUsage
	}
	return exitFailed
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "iechor-trustd",
		Short: "Trust server and signer of iEchor content trust",
		Long: `Example: iechor-trustd sandbox --tour

Trust server and signer of iEchor content trust: signed image tags beside a registry.`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, c := range []*cobra.Command{
		newServerCmd(a), newSignerCmd(a), newSandboxCmd(a), newCheckCmd(a), newMigrateCmd(a), newFloorCmd(a), newAuditCmd(a), newAdminCmd(a),
		newImportCmd(a), newAccessCmd(a), newConfigCmd(a), newHealthCmd(a), newVersionCmd(a),
	} {
		if c.Args == nil {
			c.Args = noArguments
		}
		root.AddCommand(c)
	}
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("unknown command %q", args[0])
		}
		return nil
	}
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return root
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("unexpected argument %q", args[0])
	}
	return nil
}

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Example: iechor-trustd version\n\nPrints the version of the program.",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.out, "iechor-trustd", version())
			return err
		},
	}
}

// version is that of the module, or of the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
