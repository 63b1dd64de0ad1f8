package backup_test

import (
	"crypto"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/iechor/trust/backup"
	"github.com/iechor/trust/keys"
	"github.com/iechor/trust/keys/keystest"
	"github.com/iechor/trust/tuf"
)

func split(t testing.TB, key crypto.Signer, shares, threshold int) []string {
	t.Helper()
	texts, err := backup.Split(key, keys.Info{ID: publicOf(t, key).CanonicalID(), Role: "root"}, shares, threshold, keystest.Iterations)
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func parse(t testing.TB, texts ...string) []*backup.Share {
	t.Helper()
	var shares []*backup.Share
	for _, text := range texts {
		s, err := backup.ParseShare([]byte(text))
		if err != nil {
			t.Fatalf("ParseShare: %v\n%s", err, text)
		}
		shares = append(shares, s)
	}
	return shares
}

func combine(t testing.TB, texts ...string) (tuf.CanonicalID, error) {
	t.Helper()
	key, _, err := backup.Combine(parse(t, texts...))
	if err != nil {
		return "", err
	}
	return publicOf(t, key).CanonicalID(), nil
}

// Every choice of as many shares as the threshold says gives the key, in
// whatever order, and one less never does.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ shares, threshold int }{{2, 2}, {3, 2}, {5, 3}, {4, 4}} {
		t.Run(fmt.Sprintf("%d of %d", c.threshold, c.shares), func(t *testing.T) {
			t.Parallel()
			key := newKey(t)
			id := publicOf(t, key).CanonicalID()
			texts := split(t, key, c.shares, c.threshold)
			for chosen := range 1 << c.shares {
				var some []string
				for i, text := range texts {
					if chosen&(1<<i) != 0 {
						some = append(some, text)
					}
				}
				if len(some) == 0 {
					continue
				}
				slices.Reverse(some)
				got, err := combine(t, some...)
				if len(some) < c.threshold {
					if !errors.Is(err, backup.ErrTooFew) {
						t.Errorf("shares %b: %v, want ErrTooFew", chosen, err)
					}
				} else if err != nil || got != id {
					t.Errorf("shares %b: %s, %v, want %s", chosen, got, err, id)
				}
			}
		})
	}
	for _, c := range [][2]int{{1, 1}, {3, 1}, {2, 3}, {256, 2}, {0, 0}, {3, -1}} {
		if _, err := backup.Split(newKey(t), keys.Info{Role: "root"}, c[0], c[1], keystest.Iterations); !errors.Is(err, backup.ErrThreshold) {
			t.Errorf("Split into %d with threshold %d: %v, want ErrThreshold", c[0], c[1], err)
		}
	}
}

