package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// strict reads a JSON file of which every member is known: an unknown one is
// an error that names the nearest known one and where it stands. encoding/json
// alone tells neither place nor duplicate.
type strict struct {
	raw  []byte
	dec  *json.Decoder
	path string // of the file, for messages
}

// newStrict sees that raw is JSON: of that, only the whole text gives an error
// the right place.
func newStrict(path string, raw []byte) (*strict, error) {
	s := &strict{raw: raw, dec: json.NewDecoder(bytes.NewReader(raw)), path: path}
	var whole json.RawMessage
	var wrong *json.SyntaxError
	if err := json.Unmarshal(raw, &whole); errors.As(err, &wrong) {
		return nil, s.at(wrong.Offset-1, wrong.Error())
	}
	return s, nil
}

// elsewhere are members of the engine's block of the same name, which somebody
// may copy here.
var elsewhere = map[string]string{
	"mode":                    "the client is switched by " + switchVariable + "; mode belongs to the engine's configuration",
	"official-library-images": "this client has no built-in root key; pin the hub's under root-keys, for iechor.io/library/*",
}

// object reads an object, whose members are known by their readers. With open,
// unknown members are passed over, unless they look like misspelt ones: a pin
// that is not read protects nobody.
func (s *strict) object(name string, known map[string]func() error, open bool) error {
	seen := map[string]bool{}
	return s.members(name, func(key string, _ int64) error {
		where := key
		if name != "" {
			where = name + "." + key
		}
		read, ok := known[key]
		switch {
		case ok && seen[key]:
			return s.fail(fmt.Sprintf("%q is there twice", where))
		case ok:
			seen[key] = true
			return read()
		case !open, strings.EqualFold(strings.NewReplacer("_", "", "-", "").Replace(key), "contenttrust"):
			return s.unknown(key, where, slices.Sorted(maps.Keys(known)))
		}
		if _, near := nearest(key, slices.Sorted(maps.Keys(known))); near {
			return s.unknown(key, where, slices.Sorted(maps.Keys(known)))
		}
		var skipped json.RawMessage
		return s.syntax(s.dec.Decode(&skipped))
	})
}

// table reads an object whose members the user names. read reads the value of
// one of them; at is where its name stands.
func (s *strict) table(name string, read func(key string, at int64) error) error {
	seen := map[string]bool{}
	return s.members(name, func(key string, at int64) error {
		if seen[key] {
			return s.at(at, fmt.Sprintf("%s: %q is there twice", name, printable(key)))
		}
		seen[key] = true
		return read(key, at)
	})
}

// members reads an object, and has read read the value of each member.
func (s *strict) members(name string, read func(key string, at int64) error) error {
	t, err := s.dec.Token()
	if err != nil {
		return s.syntax(err)
	}
	if t != json.Delim('{') {
		if name == "" {
			return s.fail("is not a JSON object")
		}
		return s.fail(name + " is not an object")
	}
	for s.dec.More() {
		t, err := s.dec.Token()
		if err != nil {
			return s.syntax(err)
		}
		key := t.(string) // the decoder lets nothing else pass
		if err := read(key, s.dec.InputOffset()-int64(len(key))-2); err != nil {
			return err
		}
	}
	_, err = s.dec.Token()
	return s.syntax(err)
}

// list reads a list, and has read read each entry.
func (s *strict) list(name, what string, read func() error) error {
	t, err := s.dec.Token()
	if err != nil {
		return s.syntax(err)
	}
	if t != json.Delim('[') {
		return s.fail(name + " must be a list of " + what)
	}
	for s.dec.More() {
		if err := read(); err != nil {
			return err
		}
	}
	_, err = s.dec.Token()
	return s.syntax(err)
}

// texts reads a list of texts, each of which check must accept.
func (s *strict) texts(name, what string, check func(text string) error) ([]string, error) {
	var out []string
	err := s.list(name, what, func() error {
		t, err := s.dec.Token()
		if err != nil {
			return s.syntax(err)
		}
		text, ok := t.(string)
		if !ok {
			return s.fail(name + " must be a list of " + what)
		}
		if err := check(text); err != nil {
			return s.at(s.dec.InputOffset()-int64(len(text))-2, fmt.Sprintf("%s: %q %s", name, printable(text), err))
		}
		out = append(out, text)
		return nil
	})
	return out, err
}

func (s *strict) unknown(key, where string, known []string) error {
	e := s.at(s.dec.InputOffset()-int64(len(key))-2, fmt.Sprintf("unknown key %q", printable(where)))
	if hint, ok := elsewhere[key]; ok {
		e.hint = hint
		return e
	}
	if hints := nearestHint(key, known); len(hints) > 0 {
		e.hint = hints[0]
		return e
	}
	e.hint = "known are " + strings.Join(known, ", ")
	return e
}

// value reads one value into v; what says what it must be.
func (s *strict) value(v any, what string) error {
	err := s.dec.Decode(v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return s.fail("must be " + what)
	}
	return s.syntax(err)
}

// word reads one of the given words.
func (s *strict) word(v *string, words ...string) error {
	what := words[len(words)-1]
	if rest := words[:len(words)-1]; len(rest) > 0 {
		what = strings.Join(rest, ", ") + " or " + what
	}
	if err := s.value(v, what); err != nil {
		return err
	}
	if slices.Contains(words, *v) {
		return nil
	}
	e := s.at(s.dec.InputOffset()-int64(len(*v))-2, fmt.Sprintf("must be %s, and is %q", what, printable(*v)))
	if hints := nearestHint(*v, words); len(hints) > 0 {
		e.hint = hints[0]
	}
	return e
}

// syntax is about errors of the decoder, of which newStrict leaves few.
func (s *strict) syntax(err error) error {
	if err == nil {
		return nil
	}
	return s.fail(err.Error())
}

// fail returns an error about what was just read.
func (s *strict) fail(reason string) error { return s.at(s.dec.InputOffset()-1, reason) }

// at returns an error about the byte at offset.
func (s *strict) at(offset int64, reason string) *configError {
	before := string(s.raw[:max(0, min(int(offset), len(s.raw)))])
	return &configError{
		path: s.path, reason: reason,
		line:   1 + strings.Count(before, "\n"),
		column: len(before) - strings.LastIndexByte(before, '\n'),
	}
}

// nearest returns the word among known that s was probably meant to be.
func nearest(s string, known []string) (string, bool) {
	best, least := "", max(2, len(s)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(s), k); d < least {
			best, least = k, d
		}
	}
	return best, best != ""
}

func nearestHint(s string, known []string) []string {
	if k, ok := nearest(s, known); ok {
		return []string{fmt.Sprintf("did you mean %q?", k)}
	}
	return nil
}

// distance counts the letters to insert, remove or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var errTooLong = errors.New("too long")

// readLimited reads at most limit bytes, and calls more an error.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = errTooLong
	}
	return raw, err
}
