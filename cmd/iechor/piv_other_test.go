//go:build !piv || !cgo || !linux

package main

func holdCardMain() {}
