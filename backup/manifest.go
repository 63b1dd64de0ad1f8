package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

const (
	manifestName = "manifest.json"
	formatName   = "iechor-backup"
	formatNumber = 1
)

// A Manifest says what is in a backup, and what cannot be.
type Manifest struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Created time.Time `json:"created"`

	Keys []Key `json:"keys"`
	// Tokens are keys that do not leave their devices: only that they exist
	// can be noted.
	Tokens []Token `json:"tokens,omitempty"`
	// Repositories are those that the machine knew, with their roots: who
	// restores the keys elsewhere need not believe the first root that a
	// server shows.
	Repositories []Repository `json:"repositories"`
	// Pins is what the machine's configuration said about roots.
	Pins json.RawMessage `json:"pins,omitempty"`
}

// An Entry is a file of the archive. Its name is where it belongs below the
// trust directory.
type Entry struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func entry(name string, raw []byte) Entry {
	sum := sha256.Sum256(raw)
	return Entry{name, int64(len(raw)), hex.EncodeToString(sum[:])}
}

// A Holding describes a private key.
type Holding struct {
	ID         tuf.CanonicalID `json:"id"`
	Role       string          `json:"role"`
	Repository tuf.GUN         `json:"repository,omitempty"`
	// Public is the public half, if it was known: an encrypted key does not
	// show it.
	Public *tuf.PublicKey `json:"public,omitempty"`
}

// Info describes the key as stores do.
func (h Holding) Info() keys.Info {
	info := keys.Info{ID: h.ID, Role: h.Role, GUN: h.Repository}
	if h.Public != nil {
		info.Type = h.Public.Type
	}
	return info
}

// A Key is one that the backup has.
type Key struct {
	Holding
	Entry
}

// A Token is a key that is somewhere else.
type Token struct {
	Holding
	Store string `json:"store"` // the name of the place
}

// A Repository is one that the machine knew.
type Repository struct {
	Name tuf.GUN `json:"name"`
	Root Root    `json:"root"`
}

// A Root is the newest that the machine had verified.
type Root struct {
	Version int64             `json:"version"`
	Keys    []tuf.CanonicalID `json:"keys"`
	Entry
}

// New describes what a backup shall hold. Add to it, and Write it.
func New(created time.Time) *Backup {
	return &Backup{Manifest: Manifest{
		Format: formatName, Version: formatNumber, Created: created.UTC().Truncate(time.Second),
		Keys: []Key{}, Repositories: []Repository{},
	}}
}

// AddKey adds a key. Its block names id, role and repository; public may be
// nil.
func (b *Backup) AddKey(block *keys.Block, public *tuf.PublicKey) {
	h := holding(block.Info, public)
	b.Manifest.Keys = append(b.Manifest.Keys, Key{h, entry(keyFile(h.ID), block.File())})
	b.keys = append(b.keys, block)
}

// AddToken notes a key that stays where it is.
func (b *Backup) AddToken(info keys.Info, store string, public *tuf.PublicKey) {
	b.Manifest.Tokens = append(b.Manifest.Tokens, Token{holding(info, public), store})
}

// AddRepository adds what is known of a repository.
func (b *Backup) AddRepository(past *tuf.Past) {
	raw := past.Root().Raw
	r := Repository{Name: past.GUN(), Root: Root{Entry: entry(rootFile(past.GUN()), raw)}}
	r.Root.Version, r.Root.Keys = describeRoot(past)
	b.Manifest.Repositories = append(b.Manifest.Repositories, r)
	b.roots = append(b.roots, raw)
}

func describeRoot(past *tuf.Past) (version int64, ids []tuf.CanonicalID) {
	role, _ := past.Role(tuf.RoleRoot) // every Past has one
	for _, k := range role.Keys {
		ids = append(ids, k.CanonicalID())
	}
	slices.Sort(ids)
	return past.Floor(tuf.RoleRoot), slices.Compact(ids)
}

func holding(info keys.Info, public *tuf.PublicKey) Holding {
	return Holding{info.ID, info.Role, info.GUN, public}
}

// The names in the archive are those of the stock programs on Linux.
func keyFile(id tuf.CanonicalID) string { return "private/" + string(id) + ".key" }
func rootFile(gun tuf.GUN) string       { return "tuf/" + string(gun) + "/metadata/root.json" }

