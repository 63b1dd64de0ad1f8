package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	memory "unsafe" // there is a function of that name in this package

	"golang.org/x/sys/unix"
)

// killedMain runs iechor, kills it with SIGKILL before its n-th change of a
// file in a directory, counted from 0, and reports in a file what the change
// would have been, or "ended STATUS":
//
//	iechor-killed N DIRECTORY REPORT ARGS…
//
// It has a process of its own because it waits for every thread there is.
func killedMain() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	what, err := killed(n, os.Args[2], os.Args[4:])
	if err == nil {
		err = os.WriteFile(os.Args[3], []byte(what), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func killed(n int, dir string, args []string) (string, error) {
	runtime.LockOSThread() // a traced process obeys one thread
	program, err := exec.LookPath("iechor")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	pid := cmd.Process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil {
		return "", err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(pid, options); err != nil {
		return "", err
	}
	seen := map[int]bool{pid: true}
	what := ""
	for thread, signal := pid, 0; ; {
		// The error is that the thread has ended, of which Wait4 tells.
		_ = syscall.PtraceSyscall(thread, signal)
		if thread, err = syscall.Wait4(-1, &status, syscall.WALL, nil); err != nil {
			return "", err
		}
		if (status.Exited() || status.Signaled()) && thread == pid {
			if what == "" {
				what = fmt.Sprint("ended ", status.ExitStatus())
			}
			return what, nil
		}
		signal = 0
		switch stop := status.StopSignal(); {
		case !status.Stopped(), stop == syscall.SIGTRAP: // a new thread, or a new program
		case stop == syscall.SIGSTOP && !seen[thread]: // how a new thread begins
		case stop != syscall.SIGTRAP|0x80:
			signal = int(stop)
		case what == "":
			change := changeOf(thread, dir)
			if change == "" {
				break
			}
			if n--; n < 0 {
				what = change
				if err := cmd.Process.Kill(); err != nil {
					return "", err
				}
			}
		}
		seen[thread] = true
	}
}

// changeOf says what a thread that is stopped at a system call is about to
// change in dir; empty if nothing, or if the call is over.
func changeOf(thread int, dir string) string {
	var info struct { // struct ptrace_syscall_info
		op     uint8
		_      [3]uint8
		_      uint32
		_, _   uint64
		number uint64
		args   [6]uint64
		_      [2]uint64
	}
	_, _, e := syscall.Syscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread), memory.Sizeof(info), uintptr(memory.Pointer(&info)), 0, 0)
	if e == syscall.ESRCH {
		return "" // the others have ended it meanwhile
	}
	if e != 0 {
		panic(e)
	}
	const entry = 1
	if info.op != entry {
		return ""
	}
	opened := func(fd uint64) string {
		path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, int32(fd))) // none: a closed one, which changes nothing
		return path
	}
	named := func(fd, at uint64) string {
		name := textAt(thread, at)
		if filepath.IsAbs(name) {
			return name
		}
		folder := opened(fd)
		if int32(fd) == unix.AT_FDCWD {
			folder, _ = os.Readlink(fmt.Sprintf("/proc/%d/cwd", thread))
		}
		return filepath.Join(folder, name)
	}
	a := info.args
	var name, path string
	makes := false // what is there already stays as it is
	switch info.number {
	case unix.SYS_OPENAT:
		if a[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
			return ""
		}
		name, path, makes = "create", named(a[0], a[1]), a[2]&unix.O_TRUNC == 0
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		name, path = "write", opened(a[0])
	case unix.SYS_FTRUNCATE:
		name, path = "truncate", opened(a[0])
	case unix.SYS_FCHMOD:
		name, path = "chmod", opened(a[0])
	case unix.SYS_FCHMODAT:
		name, path = "chmod", named(a[0], a[1])
	case unix.SYS_MKDIRAT:
		name, path, makes = "mkdir", named(a[0], a[1]), true
	case unix.SYS_UNLINKAT:
		name, path = "remove", named(a[0], a[1])
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		name, path = "rename to", named(a[2], a[3])
	case unix.SYS_LINKAT:
		name, path = "link", named(a[2], a[3])
	case unix.SYS_SYMLINKAT:
		name, path = "symlink", named(a[1], a[2])
	}
	rel, ok := strings.CutPrefix(path, dir+"/")
	if _, err := os.Lstat(path); !ok || makes && err == nil {
		return ""
	}
	return name + " " + rel
}

// textAt reads a text of a thread that is stopped.
func textAt(thread int, at uint64) string {
	var text []byte
	var word [8]byte
	for len(text) < 4096 {
		_, err := syscall.PtracePeekData(thread, uintptr(at)+uintptr(len(text)), word[:])
		if errors.Is(err, syscall.ESRCH) {
			return "" // the others have ended it meanwhile
		}
		if err != nil {
			panic(err)
		}
		for _, c := range word {
			if c == 0 {
				return string(text)
			}
			text = append(text, c)
		}
	}
	return string(text)
}
