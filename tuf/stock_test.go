package tuf_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/iechor/trust/tuf"
	"github.com/iechor/trust/tuf/tuftest"
)

// onlyWeRefuse are the mutations of which the stock client takes some. Why
// stands in doc/fuzzing.md.
var onlyWeRefuse = []string{
	"member twice", "case of a member", "length", "unknown member", "signatures",
}

// TestStockRefusesNoMore has the stock client and this package read the same
// repositories, each of them broken in some way: what the stock client refuses
// is refused, what it does not show is not there, and what it alone takes is
// known and has a reason.
func TestStockRefusesNoMore(t *testing.T) {
	t.Parallel()
	_, err := exec.LookPath("notary")
	needs(t, "notary", "notary", err == nil)
	n, r := cases(t, 120)
	w := newStockWorld(t)
	var mu sync.Mutex
	results := map[string]int{}
	var wait sync.WaitGroup
	slots := make(chan struct{}, 2)
	for i := range n {
		files, what := w.repo.Files(), "nothing"
		if i > 1 {
			files, what = w.mutate(t, rand.New(rand.NewPCG(r.Uint64(), uint64(i))))
		}
		knows := i%2 == 1
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			class := w.compare(t, i, files, what, knows)
			mu.Lock()
			defer mu.Unlock()
			results[class]++
		})
	}
	wait.Wait()
	t.Logf("%d cases: %v", n, results)
	if results["both take it"] == 0 || results["both refuse it"] < n/4 {
		t.Errorf("the cases are not varied enough: %v", results)
	}
}

