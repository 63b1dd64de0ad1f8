//go:build !linux

package drivers

import (
	"syscall"
	"time"
)

// unanswered is left to the system's defaults.
func unanswered(time.Duration) func(network, address string, c syscall.RawConn) error { return nil }
