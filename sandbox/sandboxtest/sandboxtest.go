// Package sandboxtest runs real programs, unchanged, and has the system fail
// them at a chosen moment: kills one before its n-th change of a file, or has
// its n-th write or fsync fail. It needs Linux; errors need amd64 there.
//
// Give [Main] to testscript.Main as "faulty", and run what [Fault.Command]
// returns.
package sandboxtest

import (
	"errors"
	"os/exec"
	"strconv"
	"syscall"
)

// A Fault is what happens to a program, at changes of files in a folder.
type Fault struct {
	// Errno is what fails: with ENOSPC changes that need space, with EIO calls
	// of fsync. With 0 the program is killed before a change.
	Errno syscall.Errno

	First  int    // the first change that does not happen, counted from 0
	Count  int    // and how many do not, one after the other; after that all is well
	Dir    string // the folder, absolute
	Report string // a file for what the first of them would have been, and ", ended STATUS"; with a Count of 0 for what the changes before First were, a line each
}

// fixed is how many arguments stand before those of the program.
const fixed = 5

// Command returns a command that runs a program with f.
func (f Fault) Command(args ...string) *exec.Cmd {
	fault := []string{strconv.Itoa(int(f.Errno)), strconv.Itoa(f.First), strconv.Itoa(f.Count), f.Dir, f.Report}
	return exec.Command("faulty", append(fault, args...)...)
}

func parse(args []string) (f Fault, err error) {
	if len(args) <= fixed {
		return f, errors.New("faulty ERRNO FIRST COUNT DIRECTORY REPORT PROGRAM ARGS…")
	}
	number := func(text string) int {
		n, e := strconv.Atoi(text)
		err = errors.Join(err, e)
		return n
	}
	f = Fault{Errno: syscall.Errno(number(args[0])), First: number(args[1]), Count: number(args[2]), Dir: args[3], Report: args[4]}
	return f, err
}
