package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/iechor/trust/trust"
	"github.com/iechor/trust/tuf"
)

// custodyKills are the commands of doc/custody.md that change several things
// one after the other, killed before each.
var custodyKills = []killCase{{
	name:    "rotate all",
	before:  func(w *killWorld) { w.push("1") },
	command: func(*killWorld) []string { return []string{"trust", "key", "rotate", "--yes", "--all", "root"} },
	again:   true,
	after: func(w *killWorld) {
		w.push("2")
		want := 2
		if strings.Contains(w.at, "ended") {
			want = 3 // it was done, and has been done again
		}
		if n := len(w.roots()); n != want {
			w.t.Errorf("%s: %d root keys, want %d: no key is made twice", w.at, n, want)
		}
	},
}, {
	name:    "spare",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "key", "spare", "add", w.gun} },
	after: func(w *killWorld) {
		w.run("trust", "key", "spare", "add", "--of", string(w.ids["root"]), w.gun)
		w.push("2")
	},
}, {
	name:    "recover targets",
	before:  func(w *killWorld) { w.push("1"); w.lose("targets") },
	command: func(w *killWorld) []string { return []string{"trust", "recover", "--yes", "--lost", "targets", w.gun} },
	away:    true,
	again:   true,
	after:   func(w *killWorld) { w.push("2"); w.run("pull", w.gun+":1", "--to", "oci:"+w.file("out")) },
}, {
	name: "recover from",
	before: func(w *killWorld) {
		w.push("1")
		w.lose("root")
		w.run("trust", "recover", "--lost", "root", "--export", w.file("tags.json"), w.gun)
		a, _, _ := w.app("")
		d, err := a.desk()
		w.check(err)
		remote, err := trust.NewHTTP(trust.HTTPConfig{Base: w.server.Trust})
		w.check(err)
		w.check(remote.Delete(w.t.Context(), tuf.GUN(w.gun))) // what the administrator does
		w.check(d.Close())
	},
	command: func(w *killWorld) []string {
		return []string{"trust", "recover", "--yes", "--from", w.file("tags.json"), "--notice", w.file("notice.json"), w.gun}
	},
	away:  true,
	again: true,
	after: func(w *killWorld) {
		w.push("2")
		w.run("pull", w.gun+":1", "--to", "oci:"+w.file("out"))
		if _, err := os.Stat(w.file("notice.json")); err != nil {
			w.t.Errorf("%s: %v", w.at, err)
		}
	},
}, {
	name:    "renew",
	before:  func(w *killWorld) { w.push("1") },
	command: func(w *killWorld) []string { return []string{"trust", "renew", "--within", "36000d", w.gun} },
	again:   true,
	after:   func(w *killWorld) { w.push("2") },
}}

// lose removes the key files of a role.
func (w *killWorld) lose(role string) {
	w.t.Helper()
	files, err := filepath.Glob(w.file("config/trust/private/*.key"))
	w.check(err)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		w.check(err)
		if strings.Contains(string(raw), "role: "+role+"\n") {
			w.check(os.Remove(f))
		}
	}
}

func (w *killWorld) roots() (ids []tuf.CanonicalID) {
	for _, k := range w.keys() {
		if k.Role == "root" {
			ids = append(ids, k.ID)
		}
	}
	return ids
}
