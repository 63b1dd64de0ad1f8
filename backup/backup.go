// Package backup is what a publisher keeps in a safe: all private keys of a
// machine in one file, and a single key in shares.
//
// [Write] makes a backup and [File.Unlock] reads one; [Split] makes shares and
// [Combine] puts the key together again. doc/format.md says how both are read
// without this program.
//
// Promised: a backup is read as a whole or refused as a whole, and what has been
// read is what its manifest says, key by key; whoever lacks a share of the
// threshold learns nothing; a backup or share that was ever written can be read
// for ever. Refused: keys that are not encrypted by a passphrase of their own,
// and files that are larger than any honest one.
//
// Read backup.go and manifest.go, then share.go and sharetext.go.
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// What a caller can decide on.
var (
	ErrForeign   = errors.New("not a backup of keys")
	ErrDamaged   = errors.New("the backup is damaged")
	ErrLater     = errors.New("the backup was made by a later version of this program")
	ErrLocked    = errors.New("this does not open the backup")
	ErrRecipient = errors.New("not a recipient")
	ErrIdentity  = errors.New("not a file with identities")
)

// Bounds of what is read. A key file of 64 KiB holds the largest key there is.
const (
	maxFile     = 80 << 20
	maxHeader   = 64 << 10
	maxManifest = 8 << 20
	maxContent  = 64 << 20 // keys and roots together
	maxEntries  = 20_000
	maxIdentity = 64 << 10

	// The cost of a passphrase, as a power of two. What is read may cost four
	// times as much as what is written, which is a gigabyte of memory.
	writeCost = 18
	readCost  = 20
)

// A Recipient is somebody for whom a backup is encrypted.
type Recipient = age.Recipient

// An Identity opens what was encrypted for a Recipient.
type Identity = age.Identity

// ParseRecipient reads what "age-keygen" prints: age1…. The error matches
// [ErrRecipient].
func ParseRecipient(text string) (Recipient, error) {
	found, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(found) != 1 {
		return nil, ErrRecipient
	}
	return found[0], nil
}

// ParseIdentities reads a file with identities, as "age-keygen" writes it. The
// error matches [ErrIdentity].
func ParseIdentities(raw []byte) ([]Identity, error) {
	if len(raw) > maxIdentity {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrIdentity, maxIdentity)
	}
	found, err := age.ParseIdentities(bytes.NewReader(raw))
	if err != nil {
		return nil, ErrIdentity // the text of err may have a part of a secret
	}
	return found, nil
}

// ForPassphrase is whoever knows the passphrase. It must be the only recipient
// of a backup. cost is 0; tests alone take less than it stands for.
func ForPassphrase(passphrase []byte, cost int) (Recipient, error) {
	r, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	if cost <= 0 {
		cost = writeCost
	}
	r.SetWorkFactor(cost)
	return r, nil
}

// ByPassphrase is somebody who knows a passphrase.
func ByPassphrase(passphrase []byte) (Identity, error) {
	i, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	i.SetMaxWorkFactor(readCost)
	return i, nil
}

// A Backup is the content of one, complete and consistent.
type Backup struct {
	Manifest Manifest
	keys     []*keys.Block // as in the manifest
	roots    [][]byte
}

// Keys are the blocks of all keys, in the order of the manifest. Each knows
// its id.
func (b *Backup) Keys() []*keys.Block { return b.keys }

// Root is the root file of the n-th repository of the manifest.
func (b *Backup) Root(n int) tuf.File { return tuf.File{Role: tuf.RoleRoot, Raw: b.roots[n]} }

// Write encrypts b for all recipients. What is written has been checked as
// strictly as what is read.
func Write(w io.Writer, b *Backup, to ...Recipient) error {
	raw, err := b.pack()
	if err != nil {
		return err
	}
	if _, err := unpack(bytes.NewReader(raw)); err != nil {
		return fmt.Errorf("check the new backup: %w", err)
	}
	out, err := age.Encrypt(w, to...)
	if err != nil {
		return err
	}
	if _, err := out.Write(raw); err != nil {
		return err
	}
	return out.Close()
}

// pack writes the archive.
func (b *Backup) pack() ([]byte, error) {
	manifest, err := b.Manifest.encode()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, raw []byte) error {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(raw)), ModTime: b.Manifest.Created}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(raw)
		return err
	}
	err = add(manifestName, manifest)
	for i, k := range b.Manifest.Keys {
		err = errors.Join(err, add(k.File, b.keys[i].File()))
	}
	for i, r := range b.Manifest.Repositories {
		err = errors.Join(err, add(r.Root.File, b.roots[i]))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// A File is a backup that has not been opened.
type File struct {
	// Passphrase says that a passphrase opens it, and not the identity of a
	// recipient.
	Passphrase bool
	raw        []byte
}

// ReadFile reads the file at path. The error matches [ErrForeign] if it is
// something else, [ErrDamaged] if it is cut off, or is that of the file system.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is not a regular file", ErrForeign)
	}
	return Read(f)
}

