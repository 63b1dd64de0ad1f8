package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printable is text that no terminal obeys, whoever it comes from.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, text)
}

// printableLines is the same for several lines, such as an error in which
// several things are wrong. Other packages quote what they repeat of others; an
// error passes through here all the same before it is shown.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// A logWriter is for lines of JSON, whose encoder leaves some control
// characters as they are. It escapes them: for programs the text is the same,
// and no terminal obeys it.
type logWriter struct{ to io.Writer }

func (l logWriter) Write(line []byte) (int, error) {
	odd := func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }
	if !bytes.ContainsFunc(line, odd) {
		return l.to.Write(line)
	}
	var out []byte
	for _, c := range string(line) {
		if !odd(c) {
			out = utf8.AppendRune(out, c)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, c) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	if _, err := l.to.Write(out); err != nil {
		return 0, err
	}
	return len(line), nil
}
