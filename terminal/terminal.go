// Package terminal asks people: secrets, questions, notices, all on the
// terminal device itself, so that standard input and output stay free for
// data (spec/cli.md 4).
//
// Make one Terminal with New, call Secret, Line, Confirm and Notice, and Close
// it. The terminal is as it was whenever no question is open, however the
// question ended. Without a terminal the answers are lines of standard input,
// read one byte after the other, never beyond the line.
//
// Read on: edit.go (what keys do), device.go (the device and its mode).
package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

var (
	// ErrInterrupted says that the user pressed Ctrl-C, or the program was
	// sent an interrupt, while a question was open. Programs exit with 130.
	ErrInterrupted = errors.New("interrupted")

	// ErrNoTerminal says that nobody can be asked: there is no terminal, and
	// standard input has no further line.
	ErrNoTerminal = errors.New("no terminal to ask on, and nothing on standard input")

	// ErrTooLong says that an answer is longer than any sensible one.
	ErrTooLong = errors.New("the answer is too long")
)

const maxAnswer = 4096 // bytes

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
type Terminal struct {
	config Config

	mu     sync.Mutex // one question at a time; guards the rest
	opened bool
	device *device // nil: there is none
	in     *input  // of the device, or Config.Input; nil: none
}

// New opens nothing yet: the device is opened when it is first needed.
func New(c Config) *Terminal { return &Terminal{config: c} }

// open looks for the device, once.
func (t *Terminal) open() {
	if t.opened {
		return
	}
	t.opened = true
	if !t.config.NoDevice {
		t.device = openDevice()
	}
	switch {
	case t.device != nil:
		t.in = newInput(t.device.in, 256)
	case t.config.Input != nil:
		t.in = newInput(t.config.Input, 1)
	}
}

// Interactive reports whether there is a terminal device to ask on.
func (t *Terminal) Interactive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open()
	return t.device != nil
}

// Secret shows the prompt, which should end with ": ", and returns the line
// that is typed, without its end and without echo. Ctrl-D is the empty answer.
// Errors: ErrInterrupted, ErrNoTerminal, ErrTooLong, and the context's own
// when ctx ends. The caller owns the bytes and may clear them.
func (t *Terminal) Secret(ctx context.Context, prompt string) ([]byte, error) {
	return t.ask(ctx, prompt, false)
}

// Line is like Secret, and shows what is typed.
func (t *Terminal) Line(ctx context.Context, prompt string) (string, error) {
	answer, err := t.ask(ctx, prompt, true)
	return string(answer), err
}

// Confirm shows the question, which should end with "[y/N] ", and reports
// whether the answer was y or yes, in any case. Errors: as for Secret.
func (t *Terminal) Confirm(ctx context.Context, question string) (bool, error) {
	answer, err := t.Line(ctx, question)
	if err != nil {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

// Notice shows text, with a newline at its end.
func (t *Terminal) Notice(text string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open()
	return t.write(strings.TrimSuffix(text, "\n") + "\n")
}

// Close lets go of the terminal device. The Terminal must not be used again.
func (t *Terminal) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opened = true
	if t.device == nil {
		return nil
	}
	err := t.device.close()
	t.device, t.in = nil, nil
	return err
}

func (t *Terminal) write(text string) error {
	var w io.Writer = t.config.Messages
	if t.device != nil {
		w = t.device.out
	}
	if w == nil {
		return nil
	}
	_, err := io.WriteString(w, text)
	return err
}

func (t *Terminal) ask(ctx context.Context, prompt string, echo bool) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.open()
	if t.in == nil {
		return nil, ErrNoTerminal
	}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	if t.device == nil {
		if err := t.write(prompt); err != nil {
			return nil, err
		}
		answer, err := t.readLine(ctx, interrupts)
		return answer, errors.Join(err, t.write("\n"))
	}
	restore, err := t.device.raw()
	if err != nil {
		return nil, err
	}
	// The prompt comes after the change of mode: who sees it can rely on
	// what is typed not being shown.
	answer, err := t.edit(ctx, prompt, echo, interrupts)
	// The newline is written in raw mode, where it takes both characters,
	// so that nothing typed between the two steps is shown in its place.
	wrote := t.write("\r\n")
	if restored := restore(); err == nil {
		err = restored
	}
	if err == nil {
		err = wrote
	}
	if err != nil {
		clear(answer)
		return nil, err
	}
	return answer, nil
}

// edit shows the prompt and reads one answer, the device being in raw mode.
func (t *Terminal) edit(ctx context.Context, prompt string, echo bool, interrupts <-chan os.Signal) ([]byte, error) {
	if err := t.write(strings.ReplaceAll(prompt, "\n", "\r\n")); err != nil {
		return nil, err
	}
	l := line{echo: echo}
	for {
		key, err := t.in.next(ctx, interrupts)
		if err == io.EOF {
			return l.text, nil // the terminal hung up: an empty answer, or what was typed
		}
		if err != nil {
			return l.text, err
		}
		show, done, err := l.key(key)
		if len(show) > 0 {
			if err := t.write(show); err != nil {
				return l.text, err
			}
		}
		if done || err != nil {
			return l.text, err
		}
	}
}

// readLine reads one line where there is no terminal.
func (t *Terminal) readLine(ctx context.Context, interrupts <-chan os.Signal) ([]byte, error) {
	var text []byte
	for {
		b, err := t.in.next(ctx, interrupts)
		switch {
		case err == io.EOF && len(text) == 0:
			return nil, ErrNoTerminal
		case err == io.EOF, err == nil && b == '\n':
			return bytes.TrimSuffix(text, []byte("\r")), nil
		case err != nil:
			return nil, err
		case len(text) == maxAnswer:
			return nil, ErrTooLong
		}
		text = append(text, b)
	}
}

// An input hands out bytes one by one. A read that was begun and not waited
// for is not lost: the next question gets what it brings.
type input struct {
	from    io.Reader
	size    int // bytes to ask for at a time
	pending []byte
	err     error
	reading bool
	results chan result
}

type result struct {
	data []byte
	err  error
}

func newInput(from io.Reader, size int) *input {
	return &input{from: from, size: size, results: make(chan result, 1)}
}

// next returns the next byte. It ends early with ErrInterrupted or ctx's error.
func (i *input) next(ctx context.Context, interrupts <-chan os.Signal) (byte, error) {
	for len(i.pending) == 0 {
		if i.err != nil {
			return 0, i.err
		}
		if !i.reading {
			i.reading = true
			// Whoever takes the result waits for this goroutine; what blocks
			// for ever ends with the device or with the program.
			go func() {
				data := make([]byte, i.size)
				n, err := i.from.Read(data)
				i.results <- result{data[:n], err}
			}()
		}
		select {
		case r := <-i.results:
			i.reading, i.pending, i.err = false, r.data, r.err
		case <-interrupts:
			return 0, ErrInterrupted
		case <-ctx.Done():
			select {
			case <-interrupts: // it is what ended ctx, most likely
				return 0, ErrInterrupted
			default:
				return 0, ctx.Err()
			}
		}
	}
	b := i.pending[0]
	i.pending[0] = 0 // it may be of a secret
	i.pending = i.pending[1:]
	return b, nil
}
