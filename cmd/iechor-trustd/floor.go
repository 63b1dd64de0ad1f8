package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/tuf"
)

type floorOptions struct {
	config, gun string
	lower       int64 // -1: only show
	forget      bool
}

func newFloorCmd(a *app) *cobra.Command {
	var o floorOptions
	config := defaultServerConfig()
	c := &cobra.Command{
		Use:   "floor",
		Short: "Show or lower what the signer remembers of a repository",
		Long: `Example: iechor-trustd floor --config server.yaml --signer-certificate operator.crt --signer-key operator.key --gun registry.example/app

Shows which versions the signer has signed for a repository, and which it knows
to have been published. It builds on nothing older than those, so after a backup
of the server's store was restored nothing can be published any more. If that is
what happened, and not an attack, --lower-to the version of the timestamp that
the store now has (0: it has none) lets publishing go on. What was signed is not
signed a second time all the same.

--forget ends what is remembered of a repository that was deleted: the next one
of that name begins anew, under new keys. Until then publishers are told that an
operator has to act.

--config takes the server's configuration file, of which only the signer's
address is used. The certificate is an operator's: of an identity with the right
operate, or forget for --forget, neither of which a server can have.`,
	}
	c.Flags().StringVar(&o.config, "config", "", "configuration file of the server, YAML")
	c.Flags().StringVar(&o.gun, "gun", "", "the repository")
	c.Flags().Int64Var(&o.lower, "lower-to", -1, "version of the timestamp to build on from now on")
	c.Flags().BoolVar(&o.forget, "forget", false, "end what is remembered of a deleted repository")
	addFlags(c.Flags(), config, "signer")
	c.RunE = func(c *cobra.Command, _ []string) error {
		gun := tuf.GUN(o.gun)
		if !gun.Valid() {
			return usage("--gun must name a repository, such as registry.example/app; it is %q", o.gun)
		}
		if c.Flags().Changed("lower-to") && o.lower < 0 {
			return usage("--lower-to must be the version of a timestamp, or 0 for none; it is %d", o.lower)
		}
		if o.forget && o.lower >= 0 {
			return usage("either --lower-to or --forget")
		}
		if err := load(config, o.config, a.env, c.Flags()); err != nil {
			return err
		}
		return a.floor(c.Context(), config, gun, o)
	}
	return c
}

func (a *app) floor(ctx context.Context, c *serverConfig, gun tuf.GUN, o floorOptions) error {
	log, err := newLog(a.err, "warn")
	if err != nil {
		return err
	}
	client, _, err := dialSigner(c.Signer, log)
	if err != nil {
		return err
	}
	defer client.Close()
	right := "operate"
	switch {
	case o.lower >= 0:
		err = client.LowerFloor(ctx, gun, o.lower)
	case o.forget:
		right, err = "forget", client.Forget(ctx, gun)
	}
	if errors.Is(err, signer.ErrDenied) {
		return fmt.Errorf("nothing was changed: use --signer-certificate and --signer-key of an identity with the right %s, which a server has not: %w", right, err)
	}
	if err != nil {
		return err
	}
	if o.forget {
		_, err = fmt.Fprintf(a.out, "forgotten: the next %s begins anew\n", gun)
		return err
	}
	floors, err := client.Floors(ctx, gun)
	if err != nil {
		return err
	}
	if len(floors) == 0 {
		return fmt.Errorf("the signer has signed nothing for %s", gun)
	}
	for _, f := range floors {
		if _, err := fmt.Fprintf(a.out, "incarnation %d: timestamp signed %d, published %d; snapshot signed %d, published %d, dated %d\n",
			f.Incarnation, f.TimestampSigned, f.TimestampConfirmed, f.SnapshotSigned, f.SnapshotConfirmed, f.SnapshotNamed); err != nil {
			return err
		}
	}
	return nil
}
