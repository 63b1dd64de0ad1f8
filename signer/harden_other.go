//go:build !linux

package signer

// Harden does nothing on this system: neither core dumps nor swap are under
// the program's own control. It reports that memory is not locked.
func Harden() (locked bool, err error) { return false, nil }
