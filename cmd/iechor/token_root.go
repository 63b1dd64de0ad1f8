package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// A tokenChoice says where the first root key is made.
type tokenChoice struct {
	name   string // label or serial number of a token; empty: the only one
	onOnly bool   // in the token itself, without a copy
}

func addTokenFlags(cmd *cobra.Command, c *tokenChoice) {
	addTokenFlag(cmd, &c.name)
	cmd.Flags().BoolVar(&c.onOnly, "on-token-only", false, "if this makes the root key: make it in the token, so that there is no copy of it")
}

func addTokenFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "token", "", "`label` or serial number of the token that is meant")
}

// initOptions chooses the root key for a new repository; if there is none, it
// is made for the token that is there.
func (s *signing) initOptions(ctx context.Context) (trust.InitOptions, error) {
	var o trust.InitOptions
	var err error
	if o.RootKey, err = s.chooseRoot(ctx); err != nil || o.RootKey != "" {
		return o, err
	}
	t, err := s.oneToken(ctx)
	if errors.Is(err, errNoToken) && !s.onTokenOnly {
		return o, nil
	}
	if err != nil {
		// There is a token, or the configuration wants the root key there: a
		// file would not do.
		return o, &rootTokenError{err}
	}
	o.RootGenerator = s.maker(t)
	return o, nil
}

// A rootTokenError says why the first root key cannot be made for a token.
type rootTokenError struct{ err error }

func (e *rootTokenError) Error() string {
	return "there is no root key yet, and none can be made for the token: " + e.err.Error()
}
func (e *rootTokenError) Unwrap() error { return e.err }

// maker returns what makes keys for a token: with a copy, or in it.
func (d *desk) maker(t device) keys.Generator {
	if d.onTokenOnly {
		return &onTokenMaker{d, t}
	}
	return &tokenMaker{d, t}
}

// makerBeside returns what makes the successor of keys, where the first of them
// lives, and the name of that place.
func (d *desk) makerBeside(ctx context.Context, ids []tuf.CanonicalID) (keys.Generator, string, error) {
	if len(d.tokens) == 0 {
		return d.keys, d.dirKeys.Name(), nil
	}
	for _, id := range ids {
		_, store, err := d.keys.Find(ctx, id)
		if errors.Is(err, tuf.ErrNoKey) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		for _, t := range d.tokens {
			if keys.Store(t.Token) == store {
				return d.maker(t), t.Name(), nil
			}
		}
	}
	return d.keys, d.dirKeys.Name(), nil
}

// A tokenMaker makes keys in software, and puts them on the token and,
// encrypted, into the directory of backups: the loss of the token is not the
// loss of the key.
type tokenMaker struct {
	d *desk
	t device
}

// New implements [keys.Generator].
func (m *tokenMaker) New(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	if _, ok := m.t.Token.(keys.Importer); !ok {
		return nil, cannot("keys cannot be put on "+m.t.Name(), "have it make the key itself, without a copy: --on-token-only")
	}
	// The PIN first: nobody chooses a passphrase for a token that stays shut.
	if u, ok := m.t.Token.(keys.Unlocker); ok {
		if err := u.Unlock(ctx); err != nil {
			return nil, err
		}
	}
	key, err := keys.MakeKey(a)
	if err != nil {
		return nil, err
	}
	signer, err := tuf.NewSigner(key)
	if err != nil {
		return nil, err
	}
	info.ID, info.Type = signer.PublicKey().CanonicalID(), signer.PublicKey().Type
	if info, err = info.Clean(); err != nil {
		return nil, err
	}
	backups, err := m.d.backupDir()
	if err != nil {
		return nil, err
	}
	m.d.passphrases.backup = backups.Name()
	passphrase, err := m.d.passphrases.NewPassphrase(ctx, info)
	m.d.passphrases.backup = ""
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	sealed, err := sealBlock(key, info, passphrase, m.d.testOnlyIterations)
	if err != nil {
		return nil, err
	}
	return keys.NewPending(info, signer, func(ctx context.Context) error {
		return m.d.putOnToken(ctx, m.t, backups, info, key, sealed)
	}), nil
}

