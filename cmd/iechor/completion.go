package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/registry"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// shells are those that completion is written for.
var shells = []string{"bash", "zsh", "fish", "powershell"}

func newCompletionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete commands, keys, signers and tags",
		Example: `  source <(iechor completion bash)
  iechor completion bash > /etc/bash_completion.d/iechor
  iechor completion zsh > "${fpath[1]}/_iechor"
  iechor completion fish > ~/.config/fish/completions/iechor.fish`,
		Long: `Completion prints a script for bash, zsh, fish or powershell. Sourced, or put
where the shell looks for such scripts, it completes commands and flags, and from
what is on this machine the IDs of keys, repositories, signers, roles and tags.
No server is asked, and nobody for a passphrase. In bash it needs the package
bash-completion.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(cmd, fmt.Sprintf("%s takes the name of a shell, and got %d arguments", cmd.CommandPath(), len(args)), "known are "+strings.Join(shells, ", "))
			}
			if !slices.Contains(shells, args[0]) {
				return usage(cmd, fmt.Sprintf("unknown shell %q", printable(args[0])), "known are "+strings.Join(shells, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			default:
				return root.GenPowerShellCompletionWithDesc(a.out)
			}
		},
	}
}

// addCompletions has every command below cmd complete its arguments by the
// words of its usage line, and its flags by the words of theirs: who adds a
// command need not think of it, as long as they call things by the names that
// others do.
func (a *app) addCompletions(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		a.addCompletions(sub)
	}
	words := argumentWords(cmd.Use)
	if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() && cmd.Name() != "help" {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			word := ""
			switch n := len(args); {
			case n < len(words):
				word = words[n]
			case len(words) > 0 && strings.HasSuffix(words[len(words)-1], "..."):
				word = words[len(words)-1]
			}
			return a.complete(cmd, strings.TrimSuffix(word, "..."), args, begun)
		}
	}
	each := func(f *pflag.Flag) {
		word, _ := pflag.UnquoteUsage(f)
		if f.Value.Type() == "bool" || f.Name == "help" {
			return
		}
		// The error says that the flag has one: what a command says itself counts.
		_ = cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if word == "name" && f.Name == "signer" {
				word = "SIGNER"
			}
			return a.complete(cmd, word, args, begun)
		})
	}
	cmd.NonInheritedFlags().VisitAll(each)
}

// argumentWords are the arguments in a usage line: "remove REPOSITORY ROLE
// [KEYID...]" has REPOSITORY, ROLE and KEYID....
func argumentWords(use string) []string {
	var words []string
	for _, field := range strings.Fields(use)[1:] {
		word := strings.Trim(field, "{}")
		if strings.HasPrefix(word, "[") && strings.Count(word, "[") == strings.Count(word, "]") && strings.HasSuffix(word, "]") {
			word = word[1 : len(word)-1]
		}
		if word != "" && strings.ToUpper(word) == word && word[0] >= 'A' && word[0] <= 'Z' {
			words = append(words, word)
		}
	}
	return words
}

// complete returns what could stand for a word of a usage line, or for the
// value of a flag, and begins with begun.
func (a *app) complete(cmd *cobra.Command, word string, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const files, nothing = cobra.ShellCompDirectiveDefault, cobra.ShellCompDirectiveNoFileComp
	var choices []cobra.Completion
	switch word {
	case "FILE", "KEYFILE", "file":
		return nil, files
	case "directory":
		return nil, cobra.ShellCompDirectiveFilterDirs
	case "NAME[:TAG]", "NAME[:TAG|@DIGEST]", "IMAGE[:TAG]", "IMAGE:TAG":
		choices = a.imageChoices(begun)
		return withPrefix(choices, args, begun), nothing | cobra.ShellCompDirectiveNoSpace
	case "REPOSITORY", "repository":
		choices = a.repositoryChoices()
	case "ID", "KEYID":
		choices = a.keyChoices(cmd.Context())
	case "ROLE", "role":
		choices = a.roleChoices(cmd, args)
	case "SIGNER":
		choices = a.signerChoices()
	case "NAME":
		if cmd.Name() == "remove" {
			choices = a.signerChoices()
		}
	case "HOST":
		choices = a.hostChoices()
	case "SHELL":
		choices = shells
	case "kind":
		for _, k := range []keys.Algorithm{keys.P256, keys.P384, keys.Ed25519, keys.RSA3072} {
			choices = append(choices, string(k))
		}
	case "place":
		choices = []cobra.Completion{"engine", "oci:", "docker-archive:"}
		if cmd.Name() == "push" {
			choices = append(choices, "registry")
		}
		return withPrefix(choices, nil, begun), nothing | cobra.ShellCompDirectiveNoSpace
	}
	return withPrefix(choices, args, begun), nothing
}

// withPrefix leaves out what does not begin as typed, and what was given
// already.
func withPrefix(choices []cobra.Completion, args []string, begun string) []cobra.Completion {
	var fit []cobra.Completion
	for _, c := range choices {
		text, _, _ := strings.Cut(c, "\t")
		if strings.HasPrefix(text, begun) && !slices.Contains(args, text) && printable(c) == strings.ReplaceAll(c, "\t", "\ufffd") {
			fit = append(fit, c)
		}
	}
	return fit
}

// trustDir is the trust directory, for those who only look; nil if there is
// no place for it.
func (a *app) trustDir() *trust.Dir {
	dir, err := a.dir()
	if err != nil {
		return nil
	}
	return trust.NewDir(filepath.Join(dir, "trust"))
}

// known are the repositories whose metadata is at hand. While completing,
// errors are none of the user's business.
func (a *app) known() []registry.Ref {
	dir := a.trustDir()
	if dir == nil {
		return nil
	}
	guns, _ := dir.List()
	var refs []registry.Ref
	for _, gun := range guns {
		if ref, err := registry.ParseRef(string(gun)); err == nil && ref.Repository == string(gun) {
			refs = append(refs, ref)
		}
	}
	return refs
}

func (a *app) repositoryChoices() (choices []cobra.Completion) {
	for _, ref := range a.known() {
		choices = append(choices, ref.FamiliarName())
		if ref.FamiliarName() != ref.Repository {
			choices = append(choices, ref.Repository)
		}
	}
	return choices
}

// imageChoices are repositories, and once one is typed, its tags.
func (a *app) imageChoices(begun string) []cobra.Completion {
	choices := a.repositoryChoices()
	name, _, tagged := strings.Cut(begun[strings.LastIndexByte(begun, '/')+1:], ":")
	name = begun[:strings.LastIndexByte(begun, '/')+1] + name
	if !tagged && !slices.Contains(choices, name) {
		return choices
	}
	ref, err := registry.ParseRef(name)
	if err != nil {
		return choices
	}
	for _, tag := range sortedTags(a.cachedTags(tuf.GUN(ref.Repository))) {
		choices = append(choices, name+":"+tag)
	}
	return choices
}

// cached are the files of a repository that are at hand and soundly signed.
func (a *app) cached(gun tuf.GUN) []tuf.File {
	dir := a.trustDir()
	if dir == nil {
		return nil
	}
	past, err := trust.Open(gun, trust.Config{Dir: dir, Now: a.now}).Local()
	if err != nil || past == nil {
		return nil
	}
	return past.Files()
}

// cachedTags are the tags that any role of the copy at hand has.
func (a *app) cachedTags(gun tuf.GUN) []string {
	seen := map[string]bool{}
	for _, f := range a.cached(gun) {
		if !f.Role.HoldsTargets() {
			continue
		}
		var file struct {
			Signed struct {
				Targets map[string]json.RawMessage `json:"targets"`
			} `json:"signed"`
		}
		if json.Unmarshal(f.Raw, &file) != nil {
			continue
		}
		for tag := range file.Signed.Targets {
			seen[tag] = true
		}
	}
	var tags []string
	for tag := range seen {
		tags = append(tags, tag)
	}
	return tags
}

// keyChoices are the IDs of the keys that are here.
func (a *app) keyChoices(ctx context.Context) (choices []cobra.Completion) {
	dir, err := a.dir()
	if err != nil {
		return nil
	}
	d, err := keys.OpenDir(keys.Config{Path: filepath.Join(dir, "trust", "private"), LookOnly: true})
	if err != nil {
		return nil
	}
	defer d.Close() // nothing was unlocked
	if ctx == nil {
		ctx = context.Background()
	}
	infos, _ := d.List(ctx)
	for _, k := range infos {
		choices = append(choices, cobra.CompletionWithDesc(string(k.ID), printable(keyWords(k))))
	}
	return choices
}

// roleChoices are top-level roles for commands about keys, and the
// delegations of the repository that has been typed for others.
func (a *app) roleChoices(cmd *cobra.Command, args []string) (choices []cobra.Completion) {
	if cmd.HasParent() && cmd.Parent().Name() == "key" {
		return []cobra.Completion{"root", "targets", "snapshot", "timestamp"}
	}
	if len(args) == 0 {
		return nil
	}
	ref, err := registry.ParseRef(args[0])
	if err != nil {
		return nil
	}
	for _, f := range a.cached(tuf.GUN(ref.Repository)) {
		if f.Role.Delegation() || f.Role == tuf.RoleTargets {
			choices = append(choices, string(f.Role))
		}
	}
	return choices
}

// signerChoices are the names of signers in all repositories, and those that
// have a key here.
func (a *app) signerChoices() []cobra.Completion {
	seen := map[string]bool{}
	for _, ref := range a.known() {
		for _, f := range a.cached(tuf.GUN(ref.Repository)) {
			if name, ok := strings.CutPrefix(string(f.Role), string(tuf.RoleTargets)+"/"); ok && f.Role != tuf.RoleReleases && !strings.Contains(name, "/") {
				seen[name] = true
			}
		}
	}
	var names []cobra.Completion
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hostChoices are the registries of the repositories at hand.
func (a *app) hostChoices() (hosts []cobra.Completion) {
	for _, ref := range a.known() {
		hosts = append(hosts, ref.Host())
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
