package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
)

// Keys of a store that does not give them away are noted, with --tokens, and
// never silently left out.
func TestBackupTokens(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	dir := t.TempDir()
	files := keystest.OpenDir(t, filepath.Join(dir, "trust", "private"), keystest.Passphrase("passphrase"))
	token := keys.NewMemory() // it exports nothing
	here, err := keys.Generate(t.Context(), files, keys.P256, keys.Info{Role: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	there, err := keys.Generate(t.Context(), token, keys.P256, keys.Info{Role: "root"})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{app: &app{err: &stderr, now: time.Now}, dir: dir, dirKeys: files, keys: keys.Ring{token, files}}

	b, err := d.collect(t.Context(), false)
	if err != nil || len(b.Manifest.Keys) != 1 || len(b.Manifest.Tokens) != 0 {
		t.Fatalf("collect without tokens = %+v, %v", b, err)
	}
	id := there.PublicKey().CanonicalID()
	if said := stderr.String(); !strings.Contains(said, "1 key on devices that do not give them away (root key "+id.Short()+")") {
		t.Errorf("collect without tokens says %q", said)
	}
	stderr.Reset()
	b, err = d.collect(t.Context(), true)
	if err != nil || len(b.Manifest.Tokens) != 1 || b.Manifest.Tokens[0].ID != id || b.Manifest.Tokens[0].Store != "memory" || stderr.Len() > 0 {
		t.Fatalf("collect with tokens = %+v, %v, and says %q", b.Manifest.Tokens, err, &stderr)
	}
	if got := b.Manifest.Keys[0].ID; got != here.PublicKey().CanonicalID() {
		t.Errorf("the key in the backup is %s", got)
	}
	to, err := backup.ForPassphrase([]byte("passphrase"), 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := backup.Write(new(bytes.Buffer), b, to); err != nil {
		t.Errorf("Write: %v", err)
	}
	// only on the token: a backup that holds nothing but the note
	d.keys = keys.Ring{token}
	if b, err := d.collect(t.Context(), true); err != nil || len(b.Manifest.Keys) != 0 || len(b.Manifest.Tokens) != 1 {
		t.Errorf("collect of a token alone = %+v, %v", b, err)
	}
}

// What is remembered of verified backups only reminds: a file that is damaged,
// or that somebody else wrote, is as good as none.
func TestBackupReminder(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	dir := t.TempDir()
	files := keystest.OpenDir(t, filepath.Join(dir, "trust", "private"), keystest.Passphrase("passphrase"))
	d := &desk{app: &app{err: &stderr, now: time.Now}, dir: dir, dirKeys: files, keys: keys.Ring{files}}
	reminds := func(want bool, when string) {
		t.Helper()
		stderr.Reset()
		if err := d.remindOfBackup(t.Context()); err != nil || stderr.Len() > 0 != want {
			t.Errorf("%s: %v, and it says %q", when, err, &stderr)
		}
	}
	reminds(false, "without a key")
	if _, err := keys.Generate(t.Context(), files, keys.P256, keys.Info{Role: "alice"}); err != nil {
		t.Fatal(err)
	}
	reminds(true, "with a key")
	b, err := d.collect(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.noteVerified(t.Context(), b.Keys()); err != nil {
		t.Fatal(err)
	}
	reminds(false, "after a backup was verified")
	if err := files.ChangePassphrase(t.Context(), b.Manifest.Keys[0].ID); err != nil {
		t.Fatal(err)
	}
	reminds(true, "after the passphrase was changed")
	if err := d.noteVerified(t.Context(), b.Keys()); err != nil {
		t.Fatal(err)
	}
	reminds(true, "after the old backup was verified again")
	for _, text := range []string{"", "{", `{"keys": 7}`, strings.Repeat("x", 9<<20)} {
		if err := os.WriteFile(d.backupStateFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		reminds(true, "with a damaged file")
	}
}