// Read is ReadFile for what is open already.
func Read(r io.Reader) (*File, error) {
	in := bufio.NewReader(io.LimitReader(r, maxFile+1))
	var from io.Reader = in
	if head, _ := in.Peek(len(armor.Header)); string(head) == armor.Header {
		from = armor.NewReader(in)
	}
	raw, err := io.ReadAll(from)
	switch {
	case errors.As(err, new(*armor.Error)):
		return nil, damaged("%s", said(err))
	case err != nil:
		return nil, err
	case len(raw) > maxFile:
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrForeign, maxFile)
	}
	const intro = "age-encryption.org/v1\n"
	head := raw[:min(len(raw), maxHeader)]
	if !bytes.HasPrefix(head, []byte(intro)) {
		if len(raw) > 0 && strings.HasPrefix(intro, string(raw)) {
			return nil, fmt.Errorf("%w: it is cut off", ErrDamaged)
		}
		return nil, ErrForeign
	}
	// A header without end would have every identity tried on each of its
	// lines (attacks.md L8).
	if !bytes.Contains(head, []byte("\n---")) {
		return nil, fmt.Errorf("%w: its header does not end", ErrDamaged)
	}
	return &File{Passphrase: bytes.HasPrefix(head[len(intro):], []byte("-> scrypt ")), raw: raw}, nil
}

// Unlock opens the backup and reads all of it. The error matches [ErrLocked] if
// none of the identities opens it; [ErrForeign] if it opens and is something
// else; [ErrLater]; or else [ErrDamaged].
func (f *File) Unlock(by ...Identity) (*Backup, error) {
	content, err := age.Decrypt(bytes.NewReader(f.raw), by...)
	if errors.As(err, new(*age.NoIdentityMatchError)) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, damaged("%s", said(err))
	}
	return unpack(content)
}

// said is what another package says, in one line of bounded length: without the
// notes of age about other versions of itself, and for any bytes that it names.
func said(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	line = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, line)
	if len(line) > 300 {
		line = strings.ToValidUTF8(line[:300], "") + "…"
	}
	return line
}

// unpack reads the archive. Nothing of it is used before its last byte has been
// read: only then it is known to be whole (attacks.md M4).
func unpack(r io.Reader) (*Backup, error) {
	in := &readErrors{from: r}
	b, err := readArchive(in)
	if in.err != nil { // encryption knows better what is wrong
		return nil, fmt.Errorf("%w: it is cut off or was altered", ErrDamaged)
	}
	return b, err
}

// readErrors remembers why reading ended.
type readErrors struct {
	from io.Reader
	err  error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func readArchive(in io.Reader) (*Backup, error) {
	a := tar.NewReader(in)
	h, err := a.Next()
	if err != nil || h.Name != manifestName || h.Typeflag != tar.TypeReg || h.Size > maxManifest {
		return nil, fmt.Errorf("%w: it does not begin with a manifest", ErrForeign)
	}
	raw, err := io.ReadAll(a)
	if err != nil {
		return nil, damaged("its manifest is cut off")
	}
	b := &Backup{}
	if b.Manifest, err = decodeManifest(raw); err != nil {
		return nil, err
	}
	left := int64(maxContent)
	next := func(f Entry) ([]byte, error) {
		h, err := a.Next()
		if err != nil || h.Name != f.File || h.Typeflag != tar.TypeReg || h.Size != f.Size {
			return nil, damaged("it has something else where its manifest has %s", f.File)
		}
		if left -= h.Size; left < 0 {
			return nil, damaged("it is larger than %d bytes", maxContent)
		}
		raw, err := io.ReadAll(a)
		if err != nil {
			return nil, damaged("%s is cut off", f.File)
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != f.SHA256 {
			return nil, damaged("%s is not what its manifest says", f.File)
		}
		return raw, nil
	}
	for _, k := range b.Manifest.Keys {
		raw, err := next(k.Entry)
		if err != nil {
			return nil, err
		}
		block, err := k.block(raw)
		if err != nil {
			return nil, err
		}
		b.keys = append(b.keys, block)
	}
	for _, r := range b.Manifest.Repositories {
		raw, err := next(r.Root.Entry)
		if err != nil {
			return nil, err
		}
		if err := r.check(raw, b.Manifest.Created); err != nil {
			return nil, err
		}
		b.roots = append(b.roots, raw)
	}
	if _, err := a.Next(); err != io.EOF {
		return nil, damaged("it has more than its manifest says")
	}
	rest, err := io.ReadAll(in)
	if err != nil || len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, damaged("it has more than its manifest says")
	}
	return b, nil
}

// damaged makes an error that matches ErrDamaged and says why.
func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, a...))
}
