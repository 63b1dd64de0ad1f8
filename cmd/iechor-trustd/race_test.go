//go:build race

package main

// raceDetector says that every instruction takes ten times as long.
const raceDetector = true
