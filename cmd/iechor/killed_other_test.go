//go:build !linux

package main

// killedMain can be had on Linux alone: see killed_linux_test.go. Elsewhere
// packages keys and trust test crashes by hooks.
func killedMain() { panic("iechor-killed needs Linux") }
