package backup

import (
	"archive/tar"
	"bytes"
	"io"
	"math/big"
	"strings"
	"testing"

	"github.com/iechor/trust/keys"
)

// A PackedFile is one of an archive.
type PackedFile struct {
	Header  *tar.Header
	Content []byte
}

// EncodeManifest writes a manifest.
func EncodeManifest(m Manifest) ([]byte, error) { return m.encode() }

// Archive is what is encrypted.
func (b *Backup) Archive(t testing.TB) []PackedFile {
	t.Helper()
	var files []PackedFile
	for r := tar.NewReader(bytes.NewReader(Pack(t, b))); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, PackedFile{h, content})
	}
}

// EntryOf describes a file.
func EntryOf(name string, raw []byte) Entry { return entry(name, raw) }

// Value is the share itself.
func (s *Share) Value() *big.Int { return new(big.Int).SetBytes(s.value[:]) }

// Lines is what people type.
func (s *Share) Lines() string {
	var b strings.Builder
	s.writeLines(&b)
	return b.String()
}

// Forge returns the share with another value, and good checks.
func (s *Share) Forge(info keys.Info, shares int, file string) string {
	f := *s
	f.value[31] ^= 1
	return f.text(info, shares, []byte(file[strings.Index(file, "-----BEGIN"):]))
}

// Pack is what Write encrypts.
func Pack(t testing.TB, b *Backup) []byte {
	t.Helper()
	raw, err := b.pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Unpack reads it.
func Unpack(r io.Reader) (*Backup, error) { return unpack(r) }
