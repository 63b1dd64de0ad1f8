package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/iechor/trust/server"
	"github.com/iechor/trust/tuf"
)

const groupPrefix = "group:"

// An accessFile is the file of access rules while it is read.
type accessFile struct {
	groups map[string][]server.Subject
}

// parseAccess reads the rules of who may do what. Everything that is wrong with
// the file is said with its line.
func parseAccess(raw []byte) (*server.Rules, error) {
	doc, err := onlyDocument(raw)
	if err != nil {
		return nil, err
	}
	if doc == nil {
		return nil, errors.New(`there are no rules in it: "repositories" says who may do what`)
	}
	f := &accessFile{groups: map[string][]server.Subject{}}
	parts := map[string]*yaml.Node{}
	if err := eachWord(doc, nil, []string{"groups", "repositories", "catalog"}, func(key, value *yaml.Node) error {
		parts[key.Value] = value
		return nil
	}); err != nil {
		return nil, err
	}
	if err := f.readGroups(parts["groups"]); err != nil {
		return nil, err
	}
	var rules []server.Rule
	if n := parts["repositories"]; n != nil && n.ShortTag() != "!!null" {
		err = eachWord(n, []string{"repositories"}, nil, func(key, value *yaml.Node) error {
			rule, err := f.rule(key, value)
			rules = append(rules, rule)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(rules) == 0 {
		return nil, errors.New(`there are no rules in it: "repositories" says who may do what`)
	}
	catalog, err := f.subjects(parts["catalog"], "catalog", true)
	if err != nil {
		return nil, err
	}
	return server.NewRules(rules, catalog)
}

// eachWord calls fn for the keys of a mapping, which are of the words, if there
// are any.
func eachWord(n *yaml.Node, path, words []string, fn func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		where := ""
		if len(path) > 0 {
			where = printable(strings.Join(path, ".")) + ": "
		}
		return fmt.Errorf("line %d: %skeys and values belong here", n.Line, where)
	}
	return eachKey(n, path, func(key, value *yaml.Node) error {
		if words != nil && !slices.Contains(words, key.Value) {
			return fmt.Errorf("line %d: unknown key %q, did you mean %q?", key.Line, key.Value, nearest(key.Value, words))
		}
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		return fn(key, value)
	})
}

func (f *accessFile) readGroups(n *yaml.Node) error {
	if n == nil || n.ShortTag() == "!!null" {
		return nil
	}
	return eachWord(n, []string{"groups"}, nil, func(key, value *yaml.Node) error {
		if s, err := server.ParseSubject(key.Value); err != nil || strings.Contains(s.String(), ":") {
			return fmt.Errorf("line %d: %q is no name for a group", key.Line, key.Value)
		}
		members, err := f.subjects(value, "groups."+key.Value, false)
		f.groups[key.Value] = members
		return err
	})
}

func (f *accessFile) rule(key, value *yaml.Node) (rule server.Rule, err error) {
	if rule.Pattern, err = server.ParsePattern(key.Value); err != nil {
		return rule, fmt.Errorf("line %d: %w", key.Line, err)
	}
	rule.Line = key.Line
	roles := map[string]server.Role{"pull": server.Pull, "push": server.Push, "admin": server.Admin}
	err = eachWord(value, []string{"repositories", key.Value}, []string{"pull", "push", "admin"}, func(role, who *yaml.Node) (err error) {
		at := roles[role.Value]
		if rule.May[at], err = f.subjects(who, key.Value+": "+role.Value, true); err == nil && at > server.Pull {
			for _, item := range who.Content {
				if item.Value == "anyone" {
					return fmt.Errorf("line %d: %s cannot be given to anyone without a login: authenticated is whoever has one", item.Line, role.Value)
				}
			}
		}
		return err
	})
	return rule, err
}

// subjects reads a list of who; with groups, these may stand in it.
func (f *accessFile) subjects(n *yaml.Node, where string, groups bool) (all []server.Subject, err error) {
	switch {
	case n == nil, n.ShortTag() == "!!null":
		return nil, nil
	case n.Kind != yaml.SequenceNode:
		return nil, fmt.Errorf("line %d: %s: a list of names belongs here", n.Line, printable(where))
	}
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: %s: a list of names belongs here", item.Line, printable(where))
		}
		name, isGroup := strings.CutPrefix(item.Value, groupPrefix)
		if isGroup {
			members, ok := f.groups[name]
			switch {
			case !groups:
				return nil, fmt.Errorf("line %d: a group cannot stand in another one", item.Line)
			case !ok:
				return nil, fmt.Errorf("line %d: there is no group %q under groups", item.Line, name)
			}
			all = append(all, members...)
			continue
		}
		s, err := server.ParseSubject(item.Value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", item.Line, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func newAccessCmd(a *app) *cobra.Command {
	config := defaultServerConfig()
	var file string
	c := &cobra.Command{
		Use:   "access [USER REPOSITORY]",
		Short: "Say who may do what, by the file of access rules",
		Long: `Example: iechor-trustd access --config /etc/iechor-trustd/server.yaml alice registry.example.com/team/app

Says what USER may do with REPOSITORY, and which line of the file decides that,
as a server with this configuration would. USER is the name that someone logs in
with, certificate:NAME for a machine with a client certificate, or anyone for
somebody without a login. A token may grant less than that, never more.

Without arguments the file is read, and what is wrong with it is said.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return usage("access takes a user and a repository, or nothing")
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration file of the server, YAML")
	addFlags(c.Flags(), config, "access", "prefixes")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := load(config, file, a.env, c.Flags()); err != nil {
			return err
		}
		return a.access(config, args)
	}
	return c
}

func (a *app) access(c *serverConfig, args []string) error {
	if c.Auth.Access == "" {
		return errors.New("access is not set: there are no rules to ask")
	}
	raw, err := readBounded(c.Auth.Access)
	if err != nil {
		return fmt.Errorf("read the access rules: %w", err)
	}
	rules, err := parseAccess(raw)
	if err != nil {
		return fmt.Errorf("access rules %s: %w", c.Auth.Access, err)
	}
	if len(args) == 0 {
		_, err = fmt.Fprintf(a.out, "%s: nothing wrong found\n", c.Auth.Access)
		return err
	}
	subject, err := server.ParseSubject(args[0])
	if err != nil {
		return usage("%w", err)
	}
	if !tuf.GUN(args[1]).Valid() {
		return usage("%q is no name of a repository", args[1])
	}
	role, rule, as := rules.Role(subject.Identity(), args[1])
	by := "no rule is about it"
	if rule != nil {
		by = fmt.Sprintf("by the rule for %s in line %d of %s", rule.Pattern, rule.Line, c.Auth.Access)
	}
	if role > server.NoRole && as != subject {
		by += ", as " + as.String()
	}
	if len(c.Prefixes) > 0 && !slices.ContainsFunc(c.Prefixes, func(p string) bool { return strings.HasPrefix(args[1], p) }) {
		by += "; but this server is not for that repository (prefixes)"
	}
	_, err = fmt.Fprintf(a.out, "%s may %s %s: %s\n", subject, role.Explain(), args[1], by)
	return err
}
