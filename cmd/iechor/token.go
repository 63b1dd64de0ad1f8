package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/keys/pkcs11"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

// A device is a token that the configuration names.
type device struct {
	keys.Token
	entry int  // in the configuration
	auto  bool // nobody has configured it: it counts when it is there
}

// openTokens makes the stores of the tokens that the configuration names.
// Nothing is loaded or asked before one is used.
func (d *desk) openTokens() {
	d.yubiKeysOpen = new(piv.Shared)
	libraries := map[string]*pkcs11.Library{}
	for i, c := range d.tokenConfigs() {
		if c.module == pivModule {
			d.tokens = append(d.tokens, d.openPIV(i, c))
			continue
		}
		l := libraries[c.module]
		if l == nil {
			l = pkcs11.NewLibrary(c.module)
			libraries[c.module] = l
			d.libraries = append(d.libraries, l)
		}
		p := pkcs11.Config{Library: l, Token: c.choice}
		if !d.lookOnly {
			p.PINs = &pins{d: d, source: c.pin}
			p.Choose = func(ctx context.Context, among []keys.TokenInfo) (keys.TokenInfo, error) {
				return d.chooseToken(ctx, i, among)
			}
			p.Waiting = d.waiting
		}
		d.tokens = append(d.tokens, device{Token: pkcs11.Open(p), entry: i})
	}
	for _, t := range d.tokens {
		d.keys = append(d.keys, t.Token)
	}
}

// tokenConfigs are the tokens that the configuration names; if it does not
// speak of tokens, the YubiKey that may be there.
func (d *desk) tokenConfigs() []tokenConfig {
	if d.config.tokens == nil {
		return []tokenConfig{yubiKey}
	}
	return d.config.tokens
}

// waiting tells the user that a token may want to be touched.
func (d *desk) waiting(t keys.TokenInfo) {
	_ = d.terminal.Notice("The " + printable(t.String()) + " has not signed yet: touch it, if it waits for that.") // the signature is what counts
}

// pins says the PIN of one token: what the configuration names, once, or what
// the user types.
type pins struct {
	d      *desk
	source string
}

// PIN implements [keys.PINs].
func (p *pins) PIN(ctx context.Context, r keys.PINRequest) ([]byte, error) {
	kind, name, _ := strings.Cut(p.source, ":")
	switch kind {
	case "env":
		return p.fixed(ctx, r, name, func() ([]byte, error) {
			if v := p.d.getenv(name); v != "" {
				return []byte(v), nil
			}
			return nil, errors.New("it is empty")
		})
	case "file":
		return p.fixed(ctx, r, name, func() ([]byte, error) { return keys.ReadSecret(name) })
	}
	t := p.d.terminal
	name = printable(r.Token.String())
	var notices []string
	if r.Attempt > 1 {
		notices = append(notices, "That PIN is wrong.")
	}
	if r.Left != keys.TriesUnknown && (r.Attempt > 1 || r.Left < 3) {
		notices = append(notices, "Of the "+name+" "+r.Left.String()+".")
	}
	if r.Keypad {
		notices = append(notices, "Enter the PIN of the "+name+" on its keypad.")
	}
	if len(notices) > 0 {
		if err := t.Notice(strings.Join(notices, " ")); err != nil {
			return nil, err
		}
	}
	if r.Keypad {
		return nil, nil
	}
	return p.d.askPIN(ctx, "PIN of the "+name)
}

// fixed gives a PIN that nobody types.
func (p *pins) fixed(ctx context.Context, r keys.PINRequest, where string, read keys.FixedPIN) ([]byte, error) {
	pin, err := read.PIN(ctx, r)
	if err == nil {
		return pin, nil
	}
	if errors.Is(err, keys.ErrPIN) || errors.Is(err, keys.ErrLastTry) {
		return nil, err
	}
	return nil, &pinSourceError{where, err}
}

// A pinSourceError says that the file or variable of a PIN cannot be used.
type pinSourceError struct {
	where string
	err   error
}

func (e *pinSourceError) Error() string { return fmt.Sprintf("the PIN in %s: %v", e.where, e.err) }
func (e *pinSourceError) Unwrap() error { return e.err }