// The lines of shares as they can be typed: in any case, with or without
// dashes, digits for the letters that look like them, and nothing else.
func TestSharesTyped(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	id := publicOf(t, key).CanonicalID()
	texts := split(t, key, 3, 2)
	lines := strings.Join(regexp.MustCompile(`(?m)^  [1-5]:  .*$`).FindAllString(texts[0], -1), "\n")
	for name, typed := range map[string]string{
		"as printed":     lines,
		"in lower case":  strings.ToLower(lines),
		"with spaces":    strings.ReplaceAll(lines, "-", " "),
		"without dashes": strings.ReplaceAll(lines, "-", ""),
		"with look-alikes": regexp.MustCompile(`(?m)  .*$`).ReplaceAllStringFunc(lines, func(s string) string {
			return s[:6] + strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(s[6:])
		}),
		"on Windows": "\r\n" + strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n",
	} {
		if got, err := combine(t, typed, texts[2]); err != nil || got != id {
			t.Errorf("%s: %s, %v, want %s\n%s", name, got, err, id, typed)
		}
	}
	if _, err := combine(t, lines, strings.Join(regexp.MustCompile(`(?m)^  [1-5]:  .*$`).FindAllString(texts[1], -1), "\n")); !errors.Is(err, backup.ErrTooFew) {
		t.Errorf("lines alone, without the sealed key: %v, want ErrTooFew", err)
	}
	// any letter that is wrong is found, with its line
	words := []byte(lines)
	for i, c := range words {
		if c < 'A' || c > 'Z' {
			continue
		}
		words[i] = 'A' + (c-'A'+1)%26
		var wrong *backup.LineError
		if _, err := backup.ParseShare(words); !errors.As(err, &wrong) || wrong.Line != 1+strings.Count(lines[:i], "\n") {
			t.Fatalf("letter %d is wrong: %v, want the number of its line", i, err)
		}
		words[i] = c
	}
	all := strings.Split(lines, "\n")
	for name, text := range map[string]string{
		"nothing":         "",
		"a line less":     strings.Join(all[:4], "\n"),
		"lines swapped":   strings.Join([]string{all[1], all[0], all[2], all[3], all[4]}, "\n"),
		"a line twice":    strings.Join([]string{all[0], all[0], all[1], all[2], all[3], all[4]}, "\n"),
		"without end":     strings.Repeat("x", 1<<20),
		"of two shares":   strings.Join(all[:3], "\n") + "\n" + strings.Join(regexp.MustCompile(`(?m)^  [45]:  .*$`).FindAllString(texts[1], -1), "\n"),
		"another key in":  lines + "\n" + split(t, newKey(t), 2, 2)[0][strings.Index(split(t, newKey(t), 2, 2)[0], "-----BEGIN"):],
		"a plain key in":  lines + "\n-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"a private key":   string(sealed(t, key, "root", "").File()),
		"a key cut short": texts[0][:len(texts[0])-300] + "\n-----END ENCRYPTED PRIVATE KEY-----\n",
	} {
		if s, err := backup.ParseShare([]byte(text)); err == nil || s != nil {
			t.Errorf("%s: ParseShare took it", name)
		}
	}
}

// A share that does not belong to the others, or is not what it says, is named.
func TestAttackWrongShare(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	info := keys.Info{ID: publicOf(t, key).CanonicalID(), Role: "root"}
	a, b := split(t, key, 5, 3), split(t, key, 5, 3)
	foreign := split(t, newKey(t), 5, 3)
	// The holder of a share makes another one, with good checks.
	forged := parse(t, a[1])[0].Forge(info, 5, a[1])
	altered := func(text string) string { // another sealed key for the same id
		at := strings.Index(text, "-----BEGIN")
		return text[:at] + b[0][strings.Index(b[0], "-----BEGIN"):]
	}
	for name, test := range map[string]struct {
		shares []string
		index  int
	}{
		"of another set":         {[]string{a[0], b[1], a[2]}, 1},
		"of another key":         {[]string{foreign[0], a[1], a[2]}, 0},
		"twice":                  {[]string{a[0], a[1], a[0]}, 2},
		"forged, and one spare":  {[]string{a[0], forged, a[2], a[3]}, 1},
		"forged, and two spares": {[]string{a[4], a[0], a[2], a[3], forged}, 4},
		"with another key":       {[]string{a[0], altered(a[1]), a[2]}, 1},
	} {
		var wrong *backup.ShareError
		if _, err := combine(t, test.shares...); !errors.As(err, &wrong) || wrong.Index != test.index {
			t.Errorf("%s: %v, want number %d named", name, err, test.index)
		}
	}
	if _, err := combine(t, a[0], forged, a[2]); !errors.Is(err, backup.ErrWrong) {
		t.Errorf("forged, and none to spare: %v, want ErrWrong", err)
	}
	if got, err := combine(t, a[0], a[1], a[2]); err != nil || got != info.ID {
		t.Errorf("honest shares afterwards: %s, %v", got, err)
	}
}

