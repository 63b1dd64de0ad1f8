package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/sandbox"
)

// withUsers starts a sandbox in which users log in, "users token" or "users
// htpasswd", and points everything at it: REGISTRY, TRUST, BLOBS (what was
// uploaded), and for each user a file with the password, such as alice.password.
func withUsers(ts *testscript.TestScript, _ bool, args []string) {
	s, err := sandbox.Start(context.Background(), sandbox.Config{Dir: ts.MkAbs("sandbox-" + args[0]), Auth: args[0]})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
	for _, v := range s.Env() {
		name, value, _ := strings.Cut(v, "=")
		ts.Setenv(name, value)
	}
	ts.Setenv("REGISTRY", s.Registry)
	ts.Setenv("TRUST", s.Trust)
	ts.Setenv("BLOBS", filepath.Join(s.Dir, "registry", "blobs", "sha256"))
	for _, l := range s.Logins {
		ts.Check(os.WriteFile(ts.MkAbs(l.User+".password"), []byte(l.Password), 0o600))
	}
}
