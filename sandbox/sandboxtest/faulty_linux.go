package sandboxtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Main is a program for testscript.Main, called "faulty", which [Fault.Command]
// runs.
func Main() {
	runtime.LockOSThread() // a traced process obeys one thread
	f, err := parse(os.Args[1:])
	var what string
	if err == nil {
		what, err = f.run(os.Args[fixed+1:])
	}
	if err == nil {
		err = os.WriteFile(f.Report, []byte(what), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run runs a program, and returns what the first change would have been that
// did not happen, or how the program ended; and before that, if all is to
// happen, what did.
func (f Fault) run(args []string) (what string, err error) {
	program, err := exec.LookPath(args[0])
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	pid := cmd.Process.Pid
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	go func() {
		for s := range told {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil {
		return "", err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(pid, options); err != nil {
		return "", err
	}
	seen := map[int]bool{pid: true}
	failing := map[int]bool{} // threads that are in a call that fails
	n, happened := 0, ""      // changes so far
	for thread, signal := pid, 0; ; {
		goOn := syscall.PtraceSyscall
		if n == f.First+f.Count && !failing[thread] {
			goOn = syscall.PtraceCont // at full speed
		}
		_ = goOn(thread, signal) // the error is that the thread has ended, of which Wait4 tells
		if thread, err = syscall.Wait4(-1, &status, syscall.WALL, nil); err != nil {
			return "", err
		}
		if (status.Exited() || status.Signaled()) && thread == pid {
			if what == "" || f.Errno != 0 {
				what = strings.TrimPrefix(fmt.Sprintf("%s, ended %d", what, status.ExitStatus()), ", ")
			}
			return happened + what, nil
		}
		signal = 0
		switch stop := status.StopSignal(); {
		case !status.Stopped(), stop == syscall.SIGTRAP: // a new thread, or a new program
		case stop == syscall.SIGSTOP && !seen[thread]: // how a new thread begins
		case stop != syscall.SIGTRAP|0x80:
			signal = int(stop)
		case failing[thread]:
			delete(failing, thread)
			if err := failed(thread, f.Errno); err != nil {
				return "", err
			}
		case n < f.First+f.Count:
			change := f.changeOf(thread)
			if change == "" {
				break
			}
			if n++; n <= f.First {
				if f.Count == 0 {
					happened += change + "\n"
				}
				break
			}
			if what == "" {
				what = change
			}
			if f.Errno == 0 {
				err = cmd.Process.Kill()
			} else if err = skip(thread); err == nil {
				failing[thread] = true
			}
			if err != nil {
				return "", err
			}
		}
		seen[thread] = true
	}
}

// changeOf says what a thread that is stopped at a system call is about to do
// that f is about; empty if nothing, or if the call is over.
func (f Fault) changeOf(thread int) string {
	var info struct { // struct ptrace_syscall_info
		op     uint8
		_      [3]uint8
		_      uint32
		_, _   uint64
		number uint64
		args   [6]uint64
		_      [2]uint64
	}
	_, _, e := syscall.Syscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
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
	sync := info.number == unix.SYS_FSYNC || info.number == unix.SYS_FDATASYNC
	if sync != (f.Errno == syscall.EIO) {
		return ""
	}
	switch info.number {
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		name, path = "sync", opened(a[0])
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
	rel, ok := strings.CutPrefix(path, f.Dir+"/")
	if sync && path == f.Dir {
		rel, ok = ".", true
	}
	if _, err := os.Lstat(path); !ok || makes && err == nil || f.Errno == syscall.ENOSPC && (name == "chmod" || name == "remove") {
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