// One share less than the threshold fits every secret: whichever one an attacker
// guesses, there are other shares that lead to it. Here that is shown by
// computing them.
func TestAttackTooFewShares(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	known := parse(t, split(t, key, 3, 3)...)[:2]
	for guess := range int64(20) {
		// the third share that, with the known ones, makes the secret the guess
		points := map[int64]*big.Int{0: big.NewInt(guess)}
		for _, s := range known {
			points[int64(s.Number)] = s.Value()
		}
		third := interpolate(points, 3)
		delete(points, 0)
		points[3] = third
		if got := interpolate(points, 0); got.Int64() != guess || !got.IsInt64() {
			t.Fatalf("two shares of three exclude the secret %d: %s", guess, got)
		}
	}
	// Two splits of one key have no share in common.
	for i, s := range parse(t, split(t, key, 3, 3)...)[:2] {
		if s.Value().Cmp(known[i].Value()) == 0 {
			t.Error("shares repeat themselves")
		}
	}
}

// interpolate is Lagrange's formula, written independently of the library.
func interpolate(points map[int64]*big.Int, at int64) *big.Int {
	n, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	sum := new(big.Int)
	for i, y := range points {
		term := new(big.Int).Set(y)
		for j := range points {
			if j != i {
				term.Mul(term, big.NewInt(at-j))
				term.Mul(term, new(big.Int).ModInverse(new(big.Int).Mod(big.NewInt(i-j), n), n))
			}
		}
		sum.Add(sum, term)
	}
	return sum.Mod(sum, n)
}

// Shares of version 1 are read for ever: these files were made once, and are
// never made again.
func TestGoldenShares(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/v1-share-*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 && *update {
		for i, text := range split(t, newKey(t), 5, 3) {
			path := fmt.Sprintf("testdata/v1-share-%d.txt", i+1)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
	}
	var texts []string
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(raw))
	}
	if len(texts) != 5 {
		t.Fatalf("%d golden shares, want 5", len(texts))
	}
	want := regexp.MustCompile(`key ID +([0-9a-f]{64})`).FindStringSubmatch(texts[0])[1]
	for i := range 3 {
		if got, err := combine(t, texts[i:i+3]...); err != nil || string(got) != want {
			t.Errorf("shares %d to %d: %s, %v, want %s", i+1, i+3, got, err, want)
		}
	}
}

// doc/format.md has a script for whoever has shares and not this program. It is
// run here as it stands there, and openssl opens the key with what it prints.
func TestSharesByHand(t *testing.T) {
	t.Parallel()
	for _, p := range []struct{ program, pkg string }{{"python3", "python3"}, {"openssl", "openssl"}} {
		if _, err := exec.LookPath(p.program); err != nil {
			if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), p.program) {
				t.Fatalf("%s is required and not installed: apt-get install %s", p.program, p.pkg)
			}
			t.Skipf("%s is not installed: apt-get install %s", p.program, p.pkg)
		}
	}
	doc, err := os.ReadFile("../doc/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(doc), "```python\n")
	if !ok {
		t.Fatal("doc/format.md has no script")
	}
	script, _, _ = strings.Cut(script, "```\n")
	dir := t.TempDir()
	args := []string{"-c", script}
	for _, n := range []string{"2", "5", "4"} {
		path, err := filepath.Abs("testdata/v1-share-" + n + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	byHand := exec.Command("python3", args...)
	byHand.Stderr = os.Stderr
	out, err := byHand.Output()
	if err != nil {
		t.Fatalf("the script of doc/format.md: %v", err)
	}
	passphrase := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(passphrase, out, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `sed '/^path: /d; /^role: /,+1d' "$1" | openssl pkey -passin "file:$2" -noout -text`, "sh", args[2], passphrase)
	if got, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(got), "Private-Key: (256 bit)") {
		t.Errorf("openssl with the passphrase from the script: %v\n%s", err, got)
	}
}

func FuzzParseShare(f *testing.F) {
	for n := range 5 {
		raw, err := os.ReadFile(fmt.Sprintf("testdata/v1-share-%d.txt", n+1))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := backup.ParseShare(raw)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("ParseShare(%q) = %q", raw, err)
			}
			return
		}
		again, err := backup.ParseShare([]byte(s.Lines()))
		if err != nil || !again.SameAs(s) || again.Value().Cmp(s.Value()) != 0 {
			t.Errorf("a share does not survive: %v\n%s", err, raw)
		}
	})
}
