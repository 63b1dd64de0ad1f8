package main

import (
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/keys/keystest"
)

// leaks fails if a private key stands unencrypted in anything that the story
// wrote: files, temporary ones included, and the output of the last command.
// Which keys there are it learns from all key files that one of the passphrases
// opens. Files that the story itself brought are named with "+":
// "leaks repopass1 rootpass1 +plain.pem".
func leaks(ts *testscript.TestScript, neg bool, args []string) {
	var passphrases, allowed []string
	for _, arg := range args {
		if file, ok := strings.CutPrefix(arg, "+"); ok {
			allowed = append(allowed, file)
		} else {
			passphrases = append(passphrases, arg)
		}
	}
	var l keystest.Leaks
	found, err := l.Scan(ts.MkAbs("."), allowed, passphrases...)
	ts.Check(err)
	if l.Known() == 0 {
		ts.Fatalf("no key was learnt: are the passphrases right?")
	}
	for _, stream := range []string{"stdout", "stderr"} {
		if what := l.Find([]byte(ts.ReadFile(stream))); what != "" {
			found = append(found, stream+": "+what)
		}
	}
	switch {
	case neg && len(found) == 0:
		ts.Fatalf("nothing was found with %d keys known", l.Known())
	case !neg && len(found) > 0:
		ts.Fatalf("unencrypted:\n%s", strings.Join(found, "\n"))
	}
	ts.Logf("%d keys, none of them unencrypted", l.Known())
}
