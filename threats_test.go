package trust

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// threats lists the rows of the list of attacks: for each section the letter,
// and how many rows it has.
var threats = []struct {
	letter string
	rows   int
}{
	{"R", 15}, {"K", 16}, {"F", 17}, {"M", 13}, {"D", 11}, {"N", 6},
	{"L", 10}, {"S", 14}, {"G", 9}, {"P", 11}, {"T", 6}, {"W", 7},
}

var (
	threatRow = regexp.MustCompile(`^\| ([A-Z][0-9]+) \|`)
	testSpan  = regexp.MustCompile("`([a-z0-9/-]+): ([^`]+)`")
)

// TestThreats compares doc/threats.md with the tree: every row of the list is
// in it once and says which test shows it, or what is open; every test it
// names exists; and every test that is named for an attack stands in it.
func TestThreats(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("doc/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	for _, s := range threats {
		for n := 1; n <= s.rows; n++ {
			missing[fmt.Sprint(s.letter, n)] = true
		}
	}
	tests, words := readTests(t)
	named := map[string]bool{}
	seen := map[string]bool{}
	for i, line := range strings.Split(string(raw), "\n") {
		m := threatRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		row := m[1]
		complain := func(format string, a ...any) {
			t.Helper()
			t.Errorf("doc/threats.md:%d: %s: %s", i+1, row, fmt.Sprintf(format, a...))
		}
		switch {
		case seen[row]:
			complain("stands here a second time")
		case !missing[row]:
			complain("there is no such row")
		}
		seen[row] = true
		delete(missing, row)
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) < 3 {
			complain("has %d columns, want 4", len(cells))
			continue
		}
		last := cells[len(cells)-1]
		spans := testSpan.FindAllStringSubmatch(last, -1)
		_, open, isOpen := strings.Cut(last, "open: ")
		if len(spans) == 0 && strings.TrimSpace(open) == "" {
			complain("names no test, and does not say why")
		}
		if isOpen && strings.TrimSpace(open) == "" {
			complain("is open, and does not say why")
		}
		for _, name := range inTree(last, tests, words, complain) {
			named[name] = true
		}
	}
	if len(missing) > 0 {
		t.Errorf("doc/threats.md lacks the rows %v", slices.Sorted(maps.Keys(missing)))
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if strings.Contains(name, ": TestAttack") && !named[name] {
			t.Errorf("doc/threats.md does not name %s", name)
		}
	}
}

// inTree returns the tests that a text names, and complains about those that
// are not there.
func inTree(text string, tests map[string]bool, words map[string]map[string]bool, complain func(string, ...any)) (named []string) {
	for _, s := range testSpan.FindAllStringSubmatch(text, -1) {
		pkg := s[1]
		for name := range strings.FieldsSeq(s[2]) {
			if strings.HasPrefix(name, "testdata/") {
				if _, err := os.Stat(filepath.Join(filepath.FromSlash(pkg), filepath.FromSlash(name))); err != nil {
					complain("%v", err)
				}
				continue
			}
			test, sub, _ := strings.Cut(name, "/")
			if !tests[pkg+": "+test] {
				complain("there is no test %s in %s", test, pkg)
			}
			if sub != "" && !words[pkg][sub] {
				complain("%s in %s has no part called %s", test, pkg, sub)
			}
			named = append(named, pkg+": "+test)
		}
	}
	return named
}

// readTests returns the tests of all packages, as "package: Name", and for
// each package the words that stand as strings in it or below it.
func readTests(t *testing.T) (tests map[string]bool, words map[string]map[string]bool) {
	tests, words = map[string]bool{}, map[string]map[string]bool{}
	walk(t, ".go", func(path string) {
		pkg := filepath.ToSlash(filepath.Dir(path))
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		top, _, _ := strings.Cut(pkg, "/")
		for _, name := range []string{pkg, top} {
			if words[name] == nil {
				words[name] = map[string]bool{}
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				words[pkg][strings.Trim(l.Value, "\"`")] = true
				words[top][strings.Trim(l.Value, "\"`")] = true
			}
			return true
		})
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && isTest(f) {
				tests[pkg+": "+f.Name.Name] = true
			}
		}
	})
	return tests, words
}

// isTest reports whether f is a func TestX(t *testing.T).
func isTest(f *ast.FuncDecl) bool {
	if f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") || len(f.Type.Params.List) != 1 || f.Type.Results != nil {
		return false
	}
	star, ok := f.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	sel, ok := star.X.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "testing" && sel.Sel.Name == "T"
}

// walk calls fn for every file of the tree whose name ends in suffix, except
// what is in testdata or hidden.
func walk(t *testing.T, suffix string, fn func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && path != "." && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, suffix) {
			fn(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLinks follows every link in a document that leads into the tree.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	walk(t, ".md", func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		for _, m := range link.FindAllStringSubmatch(string(raw), -1) {
			to, _, _ := strings.Cut(m[1], "#")
			if to == "" || strings.Contains(to, "://") {
				continue
			}
			file := filepath.Join(filepath.Dir(path), filepath.FromSlash(to))
			if !filepath.IsLocal(file) {
				t.Errorf("%s links to %s, which is not in the tree", path, to)
			} else if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", path, to, err)
			}
		}
	})
}

// TestReadmeCommands knows the commands that README.md shows: the first two
// are what a newcomer types, the others are run by the scripts of the
// commands.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	shown := false
	for _, line := range strings.Split(string(raw), "\n") {
		if rest, fence := strings.CutPrefix(line, "```"); fence {
			shown = !shown && rest == "console"
			continue
		}
		if !shown {
			continue
		}
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			t.Errorf("README.md shows %q, which is no command", line)
			continue
		}
		commands = append(commands, command)
	}
	want := []string{"go run ./cmd/iechor-trustd sandbox --tour", "go test ./..."}
	if len(commands) < len(want) || !slices.Equal(commands[:len(want)], want) {
		t.Fatalf("README.md begins with the commands %q, want %q", commands[:min(len(want), len(commands))], want)
	}
	for _, c := range commands[len(want):] {
		if !strings.HasPrefix(c, "iechor ") && !strings.HasPrefix(c, "for ") {
			t.Errorf("README.md shows %q; a newcomer has iechor and a shell", c)
		}
	}
}
