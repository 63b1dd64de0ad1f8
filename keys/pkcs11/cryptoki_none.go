//go:build !cgo

package pkcs11

import (
	"fmt"

	"github.com/iechor/trust/keys"
)

// Supported says whether this build can use tokens.
const Supported = false

// load says that a build without cgo has no PKCS#11.
func load(path string) (module, error) {
	return nil, fmt.Errorf("%w: PKCS#11 needs a build with cgo, and this is one without (library %s)", keys.ErrNoSupport, path)
}
