package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/notary"
	"github.com/iechor/trust/server"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

type importNotaryOptions struct {
	serverDB, signerDB   string // where it comes from
	config, signerConfig string // where it goes
	dir                  string // where it goes, if that is a sandbox
	dryRun               bool
}

func newImportNotaryCmd(a *app) *cobra.Command {
	var o importNotaryOptions
	c := &cobra.Command{
		Use:   "notary",
		Short: "Take over a deployment of notary-server and notary-signer",
		Long: `Example: iechor-trustd import notary --server-db server.sql --signer-db signer.sql --config server.yaml --signer-config signer.yaml

Takes over a deployment of notary-server and notary-signer 0.6 or 0.7: all
repositories with all their versions, byte for byte, and all keys with their
ids. Clients that knew the old service go on pulling and publishing as if
nothing had happened.

--server-db and --signer-db name the old databases: files that pg_dump, mysqldump
or mariadb-dump wrote, or live ones in the form of the setting "storage", such as
postgres://USER@HOST/DATABASE?password=file:FILE. Nothing is written to them. The
passphrases of the signer's keys are taken from where notary-signer had them, the
variables NOTARY_SIGNER_ALIAS. Keys that are older than their column for the
repository are placed by the root files, so give both databases then.

--config and --signer-config are the configuration files of the new server and
signer; the one whose database is not given can be left out, so that server and
signer can be filled on different hosts. --dir takes the folder of a sandbox
instead. --dry-run does everything in a temporary folder, and says what would
happen.

What was taken over already is left alone: an import that was interrupted is
simply started again. Stop publishing to the old service first. Exit status 0
only if everything was taken over and verifies.`,
	}
	f := c.Flags()
	f.StringVar(&o.serverDB, "server-db", "", "database of notary-server: a dump's file, or a URL")
	f.StringVar(&o.signerDB, "signer-db", "", "database of notary-signer: a dump's file, or a URL")
	f.StringVar(&o.config, "config", "", "configuration file of the new server, YAML")
	f.StringVar(&o.signerConfig, "signer-config", "", "configuration file of the new signer, YAML")
	f.StringVar(&o.dir, "dir", "", "folder of a sandbox")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would happen")
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case o.serverDB == "" && o.signerDB == "":
			return usage("name the old databases: --server-db, --signer-db, or both")
		case o.dryRun && (o.config != "" || o.signerConfig != "" || o.dir != ""):
			return usage("--dry-run writes nowhere: leave --config, --signer-config and --dir out")
		case o.dir != "" && (o.config != "" || o.signerConfig != ""):
			return usage("name either --dir or --config and --signer-config")
		case !o.dryRun && o.dir == "" && (o.serverDB != "" && o.config == "" || o.signerDB != "" && o.signerConfig == ""):
			return usage("say where it goes: --server-db needs --config, --signer-db needs --signer-config (or --dir, for a sandbox)")
		}
		return a.importNotary(c.Context(), o)
	}
	return c
}

// A move is the import of one deployment.
type move struct {
	a     *app
	now   time.Time
	from  *notary.Database // of the server; nil: not given
	keys  *notary.Database // of the signer; nil: not given
	store *storage.SQL     // nil: none
	table *signer.Table    // nil: none

	closers []func()

	taken, there, versions, keysTaken, keysThere int
	size                                         int64
	problems                                     int
}

func (m *move) problem(format string, args ...any) {
	m.problems++
	m.a.progress("")
	fmt.Fprintf(m.a.out, format+"\n", args...)
}

