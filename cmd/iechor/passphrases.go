package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/terminal"
)

// Where passphrases come from without being asked for (spec/cli.md 2.1).
const (
	rootPassphraseVariable       = "IECHOR_CONTENT_TRUST_ROOT_PASSPHRASE"
	repositoryPassphraseVariable = "IECHOR_CONTENT_TRUST_REPOSITORY_PASSPHRASE"
)

const (
	minPassphrase = 8  // characters, of a new key's passphrase
	maxNewAnswers = 12 // until setting a passphrase is given up
)

// rootNotice is shown once before a new root key (spec/cli.md 4.1).
const rootNotice = `A new root key is being made, and you choose its passphrase now. The root key
is the most important key of your signing system: everything that you will ever
sign rests on it. Choose a long and complex passphrase, best made and kept by a
password manager. Keep the passphrase and the key file safe, and back them up:
there is no way to recover either of them. The key file is in the configuration
directory, below trust/private.`

// passphrases asks for the passphrases of keys: the variables, else the
// terminal, else standard input line by line. It is a keys.Passphrases.
type passphrases struct {
	terminal *terminal.Terminal
	getenv   func(string) string
	warn     func(format string, args ...any)
	noticed  bool // rootNotice was shown
}

var _ keys.Passphrases = (*passphrases)(nil)

// errTooManyAnswers ends the attempts to set a passphrase.
var errTooManyAnswers = errors.New("maximum number of passphrase attempts exceeded")

// Passphrase asks for an existing passphrase. A variable is one answer: if it
// is wrong, nobody is asked (spec/cli.md 4.4).
func (p *passphrases) Passphrase(ctx context.Context, key keys.Info, attempt int) ([]byte, error) {
	variable := passphraseVariable(key)
	if v := p.getenv(variable); v != "" {
		if attempt > 1 {
			return nil, &passphraseError{key, variable, keys.ErrPassphrase}
		}
		return []byte(v), nil
	}
	if attempt > 1 {
		if err := p.terminal.Notice("Passphrase incorrect. Please retry."); err != nil {
			return nil, err
		}
	}
	return p.ask(ctx, key, "Enter passphrase for "+keyWords(key))
}

// NewPassphrase asks for a passphrase to set, twice.
func (p *passphrases) NewPassphrase(ctx context.Context, key keys.Info) ([]byte, error) {
	if v := p.getenv(passphraseVariable(key)); v != "" {
		if utf8.RuneCountInString(v) < minPassphrase {
			p.warn("the passphrase in %s has fewer than %d characters", passphraseVariable(key), minPassphrase)
		}
		return []byte(v), nil
	}
	if key.Role == "root" && !p.noticed {
		p.noticed = true
		if err := p.terminal.Notice(rootNotice); err != nil {
			return nil, err
		}
	}
	for range maxNewAnswers {
		first, err := p.ask(ctx, key, "Enter passphrase for new "+keyWords(key))
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
		second, err := p.ask(ctx, key, "Repeat passphrase for new "+keyWords(key))
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
	return nil, &passphraseError{key, "", errTooManyAnswers}
}

func (p *passphrases) ask(ctx context.Context, key keys.Info, prompt string) ([]byte, error) {
	answer, err := p.terminal.Secret(ctx, prompt+": ")
	switch {
	case errors.Is(err, terminal.ErrInterrupted):
		return nil, fmt.Errorf("%w: %w", keys.ErrCancelled, err)
	case errors.Is(err, terminal.ErrNoTerminal):
		return nil, &passphraseError{key, passphraseVariable(key), keys.ErrNoPassphrase}
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

// A passphraseError says for which key there is no right passphrase, and which
// variable it could come from, or came from.
type passphraseError struct {
	key      keys.Info
	variable string
	err      error // keys.ErrPassphrase, keys.ErrNoPassphrase or errTooManyAnswers
}

func (e *passphraseError) Error() string { return fmt.Sprintf("%s: %v", keyWords(e.key), e.err) }
func (e *passphraseError) Unwrap() error { return e.err }
