package database

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// A line of an exported log comes back byte for byte, or is refused in one line.
func FuzzParseLine(f *testing.F) {
	f.Add(Link{ID: 7, Hash: link([32]byte{}, 7, []byte(`{"a":1}`)), Entry: []byte(`{"a":1}`)}.Line())
	f.Add([]byte(`{"id":1,"hash":"` + strings.Repeat("AB", 32) + `","entry":null}`))
	f.Add([]byte(`{"id":1,"id":2,"hash":"","entry":[]} x`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ParseLine(raw)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("ParseLine(%q) = %q", raw, err)
			}
			return
		}
		if !json.Valid(l.Entry) || !bytes.Contains(raw, l.Entry) {
			t.Fatalf("ParseLine(%q) has the entry %q", raw, l.Entry)
		}
		again, err := ParseLine(l.Line())
		if err != nil || again.ID != l.ID || again.Hash != l.Hash || !bytes.Equal(again.Entry, l.Entry) {
			t.Errorf("ParseLine(%q) = %+v, %v; want %+v", l.Line(), again, err, l)
		}
	})
}
