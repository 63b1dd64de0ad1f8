package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every command that doc/custody.md shows is run by a story, as it stands there:
// only the repository is one in the sandbox, sticks are folders, and IDs are
// variables.
func TestCustodyDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../doc/custody.md")
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{}
	for _, pattern := range []string{"testdata/*.txtar", "testdata/interop/*.txtar"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(withoutTyping(raw)) {
				if _, then, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(line, "[") {
					line = then
				}
				if line, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(line, "! ")), "exec "); ok {
					if script, ok := strings.CutPrefix(line, "sh -c '"); ok {
						line = strings.TrimSuffix(script, "'")
					}
					run[line] = true
				}
			}
		}
	}
	inSandbox := strings.NewReplacer("registry.example.com/app", "$REGISTRY/demo/app", "/media/", "media/", "543bb8f", "$ID")
	for n, line := range strings.Split(string(doc), "\n") {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		if want := inSandbox.Replace(command); !run[want] {
			t.Errorf("doc/custody.md:%d: no story in testdata runs\nexec %s", n+1, want)
		}
	}
}
