package main

import (
	"os"
	"strings"

	"github.com/iechor/trust/keys"
)

// backupKillCases are those of killCases that are about backups and shares.
var backupKillCases = []killCase{{
	name:   "backup create",
	before: func(w *killWorld) { w.push("1"); w.backup() },
	command: func(w *killWorld) []string {
		return []string{"trust", "backup", "create", "--yes", w.file("keys.age")}
	},
	left:  func(w *killWorld) { w.run("trust", "backup", "verify", w.file("keys.age")) },
	again: true,
}, {
	name:   "backup verify",
	before: func(w *killWorld) { w.push("1"); w.backup() },
	command: func(w *killWorld) []string {
		return []string{"trust", "backup", "verify", "--open", w.file("keys.age")}
	},
	again: true,
}, {
	name:    "backup restore",
	before:  func(w *killWorld) { w.threeKeys(); w.check(os.RemoveAll(w.file("config/trust"))) },
	command: restoring,
	away:    true,
	left:    func(w *killWorld) { w.noneOrAll(0) },
	again:   true,
	after:   func(w *killWorld) { w.noneOrAll(3); w.push("2") },
}, {
	name: "backup restore over others",
	before: func(w *killWorld) {
		w.threeKeys()
		w.generate("bob")
		for _, k := range w.keys() {
			switch k.Role {
			case "targets":
				w.sentencesFrom(strings.Repeat(secondPassphrase+"\n", 2), "trust", "key", "passwd", string(k.ID))
			case "root":
				w.check(os.Remove(w.file("config/trust/private/" + string(k.ID) + ".key")))
			}
		}
	},
	command: restoring,
	away:    true,
	left:    func(w *killWorld) { w.noneOrAll(3) },
	again:   true,
	after:   func(w *killWorld) { w.noneOrAll(4); w.push("2") },
}, {
	name:   "backup split",
	before: func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string {
		return []string{"trust", "backup", "split", "--yes", w.file("root"), "--shares", "3", "--threshold", "2"}
	},
	again: true,
	after: func(w *killWorld) {
		w.check(os.RemoveAll(w.file("config/trust/private")))
		w.run("trust", "backup", "combine", w.file("root.1-of-3.txt"), w.file("root.3-of-3.txt"))
	},
}, {
	name: "backup combine",
	before: func(w *killWorld) {
		w.push("1")
		w.run("trust", "backup", "split", w.file("root"), "--shares", "2", "--threshold", "2")
	},
	command: func(w *killWorld) []string {
		return []string{"trust", "backup", "combine", "--yes", w.file("root.1-of-2.txt"), w.file("root.2-of-2.txt")}
	},
	again: true,
	after: func(w *killWorld) { w.push("2") },
}}

func (w *killWorld) backup() {
	w.t.Helper()
	w.run("trust", "backup", "create", w.file("keys.age"))
}

// threeKeys makes keys and a backup of them.
func (w *killWorld) threeKeys() {
	w.t.Helper()
	w.push("1")
	w.generate("alice")
	w.backup()
}

func restoring(w *killWorld) []string {
	return []string{"trust", "backup", "restore", "--yes", "--replace", w.file("keys.age")}
}

// noneOrAll sees that the keys that open are as many as before a restore, or
// all that there are after it.
func (w *killWorld) noneOrAll(before int) {
	w.t.Helper()
	dir, err := keys.OpenDir(keys.Config{Path: w.file("config/trust/private"), Passphrases: oldAndNew{}, LookOnly: true})
	w.check(err)
	list, err := dir.List(w.t.Context())
	w.check(err)
	after := 3
	for _, k := range list {
		if k.Role == "bob" {
			after = 4
		}
		if _, err := dir.Open(w.t.Context(), k.ID); err != nil {
			w.t.Errorf("%s: %v", w.at, err)
		}
	}
	w.check(dir.Close())
	if n := len(list); n != before && n != after {
		w.t.Errorf("%s: %d keys are here, want %d as before or %d as afterwards", w.at, n, before, after)
	}
}
