package main

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestArgumentWords(t *testing.T) {
	t.Parallel()
	for use, want := range map[string][]string{
		"list": nil,
		"remove [flags] REPOSITORY ROLE [KEYID...]": {"REPOSITORY", "ROLE", "KEYID..."},
		"passwd {ID | --all}":                       {"ID"},
		"pull [flags] NAME[:TAG|@DIGEST]":           {"NAME[:TAG|@DIGEST]"},
		"doctor [flags] [NAME[:TAG]]":               {"NAME[:TAG]"},
		"inspect [flags] NAME[:TAG|@DIGEST]...":     {"NAME[:TAG|@DIGEST]..."},
	} {
		if diff := cmp.Diff(want, argumentWords(use)); diff != "" {
			t.Errorf("argumentWords(%q) (-want +got):\n%s", use, diff)
		}
	}
}

// Every argument in a usage line is called by a name that complete knows.
func TestCompletionWords(t *testing.T) {
	t.Parallel()
	known := map[string]bool{
		"FILE": true, "FILE...": true, "KEYFILE": true, "NAME": true, "REPOSITORY": true, "REPOSITORY...": true, "ID": true, "KEYID...": true,
		"ROLE": true, "ROLE...": true, "HOST": true, "SHELL": true,
		"NAME[:TAG]": true, "NAME[:TAG|@DIGEST]": true, "NAME[:TAG|@DIGEST]...": true, "IMAGE[:TAG]": true, "IMAGE:TAG...": true,
	}
	everyCommand(documented(), func(cmd *cobra.Command) {
		for _, word := range argumentWords(cmd.Use) {
			if !known[word] {
				t.Errorf("%s: nothing completes %s; call it by a known name, or teach completion.go and this test the new one", cmd.UseLine(), word)
			}
		}
	})
}

// documented is the tree of commands, as every machine shows it.
func documented() *cobra.Command {
	return newRootCmd(&app{out: io.Discard, err: io.Discard, getenv: environ()})
}

// everyCommand calls f with cmd and all below it that are shown.
func everyCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	cmd.InitDefaultHelpFlag()
	f(cmd)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			everyCommand(sub, f)
		}
	}
}
