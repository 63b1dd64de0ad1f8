package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zalando/go-keyring"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/terminal"
	"github.com/iechor/trust/tuf"
)

// asking returns passphrases for a user without a terminal, whose answers are
// lines.
func asking(t *testing.T, lines string, environment ...string) (*passphrases, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	return &passphrases{
		terminal: terminal.New(terminal.Config{Input: strings.NewReader(lines), Messages: &said, NoDevice: true}),
		getenv:   environ(environment...),
		warn:     func(format string, args ...any) { fmt.Fprintf(&said, "warning: "+format+"\n", args...) },
	}, &said
}

func aliceKey(digits string) keys.Info {
	return keys.Info{ID: tuf.CanonicalID(digits + strings.Repeat("0", 64-len(digits))), Role: "alice"}
}

func TestPassphraseVariables(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("from the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const role, perKey = repositoryPassphraseVariable, keyPassphraseVariable
	key := aliceKey("543bb8f720a5")
	for _, test := range []struct {
		name string
		env  []string
		want string
	}{
		{"none", nil, "from the user"},
		{"role", []string{role, "r"}, "r"},
		{"role's file", []string{role + fileSuffix, file}, "from the file"},
		{"value before file", []string{role, "r", role + fileSuffix, file}, "r"},
		{"empty is unset", []string{role, "", role + fileSuffix, file}, "from the file"},
		{"key", []string{perKey + "543bb8f", "k", role, "r"}, "k"},
		{"key's file before role", []string{perKey + "543bb8f" + fileSuffix, file, role, "r"}, "from the file"},
		{"longer wins", []string{perKey + "543bb8f", "k", perKey + "543bb8f7", "longer"}, "longer"},
		{"whole id", []string{perKey + string(key.ID), "whole", perKey + "543bb8f", "k"}, "whole"},
		{"capital letters", []string{perKey + "543BB8F", "k"}, "k"},
		{"too short to name a key", []string{perKey + "543bb8", "k", role, "r"}, "r"},
		{"another key", []string{perKey + "643bb8f", "k", role, "r"}, "r"},
		{"another role", []string{rootPassphraseVariable, "root"}, "from the user"},
	} {
		p, _ := asking(t, "from the user\n", test.env...)
		got, err := p.Passphrase(t.Context(), key, 1)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: Passphrase = %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

// A key that did not open is not asked for again in the same command.
func TestPassphraseAskedForOnce(t *testing.T) {
	t.Parallel()
	key, other := aliceKey("543bb8f"), aliceKey("ab16d06")
	p, said := asking(t, "1\n2\n3\n4\n5\n")
	for attempt := 1; attempt <= 4; attempt++ {
		got, err := p.Passphrase(t.Context(), key, attempt)
		if err != nil || string(got) != fmt.Sprint(attempt) {
			t.Fatalf("attempt %d = %q, %v", attempt, got, err)
		}
	}
	if n := strings.Count(said.String(), "Passphrase incorrect. Please retry."); n != 3 {
		t.Errorf("said %d times that it was incorrect, want 3:\n%s", n, said)
	}
	if _, err := p.Passphrase(t.Context(), key, 1); !errors.Is(err, keys.ErrPassphrase) {
		t.Errorf("Passphrase in a second round: %v, want ErrPassphrase", err)
	}
	if got, err := p.Passphrase(t.Context(), other, 1); err != nil || string(got) != "5" {
		t.Errorf("Passphrase of another key = %q, %v, want 5", got, err)
	}
	if _, err := p.Passphrase(t.Context(), other, 2); !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("Passphrase without anybody to ask: %v, want ErrNoPassphrase", err)
	}
	if _, err := p.Passphrase(t.Context(), other, 1); !errors.Is(err, keys.ErrNoPassphrase) {
		t.Errorf("Passphrase in a second round: %v, want ErrNoPassphrase", err)
	}

	// Files that do not say which key they hold may hold different ones.
	p, _ = asking(t, "1\n2\n")
	for i := 1; i <= 2; i++ {
		if got, err := p.Passphrase(t.Context(), keys.Info{}, 1); err != nil || string(got) != fmt.Sprint(i) {
			t.Errorf("Passphrase of unnamed key %d = %q, %v", i, got, err)
		}
	}
}

// A wrong variable is one answer, and is named.
func TestPassphraseWrongVariable(t *testing.T) {
	t.Parallel()
	p, said := asking(t, "right\n", repositoryPassphraseVariable, "wrong")
	key := aliceKey("543bb8f")
	if _, err := p.Passphrase(t.Context(), key, 1); err != nil {
		t.Fatal(err)
	}
	for _, attempt := range []int{2, 1} { // in this round, and in the next
		_, err := p.Passphrase(t.Context(), key, attempt)
		var e *passphraseError
		if !errors.As(err, &e) || e.variable != repositoryPassphraseVariable || !errors.Is(err, keys.ErrPassphrase) {
			t.Errorf("Passphrase(%d) after a wrong variable: %v", attempt, err)
		}
	}
	if said.Len() > 0 {
		t.Errorf("asked: %s", said)
	}
}

// fakeSecrets counts how often it is used.
type fakeSecrets struct {
	secretStore
	calls int
}

func (f *fakeSecrets) Get(name string) (string, error) { f.calls++; return f.secretStore.Get(name) }

// TestRemembered uses the store of secrets in the memory of its own package,
// of which there is one in a process: it is the only test that does.
func TestRemembered(t *testing.T) {
	t.Parallel()
	keyring.MockInit()
	ctx := t.Context()
	store := &fakeSecrets{secretStore: systemSecrets{}}
	r := remembered{filepath.Join(t.TempDir(), "trust", "remembered"), store}
	key := aliceKey("543bb8f")

	// Nothing is looked for that was not put there.
	if _, err := r.get(ctx, key.ID); !errors.Is(err, keyring.ErrNotFound) || store.calls != 0 {
		t.Errorf("get before set: %v after %d calls, want ErrNotFound after none", err, store.calls)
	}
	if err := r.forget(ctx, key.ID); err != nil {
		t.Errorf("forget before set: %v", err)
	}
	if err := r.set(ctx, key.ID, "secret"); err != nil {
		t.Fatalf("set: %v", err)
	}
	if got, err := r.get(ctx, key.ID); err != nil || got != "secret" {
		t.Errorf("get = %q, %v, want secret", got, err)
	}
	p, said := asking(t, "")
	p.memory = r
	if got, err := p.Passphrase(ctx, key, 1); err != nil || string(got) != "secret" || said.Len() > 0 {
		t.Errorf("Passphrase = %q, %v, and said %q", got, err, said)
	}
	if diff := cmp.Diff(true, r.has(key.ID)); diff != "" {
		t.Error("has does not know the key")
	}
	if err := r.forget(ctx, key.ID); err != nil || r.has(key.ID) {
		t.Errorf("forget: %v", err)
	}
	if _, err := keyring.Get(secretService, string(key.ID)); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("after forget the store has %v", err)
	}

	// What somebody else removed from the store is asked for, without a word.
	if err := r.set(ctx, key.ID, "secret"); err != nil {
		t.Fatal(err)
	}
	if err := keyring.Delete(secretService, string(key.ID)); err != nil {
		t.Fatal(err)
	}
	p, said = asking(t, "typed\n")
	p.memory = r
	if got, err := p.Passphrase(ctx, key, 1); err != nil || string(got) != "typed" || strings.Contains(said.String(), "warning") {
		t.Errorf("Passphrase = %q, %v, and said %q", got, err, said)
	}
	if err := r.forget(ctx, key.ID); err != nil || r.has(key.ID) {
		t.Errorf("forget of what the store has lost: %v", err)
	}

	// A store that does not work leaves no mark.
	keyring.MockInitWithError(errors.New("no desktop here"))
	if err := r.set(ctx, key.ID, "secret"); err == nil || r.has(key.ID) {
		t.Errorf("set in a broken store: %v, and the mark is there: %v", err, r.has(key.ID))
	}

	// One that hangs ends with the command.
	ended, cancel := context.WithCancel(ctx)
	cancel()
	hang := make(chan struct{})
	defer close(hang)
	if err := waiting(ended, func() error { <-hang; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a store that hangs: %v, want Canceled", err)
	}
	if err := (remembered{dir: r.dir}).set(ctx, key.ID, "secret"); err == nil {
		t.Error("set without a store succeeded")
	}
}
