package terminal

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever is typed, an answer stays bounded, and nothing but what was typed
// as text, in its order, is in it or on the screen: a terminal that is made to
// send sequences cannot be made to obey them.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"secret\r", "a\x7fb\x08c\n", "\x1b[A\x1b[1;5Cx\x1bOPy\x1b\x03", "ü\x15ä\x17\x04", strings.Repeat("x", 300), "\x1b[\x00", "\xff\xfe\x7f\r"} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, typed []byte, echo bool) {
		l := line{echo: echo}
		var shown []byte
		for i, b := range typed {
			before := bytes.Clone(l.text)
			show, done, err := l.key(b)
			shown = append(shown, show...)
			switch {
			case len(l.text) > maxAnswer:
				t.Fatalf("%q: an answer of %d bytes", typed, len(l.text))
			case err != nil && !done:
				t.Fatalf("%q: goes on after %v", typed[:i+1], err)
			case len(l.text) > len(before) && !bytes.Equal(l.text, append(before, b)), len(l.text) < len(before) && !bytes.HasPrefix(before, l.text):
				t.Fatalf("%q: %q became %q", typed[:i+1], before, l.text)
			case !echo && show != "":
				t.Fatalf("%q: a secret shows %q", typed[:i+1], show)
			case (b == ctrlC || b == enter) && !done:
				t.Fatalf("%q does not end", typed[:i+1])
			}
			if done {
				break
			}
		}
		if bytes.ContainsFunc(l.text, func(r rune) bool { return r < ' ' && r != tab || r == del }) {
			t.Errorf("%q: control characters in %q", typed, l.text)
		}
		if rest := bytes.ReplaceAll(shown, []byte("\b \b"), nil); bytes.ContainsFunc(rest, func(r rune) bool { return r != utf8.RuneError && r < ' ' && r != tab }) {
			t.Errorf("%q: shows %q", typed, shown)
		}
	})
}
