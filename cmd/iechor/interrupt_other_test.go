//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func interrupt(ts *testscript.TestScript, _ bool, _ []string) { ts.Fatalf("needs a pseudo terminal") }
