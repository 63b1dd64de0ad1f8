package tuf_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/iechor/trust/tuf"
)

// needs skips the test where a peer is not here, or fails it if IECHOR_REQUIRE
// names the peer.
func needs(t *testing.T, peer, pkg string, here bool) {
	t.Helper()
	if here {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("IECHOR_REQUIRE"), ","), peer) {
		t.Fatalf("%s is required and not here: apt-get install %s", peer, pkg)
	}
	t.Skipf("%s is not here: apt-get install %s", peer, pkg)
}

// cases is how many cases a differential test tries: preset, or what
// IECHOR_FUZZ_CASES says, for long runs; and a generator of them, with a seed
// that is logged: 1, or that of IECHOR_FUZZ_SEED.
func cases(t *testing.T, preset int) (n int, r *rand.Rand) {
	t.Helper()
	number := func(name string, preset uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return preset
		}
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s=%s is not a number", name, text)
		}
		return v
	}
	seed := number("IECHOR_FUZZ_SEED", 1)
	n = int(number("IECHOR_FUZZ_CASES", uint64(preset)))
	t.Logf("IECHOR_FUZZ_SEED=%d IECHOR_FUZZ_CASES=%d go test ./tuf -run '^%s$'", seed, n, t.Name())
	return n, rand.New(rand.NewPCG(seed, 0))
}

// A text is taken and refused as by Python's json and securesystemslib, gets
// the same canonical form, and a key the same id. The texts are golden files,
// generated values, and mutations of both.
func TestCanonicalLikePython(t *testing.T) {
	t.Parallel()
	python := "/usr/bin/python3"
	if p, err := exec.LookPath("python3"); err == nil && exec.Command(p, "-c", "import securesystemslib").Run() == nil {
		python = p
	}
	needs(t, "securesystemslib", "python3-securesystemslib", exec.Command(python, "-c", "import securesystemslib").Run() == nil)
	peer := exec.Command(python, "testdata/canonical.py")
	in, err := peer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	peer.Stderr = os.Stderr
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(in.Close(), peer.Wait()); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewReaderSize(out, 16<<20)

	n, r := cases(t, 4000)
	var corpus [][]byte
	vectors(t, func(_ tuf.RoleName, raw []byte) {
		if len(raw) < 20_000 {
			corpus = append(corpus, raw)
		}
	})
	taken, keys := 0, 0
	seen := map[string]int{}
	for i := range n {
		raw := randomText(r, corpus)
		if i < len(corpus) {
			raw = corpus[i]
		}
		if _, err := fmt.Fprintf(in, "%x\n", raw); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("Python stopped at %q: %v", raw, err)
		}
		line = strings.TrimSpace(line)
		got, err := tuf.Canonical(raw)
		if why, refused := strings.CutPrefix(line, "refused: "); refused {
			if seen[why]++; err == nil {
				t.Errorf("Canonical(%q) = %q, and Python refuses it: %s", raw, got, why)
			}
			continue
		}
		if err != nil {
			t.Errorf("Canonical(%q) = %v, and Python takes it: %s", raw, err, line)
			continue
		}
		taken++
		canonical, id, _ := strings.Cut(strings.TrimPrefix(line, "ok "), " ")
		if hex.EncodeToString(got) != canonical {
			want, _ := hex.DecodeString(canonical) // it is shown as it is
			t.Errorf("Canonical(%q) = %q, Python %q", raw, got, want)
		}
		var k tuf.PublicKey
		if id != "-" && k.UnmarshalJSON(raw) == nil {
			if keys++; string(k.ID()) != id {
				t.Errorf("the id of %q is %s, by Python %s", raw, k.ID(), id)
			}
		}
	}
	t.Logf("%d texts: %d taken by both, %d keys with equal ids, refused by both: %v", n, taken, keys, seen)
	if n >= 4000 && (taken < n/10 || keys < n/100 || len(seen) < 6) {
		t.Error("the texts are not varied enough")
	}
}

