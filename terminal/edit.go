package terminal

import (
	"strings"
	"unicode/utf8"
)

// The keys with a meaning, as a terminal in raw mode sends them.
const (
	disabled  = 0x00 // also what a Linux terminal makes of a Ctrl-D typed before raw mode
	ctrlC     = 0x03
	ctrlD     = 0x04
	backspace = 0x08
	tab       = 0x09
	lineFeed  = 0x0a
	enter     = 0x0d
	ctrlU     = 0x15
	ctrlW     = 0x17
	escape    = 0x1b
	del       = 0x7f
)

// A line is an answer being typed.
type line struct {
	echo   bool
	text   []byte
	escape escaping
}

// escaping says how much of an arrow key or the like has come.
type escaping int

const (
	noEscape  escaping = iota
	escaped            // the escape itself
	inControl          // and a bracket
)

// key takes one byte. It returns what to show, and whether the answer is
// complete.
func (l *line) key(b byte) (show string, done bool, err error) {
	if l.skip(b) {
		return "", false, nil
	}
	switch b {
	case ctrlC:
		return "", true, ErrInterrupted
	case enter, lineFeed, ctrlD, disabled:
		return "", true, nil
	case backspace, del:
		return l.remove(1), false, nil
	case ctrlU, ctrlW:
		return l.remove(utf8.RuneCount(l.text)), false, nil
	}
	if b < ' ' && b != tab {
		return "", false, nil
	}
	if len(l.text) == maxAnswer {
		return "", true, ErrTooLong
	}
	l.text = append(l.text, b)
	if !l.echo {
		return "", false, nil
	}
	return string([]byte{b}), false, nil // one byte of a longer character stays as it is
}

// skip swallows what arrow keys and their like send.
func (l *line) skip(b byte) bool {
	switch l.escape {
	case noEscape:
		if b == escape {
			l.escape = escaped
		}
		return b == escape
	case escaped:
		l.escape = noEscape
		if b == '[' || b == 'O' {
			l.escape = inControl
			return true
		}
		return b >= ' ' // Alt and a key; but an end or an interrupt counts
	}
	if b >= '@' || b < ' ' {
		l.escape = noEscape
	}
	return b >= ' '
}

// remove takes n characters back.
func (l *line) remove(n int) string {
	removed := 0
	for range n {
		if len(l.text) == 0 {
			break
		}
		_, size := utf8.DecodeLastRune(l.text)
		clear(l.text[len(l.text)-size:])
		l.text = l.text[:len(l.text)-size]
		removed++
	}
	if !l.echo {
		return ""
	}
	return strings.Repeat("\b \b", removed)
}
