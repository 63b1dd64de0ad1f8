package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/database"
	"github.com/iechor/trust/database/drivers"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/tuf"
)

type signerAuditOptions struct {
	config, gun, since, export, after string
	anchors                           []string
	json, verify                      bool
}

func newAuditCmd(a *app) *cobra.Command {
	var o signerAuditOptions
	config := defaultSignerConfig()
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the signer's audit log",
		Long: `Example: iechor-trustd audit --config /etc/iechor-trustd/signer.yaml --gun registry.example/app --since 7d

Shows what the signers of a database have signed, made, forgotten and refused,
and who asked. It needs the database and none of the signer's keys, and changes
nothing.

--verify verifies that no entry was changed, taken out or put in, and prints the
anchor of the last one: its number and hash. Note it where the signer's operator
cannot reach it; the signers' logs have one every hour. --anchor, as often as you
like, also verifies that the log goes on from one that was noted, and so that its
end was not cut off, nor all of it written anew. --export writes the log into a
file, the part after an anchor with --after; "iechor-trustd audit verify FILE..."
verifies such files anywhere.`,
	}
	f := c.Flags()
	f.StringVar(&o.config, "config", "", "configuration file of the signer, YAML")
	f.StringVar(&o.gun, "gun", "", "only about this repository")
	f.StringVar(&o.since, "since", "", "only from then on: 36h, 7d, 2026-11-28 or 2026-11-28T17:00:00Z")
	f.BoolVar(&o.json, "json", false, "one JSON object a line")
	f.BoolVar(&o.verify, "verify", false, "verify all of it instead of showing it")
	f.StringArrayVar(&o.anchors, "anchor", nil, "verify that it goes on from an anchor")
	f.StringVar(&o.export, "export", "", "write it into a new file; - for the standard output")
	f.StringVar(&o.after, "after", "", "export only what follows this anchor")
	addFlags(f, config, "storage")
	c.AddCommand(newAuditVerifyCmd(a))
	c.RunE = func(c *cobra.Command, _ []string) error {
		shows := o.gun != "" || o.since != ""
		verifies := o.verify || len(o.anchors) > 0
		switch {
		case o.gun != "" && !tuf.GUN(o.gun).Valid():
			return usage("--gun must name a repository, such as registry.example/app; it is %q", o.gun)
		case shows && verifies || shows && o.export != "":
			return usage("only the whole log can be verified and exported: leave out --gun and --since")
		case verifies && o.export != "":
			return usage("verify or export, one after the other")
		case o.after != "" && o.export == "":
			return usage("--after goes with --export")
		case o.export != "" && o.json:
			return usage("--export has a form of its own: leave out --json")
		}
		if err := load(config, o.config, a.env, c.Flags()); err != nil {
			return err
		}
		db, err := a.openExisting(c.Context(), config.Storage, (*drivers.Address).OpenReadOnly, signer.Migrate)
		if err != nil {
			return err
		}
		defer func() { _ = db.Close() }() // nothing was written
		switch {
		case o.export != "":
			return a.exportAudit(c.Context(), db, o)
		case verifies:
			return a.verifyAudit(c.Context(), db, o)
		}
		return a.showAudit(c.Context(), db, o)
	}
	return c
}

func (a *app) showAudit(ctx context.Context, db *database.DB, o signerAuditOptions) error {
	q := signer.AuditQuery{GUN: tuf.GUN(o.gun)}
	if o.since != "" {
		var err error
		if q.Since, err = since(o.since, a.now()); err != nil {
			return err
		}
	}
	out := bufio.NewWriter(a.out)
	lines := json.NewEncoder(out)
	for r, err := range signer.ReadAudit(ctx, db, q) {
		if err == nil && o.json {
			err = lines.Encode(r)
		} else if err == nil {
			_, err = fmt.Fprintln(out, signedLine(r))
		}
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
	}
	return out.Flush()
}

