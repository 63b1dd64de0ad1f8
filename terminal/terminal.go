// Package terminal asks people: secrets, questions, notices, all on the
// terminal device itself, so that standard input and output stay free for
// data (spec/cli.md 4).
//
// Make one Terminal with New, call Secret, Line, Confirm and Notice, and Close
// it. Echo is back on whenever no call is under way, however the call ended.
// Without a terminal the answers are lines of standard input, read one byte
// after the other, never beyond the line.
package terminal

import (
	"context"
	"errors"
	"io"
)

var (
	// ErrInterrupted says that the user pressed Ctrl-C (or the program was
	// sent an interrupt) while a question was open. Programs exit with 130.
	ErrInterrupted = errors.New("interrupted")

	// ErrNoTerminal says that nobody can be asked: there is no terminal, and
	// standard input has no further line.
	ErrNoTerminal = errors.New("no terminal to ask on, and nothing on standard input")
)

// Config says how to reach the user.
type Config struct {
	// Input serves answers when there is no terminal; usually os.Stdin. Nil:
	// none.
	Input io.Reader

	// Messages gets questions and notices when there is no terminal; usually
	// os.Stderr. Nil: they are dropped.
	Messages io.Writer

	// NoDevice makes the Terminal behave as if there were no terminal.
	NoDevice bool
}

// A Terminal is the user in front of it. Its methods may be called from
// several goroutines; questions are asked one after the other.
type Terminal struct{ config Config }

// New opens nothing yet: the device is opened when first needed.
func New(c Config) *Terminal { return &Terminal{config: c} }

// Interactive reports whether there is a terminal device to ask on.
func (t *Terminal) Interactive() bool { panic("pending") }

// Secret shows the prompt, which should end with ": ", and returns the line
// that is typed, without its end and without echo. Ctrl-D is the empty answer.
// Errors: ErrInterrupted, ErrNoTerminal, and the context's own when ctx ends.
// The caller owns the bytes and may clear them.
func (t *Terminal) Secret(ctx context.Context, prompt string) ([]byte, error) { panic("pending") }

// Line is like Secret, and shows what is typed.
func (t *Terminal) Line(ctx context.Context, prompt string) (string, error) { panic("pending") }

// Confirm shows the question, which should end with "[y/N] ", and reports
// whether the answer was y or yes, in any case. Errors: as for Secret.
func (t *Terminal) Confirm(ctx context.Context, question string) (bool, error) { panic("pending") }

// Notice shows text, with a newline at its end.
func (t *Terminal) Notice(text string) error { panic("pending") }

// Close lets go of the terminal device. The Terminal must not be used again.
func (t *Terminal) Close() error { panic("pending") }
