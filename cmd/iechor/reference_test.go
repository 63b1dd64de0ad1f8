package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestReference compares doc/cli and doc/man with what the commands say of
// themselves; -update writes them.
func TestReference(t *testing.T) {
	t.Parallel()
	pages := map[string]string{}
	index := "# Commands of iechor\n\nMade from the commands themselves: `go generate ./cmd/iechor` writes these pages and the manual pages in `doc/man`.\n\n"
	everyCommand(documented(), func(cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return
		}
		pages["cli/"+pageName(cmd)+".md"] = markdown(cmd)
		pages["man/"+pageName(cmd)+".1"] = manual(cmd)
		index += fmt.Sprintf("%s- [%s](%s.md): %s\n", strings.Repeat("  ", strings.Count(cmd.CommandPath(), " ")), cmd.CommandPath(), pageName(cmd), cmd.Short)
	})
	pages["cli/README.md"] = index
	const doc = "../../doc"
	there := map[string]bool{}
	for _, pattern := range []string{"cli/*", "man/*"} {
		paths, err := filepath.Glob(filepath.Join(doc, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			there[filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path)] = true
		}
	}
	stale := func(format string, a ...any) {
		t.Errorf(format+"; run: go generate ./cmd/iechor", a...)
	}
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		path := filepath.Join(doc, filepath.FromSlash(name))
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(pages[name]), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			stale("%v", err)
		} else if diff := cmp.Diff(pages[name], strings.ReplaceAll(string(got), "\r\n", "\n")); diff != "" {
			stale("doc/%s is not what the command says (-command +page):\n%s", name, diff)
		}
	}
	for name := range there {
		if _, ok := pages[name]; ok {
			continue
		}
		if !*update {
			stale("doc/%s is about no command", name)
		} else if err := os.Remove(filepath.Join(doc, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
}

// Every command begins its help with an example, and says what each flag
// takes.
func TestHelp(t *testing.T) {
	t.Parallel()
	everyCommand(documented(), func(cmd *cobra.Command) {
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s has no example, or nothing that says what it does", cmd.CommandPath())
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if name, usage := pflag.UnquoteUsage(f); usage == "" || f.Value.Type() != "bool" && name == f.Value.Type() && name != "string" {
				t.Errorf("%s --%s: the help does not say what it takes", cmd.CommandPath(), f.Name)
			}
		})
	})
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// about is the long text of a command, cut into paragraphs and blocks that
// are to stay as they are.
func about(cmd *cobra.Command, paragraph, block func(text string)) {
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	for _, part := range strings.Split(strings.TrimSpace(text), "\n\n") {
		var lines []string
		kept := false
		end := func() {
			if len(lines) > 0 && kept {
				block(strings.Join(lines, "\n"))
			} else if len(lines) > 0 {
				paragraph(strings.Join(lines, "\n"))
			}
			lines = nil
		}
		for _, line := range strings.Split(part, "\n") {
			if indented := strings.HasPrefix(line, "  "); indented != kept {
				end()
				kept = indented
			}
			lines = append(lines, line)
		}
		end()
	}
}

func example(cmd *cobra.Command) string {
	lines := strings.Split(cmd.Example, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

func usageLine(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.UseLine() + " COMMAND"
	}
	return cmd.UseLine()
}

// eachFlag calls f with the flags of cmd: how one is written, what it does.
func eachFlag(flags *pflag.FlagSet, f func(written, usage string)) {
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(flag)
		written := "--" + flag.Name
		if flag.Shorthand != "" {
			written = "-" + flag.Shorthand + ", " + written
		}
		if value != "" {
			written += " " + value
		}
		if d := flag.DefValue; d != "" && d != "false" && d != "0" && d != "[]" {
			usage += fmt.Sprintf(" (default %q)", d)
		}
		f(written, usage)
	})
}

func markdown(cmd *cobra.Command) string {
	var b strings.Builder
	safe := strings.NewReplacer("<", "\\<", "*", "\\*", "|", "\\|")
	fence := func(language, text string) { fmt.Fprintf(&b, "```%s\n%s\n```\n\n", language, text) }
	fmt.Fprintf(&b, "# %s\n\n%s.\n\n", cmd.CommandPath(), safe.Replace(cmd.Short))
	fence("sh", example(cmd))
	fence("text", usageLine(cmd))
	if cmd.Long != "" {
		about(cmd, func(text string) { fmt.Fprintf(&b, "%s\n\n", safe.Replace(text)) }, func(text string) { fence("text", text) })
	}
	if cmd.HasAvailableSubCommands() {
		b.WriteString("## Commands\n\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				fmt.Fprintf(&b, "- [%s](%s.md): %s\n", sub.CommandPath(), pageName(sub), safe.Replace(sub.Short))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("## Flags\n\n| Flag | What it does |\n|---|---|\n")
	row := func(written, usage string) { fmt.Fprintf(&b, "| `%s` | %s |\n", written, safe.Replace(usage)) }
	eachFlag(cmd.NonInheritedFlags(), row)
	eachFlag(cmd.InheritedFlags(), row)
	if cmd.HasParent() {
		fmt.Fprintf(&b, "\nPart of [%s](%s.md).\n", cmd.Parent().CommandPath(), pageName(cmd.Parent()))
	}
	return b.String()
}

// manual writes a manual page, in the macros of man(7).
func manual(cmd *cobra.Command) string {
	var b strings.Builder
	safe := func(text string) string {
		lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text), "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
				lines[i] = `\&` + l
			}
		}
		return strings.Join(lines, "\n")
	}
	block := func(text string) { fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", safe(text)) }
	fmt.Fprintf(&b, ".TH \"%s\" \"1\" \"\" \"iEchor content trust\"\n", strings.ToUpper(safe(pageName(cmd))))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", safe(pageName(cmd)), safe(cmd.Short))
	b.WriteString(".SH SYNOPSIS\n")
	block(usageLine(cmd))
	b.WriteString(".SH EXAMPLE\n")
	block(example(cmd))
	b.WriteString(".SH DESCRIPTION\n")
	about(cmd, func(text string) { fmt.Fprintf(&b, ".PP\n%s\n", safe(text)) }, block)
	if cmd.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", safe(pageName(sub)), safe(sub.Short))
			}
		}
	}
	b.WriteString(".SH OPTIONS\n")
	option := func(written, usage string) { fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", safe(written), safe(usage)) }
	eachFlag(cmd.NonInheritedFlags(), option)
	eachFlag(cmd.InheritedFlags(), option)
	if cmd.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", safe(pageName(cmd.Parent())))
	}
	return b.String()
}
