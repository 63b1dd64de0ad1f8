package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/iechor/trust/database"
)

func oneLine(t *testing.T, what any, err error) {
	t.Helper()
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("%q is answered with %q", what, err)
	}
}

// FuzzSettings: a configuration is read as it is written, every setting within
// its bounds, or refused in one line for each reason.
func FuzzSettings(f *testing.F) {
	for _, name := range []string{"server.yaml", "signer.yaml"} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "doc", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	for _, s := range []string{
		"a: &a [*a]\n", "signer: &x {url: *x}\n", "idle: 99999999999999999999d\n", "prefixes: [a/, b/]\nprefixes: []\n", "\"\\e[31m\": 1\n",
		"identities: {\"\\e[31m\": [sign], x: {}}\n", "? [a]\n: b\n", "\"\\e[31m\": 1\n\"\\e[31m\": 1\n", "identities:\n  \"\\e\":\n    \"\\e\": {}\n    \"\\e\": {}\n", "listen: !!binary AAAA\n", "--- a\n--- b\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, fresh := range []func() any{func() any { return defaultServerConfig() }, func() any { return defaultSignerConfig() }} {
			c := fresh()
			if err := parseConfig(raw, c); err != nil {
				for line := range strings.SplitSeq(err.Error(), "\n") { // one for each thing that is wrong
					oneLine(t, raw, errors.New(line))
				}
				continue
			}
			for _, s := range settings(reflect.ValueOf(c).Elem()) {
				v := s.value.Interface()
				if d, ok := v.(duration); ok && (d < 0 || time.Duration(d) > maxDuration) || s.value.Kind() == reflect.Int64 && s.value.Int() < 0 {
					t.Errorf("%q sets %v to %v", raw, s.path, v)
				}
				if d, ok := v.(duration); ok {
					var again duration
					if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
						t.Errorf("%v is written %q, and read as %v (%v)", time.Duration(d), d, time.Duration(again), err)
					}
				}
			}
		}
	})
}

// FuzzImportList: a list of repositories to import has names of repositories,
// each once, or is refused with the line.
func FuzzImportList(f *testing.F) {
	f.Add([]byte("# ours\nregistry.example/a\n\n registry.example/b # c\r\nregistry.example/a\n"))
	f.Add([]byte("../x\n"))
	f.Add([]byte("\x1b[31m\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		guns, err := (&copying{}).names(t.Context(), importServiceOptions{list: file})
		if err != nil {
			oneLine(t, raw, err)
			return
		}
		for i, g := range guns {
			if !g.Valid() || i > 0 && guns[i-1] >= g || !bytes.Contains(raw, []byte(g)) {
				t.Errorf("%q lists %q", raw, guns)
			}
		}
	})
}

// FuzzTrail: of an export of the audit trail nothing can be changed, put in or
// taken out before its end that is known.
func FuzzTrail(f *testing.F) {
	var honest []byte
	var last database.Link
	for i, entry := range []string{
		`{"at":"2026-11-28T12:00:00Z","act":"publish","repository":"a/b","subject":"alice","seq":1,"incarnation":1,"version":1,"files":[{"role":"root","version":1,"sha256":"ab"}]}`,
		`{"at":"2026-11-28T12:01:00Z","act":"rotate","repository":"a/b","role":"snapshot","key":"ab"}`,
		`{"at":"2026-11-28T12:02:00Z","act":"reset","repository":"a/b","reason":"lost","operator":true,"seq":2,"incarnation":1}`,
	} {
		h := sha256.New()
		h.Write(last.Hash[:])
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(i+1)))
		h.Write([]byte(entry))
		last = database.Link{ID: int64(i + 1), Hash: [32]byte(h.Sum(nil)), Entry: []byte(entry)}
		honest = append(honest, append(last.Line(), '\n')...)
	}
	anchor := fmt.Sprintf("%d:%x", last.ID, last.Hash)
	f.Add(0, 0, []byte(nil))
	f.Add(10, 20, []byte(`{"id":1}`))
	f.Add(len(honest)/2, 1, []byte("\n"))
	f.Add(len(honest)-3, 3, []byte("\x1b[31m"))
	f.Fuzz(func(t *testing.T, from, n int, raw []byte) {
		from = min(max(from, 0), len(honest))
		n = min(max(n, 0), len(honest)-from)
		edited := slices.Concat(honest[:from], raw, honest[from+n:])
		file := filepath.Join(t.TempDir(), "trail")
		if err := os.WriteFile(file, edited, 0o600); err != nil {
			t.Fatal(err)
		}
		err := (&app{out: io.Discard, err: io.Discard, now: time.Now}).verifyExport(file, anchor)
		if err != nil {
			oneLine(t, edited, err)
			return
		}
		// What holds has the same entries, however the lines around them look.
		var got, want []json.RawMessage
		for _, x := range []struct {
			raw []byte
			to  *[]json.RawMessage
		}{{edited, &got}, {honest, &want}} {
			for line := range bytes.Lines(x.raw) {
				l, err := database.ParseLine(bytes.TrimRight(line, "\r\n"))
				if err != nil {
					t.Fatalf("%q holds, and cannot be read: %v", line, err)
				}
				*x.to = append(*x.to, l.Entry)
			}
		}
		if len(got) < len(want) || !slices.EqualFunc(got[:len(want)], want, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Errorf("another trail holds:\n%s", edited)
		}
	})
}
