package trust

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReliability compares doc/reliability.md with the tree: every row of a
// table of faults names tests, and those exist.
func TestReliability(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("doc/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, words := readTests(t)
	rows := 0
	for i, line := range strings.Split(string(raw), "\n") {
		complain := func(format string, a ...any) { t.Errorf("doc/reliability.md:%d: %s", i+1, fmt.Sprintf(format, a...)) }
		named := inTree(line, tests, words, complain)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| fault ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if last := cells[len(cells)-1]; len(cells) == 4 && len(named) == 0 {
			complain("%q names no test", last)
		}
		if len(cells) == 4 {
			rows++
		}
	}
	if rows == 0 {
		t.Error("doc/reliability.md has no table of faults")
	}
}
