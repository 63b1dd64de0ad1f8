package trust

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// counting answers with a passphrase, and counts for which key. A directory of
// keys forgets a passphrase as soon as it has derived the key's key from it, so
// that each answer is one derivation, and each derivation needs an answer.
type counting struct {
	mu    sync.Mutex
	asked map[tuf.CanonicalID]int // guarded by mu
}

func (c *counting) Passphrase(_ context.Context, key keys.Info, _ int) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[key.ID]++
	return []byte("passphrase"), nil
}

func (c *counting) NewPassphrase(context.Context, keys.Info) ([]byte, error) {
	return []byte("passphrase"), nil
}

// A command derives the key of each key file at most once, however often it
// signs: to see whether it may publish, to publish, and again after others
// were faster. What it has made itself it does not open at all.
func TestOneKeyDerivationPerKeyAndCommand(t *testing.T) {
	t.Parallel()
	s := newServer(newClock())
	path := t.TempDir()
	command := func(run func(r *Repository) error) map[tuf.CanonicalID]int {
		t.Helper()
		asks := &counting{asked: map[tuf.CanonicalID]int{}}
		dir, err := keys.OpenDir(keys.Config{Path: filepath.Join(path, "private"), Passphrases: asks, Iterations: 10})
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if err := run(Open(app, Config{Remote: s, Dir: NewDir(path), Keys: keys.Ring{dir}, Now: s.clock.now, Sleep: func(context.Context, time.Duration) error { return nil }})); err != nil {
			t.Fatal(err)
		}
		return asks.asked
	}
	var made Initialized
	first := command(func(r *Repository) (err error) {
		if made, err = r.Init(t.Context(), InitOptions{}); err != nil {
			return err
		}
		_, err = r.Publish(t.Context(), add("1"))
		return err
	})
	if len(first) > 0 {
		t.Errorf("a command derived keys that it had made itself: %v", first)
	}
	again := command(func(r *Repository) error {
		if err := r.CanPublish(t.Context(), add("2")); err != nil {
			return err
		}
		other := Open(app, Config{Remote: s, Dir: NewDir(t.TempDir()), Keys: r.c.Keys, Now: s.clock.now})
		plans := 0
		p, err := r.Publish(t.Context(), func(set *tuf.Set) ([]tuf.Change, error) {
			if plans++; plans == 1 {
				if _, err := other.Publish(t.Context(), add("other")); err != nil {
					return nil, err
				}
			}
			return add("2")(set)
		})
		if err != nil || p.Attempts != 2 {
			t.Errorf("Publish against another = %+v, %v, want 2 attempts", p, err)
		}
		_, err = r.Publish(t.Context(), add("3"))
		return err
	})
	if len(again) != 1 || again[made.Targets] != 1 {
		t.Errorf("a command that signed targets several times derived %v, want once %s", again, made.Targets)
	}
}
