//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// TestMetadataOnSoftHSM has each kind of key that a token may have sign all of a
// repository, and a consumer verify it. Tokens make them; those that say
// "imported" are made in software.
func TestMetadataOnSoftHSM(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		make func(*testing.T, *Token) tuf.Signer
		want tuf.KeyType
	}{
		{"P-384", onToken(keys.P384), tuf.ECDSA},
		{"P-384 imported", imported(func() (crypto.Signer, error) { return keys.MakeKey(keys.P384) }), tuf.ECDSA},
		{"RSA 3072", onToken(keys.RSA3072), tuf.RSA},
		{"RSA 3072 imported", imported(func() (crypto.Signer, error) { return keys.MakeKey(keys.RSA3072) }), tuf.RSA},
		{"RSA 2048 imported", imported(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }), tuf.RSA},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := tt.make(t, newToken(t, fixed(testPIN)))
			if got := s.PublicKey().Type; got != tt.want {
				t.Fatalf("the key is of type %s, want %s", got, tt.want)
			}
			const gun = tuf.GUN("registry.example/app")
			cert, err := tuf.Certify(t.Context(), s, gun, big.NewInt(1), tuftest.Start)
			if err != nil {
				t.Fatalf("Certify: %v", err)
			}
			repo := tuftest.New(t, gun)
			ring := repo.Ring()
			ring.Add(s)
			d := repo.Draft(t)
			if err := d.Apply(
				tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleRoot, 1, cert)},
				tuf.ReplaceKeys{Role: tuf.NewRole(tuf.RoleTargets, 1, s.PublicKey())},
				tuf.AddTarget{Target: tuftest.Target("1")},
			); err != nil {
				t.Fatalf("Apply: %v", err)
			}
			files, err := d.Sign(t.Context(), ring, tuf.SignOptions{Now: repo.Now()})
			if err != nil {
				t.Fatalf("Sign: %v", err)
			}
			repo.Serve(files...)
			if _, err := repo.Set(t).Lookup("1", tuf.RoleTargets); err != nil {
				t.Errorf("Lookup: %v", err)
			}
		})
	}
}

func onToken(a keys.Algorithm) func(*testing.T, *Token) tuf.Signer {
	return func(t *testing.T, token *Token) tuf.Signer {
		s, err := keys.Generate(t.Context(), token, a, keys.Info{Role: "root"})
		if err != nil {
			t.Fatalf("Generate(%s): %v", a, err)
		}
		return s
	}
}

func imported(generate func() (crypto.Signer, error)) func(*testing.T, *Token) tuf.Signer {
	return func(t *testing.T, token *Token) tuf.Signer {
		key, err := generate()
		if err != nil {
			t.Fatal(err)
		}
		info, err := token.Import(t.Context(), keys.Info{Role: "root"}, key)
		if err != nil {
			t.Fatalf("Import: %v", err)
		}
		s, err := token.Open(t.Context(), info.ID)
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		return s
	}
}