// putOnToken stores a key on a token and its encrypted form in the directory of
// backups, and sees that the token signs with it. If it does not, neither is
// left; when that cannot be seen, because the token is gone, the copy stays: the
// key may be on the token.
func (d *desk) putOnToken(ctx context.Context, t device, backups *keys.Dir, info keys.Info, key crypto.Signer, sealed *keys.Block) error {
	_, had := backups.Find(ctx, info.ID)
	if _, err := backups.ImportEncrypted(ctx, info, sealed); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	_, err := t.Token.(keys.Importer).Import(ctx, info, key)
	if err == nil {
		err = signsOn(ctx, t, info.ID)
	}
	file := filepath.Join(backups.Name(), string(info.ID)+".key")
	if err == nil {
		fmt.Fprintf(d.err, "iechor: notice: %s is on %s; its encrypted copy is %s: keep that where the token is not, such as on a USB stick\n",
			printable(info.String()), printable(t.Name()), printable(file))
		return nil
	}
	late := context.WithoutCancel(ctx)
	if r, ok := t.Token.(keys.Remover); ok {
		switch gone := r.Remove(late, info.ID); {
		case gone == nil, errors.Is(gone, tuf.ErrNoKey) && t.Away() == nil:
			if errors.Is(had, tuf.ErrNoKey) {
				err = errors.Join(err, backups.Remove(late, info.ID))
			}
			return err
		}
	}
	d.warn("%s may be on %s; its encrypted copy is %s", printable(info.String()), printable(t.Name()), printable(file))
	return err
}

// signsOn sees that a token signs with a key, which checks the signature.
func signsOn(ctx context.Context, t device, id tuf.CanonicalID) error {
	s, err := t.Open(ctx, id)
	if err != nil {
		return err
	}
	_, err = s.Sign(ctx, []byte("iechor: does the token sign?"))
	return err
}

// An onTokenMaker has the token make keys.
type onTokenMaker struct {
	d *desk
	t device
}

// New implements [keys.Generator].
func (m *onTokenMaker) New(ctx context.Context, a keys.Algorithm, info keys.Info) (*keys.Pending, error) {
	m.d.warn("the %s key is made in %s and cannot be backed up: if the token is lost, so is the key", printable(info.Role), printable(m.t.Name()))
	switch g := m.t.Token.(type) {
	case interface {
		NewOnToken(context.Context, keys.Algorithm, keys.Info) (*keys.Pending, error)
	}:
		return g.NewOnToken(ctx, a, info)
	case interface {
		GenerateOnToken(context.Context, keys.Algorithm, keys.Info) (tuf.Signer, error)
	}:
		s, err := g.GenerateOnToken(ctx, a, info)
		if err != nil {
			return nil, err
		}
		info.ID, info.Type = s.PublicKey().CanonicalID(), s.PublicKey().Type
		return keys.NewPending(info, s, func(context.Context) error { return nil }), nil
	}
	return nil, cannot(m.t.Name()+" makes no keys", "make the key in software, with a copy: leave out --on-token-only")
}

// forgetBackup removes the copy of a key that speaks for nothing.
func (d *desk) forgetBackup(ctx context.Context, id tuf.CanonicalID) error {
	backups, err := d.backupDir()
	if err != nil {
		return err
	}
	if err := backups.Remove(ctx, id); err != nil && !errors.Is(err, tuf.ErrNoKey) {
		return err
	}
	return nil
}

// sealBlock encrypts a key.
func sealBlock(key crypto.Signer, info keys.Info, passphrase []byte, iterations int) (*keys.Block, error) {
	raw, err := keys.Seal(key, info, passphrase, iterations)
	if err != nil {
		return nil, err
	}
	blocks, err := keys.Parse(raw)
	if err != nil {
		return nil, err
	}
	return blocks[0], nil
}
