package main

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/term"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"iechor": scriptMain, "iechor-slow": main})
}

// scriptMain is main with a cheap key derivation, and with what a script says
// by variables: LATER moves the clock, STATUS names a file for the exit status.
func scriptMain() {
	later, err := time.ParseDuration("0s" + os.Getenv("LATER"))
	if err != nil {
		panic(err)
	}
	status := run(&app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		bars:               term.IsTerminal(int(os.Stderr.Fd())),
		getenv:             os.Getenv,
		home:               os.Getenv("HOME"),
		now:                func() time.Time { return time.Now().Add(later) },
		testOnlyIterations: 2048,
	}, os.Args[1:])
	if file := os.Getenv("STATUS"); file != "" {
		if err := os.WriteFile(file, []byte(strconv.Itoa(status)), 0o600); err != nil {
			panic(err)
		}
	}
	os.Exit(status)
}
