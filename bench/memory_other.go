//go:build !linux

package main

import "os"

// peakMemory is known on Linux only.
func peakMemory(*os.ProcessState) (float64, bool) { return 0, false }
