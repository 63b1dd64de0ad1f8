package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/iechor/trust/tuf"
)

// A plan says what a command is about to do with keys, before it does it.
type plan struct {
	what string
	rows [][2]string
}

func (p *plan) add(label, format string, args ...any) {
	p.rows = append(p.rows, [2]string{label, printable(fmt.Sprintf(format, args...))})
}

// write shows the plan, each line after a prefix.
func (p *plan) write(out io.Writer, prefix string) {
	fmt.Fprintf(out, "%s%s\n", prefix, p.what)
	width := 0
	for _, r := range p.rows {
		width = max(width, len(r[0]))
	}
	for _, r := range p.rows {
		fmt.Fprintf(out, "%s  %-*s  %s\n", prefix, width, r[0], r[1])
	}
}

// announce shows the plan: as the result of a dry run, or before the work.
func (d *desk) announce(p *plan, dry bool) {
	if dry {
		p.write(d.out, "")
		return
	}
	p.write(d.err, "iechor: plan: ")
}

// current returns what is published now, as an owner may see it who is about
// to sign it again. Who only looks leaves nothing behind.
func (d *desk) current(ctx context.Context, repo *repository) (*tuf.Set, error) {
	owner := repo.Fresh().AllowLapsed()
	if d.lookOnly {
		return owner.Look(ctx)
	}
	return owner.Update(ctx)
}

// signedBy adds which of a role's keys are here, to sign what the plan says.
func (d *desk) signedBy(ctx context.Context, p *plan, label string, role tuf.Role) error {
	here, err := d.held(ctx, role)
	if err != nil {
		return err
	}
	var ids []tuf.CanonicalID
	for _, k := range here {
		if !slices.Contains(ids, k.ID) {
			ids = append(ids, k.ID)
		}
	}
	switch {
	case len(ids) >= role.Threshold:
		p.add(label, "%s, which %s here", joinShort(ids), isAre(len(ids)))
	default:
		p.add(label, "%s; of these %d must sign, and %d %s here", joinShort(signingIDs(role, nil)), role.Threshold, len(ids), isAre(len(ids)))
	}
	return nil
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// nextFiles names files with the versions that they will have.
func nextFiles(set *tuf.Set, roles ...tuf.RoleName) string {
	var names []string
	for _, role := range roles {
		info, _ := set.Info(role) // none: its first version
		names = append(names, fmt.Sprintf("%s version %d", role, info.Version+1))
	}
	return strings.Join(names, ", ")
}
