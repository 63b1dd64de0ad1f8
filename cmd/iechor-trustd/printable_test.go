package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
)

const drawing = "\x1b[2J\x7f\u009b31m\u202e\U000e0041\xff"

// An error is shown as a terminal may see it, whichever package made it, and a
// check shows its findings so.
func TestErrorsAreShownForTerminals(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	a := &app{out: &out, err: &errs, env: func(string) string { return "" }, now: time.Now}
	for _, args := range [][]string{
		{"check", "--storage", "sqlite:" + filepath.Join(t.TempDir(), drawing)},
		{"server", "--" + drawing},
		{"config", "check", filepath.Join(t.TempDir(), drawing)},
	} {
		errs.Reset()
		if status := a.run(context.Background(), args); status == 0 || errs.Len() == 0 || !plain(errs.String()) {
			t.Errorf("%q: status %d, %q", args, status, errs.String())
		}
	}
	if got := printableLines(errors.Join(errors.New("a\x7f"), errors.New(drawing)).Error()); !plain(got) || strings.Count(got, "\n") != 1 {
		t.Errorf("two errors are shown as %q", got)
	}
}

// A line of the log says the same to programs, and nothing to terminals.
func TestLogIsForTerminals(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := newLog(&out, "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("a\nb", "path", drawing, drawing, "é😀")
	log.Info("second")
	lines := strings.SplitAfter(out.String(), "\n")
	if len(lines) != 3 || lines[2] != "" || !plain(out.String()) || !strings.Contains(lines[0], "é😀") {
		t.Fatalf("the log holds %q", out.String())
	}
	var got map[string]string
	text := strings.ToValidUTF8(drawing, "\ufffd")
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || got["msg"] != "a\nb" || got["path"] != text || got[text] != "é😀" {
		t.Errorf("the line %q says %q (%v)", lines[0], got, err)
	}
}

func plain(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) })
}

// Found by FuzzSettings: a key that stands twice is told, and not obeyed.
func TestSettingTwiceIsOneLine(t *testing.T) {
	t.Parallel()
	const twice = "\"\\e[31m\": 1\n\"\\e[31m\": 1\n"
	_, access := parseAccess([]byte(twice))
	for what, err := range map[string]error{"settings": parseConfig([]byte(twice), defaultServerConfig()), "access rules": access} {
		if err == nil || !strings.Contains(err.Error(), "stands in line 1 already") || !plain(err.Error()) {
			t.Errorf("%s: %q", what, err)
		}
	}
}
