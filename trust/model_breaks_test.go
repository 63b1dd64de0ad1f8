package trust_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var modelBreaks = flag.String("breaks", "", "TestModelBreaks: make the breaks whose names match, and say how many of ten runs of the model find each")

// TestModelBreaks breaks the product on purpose, in one place at a time, and
// has the model find it:
//
//	go test ./trust -run TestModelBreaks -v -breaks . -timeout 0
//
// Each file of testdata/breaks says what is broken, and which text stands
// instead of which.
func TestModelBreaks(t *testing.T) {
	t.Parallel()
	if *modelBreaks == "" {
		t.Skip("takes a minute for each break: choose them with -breaks")
	}
	files, err := filepath.Glob("testdata/breaks/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no breaks: %v", err)
	}
	wanted, err := regexp.Compile(*modelBreaks)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		if !wanted.MatchString(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s\n%s", bytes.TrimSpace(a.Comment), findIt(t, breakIt(t, a)))
		})
	}
}

// breakIt returns the broken source files, by name.
func breakIt(t *testing.T, a *txtar.Archive) map[string][]byte {
	t.Helper()
	broken := map[string][]byte{}
	for i := 0; i+1 < len(a.Files); i += 2 {
		name, was, is := filepath.Join("..", filepath.FromSlash(a.Files[i].Name)), a.Files[i].Data, a.Files[i+1].Data
		src := broken[name]
		if src == nil {
			var err error
			if src, err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
		}
		if n := bytes.Count(src, was); n != 1 || a.Files[i+1].Name != "instead" {
			t.Fatalf("%s has %d times what is to be broken, want it once, and then what stands instead:\n%s", name, n, was)
		}
		broken[name] = bytes.Replace(src, was, is, 1)
	}
	return broken
}

// findIt says in how many of ten runs the model finds what is broken, and what
// it says then.
func findIt(t *testing.T, broken map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, src := range broken {
		at, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		overlay.Replace[at] = filepath.Join(dir, strings.ReplaceAll(name, string(filepath.Separator), "_"))
		if err := os.WriteFile(overlay.Replace[at], src, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "trust.test")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", list, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	model := exec.CommandContext(t.Context(), program, "-test.run", "^TestModel$", "-test.v", "-test.timeout", "30m", "-shrink=false", fmt.Sprint("-steps=", *modelSteps))
	out, _ := model.CombinedOutput() // it fails where it finds something
	found := regexp.MustCompile(`(?m)^    --- FAIL: TestModel/`).FindAll(out, -1)
	passed := regexp.MustCompile(`(?m)^    --- PASS: TestModel/`).FindAll(out, -1)
	said := "found"
	for _, m := range regexp.MustCompile(`(?m)seed \d+, (step .*)$`).FindAllSubmatch(out, -1) {
		said += "\n\t" + string(m[1])
	}
	if len(found)+len(passed) != modelSeeds {
		t.Errorf("%d of %d runs came to an end:\n%s", len(found)+len(passed), modelSeeds, out)
	}
	return fmt.Sprintf("in %d of %d runs of %d steps %s", len(found), modelSeeds, *modelSteps, said)
}
