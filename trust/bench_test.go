package trust

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/iechor/trust/keys"
)

// BenchmarkWarmUpdate is an update without news of a repository with 5,000
// tags.
func BenchmarkWarmUpdate(b *testing.B) {
	s := newServer(newClock())
	mem := keys.NewMemory()
	r := Open(app, Config{Remote: s, Dir: NewDir(filepath.Join(b.TempDir(), "trust")), Keys: keys.Ring{mem}, Now: s.clock.now})
	if _, err := r.Init(b.Context(), InitOptions{}); err != nil {
		b.Fatal(err)
	}
	var tags []string
	for i := range 5000 {
		tags = append(tags, fmt.Sprintf("v1.%d", i))
	}
	if _, err := r.Publish(b.Context(), add(tags...)); err != nil {
		b.Fatal(err)
	}
	if _, err := r.Update(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), "v1.4999"); err != nil {
			b.Fatal(err)
		}
	}
}
