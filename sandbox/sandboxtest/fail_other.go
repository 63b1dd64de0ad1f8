//go:build !linux || !amd64

package sandboxtest

import (
	"errors"
	"syscall"
)

// CanFail says that calls cannot be made to fail here.
const CanFail = false

var errCannot = errors.New("calls can be made to fail on linux/amd64 alone")

func skip(int) error                  { return errCannot }
func failed(int, syscall.Errno) error { return errCannot }
