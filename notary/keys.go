package notary

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/iechor/trust/tuf"
)

var (
	// ErrPassphrase says that a passphrase is not there, or does not open the
	// key.
	ErrPassphrase = errors.New("the passphrase of the key")
	// ErrKey says that a key is not one that the stock signer could have made.
	ErrKey = errors.New("not a key of notary-signer")
)

// A Key is a key of the stock signer. Its private half is opened apart, by
// [Key.Open].
type Key struct {
	ID      tuf.CanonicalID
	GUN     tuf.GUN      // empty for keys older than the column
	Role    tuf.RoleName // the same
	Public  tuf.PublicKey
	Alias   string // names the passphrase
	Used    bool   // it has signed
	Created time.Time

	wrapped string // a compact JWE (notary-protocol 5.3)
}

// Keys returns all keys that were not deleted, oldest first. [ErrTable]: this
// is not a signer's database.
func (d *Database) Keys(ctx context.Context) ([]Key, error) {
	var all []Key
	const query = `SELECT key_id, gun, role, algorithm, public, private, passphrase_alias, last_used, created_at
		FROM private_keys WHERE deleted_at IS NULL ORDER BY id`
	err := d.each(ctx, "private_keys", query, nil, func(scan func(...any) error) error {
		var k Key
		var gun, role, id, kind string
		var used, created any
		var wrapped []byte
		if err := scan(&id, &gun, &role, &kind, &k.Public.Bytes, &wrapped, &k.Alias, &used, &created); err != nil {
			return err
		}
		k.ID, k.GUN, k.Role, k.Public.Type = tuf.CanonicalID(id), tuf.GUN(gun), tuf.RoleName(role), tuf.KeyType(kind)
		k.wrapped, k.Used = string(wrapped), used != nil
		var err error
		if k.Created, err = moment(created); err != nil {
			return fmt.Errorf("key %q: %w", id, err)
		}
		all = append(all, k)
		return nil
	}, func() { all = nil })
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	return all, nil
}

// PassphraseVariable is the environment variable in which the stock signer
// finds the passphrase of an alias.
func PassphraseVariable(alias string) string {
	return "NOTARY_SIGNER_" + strings.ToUpper(strings.ReplaceAll(alias, ".", "_"))
}

// Open decrypts the private half and makes sure that it belongs to the public
// one and to the id. Errors match [ErrPassphrase] or [ErrKey].
func (k Key) Open(passphrase []byte) (crypto.Signer, error) {
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("key %s: %w with the alias %q is empty", k.ID.Short(), ErrPassphrase, k.Alias)
	}
	box, err := jose.ParseEncryptedCompact(k.wrapped, []jose.KeyAlgorithm{jose.PBES2_HS256_A128KW}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, fmt.Errorf("key %s: %w: its private half is not wrapped as notary-signer does it", k.ID.Short(), ErrKey)
	}
	der, err := box.Decrypt(passphrase)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w with the alias %q does not open it", k.ID.Short(), ErrPassphrase, k.Alias)
	}
	defer clear(der)
	private, err := parse(k.Public.Type, der)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w: %v", k.ID.Short(), ErrKey, err)
	}
	s, err := tuf.NewSigner(private)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w: %v", k.ID.Short(), ErrKey, err)
	}
	if !s.PublicKey().Equal(k.Public) || s.PublicKey().CanonicalID() != k.ID {
		return nil, fmt.Errorf("key %s: %w: its two halves, or its id, do not belong together", k.ID.Short(), ErrKey)
	}
	return private, nil
}

// parse reads a private half in the form of notary-protocol 1.4.
func parse(t tuf.KeyType, der []byte) (crypto.Signer, error) {
	switch t {
	case tuf.ECDSA:
		return x509.ParseECPrivateKey(der)
	case tuf.Ed25519:
		// The public key, then Go's form of the private one.
		if len(der) != ed25519.PublicKeySize+ed25519.PrivateKeySize {
			return nil, fmt.Errorf("an ed25519 key of %d bytes", len(der))
		}
		return ed25519.NewKeyFromSeed(der[ed25519.PublicKeySize:][:ed25519.SeedSize]), nil
	case tuf.RSA:
		return x509.ParsePKCS1PrivateKey(der)
	}
	return nil, fmt.Errorf("keys of type %q are not made by it", t)
}

func sortedUnique[T ~string](all []T) []T {
	slices.Sort(all)
	return slices.Compact(all)
}
