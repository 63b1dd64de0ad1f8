package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

type checkOptions struct{ config, dir string }

func newCheckCmd(a *app) *cobra.Command {
	var o checkOptions
	config := defaultServerConfig()
	c := &cobra.Command{
		Use:   "check",
		Short: "Verify everything in a server's store",
		Long: `Example: iechor-trustd check --config /etc/iechor-trustd/server.yaml

Verifies a trust server's store, running or not: that all current files and all
roots have the hashes they are kept under, that all signatures hold, that
timestamp, snapshot and targets form a chain as a client would follow it, that
versions only rise, that what the changefeed tells of is there, that the signer
holds the keys, and that store and signer agree about what was signed. Prints
what is wrong, one line each; exit status 0 only if nothing is. Changes nothing.

--config takes the server's configuration file; its signer is asked if it can
be reached. --dir takes the folder of a sandbox.`,
	}
	c.Flags().StringVar(&o.config, "config", "", "configuration file of the server, YAML")
	c.Flags().StringVar(&o.dir, "dir", "", "folder of a sandbox")
	addFlags(c.Flags(), config, "storage", "signer")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if (o.config == "") == (o.dir == "") {
			return usage("name either --config FILE or --dir DIR")
		}
		if o.dir != "" {
			return a.checkSandbox(c.Context(), o.dir)
		}
		if err := load(config, o.config, a.env, c.Flags()); err != nil {
			return err
		}
		return a.checkServer(c.Context(), config)
	}
	return c
}

// A ledger is asked what the signer remembers of a repository.
type ledger interface {
	server.Keys
	Floors(ctx context.Context, gun tuf.GUN) ([]signer.Floor, error)
}

// sandboxServer is the storage setting of the server in a sandbox's folder.
func sandboxServer(dir string) string { return "sqlite:" + filepath.Join(dir, "server", "server.db") }

// openSandboxSigner opens the signer in a sandbox's folder, its database by
// open.
func (a *app) openSandboxSigner(ctx context.Context, dir string, open func(*drivers.Address, context.Context) (*database.DB, error)) (_ *signer.Service, closeSigner func(), err error) {
	kek, closeKEK, err := keyEncryptionKeys(ctx, &signerConfig{KeyEncryptionKey: "file:" + filepath.Join(dir, "signer", "kek")}, a.env)
	if err != nil {
		return nil, nil, fmt.Errorf("open the signer of %s: %w", dir, err)
	}
	closeKEK() // a key in a file needs nothing
	db, err := a.openExisting(ctx, "sqlite:"+filepath.Join(dir, "signer", "signer.db"), open, signer.Migrate)
	if err != nil {
		return nil, nil, fmt.Errorf("open the signer of %s: %w", dir, err)
	}
	table, err := signer.OpenTable(ctx, db, kek)
	if err == nil {
		var s *signer.Service
		if s, err = signer.New(signer.Config{Table: table, Now: a.now}); err == nil {
			return s, func() { _ = db.Close() }, nil // everything acknowledged is on disk
		}
	}
	return nil, nil, errors.Join(fmt.Errorf("open the signer of %s: %w", dir, err), db.Close())
}

// checkSandbox checks the store and the signer in a sandbox's folder.
func (a *app) checkSandbox(ctx context.Context, dir string) error {
	s, closeSigner, err := a.openSandboxSigner(ctx, dir, (*drivers.Address).OpenReadOnly)
	if err != nil {
		return err
	}
	defer closeSigner()
	return a.check(ctx, sandboxServer(dir), s)
}

// checkServer checks the store of a server, together with its signer if that
// answers.
func (a *app) checkServer(ctx context.Context, c *serverConfig) error {
	log, err := newLog(a.err, "warn")
	if err != nil {
		return err
	}
	client, _, err := dialSigner(c.Signer, log)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		fmt.Fprintf(a.err, "iechor-trustd: the signer cannot be asked, so its keys and ledger are not compared: %s\n", printableLines(err.Error()))
		return a.check(ctx, c.Storage, nil)
	}
	return a.check(ctx, c.Storage, client)
}

// check checks a store; keys may be nil.
func (a *app) check(ctx context.Context, setting string, keys ledger) error {
	db, err := a.openExisting(ctx, setting, (*drivers.Address).OpenReadOnly, storage.Migrate)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing was written
	problems := 0
	report := func(p server.Problem) {
		problems++
		fmt.Fprintln(a.out, printableLines(p.String()))
	}
	if err := pages(ctx, db, func(what string) {
		problems++
		fmt.Fprintln(a.out, printableLines(what))
	}); err != nil {
		return err
	}
	store, err := storage.Open(ctx, db)
	if err != nil {
		return err
	}
	var asked server.Keys // a nil ledger in it would not be nil
	if keys != nil {
		asked = keys
	}
	if err := server.Check(ctx, store, asked, a.now(), report); err != nil {
		return err
	}
	if err := published(ctx, store, report); err != nil {
		return err
	}
	compared := keys != nil
	if compared {
		if compared, err = a.compare(ctx, store, keys, report); err != nil {
			return err
		}
	}
	switch {
	case problems == 1:
		return errors.New("1 problem found")
	case problems > 0:
		return fmt.Errorf("%d problems found", problems)
	case !compared:
		_, err = fmt.Fprintln(a.out, "nothing wrong found in the store; it was not compared with the signer's ledger")
	default:
		_, err = fmt.Fprintln(a.out, "nothing wrong found")
	}
	return err
}

