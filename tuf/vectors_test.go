package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The vectors of testdata/notary-0.7 were written by the stock programs on
// this day; their timestamps live for two weeks.
var vectorDay = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

type vectorRepo struct {
	GUN   GUN `json:"gun"`
	Files map[string]struct {
		Type       string      `json:"type"`
		Version    int64       `json:"version"`
		Expires    string      `json:"expires"`
		Length     int         `json:"length"`
		SHA256     string      `json:"sha256"`
		Length2    int         `json:"canonical_signed_length"`
		SHA256Sign string      `json:"canonical_signed_sha256"`
		Signatures [][2]string `json:"signatures"`
	} `json:"files"`
	Keys map[string]struct {
		Type      KeyType     `json:"keytype"`
		Canonical CanonicalID `json:"canonical_id"`
	} `json:"keys"`
	Targets map[RoleName]map[string]json.RawMessage `json:"targets_by_role"`
}

func vectorRepos(t testing.TB) map[string]vectorRepo {
	t.Helper()
	raw, err := os.ReadFile("testdata/notary-0.7/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var repos map[string]vectorRepo
	if err := json.Unmarshal(raw, &repos); err != nil {
		t.Fatal(err)
	}
	return repos
}

func vectorFile(t testing.TB, repo, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata/notary-0.7/repos", repo, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// vectorRole is the role of a vector's file name, such as
// "versions/targets/2.releases.json".
func vectorRole(name string) RoleName {
	_, rest, _ := strings.Cut(name, "/")
	dir, base := path.Split(strings.TrimSuffix(rest, ".json"))
	if n, after, ok := strings.Cut(base, "."); ok && strings.Trim(n, "0123456789") == "" {
		base = after
	}
	return RoleName(dir + base)
}

func TestVectorsDecode(t *testing.T) {
	t.Parallel()
	for repo, want := range vectorRepos(t) {
		for name, f := range want.Files {
			raw := vectorFile(t, repo, name)
			d, err := decode(Options{}.filled(), vectorRole(name), raw)
			if err != nil {
				t.Errorf("%s/%s: %v", repo, name, err)
				continue
			}
			sum := sha256.Sum256(d.message)
			if got := hex.EncodeToString(sum[:]); got != f.SHA256Sign || len(d.message) != f.Length2 {
				t.Errorf("%s/%s: canonical form is %s (%d bytes), want %s (%d)", repo, name, got, len(d.message), f.SHA256Sign, f.Length2)
			}
			expires, _ := time.Parse(time.RFC3339Nano, f.Expires)
			if d.version != f.Version || !d.expires.Equal(expires) || typeOf(d.Role) != f.Type {
				t.Errorf("%s/%s: version %d, expires %v, want %d, %v", repo, name, d.version, d.expires, f.Version, expires)
			}
			var sigs [][2]string
			for _, s := range d.sigs {
				sigs = append(sigs, [2]string{string(s.KeyID), s.Method})
			}
			slices.SortFunc(sigs, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
			if !slices.Equal(sigs, f.Signatures) {
				t.Errorf("%s/%s: signatures %v, want %v", repo, name, sigs, f.Signatures)
			}
			// A no-op edit: decoding and writing again changes no byte.
			if got := envelope(d.payload, d.sigs); string(got) != string(raw) {
				t.Errorf("%s/%s: written again as\n%s\nwant\n%s", repo, name, got, raw)
			}
		}
	}
}

func TestVectorsKeyIDs(t *testing.T) {
	t.Parallel()
	seen := map[KeyType]bool{}
	for repo, want := range vectorRepos(t) {
		for name := range want.Files {
			d, err := decode(Options{}.filled(), vectorRole(name), vectorFile(t, repo, name))
			if err != nil {
				t.Fatal(err)
			}
			roles := []Role{}
			for _, r := range d.roles {
				roles = append(roles, r)
			}
			for _, g := range d.delegations {
				roles = append(roles, g.Role)
			}
			for _, r := range roles {
				for _, k := range r.Keys {
					e, ok := want.Keys[string(k.ID)]
					if k.PublicKey.ID() != k.ID || !ok || k.CanonicalID() != e.Canonical || k.Type != e.Type {
						t.Errorf("%s/%s: key %s computed as %s, canonical %s; want %+v", repo, name, k.ID, k.PublicKey.ID(), k.CanonicalID(), e)
					}
					if _, err := k.Public(); err != nil {
						t.Errorf("%s/%s: key %s: %v", repo, name, k.ID, err)
					}
					seen[k.Type] = true
				}
			}
		}
	}
	for _, kt := range []KeyType{ECDSA, ECDSAx509, RSA, RSAx509, Ed25519} {
		if !seen[kt] {
			t.Errorf("no key of type %s among the vectors", kt)
		}
	}
}

// walkVector updates from past to a vector's files: "current", and older root
// versions from "versions".
func walkVector(t testing.TB, repo string, gun GUN, past *Past, o Options) (*Set, []string, error) {
	u := Begin(gun, past, o)
	var asked []string
	for w, more := u.Next(); more; w, more = u.Next() {
		name := "current/" + string(w.Role) + ".json"
		if w.Version != 0 {
			name = "versions/" + itoa(w.Version) + ".root.json"
		}
		asked = append(asked, strings.TrimPrefix(name, "current/"))
		raw, err := os.ReadFile(filepath.Join("testdata/notary-0.7/repos", repo, name))
		if err != nil {
			err = u.Missing(w)
		} else {
			err = u.Add(w, raw)
		}
		if err != nil {
			return nil, asked, err
		}
	}
	s, err := u.Set()
	return s, asked, err
}

func itoa(v int64) string { return intNode(v).text }

func TestVectorsUpdate(t *testing.T) {
	t.Parallel()
	for repo, want := range vectorRepos(t) {
		t.Run(repo, func(t *testing.T) {
			t.Parallel()
			o := Options{Now: vectorDay}
			s, asked, err := walkVector(t, repo, want.GUN, nil, o)
			if err != nil {
				t.Fatalf("first update: %v", err)
			}
			for role, targets := range want.Targets {
				n := 0
				for got := range s.Targets(role) {
					if _, ok := targets[got.Name]; !ok {
						t.Errorf("%s: unexpected target %q", role, got.Name)
					}
					n++
				}
				if _, usable := s.Info(role); usable && n > len(targets) {
					t.Errorf("%s: %d targets, want %d", role, n, len(targets))
				}
			}
			if len(asked) < 4 || asked[0] != "root.json" || asked[1] != "timestamp.json" {
				t.Errorf("asked for %v", asked)
			}
			past, err := Recall(want.GUN, s.Files(), o)
			if err != nil {
				t.Fatalf("Recall: %v", err)
			}
			again, asked, err := walkVector(t, repo, want.GUN, past, o)
			if err != nil {
				t.Fatalf("second update: %v", err)
			}
			if !slices.Equal(asked, []string{"timestamp.json"}) {
				t.Errorf("a warm update asked for %v, want the timestamp alone", asked)
			}
			if len(again.Files()) != len(s.Files()) {
				t.Errorf("%d files after a warm update, want %d", len(again.Files()), len(s.Files()))
			}
			if _, _, err := walkVector(t, repo, want.GUN, past, Options{Now: vectorDay.AddDate(0, 0, 15)}); !errors.Is(err, ErrExpired) {
				t.Errorf("after two weeks: %v, want ErrExpired", err)
			}
			if _, _, err := walkVector(t, repo, want.GUN+"x", nil, o); !errors.Is(err, ErrRoot) {
				t.Errorf("under another name: %v, want ErrRoot", err)
			}
		})
	}
}

// A client that holds root version 1 follows three rotations.
func TestVectorsRootChain(t *testing.T) {
	t.Parallel()
	const repo = "rotated"
	gun := vectorRepos(t)[repo].GUN
	past, err := Recall(gun, []File{{Role: RoleRoot, Raw: vectorFile(t, repo, "versions/1.root.json")}}, Options{Now: vectorDay})
	if err != nil {
		t.Fatal(err)
	}
	s, asked, err := walkVector(t, repo, gun, past, Options{Now: vectorDay})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"timestamp.json", "root.json",
		"versions/2.root.json", "versions/3.root.json", "versions/4.root.json", "versions/5.root.json", "versions/6.root.json",
		"timestamp.json", "snapshot.json", "targets.json"}
	if info, _ := s.Info(RoleRoot); info.Version != 7 || !slices.Equal(asked, want) {
		t.Errorf("root version %d after asking for %v, want 7 after %v", info.Version, asked, want)
	}
}
