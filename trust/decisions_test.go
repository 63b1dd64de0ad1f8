package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"github.com/iechor/trust/tuf"
)

func someIDs[ID ~string](from, n int) (out []ID) {
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, from+i))
		out = append(out, ID(hex.EncodeToString(sum[:])))
	}
	return out
}

// However much was decided, what is denied stays denied, and the file can be
// read.
func TestDecisionsStayReadable(t *testing.T) {
	t.Parallel()
	d := NewDir(t.TempDir())
	for i := range 30 {
		if err := d.decide(app, someIDs[tuf.CanonicalID](i, 1), Decision{Old: someIDs[tuf.KeyID](1000*i, 400), New: someIDs[tuf.KeyID](1000*i+500, 400)}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := d.decided(app)
	if err != nil {
		t.Fatal(err)
	}
	if denied := someIDs[tuf.CanonicalID](0, 30); !slices.Equal(all.Denied, denied) || len(all.Made) == 0 || len(all.Made) == 30 {
		t.Errorf("%d keys are denied and %d decisions are kept, want 30, and those that there is room for", len(all.Denied), len(all.Made))
	}
}
