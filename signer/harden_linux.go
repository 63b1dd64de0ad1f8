package signer

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden shuts the process up against its surroundings (attacks.md G5): no
// core dump, no debugger of the same user, no /proc/self/mem for it. Where the
// system lets the process lock all its memory, none of it is swapped either;
// locked tells. Call it first in main, before any key is in memory. An error
// means that one of the two certain measures did not work.
func Harden() (locked bool, err error) {
	var errs []error
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("make the process non-dumpable: %w", err))
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("switch core dumps off: %w", err))
	}
	if mayLock() {
		// On fault only: the runtime maps far more than it touches.
		locked = unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) == nil
	}
	return locked, errors.Join(errs...)
}

// mayLock reports whether locked memory is unlimited. Under a limit a lock of
// the future would make an allocation fail later, and the process end.
func mayLock() bool {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) == nil && l.Max == unix.RLIM_INFINITY {
		l.Cur = l.Max
		if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l) == nil {
			return true
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
