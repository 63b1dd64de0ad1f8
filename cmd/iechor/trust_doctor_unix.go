//go:build unix

package main

import "golang.org/x/sys/unix"

// writable reports whether this user may write to a folder.
func writable(path string) bool { return unix.Access(path, unix.W_OK|unix.X_OK) == nil }
