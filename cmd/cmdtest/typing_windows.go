package cmdtest

import (
	"fmt"
	"os"
)

// Typing needs terminals that a program can open.
func Typing() {
	fmt.Fprintln(os.Stderr, "typing: there is no such terminal on this system")
	os.Exit(99)
}
