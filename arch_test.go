package trust

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/iechor/trust"

// floors lists every package, lowest floor first. A package may import only
// packages on floors below its own.
var floors = [][]string{
	{"tuf", "certs", "terminal", "database", "metrics", "traces", "keys/piv/pivtest", "cmd/cmdtest"},
	{"registry", "keys", "api", "storage", "notary", "tuf/tuftest", "metrics/metricstest", "traces/tracestest"},
	{"trust", "signer", "server", "backup", "keys/keystest", "keys/pkcs11", "keys/piv", "storage/storagetest", "signer/signertest", "notary/notarytest"},
	{"sandbox", "database/drivers", "bench/client"},
	{"cmd/iechor", "cmd/iechor-trustd", "database/databasetest", "sandbox/sandboxtest", "bench/benchclient"},
	{"bench"},
}

// never lists imports that the floors would allow and security does not.
var never = map[string][]string{
	"server":   {"keys"},                          // private keys stay behind the signer
	"signer":   {"storage"},                       // the signer has a database of its own
	"trust":    {"storage", "database", "traces"}, // the client has no database, and reports to nobody
	"registry": {"tuf"},                           // images know nothing of trust
}

// drivers are imported only where programs are put together.
var drivers = []string{"modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/jackc/pgx/v5/pgconn", "github.com/jackc/pgx/v5/stdlib", "github.com/go-sql-driver/mysql"}

// only lists what is known in one package, which is a thin skin over it.
var only = map[string]string{
	"github.com/miekg/pkcs11":         "keys/pkcs11",
	"github.com/go-piv/piv-go/v2/piv": "keys/piv",
}

func TestFloors(t *testing.T) {
	t.Parallel()
	floor := map[string]int{}
	for n, pkgs := range floors {
		for _, p := range pkgs {
			floor[p] = n
		}
	}
	every := build.Default
	every.UseAllFiles = true // see hardware and other-OS files too
	for _, p := range packages(t) {
		if _, ok := floor[p]; !ok {
			t.Errorf("%s is in the tree and not in the list", p)
		}
	}
	for p, n := range floor {
		pkg, err := every.ImportDir(p, 0)
		if err != nil {
			t.Errorf("%s is in the list and not in the tree: %v", p, err)
			continue
		}
		for _, imp := range pkg.Imports {
			if slices.Contains(drivers, imp) && n < floor["sandbox"] {
				t.Errorf("%s imports the driver %s", p, imp)
			}
			if skin, ok := only[imp]; ok && p != skin {
				t.Errorf("%s imports %s, which is for %s", p, imp, skin)
			}
			first, _, _ := strings.Cut(imp, "/")
			if p == "tuf" && strings.Contains(first, ".") {
				t.Errorf("tuf imports %s, which is not of the standard library", imp)
			}
			q, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if m, ok := floor[q]; !ok || m >= n {
				t.Errorf("%s (floor %d) imports %s (floor %d)", p, n, q, m)
			}
			if slices.Contains(never[p], q) {
				t.Errorf("%s imports %s", p, q)
			}
		}
	}
}

// packages returns the folders that hold Go files, the root's tests aside.
func packages(t *testing.T) []string {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && path != "." && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && filepath.Dir(path) != "." {
			seen[filepath.ToSlash(filepath.Dir(path))] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for p := range seen {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}