func (a *app) importNotary(ctx context.Context, o importNotaryOptions) (err error) {
	m := &move{a: a, now: a.now()}
	if o.dryRun {
		dir, err := os.MkdirTemp("", "iechor-trustd-import-")
		if err != nil {
			return fmt.Errorf("make room for the dry run: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		o.dir = dir
	}
	defer m.close()
	if err := m.open(ctx, o); err != nil {
		return err
	}
	if m.from != nil && m.store != nil {
		if err := m.repositories(ctx); err != nil {
			return err
		}
	}
	if m.keys != nil {
		if err := m.signerKeys(ctx); err != nil {
			return err
		}
	}
	if m.from != nil && m.store != nil {
		if err := m.verify(ctx); err != nil {
			return err
		}
	}
	a.progress("")
	m.report(o)
	switch {
	case m.problems == 1:
		return errors.New("1 problem found")
	case m.problems > 0:
		return fmt.Errorf("%d problems found", m.problems)
	}
	return nil
}

// close closes what open opened.
func (m *move) close() {
	for _, c := range slices.Backward(m.closers) {
		c()
	}
}

// open opens both ends. The caller closes m, also after an error.
func (m *move) open(ctx context.Context, o importNotaryOptions) error {
	for _, source := range []struct {
		name string
		to   **notary.Database
	}{{o.serverDB, &m.from}, {o.signerDB, &m.keys}} {
		if source.name == "" {
			continue
		}
		db, c, err := m.a.openForeign(ctx, source.name)
		if err != nil {
			return err
		}
		*source.to, m.closers = db, append(m.closers, c)
	}
	to, signerTo := defaultServerConfig(), defaultSignerConfig()
	if o.dir != "" {
		to.Storage = "sqlite:" + filepath.Join(o.dir, "server", "server.db")
		signerTo.Storage = "sqlite:" + filepath.Join(o.dir, "signer", "signer.db")
		signerTo.KeyEncryptionKey = "file:" + filepath.Join(o.dir, "signer", "kek")
	}
	if o.dryRun {
		if err := dryRunFolders(o.dir); err != nil {
			return err
		}
	}
	// Only the files count: a variable could not say which of the two it means.
	for file, config := range map[string]any{o.config: to, o.signerConfig: signerTo} {
		if file == "" {
			continue
		}
		if err := readConfig(file, config); err != nil {
			return err
		}
	}
	if o.serverDB != "" && (o.dir != "" || o.config != "") {
		store, c, err := m.a.openStore(ctx, to.Storage, storage.Config{})
		if err != nil {
			return err
		}
		m.store, m.closers = store, append(m.closers, c)
	}
	if o.signerDB != "" {
		kek, closeKEK, err := keyEncryptionKeys(ctx, signerTo, m.a.env)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, closeKEK)
		table, c, err := m.a.openTable(ctx, signerTo.Storage, kek)
		if err != nil {
			return err
		}
		m.table, m.closers = table, append(m.closers, c)
	}
	return nil
}

// repositories takes over all of the server's.
func (m *move) repositories(ctx context.Context) error {
	guns, err := m.from.GUNs(ctx)
	if err != nil {
		return err
	}
	last, err := m.from.LastChange(ctx)
	if err != nil && !errors.Is(err, notary.ErrTable) { // 0.6 may lack it
		return err
	}
	if err := m.store.StartChangesAfter(ctx, last); err != nil {
		return err
	}
	for i, gun := range guns {
		m.a.progress("%d of %d repositories: %s", i+1, len(guns), gun)
		if !gun.Valid() {
			m.problem("%q: this is no name for a repository, so no client can ask for it; left out", gun)
			continue
		}
		if err := m.repository(ctx, gun); err != nil {
			return err
		}
	}
	return nil
}

func (m *move) repository(ctx context.Context, gun tuf.GUN) error {
	rows, err := m.from.Files(ctx, gun)
	if err != nil {
		return err
	}
	slices.SortStableFunc(rows, func(a, b notary.File) int { return cmp.Compare(a.Version, b.Version) })
	rows = slices.DeleteFunc(rows, func(f notary.File) bool {
		if f.Role.Valid() && f.Version >= 1 {
			return false
		}
		m.problem("%s: %q version %d: no client can ask for it; left out", gun, f.Role, f.Version)
		return true
	})
	if len(rows) == 0 {
		return nil
	}
	there, err := m.present(ctx, gun, rows)
	if err != nil || there {
		return err
	}
	var files []storage.OldFile
	for _, f := range rows {
		raw, err := m.from.Raw(ctx, f)
		if errors.Is(err, notary.ErrCorrupt) {
			m.problem("%v; %s was left out: restore the row from a backup of the old database, and import again", err, gun)
			return nil
		}
		if err != nil {
			return err
		}
		old := storage.OldFile{Role: f.Role, Version: f.Version, Created: f.Created, Raw: func(ctx context.Context) ([]byte, error) { return m.from.Raw(ctx, f) }}
		// What cannot be read is taken all the same, and verify tells of it:
		// its owner can publish over it, and history is history.
		if meta, err := tuf.Outline(f.Role, raw, tuf.Options{Now: m.now}); err == nil {
			old.Expires = meta.Expires
		}
		if old.Created.IsZero() {
			old.Created = m.now
		}
		files = append(files, old)
		m.size += int64(len(raw))
	}
	if _, err := m.store.Import(ctx, gun, nil, storage.Source{Files: files}, m.now, m.a.theOperator("")); err != nil {
		return err
	}
	m.taken++
	m.versions += len(files)
	return nil
}

// present reports whether gun was taken over already. One that lives here with
// another history is a problem.
func (m *move) present(ctx context.Context, gun tuf.GUN, rows []notary.File) (bool, error) {
	state, err := m.store.Current(ctx, gun)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	newest := map[tuf.RoleName]notary.File{}
	for _, f := range rows {
		newest[f.Role] = f
	}
	for role, f := range newest {
		want, err := m.from.Raw(ctx, f)
		if err != nil {
			return false, err
		}
		got, _, err := m.store.Version(ctx, gun, role, f.Version)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return false, err
		}
		// What was published here since then stands on the old version, which
		// may have been pruned.
		if err != nil && state.Floors[role] > f.Version || bytes.Equal(got, want) {
			continue
		}
		m.problem("%s: the new server has a repository of this name that is not the old one; left alone. If it was made by mistake, delete it there, and import again", gun)
		break
	}
	m.there++
	return true, nil
}

