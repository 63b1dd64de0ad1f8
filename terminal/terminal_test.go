package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func typed(t *testing.T, echo bool, keys string) (text, shown string, err error) {
	t.Helper()
	l := line{echo: echo}
	var out strings.Builder
	for _, b := range []byte(keys) {
		show, done, err := l.key(b)
		out.WriteString(show)
		if done {
			return string(l.text), out.String(), err
		}
	}
	t.Fatalf("keys %q do not end the line", keys)
	return "", "", nil
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		keys, text, shown string
		err               error
	}{
		{keys: "secret\r", text: "secret", shown: "secret"},
		{keys: "secret\n", text: "secret", shown: "secret"},
		{keys: "\x04"},
		{keys: "\x00"},
		{keys: "ab\x04", text: "ab", shown: "ab"},
		{keys: "abc\x7f\x08\r", text: "a", shown: "abc\b \b\b \b"},
		{keys: "\x7f\r"},
		{keys: "aé\x7f\r", text: "a", shown: "aé\b \b"},
		{keys: "ab\x15c\r", text: "c", shown: "ab\b \b\b \bc"},
		{keys: "a\x1b[Ab\x1bOPc\x1b[3~d\r", text: "abcd", shown: "abcd"},
		{keys: "a\x1b\r", text: "a", shown: "a"},
		{keys: "a\x1b[\x03", text: "a", shown: "a", err: ErrInterrupted},
		{keys: "a\x01\x1a\tb\r", text: "a\tb", shown: "a\tb"},
		{keys: "ab\x03", text: "ab", shown: "ab", err: ErrInterrupted},
		{keys: strings.Repeat("x", maxAnswer+1), text: strings.Repeat("x", maxAnswer), shown: strings.Repeat("x", maxAnswer), err: ErrTooLong},
	} {
		text, shown, err := typed(t, true, test.keys)
		if text != test.text || shown != test.shown || !errors.Is(err, test.err) {
			t.Errorf("keys %q: got %q, shown %q, %v; want %q, shown %q, %v", test.keys, text, shown, err, test.text, test.shown, test.err)
		}
		text, shown, _ = typed(t, false, test.keys)
		if text != test.text || shown != "" {
			t.Errorf("keys %q without echo: got %q, shown %q; want %q and nothing", test.keys, text, shown, test.text)
		}
	}
}

// spec/cli.md 4.5
func TestWithoutTerminal(t *testing.T) {
	t.Parallel()
	in := strings.NewReader("wrong\nright\r\nyes\nno\nrest of the data\n")
	var messages bytes.Buffer
	term := New(Config{Input: in, Messages: &messages, NoDevice: true})
	if term.Interactive() {
		t.Error("Interactive() = true without a device")
	}
	for _, want := range []string{"wrong", "right"} {
		got, err := term.Secret(t.Context(), "Enter passphrase: ")
		if string(got) != want || err != nil {
			t.Errorf("Secret = %q, %v; want %q", got, err, want)
		}
	}
	for _, want := range []bool{true, false} {
		got, err := term.Confirm(t.Context(), "Sure? [y/N] ")
		if got != want || err != nil {
			t.Errorf("Confirm = %v, %v; want %v", got, err, want)
		}
	}
	if rest, _ := io.ReadAll(in); string(rest) != "rest of the data\n" {
		t.Errorf("left on standard input: %q, want the lines not asked for", rest)
	}
	if err := term.Notice("done"); err != nil {
		t.Errorf("Notice: %v", err)
	}
	want := "Enter passphrase: \nEnter passphrase: \nSure? [y/N] \nSure? [y/N] \ndone\n"
	if messages.String() != want {
		t.Errorf("messages %q, want %q", messages.String(), want)
	}
}

func TestNobodyToAsk(t *testing.T) {
	t.Parallel()
	for _, in := range []io.Reader{nil, strings.NewReader("")} {
		term := New(Config{Input: in, NoDevice: true})
		for range 2 {
			if _, err := term.Secret(t.Context(), ": "); !errors.Is(err, ErrNoTerminal) {
				t.Errorf("Secret = %v, want ErrNoTerminal", err)
			}
		}
	}
	last := New(Config{Input: strings.NewReader("no newline"), NoDevice: true})
	if got, err := last.Line(t.Context(), ": "); got != "no newline" || err != nil {
		t.Errorf("Line = %q, %v; want the unfinished line", got, err)
	}
	endless := New(Config{Input: endlessReader{}, NoDevice: true})
	if _, err := endless.Secret(t.Context(), ": "); !errors.Is(err, ErrTooLong) {
		t.Errorf("Secret from endless input = %v, want ErrTooLong", err)
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A question that was given up must not swallow the answer to the next one.
func TestCancel(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	term := New(Config{Input: r, NoDevice: true})
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error)
	go func() {
		_, err := term.Secret(ctx, ": ")
		asked <- err
	}()
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Fatalf("Secret = %v, want context.Canceled", err)
	}
	go func() { _, _ = io.WriteString(w, "answer\n") }() // a failure shows below
	if got, err := term.Line(t.Context(), ": "); got != "answer" || err != nil {
		t.Errorf("Line after a question that was given up = %q, %v; want %q", got, err, "answer")
	}
}
