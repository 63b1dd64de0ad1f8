//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
)

// TestKEKOnSoftHSM wraps and unwraps on a real token, from many sides at once.
func TestKEKOnSoftHSM(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	token := newToken(t, "kek", fixed(testPIN))
	if _, err := token.KEK(ctx, "kek-1"); !errors.Is(err, tuf.ErrNoKey) {
		t.Fatalf("KEK of an empty token: %v, want ErrNoKey", err)
	}
	made, err := token.MakeKEK(ctx, "kek-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.MakeKEK(ctx, "kek-1"); !errors.Is(err, keys.ErrExists) {
		t.Errorf("MakeKEK again: %v, want ErrExists", err)
	}
	other, err := token.MakeKEK(ctx, "kek-2")
	if err != nil {
		t.Fatal(err)
	}
	k, err := token.KEK(ctx, "kek-1")
	if err != nil || k.ID() != made.ID() || k.ID() == other.ID() {
		t.Fatalf("KEK = %v, %v; made %v and %v", k, err, made, other)
	}
	if !k.gcm {
		t.Error("SoftHSM has GCM, and it is not used")
	}
	envelope := *k
	envelope.gcm = false
	bound := []byte("row 1")
	for _, k := range []*KEK{k, &envelope} {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				plain := fmt.Appendf(nil, "a private key of some length, number %d", i)
				wrapped, err := k.Wrap(ctx, plain, bound)
				if err != nil {
					t.Errorf("Wrap: %v", err)
					return
				}
				if bytes.Contains(wrapped, plain[:10]) {
					t.Error("the wrapped key can be read")
				}
				if got, err := k.Unwrap(ctx, wrapped, bound); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("Unwrap = %q, %v", got, err)
				}
				if _, err := k.Unwrap(ctx, wrapped, []byte("row 2")); !errors.Is(err, ErrUnwrap) {
					t.Errorf("Unwrap for another row: %v, want ErrUnwrap", err)
				}
				if _, err := other.Unwrap(ctx, wrapped, bound); !errors.Is(err, ErrUnwrap) {
					t.Errorf("Unwrap by another key: %v, want ErrUnwrap", err)
				}
				at := i * len(wrapped) / 20
				wrapped[at] ^= 1
				if _, err := k.Unwrap(ctx, wrapped, bound); !errors.Is(err, ErrUnwrap) {
					t.Errorf("Unwrap with byte %d changed: %v, want ErrUnwrap", at, err)
				}
			})
		}
		wg.Wait()
	}
	for _, short := range [][]byte{nil, {1}, {2}, make([]byte, 200)} {
		if _, err := k.Unwrap(ctx, short, bound); !errors.Is(err, ErrUnwrap) {
			t.Errorf("Unwrap of %d bytes: %v, want ErrUnwrap", len(short), err)
		}
	}
}

func BenchmarkKEK(b *testing.B) {
	token := newToken(b, fmt.Sprintf("bench-%d", time.Now().UnixNano()), fixed(testPIN))
	k, err := token.MakeKEK(b.Context(), "kek")
	if err != nil {
		b.Fatal(err)
	}
	plain := make([]byte, 138)
	wrapped, err := k.Wrap(b.Context(), plain, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := k.Unwrap(b.Context(), wrapped, nil); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
