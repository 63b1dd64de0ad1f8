package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zalando/go-keyring"

	"github.com/iechor/trust/tuf"
)

// A secretStore keeps secrets under names, for this user. Get and Delete
// return keyring.ErrNotFound for what is not there; every other error means
// that there is no store, or that it is closed.
type secretStore interface {
	Get(name string) (string, error)
	Set(name, secret string) error
	Delete(name string) error
}

// systemSecrets is the store of the desktop: Keychain, Credential Manager, or
// the Secret Service.
type systemSecrets struct{}

// secretService is what the store's own programs show as the owner.
const secretService = "iechor content trust"

func (systemSecrets) Get(name string) (string, error) { return keyring.Get(secretService, name) }
func (systemSecrets) Set(name, secret string) error   { return keyring.Set(secretService, name, secret) }
func (systemSecrets) Delete(name string) error        { return keyring.Delete(secretService, name) }

// remembered are the passphrases that the user has had put into the store of
// secrets: those, and no others, are looked for there. An empty file in dir,
// named like the key, says so, and so nobody who does not want the store ever
// meets it: on a machine without a desktop, looking alone can start programs.
type remembered struct {
	dir   string
	store secretStore
}

func (r remembered) mark(id tuf.CanonicalID) string { return filepath.Join(r.dir, string(id)) }

// has reports whether a passphrase of the key should be in the store.
func (r remembered) has(id tuf.CanonicalID) bool {
	if r.store == nil || !id.Valid() {
		return false
	}
	st, err := os.Lstat(r.mark(id))
	return err == nil && st.Mode().IsRegular()
}

// get returns the key's passphrase, or keyring.ErrNotFound.
func (r remembered) get(ctx context.Context, id tuf.CanonicalID) (secret string, err error) {
	if !r.has(id) {
		return "", keyring.ErrNotFound
	}
	err = waiting(ctx, func() (err error) { secret, err = r.store.Get(string(id)); return err })
	if err != nil {
		return "", err
	}
	return secret, nil
}

// set puts the key's passphrase into the store. The mark comes first: a mark
// without a secret is harmless, a secret that nobody finds again is not.
func (r remembered) set(ctx context.Context, id tuf.CanonicalID, secret string) error {
	if r.store == nil {
		return keyring.ErrUnsupportedPlatform
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(r.mark(id), nil, 0o600); err != nil {
		return err
	}
	err := waiting(ctx, func() error { return r.store.Set(string(id), secret) })
	if err != nil {
		return errors.Join(err, os.Remove(r.mark(id)))
	}
	return nil
}

// forget removes the key's passphrase from the store, if it is there.
func (r remembered) forget(ctx context.Context, id tuf.CanonicalID) error {
	if !r.has(id) {
		return nil
	}
	err := waiting(ctx, func() error { return r.store.Delete(string(id)) })
	if err != nil && !errors.Is(err, keyring.ErrNotFound) {
		return fmt.Errorf("the passphrase of key %s is still in the system's store of secrets: %w", id.Short(), err)
	}
	if err := os.Remove(r.mark(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// waiting runs f, which may show a window of the desktop and wait for the
// user, and leaves it alone when ctx ends first: the process ends then.
func waiting(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
