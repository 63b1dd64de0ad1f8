package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/iechor/trust/api"
	"github.com/iechor/trust/sandbox"
	"github.com/iechor/trust/tuf"
)

// The stories of administration, with a server and a signer that run as
// processes, the client, and the stock client.
func TestAdminScripts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startSigner(t)
	write(t, s.file("htpasswd"), htpasswd(t, "alice", "wonderland", "carol", "christmas"))
	write(t, s.file("access.yaml"), "repositories:\n  \"*\": {pull: [anyone], push: [alice], admin: [carol]}\n")
	s.authenticate(t, "authentication: htpasswd\nhtpasswd: {file: DIR/htpasswd}\naccess: DIR/access.yaml\n")
	server := s.startServer(t)
	world, err := sandbox.Start(context.Background(), sandbox.Config{}) // for its registry
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.Close(); err != nil {
			t.Error(err)
		}
	})
	client, err := findClient(context.Background(), &app{err: &strings.Builder{}}, world.Dir)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:       "testdata/admin",
		Condition: peerCondition,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"ROOT", "TARGETS", "SNAPSHOT"} {
				e.Setenv("NOTARY_"+name+"_PASSPHRASE", "passphrase")
			}
			for who, password := range map[string]string{"alice": "wonderland", "carol": "christmas"} {
				e.Setenv(strings.ToUpper(who), base64.StdEncoding.EncodeToString([]byte(who+":"+password)))
			}
			e.Setenv("NOTARY_AUTH", e.Getenv("ALICE"))
			e.Setenv("PATH", filepath.Dir(client)+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("CONFIG", s.file("server.yaml"))
			e.Setenv("OPERATOR", strings.TrimSuffix(s.operator.Certificate, ".crt"))
			e.Setenv("HELLO", filepath.Join(world.Dir, "hello.tar"))
			e.Setenv("REGISTRY", world.Registry)
			e.Setenv("IECHOR_CONTENT_TRUST", "1")
			e.Setenv("IECHOR_CONTENT_TRUST_SERVER", "https://"+server.addr)
			for _, home := range []string{"home", "consumer", "owner", "newcomer"} {
				home = filepath.Join(e.WorkDir, home)
				config := filepath.Join(home, ".notary", "config.json")
				if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
					return err
				}
				if err := os.WriteFile(config, fmt.Appendf(nil, `{"remote_server":{"url":"https://%s","root_ca":%q}}`, server.addr, s.ca.file), 0o600); err != nil {
					return err
				}
				tls := filepath.Join(home, ".iechor", "tls", server.addr)
				if err := os.MkdirAll(tls, 0o700); err != nil {
					return err
				}
				ca, err := os.ReadFile(s.ca.file)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(tls, "ca.crt"), ca, 0o600); err != nil {
					return err
				}
			}
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return os.WriteFile(filepath.Join(e.WorkDir, "name"), []byte(world.Registry+"/app\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"keep": keep, "cmpacts": compareActs,
			"gone": func(ts *testscript.TestScript, _ bool, args []string) { s.awaitGone(ts, server, tuf.GUN(args[0])) },
		},
	})
}

// awaitGone waits until readers are told that a repository is not there.
func (s *site) awaitGone(ts *testscript.TestScript, at *process, gun tuf.GUN) {
	deadline := time.Now().Add(patience)
	for {
		resp, err := s.client.Get("https://" + at.addr + api.Route{Kind: api.FileCurrent, GUN: gun, Role: tuf.RoleTimestamp}.Path())
		ts.Check(err)
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is still served: %s", gun, resp.Status)
		}
	}
}

// compareActs compares the third column of what "admin audit" printed, the
// acts, with a file: cmpacts stdout FILE.
func compareActs(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cmpacts stdout FILE")
	}
	var got []string
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if words := strings.Fields(line); len(words) > 3 {
			got = append(got, words[3]) // after the number, the date and the time
		}
	}
	if want := strings.Fields(ts.ReadFile(args[1])); !slices.Equal(got, want) {
		ts.Fatalf("the trail tells of %q, want %q", got, want)
	}
}
