// Package keys holds the private keys that publishers sign with.
//
// A [Store] is a place where keys live: [Dir], the directory of encrypted
// files that Notary and Docker can read too, [Memory], and [Token], which
// packages below this one implement. A [Ring] searches
// several stores in order and is what signing code takes. [Parse] and [Seal]
// read and write single key files for import and export.
//
// Promised: a private half leaves a store only encrypted; what was unlocked
// stays unlocked for the life of the store (one command) and is wiped by
// Close, as far as Go lets us; a wrong passphrase, a broken file and a missing
// key are three different errors. Refused: files that others can read, files
// whose content is not the key that their name says, and keys too weak to sign
// with (notary-protocol 6.1, attacks.md sections 2, 6 and 9).
//
// Read keys.go, then token.go, dir.go, dirwrite.go, replaceall.go, files.go and migrate.go; pem.go, pkcs8.go and
// legacy.go are the formats.
package keys

import (
	"context"
	"crypto"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/iechor/trust/tuf"
)

// Info describes a key without unlocking it.
type Info struct {
	ID   tuf.CanonicalID
	Type tuf.KeyType // empty: unknown until the key is opened
	Role string      // "root", "targets", "snapshot", or the name of a signer
	GUN  tuf.GUN     // of targets, snapshot and timestamp keys only
}

// String returns the words by which people know the key, such as
// "targets key 57954f0 of registry.example/app".
func (i Info) String() string {
	s := "key " + i.ID.Short()
	if i.Role != "" {
		s = i.Role + " " + s
	}
	if i.GUN != "" {
		s += " of " + string(i.GUN)
	}
	return s
}

// Clean returns i as it may be written: with a role, and with a GUN exactly
// if keys of that role belong to one repository (notary-protocol 6.1, 6.2).
func (i Info) Clean() (Info, error) {
	if i.Role == "" {
		return i, fmt.Errorf("%w: a key needs a role name", tuf.ErrRole)
	}
	if !printable(i.Role) {
		return i, fmt.Errorf("%w: role name %q", tuf.ErrRole, i.Role)
	}
	switch tuf.RoleName(i.Role) {
	case tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp:
		if !i.GUN.Valid() {
			return i, fmt.Errorf("%w: a %s key needs the name of its repository", tuf.ErrRole, i.Role)
		}
	default:
		i.GUN = ""
	}
	return i, nil
}

