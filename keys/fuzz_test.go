package keys_test

import (
	"errors"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

// FuzzParse: no bytes make the reader panic or answer with an error that says
// nothing, and what it reads comes back when it is written.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/stock/*/*.key", "testdata/stock/loose/*", "testdata/openssl/*"} {
		for _, path := range glob(f, pattern) {
			f.Add(read(f, path))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		blocks, err := keys.Parse(raw)
		if err != nil {
			if !errors.Is(err, keys.ErrBroken) && !errors.Is(err, tuf.ErrKey) {
				t.Errorf("Parse = %v, which is neither ErrBroken nor ErrKey", err)
			}
			return
		}
		for _, b := range blocks {
			if b.Cost() > 1<<14 {
				continue // takes long, on purpose
			}
			key, err := b.Key([]byte(passphrase))
			if err != nil {
				if !errors.Is(err, keys.ErrBroken) && !errors.Is(err, tuf.ErrKey) && !errors.Is(err, keys.ErrPassphrase) {
					t.Errorf("Key = %v, which says nothing", err)
				}
				continue
			}
			signs(t, signer(t, key))
			file, err := keys.Seal(key, keys.Info{Role: "alice"}, []byte(passphrase), keystest.Iterations)
			if err != nil {
				t.Fatalf("Seal: %v", err)
			}
			again, err := keys.Parse(file)
			if err != nil {
				t.Fatalf("Parse of what Seal wrote: %v", err)
			}
			back, err := again[0].Key([]byte(passphrase))
			if err != nil || !pub(t, back).Equal(pub(t, key)) {
				t.Errorf("Key of what Seal wrote: %v", err)
			}
		}
	})
}
