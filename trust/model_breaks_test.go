package trust_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
// instead of which. All of them are in one program, which an environment
// variable tells which one to make; with none it is the product, in which
// nothing must be found.
func TestModelBreaks(t *testing.T) {
	t.Parallel()
	if *modelBreaks == "" {
		t.Skip("takes long: choose breaks with -breaks")
	}
	wanted, err := regexp.Compile(*modelBreaks)
	if err != nil {
		t.Fatal(err)
	}
	breaks := slices.DeleteFunc(readBreaks(t), func(b productBreak) bool { return !wanted.MatchString(b.name) })
	program := buildBroken(t, switchable(t, breaks))
	for _, b := range append([]productBreak{{name: "nothing"}}, breaks...) {
		t.Run(b.name, func(t *testing.T) {
			found, said := findIt(t, program, b.name)
			t.Logf("%s\n%s", b.comment, said)
			if found > 0 && b.files == nil {
				t.Error("it finds what is not broken")
			}
		})
	}
}

// What a break breaks stands where it says, so that it goes on breaking that
// as the product changes.
func TestModelBreaksStand(t *testing.T) {
	t.Parallel()
	switchable(t, readBreaks(t))
}

// A productBreak is one thing that can be broken.
type productBreak struct {
	name, comment string
	files         map[string][]byte // as they are then
}

func readBreaks(t *testing.T) (all []productBreak) {
	t.Helper()
	names, err := filepath.Glob("testdata/breaks/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no breaks: %v", err)
	}
	for _, name := range names {
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b := productBreak{strings.TrimSuffix(filepath.Base(name), ".txtar"), string(bytes.TrimSpace(a.Comment)), map[string][]byte{}}
		for i := 0; i+1 < len(a.Files); i += 2 {
			path, was, is := filepath.Join("..", filepath.FromSlash(a.Files[i].Name)), a.Files[i].Data, a.Files[i+1]
			if b.files[path] == nil {
				if b.files[path], err = os.ReadFile(path); err != nil {
					t.Fatal(err)
				}
			}
			if n := bytes.Count(b.files[path], was); n != 1 || is.Name != "instead" {
				t.Errorf("%s: %s has %d times what is to be broken, want it once, and then what stands instead:\n%s", name, path, n, was)
			}
			b.files[path] = bytes.Replace(b.files[path], was, is.Data, 1)
		}
		all = append(all, b)
	}
	return all
}

// A source is a file and its functions, by receiver and name.
type source struct {
	raw   string
	decls map[string]*ast.FuncDecl
}

func parse(t *testing.T, name string, raw []byte) (source, string) {
	t.Helper()
	fset := token.NewFileSet() // of one file: positions are offsets and one
	f, err := parser.ParseFile(fset, "", raw, parser.SkipObjectResolution)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	s := source{string(raw), map[string]*ast.FuncDecl{}}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			key := fn.Name.Name
			if fn.Recv != nil {
				key = s.text(fn.Recv) + " " + key
			}
			s.decls[key] = fn
		}
	}
	return s, f.Name.Name
}

func (s source) text(n ast.Node) string { return s.raw[n.Pos()-1 : n.End()-1] }

// named is a function under another name.
func (s source) named(fn *ast.FuncDecl, name string) string {
	return s.raw[fn.Pos()-1:fn.Name.Pos()-1] + name + s.raw[fn.Name.End()-1:fn.End()-1]
}

