package storage

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/iechor/trust/database"
)

// A record of the trail says the same when it is written again, and whatever
// a client called itself stands in it as text of bounded length.
func FuzzParseAudit(f *testing.F) {
	f.Add([]byte(`{"at":"2026-11-28T12:00:00Z","act":"publish","repository":"a/b","subject":"alice","from":"192.0.2.1","seq":3,"incarnation":1,"version":4,"files":[{"role":"root","version":1,"sha256":"ab"}],"dropped":["targets/x"]}`))
	f.Add([]byte(`{"act":"reset","reason":"\u001b[31m\n\ud800","operator":true,"forwarded":"\u202e"}`))
	f.Add([]byte(`{"AT":null,"files":[null]}`))
	f.Add([]byte("{\"at\":\"\x7f\"}"))
	f.Fuzz(func(t *testing.T, entry []byte) {
		r, err := ParseAudit(database.Link{ID: 7, Entry: entry})
		if err != nil {
			if text := err.Error(); !errors.Is(err, ErrCorrupt) || strings.ContainsFunc(text, unicode.IsControl) || len(text) > maxWord+200 {
				t.Errorf("ParseAudit(%q) = %q", entry, err)
			}
			return
		}
		if y := r.At.UTC().Year(); y < 1 || y > 9999 {
			return // such a time cannot be written
		}
		raw, err := r.encode()
		if err != nil || !json.Valid(raw) {
			t.Fatalf("encode of %q: %q, %v", entry, raw, err)
		}
		again, err := ParseAudit(database.Link{ID: 7, Entry: raw})
		if err != nil {
			t.Fatalf("ParseAudit(%q): %v", raw, err)
		}
		for _, text := range []string{again.Subject, again.From, again.Forwarded, again.Reason} {
			if len(text) > maxWord+len("…") || !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
				t.Errorf("the record says %q", text)
			}
		}
		third, err := again.encode()
		if err != nil || string(third) != string(raw) {
			t.Errorf("written a second time %s became %s (%v)", raw, third, err)
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(AuditRecord{}, "Link", "At"), cmpopts.IgnoreFields(Actor{}, "Subject", "From", "Forwarded", "Reason")); diff != "" {
			t.Errorf("%s became %s:\n%s", entry, raw, diff)
		}
	})
}

// The library quotes a time that is none, but not each character that a
// terminal obeys, and in full length.
func TestCorruptTimeIsOneLine(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"\x7f", "2026-11-28T12:00:00\x7f", strings.Repeat("2026-", 100_000)} {
		_, err := ParseAudit(database.Link{ID: 7, Entry: []byte(`{"at":"` + at + `"}`)})
		if !errors.Is(err, ErrCorrupt) || strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > maxWord+200 {
			t.Errorf("ParseAudit with the time %.30q = %.300q, want ErrCorrupt in one short line", at, err)
		}
	}
}