// askPIN asks for a PIN or PUK.
func (d *desk) askPIN(ctx context.Context, what string) ([]byte, error) {
	pin, err := d.terminal.Secret(ctx, "Enter the "+what+": ")
	switch {
	case errors.Is(err, terminal.ErrInterrupted):
		return nil, fmt.Errorf("%w: %w", keys.ErrCancelled, err)
	case errors.Is(err, terminal.ErrNoTerminal):
		return nil, keys.ErrNoPIN
	case err == nil && len(pin) == 0:
		return nil, keys.ErrNoPIN
	}
	return pin, err
}

// chooseToken asks which token an entry of the configuration means, and
// remembers the answer there.
func (d *desk) chooseToken(ctx context.Context, entry int, among []keys.TokenInfo) (keys.TokenInfo, error) {
	none := &pkcs11.SeveralError{Tokens: among}
	remember := d.config.rememberPIV
	if d.config.tokens != nil {
		none.Choice = d.config.tokens[entry].choice
		remember = func(serial string) error { return d.config.rememberToken(entry, serial) }
	}
	if d.token != "" {
		for _, t := range among {
			if t.Label == d.token || t.Serial == d.token {
				return t, nil
			}
		}
		return keys.TokenInfo{}, fmt.Errorf("%w: no token is called %s", keys.ErrTokenAbsent, d.token)
	}
	if !d.terminal.Interactive() {
		return keys.TokenInfo{}, none
	}
	chosen, err := d.pickToken(ctx, "There are several tokens. Which one is meant?", among)
	if err != nil {
		return keys.TokenInfo{}, err
	}
	if err := remember(chosen.Serial); err != nil {
		d.warn("the choice is not remembered: %s", printable(err.Error()))
	} else {
		fmt.Fprintf(d.err, "iechor: notice: %s has the serial number of the %s from now on\n", d.config.path, printable(chosen.String()))
	}
	return chosen, nil
}

// errNoTokenChosen ends the attempts to choose a token.
var errNoTokenChosen = errors.New("no token was chosen")

// pickToken has the user name one of several tokens by label or serial number.
func (d *desk) pickToken(ctx context.Context, question string, among []keys.TokenInfo) (keys.TokenInfo, error) {
	for _, t := range among {
		question += "\n  " + printable(t.String())
	}
	if err := d.terminal.Notice(question); err != nil {
		return keys.TokenInfo{}, err
	}
	for range 4 {
		answer, err := d.terminal.Line(ctx, "Label or serial number: ")
		if errors.Is(err, terminal.ErrInterrupted) {
			err = fmt.Errorf("%w: %w", keys.ErrCancelled, err)
		}
		if err != nil {
			return keys.TokenInfo{}, err
		}
		answer = strings.TrimSpace(answer)
		var fit []keys.TokenInfo
		for _, t := range among {
			if answer != "" && (t.Label == answer || t.Serial == answer) {
				fit = append(fit, t)
			}
		}
		if len(fit) == 1 {
			return fit[0], nil
		}
		if err := d.terminal.Notice("That is none of them, or more than one. Please retry."); err != nil {
			return keys.TokenInfo{}, err
		}
	}
	return keys.TokenInfo{}, errNoTokenChosen
}

// rememberToken writes a serial number into an entry of the configuration, and
// leaves everything else in the file as it is.
func (c *config) rememberToken(entry int, serial string) error {
	if serial == "" {
		return errors.New("the token has no serial number")
	}
	raw, err := os.ReadFile(c.path)
	if err != nil {
		return err
	}
	at, err := objectAt(raw, entry, "{", "content-trust{", "tokens[", "{")
	if err != nil {
		return err
	}
	member, err := json.Marshal(serial)
	if err != nil {
		return err
	}
	out := slices.Concat(raw[:at], []byte(`"serial": `), member, []byte(", "), raw[at:])
	again := config{path: c.path}
	if err := again.decode(out); err != nil {
		return err
	}
	return writePrivately(c.path, out)
}

