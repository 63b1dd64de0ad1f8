// Iechor pushes and pulls container images that somebody vouches for: it signs
// the tags that are pushed, and pulls only what the owner of a tag says it is
// now.
//
// Read app.go for what a command works with, push.go and pull.go for the two
// paths, and explain.go for everything that is said when one of them ends
// badly. config.go and address.go decide what is trusted and who is asked;
// passphrases.go asks the user. completion.go is for shells; doc/cli and doc/man
// are made from the commands by reference_test.go.
package main

//go:generate go test -run ^TestReference$ -update .

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "" // --config or IECHOR_CONFIG may do without
	}
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		bars:    term.IsTerminal(int(os.Stderr.Fd())),
		getenv:  os.Getenv,
		home:    home,
		now:     time.Now,
		secrets: systemSecrets{},
	}
	os.Exit(run(a, os.Args[1:]))
}

// run runs one command and returns the exit status. The first interrupt ends
// the command in good order, the second one at once.
func run(a *app, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := a.execute(ctx, args)
	if err == nil {
		return exitDone
	}
	sentence, hints, exit := explain(err)
	if sentence != "" {
		fmt.Fprintln(a.err, sentence)
	}
	for _, h := range hints {
		fmt.Fprintln(a.err, "hint: "+h)
	}
	return exit
}
