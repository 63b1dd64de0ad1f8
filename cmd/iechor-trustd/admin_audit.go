package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/storage"
	"github.com/iechor/trust/tuf"
)

type auditOptions struct {
	json, all, verify   bool
	since, anchor, file string
}

func newAdminAuditCmd(a *app) *cobra.Command {
	var o auditOptions
	c := &cobra.Command{
		Use:   "audit [REPOSITORY]",
		Short: "Show and verify who published, deleted, reset and rotated what",
		Long: `Example: iechor-trustd admin audit --verify --config /etc/iechor-trustd/server.yaml

Shows the newest entries of the audit trail: publishes, deletions, resets,
restorations and rotations of the server's keys, when, by whom and from where.
--all shows the whole trail, --since what is as new. --json prints entries as they are kept, one a line:
with --all that is an export which can be verified without the store, by
--verify --file FILE.

--verify recomputes the trail's hashes and compares it with what the store
serves. It prints the number and hash of the last entry; keep them where those
who run the server cannot write. --anchor NUMBER:HASH of an earlier time proves
that nothing up to there was rewritten. The servers' logs have them, too.`,
		Args: atMostOne,
	}
	c.Flags().BoolVar(&o.all, "all", false, "the whole trail")
	c.Flags().StringVar(&o.since, "since", "", "only from then on: 36h, 7d, 2026-11-28 or 2026-11-28T17:00:00Z")
	c.Flags().BoolVar(&o.json, "json", false, "one JSON object a line")
	c.Flags().BoolVar(&o.verify, "verify", false, "verify the whole trail")
	c.Flags().StringVar(&o.anchor, "anchor", "", "the number and hash of an entry that is known: NUMBER:HASH")
	c.Flags().StringVar(&o.file, "file", "", "verify this export, not the store")
	opened := a.adminCommand(c, false, func(ctx context.Context, s *admin, args []string) error {
		switch {
		case o.verify:
			return s.verifyTrail(ctx, o.anchor)
		case len(args) == 1:
			gun, err := oneRepository(args)
			if err != nil {
				return err
			}
			return s.audit(ctx, gun, o)
		}
		return s.audit(ctx, "", o)
	}).RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case o.anchor != "" && !o.verify, o.file != "" && !o.verify:
			return usage("--anchor and --file belong to --verify")
		case o.verify && (o.json || o.all || o.since != "" || len(args) > 0):
			return usage("--verify is about the whole trail: leave out --json, --all, --since and the repository")
		case o.file != "" && (c.Flags().Changed("config") || c.Flags().Changed("dir")):
			return usage("--file is verified without a store: leave out --config and --dir")
		case o.file != "":
			return a.verifyExport(o.file, o.anchor)
		}
		return opened(c, args)
	}
	return c
}

// newestShown is how many entries are shown without --all.
const newestShown = 50

func (s *admin) audit(ctx context.Context, gun tuf.GUN, o auditOptions) error {
	t := s.table()
	show := func(r storage.AuditRecord) error {
		if o.json {
			_, err := fmt.Fprintf(s.out, "%s\n", r.Link.Line())
			return err
		}
		_, err := fmt.Fprintln(t, auditLine(r, true))
		return err
	}
	var from int64
	var begin time.Time
	if o.since != "" {
		var err error
		if begin, err = since(o.since, s.now()); err != nil {
			return err
		}
	}
	if o.all || o.since != "" {
		for {
			page, err := s.store.Audit(ctx, storage.AuditQuery{GUN: gun, From: from})
			if err != nil {
				return err
			}
			if len(page) == 0 {
				return t.Flush()
			}
			for _, r := range page {
				from = r.Link.ID
				if r.Act != "" && r.At.Before(begin) {
					continue
				}
				if err := show(r); err != nil {
					return err
				}
			}
			if err := t.Flush(); err != nil {
				return err
			}
		}
	}
	newest, err := s.store.Audit(ctx, storage.AuditQuery{GUN: gun, Limit: newestShown, Backwards: true})
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(newest) {
		if err := show(r); err != nil {
			return err
		}
	}
	return t.Flush()
}

