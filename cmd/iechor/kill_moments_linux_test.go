package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// leaveOut says whether to kill before the n-th change would show little that
// another kill does not: a temporary file that is there, or has something in
// it, is tried once for each kind of them, and of folders that are made and
// files that are removed in a row only the first and the last. What stays is
// every rename and link. IECHOR_FAULTS=every leaves nothing out.
func leaveOut(changes []string, n int) bool {
	if os.Getenv("IECHOR_FAULTS") == "every" {
		return false
	}
	operation := func(i int) string {
		if i < 0 || i >= len(changes) {
			return ""
		}
		name, path, _ := strings.Cut(changes[i], " ")
		for _, temporary := range []string{".new-", "%tmp-"} {
			if strings.HasPrefix(filepath.Base(path), temporary) {
				name += " " + temporary
			}
		}
		return name
	}
	switch this := operation(n); {
	case strings.Contains(this, " "):
		for i := range n {
			if operation(i) == this {
				return true
			}
		}
		return false
	case this == "mkdir", this == "remove":
		return operation(n-1) == this && operation(n+1) == this
	default:
		return false
	}
}

// What is left out of a sweep of kills, and what is not.
func TestLeaveOut(t *testing.T) {
	t.Setenv("IECHOR_FAULTS", "")
	changes := []string{
		"mkdir a", "mkdir a/b", "mkdir a/b/c",
		"create a/%tmp-x", "write a/%tmp-x", "rename to a/x", "create a/b/%tmp-y", "write a/b/%tmp-y", "rename to a/b/y",
		"create a/.new-z", "write a/.new-z", "link a/z", "remove a/.new-z",
		"remove a", "remove b", "remove c", "write z",
	}
	var left []int
	for n := range changes {
		if leaveOut(changes, n) {
			left = append(left, n)
		}
	}
	if want := []int{1, 6, 7, 14}; !slices.Equal(left, want) {
		t.Errorf("left out: %v, want %v", left, want)
	}
}
