package main

import (
	"os/exec"
	"syscall"
)

// ownMounts gives a command a name space for what it mounts.
func ownMounts(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
}
