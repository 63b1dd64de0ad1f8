package trust

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"unicode"

	"github.com/iechor/trust/tuf"
)

// Found by FuzzPinning: the pattern is what somebody wrote.
func TestPinningErrorIsOneLine(t *testing.T) {
	t.Parallel()
	_, err := Pinning{CA: map[string]string{"a\x1b[31m": "x"}}.Pin(func(string) ([]byte, error) { return nil, nil })
	if !errors.Is(err, ErrPinning) || strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("Pin = %q", err)
	}
}

func TestPinningRefused(t *testing.T) {
	t.Parallel()
	id := tuf.CanonicalID(strings.Repeat("ab", 32))
	ids := []tuf.CanonicalID{id}
	bundle, key := otherAuthority(t)
	read := func(path string) ([]byte, error) {
		switch path {
		case "good":
			return bundle, nil
		case "key":
			return key, nil
		case "text":
			return []byte("x"), nil
		}
		return nil, fs.ErrNotExist
	}
	for name, p := range map[string]Pinning{
		"first use":         {FirstUse: "maybe"},
		"denied":            {DeniedRoots: []tuf.CanonicalID{"x"}},
		"no ids":            {RootKeys: map[string][]tuf.CanonicalID{"a/b": nil}},
		"bad id":            {RootKeys: map[string][]tuf.CanonicalID{"a/b": {"AB"}}},
		"bad pattern":       {RootKeys: map[string][]tuf.CanonicalID{"a/*/b": ids}},
		"bad name":          {RootKeys: map[string][]tuf.CanonicalID{"a//b": ids}},
		"wildcard for cert": {CertIDs: map[string][]tuf.KeyID{"a/*": {tuf.KeyID(id)}}},
		"no cert ids":       {CertIDs: map[string][]tuf.KeyID{"a/b": nil}},
		"bad cert id":       {CertIDs: map[string][]tuf.KeyID{"a/b": {"x"}}},
		"bad cert name":     {CertIDs: map[string][]tuf.KeyID{"": {tuf.KeyID(id)}}},
		"no certificate":    {CA: map[string]string{"a/b": "text"}},
		"a key as CA":       {CA: map[string]string{"a/b": "key"}},
		"bad CA pattern":    {CA: map[string]string{"": "good"}},
	} {
		if _, err := p.Pin(read); !errors.Is(err, ErrPinning) {
			t.Errorf("%s: Pin = %v, want ErrPinning", name, err)
		}
	}
	_, err := Pinning{CA: map[string]string{"a/b": "gone"}}.Pin(read)
	wantErr(t, "Pin with a CA that is not there", err, fs.ErrNotExist)
	pin, err := Pinning{CA: map[string]string{"*": "good"}, RootKeys: map[string][]tuf.CanonicalID{"a/b": ids, "*": ids}}.Pin(read)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := pin.(tuf.Pins).For("x/y"); !ok || r.Pattern != "*" {
		t.Errorf("the rule for x/y is %v", r)
	} else if _, ok := r.Pin.(tuf.KeyPin); !ok {
		t.Errorf("of two patterns %q, %T wins, want the key", "*", r.Pin)
	}
}
