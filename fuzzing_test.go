package trust

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// decoders are the calls that take bytes from outside apart, by import path.
var decoders = map[string][]string{
	"encoding/json": {"Unmarshal", "NewDecoder"}, "go.yaml.in/yaml/v3": {"Unmarshal", "NewDecoder"}, "encoding/pem": {"Decode"}, "encoding/asn1": {"Unmarshal"},
	"crypto/x509": {"ParseCertificate", "ParseCertificates", "ParsePKIXPublicKey", "ParsePKCS1PublicKey", "ParsePKCS8PrivateKey", "ParsePKCS1PrivateKey", "ParseECPrivateKey"},
	"archive/tar": {"NewReader"}, "compress/gzip": {"NewReader"}, "mime/multipart": {"NewReader"}, "bufio": {"NewScanner"}, "net/url": {"Parse", "ParseQuery"},
	"filippo.io/age": {"ParseIdentities", "ParseRecipients", "Decrypt"}, "github.com/go-jose/go-jose/v4": {"ParseEncryptedCompact"},
	"github.com/distribution/reference": {"ParseNormalizedNamed"},
}

// TestFuzzing compares doc/fuzzing.md with the tree: every fuzz target and
// every file that decodes something stands in it, and what stands in it is
// there.
func TestFuzzing(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("doc/fuzzing.md")
	if err != nil {
		t.Fatal(err)
	}
	targets, decoding := readBoundaries(t)
	tests, _ := readTests(t)
	file := regexp.MustCompile("`([a-z0-9_/-]+\\.go)`")
	for n, line := range strings.Split(string(raw), "\n") {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range testSpan.FindAllStringSubmatch(line, -1) {
			for name := range strings.FieldsSeq(m[2]) {
				id := m[1] + ": " + name
				if _, isTarget := targets[id]; !isTarget && !tests[id] {
					t.Errorf("doc/fuzzing.md:%d: there is no %s", n+1, id)
				} else if isTarget {
					targets[id] = true
				}
			}
		}
		for _, m := range file.FindAllStringSubmatch(line, -1) {
			if _, known := decoding[m[1]]; !known {
				t.Errorf("doc/fuzzing.md:%d: nothing is decoded in %s", n+1, m[1])
			}
			decoding[m[1]] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(targets)) {
		if !targets[id] {
			t.Errorf("doc/fuzzing.md does not name the target %s", id)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(decoding)) {
		if !decoding[name] {
			t.Errorf("doc/fuzzing.md does not say which target is for what %s decodes, or why none is needed", name)
		}
	}
}

// readBoundaries returns the fuzz targets, as "package: FuzzName", and the
// files of programs that decode something.
func readBoundaries(t *testing.T) (targets, decoding map[string]bool) {
	targets, decoding = map[string]bool{}, map[string]bool{}
	walk(t, ".go", func(path string) {
		name := filepath.ToSlash(path)
		pkg := filepath.ToSlash(filepath.Dir(path))
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		if strings.HasSuffix(name, "_test.go") {
			for _, d := range f.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") {
					targets[pkg+": "+f.Name.Name] = false
				}
			}
			return
		}
		if pkg == "bench" || pkg == "bench/client" || strings.HasSuffix(pkg, "test") {
			return // programs and parts for tests, which read what they made
		}
		known := map[string][]string{}
		for _, i := range f.Imports {
			at := strings.Trim(i.Path.Value, `"`)
			local := strings.TrimSuffix(at, "/v3")
			local = strings.TrimPrefix(strings.TrimSuffix(local, "/v4"), "github.com/go-jose/go-")
			known[local[strings.LastIndex(local, "/")+1:]] = decoders[at]
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(known[x.Name], sel.Sel.Name) {
						decoding[name] = false
					}
				}
			}
			return true
		})
	})
	return targets, decoding
}