// signerKeys takes over the keys of the signer.
func (m *move) signerKeys(ctx context.Context) error {
	all, err := m.keys.Keys(ctx)
	if err != nil {
		return err
	}
	if m.from != nil {
		if err := m.floors(ctx); err != nil {
			return err
		}
	}
	type place struct {
		gun  tuf.GUN
		role tuf.RoleName
	}
	places := map[tuf.CanonicalID]place{} // of keys that root files name
	if m.from != nil {
		err := m.namedKeys(ctx, func(gun tuf.GUN, role tuf.RoleName, id tuf.CanonicalID) { places[id] = place{gun, role} })
		if err != nil {
			return err
		}
	}
	for i, k := range all {
		m.a.progress("%d of %d keys", i+1, len(all))
		at, named := places[k.ID]
		if k.GUN == "" || k.Role == "" {
			k.GUN, k.Role = at.gun, at.role
		}
		if k.GUN == "" {
			if m.from == nil {
				m.problem("key %s: it does not say whose it is; give --server-db as well, so that the root files can", k.ID.Short())
			} else if k.Used {
				m.problem("key %s: no repository has it; left out", k.ID.Short())
			}
			continue
		}
		private, err := k.Open([]byte(m.a.env(notary.PassphraseVariable(k.Alias))))
		if errors.Is(err, notary.ErrPassphrase) {
			m.problem("%s: %v: set %s to what it was for notary-signer, and import again", k.GUN, err, notary.PassphraseVariable(k.Alias))
			continue
		}
		if err != nil {
			m.problem("%s: %v; left out", k.GUN, err)
			continue
		}
		made, err := m.table.Import(ctx, private, k.Role, k.GUN, k.Used || named, m.now)
		var refused *signer.Refusal
		switch {
		case errors.As(err, &refused) && !k.Used && !named:
			m.keysThere++ // another one waits for its first use already
		case errors.As(err, &refused):
			m.problem("%s: key %s: %v", k.GUN, k.ID.Short(), err)
		case err != nil:
			return err
		case made.CanonicalID() != k.ID:
			m.problem("%s: key %s became %s", k.GUN, k.ID.Short(), made.CanonicalID().Short())
		default:
			m.keysTaken++
		}
	}
	return nil
}

