package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/zalando/go-keyring"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

// Where passphrases come from without being asked for (spec/cli.md 2.1): for a
// role, and for one key, named by seven or more of the digits that its id
// begins with. Each has a twin with fileSuffix, which names a file.
const (
	rootPassphraseVariable       = "IECHOR_CONTENT_TRUST_ROOT_PASSPHRASE"
	repositoryPassphraseVariable = "IECHOR_CONTENT_TRUST_REPOSITORY_PASSPHRASE"
	keyPassphraseVariable        = "IECHOR_CONTENT_TRUST_PASSPHRASE_"
	fileSuffix                   = "_FILE"
)

const (
	minPassphrase = 8  // characters, of a new key's passphrase
	maxNewAnswers = 12 // until setting a passphrase is given up
	shortestID    = 7  // digits by which people name a key
)

// rootNotice is shown once before a new root key (spec/cli.md 4.1).
const rootNotice = `A new root key is being made, and you choose its passphrase now. The root key
is the most important key of your signing system: everything that you will ever
sign rests on it. Choose a long and complex passphrase, best made and kept by a
password manager. Keep the passphrase and the key file safe, and back them up:
there is no way to recover either of them. The key file is in the configuration
directory, below trust/private.`

// tokenRootNotice is its twin for a root key on a token.
const tokenRootNotice = `A new root key is being made for the token. The root key is the most important
key of your signing system: everything that you will ever sign rests on it. An
encrypted copy is written, so that you can go on when the token is lost: choose
a long and complex passphrase for it now, best made and kept by a password
manager, and bring the copy to a safe place. It will be in
%s.`

// passphrases asks for the passphrases of keys: the variable of the key, that
// of its role, the system's store of secrets, the terminal, and without one
// standard input line by line. It is a keys.Passphrases for one command.
type passphrases struct {
	terminal *terminal.Terminal
	getenv   func(string) string
	warn     func(format string, args ...any)
	memory   remembered
	noticed  bool // rootNotice was shown

	// backup is set while the passphrase of a copy is chosen, whose key is on
	// a token: the directory of such copies.
	backup string

	// askNew is set while a passphrase is being changed: the new one is asked
	// for, since a variable has the old one.
	askNew bool
	// chosen, if set, gets every passphrase that was set, to be used at once.
	chosen func(key keys.Info, passphrase []byte)

	// tried are the keys that were asked for. A store asks again for a key
	// only when it did not open.
	tried map[tuf.CanonicalID]origin
}

var _ keys.Passphrases = (*passphrases)(nil)

// errTooManyAnswers ends the attempts to set a passphrase.
var errTooManyAnswers = errors.New("maximum number of passphrase attempts exceeded")

// Passphrase asks for an existing passphrase. A variable is one answer: if it
// is wrong, nobody is asked (spec/cli.md 4.4). So is the store of secrets, but
// what it has may be of yesterday: then the user is asked. A key that did not
// open is not asked for again, however many roles need it.
func (p *passphrases) Passphrase(ctx context.Context, key keys.Info, attempt int) ([]byte, error) {
	was, again := p.tried[key.ID]
	again = again && attempt == 1 && key.ID != "" // without an id it may be another one
	switch {
	case again && was.err != nil:
		return nil, was.err
	case again, attempt > 1 && was.variable != "":
		return nil, &passphraseError{keyWords(key), was.variable, keys.ErrPassphrase}
	}
	answer, from, err := p.answer(ctx, key, attempt, was)
	if p.tried == nil {
		p.tried = map[tuf.CanonicalID]origin{}
	}
	from.err = err
	p.tried[key.ID] = from
	return answer, err
}

// answer is Passphrase for a key that may still open.
func (p *passphrases) answer(ctx context.Context, key keys.Info, attempt int, was origin) ([]byte, origin, error) {
	notice := "Passphrase incorrect. Please retry."
	switch {
	case attempt == 1:
		notice = ""
		answer, from, err := p.known(ctx, key)
		if err != nil || answer != nil {
			return answer, from, err
		}
	case was.store:
		notice = "The passphrase in the system's store of secrets is not that of the " + keyWords(key) + "."
	}
	if notice != "" {
		if err := p.terminal.Notice(notice); err != nil {
			return nil, origin{}, err
		}
	}
	answer, err := p.ask(ctx, "Enter passphrase for ", keyWords(key), passphraseVariable(key))
	return answer, origin{}, err
}

// An origin is where an answer came from.
type origin struct {
	variable string // or empty
	store    bool   // the store of secrets
	err      error  // there was none
}

// known returns the passphrase that need not be asked for; nil if there is
// none.
func (p *passphrases) known(ctx context.Context, key keys.Info) ([]byte, origin, error) {
	answer, variable, err := p.variable(variablesFor(key))
	if err != nil || answer != nil {
		return answer, origin{variable: variable}, err
	}
	secret, err := p.memory.get(ctx, key.ID)
	switch {
	case err == nil:
		return []byte(secret), origin{store: true}, nil
	case ctx.Err() != nil:
		return nil, origin{}, ctx.Err()
	case !errors.Is(err, keyring.ErrNotFound):
		p.warn("the system's store of secrets cannot be used: %s", printable(err.Error()))
	}
	return nil, origin{}, nil
}

// variable returns the passphrase in the first of the variables that is set: a
// value goes before a file.
func (p *passphrases) variable(names []string) ([]byte, string, error) {
	for _, name := range names {
		if v := p.getenv(name); v != "" {
			return []byte(v), name, nil
		}
		name += fileSuffix
		if path := p.getenv(name); path != "" {
			answer, err := keys.ReadSecret(path)
			if err != nil {
				return nil, name, &passphraseFileError{name, path, err}
			}
			return answer, name, nil
		}
	}
	return nil, "", nil
}

