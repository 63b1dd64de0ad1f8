package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/iechor/trust/tuf"
)

// How long to wait for another process. What is done under the lock takes
// milliseconds.
const (
	lockWait = 10 * time.Second
	lockPoll = 10 * time.Millisecond
)

// errLocked is what tryLock returns if another one holds the lock.
var errLocked = errors.New("locked")

// lock takes the repository's lock, across processes and within this one. The
// error matches [ErrBusy] if it cannot be had in time. The lock file stays: to
// remove it would let two processes hold two locks of one name.
func (d *Dir) lock(root *os.Root, gun tuf.GUN) (unlock func(), err error) {
	if err := root.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	name := lockName(gun)
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for waited := time.Duration(0); ; waited += lockPoll {
		err := tryLock(f)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing releases the lock; there is nothing to lose
		}
		if !errors.Is(err, errLocked) || waited >= lockWait {
			_ = f.Close() // the error at hand is what matters
			if errors.Is(err, errLocked) {
				return nil, fmt.Errorf("%w: %s", ErrBusy, d.file(name))
			}
			return nil, &fs.PathError{Op: "lock", Path: d.file(name), Err: err}
		}
		time.Sleep(lockPoll)
	}
}