// floors makes the signer's ledger begin at what the old server has published,
// so that nothing older is ever built on.
func (m *move) floors(ctx context.Context) error {
	guns, err := m.from.GUNs(ctx)
	if err != nil {
		return err
	}
	for _, gun := range guns {
		rows, err := m.from.Files(ctx, gun)
		if err != nil {
			return err
		}
		highest := map[tuf.RoleName]int64{}
		for _, f := range rows {
			highest[f.Role] = max(highest[f.Role], f.Version)
		}
		if !gun.Valid() || highest[tuf.RoleTimestamp] == 0 {
			continue
		}
		if err := m.table.ImportFloor(ctx, gun, highest[tuf.RoleTimestamp], highest[tuf.RoleSnapshot], m.now); err != nil {
			return err
		}
	}
	return nil
}

// namedKeys calls fn for every key that a current root names for a role that a
// server may sign.
func (m *move) namedKeys(ctx context.Context, fn func(tuf.GUN, tuf.RoleName, tuf.CanonicalID)) error {
	guns, err := m.from.GUNs(ctx)
	if err != nil {
		return err
	}
	for _, gun := range guns {
		rows, err := m.from.Files(ctx, gun)
		if err != nil {
			return err
		}
		roots := slices.DeleteFunc(rows, func(f notary.File) bool { return f.Role != tuf.RoleRoot })
		if len(roots) == 0 || !gun.Valid() {
			continue
		}
		newest := slices.MaxFunc(roots, func(a, b notary.File) int { return cmp.Compare(a.Version, b.Version) })
		raw, err := m.from.Raw(ctx, newest)
		if errors.Is(err, notary.ErrCorrupt) {
			continue // told already
		}
		if err != nil {
			return err
		}
		past, err := tuf.Recall(gun, []tuf.File{{Role: tuf.RoleRoot, Raw: raw}}, tuf.Options{Now: m.now})
		if err != nil {
			continue // verify tells of it
		}
		for _, name := range []tuf.RoleName{tuf.RoleTimestamp, tuf.RoleSnapshot} {
			role, _ := past.Role(name)
			for _, k := range role.Keys {
				fn(gun, name, k.CanonicalID())
			}
		}
	}
	return nil
}

// verify reads what was taken over as a client does that knows nothing.
func (m *move) verify(ctx context.Context) error {
	var held server.Keys
	if m.table != nil {
		s, err := signer.New(signer.Config{Table: m.table, Now: m.a.now})
		if err != nil {
			return err
		}
		held = s
	}
	guns, err := m.from.GUNs(ctx)
	if err != nil {
		return err
	}
	for i, gun := range guns {
		m.a.progress("verifying %d of %d repositories: %s", i+1, len(guns), gun)
		if !gun.Valid() {
			continue
		}
		err := server.CheckRepository(ctx, m.store, held, gun, m.now, func(p server.Problem) {
			// The server signs the next one as soon as somebody asks.
			if p.Role == tuf.RoleTimestamp && errors.Is(p.Err, tuf.ErrExpired) && held != nil {
				return
			}
			m.problem("%s", p)
		})
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (m *move) report(o importNotaryOptions) {
	verb := "taken over"
	if o.dryRun {
		verb = "would be taken over"
	}
	if m.store != nil {
		fmt.Fprintf(m.a.out, "%d repositories with %d versions (%d bytes) %s; %d were there already\n", m.taken, m.versions, m.size, verb, m.there)
	}
	if m.table != nil {
		fmt.Fprintf(m.a.out, "%d keys %s or there already\n", m.keysTaken+m.keysThere, verb)
	}
}

// dryRunFolders makes what a sandbox has, for a run that leaves nothing.
func dryRunFolders(dir string) error {
	for _, sub := range []string{"server", "signer"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make room for the dry run: %w", err)
		}
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	return os.WriteFile(filepath.Join(dir, "signer", "kek"), []byte(hex.EncodeToString(key[:])), 0o600)
}
