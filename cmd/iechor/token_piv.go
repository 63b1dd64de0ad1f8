package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/piv"
	"github.com/iechor/trust/terminal"
)

// pivModule stands in the configuration in the place of a library: a YubiKey,
// or another PIV card, is talked to without one.
const pivModule = "piv"

// openPIV makes the store of a YubiKey. Nothing is done before it is used.
func (d *desk) openPIV(entry int, c tokenConfig) device {
	p := piv.Config{
		Serial: c.choice.Serial, Reader: c.reader, AllowFactory: c.allowFactory,
		Place: &d.place, Shared: d.yubiKeysOpen, Now: d.now,
	}
	if !d.lookOnly {
		p.PINs = &pins{d: d, source: c.pin}
		p.ManagementKey = func(ctx context.Context, t keys.TokenInfo) ([]byte, error) {
			return d.managementKey(ctx, c.managementKey, "Enter the management key of the "+printable(t.String())+", in hex digits: ")
		}
		p.Choose = func(ctx context.Context, among []keys.TokenInfo) (keys.TokenInfo, error) {
			return d.chooseToken(ctx, entry, among)
		}
		p.Waiting = d.waiting
	}
	return device{Token: piv.Open(p), entry: entry, auto: c.auto}
}

// managementKey reads a management key from a file, or asks for it.
func (d *desk) managementKey(ctx context.Context, source, prompt string) ([]byte, error) {
	var text []byte
	var err error
	switch kind, name, _ := strings.Cut(source, ":"); kind {
	case "file":
		if text, err = keys.ReadSecret(name); err != nil {
			return nil, &pinSourceError{name, err}
		}
	case "env":
		text = []byte(d.getenv(name))
	default:
		if text, err = d.secret(ctx, prompt, piv.ErrManagementKey); err != nil {
			return nil, err
		}
	}
	defer clear(text)
	key := make([]byte, hex.DecodedLen(len(text)))
	if n, err := hex.Decode(key, text); err != nil || n == 0 {
		clear(key)
		return nil, fmt.Errorf("%w: what was given is not one, which has 48 hex digits", piv.ErrManagementKey)
	}
	return key, nil
}

// secret asks for something that is not shown. Without a terminal, or without
// an answer, the error is none.
func (d *desk) secret(ctx context.Context, prompt string, none error) ([]byte, error) {
	answer, err := d.terminal.Secret(ctx, prompt)
	switch {
	case errors.Is(err, terminal.ErrInterrupted):
		return nil, fmt.Errorf("%w: %w", keys.ErrCancelled, err)
	case errors.Is(err, terminal.ErrNoTerminal), err == nil && len(answer) == 0:
		return nil, none
	}
	return answer, err
}

// newSecret asks for a new PIN or PUK until it is one.
func (d *desk) newSecret(ctx context.Context, what string) (string, error) {
	for {
		pin, err := d.newPIN(ctx, what)
		if err != nil {
			return "", err
		}
		text := string(pin)
		clear(pin)
		err = piv.CheckNew("the "+what, text)
		if err == nil {
			return text, nil
		}
		if err := d.terminal.Notice(upper(err.Error()) + ". Please retry."); err != nil {
			return "", err
		}
	}
}

// setupPIV takes a YubiKey out of its factory state, or gives one new secrets.
// What the factory has set is tried only on a token that looks like new, which
// has all its tries: no try is spent on a guess.
func (d *desk) setupPIV(ctx context.Context, s *piv.Store, managementKey string) error {
	st, err := s.Inspect(ctx)
	if err != nil {
		return err
	}
	n := piv.Secrets{OldPIN: piv.FactoryPIN, OldPUK: piv.FactoryPUK}
	fresh := st.FactoryManagementKey && st.Token.Tries == 3
	if err := d.terminal.Notice(setupNotice(st, fresh)); err != nil {
		return err
	}
	if !fresh {
		if err := d.oldSecrets(ctx, &n, st); err != nil {
			return err
		}
	}
	if n.PIN, err = d.newSecret(ctx, "PIN"); err != nil {
		return err
	}
	if n.PUK, err = d.newSecret(ctx, "PUK"); err != nil {
		return err
	}
	if managementKey == "ask" {
		if n.ManagementKey, err = d.managementKey(ctx, "", "Enter a new management key of 48 hex digits: "); err != nil {
			return err
		}
		defer clear(n.ManagementKey)
	}
	for err = s.Setup(ctx, n); fresh && err != nil; err = s.Setup(ctx, n) {
		// Somebody has changed one of them before.
		puk := (*piv.PUKError)(nil)
		switch {
		case errors.Is(err, keys.ErrPIN):
			fresh = n.OldPIN == piv.FactoryPIN
			err = d.oldSecret(ctx, &n.OldPIN, err, "PIN")
		case errors.As(err, &puk) && puk.Left > 0:
			fresh = n.OldPUK == piv.FactoryPUK
			err = d.oldSecret(ctx, &n.OldPUK, err, "PUK")
		default:
			return err
		}
		if err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "The %s is set up. Keep its PUK where the token is not: it is the only way to set a new PIN.\n", printable(st.Token.String()))
	return nil
}

