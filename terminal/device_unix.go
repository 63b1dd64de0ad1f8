//go:build !windows

package terminal

const (
	inputDevice  = "/dev/tty"
	outputDevice = "/dev/tty"
)
