package keys_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// A late signer is one that is touched after some time.
type late struct {
	tuf.Signer
	touched time.Duration
}

func (l late) Sign(ctx context.Context, message []byte) (tuf.Signature, error) {
	time.Sleep(l.touched) // of the bubble's clock
	return l.Signer.Sign(ctx, message)
}

// TestPatientlyHalfASecond sees that the notice comes when half a second has
// passed without a signature, once, and not before.
func TestPatientlyHalfASecond(t *testing.T) {
	t.Parallel()
	for touched, want := range map[time.Duration]int{
		0: 0, 499 * time.Millisecond: 0, 501 * time.Millisecond: 1, time.Minute: 1,
	} {
		synctest.Test(t, func(t *testing.T) {
			began, said := time.Now(), []time.Duration{}
			s := keys.Patiently(late{tuftest.ECDSAKey("late"), touched}, func() { said = append(said, time.Since(began)) })
			if _, err := s.Sign(t.Context(), []byte("message")); err != nil {
				t.Fatalf("Sign: %v", err)
			}
			if took := time.Since(began); took != touched {
				t.Errorf("a signature that takes %v took %v", touched, took)
			}
			time.Sleep(time.Minute)
			if len(said) != want || want == 1 && said[0] != 500*time.Millisecond {
				t.Errorf("touched after %v: notices after %v, want %d after half a second", touched, said, want)
			}
		})
	}
}
