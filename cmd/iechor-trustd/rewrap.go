package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/signer"
)

func newRewrapCmd(a *app) *cobra.Command {
	config := defaultSignerConfig()
	var file string
	var fresh bool
	c := &cobra.Command{
		Use:   "rewrap",
		Short: "Wrap all keys under the current key-encryption key",
		Long: `Example: iechor-trustd signer rewrap --config /etc/iechor-trustd/signer.yaml

Moves all keys of the signer's database under the key-encryption key of the
configuration, while the signers run. It can be stopped at any moment, and goes
on when it is called again. When it says so, the former key is not needed any
more. To change the key:

1. name the new one under old-key-encryption-keys of every signer, and restart
   them one after the other: now each can read what is wrapped under either;
2. make it key-encryption-key, and the former one an old one, and restart them
   one after the other: new keys are wrapped under it from now on;
3. run this command once, with that configuration;
4. take the former one out of old-key-encryption-keys, and restart.

It refuses to begin beside a signer that lacks the new key, and does not end
beside one that still wraps under a former one. A single signer can do with
steps 2 to 4. When a key in Vault was rotated, this command alone has it used in
its newest version. A data key, with which keys are encrypted when the
key-encryption key stays in Vault or in a token, is replaced with
--new-data-key: do that when memory of a signer may have been seen.`,
	}
	c.Flags().StringVar(&file, "config", "", "configuration file of the signer, YAML")
	c.Flags().BoolVar(&fresh, "new-data-key", false, "make a new data key first")
	addFlags(c.Flags(), config, "storage", "key-encryption-key", "old-key-encryption-keys", "vault")
	c.Args = noArguments
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := signer.Harden(); err != nil {
			return fmt.Errorf("shut the process up against its surroundings: %w", err)
		}
		if err := load(config, file, a.env, c.Flags()); err != nil {
			return err
		}
		return a.rewrap(c.Context(), config, fresh)
	}
	return c
}

func (a *app) rewrap(ctx context.Context, c *signerConfig, fresh bool) error {
	kek, closeKEK, err := keyEncryptionKeys(ctx, c, a.env)
	if err != nil {
		return err
	}
	defer closeKEK()
	table, closeTable, err := a.openTable(ctx, c.Storage, kek)
	if err != nil {
		return err
	}
	defer closeTable()
	said := 0
	moved, err := table.Rewrap(ctx, signer.RewrapOptions{Fresh: fresh, Identity: whoRuns(), Progress: func(moved, total int) {
		if moved*10/total > said { // ten lines at most
			said = moved * 10 / total
			fmt.Fprintf(a.err, "iechor-trustd: %d of %d keys moved\n", moved, total)
		}
	}}, a.now)
	if err != nil {
		if moved > 0 && !errors.As(err, new(*signer.InstancesError)) {
			err = fmt.Errorf("%d keys were moved: %w; call this again to go on", moved, err)
		}
		return err
	}
	ids := kek.IDs()
	if _, err := fmt.Fprintf(a.out, "%s moved; all are under %s now\n", count(moved, "key"), ids[0]); err != nil {
		return err
	}
	for _, id := range ids[1:] {
		if _, err := fmt.Fprintf(a.out, "not needed any more: %s\n", id); err != nil {
			return err
		}
	}
	return nil
}

// whoRuns names who runs this command, for the audit log.
func whoRuns() string {
	if u, err := user.Current(); err == nil {
		return "command line: " + u.Username
	}
	return "command line"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
