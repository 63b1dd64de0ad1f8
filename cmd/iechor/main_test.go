package main

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/zalando/go-keyring"
	"golang.org/x/term"

	"github.com/iechor/trust/cmd/cmdtest"
	"github.com/iechor/trust/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	slow := main // with its real derivation of keys
	if raceDetector {
		slow = scriptMain // that takes 30 times as long, and is one goroutine's
	}
	testscript.Main(cmdtest.Main(m), map[string]func(){
		"iechor": scriptMain, "iechor-slow": slow, "faulty": sandboxtest.Main, "hold-card": holdCardMain, "typing": cmdtest.Typing,
	})
}

// scriptSecrets is a store of secrets in a directory, with a file for each. An
// empty name is a machine without one.
type scriptSecrets string

func (s scriptSecrets) Get(name string) (string, error) {
	if s == "" {
		return "", errors.New("no desktop here")
	}
	raw, err := os.ReadFile(filepath.Join(string(s), name))
	if errors.Is(err, fs.ErrNotExist) {
		err = keyring.ErrNotFound
	}
	return string(raw), err
}

func (s scriptSecrets) Set(name, secret string) error {
	if s == "" {
		return errors.New("no desktop here")
	}
	return errors.Join(os.MkdirAll(string(s), 0o700), os.WriteFile(filepath.Join(string(s), name), []byte(secret), 0o600))
}

func (s scriptSecrets) Delete(name string) error {
	if _, err := s.Get(name); err != nil {
		return err
	}
	return os.Remove(filepath.Join(string(s), name))
}

// scriptMain is main with a cheap key derivation, and with what a script says
// by variables: LATER moves the clock, STATUS names a file for the exit status,
// SECRETS a directory for the store of secrets.
func scriptMain() {
	later, err := time.ParseDuration(cmp.Or(os.Getenv("LATER"), "0s"))
	if err != nil {
		panic(err)
	}
	status := run(&app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		bars:               term.IsTerminal(int(os.Stderr.Fd())),
		getenv:             os.Getenv,
		home:               os.Getenv("HOME"),
		now:                func() time.Time { return time.Now().Add(later) },
		secrets:            scriptSecrets(os.Getenv("SECRETS")),
		testOnlyIterations: 2048, testOnlyBackupCost: 4,
	}, os.Args[1:])
	if file := os.Getenv("STATUS"); file != "" {
		if err := os.WriteFile(file, []byte(strconv.Itoa(status)), 0o600); err != nil {
			panic(err)
		}
	}
	os.Exit(status)
}
