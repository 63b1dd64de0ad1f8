package databasetest

import (
	"fmt"
	"os"
	osuser "os/user"
	"runtime"
	"strconv"
	"syscall"
)

// An account is who a server runs as; the zero account is whoever runs the
// tests.
type account struct{ uid, gid uint32 }

// as returns the account of that name if the tests run as root, which
// database servers refuse to be.
func as(name string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	u, err := osuser.Lookup(name)
	if err != nil {
		return account{}, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", name, err)
	}
	return account{uint32(uid), uint32(gid)}, nil
}

func (a account) attributes() *syscall.SysProcAttr {
	s := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT, Setpgid: true}
	if a.uid != 0 {
		s.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return s
}

func (a account) own(path string) error {
	if a.uid == 0 {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// stay keeps the calling goroutine on its thread, and the thread to it.
func stay() { runtime.LockOSThread() }
