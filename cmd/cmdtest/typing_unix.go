//go:build !windows

package cmdtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/creack/pty"
)

// Typing is a program for scripts of testscript, which runs another one on a
// terminal of its own, where somebody types what is in a file, and then the
// end of input:
//
//	exec typing [-stdin] FILE PROGRAM [ARGS…]
//
// With -stdin the terminal is standard input as well. It ends as PROGRAM does.
// All that was shown is in the file screen of the script's folder then.
//
// (What testscript has for this closes its end of the terminal when the program
// ends, and what it has not read by then is lost.)
func Typing() {
	if err := typing(os.Args[1:]); err != nil {
		if ended := new(exec.ExitError); errors.As(err, &ended) && ended.Exited() {
			os.Exit(ended.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "typing:", err)
		os.Exit(99)
	}
	os.Exit(0)
}

func typing(args []string) error {
	asInput := len(args) > 0 && args[0] == "-stdin"
	if asInput {
		args = args[1:]
	}
	if len(args) < 2 {
		return errors.New("usage: typing [-stdin] FILE PROGRAM [ARGS…]")
	}
	screen, err := os.Create(filepath.Join(os.Getenv("WORK"), "screen"))
	if err != nil {
		return err
	}
	keys, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	c := exec.Command(args[1], args[2:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if asInput {
		c.Stdin = slave
	}
	c.ExtraFiles = []*os.File{slave}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	err = c.Start()
	if err := errors.Join(err, slave.Close()); err != nil {
		return err
	}
	go func() { _, _ = master.Write(append(keys, 4)) }() // a program that ends may leave some of it
	_, shown := io.Copy(screen, master)
	if errors.Is(shown, syscall.EIO) {
		shown = nil // the other end is closed, and this is all
	}
	return errors.Join(c.Wait(), shown, screen.Close())
}