// auditLine is a record as people see it, its columns parted by tabs.
func auditLine(r storage.AuditRecord, withName bool) string {
	if r.Act == "" {
		return fmt.Sprintf("%d\tunreadable\t\t", r.Link.ID)
	}
	columns := []string{strconv.FormatInt(r.Link.ID, 10), r.At.UTC().Format("2006-01-02 15:04:05"), string(r.Act)}
	if withName {
		columns = append(columns, string(r.Repository))
	}
	var what []string
	if r.Role != "" {
		what = append(what, fmt.Sprintf("%s key %.7s offered", r.Role, r.Key))
	}
	for _, f := range r.Files {
		what = append(what, fmt.Sprintf("%s %d", f.Role, f.Version))
	}
	for _, role := range r.Dropped {
		what = append(what, fmt.Sprintf("without %s", role))
	}
	text := by(r.Actor)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	columns = append(columns, strings.Join(what, ", "), "by "+text)
	for i, c := range columns {
		columns[i] = printable(c) // also where somebody wrote into the trail what we would not
	}
	return strings.Join(columns, "\t")
}

// A trailReader follows the chain from its beginning.
type trailReader struct {
	known   *signer.AuditAnchor // of an entry that is known from elsewhere; nil: none
	met     bool                // known was met, and is as it should be
	last    database.Link
	started time.Time // when the first entry was made
	said    map[tuf.GUN]*told
}

// told is what the trail says of a repository: what is current in it of what
// clients signed.
type told struct {
	seq, incarnation int64
	ended            bool
	files            map[tuf.RoleName]storage.FileRecord
}

func newTrailReader(text string) (*trailReader, error) {
	t := &trailReader{said: map[tuf.GUN]*told{}}
	if text == "" {
		return t, nil
	}
	known, err := signer.ParseAuditAnchor(text)
	if err != nil {
		return nil, usage("--anchor: %w", err)
	}
	t.known = &known
	return t, nil
}

// add takes the next entry. Its error is final.
func (t *trailReader) add(l database.Link) error {
	if err := l.Follows(t.last); err != nil {
		return err
	}
	r, err := storage.ParseAudit(l)
	if err != nil {
		return err
	}
	if t.known != nil && t.known.ID == l.ID {
		if t.met = t.known.Hash == l.Hash; !t.met {
			return fmt.Errorf("entry %d has not the hash that is known of it: everything up to it may have been rewritten: %w", l.ID, database.ErrBroken)
		}
	}
	if t.last.ID == 0 {
		t.started = r.At
	}
	t.last = l
	if r.Seq == 0 {
		return nil // changed nothing in the repository
	}
	have := t.said[r.Repository]
	if have == nil || have.incarnation != r.Incarnation {
		have = &told{incarnation: r.Incarnation, files: map[tuf.RoleName]storage.FileRecord{}}
		t.said[r.Repository] = have
	}
	have.seq, have.ended = r.Seq, r.Act == storage.Deleted || r.Act == storage.Reset
	if r.Act == storage.Imported || r.Act == storage.Restore {
		clear(have.files) // all that is current since is named
	}
	for _, role := range r.Dropped {
		delete(have.files, role)
	}
	for _, f := range r.Files {
		if f.Role != tuf.RoleSnapshot { // which the server renews as well
			have.files[f.Role] = f
		}
	}
	return nil
}

// done says whether the anchor was met, once all entries were added.
func (t *trailReader) done() error {
	if t.known != nil && !t.met {
		return fmt.Errorf("the trail ends with entry %d, before the one that is known, %d: its end was cut off: %w", t.last.ID, t.known.ID, database.ErrBroken)
	}
	return nil
}

func (a *app) reportTrail(t *trailReader) error {
	if t.last.ID == 0 {
		_, err := fmt.Fprintln(a.out, "the audit trail is empty")
		return err
	}
	_, err := fmt.Fprintf(a.out, "nothing wrong found: %d entries, each follows the one before\nkeep for the next time: --anchor %s\n",
		t.last.ID, signer.AuditAnchor{ID: t.last.ID, Hash: t.last.Hash})
	return err
}

// follow adds what came to the trail since.
func (s *admin) follow(ctx context.Context, t *trailReader) error {
	for {
		page, err := s.store.Audit(ctx, storage.AuditQuery{From: t.last.ID})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if err := t.add(r.Link); err != nil {
				return fmt.Errorf("the audit trail was tampered with: %w", err)
			}
		}
	}
}

