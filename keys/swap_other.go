//go:build !linux && !darwin

package keys

import "errors"

// swapDirs would exchange two names in one step.
func swapDirs(_, _ string) error { return errors.ErrUnsupported }
