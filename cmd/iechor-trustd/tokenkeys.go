package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/pkcs11"
	"github.com/iechor/trust/signer"
	"github.com/iechor/trust/tuf"
)

// tokenKeys are the signer's keys on a PKCS#11 token.
type tokenKeys struct {
	token *pkcs11.Token

	mu     sync.Mutex               // guards the fields below
	opened map[openedKey]tuf.Signer // keys that were found
	away   error                    // why the token could not be used, and until when it is not tried again
	until  time.Time
}

var _ signer.TokenKeys = (*tokenKeys)(nil)

// An openedKey is a key that was found to be of this role and repository.
type openedKey struct {
	id   tuf.CanonicalID
	role tuf.RoleName
	gun  tuf.GUN
}

// maxOpened bounds what is remembered of keys: only where they are.
const maxOpened = 10_000

func (k *tokenKeys) Name() string { return k.token.Name() }

// Generate implements [signer.TokenKeys].
func (k *tokenKeys) Generate(ctx context.Context, kind tuf.KeyType, role tuf.RoleName, gun tuf.GUN) (tuf.PublicKey, func(context.Context) error, error) {
	algorithm := keys.P256
	if kind == tuf.Ed25519 {
		algorithm = keys.Ed25519
	}
	var p *keys.Pending
	if err := k.there(ctx, func() (err error) {
		p, err = k.token.New(ctx, algorithm, keys.Info{Role: string(role), GUN: gun})
		return err
	}); err != nil {
		return tuf.PublicKey{}, nil, err
	}
	return p.Signer().PublicKey(), p.Save, nil
}

// Signer implements [signer.TokenKeys].
func (k *tokenKeys) Signer(ctx context.Context, public tuf.PublicKey, role tuf.RoleName, gun tuf.GUN) (tuf.Signer, error) {
	at := openedKey{public.CanonicalID(), role, gun}
	k.mu.Lock()
	s := k.opened[at]
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	// What the token calls the key is what a changed database cannot change.
	if err := k.there(ctx, func() error {
		info, err := k.token.Find(ctx, at.id)
		if err == nil && (info.Role != string(role) || info.GUN != gun) {
			err = fmt.Errorf("%w: it is the %s key of %q there", tuf.ErrKey, info.Role, info.GUN)
		}
		if err == nil {
			s, err = k.token.Open(ctx, at.id)
		}
		return err
	}); err != nil {
		return nil, err
	}
	s = &tokenSigner{s, k}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.opened) >= maxOpened {
		clear(k.opened)
	}
	k.opened[at] = s
	return s, nil
}

// Remove implements [signer.TokenKeys].
func (k *tokenKeys) Remove(ctx context.Context, id tuf.CanonicalID) error {
	return k.there(ctx, func() error { return k.token.Remove(ctx, id) })
}

// A tokenSigner finds its token again when that was away.
type tokenSigner struct {
	tuf.Signer
	k *tokenKeys
}

func (s *tokenSigner) Sign(ctx context.Context, message []byte) (sig tuf.Signature, err error) {
	err = s.k.there(ctx, func() (err error) {
		sig, err = s.Signer.Sign(ctx, message)
		return err
	})
	return sig, err
}

// loginPause is how long a token that is away is left alone.
const loginPause = 2 * time.Second

// there calls f, a second time if the token was away and is there now. It makes
// sure that "no such key" is said of a token that is there: as a store, one that
// is away has no keys.
func (k *tokenKeys) there(ctx context.Context, f func() error) error {
	err := f()
	if !errors.Is(err, tuf.ErrNoKey) && !errors.Is(err, keys.ErrTokenGone) {
		return err
	}
	k.mu.Lock()
	away := k.away
	if time.Now().After(k.until) {
		away = nil
	}
	k.mu.Unlock()
	if away != nil {
		return away
	}
	if away = k.token.Login(ctx); away != nil {
		if ctx.Err() == nil { // who went away says nothing about the token
			k.mu.Lock()
			k.away, k.until = away, time.Now().Add(loginPause)
			k.mu.Unlock()
		}
		return away
	}
	return f()
}

// keysOnToken opens the token that the configuration names; nil if it names
// none. One that is away now may come back: keys that are not on it go on
// meanwhile.
func (o *custodian) keysOnToken(ctx context.Context, log *slog.Logger) (signer.TokenKeys, error) {
	if o.c.KeysOnToken == "" {
		return nil, nil
	}
	uri, err := pkcs11.ParseURI(o.c.KeysOnToken)
	if err == nil && uri.Object != "" {
		err = errors.New("object has no place in this PKCS#11 URI: the signer names the keys that it makes")
	}
	if err == nil && uri.Token == (pkcs11.Choice{}) {
		err = errors.New("the PKCS#11 URI lacks token, the label of the token")
	}
	var t *pkcs11.Token
	if err == nil {
		t, err = o.tokenOf(uri)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	err = t.Login(ctx)
	switch {
	case err == nil:
	case errors.Is(err, keys.ErrTokenAbsent), errors.Is(err, keys.ErrTokenGone), errors.Is(err, keys.ErrTokenBusy), errors.Is(err, context.DeadlineExceeded):
		log.Warn("the token cannot be used; keys on it do not sign, and none are made, until it can", "token", t.Name(), "err", err)
	default:
		return nil, fmt.Errorf("%s: %w", t.Name(), err)
	}
	return &tokenKeys{token: t, opened: map[openedKey]tuf.Signer{}}, nil
}
