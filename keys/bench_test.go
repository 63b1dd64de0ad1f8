package keys_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
)

// A list of 500 keys.
func BenchmarkList(b *testing.B) {
	path := filepath.Join(b.TempDir(), "private")
	d := keystest.OpenDir(b, path, keystest.Passphrase("passphrase"))
	s, err := keys.Generate(b.Context(), d, "", keys.Info{Role: "targets", GUN: "registry.example/team/app"})
	if err != nil {
		b.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(path, string(s.PublicKey().CanonicalID())+".key"))
	if err != nil {
		b.Fatal(err)
	}
	for i := range 499 {
		if err := os.WriteFile(filepath.Join(path, string(fakeID(i))+".key"), raw, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if infos, err := d.List(b.Context()); err != nil || len(infos) != 500 {
			b.Fatalf("List = %d keys, %v", len(infos), err)
		}
	}
}

func fakeID(i int) string {
	const digits = "0123456789abcdef"
	id := make([]byte, 64)
	for j := range id {
		id[j] = digits[i>>(4*(j%8))&15]
	}
	return string(id)
}