func setupNotice(st piv.State, fresh bool) string {
	text := "The " + printable(st.Token.String()) + " gets a PIN, which it asks for when it signs, a PUK, which\nsets a new PIN when that is forgotten or blocked, and a management key, without\nwhich nobody can put keys on it."
	if n := len(st.Keys); n > 0 {
		text += fmt.Sprintf(" Its %d keys stay as they are.", n)
	}
	if !fresh {
		text += " It is not as it\ncame from the factory: what it has now is asked for first. " + "Of its PIN " + st.Token.Tries.String() + "."
	}
	return text
}

// oldSecrets asks for what protects a token that is not new.
func (d *desk) oldSecrets(ctx context.Context, n *piv.Secrets, st piv.State) error {
	for _, q := range []struct {
		to   *string
		what string
	}{{&n.OldPIN, "PIN"}, {&n.OldPUK, "PUK"}} {
		answer, err := d.secret(ctx, "Enter the "+q.what+" that it has now: ", keys.ErrNoPIN)
		if err != nil {
			return err
		}
		*q.to = string(answer)
		clear(answer)
	}
	if st.FactoryManagementKey {
		return nil
	}
	answer, err := d.secret(ctx, "Enter the management key that it has now; nothing, if it keeps it behind its PIN: ", errNothing)
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return err
	}
	defer clear(answer)
	n.OldManagementKey, err = hex.DecodeString(string(bytes.TrimSpace(answer)))
	if err != nil {
		return fmt.Errorf("%w: what was given is not one, which has 48 hex digits", piv.ErrManagementKey)
	}
	return nil
}

// errNothing is an empty answer.
var errNothing = errors.New("nothing was given")

// oldSecret asks again, after the factory's PIN or PUK was wrong.
func (d *desk) oldSecret(ctx context.Context, to *string, wrong error, what string) error {
	if err := d.terminal.Notice("The " + what + " is not the one that the token came with: " + wrong.Error() + "."); err != nil {
		return err
	}
	answer, err := d.secret(ctx, "Enter the "+what+" that it has now: ", keys.ErrNoPIN)
	*to = string(answer)
	clear(answer)
	return err
}

// rememberPIV writes into the configuration that the YubiKey with that serial
// number is meant, where none is named yet.
func (c *config) rememberPIV(serial string) error {
	entry := fmt.Appendf(nil, `"tokens": [{"module": %q, "serial": %q}]`, pivModule, serial)
	raw, err := os.ReadFile(c.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(bytes.TrimSpace(raw)) == 0 {
		if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
			return err
		}
		return writePrivately(c.path, fmt.Appendf(nil, "{\"content-trust\": {%s}}\n", entry))
	}
	if err != nil {
		return err
	}
	at, err := objectAt(raw, 0, "{", "content-trust{")
	if err != nil {
		entry = fmt.Appendf(nil, `"content-trust": {%s}`, entry)
		if at, err = objectAt(raw, 0, "{"); err != nil {
			return err
		}
	}
	if rest := bytes.TrimSpace(raw[at:]); len(rest) > 0 && rest[0] != '}' {
		entry = append(entry, ", "...)
	}
	out := bytes.Join([][]byte{raw[:at], entry, raw[at:]}, nil)
	again := config{path: c.path}
	if err := again.decode(out); err != nil {
		return err
	}
	return writePrivately(c.path, out)
}

// upper begins a sentence.
func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// isPIV reports whether a device is a YubiKey, or another PIV card.
func isPIV(t device) bool {
	_, ok := t.Token.(*piv.Store)
	return ok
}