func (m Manifest) encode() ([]byte, error) {
	raw, err := json.MarshalIndent(m, "", "  ")
	return append(raw, '\n'), err
}

// decodeManifest reads a manifest, and believes nothing of it that can be
// checked here.
func decodeManifest(raw []byte) (Manifest, error) {
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || head.Format != formatName {
		return Manifest{}, fmt.Errorf("%w: its manifest is of something else", ErrForeign)
	}
	if head.Version > formatNumber {
		return Manifest{}, fmt.Errorf("%w: its format is number %d", ErrLater, head.Version)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, damaged("its manifest cannot be read: %s", said(err))
	}
	if _, err := d.Token(); err != io.EOF {
		return Manifest{}, damaged("its manifest goes on after its end")
	}
	var pins bytes.Buffer
	if len(m.Pins) > 0 {
		if err := json.Compact(&pins, m.Pins); err != nil {
			return Manifest{}, damaged("its pins cannot be read")
		}
		m.Pins = pins.Bytes()
	}
	return m, m.check()
}

func (m Manifest) check() error {
	switch {
	case m.Version != formatNumber:
		return damaged("there is no format number %d", m.Version)
	case m.Created.IsZero():
		return damaged("it does not say when it was made")
	case len(m.Keys)+len(m.Tokens)+len(m.Repositories) > maxEntries:
		return damaged("it lists more than %d things", maxEntries)
	case len(m.Pins) > 0 && m.Pins[0] != '{':
		return damaged("its pins are no object")
	}
	files := map[string]bool{}
	for _, k := range m.Keys {
		// The name is made from the id, and so leads nowhere else
		// (attacks.md N1).
		if err := k.check(); err != nil || k.File != keyFile(k.ID) || files[k.File] {
			return damaged("its manifest lists a key that cannot be, or one twice: %.70q", k.ID)
		}
		files[k.File] = true
	}
	for _, t := range m.Tokens {
		if err := t.check(); err != nil || !printable(t.Store) {
			return damaged("its manifest lists a key on a device that cannot be: %.70q", t.ID)
		}
	}
	for _, r := range m.Repositories {
		if !r.Name.Valid() || r.Root.File != rootFile(r.Name) || files[r.Root.File] {
			return damaged("its manifest lists a repository that cannot be, or one twice: %.300q", r.Name)
		}
		files[r.Root.File] = true
	}
	return nil
}

func (h Holding) check() error {
	switch {
	case !h.ID.Valid(), !printable(h.Role), h.Role == "", h.Repository != "" && !h.Repository.Valid():
		return ErrDamaged
	case h.Public != nil && h.Public.CanonicalID() != h.ID:
		return ErrDamaged // the public half of another key
	}
	return nil
}

func printable(s string) bool {
	return len(s) <= 4096 && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// block reads the file of a key: exactly one, encrypted, for the role and
// repository that the manifest names.
func (k Key) block(raw []byte) (*keys.Block, error) {
	blocks, err := keys.Parse(raw)
	if err != nil {
		return nil, damaged("%s: %s", k.File, said(err))
	}
	b := blocks[0]
	switch {
	case len(blocks) > 1:
		return nil, damaged("%s has several keys", k.File)
	case !b.Encrypted():
		return nil, damaged("%s is not encrypted", k.File)
	case b.Info.ID != "" && b.Info.ID != k.ID, b.Info.Role != k.Role, b.Info.GUN != k.Repository:
		return nil, damaged("%s is not the key that its manifest says", k.File)
	}
	b.Info = k.Info()
	return b, nil
}

// check makes sure that raw is a sound root of the repository, and the one
// that the manifest describes.
func (r Repository) check(raw []byte, now time.Time) error {
	past, err := tuf.Recall(r.Name, []tuf.File{{Role: tuf.RoleRoot, Raw: raw}}, tuf.Options{Now: now})
	if err != nil {
		return damaged("%s: %s", r.Root.File, said(err))
	}
	if version, ids := describeRoot(past); version != r.Root.Version || !slices.Equal(ids, r.Root.Keys) {
		return damaged("%s is not the root that its manifest says", r.Root.File)
	}
	return nil
}