// pages has SQLite verify its file and what refers to what in it. The other
// databases see to that themselves.
func pages(ctx context.Context, db *database.DB, report func(string)) error {
	if db.Dialect() != database.SQLite {
		return nil
	}
	for _, pragma := range []string{"integrity_check(10)", "foreign_key_check"} {
		rows, err := db.SQL().QueryContext(ctx, "PRAGMA "+pragma)
		if err != nil {
			return fmt.Errorf("check the database: %w", err)
		}
		for rows.Next() {
			if pragma == "foreign_key_check" {
				var table, parent string
				var row, key any
				if err := rows.Scan(&table, &row, &parent, &key); err != nil {
					return errors.Join(err, rows.Close())
				}
				report(fmt.Sprintf("database: row %v of table %s refers to one of table %s that is missing", row, table, parent))
				continue
			}
			var text string
			if err := rows.Scan(&text); err != nil {
				return errors.Join(err, rows.Close())
			}
			if text != "ok" {
				report("database: " + text)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("check the database: %w", err)
		}
	}
	return nil
}

// published reports repositories that are listed, or that the changefeed tells
// of, and that are not there although nobody deleted them.
func published(ctx context.Context, store storage.Store, report func(server.Problem)) error {
	seen := map[tuf.GUN]bool{}
	look := func(gun tuf.GUN) error {
		if seen[gun] {
			return nil
		}
		seen[gun] = true
		if _, err := store.Current(ctx, gun); !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		last, err := store.Changes(ctx, storage.ChangeQuery{GUN: gun, Limit: 1, Backwards: true})
		if err != nil {
			return err
		}
		if len(last) == 0 || !last[0].Deleted {
			report(server.Problem{GUN: gun, Role: tuf.RoleTimestamp,
				Err: errors.New("it was published and never deleted, and the store has no current file")})
		}
		return nil
	}
	if err := eachGUN(ctx, store, look); err != nil {
		return err
	}
	var from int64
	for {
		changes, err := store.Changes(ctx, storage.ChangeQuery{From: from, Limit: 1000})
		if err != nil || len(changes) == 0 {
			return err
		}
		for _, c := range changes {
			from = c.ID
			if err := look(c.GUN); err != nil {
				return err
			}
		}
	}
}

func eachGUN(ctx context.Context, store storage.Store, fn func(tuf.GUN) error) error {
	var after tuf.GUN
	for {
		guns, err := store.GUNs(ctx, after, 1000)
		if err != nil || len(guns) == 0 {
			return err
		}
		for _, gun := range guns {
			after = gun
			if err := fn(gun); err != nil {
				return err
			}
		}
	}
}

// compare reports where the store and the signer's ledger contradict each
// other. It is false if the signer does not let this caller look.
func (a *app) compare(ctx context.Context, store storage.Store, keys ledger, report func(server.Problem)) (bool, error) {
	err := eachGUN(ctx, store, func(gun tuf.GUN) error {
		// A server may publish meanwhile: what the store says lies between
		// what the signer says before and after.
		before, err := keys.Floors(ctx, gun)
		if err != nil {
			return err
		}
		state, err := store.Current(ctx, gun)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // deleted meanwhile, or reported
		}
		if err != nil {
			return err
		}
		if state.Mirror != "" {
			return nil // the signer has nothing to do with a copy
		}
		after, err := keys.Floors(ctx, gun)
		if err != nil {
			return err
		}
		disagreements(state, newest(before), newest(after), report)
		return nil
	})
	if errors.Is(err, signer.ErrDenied) {
		fmt.Fprintf(a.err, "iechor-trustd: the signer does not show its ledger to this identity, so it is not compared: %s\n", printableLines(err.Error()))
		return false, nil
	}
	return err == nil, err
}

func newest(floors []signer.Floor) (f signer.Floor) {
	if len(floors) > 0 {
		f = floors[len(floors)-1]
	}
	return f
}

// disagreements compares a state with what the signer remembered before and
// after it was read.
func disagreements(s *storage.State, before, after signer.Floor, report func(server.Problem)) {
	timestamp, snapshot := s.Roles[tuf.RoleTimestamp].Version, s.Roles[tuf.RoleSnapshot].Version
	problem := func(role tuf.RoleName, format string, a ...any) {
		report(server.Problem{GUN: s.GUN, Role: role, Err: fmt.Errorf(format, a...)})
	}
	if timestamp > after.TimestampSigned {
		problem(tuf.RoleTimestamp, "version %d is current, and the signer remembers to have signed up to %d: its ledger was set back", timestamp, after.TimestampSigned)
	}
	// An operator who lowered a floor made the signer forget this number.
	if after.SnapshotNamed > 0 && snapshot > after.SnapshotNamed {
		problem(tuf.RoleSnapshot, "version %d is current, and the signer has dated none above %d: its ledger was set back", snapshot, after.SnapshotNamed)
	}
	if before.Incarnation != after.Incarnation {
		return // deleted and made anew meanwhile
	}
	if timestamp < before.TimestampConfirmed {
		problem(tuf.RoleTimestamp, "version %d is current, and the signer knows that %d was published: the store was set back; "+
			"nothing is built on that. If you have restored a backup, and nobody else has, go on as who may operate the signer: iechor-trustd floor --gun %s --lower-to %[1]d",
			timestamp, before.TimestampConfirmed, s.GUN)
	}
	if snapshot < before.SnapshotConfirmed {
		problem(tuf.RoleSnapshot, "version %d is current, and the signer knows that %d was published: the store was set back", snapshot, before.SnapshotConfirmed)
	}
}