// variablesFor lists the variables for a key, and at last that for its role. Of
// those that name the key the longest wins: it says most exactly which key is meant.
func variablesFor(key keys.Info) []string {
	var names []string
	for n := len(key.ID); n >= shortestID; n-- {
		digits := string(key.ID[:n])
		names = append(names, keyPassphraseVariable+digits)
		if upper := strings.ToUpper(digits); upper != digits {
			names = append(names, keyPassphraseVariable+upper)
		}
	}
	return append(names, passphraseVariable(key))
}

// A passphraseFileError says that the file that a variable names cannot be
// used.
type passphraseFileError struct {
	variable, path string
	err            error
}

func (e *passphraseFileError) Error() string {
	return fmt.Sprintf("passphrase file %s, named by %s: %v", e.path, e.variable, e.err)
}
func (e *passphraseFileError) Unwrap() error { return e.err }

// NewPassphrase returns a passphrase to set: that of the role's variable, else
// what the user gives twice.
func (p *passphrases) NewPassphrase(ctx context.Context, key keys.Info) ([]byte, error) {
	answer, err := p.newPassphrase(ctx, key)
	if err == nil && p.chosen != nil {
		p.chosen(key, answer)
	}
	return answer, err
}

func (p *passphrases) newPassphrase(ctx context.Context, key keys.Info) ([]byte, error) {
	n := newPassphrase{words: keyWords(key), variable: passphraseVariable(key)}
	if !p.askNew {
		n.variables = variablesFor(key)
	}
	if key.Role == "root" && !p.noticed {
		backup := p.backup
		n.notice = func() error {
			p.noticed = true
			if backup != "" {
				return p.terminal.Notice(fmt.Sprintf(tokenRootNotice, printable(backup)))
			}
			return p.terminal.Notice(rootNotice)
		}
	}
	return p.choose(ctx, n)
}

// A newPassphrase is one to be set.
type newPassphrase struct {
	words     string       // of what it will protect
	variables []string     // that are looked at
	variable  string       // that it could come from, for messages
	notice    func() error // before the question, or nil
}

// choose returns a passphrase to set: that of the first variable that is set,
// else what the user gives twice.
func (p *passphrases) choose(ctx context.Context, n newPassphrase) ([]byte, error) {
	answer, name, err := p.variable(n.variables)
	if err != nil {
		return nil, err
	}
	if answer != nil {
		if utf8.RuneCount(answer) < minPassphrase {
			p.warn("the passphrase in %s has fewer than %d characters", name, minPassphrase)
		}
		return answer, nil
	}
	if n.notice != nil {
		if err := n.notice(); err != nil {
			return nil, err
		}
	}
	for range maxNewAnswers {
		first, err := p.ask(ctx, "Enter passphrase for new ", n.words, n.variable)
		if err != nil {
			return nil, err
		}
		if utf8.RuneCount(first) < minPassphrase {
			clear(first)
			if err := p.terminal.Notice("Passphrase is too short. Please use a password manager to generate and store a good random passphrase."); err != nil {
				return nil, err
			}
			continue
		}
		second, err := p.ask(ctx, "Repeat passphrase for new ", n.words, n.variable)
		if err != nil {
			clear(first)
			return nil, err
		}
		same := bytes.Equal(first, second)
		clear(second)
		if same {
			return first, nil
		}
		clear(first)
		if err := p.terminal.Notice("Passphrases do not match. Please retry."); err != nil {
			return nil, err
		}
	}
	return nil, &passphraseError{n.words, "", errTooManyAnswers}
}

// ask asks on the terminal. variable is where the answer could have come from.
func (p *passphrases) ask(ctx context.Context, prompt, words, variable string) ([]byte, error) {
	answer, err := p.terminal.Secret(ctx, prompt+words+": ")
	switch {
	case errors.Is(err, terminal.ErrInterrupted):
		return nil, fmt.Errorf("%w: %w", keys.ErrCancelled, err)
	case errors.Is(err, terminal.ErrNoTerminal):
		return nil, &passphraseError{words, variable, keys.ErrNoPassphrase}
	}
	return answer, err
}

// passphraseVariable names the variable for a key: there is one for root keys
// and one for all others.
func passphraseVariable(key keys.Info) string {
	if key.Role == "root" {
		return rootPassphraseVariable
	}
	return repositoryPassphraseVariable
}

// keyWords names a key as prompts do: "repository key with ID 57954f0
// (registry.example.com/app)".
func keyWords(key keys.Info) string {
	word := printable(strings.TrimPrefix(key.Role, "targets/"))
	switch key.Role {
	case "targets", "snapshot":
		word = "repository"
	case "":
		word = "encrypted"
	}
	s := word + " key"
	if key.ID != "" {
		s += " with ID " + key.ID.Short()
	}
	if key.GUN != "" {
		s += " (" + string(key.GUN) + ")"
	}
	return s
}

// A passphraseError says for what there is no right passphrase, and which
// variable it could come from, or came from.
type passphraseError struct {
	what     string
	variable string
	err      error // keys.ErrPassphrase, keys.ErrNoPassphrase or errTooManyAnswers
}

func (e *passphraseError) Error() string { return e.what + ": " + e.err.Error() }
func (e *passphraseError) Unwrap() error { return e.err }