// yubiKeys lists the YubiKeys that are there, whether they are configured or
// not, set up or not, each once.
func (d *desk) yubiKeys() (found []piv.Found, errs []error) {
	seen := map[string]bool{}
	for _, c := range d.tokenConfigs() {
		if c.module != pivModule {
			continue
		}
		there, err := piv.Present(c.reader)
		if err != nil && !c.auto {
			errs = append(errs, err)
		}
		for _, f := range there {
			if !seen[f.Reader] {
				seen[f.Reader] = true
				found = append(found, f)
			}
		}
	}
	return found, errs
}

// listPIV describes the YubiKeys that are there, for "token list".
func (d *desk) listPIV(ctx context.Context) (all []listedToken, errs []error) {
	found, errs := d.yubiKeys()
	for _, f := range found {
		if f.Err != nil {
			errs = append(errs, fmt.Errorf("%w: %s", f.Err, printable(f.Reader)))
			continue
		}
		s := piv.Open(piv.Config{Serial: f.Token.Serial, Reader: f.Reader})
		st, err := s.Inspect(ctx)
		if err = errors.Join(err, s.Close()); err != nil {
			errs = append(errs, err)
			continue
		}
		t := listedToken{
			Serial: f.Token.Serial, Manufacturer: f.Token.Manufacturer, Model: f.Token.Model,
			Module: pivModule, State: tokenState(st.Token), Keys: []listedTokenKey{},
		}
		if st.FactoryManagementKey {
			t.State = "not set up"
		}
		for _, k := range st.Keys {
			origin := "made elsewhere"
			if k.Generated {
				origin = "made on the token"
			}
			t.Keys = append(t.Keys, listedTokenKey{k.ID, k.Role, k.GUN, k.Slot.String(), string(k.Policy.PIN), string(k.Policy.Touch), origin})
		}
		all = append(all, t)
	}
	return all, errs
}

// setupYubiKey finds the YubiKey that is to be set up.
func (a *app) setupYubiKey(ctx context.Context, o tokenSetupOptions) (err error) {
	d, err := a.desk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	found, errs := d.yubiKeys()
	var fit []keys.TokenInfo
	for _, f := range found {
		switch {
		case f.Err != nil:
			errs = append(errs, fmt.Errorf("%w: %s", f.Err, printable(f.Reader)))
		case o.token == "" || o.token == f.Token.Serial:
			fit = append(fit, f.Token)
		}
	}
	switch {
	case len(fit) == 0 && len(errs) > 0:
		return errs[0]
	case len(fit) == 0:
		if _, err := piv.Present(""); err != nil {
			return err
		}
		return fmt.Errorf("%w: there is no such YubiKey", keys.ErrTokenAbsent)
	case len(fit) > 1 && !d.terminal.Interactive():
		return fmt.Errorf("%w: %d YubiKeys", keys.ErrSeveralTokens, len(fit))
	case len(fit) > 1:
		if fit[0], err = d.pickToken(ctx, "There are several YubiKeys. Which one is to be set up?", fit); err != nil {
			return err
		}
	}
	s := piv.Open(piv.Config{Serial: fit[0].Serial, Now: d.now})
	defer func() { err = errors.Join(err, s.Close()) }()
	return d.setupPIV(ctx, s, o.managementKey)
}

// placeFlags say where a new key goes on a YubiKey, and what it asks for.
type placeFlags struct{ slot, pin, touch string }

func addPlaceFlags(cmd *cobra.Command, f *placeFlags) {
	cmd.Flags().StringVar(&f.slot, "slot", "", "on a YubiKey: `slot` for the key, 9c, 9a, 9d, 9e, or 82 to 95 (default: a free one)")
	cmd.Flags().StringVar(&f.pin, "pin-policy", "", "on a YubiKey: `when` it wants the PIN, once, always or never (default once)")
	cmd.Flags().StringVar(&f.touch, "touch", "", "on a YubiKey: `when` it wants to be touched, always, cached or never (default: always for root keys)")
}

func (f placeFlags) parse() (p piv.Place, err error) {
	if f.slot != "" {
		if p.Slot, err = piv.ParseSlot(f.slot); err != nil {
			return p, &usageError{err.Error(), []string{"leave out --slot, and a free one is taken"}}
		}
	}
	if p.Policy, err = piv.ParsePolicy(f.pin, f.touch); err != nil {
		return p, &usageError{err.Error(), []string{"leave it out, and what is usual is taken"}}
	}
	return p, nil
}
