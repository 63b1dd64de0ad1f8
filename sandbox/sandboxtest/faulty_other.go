//go:build !linux

package sandboxtest

// Main can be had on Linux alone: see faulty_linux.go.
func Main() { panic("faulty needs Linux") }
