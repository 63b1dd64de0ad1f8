//go:build cgo

package pkcs11

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
)

var tokens atomic.Int64

// TestStoreOnSoftHSM is what every store must do, on a real token.
func TestStoreOnSoftHSM(t *testing.T) {
	t.Parallel()
	keystest.Run(t, func(t *testing.T) keys.Store {
		return newToken(t, fmt.Sprintf("store-%d", tokens.Add(1)), fixed(testPIN))
	})
}
