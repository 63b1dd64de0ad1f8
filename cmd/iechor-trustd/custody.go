package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/pkcs11"
	"github.com/iechor/trust/signer"
)

// kekKinds says how a key-encryption key is named.
const kekKinds = `a key-encryption key is named by "file:PATH" or "env:NAME" ("openssl rand -hex 32" makes one), "vault:MOUNT/KEY" or a "pkcs11:" URI`

// A custodian opens key-encryption keys.
type custodian struct {
	c         *signerConfig
	env       func(string) string
	libraries map[string]*pkcs11.Library // by path
	tokens    map[string]*pkcs11.Token   // by library and choice
}

// keyEncryptionKeys opens the keys that the configuration names. The caller
// closes them when nothing uses them any more.
func keyEncryptionKeys(ctx context.Context, c *signerConfig, env func(string) string) (kek *signer.KEK, closeAll func(), err error) {
	return custody(ctx, c, env, nil)
}

// custody is keyEncryptionKeys for a signer that runs: it also opens the token
// that keys are made on. Where that is away now, log is told.
func custody(ctx context.Context, c *signerConfig, env func(string) string, log *slog.Logger) (kek *signer.KEK, closeAll func(), err error) {
	o := &custodian{c: c, env: env, libraries: map[string]*pkcs11.Library{}, tokens: map[string]*pkcs11.Token{}}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	k := signer.KEKConfig{Life: time.Duration(c.KeyLife)}
	if log != nil {
		if k.Tokens, err = o.keysOnToken(ctx, log); err != nil {
			return nil, nil, fmt.Errorf("keys-on-token: %w", err)
		}
	}
	if k.Current, err = o.open(ctx, c.KeyEncryptionKey); err != nil {
		return nil, nil, fmt.Errorf("key-encryption-key: %w", err)
	}
	for _, setting := range c.OldKeyEncryptionKeys {
		other, err := o.open(ctx, setting)
		if err != nil {
			return nil, nil, fmt.Errorf("old-key-encryption-keys: %w", err)
		}
		k.Others = append(k.Others, other)
	}
	kek, err = signer.NewKEK(k)
	return kek, o.close, err
}

// close is for the end of the process: what does not close ends with it.
func (o *custodian) close() {
	for _, t := range o.tokens {
		_ = t.Close()
	}
	for _, l := range o.libraries {
		_ = l.Close()
	}
}

func (o *custodian) open(ctx context.Context, setting string) (signer.KeyEncryption, error) {
	kind, rest, _ := strings.Cut(setting, ":")
	switch kind {
	case "file", "env":
		key, err := secret(setting, o.env)
		if err != nil {
			return nil, err
		}
		defer clear(key) // G5
		return signer.NewLocal(key)
	case "vault":
		return o.vault(rest)
	case "pkcs11":
		return o.token(ctx, setting)
	}
	return nil, errors.New(kekKinds)
}

// secret reads a "file:PATH" or "env:NAME" setting that holds a
// key-encryption key.
func secret(setting string, env func(string) string) ([]byte, error) {
	if path, ok := strings.CutPrefix(setting, "file:"); ok {
		return signer.ReadKEK(path)
	}
	name, ok := strings.CutPrefix(setting, "env:")
	if !ok {
		return nil, errors.New(kekKinds)
	}
	text := env(name)
	if text == "" {
		return nil, fmt.Errorf("variable %s is empty: it should hold the key-encryption key", name)
	}
	key, err := signer.ParseKEK(text)
	if err != nil {
		return nil, fmt.Errorf("variable %s: %w", name, err)
	}
	return key, nil
}

// vault opens MOUNT/KEY.
func (o *custodian) vault(name string) (signer.KeyEncryption, error) {
	v := o.c.Vault
	at := strings.LastIndexByte(name, '/')
	if at < 0 {
		return nil, fmt.Errorf(`%q is not a transit key: "vault:transit/iechor" is the key iechor of the engine at transit`, "vault:"+name)
	}
	if v.Address == "" || v.Token == "" {
		return nil, errors.New("vault.address and vault.token must both be set")
	}
	read, err := o.vaultToken(v.Token)
	if err != nil {
		return nil, err
	}
	if _, err := read(); err != nil { // now rather than with the first signature
		return nil, err
	}
	c := signer.VaultConfig{
		Address: v.Address, Mount: name[:at], Key: name[at+1:], Namespace: v.Namespace, Token: read, Timeout: time.Duration(v.Timeout),
	}
	if v.CA != "" {
		if c.Roots, err = certPool(v.CA); err != nil {
			return nil, err
		}
	}
	return signer.NewVault(c)
}

// vaultToken returns what reads the token, which an agent may renew.
func (o *custodian) vaultToken(setting string) (func() (string, error), error) {
	read, err := reference("vault.token", setting, o.env)
	if err != nil {
		return nil, err
	}
	return func() (string, error) {
		token, err := read()
		if err == nil && strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			err = errors.New("the token of Vault has characters that no token has")
		}
		return token, err
	}, nil
}

// reference returns what reads the secret that a setting names, each time anew,
// because others may write a new one into the file.
func reference(name, setting string, env func(string) string) (func() (string, error), error) {
	kind, rest, _ := strings.Cut(setting, ":")
	switch {
	case kind == "file" && rest != "":
		return func() (string, error) {
			raw, err := keys.ReadSecret(rest)
			if err != nil {
				return "", fmt.Errorf("%s: file %s: %w", name, rest, err)
			}
			defer clear(raw) // G5
			return string(raw), nil
		}, nil
	case kind == "env" && rest != "":
		return func() (string, error) {
			text := env(rest)
			if text == "" {
				return "", fmt.Errorf("%s: variable %s is empty", name, rest)
			}
			return text, nil
		}, nil
	}
	return nil, fmt.Errorf(`%s is named by "file:PATH" or "env:NAME"`, name)
}

// tokenLimit bounds the first look at a token.
const tokenLimit = 30 * time.Second

func (o *custodian) token(ctx context.Context, setting string) (signer.KeyEncryption, error) {
	uri, err := pkcs11.ParseURI(setting)
	if err != nil {
		return nil, err
	}
	if uri.Object == "" {
		return nil, errors.New("the PKCS#11 URI lacks object, the label of the key")
	}
	t, err := o.tokenOf(uri)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	return t.KEK(ctx, uri.Object)
}

// tokenOf opens a token, once however many keys are on it.
func (o *custodian) tokenOf(uri pkcs11.URI) (*pkcs11.Token, error) {
	if uri.PINFile == "" {
		return nil, errors.New("the PKCS#11 URI lacks pin-source: nobody can be asked for the PIN of a signer")
	}
	c := uri.Config()
	if l := o.libraries[uri.Library]; l != nil {
		c.Library = l // a process needs one for each file
	}
	o.libraries[uri.Library] = c.Library
	name := uri.Library + "\n" + uri.Token.String() + "\n" + uri.PINFile
	t := o.tokens[name]
	if t == nil {
		t = pkcs11.Open(c)
		o.tokens[name] = t
	}
	return t, nil
}
