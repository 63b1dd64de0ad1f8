package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/notary"
)

func newImportCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "import",
		Short: "Take over what another trust service has stored",
		Long: `Example: iechor-trustd import notary --server-db server.sql --signer-db signer.sql --config server.yaml --signer-config signer.yaml

Takes over what another trust service has stored: all of a deployment of
notary-server and notary-signer, keys included, or a verified copy of whatever
a service publishes.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newImportNotaryCmd(a), newImportServiceCmd(a), newImportReleaseCmd(a))
	return c
}

// progress says on a terminal how far it is; what is piped has none.
func (a *app) progress(format string, args ...any) {
	if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(f, "\r\x1b[K"+format, args...)
	}
}

// openForeign opens a database of the stock programs, which is a dump or live.
// done removes what was made of a dump.
func (a *app) openForeign(ctx context.Context, source string) (_ *notary.Database, done func(), err error) {
	if strings.Contains(source, "://") {
		at, err := drivers.Parse(source, a.env)
		if err != nil {
			return nil, nil, err
		}
		// A copy will do, and all names of a large table take their time.
		at.AnyServer, at.StatementTimeout = true, 10*time.Minute
		db, err := at.OpenReadOnly(ctx)
		if err != nil {
			return nil, nil, err
		}
		return notary.New(db), func() { _ = db.Close() }, nil // nothing was written
	}
	path := strings.TrimPrefix(source, "file:")
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open the dump: %w", err)
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "iechor-trustd-import-")
	if err != nil {
		return nil, nil, fmt.Errorf("make room for the dump: %w", err)
	}
	a.progress("reading %s", path)
	defer a.progress("")
	db, err := (&drivers.Address{Dialect: database.SQLite, Path: filepath.Join(dir, "dump.db")}).Open(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	done = func() { _, _ = db.Close(), os.RemoveAll(dir) } // a copy of what others have
	if _, err := notary.Load(ctx, f, db); err != nil {
		done()
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return notary.New(db), done, nil
}