// since reads a time, or how long ago one is.
func since(text string, now time.Time) (time.Time, error) {
	var d duration
	if d.UnmarshalText([]byte(text)) == nil {
		return now.Add(-time.Duration(d)), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("--since must be a duration such as 36h or 7d, or a time such as 2026-11-28 or 2026-11-28T17:00:00Z; it is %q", text)
}

// signedLine writes an entry for people.
func signedLine(r signer.AuditRecord) string {
	words := []string{fmt.Sprint(r.Anchor.ID), r.Time.UTC().Format(time.RFC3339), r.Event}
	add := func(format, text string) {
		if text != "" {
			words = append(words, fmt.Sprintf(format, text))
		}
	}
	add("%s", string(r.GUN))
	add("%s", string(r.Role))
	if r.Version > 0 || r.Event == signer.AuditLowered {
		add("%s", fmt.Sprint(r.Version))
	}
	add("by %s", r.Identity)
	add("key %s", r.Key.Short())
	add("payload sha256:%s", r.Payload)
	if r.Expires != nil {
		add("expires %s", r.Expires.UTC().Format(time.RFC3339))
	}
	if r.Through != nil {
		add("up to %s", r.Through.String())
	}
	add("request %s", r.Request)
	add("(%s)", r.Detail)
	return printable(strings.Join(words, " "))
}

func auditAnchors(texts []string) (anchors []signer.AuditAnchor, err error) {
	for _, text := range texts {
		m, err := signer.ParseAuditAnchor(text)
		if err != nil {
			return nil, usage("--anchor: %w", err)
		}
		anchors = append(anchors, m)
	}
	return anchors, nil
}

func (a *app) verifyAudit(ctx context.Context, db *database.DB, o signerAuditOptions) error {
	anchors, err := auditAnchors(o.anchors)
	if err != nil {
		return err
	}
	r, err := signer.VerifyAudit(ctx, db, anchors...)
	if err != nil {
		return err
	}
	return a.reportAudit(r, len(anchors), o.json)
}

// reportAudit says what was verified.
func (a *app) reportAudit(r signer.AuditReport, anchors int, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(a.out).Encode(map[string]any{"after": r.First, "anchor": r.Last, "entries": r.Last.ID - r.First.ID})
	}
	if r.Last == r.First {
		_, err := fmt.Fprintln(a.out, "the audit log has no entries")
		return err
	}
	text := fmt.Sprintf("entries %d to %d hold, from %s to %s", r.First.ID+1, r.Last.ID, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339))
	if anchors > 0 {
		text += ", and agree with what was noted"
	}
	_, err := fmt.Fprintf(a.out, "%s\nanchor %s\n", text, r.Last)
	return err
}

func (a *app) exportAudit(ctx context.Context, db *database.DB, o signerAuditOptions) error {
	var after *signer.AuditAnchor
	if o.after != "" {
		m, err := signer.ParseAuditAnchor(o.after)
		if err != nil {
			return usage("--after: %w", err)
		}
		after = &m
	}
	if o.export == "-" {
		return signer.ExportAudit(ctx, db, after, a.out)
	}
	f, err := os.OpenFile(o.export, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	err = errors.Join(signer.ExportAudit(ctx, db, after, f), f.Sync(), f.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(o.export)) // half an export would look like one
	}
	return err
}

func newAuditVerifyCmd(a *app) *cobra.Command {
	var o signerAuditOptions
	c := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Verify exports of the audit log, without the signer",
		Long: `Example: iechor-trustd audit verify --anchor 1234:0f47… 2026-10.audit 2026-11.audit

Verifies files that "iechor-trustd audit --export" wrote: that no entry was
changed, taken out or put in, that each file goes on where the one before it
ends, and that they agree with anchors that were noted. Prints the anchor of the
last entry, from which the next export is to go on.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("name the files to verify, the oldest first")
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&o.anchors, "anchor", nil, "verify that they agree with an anchor")
	c.Flags().BoolVar(&o.json, "json", false, "the result as JSON")
	c.RunE = func(_ *cobra.Command, args []string) error {
		anchors, err := auditAnchors(o.anchors)
		if err != nil {
			return err
		}
		var exports []io.Reader
		for _, name := range args {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			exports = append(exports, f)
		}
		r, err := signer.VerifyExports(exports, anchors...)
		if err != nil {
			return err
		}
		return a.reportAudit(r, len(anchors), o.json)
	}
	return c
}
