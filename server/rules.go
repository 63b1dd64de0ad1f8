package server

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/iechor/trust/tuf"
)

// A Role is what somebody may do with a repository. Each one includes those
// before it.
type Role int

const (
	NoRole Role = iota
	Pull        // read trust data
	Push        // publish
	Admin       // delete, and replace the keys that the server holds
)

func (r Role) String() string { return [...]string{"nothing", "pull", "push", "admin"}[r] }

// Explain says what r lets somebody do, for "may … REPOSITORY".
func (r Role) Explain() string {
	return [...]string{"do nothing with", "pull from", "pull from and push to", "pull from, push to and administrate"}[r]
}

// roleFor returns the least role that has all of the actions.
func roleFor(actions []string) Role {
	least := NoRole
	for _, action := range actions {
		switch action {
		case "pull":
			least = max(least, Pull)
		case "push":
			least = max(least, Push)
		default:
			return Admin
		}
	}
	return least
}

// A Pattern names repositories: one by its name, all below a folder by
// "folder/*", or all by "*". A star stands at the end only, alone or after a
// slash, so that no name that merely begins alike is meant (attacks.md P4).
type Pattern string

// ParsePattern returns s if it is a Pattern.
func ParsePattern(s string) (Pattern, error) {
	name, folder := strings.CutSuffix(s, "/*")
	switch {
	case s == "*", tuf.GUN(name).Valid() && !strings.ContainsAny(name, "^$()[]{}"): // that would be another language
		return Pattern(s), nil
	case strings.Contains(name, "*") && !folder:
		return "", fmt.Errorf(`%q is no pattern: a star stands alone, or at the end after a slash, as in "registry.example.com/team/*"`, s)
	}
	return "", fmt.Errorf(`%q is no pattern: write the whole name of a repository, or "registry.example.com/team/*" for all below a folder`, s)
}

// A Subject is somebody, or several, as rules name them.
type Subject struct {
	kind subject
	name string
}

type subject int

const (
	user subject = iota
	certificate
	anyone        // also without a login
	authenticated // whoever has logged in
)

// The words that name no user.
const (
	wordAnyone        = "anyone"
	wordAuthenticated = "authenticated"
	certificatePrefix = "certificate:"
)

// ParseSubject reads a user's name, "certificate:" and a name that a client
// certificate shows, "authenticated", or "anyone". Names are printable, without
// spaces, so that a line can say them as they are.
func ParseSubject(s string) (Subject, error) {
	switch s {
	case wordAnyone:
		return Subject{kind: anyone}, nil
	case wordAuthenticated:
		return Subject{kind: authenticated}, nil
	}
	kind, name := user, s
	if cert, ok := strings.CutPrefix(s, certificatePrefix); ok {
		kind, name = certificate, cert
	}
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) }) || kind == user && strings.Contains(name, ":") {
		return Subject{}, fmt.Errorf("%q names nobody: choose a user, certificate:NAME, authenticated or anyone; a name is printable and has no spaces", s)
	}
	return Subject{kind, name}, nil
}

// Identity returns somebody who is s and nobody else.
func (s Subject) Identity() Identity {
	switch s.kind {
	case user:
		return Identity{User: s.name}
	case certificate:
		return Identity{Certificate: []string{s.name}}
	case authenticated:
		return Identity{User: ":"} // whom no rule can name
	}
	return Identity{}
}

func (s Subject) String() string {
	switch s.kind {
	case anyone:
		return wordAnyone
	case authenticated:
		return wordAuthenticated
	case certificate:
		return certificatePrefix + s.name
	}
	return s.name
}

// An Identity is who asks, as their login or their certificate shows. The zero
// Identity is somebody who has shown neither.
type Identity struct {
	User        string
	Certificate []string // all names that it shows; the first one is for the log
}

func (i Identity) known() bool { return i.User != "" || len(i.Certificate) > 0 }

// String is how the log and rules call the identity.
func (i Identity) String() string {
	switch {
	case i.User != "":
		return i.User
	case len(i.Certificate) > 0:
		return certificatePrefix + i.Certificate[0]
	}
	return ""
}

