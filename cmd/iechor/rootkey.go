package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// chooseRoot picks the root key for a new repository, of those on tokens if there
// are any: the only one, else the one of this user's other repositories, else the one that the user names
// (spec/cli.md 5.2). "" means that there is none yet.
func (s *signing) chooseRoot(ctx context.Context) (tuf.CanonicalID, error) {
	all, err := s.keys.List(ctx)
	if err != nil {
		return "", err
	}
	// Those on tokens go before those in files.
	var roots, onTokens []tuf.CanonicalID
	for _, k := range all {
		switch {
		case k.Role != string(tuf.RoleRoot):
		case isToken(k.Store):
			onTokens = append(onTokens, k.ID)
		default:
			roots = append(roots, k.ID)
		}
	}
	if len(onTokens) > 0 {
		roots = onTokens
	}
	slices.Sort(roots)
	if roots = slices.Compact(roots); len(roots) > 1 {
		if used := s.rootsInUse(all, roots); len(used) > 0 {
			roots = used
		}
	}
	switch {
	case len(roots) == 0:
		return "", nil
	case len(roots) == 1:
		return roots[0], nil
	case !s.terminal.Interactive():
		s.warn("there are %d root keys, and nobody to ask which one signs for %s: taking %s", len(roots), s.repo.GUN(), roots[0].Short())
		return roots[0], nil
	}
	return s.askRoot(ctx, roots)
}

// rootsInUse returns those of roots that speak for a repository of which a
// key is here.
func (s *signing) rootsInUse(all []keys.Located, roots []tuf.CanonicalID) []tuf.CanonicalID {
	dir := trust.NewDir(filepath.Join(s.dir, "trust"))
	var used []tuf.CanonicalID
	seen := map[tuf.GUN]bool{}
	for _, k := range all {
		if k.GUN == "" || seen[k.GUN] {
			continue
		}
		seen[k.GUN] = true
		files, err := dir.Load(k.GUN, tuf.DefaultLimits())
		if err != nil || len(files) == 0 {
			continue // says nothing about which key to take
		}
		past, err := tuf.Recall(k.GUN, files, tuf.Options{Now: s.now()})
		if err != nil {
			continue
		}
		role, _ := past.Role(tuf.RoleRoot)
		for _, r := range role.Keys {
			id := r.CanonicalID()
			if slices.Contains(roots, id) && !slices.Contains(used, id) {
				used = append(used, id)
			}
		}
	}
	slices.Sort(used)
	return used
}

// askRoot has the user name one of several root keys.
func (s *signing) askRoot(ctx context.Context, roots []tuf.CanonicalID) (tuf.CanonicalID, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "There are several root keys. Which one is to speak for %s?", s.repo.GUN())
	for _, r := range roots {
		fmt.Fprintf(&b, "\n  %s", r)
	}
	if err := s.terminal.Notice(b.String()); err != nil {
		return "", err
	}
	for range 4 {
		answer, err := s.terminal.Line(ctx, "ID, or how it begins: ")
		if errors.Is(err, terminal.ErrInterrupted) {
			err = fmt.Errorf("%w: %w", keys.ErrCancelled, err)
		}
		if err != nil {
			return "", err
		}
		answer = strings.ToLower(strings.TrimSpace(answer))
		fit := slices.DeleteFunc(slices.Clone(roots), func(r tuf.CanonicalID) bool {
			return answer == "" || !strings.HasPrefix(string(r), answer)
		})
		if len(fit) == 1 {
			return fit[0], nil
		}
		if err := s.terminal.Notice("That is none of them, or more than one. Please retry."); err != nil {
			return "", err
		}
	}
	return "", errNoRootChosen
}

// errNoRootChosen ends the attempts to choose a root key.
var errNoRootChosen = errors.New("no root key was chosen")
