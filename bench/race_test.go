//go:build race

package main

// raced tells that the race detector is on, under which the databases, which
// are measured by other processes, are left out.
const raced = true
