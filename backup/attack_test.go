package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode"

	"filippo.io/age"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
)

// refused says whether err is how a bad backup is refused.
func refused(b *backup.Backup, err error) bool {
	return b == nil && (errors.Is(err, backup.ErrDamaged) || errors.Is(err, backup.ErrForeign) || errors.Is(err, backup.ErrLocked))
}

// A backup that is cut off, at whatever byte, is refused as a whole.
func TestAttackBackupTruncated(t *testing.T) {
	t.Parallel()
	id := identity(t)
	raw := write(t, example(t), id.Recipient())
	for n := range raw {
		if n > 400 && n < len(raw)-400 && n%97 != 0 {
			continue // in the middle it is all the same
		}
		if b, err := read(raw[:n], id); !refused(b, err) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(raw), err)
		}
	}
	if b, err := read(letters(t, raw)[:500], id); !refused(b, err) {
		t.Errorf("in letters, and cut off: %v", err)
	}
}

// A backup in which a bit was changed, wherever, is refused as a whole.
func TestAttackBackupAltered(t *testing.T) {
	t.Parallel()
	id := identity(t)
	raw := write(t, example(t), id.Recipient())
	for n := range raw {
		if n > 400 && n < len(raw)-400 && n%97 != 0 {
			continue
		}
		bad := bytes.Clone(raw)
		bad[n] ^= 1
		if b, err := read(bad, id); !refused(b, err) {
			t.Fatalf("byte %d of %d changed: %v", n, len(raw), err)
		}
	}
	if b, err := read(append(bytes.Clone(raw), 0), id); !refused(b, err) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := read(raw, identity(t)); !errors.Is(err, backup.ErrLocked) {
		t.Errorf("another identity: %v, want ErrLocked", err)
	}
	if _, err := read(write(t, example(t), forPassphrase(t, safePass)), byPassphrase(t, otherPass)); !errors.Is(err, backup.ErrLocked) {
		t.Errorf("another passphrase: %v, want ErrLocked", err)
	}
}

