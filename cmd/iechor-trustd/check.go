package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/server"
	"github.com/iechor/trust/signer"
)

type checkOptions struct{ config, dir string }

func newCheckCmd(a *app) *cobra.Command {
	var o checkOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Verify everything in a server's store",
		Long: `Example: iechor-trustd check --config /etc/iechor-trustd/server.yaml

Verifies every invariant of a trust server's store, running or not: that all
files have the hashes they are kept under, that all signatures hold, that
timestamp, snapshot and targets form a chain as a client would follow it, that
versions only rise, and that the signer holds the keys and agrees about what it
has signed. Prints what is wrong, one line each; exit status 0 only if nothing
is.

--config takes the server's configuration file; its signer is asked if it can
be reached. --dir takes the folder of a sandbox.`,
	}
	c.Flags().StringVar(&o.config, "config", "", "configuration file of the server, YAML")
	c.Flags().StringVar(&o.dir, "dir", "", "folder of a sandbox")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if (o.config == "") == (o.dir == "") {
			return usage("name either --config FILE or --dir DIR")
		}
		return a.check(c.Context(), o)
	}
	return c
}

func (a *app) check(ctx context.Context, o checkOptions) error {
	log, err := newLog(a.err, "warn")
	if err != nil {
		return err
	}
	var setting string
	var keys server.Keys
	if o.dir != "" {
		setting = "sqlite:" + filepath.Join(o.dir, "server", "server.db")
		table, closeTable, err := openTable(ctx, &signerConfig{
			Storage:          "sqlite:" + filepath.Join(o.dir, "signer", "signer.db"),
			KeyEncryptionKey: "file:" + filepath.Join(o.dir, "signer", "kek"),
		}, a.env)
		if err != nil {
			return fmt.Errorf("open the signer of %s: %w", o.dir, err)
		}
		defer closeTable()
		if keys, err = signer.New(signer.Config{Table: table, Now: a.now, Log: log}); err != nil {
			return err
		}
	} else {
		c := defaultServerConfig()
		if err := readConfig(o.config, c); err != nil {
			return err
		}
		setting = c.Storage
		client, err := dialSigner(c.Signer, log)
		if err != nil {
			return err
		}
		if err := client.Ping(ctx); err != nil {
			fmt.Fprintf(a.err, "iechor-trustd: the signer cannot be asked, so its keys and ledger are not compared: %v\n", err)
		} else {
			keys = client
		}
	}
	if err := exists(setting); err != nil {
		return err
	}
	store, closeStore, err := openStore(ctx, setting)
	if err != nil {
		return err
	}
	defer closeStore()
	problems := 0
	err = server.Check(ctx, store, keys, a.now(), func(p server.Problem) {
		problems++
		fmt.Fprintln(a.out, p)
	})
	if err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("%d problems found", problems)
	}
	_, err = fmt.Fprintln(a.out, "nothing wrong found")
	return err
}

// exists keeps check from making an empty database where there is none.
func exists(setting string) error {
	path, ok := strings.CutPrefix(setting, "sqlite:")
	if _, err := os.Stat(path); ok && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no database %s", path)
	}
	return nil
}
