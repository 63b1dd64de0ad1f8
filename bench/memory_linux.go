package main

import (
	"os"
	"syscall"
)

// peakMemory returns the most memory, in bytes, that an ended process had.
func peakMemory(p *os.ProcessState) (float64, bool) {
	usage, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, false
	}
	return float64(usage.Maxrss) * 1024, true
}