// TestOnlyWeRefuseIsExplained compares onlyWeRefuse with doc/fuzzing.md.
func TestOnlyWeRefuseIsExplained(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../doc/fuzzing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(raw), "\n### What only we refuse\n")
	table, _, _ = strings.Cut(table, "\n#")
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z][^|]*) \| [^|]+ \|$`).FindAllStringSubmatch(table, -1) {
		if m[1] != "mutation" {
			got = append(got, m[1])
		}
	}
	if want := slices.Sorted(slices.Values(onlyWeRefuse)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("doc/fuzzing.md explains %q, want %q", got, want)
	}
}

// A stockWorld is a repository with delegations, and what a client knows that
// has seen it before its last publishes.
type stockWorld struct {
	repo  *tuftest.Repo
	now   time.Time
	older tuftest.Files
	past  *tuf.Past
	dir   string // the trust directory of the stock client that knows it
	roles []tuf.RoleName
}

func newStockWorld(t *testing.T) *stockWorld {
	t.Helper()
	const life = 9 * 365 * 24 * time.Hour
	var options []tuftest.Option
	for _, role := range []tuf.RoleName{tuf.RoleRoot, tuf.RoleTargets, tuf.RoleSnapshot, tuf.RoleTimestamp} {
		options = append(options, tuftest.Lifetime(role, life))
	}
	options = append(options, tuftest.Keys(tuf.RoleTargets, 2, 1), tuftest.Delegation(tuf.RoleReleases), tuftest.Delegation("targets/alice", "a"))
	w := &stockWorld{repo: tuftest.New(t, gun, options...), now: time.Now()}
	tag := func(names ...string) {
		var changes []tuf.Change
		for _, n := range names {
			changes = append(changes, tuf.AddTarget{Target: tuftest.Target(n)}, tuf.AddTarget{Target: tuftest.TargetIn(tuf.RoleReleases, "r"+n)}, tuf.AddTarget{Target: tuftest.TargetIn("targets/alice", "a"+n)})
		}
		w.repo.Publish(t, changes...)
	}
	tag("1", "2")
	w.older, w.past = w.repo.Files(), w.repo.Trusted(t)
	w.dir = t.TempDir()
	if out, err := w.stock(t, w.older, w.dir); err != nil {
		t.Fatalf("the stock client refuses an honest repository: %v\n%s", err, out)
	}
	tag("3")
	w.repo.RotateRoot(t)
	w.roles = slices.Sorted(maps.Keys(w.repo.Files().Current))
	return w
}

// stock has the stock client list what files serve.
func (w *stockWorld) stock(t *testing.T, files tuftest.Files, dir string) (out []byte, err error) {
	path := regexp.MustCompile(`/_trust/tuf/(?:([0-9]+)\.)?([a-z/]+?)(?:\.([0-9a-f]{64}))?\.json$`)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		m := path.FindStringSubmatch(r.URL.Path)
		if m == nil {
			http.NotFound(rw, r)
			return
		}
		want := tuf.Want{Role: tuf.RoleName(m[2])}
		if m[1] != "" {
			want.Version, _ = strconv.ParseInt(m[1], 10, 64)
		}
		if m[3] != "" {
			want.SHA256, _ = hex.DecodeString(m[3])
		}
		raw, ok := files.Get(want)
		if !ok {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(raw) // the client may have enough
	}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	return exec.CommandContext(ctx, "notary", "-s", s.URL, "-d", dir, "list", string(gun)).Output()
}

// compare returns how the two readers of files agree.
func (w *stockWorld) compare(t *testing.T, i int, files tuftest.Files, what string, knows bool) string {
	dir := filepath.Join(t.TempDir(), "trust")
	var past *tuf.Past
	if knows {
		past = w.past
		if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
			t.Error(err)
		}
	}
	set, ours := tuftest.Walk(past, files, w.now)
	out, theirs := w.stock(t, files, dir)
	var exit *exec.ExitError
	if theirs != nil && !errors.As(theirs, &exit) {
		t.Errorf("case %d: the stock client does not run: %v", i, theirs)
	}
	said := ""
	if exit != nil {
		said = string(exit.Stderr)
	}
	switch {
	case ours != nil && theirs != nil:
		return "both refuse it"
	case ours != nil:
		if !slices.Contains(onlyWeRefuse, kindOf(what)) {
			t.Errorf("case %d, known before: %v: only we refuse %s: %v", i, knows, what, ours)
		}
		return "only we refuse it: " + kindOf(what)
	case theirs != nil:
		t.Errorf("case %d, known before: %v: the stock client refuses %s: %s", i, knows, what, said)
		return "only they refuse it"
	}
	shown := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 4 && len(f[1]) == 64 {
			shown[f[0]] = f[1]
		}
	}
	for _, role := range set.Roles() {
		for x := range set.Targets(role) {
			if shown[x.Name] == "" {
				t.Errorf("case %d, known before: %v: %s: %q of %s is shown, and not by the stock client", i, knows, what, x.Name, role)
			}
		}
	}
	for name, digest := range shown {
		x, err := set.Lookup(name, set.Roles()...)
		if err == nil && hex.EncodeToString(x.SHA256()) != digest {
			t.Errorf("case %d, known before: %v: %s: %q is %x, for the stock client %s", i, knows, what, name, x.SHA256(), digest)
		}
	}
	return "both take it"
}

// kindOf is the kind of a mutation, without its particulars.
func kindOf(what string) string { kind, _, _ := strings.Cut(what, ":"); return kind }

// mutate returns the repository with one thing wrong, and which.
func (w *stockWorld) mutate(t *testing.T, r *rand.Rand) (tuftest.Files, string) {
	role := w.roles[r.IntN(len(w.roles))]
	raw := w.repo.Files().Current[role]
	signers, by := w.repo.Signers(t, role), "right keys"
	if role == tuf.RoleRoot && r.IntN(2) == 0 { // the next one
		by = "right keys, next version"
	}
	switch r.IntN(16) {
	case 0:
		signers, by = []tuf.Signer{tuftest.Key("thief")}, "a wrong key"
	case 1:
		signers, by = nil, "no key"
	case 2:
		signers, by = append(signers, tuftest.Key("thief")), "right keys and a wrong one"
	}
	kind, particular := "", ""
	if r.IntN(5) < 3 {
		p := tuftest.Payload(t, raw)
		if !strings.HasPrefix(by, "right keys") || by != "right keys" || r.IntN(3) > 0 {
			if v, err := p["version"].(json.Number).Int64(); err == nil && (role != tuf.RoleRoot || strings.Contains(by, "next")) {
				p["version"] = v + 1
			}
		}
		kind, particular = editPayload(r, p)
		raw = tuftest.Seal(t, p, signers...)
	} else {
		raw = tuftest.Reseal(t, raw, nil, signers...)
		raw, kind, particular = editText(t, r, raw)
	}
	what := fmt.Sprintf("%s: %s in %s, signed by %s", kind, particular, role, by)
	files := w.repo.Swap(t, map[tuf.RoleName][]byte{role: raw})
	switch r.IntN(12) {
	case 0: // the rest does not follow
		files = w.repo.Files().With(role, raw)
		what += ", alone"
	case 1:
		if role != tuf.RoleTimestamp {
			files = files.With(tuf.RoleTimestamp, w.older.Current[tuf.RoleTimestamp])
			what = "older timestamp: " + what
		}
	}
	return files, what
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// object returns one of the objects in v, at any depth.
func object(r *rand.Rand, v tuftest.Object) tuftest.Object {
	for {
		var below []tuftest.Object
		for _, name := range slices.Sorted(maps.Keys(v)) {
			switch x := v[name].(type) {
			case tuftest.Object:
				below = append(below, x)
			case []any:
				for _, y := range x {
					if o, ok := y.(tuftest.Object); ok {
						below = append(below, o)
					}
				}
			}
		}
		if len(below) == 0 || r.IntN(4) == 0 {
			return v
		}
		v = below[r.IntN(len(below))]
	}
}

// editPayload breaks what is signed, and says how.
func editPayload(r *rand.Rand, p tuftest.Object) (kind, particular string) {
	set := func(kind string, o tuftest.Object, name string, v any) (string, string) {
		o[name] = v
		return kind, fmt.Sprintf("%s = %v", name, v)
	}
	inside := func(name string) (found []tuftest.Object) { // all objects that have such a member
		var walk func(v any)
		walk = func(v any) {
			switch x := v.(type) {
			case tuftest.Object:
				if _, ok := x[name]; ok {
					found = append(found, x)
				}
				for _, n := range slices.Sorted(maps.Keys(x)) {
					walk(x[n])
				}
			case []any:
				for _, y := range x {
					walk(y)
				}
			}
		}
		walk(p)
		return found
	}
	within := func(kind, name string, values ...any) (string, string) {
		if all := inside(name); len(all) > 0 {
			return set(kind, all[r.IntN(len(all))], name, pick(r, values...))
		}
		return "unknown member", fmt.Sprint(set("", p, "extra", 1))
	}
	switch r.IntN(16) {
	case 0:
		return set("version", p, "version", pick[any](r, -1, 0, 1, 2, 100, int64(1)<<53, int64(1)<<31, "3", nil))
	case 1:
		return set("expires", p, "expires", pick[any](r, "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "2027", "tomorrow", nil, 7, "2027-01-01T00:00:00+01:00", "2027-01-01t00:00:00z"))
	case 2:
		return set("type", p, "_type", pick[any](r, "Root", "Targets", "Snapshot", "Timestamp", "root", "targets", "", nil))
	case 3:
		return within("threshold", "threshold", 0, -1, 2, 3, 100, "1", nil)
	case 4:
		return within("keyids", "keyids", []string{}, nil, []string{strings.Repeat("ab", 32)}, "x")
	case 5:
		for _, o := range inside("keyids") {
			if ids, ok := o["keyids"].([]any); ok && len(ids) > 0 {
				o["keyids"] = append(ids, ids[0])
				return "repeated key id", ""
			}
		}
		return set("unknown member", p, "extra", tuftest.Object{"a": nil})
	case 6:
		return within("key", pick(r, "keytype", "public", "private", "keyval"), "ecdsa", "rsa", "ed25519", "AAAA", nil, tuftest.Object{})
	case 7:
		return within("checksum", pick(r, "sha256", "sha512"), "AAAA", strings.Repeat("A", 43)+"=", nil, "")
	case 8:
		if all := inside("hashes"); len(all) > 0 {
			o := all[r.IntN(len(all))]
			v := pick[any](r, tuftest.Object{}, tuftest.Object{"md5": "AAAA"}, nil, []string{})
			return set("checksums", o, "hashes", v)
		}
		return set("unknown member", p, "hashes", 1)
	case 9:
		return within("length", "length", 0, -1, 1, int64(1)<<40, nil, "7")
	case 10:
		return within("paths", "paths", []string{}, []string{"zzz"}, []string{"", "a"}, nil, []string{"../"}, "x")
	case 11:
		return within("delegation name", "name", "targets/bob", "targets/../x", "targets", "snapshot", "Targets/alice", "targets/", "", nil)
	case 12:
		o := object(r, p)
		if len(o) == 0 {
			o = p
		}
		name := pick(r, slices.Sorted(maps.Keys(o))...)
		delete(o, name)
		return "missing member", name
	case 13:
		o := object(r, p)
		if len(o) == 0 {
			o = p
		}
		name := pick(r, slices.Sorted(maps.Keys(o))...)
		return set("wrong shape", o, name, pick[any](r, nil, []any{}, tuftest.Object{}, "x", 7, true))
	case 14:
		return set("unknown member", object(r, p), pick(r, "extra", "Version", "expire", "x y", "\u00e9"), pick[any](r, 1, nil, "x", tuftest.Object{"a": 1}))
	default:
		if targets, ok := p["targets"].(tuftest.Object); ok {
			sum := strings.Repeat("A", 43) + "="
			return set("target", targets, pick(r, "new", "a new", "\u202e", "x/../y", strings.Repeat("n", 300), ""),
				pick[any](r, tuftest.Object{"length": 1, "hashes": tuftest.Object{"sha256": sum}}, tuftest.Object{"length": -1, "hashes": tuftest.Object{"sha256": sum}},
					tuftest.Object{"hashes": tuftest.Object{"sha256": sum}}, tuftest.Object{"length": 1}, nil, tuftest.Object{"length": 1, "hashes": tuftest.Object{"sha256": sum}, "custom": 7}))
		}
		if meta, ok := p["meta"].(tuftest.Object); ok {
			name := pick(r, slices.Sorted(maps.Keys(meta))...)
			delete(meta, name)
			return "hidden role", name
		}
		return set("consistent snapshots", p, "consistent_snapshot", pick[any](r, true, nil, "x"))
	}
}

// editText breaks the text of a file, and says how.
func editText(t *testing.T, r *rand.Rand, raw []byte) (out []byte, kind, particular string) {
	text := string(raw)
	once := func(kind, old, new string) ([]byte, string, string) {
		return []byte(strings.Replace(text, old, new, 1)), kind, fmt.Sprintf("%q for %q", new, old)
	}
	version := regexp.MustCompile(`"version":([0-9]+)`).FindStringSubmatch(text)
	switch r.IntN(12) {
	case 0:
		return once("member twice", `"signed":{`, `"signed":{`+pick(r, `"version":99,`, `"_type":"X",`, `"expires":"2099-01-01T00:00:00Z",`))
	case 1:
		return once("member twice", `{"signed":`, `{"signatures":[],"signed":`)
	case 2:
		return once("white space", `"signed":{`, pick(r, `"signed" : {`, "\"signed\":{\n\t", "\"signed\":\r\n {"))
	case 3:
		return once("escapes", `"version"`, pick(r, `"\u0076ersion"`, `"versio\u006e"`))
	case 4:
		return once("number form", version[0], `"version":`+pick(r, version[1]+".0", version[1]+"e0", "0"+version[1], "+"+version[1], `"`+version[1]+`"`))
	case 5:
		return []byte(text + pick(r, " ", "\n", "x", "{}", "\x00", `{"signed":{}}`)), "bytes at the end", ""
	case 6:
		return once("member beside", `{"signed":`, `{"extra":1,"signed":`)
	case 7:
		return once("case of a member", pick(r, `"version"`, `"expires"`, `"signed"`, `"signatures"`, `"keyid"`, `"sig"`), pick(r, `"Version"`, `"EXPIRES"`, `"Signed"`, `"SIG"`))
	case 8:
		return []byte(pick(r, "\ufeff", " ", "x") + text), "bytes at the beginning", ""
	case 9:
		at := r.IntN(len(raw))
		out := slices.Clone(raw)
		out[at] ^= 1 << r.IntN(7)
		return out, "changed byte", strconv.Itoa(at)
	case 10:
		return raw[:r.IntN(len(raw))], "cut off", ""
	default:
		how := pick(r, "repeated", "garbage", "method", "none", "keyid", "empty value")
		return tuftest.Signatures(t, raw, func(all []tuftest.Object) []tuftest.Object {
			switch {
			case how == "none" || len(all) == 0:
				return []tuftest.Object{}
			case how == "repeated":
				return append(all, all[0])
			case how == "garbage":
				return append(all, tuftest.Object{"keyid": "x", "method": "eddsa", "sig": "AAAA"})
			case how == "method":
				all[0]["method"] = pick(r, "ecdsa", "rsapss", "EDDSA", "")
			case how == "keyid":
				all[0]["keyid"] = strings.ToUpper(all[0]["keyid"].(string))
			default:
				all[0]["sig"] = ""
			}
			return all
		}), "signatures", how
	}
}