// switchable returns the sources of a program in which each break can be made:
// a function that breaks change is there as it is and as each of them makes
// it, and which one is called is decided when it is called.
func switchable(t *testing.T, breaks []productBreak) map[string][]byte {
	t.Helper()
	const variable = "brokenOnPurpose"
	out := map[string][]byte{}
	touched := map[string]bool{}
	for _, b := range breaks {
		for path := range b.files {
			touched[path] = true
		}
	}
	for path := range touched {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		src, pkg := parse(t, path, raw)
		added, cases := "", map[string]string{}
		for _, b := range breaks {
			if b.files[path] == nil {
				continue
			}
			broken, _ := parse(t, b.name, b.files[path])
			changed := false
			for _, key := range slices.Sorted(maps.Keys(src.decls)) {
				fn, is := src.decls[key], broken.decls[key]
				if is == nil || broken.text(is.Type) != src.text(fn.Type) {
					t.Fatalf("%s: %s is another function", b.name, key)
				}
				if broken.text(is) == src.text(fn) {
					continue
				}
				changed = true
				name := fn.Name.Name + "_" + strings.ReplaceAll(b.name, "-", "_")
				added += "\n" + broken.named(is, name) + "\n"
				cases[key] += fmt.Sprintf("\tcase %q:\n\t\t%s\n", b.name, src.call(t, fn, name))
			}
			if !changed {
				t.Fatalf("%s: what it changes of %s is not in a function", b.name, path)
			}
		}
		for _, key := range slices.Backward(slices.SortedFunc(maps.Keys(cases), func(a, b string) int { return int(src.decls[a].Pos() - src.decls[b].Pos()) })) {
			fn := src.decls[key]
			was := fn.Name.Name + "_was"
			added += fmt.Sprintf("\n%s{\n\tswitch %s {\n%s\tdefault:\n\t\t%s\n\t}\n}\n", src.raw[fn.Pos()-1:fn.Body.Pos()-1], variable, cases[key], src.call(t, fn, was))
			raw = slices.Concat(raw[:fn.Name.Pos()-1], []byte(was), raw[fn.Name.End()-1:])
		}
		out[path] = append(raw, added...)
		parse(t, path, out[path])
		out[filepath.Join(filepath.Dir(path), "broken_on_purpose.go")] = fmt.Appendf(nil, "package %s\n\nimport \"os\"\n\nvar %s = os.Getenv(%q)\n", pkg, variable, modelBreak)
	}
	return out
}

// modelBreak is the environment variable that says what is broken.
const modelBreak = "MODEL_BREAK"

// call is the call of a function like fn with fn's own arguments.
func (s source) call(t *testing.T, fn *ast.FuncDecl, name string) string {
	t.Helper()
	out, sep := name+"(", ""
	for _, p := range fn.Type.Params.List {
		if len(p.Names) == 0 {
			t.Fatalf("%s: a parameter has no name", fn.Name.Name)
		}
		for _, n := range p.Names {
			out, sep = out+sep+n.Name, ", "
		}
		if _, many := p.Type.(*ast.Ellipsis); many {
			out += "..."
		}
	}
	if fn.Recv != nil {
		out = fn.Recv.List[0].Names[0].Name + "." + out
	}
	if fn.Type.Results != nil {
		out = "return " + out
	}
	return out + ")"
}

// buildBroken builds the model with other sources.
func buildBroken(t *testing.T, sources map[string][]byte) (program string) {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, src := range sources {
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
	return program
}

// findIt says in how many of ten runs the model finds what is broken, and what
// it says then.
func findIt(t *testing.T, program, what string) (int, string) {
	t.Helper()
	model := exec.CommandContext(t.Context(), program, "-test.run", "^TestModel$", "-test.v", "-test.timeout", "0", "-shrink=false", fmt.Sprint("-steps=", *modelSteps))
	model.Env = append(os.Environ(), modelBreak+"="+what)
	out, _ := model.CombinedOutput() // it fails where it finds something
	found := regexp.MustCompile(`(?m)^    --- FAIL: TestModel/`).FindAll(out, -1)
	passed := regexp.MustCompile(`(?m)^    --- PASS: TestModel/`).FindAll(out, -1)
	said := "found"
	for _, m := range regexp.MustCompile(`(?m)seed (\d+, step .*)$`).FindAllSubmatch(out, -1) {
		said += "\n\t" + string(m[1])
	}
	if len(found)+len(passed) != modelSeeds {
		t.Errorf("%d of %d runs came to an end:\n%s", len(found)+len(passed), modelSeeds, out)
	}
	return len(found), fmt.Sprintf("in %d of %d runs of %d steps %s", len(found), modelSeeds, *modelSteps, said)
}
