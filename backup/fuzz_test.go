package backup_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"unicode"

	"filippo.io/age"

	"github.com/iechor/trust/backup"
)

// knownErrors are all that reading a backup may answer with, each in one line.
func knownErrors(t *testing.T, b *backup.Backup, err error) {
	t.Helper()
	for _, known := range []error{backup.ErrForeign, backup.ErrDamaged, backup.ErrLater, backup.ErrLocked} {
		if errors.Is(err, known) && b == nil && !strings.ContainsFunc(err.Error(), unicode.IsControl) {
			return
		}
	}
	t.Errorf("the answer is %+v, %q", b, err)
}

func goldenFile(f *testing.F, name string) []byte {
	f.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		f.Fatal(err)
	}
	return raw
}

// FuzzUnpack: what is encrypted in a backup is read as a whole or refused as a
// whole, and what is read is written the same way again.
func FuzzUnpack(f *testing.F) {
	ids, err := backup.ParseIdentities(goldenFile(f, "v1-identity.txt"))
	if err != nil {
		f.Fatal(err)
	}
	content, err := age.Decrypt(bytes.NewReader(goldenFile(f, "v1-recipient.age")), ids...)
	if err != nil {
		f.Fatal(err)
	}
	archive, err := io.ReadAll(content)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(archive)
	f.Add(backup.Pack(f, example(f)))
	f.Fuzz(func(t *testing.T, archive []byte) {
		b, err := backup.Unpack(bytes.NewReader(archive))
		if err != nil {
			knownErrors(t, b, err)
			return
		}
		for i, k := range b.Keys() {
			if b.Manifest.Keys[i].ID != k.Info.ID || !k.Encrypted() {
				t.Errorf("key %d is %+v, and the manifest says %+v", i, k.Info, b.Manifest.Keys[i])
			}
		}
		packed := backup.Pack(t, b)
		again, err := backup.Unpack(bytes.NewReader(packed))
		if err != nil || !bytes.Equal(backup.Pack(t, again), packed) {
			t.Errorf("a backup does not survive: %v", err)
		}
	})
}

// FuzzUnlock: nothing but what was encrypted comes out of a file that was
// altered, and to find that out costs little.
func FuzzUnlock(f *testing.F) {
	ids, err := backup.ParseIdentities(goldenFile(f, "v1-identity.txt"))
	if err != nil {
		f.Fatal(err)
	}
	phrase, err := backup.ByPassphrase([]byte(safePass))
	if err != nil {
		f.Fatal(err)
	}
	golden := goldenFile(f, "v1-recipient.age")
	good, err := read(golden, ids...)
	if err != nil {
		f.Fatal(err)
	}
	honest := backup.Pack(f, good)
	cheapest := write(f, good, forPassphrase(f, safePass))
	f.Add(golden)
	f.Add(letters(f, golden))
	f.Add(cheapest)
	f.Add(bytes.Replace(cheapest, []byte(" 2\n"), []byte(" 30\n"), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := backup.Read(bytes.NewReader(raw))
		if err != nil {
			knownErrors(t, nil, err)
			return
		}
		by := ids
		if file.Passphrase {
			if !bytes.Contains(raw, []byte(" 2\n")) && !bytes.Contains(raw, []byte(" 30\n")) {
				return // costs what it is meant to cost
			}
			by = []backup.Identity{phrase}
		}
		b, err := file.Unlock(by...)
		if err != nil {
			knownErrors(t, b, err)
			return
		}
		if packed := backup.Pack(t, b); !bytes.Equal(packed, honest) {
			t.Errorf("%d bytes that nobody encrypted", len(packed))
		}
	})
}

// FuzzKeysOfABackup: identities and recipients are read or refused without a
// word of what stands in them.
func FuzzKeysOfABackup(f *testing.F) {
	f.Add(goldenFile(f, "v1-identity.txt"))
	f.Add([]byte("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"))
	f.Add([]byte("# comment\n\nAGE-SECRET-KEY-1QQQ\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if ids, err := backup.ParseIdentities(raw); err == nil && len(ids) == 0 {
			t.Errorf("ParseIdentities(%q) gives none", raw)
		} else if err != nil && (!errors.Is(err, backup.ErrIdentity) || strings.Contains(strings.ToUpper(err.Error()), "AGE-SECRET")) {
			t.Errorf("ParseIdentities(%q) = %q", raw, err)
		}
		r, err := backup.ParseRecipient(string(raw))
		if err != nil {
			if !errors.Is(err, backup.ErrRecipient) || r != nil {
				t.Errorf("ParseRecipient(%q) = %v, %v", raw, r, err)
			}
			return
		}
		if _, err := age.Encrypt(io.Discard, r); err != nil {
			t.Errorf("nothing can be encrypted for %q: %v", raw, err)
		}
	})
}
