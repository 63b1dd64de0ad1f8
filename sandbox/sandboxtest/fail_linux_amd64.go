package sandboxtest

import "syscall"

// CanFail says that calls can be made to fail here.
const CanFail = true

// skip has the call at which a thread is stopped do nothing.
func skip(thread int) error {
	return change(thread, func(r *syscall.PtraceRegs) { r.Orig_rax = ^uint64(0) })
}

// failed has a call that was skipped return an error.
func failed(thread int, e syscall.Errno) error {
	return change(thread, func(r *syscall.PtraceRegs) { r.Rax = -uint64(e) })
}

func change(thread int, edit func(*syscall.PtraceRegs)) error {
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(thread, &r); err != nil {
		return err
	}
	edit(&r)
	return syscall.PtraceSetRegs(thread, &r)
}