// are reports whether i is one of the subjects, and as which.
func (i Identity) among(all []Subject) (Subject, bool) {
	for _, s := range all {
		switch s.kind {
		case anyone:
		case authenticated:
			if !i.known() {
				continue
			}
		case user:
			if s.name != i.User {
				continue
			}
		case certificate:
			if !slices.Contains(i.Certificate, s.name) {
				continue
			}
		}
		return s, true
	}
	return Subject{}, false
}

// A Rule says who may do what with the repositories of a pattern.
type Rule struct {
	Pattern Pattern
	Line    int                  // in the file that it is from
	May     [Admin + 1][]Subject // by role; that of NoRole is empty
}

// role returns the highest role that somebody has by this rule, and as whom.
func (r *Rule) role(who Identity) (Role, Subject) {
	for role := Admin; role > NoRole; role-- {
		if s, ok := who.among(r.May[role]); ok {
			return role, s
		}
	}
	return NoRole, Subject{}
}

// Rules say who may do what. Exactly one rule decides about a repository: the
// one whose pattern is the longest of those that match. A rule for a folder
// inside another one therefore also takes away what the outer one gives, and
// nobody has to know more than one rule to know who may do what.
type Rules struct {
	rules   map[Pattern]*Rule
	catalog []Subject
}

// NewRules makes Rules. catalog are those who may read the list of all changes.
// Patterns must differ, and only pull can be given to anyone.
func NewRules(rules []Rule, catalog []Subject) (*Rules, error) {
	all := &Rules{rules: make(map[Pattern]*Rule, len(rules)), catalog: catalog}
	for _, r := range rules {
		if _, twice := all.rules[r.Pattern]; twice {
			return nil, fmt.Errorf("two rules for %s", r.Pattern)
		}
		for role := Push; role <= Admin; role++ {
			if slices.Contains(r.May[role], Subject{kind: anyone}) {
				return nil, fmt.Errorf("%s: %s cannot be given to anyone without a login: authenticated is whoever has one", r.Pattern, role)
			}
		}
		all.rules[r.Pattern] = &r
	}
	if slices.Contains(catalog, Subject{kind: anyone}) {
		return nil, fmt.Errorf("catalog cannot be given to anyone without a login: the list names all repositories")
	}
	return all, nil
}

// For returns the rule that decides about a repository, nil if there is none;
// then nobody may do anything with it.
func (r *Rules) For(name string) *Rule {
	if rule, ok := r.rules[Pattern(name)]; ok {
		return rule
	}
	for folder := name; ; {
		slash := strings.LastIndexByte(folder, '/')
		if slash < 0 {
			return r.rules["*"]
		}
		folder = folder[:slash]
		if rule, ok := r.rules[Pattern(folder+"/*")]; ok {
			return rule
		}
	}
}

// Role returns what somebody may do with a repository, with the rule that says
// so and the subject of it that they are.
func (r *Rules) Role(who Identity, name string) (Role, *Rule, Subject) {
	rule := r.For(name)
	if rule == nil {
		return NoRole, nil, Subject{}
	}
	role, as := rule.role(who)
	return role, rule, as
}

// Catalog reports whether somebody may read the list of all changes.
func (r *Rules) Catalog(who Identity) bool {
	_, ok := who.among(r.catalog)
	return ok
}

// Allows reports whether the rules give somebody an access; with no actions,
// whether they are known at all.
func (r *Rules) Allows(who Identity, want Access) bool {
	_, ok := r.grant(who, want)
	return ok
}

// grant returns the grant of an access to somebody; ok is false if the rules
// do not give it.
func (r *Rules) grant(who Identity, want Access) (g Grant, ok bool) {
	if len(want.Actions) == 0 {
		return Grant{Who: who.String()}, who.known()
	}
	if want.Type != "repository" {
		return Grant{Who: who.String()}, r.Catalog(who)
	}
	role, _, as := r.Role(who, want.Name)
	g = Grant{Who: who.String(), Publisher: role >= Push}
	if as.kind == anyone && role == Pull {
		g.Who = "" // no secret of theirs
	}
	return g, role > NoRole && role >= roleFor(want.Actions)
}
