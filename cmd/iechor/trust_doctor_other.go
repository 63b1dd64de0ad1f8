//go:build !unix

package main

// writable reports true: access lists say more than can be read off a mode.
func writable(string) bool { return true }
