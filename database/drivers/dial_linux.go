package drivers

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unanswered has the system end a connection on which something was sent that
// the other end did not acknowledge for so long. Without it that takes a
// quarter of an hour.
func unanswered(limit time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		var set error
		if err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		}); err != nil {
			return err
		}
		return set
	}
}