// objectAt returns where the members of an object begin: the one with number n
// among those at path, which has names and brackets.
func objectAt(raw []byte, n int, at ...string) (int, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	var path []string // of names and brackets
	var key string
	count := -1
	for {
		t, err := dec.Token()
		if err != nil {
			return 0, fmt.Errorf("the entry is not there any more: %w", err)
		}
		switch v := t.(type) {
		case json.Delim:
			switch v {
			case '{', '[':
				path = append(path, key+string(rune(v)))
				key = ""
				if slices.Equal(path, at) {
					if count++; count == n {
						return int(dec.InputOffset()), nil
					}
				}
				continue
			default:
				path = path[:len(path)-1]
			}
			key = ""
		case string:
			if key == "" && len(path) > 0 && strings.HasSuffix(path[len(path)-1], "{") {
				key = v
				continue
			}
			key = ""
		default:
			key = ""
		}
	}
}

// present returns the tokens that are there and could hold a key, and why the
// others are not or cannot.
func (d *desk) present(ctx context.Context) (there []device, errs []error) {
	for _, t := range d.tokens {
		i, err := t.Look(ctx)
		if err == nil && i.Locked && !d.lockedToo {
			err = &keys.PINError{Token: i, Locked: true}
		}
		switch {
		case t.auto && absent(err):
		case err != nil:
			errs = append(errs, err)
		case d.token == "" || i.Label == d.token || i.Serial == d.token:
			there = append(there, t)
		}
	}
	return there, errs
}

// absent reports whether err says that there is no token, or no way to one.
func absent(err error) bool {
	return errors.Is(err, keys.ErrTokenAbsent) || errors.Is(err, keys.ErrDriver) || errors.Is(err, keys.ErrNoSupport)
}

// errNoToken says that there is no token, and that none is configured.
var errNoToken = errors.New("no token is configured, and no YubiKey is there")

// oneToken returns the token that is meant by --token, or the only one.
func (d *desk) oneToken(ctx context.Context) (device, error) {
	there, errs := d.present(ctx)
	switch {
	case len(there) == 0 && len(errs) == 0 && len(d.config.tokens) == 0:
		return device{}, errNoToken
	case len(there) == 1:
		return there[0], nil
	case len(there) == 0 && len(errs) > 0:
		return device{}, errs[0]
	case len(there) == 0:
		return device{}, fmt.Errorf("%w: no token is called %s", keys.ErrTokenAbsent, d.token)
	}
	var infos []keys.TokenInfo
	for _, t := range there {
		i, err := t.Look(ctx)
		if err != nil {
			return device{}, err
		}
		infos = append(infos, i)
	}
	if !d.terminal.Interactive() {
		return device{}, &pkcs11.SeveralError{Tokens: infos}
	}
	chosen, err := d.pickToken(ctx, "There are several tokens. Which one is meant?", infos)
	if err != nil {
		return device{}, err
	}
	return there[slices.Index(infos, chosen)], nil
}

// backupDir is where copies of the keys are that were made for tokens.
func (d *desk) backupDir() (*keys.Dir, error) {
	path := d.config.backups
	switch {
	case path == "":
		path = filepath.Join(d.dir, "trust", "backup")
	case !filepath.IsAbs(path):
		path = filepath.Join(d.dir, path)
	}
	return keys.OpenDir(keys.Config{Path: path, Passphrases: d.passphrases, Iterations: d.testOnlyIterations, LookOnly: d.lookOnly})
}

// away says which tokens were not there when a key was looked for.
func (d *desk) away() []error {
	var out []error
	for _, t := range d.tokens {
		if err := t.Away(); err != nil && !t.auto {
			out = append(out, err)
		}
	}
	return out
}

// missing adds to an error about a key that is nowhere which tokens might have
// had it.
func (d *desk) missing(err error) error {
	if !errors.Is(err, tuf.ErrNoKey) && !errors.As(err, new(*tuf.MissingKeys)) {
		return err
	}
	if away := d.away(); len(away) > 0 {
		return &awayError{err, away}
	}
	return err
}

// An awayError is err, and says which tokens were not there.
type awayError struct {
	err  error
	away []error
}

func (e *awayError) Error() string { return e.err.Error() }
func (e *awayError) Unwrap() error { return e.err }
