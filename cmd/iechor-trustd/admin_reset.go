package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

type resetOptions struct {
	reason string
	yes    bool
}

// reasonedCommand completes c, which changes one repository and has to say why.
func (a *app) reasonedCommand(c *cobra.Command, do func(s *admin, ctx context.Context, gun tuf.GUN, o resetOptions) error) *cobra.Command {
	var o resetOptions
	c.Args = cobra.ArbitraryArgs
	c.Flags().StringVar(&o.reason, "reason", "", "why, for the audit trail; needed")
	c.Flags().BoolVar(&o.yes, "yes", false, "do not ask")
	return a.adminCommand(c, true, func(ctx context.Context, s *admin, args []string) error {
		gun, err := oneRepository(args)
		if err != nil {
			return err
		}
		if err := checkReason(o.reason); err != nil {
			return err
		}
		return do(s, ctx, gun, o)
	})
}

func newAdminResetCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "reset REPOSITORY",
		Short: "End a repository whose owner has lost the root key",
		Long: `Example: iechor-trustd admin reset registry.example/app --reason 'ticket 4711: root key lost' --config server.yaml --signer-certificate operator.crt --signer-key operator.key

Ends a repository, so that its owner can publish under the same name with a new
root key. This is what is left when the root key is lost for good: everybody who
pulled from it refuses the new one, until they accept it by hand. First it shows
what is lost, and has the name typed; --yes does not ask.

Nothing is erased: its files are kept for as long as retention.deleted of the
server says, can be seen with "admin show --incarnation N", and come back with
"admin restore" while nothing new was published. The audit trail tells of it,
with the reason, for ever. The signer ends what it remembers, for which the
certificate has to be an operator's there (right forget): a server has no such
right. Of a repository that a client has deleted, only that is left to do.`,
	}
	return a.reasonedCommand(c, (*admin).reset)
}

func (s *admin) reset(ctx context.Context, gun tuf.GUN, o resetOptions) error {
	if s.keys == nil {
		return fmt.Errorf("the signer cannot be asked, and without it nothing could be published anew: nothing was changed, start it and try again: %w", s.silent)
	}
	if !s.may.Forget {
		return errors.New("the signer does not let this identity end what it remembers, and nothing was changed: use --signer-certificate and --signer-key of one with the right forget")
	}
	all, err := s.incarnations(ctx, gun)
	if err != nil {
		return err
	}
	last := all[len(all)-1]
	if !last.Lives() {
		// Deleted by a client, or the signer could not be told.
		if err := s.store.Record(ctx, storage.AuditRecord{At: s.now(), Act: storage.Confirmed, Repository: gun, Actor: s.theOperator(o.reason)}); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
		if err := s.forget(ctx, gun); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s was ended already, on %s by %s; the signer knows. Its owner can publish anew.\n", gun, date(last.Ended), last.By)
		return err
	}
	state, err := s.store.Current(ctx, gun)
	if err != nil {
		return err
	}
	if err := s.mourn(ctx, last); err != nil {
		return err
	}
	if err := s.sure(ctx, gun, "Type the name of the repository to reset it: ", o.yes); err != nil {
		return err
	}
	if state, err = s.unlessPublished(ctx, state); err != nil {
		return err
	}
	if err := s.store.Delete(ctx, state, s.now(), s.theOperator(o.reason)); err != nil {
		if errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("%s was published to at this moment, and was not reset: look at it, and try again", gun)
		}
		return err
	}
	if err := s.forget(ctx, gun); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, `%[1]s is reset. Its owner can publish anew, with a new root key.
What it was: iechor-trustd admin show %[1]s --incarnation %[2]d %[3]s
To take it back, until %[4]s and while nothing new is published: iechor-trustd admin restore %[1]s --reason TEXT %[3]s
`, gun, last.Number, s.where, date(s.now().Add(time.Duration(s.config.Retention.Deleted))))
	return err
}

// unlessPublished returns the current state, unless a client has published
// since state; that the server renews is no reason to stop.
func (s *admin) unlessPublished(ctx context.Context, state *storage.State) (*storage.State, error) {
	now, err := s.store.Current(ctx, state.GUN)
	if err != nil {
		return nil, err
	}
	for role, e := range now.Roles {
		if role != tuf.RoleTimestamp && role != tuf.RoleSnapshot && state.Roles[role].SHA256 != e.SHA256 {
			return nil, fmt.Errorf("%s was published to meanwhile, and was not reset: look at it, and try again", state.GUN)
		}
	}
	return now, nil
}

