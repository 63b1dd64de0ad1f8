//go:build cgo

package pkcs11

import (
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
)

// TestStoreOnSoftHSM is what every store must do, on a real token.
func TestStoreOnSoftHSM(t *testing.T) {
	t.Parallel()
	keystest.Run(t, func(t *testing.T) keys.Store {
		return newToken(t, fixed(testPIN))
	})
}