// printable reports whether s can stand in a PEM header and on a terminal.
func printable(s string) bool {
	if len(s) > 255 || !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Sort puts root keys first, then orders by repository, role and id.
func Sort(infos []Info) {
	slices.SortFunc(infos, compareInfos)
}

func compareInfos(a, b Info) int {
	root := string(tuf.RoleRoot)
	if (a.Role == root) != (b.Role == root) {
		if a.Role == root {
			return -1
		}
		return 1
	}
	if c := strings.Compare(string(a.GUN), string(b.GUN)); c != 0 {
		return c
	}
	if c := strings.Compare(a.Role, b.Role); c != 0 {
		return c
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// A Store is a place where private keys live. All methods are safe for
// concurrent use, and return the context's error once it is done. What every
// store must do is checked by keystest.Run.
type Store interface {
	// Name is how people know the store: "~/.iechor/trust/private".
	Name() string

	// List describes all keys, root keys first, without unlocking any.
	List(ctx context.Context) ([]Info, error)

	// Open returns a signer for the bare key id. It may ask for a passphrase,
	// and asks once for each key in the store's life. The error matches
	// tuf.ErrNoKey only if the store works and does not hold the key; all
	// others are a [StoreError].
	Open(ctx context.Context, id tuf.CanonicalID) (tuf.Signer, error)

	// Close wipes what was unlocked. Afterwards the store and all signers that
	// came from it return [ErrClosed]. Closing again does nothing.
	Close() error
}

// What some stores can do and others cannot.
type (
	// A Generator makes keys.
	Generator interface {
		// New makes a key that is not in the store yet: the caller can sign
		// with it at once, and nothing is written before [Pending.Save]. All
		// questions are asked here, so that a cancelled prompt leaves nothing
		// behind. info needs Role and, for the roles that have one, GUN; its
		// other fields are filled in.
		New(ctx context.Context, a Algorithm, info Info) (*Pending, error)
	}

	// An Importer takes over a key that was made elsewhere.
	Importer interface {
		// Import stores key, which from then on belongs to the store and is
		// wiped with it. A key that the store has for the same role is left
		// as it is, without a question; for another role the error is an
		// [*ExistsError]. A weak key is refused with tuf.ErrKey.
		Import(ctx context.Context, info Info, key crypto.Signer) (Info, error)
	}

	// An EncryptedImporter takes over a key without unlocking it.
	EncryptedImporter interface {
		// ImportEncrypted stores b as it is encrypted, without asking. An
		// empty field of info is taken from b. One of them must name the id.
		// Existing keys are treated as in Importer. That b holds the key
		// with that id is found out when it is opened.
		ImportEncrypted(ctx context.Context, info Info, b *Block) (Info, error)
	}

	// An Exporter writes keys for safekeeping.
	Exporter interface {
		// Export returns the PEM block of a key, encrypted as it is in the
		// store, with the header "path" that names its id (notary-protocol
		// 6.2).
		Export(ctx context.Context, id tuf.CanonicalID) ([]byte, error)
	}

	// A Remover can forget a key. Tokens often cannot.
	Remover interface {
		// Remove destroys the key for good. Signers that were opened before
		// stop working. The error matches tuf.ErrNoKey if it was not there.
		Remove(ctx context.Context, id tuf.CanonicalID) error
	}

	// A Finder looks one key up without listing all.
	Finder interface {
		// Find describes the key, without unlocking it. The error matches
		// tuf.ErrNoKey as that of [Store.Open] does.
		Find(ctx context.Context, id tuf.CanonicalID) (Info, error)
	}

	// A Rewrapper can change what protects a key.
	Rewrapper interface {
		// ChangePassphrase unlocks the key with its old passphrase and
		// protects it with a new one, both asked for. On error the old one
		// still holds.
		ChangePassphrase(ctx context.Context, id tuf.CanonicalID) error
	}
)

// Passphrases asks for the passphrases that protect keys. The bytes it
// returns are wiped after use: each call must return its own copy. Stores ask
// one question at a time.
//
// The error matches [ErrCancelled] if the user broke off, [ErrNoPassphrase]
// if there is nobody to ask, and [ErrPassphrase] if asking again cannot help
// because the only answer was wrong; each ends the attempt and reaches the
// caller.
type Passphrases interface {
	// Passphrase asks for an existing passphrase. attempt counts from 1.
	Passphrase(ctx context.Context, key Info, attempt int) ([]byte, error)
	// NewPassphrase asks for one to set, with confirmation. An empty answer
	// counts as ErrNoPassphrase.
	NewPassphrase(ctx context.Context, key Info) ([]byte, error)
}

// A Pending key was made by a [Generator] and is not in its store yet. It can
// sign. Its store wipes it when it is closed.
//
// Make all keys of a publish, then save them, then publish. If publishing
// fails then, the keys stay: they are encrypted, speak for nothing, and are
// there for the next try.
type Pending struct {
	info   Info
	signer tuf.Signer
	save   func(context.Context) error

	mu    sync.Mutex
	saved bool
}

// NewPending is for implementations of [Generator]. save stores the key, and
// is called until it has succeeded once.
func NewPending(info Info, signer tuf.Signer, save func(context.Context) error) *Pending {
	return &Pending{info: info, signer: signer, save: save}
}

// Info describes the key, its type and id included.
func (p *Pending) Info() Info { return p.info }

// Signer signs with the key, before and after it is saved.
func (p *Pending) Signer() tuf.Signer { return p.signer }

// Save puts the key into its store, synced to the disk. After an error
// nothing is stored and Save can be called again; after success it does
// nothing.
func (p *Pending) Save(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.saved {
		return nil
	}
	if err := p.save(ctx); err != nil {
		return err
	}
	p.saved = true
	return nil
}

// Generate makes a key and saves it.
func Generate(ctx context.Context, g Generator, a Algorithm, info Info) (tuf.Signer, error) {
	p, err := g.New(ctx, a, info)
	if err != nil {
		return nil, err
	}
	if err := p.Save(ctx); err != nil {
		return nil, err
	}
	return p.Signer(), nil
}
