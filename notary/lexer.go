package notary

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxValue bounds one value of a dump, in bytes as it is written there. Twice
// what a metadata file may have, in hexadecimal.
const maxValue = 256 << 20

// A kind is what a token is.
type kind int

const (
	end    kind = iota // of the dump
	punct              // one of ( ) , ;
	word               // an identifier or keyword, quoted or not, or a number
	quoted             // a string
	binary             // a string of hexadecimal digits, decoded
)

// A token is a piece of SQL.
type token struct {
	kind kind
	text []byte
}

func (t token) is(p byte) bool { return t.kind == punct && t.text[0] == p }

// keyword reports whether t is that word, in whatever case.
func (t token) keyword(w string) bool { return t.kind == word && strings.EqualFold(string(t.text), w) }

// A lexer cuts the SQL that pg_dump, mysqldump and mariadb-dump write into
// tokens. Comments and psql's own commands are passed over.
type lexer struct {
	r    *bufio.Reader
	line int
	// backslash: strings have backslash escapes, as MySQL's do.
	backslash bool
}

func newLexer(r io.Reader) *lexer { return &lexer{r: bufio.NewReaderSize(r, 1<<16), line: 1} }

func (l *lexer) errorf(format string, a ...any) error {
	return fmt.Errorf("%w: line %d: %w", ErrDump, l.line, fmt.Errorf(format, a...))
}

func (l *lexer) read() (byte, error) {
	c, err := l.r.ReadByte()
	if c == '\n' {
		l.line++
	}
	return c, err
}

// ahead reports whether s comes next.
func (l *lexer) ahead(s string) bool {
	got, _ := l.r.Peek(len(s)) // a shorter rest is not s
	return string(got) == s
}

// skipTo passes over everything up to and including s.
func (l *lexer) skipTo(s string) error {
	for {
		c, err := l.read()
		if err != nil {
			return err
		}
		if c == s[0] && (len(s) == 1 || l.ahead(s[1:])) {
			_, err := l.r.Discard(len(s) - 1)
			return err
		}
	}
}

// lineRest returns the rest of the line, without its end.
func (l *lexer) lineRest() ([]byte, error) {
	var all []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(all)+len(part) > maxValue {
			return nil, l.errorf("a line of more than %d bytes", maxValue)
		}
		all = append(all, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !(errors.Is(err, io.EOF) && len(all) > 0) {
			return nil, err
		}
		l.line++
		return bytes.TrimRight(all, "\r\n"), nil
	}
}

// next returns the next token. A string that does not end is an error, the end
// of the dump is not.
func (l *lexer) next() (token, error) {
	for {
		c, err := l.read()
		if errors.Is(err, io.EOF) {
			return token{kind: end}, nil
		}
		if err != nil {
			return token{}, err
		}
		switch {
		case c == ' ', c == '\t', c == '\r', c == '\n':
		case c == '-' && l.ahead("-"):
			rest, err := l.lineRest()
			if err != nil && !errors.Is(err, io.EOF) {
				return token{}, err
			}
			if bytes.Contains(rest, []byte("MySQL dump")) || bytes.Contains(rest, []byte("MariaDB dump")) {
				l.backslash = true
			}
		case c == '\\': // a command of psql
			if _, err := l.lineRest(); err != nil && !errors.Is(err, io.EOF) {
				return token{}, err
			}
		case c == '/' && l.ahead("*"):
			if err := l.skipTo("*/"); err != nil {
				return token{}, l.cut(err)
			}
		case c == '(', c == ')', c == ',', c == ';':
			return token{punct, []byte{c}}, nil
		case c == '\'':
			text, err := l.stringRest(l.backslash)
			return token{quoted, text}, err
		case c == '"', c == '`':
			l.backslash = l.backslash || c == '`' // only MySQL quotes names so
			text, err := l.identifierRest(c)
			return token{word, text}, err
		case c == '$':
			if err := l.dollars(); err != nil {
				return token{}, err
			}
			return token{kind: quoted}, nil
		default:
			return l.wordFrom(c)
		}
	}
}

// cut says that the dump ends in the middle of something.
func (l *lexer) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return l.errorf("the dump is cut off")
	}
	return err
}

// escapes are what MySQL means by a character behind a backslash; every other
// stands for itself.
var escapes = map[byte]byte{'0': 0, 'n': '\n', 'r': '\r', 't': '\t', 'b': '\b', 'Z': 0x1a}

// stringRest reads a string up to its closing quote, which a second one
// escapes.
func (l *lexer) stringRest(backslash bool) ([]byte, error) {
	text := []byte{} // not nil: that would be NULL
	for {
		c, err := l.read()
		if err != nil {
			return nil, l.cut(err)
		}
		switch {
		case c == '\'' && !l.ahead("'"):
			return text, nil
		case c == '\'':
			_, _ = l.r.Discard(1) // it was just seen
		case c == '\\' && backslash:
			if c, err = l.read(); err != nil {
				return nil, l.cut(err)
			}
			if plain, ok := escapes[c]; ok {
				c = plain
			}
		}
		if len(text) >= maxValue {
			return nil, l.errorf("a value of more than %d bytes", maxValue)
		}
		text = append(text, c)
	}
}

func (l *lexer) identifierRest(quote byte) ([]byte, error) {
	text, err := l.r.ReadSlice(quote)
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, l.errorf("a name without an end")
		}
		return nil, l.cut(err)
	}
	return bytes.Clone(text[:len(text)-1]), nil
}

// dollars passes over a string between two equal tags such as $$ or $body$.
func (l *lexer) dollars() error {
	tag, err := l.r.ReadSlice('$')
	if err != nil {
		return l.cut(err)
	}
	return l.cut(l.skipTo("$" + string(tag)))
}

// wordFrom reads a word that begins with c, and the string behind it if the
// word says what kind of string that is.
func (l *lexer) wordFrom(c byte) (token, error) {
	text := []byte{c}
	for {
		next, err := l.r.Peek(1)
		if err != nil && !errors.Is(err, io.EOF) {
			return token{}, err
		}
		if len(next) == 0 || bytes.IndexByte([]byte(" \t\r\n(),;'\"`$"), next[0]) >= 0 {
			break
		}
		if len(text) > 2*maxValue {
			return token{}, l.errorf("a value of more than %d bytes", maxValue)
		}
		text = append(text, next[0])
		_, _ = l.r.Discard(1) // it was just seen
	}
	switch lower := strings.ToLower(string(text[:min(len(text), 8)])); {
	case l.ahead("'") && slices.Contains([]string{"e", "x", "_binary", "n", "b"}, lower):
		_, _ = l.r.Discard(1) // the quote
		content, err := l.stringRest(l.backslash || lower == "e")
		if err == nil && lower == "x" {
			return l.hexadecimal(content)
		}
		return token{quoted, content}, err
	case lower == "_binary":
		t, err := l.next() // behind a space
		if err == nil && t.kind != quoted && t.kind != binary {
			err = l.errorf("no string behind _binary")
		}
		return t, err
	case strings.HasPrefix(lower, "0x"):
		return l.hexadecimal(text[2:])
	}
	return token{word, text}, nil
}

func (l *lexer) hexadecimal(digits []byte) (token, error) {
	b := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(b, digits); err != nil {
		return token{}, l.errorf("not hexadecimal: %v", err)
	}
	return token{binary, b}, nil
}