// forget has the signer drop the keys of a repository that was ended.
func (s *admin) forget(ctx context.Context, gun tuf.GUN) error {
	if err := s.keys.Forget(ctx, gun); err != nil {
		return fmt.Errorf("%s is ended, but the signer could not be told, and nothing can be published anew before: run the same command again: %w", gun, err)
	}
	return nil
}

// mourn shows what a reset loses.
func (s *admin) mourn(ctx context.Context, i storage.Incarnation) error {
	v, err := s.view(ctx, i)
	if err != nil {
		return err
	}
	published := time.Time{}
	fmt.Fprintf(s.err, "%s, published since %s, will be ended:\n", i.GUN, date(i.Began))
	for _, r := range v.Roles {
		if r.Role != tuf.RoleTimestamp && r.Role != tuf.RoleSnapshot {
			fmt.Fprintf(s.err, "  %s version %d, of %s, %s\n", r.Role, r.Version, date(r.Committed), plural(len(r.Keys), "key"))
			if r.Committed.After(published) {
				published = r.Committed
			}
		}
	}
	if v.Verified {
		fmt.Fprintf(s.err, "  %s, no longer to be pulled\n", plural(len(v.Tags), "tag"))
	} else {
		fmt.Fprintln(s.err, "  it does not verify, so clients refuse it already")
	}
	fmt.Fprintf(s.err, "Something was last published on %s. Everybody who pulled from it has to accept the new root key by hand.\n", date(published))
	return nil
}

// sure has the name of the repository typed.
func (s *admin) sure(ctx context.Context, gun tuf.GUN, question string, yes bool) error {
	if yes {
		return nil
	}
	t := terminal.New(terminal.Config{})
	defer func() { _ = t.Close() }() // nothing is written to it any more
	answer, err := t.Line(ctx, question)
	switch {
	case errors.Is(err, terminal.ErrNoTerminal):
		return errors.New("there is no terminal to ask on, and nothing was changed: --yes does not ask")
	case err != nil:
		return err
	case answer != string(gun):
		return errors.New("that is not the name of the repository: nothing was changed")
	}
	return nil
}

func newAdminRestoreCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "restore REPOSITORY",
		Short: "Take back the deletion or reset of a repository",
		Long: `Example: iechor-trustd admin restore registry.example/app --reason 'reset by mistake' --config server.yaml --signer-certificate operator.crt --signer-key operator.key

Takes back that a repository was deleted or reset, while nothing was published
under its name since and all its files are kept: it is as it was, for old and
new clients. The signer uses its keys again; it has to let this identity operate
it (right operate), which a server may not.`,
	}
	return a.reasonedCommand(c, (*admin).restore)
}

func (s *admin) restore(ctx context.Context, gun tuf.GUN, o resetOptions) error {
	if s.keys == nil {
		return fmt.Errorf("the signer cannot be asked, and without it the repository could not be renewed: nothing was changed, start it and try again: %w", s.silent)
	}
	if !s.may.Operate {
		return errors.New("the signer does not let this identity take its keys back, and nothing was changed: use --signer-certificate and --signer-key of one with the right operate")
	}
	all, err := s.incarnations(ctx, gun)
	if err != nil {
		return err
	}
	last := all[len(all)-1]
	if last.Lives() {
		if last.Number == 1 {
			return fmt.Errorf("%s is published and was never ended: there is nothing to restore", gun)
		}
		return fmt.Errorf(`something was published as %s since it was ended, and that is not taken away from its owner: "iechor-trustd admin show %s --incarnation %d %s" has what was before`,
			gun, gun, last.Number-1, s.where)
	}
	v, err := s.view(ctx, last)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "%s, ended on %s by %s, will be published again, with %s.\n", gun, date(last.Ended), last.By, plural(len(v.Tags), "tag"))
	if err := s.sure(ctx, gun, "Type the name of the repository to restore it: ", o.yes); err != nil {
		return err
	}
	// A deletion that no operator has confirmed is none to the signer.
	forgotten := !v.held(tuf.RoleTimestamp)
	if forgotten {
		if err := s.keys.Recall(ctx, gun); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
	}
	_, err = s.store.Restore(ctx, gun, s.now(), s.theOperator(o.reason))
	switch {
	case errors.Is(err, storage.ErrUncertain):
		// If it is published, the signer's keys are needed.
		return fmt.Errorf("it is not known whether %s is restored, because the connection to the database was lost: \"iechor-trustd admin show %[1]s %[2]s\" says whether it is published; if not, run the same command again: %[3]w", gun, s.where, err)
	case err != nil:
		err = fmt.Errorf("not restored: %w", err)
		if forgotten { // and is to stay so, or nothing new could be published
			err = errors.Join(err, s.keys.Forget(ctx, gun))
		}
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s is published again, as it was on %s\n", gun, date(last.Ended))
	return err
}
