package trust

import "github.com/iechor/trust/tuf"

// Staged is a change file (notary-protocol 6.3): a change that waits to be
// published, whoever staged it.
type Staged struct {
	Name string // of the file; names sort in the order in which they apply
	Raw  []byte

	// What the file says, for people. Not verified, not printable as it is.
	Action, Role, Type, Path string

	// Change is what publishing it means, and nil if that is not understood.
	Change tuf.Change
}
