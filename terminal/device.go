package terminal

import (
	"errors"
	"os"

	"golang.org/x/term"
)

// A device is the terminal that the program was started from, whatever its
// standard input and output are.
type device struct {
	in, out *os.File // on some systems the same
}

// openDevice returns nil where there is no terminal.
func openDevice() *device {
	in, err := os.OpenFile(inputDevice, os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	d := &device{in: in, out: in}
	if outputDevice != inputDevice {
		if d.out, err = os.OpenFile(outputDevice, os.O_RDWR, 0); err != nil {
			_ = in.Close() // nothing was done with it
			return nil
		}
	}
	is := false
	if err := d.control(func(fd int) error { is = term.IsTerminal(fd); return nil }); err != nil || !is {
		_ = d.close() // as above
		return nil
	}
	return d
}

// raw lets every key through at once and unseen, and returns how to undo it.
func (d *device) raw() (restore func() error, err error) {
	var before *term.State
	err = d.control(func(fd int) (err error) {
		before, err = term.MakeRaw(fd)
		return err
	})
	if err != nil {
		return nil, err
	}
	return func() error {
		return d.control(func(fd int) error { return term.Restore(fd, before) })
	}, nil
}

// control calls f with the descriptor, which stays fit for the runtime's
// poller: Fd would make it blocking, and reads that cannot be ended.
func (d *device) control(f func(fd int) error) error {
	conn, err := d.in.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func (d *device) close() error {
	err := d.in.Close()
	if d.out != d.in {
		err = errors.Join(err, d.out.Close())
	}
	return err
}