// verifyTrail verifies the trail, and that the store serves what it tells of.
func (s *admin) verifyTrail(ctx context.Context, known string) error {
	t, err := newTrailReader(known)
	if err != nil {
		return err
	}
	if err := s.follow(ctx, t); err != nil {
		return err
	}
	if err := t.done(); err != nil {
		return fmt.Errorf("the audit trail was tampered with: %w", err)
	}
	problems, older := 0, 0
	there := map[tuf.GUN]bool{}
	err = s.each(ctx, func(r storage.Repository) error {
		there[r.GUN] = true
		if t.said[r.GUN] == nil && r.Deleted {
			return nil // ended before there was a trail
		}
		difference, before, err := s.compareTrail(ctx, t, r.GUN)
		if err != nil {
			return err
		}
		if before {
			older++
		}
		if difference != "" {
			problems++
			fmt.Fprintf(s.out, "%s: %s\n", r.GUN, difference)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, gun := range slices.Sorted(maps.Keys(t.said)) {
		if !there[gun] && !t.said[gun].ended {
			problems++
			fmt.Fprintf(s.out, "%s: the store knows nothing of it, and the trail tells of no deletion\n", gun)
		}
	}
	if older > 0 {
		fmt.Fprintf(s.err, "iechor-trustd: %s has files from before the trail began, on %s, of which it cannot tell\n", repositories(older), date(t.started))
	}
	if problems > 0 {
		return fmt.Errorf("the trail does not tell of what is served by %s: somebody has changed the store itself", repositories(problems))
	}
	return s.reportTrail(t)
}

// compareTrail compares what is current in a repository with what the trail
// says. older tells that some files are from before the trail.
func (s *admin) compareTrail(ctx context.Context, t *trailReader, gun tuf.GUN) (difference string, older bool, err error) {
	for range 10 {
		state, err := s.store.Current(ctx, gun)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return "", false, err
		}
		// The state was read last: what it is, the trail knows by now.
		if err := s.follow(ctx, t); err != nil {
			return "", false, err
		}
		difference, older = t.compare(gun, state)
		if difference == "" {
			return "", older, nil
		}
		// Unless something was done between the two looks.
		again, err := s.store.Current(ctx, gun)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return "", false, err
		}
		if (state == nil) == (again == nil) && (state == nil || state.Seq == again.Seq) {
			return difference, older, nil
		}
	}
	return "", false, fmt.Errorf("compare %s: it changes faster than it can be read", gun)
}

// compare returns how state, nil for none, differs from what the trail says.
func (t *trailReader) compare(gun tuf.GUN, state *storage.State) (difference string, older bool) {
	said := t.said[gun]
	switch {
	case state == nil && (said == nil || said.ended):
		return "", false
	case state == nil:
		return "it is not published, and the trail tells of no deletion", false
	case said != nil && said.ended:
		return "it is published, and the trail tells of nothing since it was ended", false
	case said == nil:
		said = &told{}
	}
	for role, e := range state.Roles {
		if role == tuf.RoleTimestamp || role == tuf.RoleSnapshot {
			continue
		}
		f, known := said.files[role]
		switch {
		case known && f.Version == e.Version && f.SHA256 == hex.EncodeToString(e.SHA256[:]):
		case known:
			return fmt.Sprintf("%s version %d is current, and the trail tells of version %d last", role, e.Version, f.Version), older
		case t.last.ID == 0 || e.Created.Before(t.started):
			older = true
		default:
			return fmt.Sprintf("%s version %d is current, and the trail does not tell of it", role, e.Version), older
		}
	}
	for role, f := range said.files {
		if _, ok := state.Roles[role]; !ok {
			return fmt.Sprintf("%s version %d is not there any more, and the trail does not tell why", role, f.Version), older
		}
	}
	return "", older
}

// maxLine bounds a line of an export, in bytes. An entry names the files of
// one commit.
const maxLine = 8 << 20

// verifyExport verifies a trail that was exported.
func (a *app) verifyExport(path, known string) error {
	t, err := newTrailReader(known)
	if err != nil {
		return err
	}
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		l, err := database.ParseLine(lines.Bytes())
		if err == nil {
			err = t.add(database.Link{ID: l.ID, Hash: l.Hash, Entry: slices.Clone(l.Entry)})
		}
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := t.done(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return a.reportTrail(t)
}