// Whoever knows a recipient can encrypt anything for it. What is not exactly a
// backup is refused as a whole.
func TestAttackBackupForeign(t *testing.T) {
	t.Parallel()
	id := identity(t)
	seal := func(content []byte) []byte {
		var out bytes.Buffer
		w, err := age.Encrypt(&out, id.Recipient())
		if err == nil {
			_, err = w.Write(content)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	b := example(t)
	pack := func(edit func(files []backup.PackedFile) []backup.PackedFile) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, f := range edit(b.Archive(t)) {
			if f.Header.Typeflag == tar.TypeReg {
				f.Header.Size = int64(len(f.Content))
			}
			if err := w.WriteHeader(f.Header); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(f.Content); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	// manifest edits the manifest as text, so that it can say anything.
	manifest := func(old, new string) []byte {
		return pack(func(files []backup.PackedFile) []backup.PackedFile {
			if !bytes.Contains(files[0].Content, []byte(old)) {
				t.Fatalf("the manifest has no %q:\n%s", old, files[0].Content)
			}
			files[0].Content = bytes.Replace(files[0].Content, []byte(old), []byte(new), 1)
			return files
		})
	}
	// content replaces a file, and has the manifest say so.
	content := func(n int, raw []byte) []byte {
		return pack(func(files []backup.PackedFile) []backup.PackedFile {
			old, now := backup.EntryOf("", files[n].Content), backup.EntryOf("", raw)
			m := string(files[0].Content)
			m = strings.Replace(m, fmt.Sprintf(`"size": %d,
      "sha256": %q`, old.Size, old.SHA256), fmt.Sprintf(`"size": %d,
      "sha256": %q`, now.Size, now.SHA256), 1)
			m = strings.Replace(m, fmt.Sprintf(`"size": %d,
        "sha256": %q`, old.Size, old.SHA256), fmt.Sprintf(`"size": %d,
        "sha256": %q`, now.Size, now.SHA256), 1)
			if m == string(files[0].Content) {
				t.Fatal("the manifest does not know the file")
			}
			files[0].Content, files[n].Content = []byte(m), raw
			return files
		})
	}
	first, second := b.Manifest.Keys[0], b.Manifest.Keys[1]
	firstRaw, secondRaw := b.Keys()[0].File(), b.Keys()[1].File()
	plain := []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := io.CopyN(z, zeros{}, 1<<20); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	root := b.Root(0).Raw
	reg := func(name string, raw []byte) backup.PackedFile {
		return backup.PackedFile{Header: &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600}, Content: raw}
	}
	huge, err := json.Marshal(strings.Repeat("x", 9<<20))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		content []byte
		want    error
	}{
		"nothing":                {nil, backup.ErrForeign},
		"a text":                 {[]byte("meet me at noon"), backup.ErrForeign},
		"a compressed bomb":      {zipped.Bytes(), backup.ErrForeign},
		"an archive of others":   {pack(func([]backup.PackedFile) []backup.PackedFile { return []backup.PackedFile{reg("README", []byte("x"))} }), backup.ErrForeign},
		"an empty archive":       {make([]byte, 1024), backup.ErrForeign},
		"another format":         {manifest(`"iechor-backup"`, `"other-backup"`), backup.ErrForeign},
		"a later version":        {manifest(`"version": 1`, `"version": 2`), backup.ErrLater},
		"version 0":              {manifest(`"version": 1`, `"version": 0`), backup.ErrDamaged},
		"no time":                {manifest(`"2026-11-28T12:00:00Z"`, `"0001-01-01T00:00:00Z"`), backup.ErrDamaged},
		"a time that draws":      {manifest("2026-11-28T12:00:00Z", "\x7f"), backup.ErrDamaged},
		"an unknown member":      {manifest(`"version": 1`, `"version": 1, "command": "rm -r /"`), backup.ErrDamaged},
		"a wrong type":           {manifest(`"keys": [`, `"keys": 1, "keys2": [`), backup.ErrDamaged},
		"two documents":          {manifest("\n}\n", "\n}\n{}\n"), backup.ErrForeign},
		"a manifest without end": {manifest(`"2026-11-28T12:00:00Z"`, string(huge)), backup.ErrForeign},
		"a path upwards":         {manifest(first.File, "private/../../"+string(first.ID)+".key"), backup.ErrDamaged},
		"an absolute path":       {manifest(first.File, "/etc/passwd"), backup.ErrDamaged},
		"an id with a path":      {manifest(`"id": "`+string(first.ID), `"id": "../`+string(first.ID)), backup.ErrDamaged},
		"a key twice": {manifest(fmt.Sprintf(`"id": %q,
      "role": "targets"`, second.ID), fmt.Sprintf(`"id": %q,
      "role": "targets"`, first.ID)), backup.ErrDamaged},
		"another role":           {manifest(`"role": "root"`, `"role": "alice"`), backup.ErrDamaged},
		"a role that draws":      {manifest(`"role": "root"`, `"role": "ro\u001b[2Jot"`), backup.ErrDamaged},
		"another repository":     {manifest(`"repository": "registry.example:5000/team/app"`, `"repository": "registry.example:5000/team/other"`), backup.ErrDamaged},
		"a repository upwards":   {manifest(`"name": "registry.example:5000/team/app"`, `"name": "../../app"`), backup.ErrDamaged},
		"a device that draws":    {manifest(`"YubiKey 1234"`, `"\u001b[2J"`), backup.ErrDamaged},
		"a public half of other": {manifest(string(first.ID), strings.Repeat("ab", 32)), backup.ErrDamaged},
		"another root version": {manifest(`"version": 1,
        "keys"`, `"version": 7,
        "keys"`), backup.ErrDamaged},
		"pins that are no object": {manifest(`"pins": {`, `"pins": [1], "x": {`), backup.ErrDamaged},
		"another sum":             {manifest(first.SHA256[:10], second.SHA256[:10]), backup.ErrDamaged},
		"other content":           {pack(func(f []backup.PackedFile) []backup.PackedFile { f[1].Content = secondRaw; return f }), backup.ErrDamaged},
		"swapped files":           {pack(func(f []backup.PackedFile) []backup.PackedFile { f[1], f[2] = f[2], f[1]; return f }), backup.ErrDamaged},
		"a file less":             {pack(func(f []backup.PackedFile) []backup.PackedFile { return f[:len(f)-1] }), backup.ErrDamaged},
		"a file more":             {pack(func(f []backup.PackedFile) []backup.PackedFile { return append(f, reg("private/evil.key", firstRaw)) }), backup.ErrDamaged},
		"more after the end":      {append(pack(func(f []backup.PackedFile) []backup.PackedFile { return f }), "more"...), backup.ErrDamaged},
		"a link": {pack(func(f []backup.PackedFile) []backup.PackedFile {
			f[1] = backup.PackedFile{Header: &tar.Header{Name: first.File, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}
			return f
		}), backup.ErrDamaged},
		"a key that is plain":     {content(1, plain), backup.ErrDamaged},
		"a key that is none":      {content(1, []byte("key")), backup.ErrDamaged},
		"two keys in a file":      {content(1, append(bytes.Clone(firstRaw), secondRaw...)), backup.ErrDamaged},
		"another key in the file": {content(2, firstRaw), backup.ErrDamaged},
		"a root that is none":     {content(3, []byte("{}")), backup.ErrDamaged},
		"a root of somebody else": {content(3, bytes.Replace(root, []byte(`"version":1`), []byte(`"version":2`), 1)), backup.ErrDamaged},
		"a backup larger than it may be": {pack(func(f []backup.PackedFile) []backup.PackedFile {
			f[1].Content = make([]byte, 65<<20)
			sum := backup.EntryOf("", f[1].Content)
			f[0].Content = bytes.Replace(f[0].Content, fmt.Appendf(nil, `"size": %d`, first.Size), fmt.Appendf(nil, `"size": %d`, sum.Size), 1)
			return f
		}), backup.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := read(seal(test.content), id)
			if got != nil || !errors.Is(err, test.want) || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("Unlock = %v, %q, want %v in one line", got, err, test.want)
			}
		})
	}
	// the honest one works
	if _, err := read(seal(pack(func(f []backup.PackedFile) []backup.PackedFile { return f })), id); err != nil {
		t.Errorf("an honest backup: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What cannot be read is not written either.
func TestAttackBackupOfPlainKey(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := keys.Parse(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	blocks[0].Info.ID, blocks[0].Info.Role = publicOf(t, key).CanonicalID(), "alice"
	b := example(t)
	b.AddKey(blocks[0], nil)
	var out bytes.Buffer
	if err := backup.Write(&out, b, forPassphrase(t, safePass)); !errors.Is(err, backup.ErrDamaged) || out.Len() > 0 {
		t.Errorf("Write = %v, and %d bytes", err, out.Len())
	}
}

// Files that cost much to open are refused before.
func TestAttackExpensiveBackup(t *testing.T) {
	t.Parallel()
	id := identity(t)
	raw := write(t, example(t), forPassphrase(t, safePass))
	costly := bytes.Replace(raw, []byte(" 2\n"), []byte(" 30\n"), 1)
	if bytes.Equal(costly, raw) {
		t.Fatal("the cost was not found")
	}
	if b, err := read(costly, byPassphrase(t, safePass)); !refused(b, err) {
		t.Errorf("a passphrase that costs a terabyte: %v", err)
	}
	stanza := strings.Repeat("-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\nEmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U\n", 2000)
	if b, err := read([]byte("age-encryption.org/v1\n"+stanza+"--- x\n"), id); !errors.Is(err, backup.ErrDamaged) || b != nil {
		t.Errorf("thousands of recipients: %v, want ErrDamaged", err)
	}
	if _, err := backup.Read(io.LimitReader(io.MultiReader(strings.NewReader("age-encryption.org/v1\n"), zeros{}), 1<<30)); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("a file without end: %v, want ErrForeign", err)
	}
}

// Found by FuzzUnlock: age has notes for people in its errors, and a reason
// here is one line.
func TestDamagedHeaderIsOneLine(t *testing.T) {
	t.Parallel()
	_, err := read([]byte("age-encryption.org/v1\n-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n---\n"), identity(t))
	if !errors.Is(err, backup.ErrDamaged) || strings.Contains(err.Error(), "\n") {
		t.Errorf("read = %q, want ErrDamaged in one line", err)
	}
}
