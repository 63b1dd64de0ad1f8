package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
)

func newMigrateCmd(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the tables of a database up to date",
		Long: `Example: iechor-trustd migrate --config /etc/iechor-trustd/server.yaml

Makes the tables that this version of the program needs, or brings older ones up
to date, and ends. --config takes the configuration of a server or of a signer,
of which only the storage is used. Servers and signers do the same when they
start, one at a time; to do it apart lets them run as a database user who may
not change tables. --storage names the database as the user who may.`,
	}
	c.Flags().StringVar(&file, "config", "", "configuration file of a server or signer, YAML")
	addFlags(c.Flags(), defaultServerConfig(), "storage")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if file == "" {
			return usage("name a configuration with --config FILE: it says whether the tables are a server's or a signer's")
		}
		signers, err := ofSigner(file)
		if err != nil {
			return err
		}
		if signers {
			config := defaultSignerConfig()
			if err := load(config, file, a.env, c.Flags()); err != nil {
				return err
			}
			return a.migrate(c.Context(), config.Storage, signer.Migrate)
		}
		config := defaultServerConfig()
		if err := load(config, file, a.env, c.Flags()); err != nil {
			return err
		}
		return a.migrate(c.Context(), config.Storage, storage.Migrate)
	}
	return c
}

func (a *app) migrate(ctx context.Context, setting string, migrate func(context.Context, *database.DB) error) error {
	at, err := drivers.Parse(setting, a.env)
	if err != nil {
		return err
	}
	var before, after []string
	if err := at.Migrate(ctx, func(ctx context.Context, db *database.DB) (err error) {
		if before, err = db.Migrated(ctx); err != nil {
			return err
		}
		if err := migrate(ctx, db); err != nil {
			return err
		}
		after, err = db.Migrated(ctx)
		return err
	}); err != nil {
		return err
	}
	made := slices.DeleteFunc(after, func(m string) bool { return slices.Contains(before, m) })
	for _, m := range made {
		fmt.Fprintln(a.out, "made", m)
	}
	if len(made) == 0 {
		fmt.Fprintln(a.out, "nothing to do: the tables are up to date")
	}
	return nil
}

// ofSigner reports whether a configuration file is that of a signer, by the
// keys that every one of those has and no other.
func ofSigner(file string) (bool, error) {
	raw, err := readBounded(file)
	if err != nil {
		return false, err
	}
	var keys map[string]yaml.Node
	_ = yaml.Unmarshal(raw, &keys) // what is wrong with it is said when it is loaded
	for _, key := range []string{"key-encryption-key", "client-ca", "identities"} {
		if _, ok := keys[key]; ok {
			return true, nil
		}
	}
	return false, nil
}
