package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

func newAdminCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "admin",
		Short: "Administer a server's repositories",
		Long: `Example: iechor-trustd admin list --config /etc/iechor-trustd/server.yaml

Shows and administers what is in a trust server's store, while servers are
running on it: they notice by themselves. --config takes the server's
configuration file, --dir the folder of a sandbox. Lists are one JSON object a
line with --json.`,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newAdminListCmd(a), newAdminShowCmd(a), newAdminResetCmd(a), newAdminRestoreCmd(a),
		newAdminKeysCmd(a), newAdminExpiringCmd(a), newAdminAuditCmd(a))
	return c
}

// An operator is a signer as administration needs it.
type operator interface {
	ledger
	May(ctx context.Context) (signer.Rights, error)
	Forget(ctx context.Context, gun tuf.GUN) error
	Recall(ctx context.Context, gun tuf.GUN) error
}

// An admin is a server's store, opened for administration.
type admin struct {
	*app
	dir    string // of a sandbox; empty: config was loaded from a file
	where  string // the flags that name dir or the file, and an operator, for commands that are shown
	config *serverConfig
	store  storage.Archive
	keys   operator      // nil: see silent
	silent error         // why the signer cannot be asked
	may    signer.Rights // what the signer allows
}

// adminCommand completes c: with the flags that say which store is meant, and
// with do, which gets it opened. withSigner says that the signer is asked, too.
func (a *app) adminCommand(c *cobra.Command, withSigner bool, do func(ctx context.Context, s *admin, args []string) error) *cobra.Command {
	s := &admin{app: a, config: defaultServerConfig()}
	var file string
	c.Flags().StringVar(&file, "config", "", "configuration file of the server, YAML")
	c.Flags().StringVar(&s.dir, "dir", "", "folder of a sandbox")
	addFlags(c.Flags(), s.config, "storage", "signer")
	c.RunE = func(c *cobra.Command, args []string) error {
		if (file == "") == (s.dir == "") {
			return usage("name either --config FILE or --dir DIR")
		}
		s.where = "--dir " + s.dir
		if s.dir == "" {
			s.where = "--config " + file
			if err := load(s.config, file, a.env, c.Flags()); err != nil {
				return err
			}
			for _, name := range []string{"signer-certificate", "signer-key"} { // an operator's
				if f := c.Flags().Lookup(name); f.Changed {
					s.where += fmt.Sprintf(" --%s %s", name, f.Value)
				}
			}
		} else {
			s.config.Storage = sandboxServer(s.dir)
		}
		ctx := c.Context()
		db, err := a.openExisting(ctx, s.config.Storage, (*drivers.Address).OpenExisting, storage.Migrate)
		if err != nil {
			return err
		}
		defer func() { _ = db.Close() }() // everything acknowledged is on disk
		if s.store, err = storage.Open(ctx, db); err != nil {
			return err
		}
		if withSigner {
			closeSigner, err := s.openSigner(ctx)
			if err != nil {
				return err
			}
			defer closeSigner()
		}
		return do(ctx, s, args)
	}
	return c
}

// openSigner opens the signer, or notes why it cannot be asked.
func (s *admin) openSigner(ctx context.Context) (closeSigner func(), err error) {
	if s.dir != "" {
		service, closeSigner, err := s.openSandboxSigner(ctx, s.dir, (*drivers.Address).OpenExisting)
		if err != nil {
			return nil, err
		}
		s.keys = service
		s.may, err = service.May(ctx)
		return closeSigner, err
	}
	log, err := newLog(s.err, "warn")
	if err != nil {
		return nil, err
	}
	client, _, err := dialSigner(s.config.Signer, log)
	if err != nil {
		return nil, err
	}
	if s.may, s.silent = client.May(ctx); s.silent == nil {
		s.keys = client
	}
	return client.Close, nil
}

// warnSilent says that the signer was not asked, and what follows from that.
func (s *admin) warnSilent(consequence string) {
	if s.keys == nil {
		fmt.Fprintf(s.err, "iechor-trustd: the signer cannot be asked, so %s: %s\n", consequence, printableLines(s.silent.Error()))
	}
}

// atMostOne is for commands that take one argument or none.
func atMostOne(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("one argument at most is expected, in quotes where it has a * in it; there are %d", len(args))
	}
	return nil
}

// oneRepository takes the one argument of a command.
func oneRepository(args []string) (tuf.GUN, error) {
	if len(args) != 1 {
		return "", usage("name one repository, such as registry.example/app")
	}
	gun := tuf.GUN(args[0])
	if !gun.Valid() {
		return "", usage("%q is not the name of a repository, such as registry.example/app", args[0])
	}
	return gun, nil
}

// incarnations returns those of a repository; there is one at least.
func (s *admin) incarnations(ctx context.Context, gun tuf.GUN) ([]storage.Incarnation, error) {
	all, err := s.store.Incarnations(ctx, gun)
	if errors.Is(err, storage.ErrNotFound) || err == nil && len(all) == 0 {
		return nil, fmt.Errorf(`nothing was ever published as %s; "iechor-trustd admin list" shows what was`, gun)
	}
	return all, err
}

// each calls fn for every repository, ended ones included, and shows on a
// terminal how far it is.
func (s *admin) each(ctx context.Context, fn func(storage.Repository) error) error {
	shown := false
	clear := func() {
		if shown {
			fmt.Fprint(s.err, "\r\x1b[K")
		}
		shown = false
	}
	defer clear()
	var after tuf.GUN
	for n := 0; ; {
		page, err := s.store.Repositories(ctx, after, 0)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			after = r.GUN
			clear()
			if err := fn(r); err != nil {
				return err
			}
			if n++; n%100 == 0 && isTerminal(s.err) && !isTerminal(s.out) {
				fmt.Fprintf(s.err, "%d repositories …", n)
				shown = true
			}
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// theOperator is who runs this program, for the audit trail.
func (a *app) theOperator(reason string) storage.Actor {
	name := fmt.Sprint("uid ", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := a.env("SUDO_USER"); by != "" && by != name {
		name = by + " as " + name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // the trail then lacks it
	}
	return storage.Actor{Subject: name, From: host, Reason: reason, Operator: true}
}

// checkReason refuses a reason that nobody could make sense of later.
func checkReason(reason string) error {
	switch {
	case strings.TrimSpace(reason) == "":
		return usage("--reason TEXT is needed: it is what the audit trail says about it for ever, for example --reason 'ticket 4711: root key lost'")
	case len(reason) > 500:
		return usage("--reason has %d bytes, at most 500 are kept: name a ticket instead", len(reason))
	}
	return nil
}

// date is t as tables show it.
func date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// by is "by SUBJECT from ADDRESS", as far as it is known.
func by(a storage.Actor) string {
	text := cmp.Or(a.Subject, "somebody")
	if a.From != "" {
		text += " from " + a.From
	}
	if a.Forwarded != "" {
		text += " (for " + a.Forwarded + ", it is claimed)"
	}
	return text
}

// plural is "1 tag" or "2 tags".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// A table aligns columns that are parted by tabs. It is flushed at the end.
type table struct {
	*tabwriter.Writer
	out *bufio.Writer // the other one writes each cell by itself
}

func (a *app) table() table {
	out := bufio.NewWriter(a.out)
	return table{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0), out}
}

// Flush writes the table.
func (t table) Flush() error { return errors.Join(t.Writer.Flush(), t.out.Flush()) }