// randomText returns a JSON text, or what is nearly one.
func randomText(r *rand.Rand, corpus [][]byte) []byte {
	var raw []byte
	switch r.IntN(5) {
	case 0:
		raw = bytes.Clone(corpus[r.IntN(len(corpus))])
	case 1:
		raw = randomKey(r)
	default:
		raw = appendRandom(nil, r, 5)
	}
	for r.IntN(3) == 0 && len(raw) > 0 { // break it, or not
		at := r.IntN(len(raw))
		odd := odds[r.IntN(len(odds))]
		switch r.IntN(4) {
		case 0:
			raw = slices.Concat(raw[:at], []byte(odd), raw[at:])
		case 1:
			raw = slices.Concat(raw[:at], []byte(odd), raw[min(len(raw), at+1+r.IntN(8)):])
		case 2:
			raw = slices.Delete(raw, at, min(len(raw), at+1+r.IntN(4)))
		case 3:
			raw[at] ^= 1 << r.IntN(8)
		}
	}
	return raw
}

// odds are what readers of JSON are known to differ about.
var odds = []string{
	"1.0", "1e3", "-0", "0", "00", "-", "9007199254740993", "9007199254740992", "-9007199254740992", "99999999999999999999999", "NaN", "Infinity",
	"\ufeff", "\xff", "\xc0\x80", "\xed\xa0\x80", `\ud800`, `\udc00\ud800`, `\ud83d\ude00`, `\u0000`, `\u0041`, `\/`, `\x`, "\x00", "\x1f", "\x7f", "\u2028", "é", "e\u0301",
	" ", "\t\r\n", "\v", "\u00a0", ",", ",,", ":", "{", "}", "[", "]", "//x\n", "'", `"`, "null", "nul", "True", `"a":1,"a":2,`, strings.Repeat("[", 70), "\x00\x00",
}

// appendRandom appends a value with names and strings that are sorted and
// escaped in ways that implementations differ in.
func appendRandom(b []byte, r *rand.Rand, deep int) []byte {
	space := func() { b = append(b, strings.Repeat(" ", max(0, r.IntN(4)-2))...) }
	text := func() {
		s := ""
		for range r.IntN(5) {
			s += []string{"a", "B", "0", "\"", "\\", "<", "&", "\u00e9", "\u2028", "\U0001F600", "\ue000", "\x7f", "z", "\t", "/"}[r.IntN(15)]
		}
		raw, _ := json.Marshal(s) // a string can always be written
		if r.IntN(2) == 0 {
			raw = bytes.ReplaceAll(raw, []byte(`\u003c`), []byte("<"))
		}
		b = append(b, raw...)
	}
	if deep == 0 {
		deep = 1
	}
	space()
	switch k := r.IntN(7); {
	case k < 2 && deep > 1:
		b = append(b, '{')
		for i := range r.IntN(6) {
			if i > 0 {
				b = append(b, ',')
			}
			text()
			b = append(b, ':')
			b = appendRandom(b, r, deep-1)
		}
		b = append(b, '}')
	case k < 4 && deep > 1:
		b = append(b, '[')
		for i := range r.IntN(5) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendRandom(b, r, deep-1)
		}
		b = append(b, ']')
	case k == 4:
		b = strconv.AppendInt(b, r.Int64N(1<<55)-(1<<54)>>r.IntN(50), 10)
	case k == 5:
		b = append(b, []string{"null", "true", "false", "0", "-1"}[r.IntN(5)]...)
	default:
		text()
	}
	space()
	return b
}

// randomKey returns a public key of the Notary dialect in some order and
// spelling.
func randomKey(r *rand.Rand) []byte {
	kind := []string{"ecdsa", "ed25519", "rsa", "ecdsa-x509", "rsa-x509"}[r.IntN(5)]
	public := make([]byte, 1+r.IntN(100))
	for i := range public {
		public[i] = byte(r.Uint32())
	}
	text, _ := json.Marshal(public) // bytes can always be written
	parts := []string{`"private":null`, `"public":` + string(text)}
	r.Shuffle(2, func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	members := []string{fmt.Sprintf(`"keytype":"%s"`, kind), `"keyval": {` + strings.Join(parts, ",") + `}`}
	r.Shuffle(2, func(i, j int) { members[i], members[j] = members[j], members[i] })
	return []byte("{" + strings.Join(members, ", ") + "}")
}
